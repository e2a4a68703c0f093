//! Everything that is measured, each in its best documented way.

#[cfg(feature = "aeron")]
pub(crate) mod aeron;
pub(crate) mod bare;
pub(crate) mod iceoryx;
pub(crate) mod inside;
pub(crate) mod ipc_channel;
pub(crate) mod kernel;
pub(crate) mod shmem_ipc;
pub(crate) mod sinew;
