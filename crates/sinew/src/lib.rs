//! Every Linux inter-process communication mechanism as a small, safe, honest type.

#![deny(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::panic_in_result_fn)]

mod copy;
mod process;
mod share;
mod sysv_key;

pub mod error;
pub mod kernel;
pub mod limits;
pub mod mechanism;
pub mod wait;

pub use copy::{fifo, inet, pipe, posix_mq, splice, sysv_mq, unix};
pub use process::command;
pub use share::{anonymous, file, mapping, memfd, posix_shm, sysv_shm};

pub use error::{Error, ErrorKind, RecvError, Result, SendError, Stop};
pub use mechanism::Mechanism;

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
