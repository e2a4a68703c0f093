//! What Sinew's tests share: a suite in which every test runs in a process of its own, peers that
//! are real processes, a watchdog, a census of what is left behind, and a single-stepper that
//! counts system calls and instructions.
//!
//! The test binary is its own child: [`Suite::run`] looks at the environment first and runs one
//! test or one role if it was started for that. So a test may count its descriptors, raise its
//! limits or fork as if it were alone, which it is.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test process reports this way")]

pub mod census;
pub mod crash;
pub mod folder;
pub mod peer;
pub mod steps;
pub mod suite;

pub use peer::{Link, Peer, Role};
pub use suite::{Skip, Suite, Test, fallbacks_forced, scratch, skip};
