//! Memory without a name or a descriptor, shared with the children that are forked later.
//!
//! ```
//! use std::sync::atomic::Ordering;
//! use sinew::anonymous;
//!
//! let map = anonymous::create(4096)?;
//! // A child forked from here on sees the same memory.
//! map.atomic_u32_at(0).unwrap().store(1, Ordering::Release);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! A program that a child executes does not have it any more: that takes a
//! [`memfd`](crate::memfd). The memory is gone with the last process that has it mapped.
//!
//! # Memory
//! Pages come when they are touched. Where a memory cgroup, or the machine, would kill a process
//! for that, the room is looked at first; [`populate`](mapping::Options::populate) fetches all pages
//! before the call returns.
//!
//! Source: mmap(2), MAP_ANONYMOUS.

use super::headroom;
use crate::error::Result;
use crate::mapping::{self, Huge, Mapping};
use crate::mechanism::Mechanism;

/// How to make anonymous memory.
///
/// ```
/// use sinew::{anonymous, mapping};
///
/// let options = anonymous::Options::new().huge_pages(mapping::Huge::Preferred(mapping::HUGE_2M));
/// let map = options.create(1 << 20)?;
/// println!("in pages of {} bytes", map.page_size());
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    map: mapping::Options,
    huge: Option<Huge>,
}

impl Options {
    /// Shared and writable, in ordinary pages that come when they are touched.
    #[must_use]
    pub const fn new() -> Self {
        Self { map: mapping::Options::new(), huge: None }
    }

    /// How to map it.
    #[must_use]
    pub const fn map_with(mut self, options: mapping::Options) -> Self {
        self.map = options;
        self
    }

    /// Asks for huge pages from the administrator's pool.
    #[must_use]
    pub const fn huge_pages(mut self, huge: Huge) -> Self {
        self.huge = Some(huge);
        self
    }

    /// Maps `len` zeroed bytes.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for none;
    /// [`LimitReached`](crate::ErrorKind::LimitReached), the limit named.
    pub fn create(&self, len: usize) -> Result<Mapping> {
        if let Some(huge) = self.huge {
            match Mapping::anonymous(len, self.map, Some(huge)) {
                Err(_) if !huge.is_required() => {}
                done => return done,
            }
        }
        headroom::check(len as u64, Mechanism::Anonymous)?;
        let options = if self.huge.is_some() { self.map.transparent_huge() } else { self.map };
        Mapping::anonymous(len, options, None)
    }
}

/// Maps `len` zeroed bytes, shared with children.
///
/// # Errors
/// As those of [`Options::create`].
pub fn create(len: usize) -> Result<Mapping> {
    Options::new().create(len)
}
