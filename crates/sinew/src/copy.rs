//! Mechanisms that copy bytes through the kernel.

pub mod fifo;
pub mod inet;
pub mod pipe;
pub mod posix_mq;
pub mod splice;
pub mod sysv_mq;
pub mod unix;
