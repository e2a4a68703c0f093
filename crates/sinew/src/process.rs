//! Another process: starting it, watching it, acting on it.

pub mod command;
