//! Where text goes: a terminal, a pipe or a file, and how it may look there.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};

/// What text may use at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Bold and colour. Without it, what matters is marked with characters.
    pub(crate) styled: bool,
    /// Characters in a line.
    pub(crate) width: usize,
}

impl Look {
    /// For files, pipes and tests.
    pub(crate) const PLAIN: Self = Self { styled: false, width: 100 };

    /// For standard output as it is. `NO_COLOR` and a terminal that knows no styles are respected.
    pub(crate) fn of_stdout() -> Self {
        let out = io::stdout();
        if !out.is_terminal() {
            return Self::PLAIN;
        }
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let width = rustix::termios::tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
        // A terminal that does not tell its width says zero.
        let width = if width == 0 { 100 } else { width.clamp(60, 120) };
        Self { styled: !no_color && !dumb, width }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    /// What is best.
    pub(crate) fn best(self, text: &str) -> String {
        self.paint(Style::new().bold().fg_color(Some(AnsiColor::Green.into())), text)
    }

    /// What is wrong.
    pub(crate) fn loud(self, text: &str) -> String {
        self.paint(Style::new().bold().fg_color(Some(AnsiColor::Red.into())), text)
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.styled { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Breaks text into lines of at most `width` characters, each after `indent`, the first after
/// `first`. A word that is longer gets a line of its own.
pub(crate) fn wrap(text: &str, width: usize, first: &str, indent: &str) -> String {
    let mut out = String::from(first);
    let mut column = first.chars().count();
    let mut fresh = true;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !fresh && column + 1 + length > width {
            out.push('\n');
            out.push_str(indent);
            column = indent.chars().count();
            fresh = true;
        }
        if !fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        fresh = false;
    }
    out.push('\n');
    out
}

/// Standard output, or a file that was opened before the work began.
#[derive(Debug)]
pub(crate) enum Destination {
    Stdout,
    File { file: File, path: PathBuf, made: bool },
}

impl Destination {
    /// Opens it now, so that a place that cannot be written to is found out before the work.
    /// What the file holds stays until there is something new to write.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path.filter(|p| *p != Path::new("-")) else { return Ok(Self::Stdout) };
        let made = !path.exists();
        match OpenOptions::new().write(true).create(true).truncate(false).open(path) {
            Ok(file) => Ok(Self::File { file, path: path.to_owned(), made }),
            Err(error) => Err(format!("cannot write to {path:?}: {}", words(&error))),
        }
    }

    /// How text may look there.
    pub(crate) fn look(&self) -> Look {
        match self {
            Self::Stdout => Look::of_stdout(),
            Self::File { .. } => Look::PLAIN,
        }
    }

    /// Whether a person reads it at once.
    pub(crate) fn is_terminal(&self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::File { file, .. } => file.is_terminal(),
        }
    }

    /// Writes everything. A reader who has gone away is no error: that reader had enough.
    pub(crate) fn write(self, bytes: &[u8]) -> Result<(), String> {
        match self {
            Self::Stdout => print(bytes),
            Self::File { mut file, path, .. } => {
                let regular = file.metadata().is_ok_and(|m| m.is_file());
                let done = (|| {
                    if regular {
                        file.set_len(0)?;
                    }
                    file.write_all(bytes)?;
                    // Some file systems tell only now that there was no room.
                    if regular { file.sync_all() } else { Ok(()) }
                })();
                match done {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                        Err(format!("cannot write to {path:?}: {}", words(&error)))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// Leaves no empty file behind where there was none and there is nothing to write.
    pub(crate) fn give_up(self) {
        if let Self::File { path, made: true, file } = self
            && file.metadata().is_ok_and(|m| m.is_file() && m.len() == 0)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Writes to standard output, quietly if nobody reads it any more.
pub(crate) fn print(bytes: &[u8]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {}", words(&error)))
        }
        _ => Ok(()),
    }
}

/// One line on standard error. Where that is closed there is nobody to tell.
pub(crate) fn complain(line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(io::stderr(), "sinew: {line}");
}

/// `Permission denied`, without the number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_longer_than_asked() {
        let text = "one two three four five sixteen-letters-long";
        let wrapped = wrap(text, 12, "- ", "  ");
        assert_eq!(wrapped, "- one two\n  three four\n  five\n  sixteen-letters-long\n");
    }
}
