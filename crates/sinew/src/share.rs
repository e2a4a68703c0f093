//! Pages that two processes have mapped.

pub mod anonymous;
pub mod file;
pub mod mapping;
pub mod memfd;
pub mod posix_shm;
pub mod sysv_shm;
