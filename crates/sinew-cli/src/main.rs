//! The `sinew` command: argument parsing and presentation. What it measures is in `sinew-bench`,
//! what it knows is in `sinew`.

#![forbid(unsafe_code)]

mod arguments;
mod bench;
mod guide;
mod manual;
mod mechanisms;
mod output;
mod quantity;
mod size;
mod usage;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::arguments::{Command, Sinew};

/// Why the command ends without having done what it was asked for.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What was asked for cannot be right: exit status 2.
    Usage(String),
    /// It went wrong: exit status 1.
    Failed(String),
    /// A signal asked it to end, and it ended in order.
    Interrupted,
}

fn main() -> ExitCode {
    // This program is also each worker of a run.
    if let Some(status) = sinew_bench::worker_main() {
        return status;
    }
    let arguments = match Sinew::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage::report(&error),
    };
    let done = match arguments.command {
        Command::Bench(wish) => bench::run(wish),
        Command::Mechanisms(wish) => mechanisms::run(&wish),
        Command::Completions { shell } => completions(shell),
        Command::Man { output } => manual::run(output.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Failed(line)) => {
            output::complain(&line);
            ExitCode::FAILURE
        }
        Err(Trouble::Interrupted) => {
            output::complain("interrupted; the run is cleaned up");
            // Whoever waits for this process learns how it ended: a shell stops its loop then.
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::INT);
            // Only where the signal is ignored.
            ExitCode::FAILURE
        }
        Err(Trouble::Usage(line)) => {
            output::complain(&line);
            ExitCode::from(2)
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Trouble> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Sinew::command(), "sinew", &mut script);
    if shell == clap_complete::Shell::Fish {
        script.extend(fish_names().into_bytes());
    }
    output::print(&script).map_err(Trouble::Failed)
}

/// The names of mechanisms for fish: the generator leaves out what arguments without an option take.
fn fish_names() -> String {
    let mut script = String::new();
    let all = &sinew::Mechanism::ALL[..];
    for (command, names) in [("bench", &sinew_bench::settings::MECHANISMS[..]), ("mechanisms", all)]
    {
        for name in names {
            // Inside the single quotes of fish only these two mean anything.
            let about = name.facts().about.replace('\\', "\\\\").replace('\'', "\\'");
            script.push_str(&format!(
                "complete -c sinew -n \"__fish_sinew_using_subcommand {command}\" -f -a \"{name}\" -d '{about}'\n"
            ));
        }
    }
    script
}
