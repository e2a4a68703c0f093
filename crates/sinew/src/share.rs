//! Pages that two processes have mapped.

mod allocate;
pub mod anonymous;
pub mod file;
mod headroom;
pub mod mapping;
pub mod memfd;
mod pages;
pub mod posix_shm;
pub mod sysv_shm;
