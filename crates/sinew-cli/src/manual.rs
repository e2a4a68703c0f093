//! Manual pages, from the same definitions as the help.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::Trouble;
use crate::arguments::Sinew;
use crate::guide;
use crate::output::{self, words};

pub(crate) fn run(folder: Option<&Path>) -> Result<(), Trouble> {
    // Without the sections of the help, which follow in a form of their own.
    let plain = |command: clap::Command| command.after_help(None).after_long_help(None);
    let mut whole = Sinew::command().disable_help_subcommand(true);
    whole.build();
    let whole = plain(whole);
    let Some(folder) = folder else {
        return output::print(page(&whole, "sinew", "sinew")?.as_bytes()).map_err(Trouble::Failed);
    };
    let failed = |path: &Path, error: &std::io::Error| {
        Trouble::Usage(format!("cannot write to {path:?}: {}", words(error)))
    };
    fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    let write = |command: &clap::Command, full: &str| {
        let path = folder.join(format!("{full}.1"));
        let text = page(command, full, command.get_name())?;
        fs::write(&path, text).map_err(|e| failed(&path, &e))
    };
    write(&whole, "sinew")?;
    for command in whole.get_subcommands() {
        write(&plain(command.clone()), &format!("sinew-{}", command.get_name()))?;
    }
    Ok(())
}

/// One page in roff.
fn page(command: &clap::Command, full: &str, name: &str) -> Result<String, Trouble> {
    let renamed = command.clone().display_name(full.to_owned());
    let mut page = Vec::new();
    let rendered = Man::new(renamed).title(full).manual("Sinew").render(&mut page);
    rendered.map_err(|e| Trouble::Failed(format!("cannot make the page {full}: {}", words(&e))))?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    for (heading, lines) in guide::sections(name) {
        let _ = write!(page, ".SH {}\n.nf\n", escape(&heading.to_uppercase()));
        for line in *lines {
            page.push_str(&escape(line));
            page.push('\n');
        }
        page.push_str(".fi\n");
    }
    Ok(page)
}

/// Text that roff prints as it is.
fn escape(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    // A line that begins with a dot is a request.
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}
