//! The same work through Sinew and through others: separate programs, interleaved rounds, ratios.

#![deny(unsafe_code)]

mod clock;
mod cpu;
mod drive;
mod ends;
mod fan;
mod footprint;
mod job;
mod large;
mod link;
mod memory;
mod plan;
mod ratios;
mod report;
mod start;
mod stats;
mod supervisor;
mod systems;
mod worker;

use std::env;
use std::process::ExitCode;

/// What goes wrong here ends one row, in words.
type Trouble = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Trouble>;

const USAGE: &str = "usage: sinew-peers [--quick] [--rounds N] [--only WORD] [--format table|json]
  --quick        3 short rounds instead of 9
  --rounds N     so many rounds
  --only WORD    only rows whose name holds the word: a system, a work, a size or a placement
  --format F     table (the default) or json";

fn main() -> ExitCode {
    if let Some(code) = worker::main() {
        return code;
    }
    let settings = match arguments() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(what) => {
            eprintln!("sinew-peers: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match supervisor::run(&settings) {
        Ok(report) if settings.json => match serde_json::to_string_pretty(&report) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(e) => failed(&e),
        },
        Ok(report) => {
            print!("{}", report.table());
            ExitCode::SUCCESS
        }
        Err(e) => failed(&e),
    }
}

fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("sinew-peers: {why}");
    ExitCode::FAILURE
}

fn arguments() -> std::result::Result<Option<plan::Settings>, String> {
    let mut settings = plan::Settings::default();
    let mut rounds = None;
    let mut all = env::args().skip(1);
    while let Some(one) = all.next() {
        let mut value = || all.next().ok_or_else(|| format!("{one} needs a value"));
        match one.as_str() {
            "--quick" => settings.quick = true,
            "--rounds" => {
                let number = value()?;
                let many = number.parse().ok().filter(|n| *n > 0);
                rounds = Some(many.ok_or_else(|| format!("{number:?} is no number of rounds"))?);
            }
            "--only" => settings.only.push(value()?),
            "--format" => match value()?.as_str() {
                "table" => settings.json = false,
                "json" => settings.json = true,
                other => return Err(format!("no format is called {other:?}")),
            },
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("no argument is called {other:?}")),
        }
    }
    settings.rounds = rounds.unwrap_or(if settings.quick { 3 } else { 9 });
    Ok(Some(settings))
}
