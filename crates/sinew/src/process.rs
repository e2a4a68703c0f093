//! Another process: starting it, watching it, acting on it.

pub mod command;
pub mod fd;
pub mod pidfd;
pub mod process_vm;
pub mod ptrace;
mod target;
