//! Measures every Linux IPC mechanism between two real processes.
//!
//! A run has a supervisor and, for each row, two workers: the program starts itself twice, so its
//! `main` calls [`worker_main`] first. The supervisor measures nothing; it watches, so that a
//! worker that dies or hangs costs one row and leaves nothing behind.
//!
//! Every row that copies through the kernel is measured in pairs of batches, one through the
//! library and one in bare libc calls (`floor.rs`), on the same objects and in the same two
//! processes, alternating; all rows are gone through several times, so that drift hits all alike.

#![deny(unsafe_code)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and nanoseconds become quotients of three digits"
)]

mod alone;
mod board;
mod bulk;
mod calls;
mod carrier;
mod channels;
mod children;
mod cpu;
mod events;
mod floor;
mod host;
mod input;
mod job;
mod kernel;
mod link;
mod locks;
mod memory;
mod messages;
mod pair;
mod pairs;
mod parties;
mod payload;
mod plan;
mod policy;
mod process;
pub mod report;
mod rundir;
mod sections;
pub mod settings;
mod shared;
mod signals;
mod stats;
mod supervisor;
mod trouble;
mod turns;
mod worker;

use std::process::ExitCode;

pub use report::Report;
pub use settings::{Placement, Progress, Settings, Work};

/// Runs this process as a worker and says how it ended, if a supervisor started it as one.
#[must_use]
pub fn worker_main() -> Option<ExitCode> {
    worker::main()
}

/// Measures. While it runs, SIGINT, SIGTERM and SIGHUP of the calling thread (and of those that it
/// starts meanwhile) end the run in order.
///
/// # Errors
/// In one line: what makes the whole run impossible, or of kind
/// [`Interrupted`](sinew::ErrorKind::Interrupted) after a signal. A row that fails is in
/// [`Report::failed`].
pub fn run(settings: &Settings, progress: &mut dyn Progress) -> sinew::Result<Report> {
    supervisor::run(settings, progress)
}
