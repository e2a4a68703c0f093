//! The definition of the command line, from which parsing, help, completions and manual pages come.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use sinew::Mechanism;
use sinew_bench::settings::MECHANISMS;
use sinew_bench::{Placement, Work};

use crate::guide;
use crate::size::{Size, parse_duration, parse_size};

/// Measure and inspect the ways in which Linux processes communicate.
#[derive(Debug, Parser)]
#[command(
    name = "sinew",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    long_about = "Everything two Linux processes can say to each other: measure the mechanisms on \
                  this machine, and see what each can do and what bounds it here.",
    after_help = "`sinew bench --quick` shows this machine in 20 seconds; `sinew COMMAND --help` \
                  explains each command.",
    after_long_help = guide::text(guide::SINEW)
)]
pub(crate) struct Sinew {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure the mechanisms that carry data, between two real processes
    #[command(
        long_about = "Sends real data between two real processes through every mechanism, and \
                      measures it.\n\nEach row is checked in a pass of its own, in which the \
                      receiver looks at every byte, and each row that goes through the kernel is \
                      measured beside the same work in bare system calls, so that what the \
                      library costs is visible.",
        after_long_help = guide::text(guide::BENCH)
    )]
    Bench(Bench),
    /// Show what each mechanism is and can do, with the limits of this host
    #[command(after_long_help = guide::text(guide::MECHANISMS))]
    Mechanisms(Mechanisms),
    /// Print completions for a shell
    #[command(after_long_help = guide::text(guide::COMPLETIONS))]
    Completions {
        /// The shell that will read them
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them into a folder
    #[command(after_long_help = guide::text(guide::MAN))]
    Man {
        /// The folder to write sinew.1, sinew-bench.1, ... to; it is made if it is not there
        #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        output: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// Rows to measure [default: all]
    #[arg(value_name = "MECHANISM", value_delimiter = ',', hide_possible_values = true)]
    #[arg(value_parser = mechanism(&MECHANISMS))]
    #[arg(long_help = "Rows to measure, by the names that --list shows. All of them if none is \
                       named.")]
    pub(crate) mechanisms: Vec<Mechanism>,

    /// Bytes of one message: 64,4K,1M [default: 64,4K,64K,1M]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = parse_size)]
    #[arg(long_help = "Bytes of one message, separated by commas: 64, 4K, 1M. The letters are \
                       powers of 1024.\n\n[default: 64,4K,64K,1M; with --quick 64,64K]\n\nA size \
                       that a mechanism cannot carry on this host is skipped with the limit that \
                       stands against it. A bulk payload has a size of its own.")]
    pub(crate) sizes: Vec<Size>,

    /// What is done: round-trip, stream, bulk [default: all]
    #[arg(long, value_name = "WORKS", value_delimiter = ',', hide_possible_values = true)]
    #[arg(value_parser = work())]
    #[arg(long_help = "What is done, separated by commas [default: all]:\n\n\
                       round-trip  one message there and one back: latency\n\
                       stream      messages one way without a pause: throughput of messages\n\
                       bulk        one payload of 100 MiB, with new memory and with memory used \
                       before; a memfd is also handed over filled")]
    pub(crate) works: Vec<Work>,

    /// Where the two processes run [default: what suits each mechanism]
    #[arg(long, value_name = "PLACEMENTS", value_delimiter = ',', hide_possible_values = true)]
    #[arg(value_parser = placement())]
    #[arg(
        long_help = "Where the two processes run, separated by commas [default: what suits each \
                       mechanism]:\n\n\
                       one-cpu         both on one CPU: each message is a context switch, and no \
                       CPU sleeps\n\
                       two-cpus        one CPU each, which may sleep while its process waits\n\
                       two-cpus-awake  one CPU each, kept from sleeping\n\n\
                       On a virtual machine waking a sleeping CPU can cost more than all the rest \
                       together."
    )]
    pub(crate) placement: Vec<Placement>,

    /// Measuring time of each row: 200ms, 2s [default: what keeps the run short]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[arg(long_help = "Measuring time of each row: 500us, 200ms, 2s. By default what keeps the \
                       whole run within about two minutes, or 20 seconds with --quick. A longer \
                       time gives steadier tails.")]
    pub(crate) duration: Option<Duration>,

    /// Send the bytes of this file instead of a pattern
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(
        long_help = "Send the bytes of this file instead of a pattern. Every receiver computes \
                       the SHA-256 of what it got, and a row whose sum is not that of the file \
                       fails."
    )]
    pub(crate) input: Option<PathBuf>,

    /// Fewer rows: a picture of this machine within 20 seconds
    #[arg(long)]
    #[arg(
        long_help = "Fewer rows, for a picture of this machine within 20 seconds: 64 bytes and \
                       64K, what goes through the kernel on one CPU, shared memory awake on two, \
                       bulk for pipe and memfd."
    )]
    pub(crate) quick: bool,

    /// How to write the result
    #[arg(long, value_name = "FORMAT", default_value = "table", value_enum)]
    pub(crate) format: Format,

    /// Write the result to this file instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(long_help = "Write the result to this file instead of standard output. It is opened \
                       before the run, so that a place that cannot be written to is found out at \
                       once; what it held stays until the run is done.")]
    pub(crate) output: Option<PathBuf>,

    /// List the rows and measure nothing
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Mechanisms {
    /// The mechanism to tell everything about [default: a table of all]
    #[arg(value_name = "NAME", hide_possible_values = true)]
    #[arg(value_parser = mechanism(&Mechanism::ALL))]
    pub(crate) name: Option<Mechanism>,

    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How to write the result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables to be read
    Table,
    /// One JSON document, schema 1
    Json,
    /// One line per row, with a header
    Csv,
}

/// Takes the names of some mechanisms.
fn mechanism(some: &[Mechanism]) -> impl TypedValueParser<Value = Mechanism> {
    let values = some.iter().map(|m| PossibleValue::new(m.name()).help(m.facts().about));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Mechanism>())
}

fn work() -> impl TypedValueParser<Value = Work> {
    PossibleValuesParser::new(Work::ALL.map(Work::name)).try_map(|name| name.parse::<Work>())
}

fn placement() -> impl TypedValueParser<Value = Placement> {
    PossibleValuesParser::new(Placement::ALL.map(Placement::name))
        .try_map(|name| name.parse::<Placement>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        super::Sinew::command().debug_assert();
    }
}
