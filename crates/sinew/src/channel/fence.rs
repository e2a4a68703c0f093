//! The fence between publishing something and looking for who sleeps, which the sleeper pays.
//!
//! Who publishes must not look for sleepers before others can see what it published, and who goes to
//! sleep must not look for work before others can see that it sleeps. A full fence on either side does it,
//! at each message. Here the sleeper has the kernel run one on every processor that runs a process which
//! publishes (`MEMBARRIER_CMD_GLOBAL_EXPEDITED`, for those registered), and who publishes needs none.
//! A channel is made for that where its maker may do it; else everybody fences fully. A process that may not,
//! in a channel made for that, fences fully when it publishes, and when it sleeps looks every millisecond.
//! The kernel's fence costs about as much as a hundred full ones, so who sleeps often asks the others to fence
//! for a while: see `bell`.
//!
//! Source: membarrier(2).

use std::sync::atomic::{Ordering, compiler_fence, fence};

use rustix::thread::{MembarrierCommand, membarrier};

use crate::kernel::Feature;

/// Whether this process is registered as one that publishes, which it is from then on if it can be. A forked child
/// is not, and comes here by attaching again.
pub(crate) fn register() -> bool {
    if !Feature::Membarrier.usable() {
        return false;
    }
    let registered = membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
    if !registered {
        Feature::Membarrier.refused();
    }
    registered
}

/// How one handle fences: by what the channel's header says, and by what this process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fencing {
    /// Whether sleepers have the kernel fence for those who publish: agreed when the channel was made.
    by_kernel: bool,
    /// Whether the kernel does so for this process.
    registered: bool,
    /// Whether the fences are loom's, and the kernel's modelled.
    #[cfg(all(test, sinew_loom))]
    model: bool,
}

#[cfg(all(test, sinew_loom))]
pub(crate) mod model;

impl Fencing {
    /// For a handle to a channel that was made so.
    pub(crate) fn of(by_kernel: bool) -> Self {
        Self {
            by_kernel,
            registered: by_kernel && register(),
            #[cfg(all(test, sinew_loom))]
            model: false,
        }
    }

    /// In a model, with full fences, or the kernel's.
    #[cfg(all(test, sinew_loom))]
    pub(crate) const fn in_model(by_kernel: bool) -> Self {
        Self { by_kernel, registered: by_kernel, model: true }
    }

    /// Whether sleepers have the kernel fence for those who publish.
    pub(crate) const fn is_by_kernel(self) -> bool {
        self.by_kernel
    }

    /// Between saying that one sleeps and looking for work. Gives whether everybody's changes are seen now: not
    /// where others leave the fence to this process, and the kernel refuses it.
    pub(crate) fn before_sleep(self) -> bool {
        self.full();
        #[cfg(all(test, sinew_loom))]
        if self.model && self.by_kernel {
            model::membarrier();
            return true;
        }
        !self.by_kernel || membarrier(MembarrierCommand::GlobalExpedited).is_ok()
    }

    /// Between publishing and looking for sleepers.
    #[inline]
    pub(crate) fn after_publish(self) {
        if self.registered {
            // The sleeper's system call fences here, wherever this is interrupted.
            compiler_fence(Ordering::SeqCst);
        } else {
            self.full();
        }
    }

    /// A full fence of the one who calls: it needs one on the other side.
    #[inline]
    pub(crate) fn full(self) {
        #[cfg(all(test, sinew_loom))]
        if self.model {
            return loom::sync::atomic::fence(Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }
}
