//! How far a run is, on a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sinew_bench::Progress;

/// A bar on standard error, if a person looks at both outputs; else nothing.
#[derive(Debug)]
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() || !std::io::stdout().is_terminal() {
            return Self(None);
        }
        // A few times a second: drawing costs time on the CPUs that are measured.
        let target = ProgressDrawTarget::stderr_with_hz(4);
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed}  {wide_msg}");
        Self(Some(match style {
            Ok(style) => bar.with_style(style.progress_chars("#> ")),
            Err(_) => bar,
        }))
    }

    /// Takes it off the screen.
    pub(crate) fn finish(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn step(&mut self, done: usize, total: usize, what: &str) {
        if let Self(Some(bar)) = self {
            bar.set_message(what.to_owned());
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }
}
