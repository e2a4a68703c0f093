//! Who goes, and who waits.

pub mod file_lock;
pub mod futex;
pub mod pidfile;
pub mod posix_sem;
#[allow(dead_code, reason = "the first lock will use it")]
pub(crate) mod robust;
pub mod sysv_sem;
#[allow(dead_code, reason = "each core uses some of the operations")]
mod word;
