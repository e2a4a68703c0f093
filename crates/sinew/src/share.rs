//! Pages that two processes have mapped.

pub(crate) mod allocate;
pub mod anonymous;
pub mod file;
mod headroom;
pub mod mapping;
pub mod memfd;
pub(crate) mod pages;
pub mod posix_shm;
pub mod sysv_shm;
