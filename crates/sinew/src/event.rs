//! Something happened: each event as a descriptor.

mod descriptor;
pub mod eventfd;
pub mod inotify;
mod nowait;
pub mod poller;
pub mod signal;
pub mod signalfd;
pub mod timerfd;
