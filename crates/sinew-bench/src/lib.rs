//! Measures every data-carrying Linux IPC mechanism between two real processes.
//!
//! A run has a supervisor and, for each row, two workers: the program starts itself twice, so its
//! `main` calls [`worker_main`] first. The supervisor measures nothing; it watches, so that a
//! worker that dies or hangs costs one row and leaves nothing behind.

#![deny(unsafe_code)]

pub mod report;
pub mod settings;

use std::process::ExitCode;

pub use report::Report;
pub use settings::{Placement, Progress, Settings, Work};

/// Runs this process as a worker and says how it ended, if a supervisor started it as one.
#[must_use]
pub fn worker_main() -> Option<ExitCode> {
    None
}

/// Measures.
///
/// # Errors
/// In one line: what makes the whole run impossible. A row that fails is in [`Report::failed`].
pub fn run(_settings: &Settings, _progress: &mut dyn Progress) -> sinew::Result<Report> {
    Err(sinew::Error::new(sinew::ErrorKind::Unsupported, "bench").because("in the making"))
}
