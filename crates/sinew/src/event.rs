//! Something happened: each event as a descriptor.

pub mod poller;
