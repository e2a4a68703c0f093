//! What clap has to say, as one line that names the cause and what would be right.

use std::error::Error as _;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use sinew::Mechanism;

use crate::arguments::Sinew;
use crate::output;

/// Prints help where it was asked for, and one line where the usage was bad.
pub(crate) fn report(error: &Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader who has gone away has read enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            output::complain(&line(error));
            ExitCode::from(2)
        }
    }
}

fn line(error: &Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(all)) => Some(all.join(", ")),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    // `--sizes <SIZES>` is `--sizes` to a reader.
    let option = argument.split(" <").next().unwrap_or_default();
    let option = option.split('=').next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidValue if value.is_empty() => {
            let valid = text(ContextKind::ValidValue).filter(|all| !all.is_empty());
            let valid = valid.filter(|all| all.len() < 200);
            match valid {
                Some(all) if option.starts_with('[') => {
                    format!("the name of a mechanism is empty; there are {all}")
                }
                _ if option.starts_with('[') => "the name of a mechanism is empty".to_owned(),
                Some(all) => format!("{option} needs a value; there are {all}"),
                None => format!("{option} needs a value; --help shows which"),
            }
        }
        ErrorKind::InvalidValue => {
            let subject = if option.starts_with('-') {
                format!("{option}: {value:?} is unknown")
            } else if option.contains("MECHANISM") && value.parse::<Mechanism>().is_ok() {
                format!("{value} has no row")
            } else if option.contains("SHELL") {
                format!("{value:?} is no shell that can be completed for")
            } else {
                format!("no mechanism is called {value:?}")
            };
            let valid = text(ContextKind::ValidValue).unwrap_or_default();
            // All mechanisms are too many for one line.
            let valid = if valid.len() > 200 {
                "`sinew mechanisms` shows what there is".to_owned()
            } else {
                format!("there are {valid}")
            };
            match text(ContextKind::SuggestedValue) {
                Some(near) => format!("{subject}; did you mean {near}? ({valid})"),
                None => format!("{subject}; {valid}"),
            }
        }
        ErrorKind::ValueValidation => {
            let why =
                error.source().map_or_else(|| "cannot be used".to_owned(), ToString::to_string);
            format!("{option}: {why}")
        }
        ErrorKind::UnknownArgument => {
            let nearest = text(ContextKind::SuggestedArg);
            let nearest = nearest.map_or_else(
                || "; --help lists what there is".to_owned(),
                |near| format!("; did you mean {near}?"),
            );
            if option.starts_with('-') {
                format!("there is no option {option}{nearest}")
            } else {
                format!("what is {option:?} for? This command takes no such argument{nearest}")
            }
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let nearest = text(ContextKind::SuggestedSubcommand);
            let all = Sinew::command();
            let all: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
            let all = all.join(", ");
            match nearest {
                Some(near) => format!("there is no command {name:?}; did you mean {near}? ({all})"),
                None => format!("there is no command {name:?}; there are {all}"),
            }
        }
        ErrorKind::ArgumentConflict
            if text(ContextKind::PriorArg).as_deref() == Some(&argument) =>
        {
            format!("{option} is given twice")
        }
        // Whatever else clap finds: its first sentence, and no pages of usage.
        _ => {
            let whole = error.to_string();
            let words: Vec<&str> =
                whole.split("\n\nUsage:").next().unwrap_or_default().split_whitespace().collect();
            let sentence = words.join(" ");
            sentence.strip_prefix("error: ").unwrap_or(&sentence).to_owned()
        }
    }
}
