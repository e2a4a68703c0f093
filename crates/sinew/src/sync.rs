//! Who goes, and who waits.

pub mod barrier;
pub mod condvar;
pub mod file_lock;
pub mod futex;
pub mod mutex;
pub mod once;
pub mod pidfile;
mod place;
pub mod posix_sem;
#[allow(dead_code, reason = "each lock uses some of it")]
pub(crate) mod robust;
pub mod rwlock;
pub mod shared;
pub mod sysv_sem;
#[allow(dead_code, reason = "each core uses some of the operations")]
pub(crate) mod word;
