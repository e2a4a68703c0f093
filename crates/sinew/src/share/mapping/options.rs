//! What can be asked of a map: how it is made, of which pages, and what is to come.

use std::fs;

use rustix::mm;
use rustix::param::page_size;

use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// Huge pages of 2 MiB, which x86-64 has, and aarch64 with pages of 4 KiB.
pub const HUGE_2M: u64 = 2 << 20;
/// Huge pages of 1 GiB.
pub const HUGE_1G: u64 = 1 << 30;

/// Pages of another size, from the pool that the administrator has set aside (hugetlb).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Huge {
    /// Of this many bytes each, or fail.
    Required(u64),
    /// Of this many bytes each, or else ordinary pages, with the advice to use transparent huge ones.
    /// [`Mapping::page_size`](super::Mapping::page_size) tells what came of it.
    Preferred(u64),
}

impl Huge {
    pub(in crate::share) fn bytes(self) -> u64 {
        match self {
            Self::Required(bytes) | Self::Preferred(bytes) => bytes,
        }
    }

    /// The logarithm of the size, which is how mmap(2), memfd_create(2) and shmget(2) all take it: in
    /// six bits from bit 26.
    pub(in crate::share) fn code(self, mechanism: Mechanism) -> Result<u32> {
        let bytes = self.bytes();
        if !bytes.is_power_of_two() || bytes <= page_size() as u64 {
            return Err(Error::new(ErrorKind::InvalidInput, "ask for huge pages")
                .on(mechanism)
                .object(format!("{bytes} bytes"))
                .because(
                    "the size of a huge page is a power of two and more than an ordinary page",
                ));
        }
        Ok(bytes.ilog2() << 26)
    }

    pub(in crate::share) fn is_required(self) -> bool {
        matches!(self, Self::Required(_))
    }

    /// Says about `error` that the pool has not enough pages, or that there is none of the size.
    pub(in crate::share) fn explain(self, error: Error) -> Error {
        let kb = self.bytes() / 1024;
        let pool = format!("/sys/kernel/mm/hugepages/hugepages-{kb}kB");
        let count = |file: &str| fs::read_to_string(format!("{pool}/{file}")).ok();
        match (count("nr_hugepages"), count("free_hugepages")) {
            (Some(all), Some(free)) => error
                .of_kind(ErrorKind::LimitReached)
                .because(format!(
                    "the pool has {} huge pages of {kb} kB, {} of them free",
                    all.trim(),
                    free.trim()
                ))
                .fix(format!("write more into {pool}/nr_hugepages")),
            _ => error
                .of_kind(ErrorKind::Unsupported)
                .because(format!("this machine has no huge pages of {kb} kB"))
                .fix("`ls /sys/kernel/mm/hugepages` lists the sizes"),
        }
    }
}

/// How to map: shared and writable unless said otherwise.
///
/// ```
/// use sinew::{ErrorKind, mapping, memfd};
///
/// let memfd = memfd::Options::new().create("example", 4096)?;
/// let map = memfd.map_with(mapping::Options::new().read_only().populate())?;
/// assert_eq!(map.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub(in crate::share) read_only: bool,
    pub(in crate::share) private: bool,
    pub(in crate::share) populate: bool,
    pub(in crate::share) lock: bool,
    pub(in crate::share) transparent_huge: bool,
}

impl Options {
    /// Shared, readable and writable, pages come when they are touched.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            read_only: false,
            private: false,
            populate: false,
            lock: false,
            transparent_huge: false,
        }
    }

    /// For reading only, which works on read-only descriptors and under seals against writing.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Copy on write: what is written stays in this process. A page that was not written to may or
    /// may not show what others write.
    #[must_use]
    pub const fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Fetches all pages before the call returns; see [`Mapping::populate`](super::Mapping::populate).
    #[must_use]
    pub const fn populate(mut self) -> Self {
        self.populate = true;
        self
    }

    /// Locks all pages into memory before the call returns; see [`Mapping::lock`](super::Mapping::lock).
    #[must_use]
    pub const fn lock(mut self) -> Self {
        self.lock = true;
        self
    }

    /// Advises transparent huge pages; [`Mapping::huge_bytes`](super::Mapping::huge_bytes) tells what came of it. Whether shared
    /// memory gets any is set in `/sys/kernel/mm/transparent_hugepage/shmem_enabled`.
    #[must_use]
    pub const fn transparent_huge(mut self) -> Self {
        self.transparent_huge = true;
        self
    }
}

/// What is to come, for madvise(2). No advice here changes what the memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing special.
    Normal,
    /// It is read from one end to the other.
    Sequential,
    /// It is touched here and there.
    Random,
    /// It is needed soon: read ahead.
    WillNeed,
    /// It is not needed for now (Linux 5.4).
    Cold,
    /// It is to be written out and given back now (Linux 5.4).
    PageOut,
    /// Use transparent huge pages.
    HugePage,
    /// Do not.
    NoHugePage,
    /// Children forked from now on do not get the map.
    DontFork,
    /// They do again.
    DoFork,
    /// Leave it out of core dumps.
    DontDump,
    /// Do not.
    DoDump,
}

impl Advice {
    pub(super) const fn raw(self) -> mm::Advice {
        match self {
            Self::Normal => mm::Advice::Normal,
            Self::Sequential => mm::Advice::Sequential,
            Self::Random => mm::Advice::Random,
            Self::WillNeed => mm::Advice::WillNeed,
            Self::Cold => mm::Advice::LinuxCold,
            Self::PageOut => mm::Advice::LinuxPageOut,
            Self::HugePage => mm::Advice::LinuxHugepage,
            Self::NoHugePage => mm::Advice::LinuxNoHugepage,
            Self::DontFork => mm::Advice::LinuxDontFork,
            Self::DoFork => mm::Advice::LinuxDoFork,
            Self::DontDump => mm::Advice::LinuxDontDump,
            Self::DoDump => mm::Advice::LinuxDoDump,
        }
    }
}
