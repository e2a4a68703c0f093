//! Queues in one process: the slots over plain memory and over a map, and the ends in one thread.

mod core;
// Ends sleep in the kernel, by fences that a model has instead.
#[cfg(not(sinew_loom))]
mod ends;
mod property;
