//! The one owner of mapped memory, whatever it is a map of.
//!
//! [`memfd`](crate::memfd), [`posix_shm`](crate::posix_shm), [`sysv_shm`](crate::sysv_shm),
//! [`file`](crate::file) and [`anonymous`](crate::anonymous) make the objects; each gives a
//! [`Mapping`]. Dropping it unmaps it, and nothing else does.
//!
//! ```
//! use std::sync::atomic::Ordering;
//! use sinew::memfd;
//!
//! let map = memfd::Options::new().create("example", 4096)?.map()?;
//! map.write_at(64, b"hello")?;
//! let mut five = [0; 5];
//! map.read_at(64, &mut five)?;
//! assert_eq!(&five, b"hello");
//!
//! let counter = map.atomic_u32_at(0).unwrap();
//! counter.fetch_add(1, Ordering::Relaxed);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Why it is no slice
//! Another process can write to shared pages at any time. A `&[u8]` promises the compiler that
//! nobody does, so a safe function that gave one would be a lie. What is safe:
//!
//! - [`read_at`](Mapping::read_at) and [`write_at`](Mapping::write_at) copy. A racing writer can make
//!   the copy a mixture of old and new bytes, nothing worse. They are as fast as `memcpy`, which they
//!   are; they order nothing, so publish what was written by an atomic word.
//! - [`atomic_u32_at`](Mapping::atomic_u32_at) and [`atomic_u64_at`](Mapping::atomic_u64_at) give
//!   words to synchronise by, [`load_u32_at`](Mapping::load_u32_at) and
//!   [`load_u64_at`](Mapping::load_u64_at) read them where the map is read-only.
//! - [`as_ptr`](Mapping::as_ptr) and [`as_mut_ptr`](Mapping::as_mut_ptr) give pointers.
//! - [`Frozen`](crate::memfd::Frozen) is a slice, because there a seal of the kernel keeps
//!   everybody from writing.
//!
//! [`as_slice`](Mapping::as_slice) and [`as_mut_slice`](Mapping::as_mut_slice) are for programs that
//! know who writes when; they are `unsafe` and say what has to hold.
//!
//! # SIGBUS
//! Touching a page that the object has not (a peer has cut it off, or there is no memory for it)
//! ends the process by SIGBUS. That breaks no promise of Rust's, but a peer should not be able to do
//! it. Objects that this library makes have all their memory before anybody can map them, memfds
//! have their size sealed, and no call of this library shortens anything. What remains: somebody
//! truncates a named object by other means. `Memfd` is the mechanism for peers that are not trusted.
//!
//! # After fork and after a crash
//! A forked child inherits shared maps as they are. When a process dies, its maps go, the memory
//! stays as the last instruction left it.
//!
//! Source: mmap(2), msync(2), madvise(2), mlock(2), shmat(2).

#![allow(unsafe_code, reason = "maps memory and hands out atomics and pointers into it")]

use std::ffi::c_void;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{self, MapFlags, MsyncFlags, ProtFlags};
use rustix::param::page_size;
use rustix::thread::futex;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Feature;
use crate::mechanism::Mechanism;

mod copy;
pub(in crate::share) mod explain;
mod options;

pub use options::{Advice, HUGE_1G, HUGE_2M, Huge, Options};

/// How the memory is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    Unmap,
    Detach,
}

/// Mapped memory: unmapped when dropped. See the [module](self) for what can be done with it.
pub struct Mapping {
    /// What the kernel gave: whole pages.
    base: NonNull<u8>,
    span: usize,
    /// What was asked for: `len` bytes, from `lead` bytes after `base`; both inside the span.
    lead: usize,
    len: usize,
    offset: u64,
    page: usize,
    writable: bool,
    shared: bool,
    release: Release,
    mechanism: Mechanism,
}

// SAFETY: a map belongs to the process, not to a thread: any thread may unmap it.
unsafe impl Send for Mapping {}
// SAFETY: what `&Mapping` allows by safe means is copies that tolerate racing writers, atomics, and
// system calls, all of which threads may do at once.
unsafe impl Sync for Mapping {}

/// What `from_fd` maps.
#[derive(Clone, Copy, Debug)]
pub(in crate::share) struct Part {
    pub(in crate::share) offset: u64,
    pub(in crate::share) len: usize,
    /// The size of the pages that the object is made of.
    pub(in crate::share) page: usize,
}

impl Mapping {
    /// Maps a part of an object. The caller has checked that the object is so long.
    pub(in crate::share) fn from_fd(
        fd: BorrowedFd<'_>,
        part: Part,
        options: Options,
        mechanism: Mechanism,
    ) -> Result<Self> {
        // An object of huge pages is mapped in huge pages, anything else from a page boundary.
        let lead = (part.offset % part.page as u64) as usize;
        let span =
            part.len.checked_add(lead).and_then(|len| len.checked_next_multiple_of(part.page));
        let (Some(span), true) = (span, part.len > 0) else {
            return Err(bad_length(part.len, mechanism));
        };
        let prot = protection(options);
        let flags = if options.private { MapFlags::PRIVATE } else { MapFlags::SHARED };
        // SAFETY: the kernel chooses an address where nothing is mapped, so no memory that anybody
        // has a reference to changes.
        let base = unsafe {
            mm::mmap(std::ptr::null_mut(), span, prot, flags, fd, part.offset - lead as u64)
        };
        let base = base.map_err(|e| explain::map_error(e, mechanism, part.len))?;
        Self {
            base: found(base, part.len, mechanism)?,
            span,
            lead,
            len: part.len,
            offset: part.offset,
            page: part.page,
            writable: !options.read_only,
            shared: !options.private,
            release: Release::Unmap,
            mechanism,
        }
        .prepared(options)
    }

    /// Maps fresh zeroed memory.
    pub(in crate::share) fn anonymous(
        len: usize,
        options: Options,
        huge: Option<Huge>,
    ) -> Result<Self> {
        let mechanism = Mechanism::Anonymous;
        let page = match huge {
            Some(huge) => usize::try_from(huge.bytes()).unwrap_or(usize::MAX),
            None => page_size(),
        };
        let (Some(span), true) = (len.checked_next_multiple_of(page), len > 0) else {
            return Err(bad_length(len, mechanism));
        };
        let mut flags = if options.private { MapFlags::PRIVATE } else { MapFlags::SHARED };
        if let Some(huge) = huge {
            flags |= MapFlags::HUGETLB | MapFlags::from_bits_retain(huge.code(mechanism)?);
        }
        // SAFETY: as in `from_fd`.
        let base =
            unsafe { mm::mmap_anonymous(std::ptr::null_mut(), span, protection(options), flags) };
        let base = base.map_err(|errno| {
            let error = explain::map_error(errno, mechanism, len);
            huge.map_or(error, |huge| {
                huge.explain(Error::os("map", errno).on(mechanism).object(format!("{len} bytes")))
            })
        })?;
        Self {
            base: found(base, len, mechanism)?,
            span,
            lead: 0,
            len,
            offset: 0,
            page,
            writable: !options.read_only,
            shared: !options.private,
            release: Release::Unmap,
            mechanism,
        }
        .prepared(options)
    }

    /// Takes over what shmat(2) has attached.
    ///
    /// # Safety
    /// `base` is what shmat gave for a segment of `len` bytes, writable as said, and nobody else
    /// detaches it.
    pub(in crate::share) unsafe fn attached(
        base: NonNull<u8>,
        len: usize,
        page: usize,
        options: Options,
    ) -> Result<Self> {
        Self {
            base,
            span: len.checked_next_multiple_of(page).unwrap_or(len),
            lead: 0,
            len,
            offset: 0,
            page,
            writable: !options.read_only,
            shared: true,
            release: Release::Detach,
            mechanism: Mechanism::SysvShm,
        }
        .prepared(options)
    }

    /// Does what was asked for beside the map; where that fails, the map goes.
    fn prepared(self, options: Options) -> Result<Self> {
        if options.transparent_huge {
            // Advice is all it is: a kernel without transparent huge pages refuses it.
            let _ = self.advise(Advice::HugePage);
        }
        if options.populate {
            self.populate()?;
        }
        if options.lock {
            self.lock()?;
        }
        Ok(self)
    }

    /// The first byte. Valid for [`len`](Self::len) bytes as long as the mapping lives; others may
    /// write there, so read it by atomic or volatile means.
    #[inline]
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.as_mut_ptr()
    }

    /// The first byte. As [`as_ptr`](Self::as_ptr); writing is a fault (SIGSEGV) unless
    /// [`is_writable`](Self::is_writable).
    #[inline]
    #[must_use]
    pub const fn as_mut_ptr(&self) -> *mut u8 {
        // SAFETY: the lead lies inside the map.
        unsafe { self.base.as_ptr().add(self.lead) }
    }

    /// How many bytes were asked for and can be touched. Never zero.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a map is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Where in the object the first byte lies.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether it can be written to.
    #[inline]
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether others see what is written; else it is copied on write.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.shared
    }

    /// The size of the pages that were obtained: the host's ordinary one, or that of a pool of huge
    /// pages. Transparent huge pages come and go, see [`huge_bytes`](Self::huge_bytes).
    #[must_use]
    pub const fn page_size(&self) -> usize {
        self.page
    }

    /// The mechanism that it is a map of.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Copies `buf.len()` bytes from `offset` on out of the map.
    ///
    /// What others write meanwhile may show in part. Orders nothing: load an atomic word with
    /// `Acquire` first.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if that is not all inside the map; nothing is copied.
    #[inline]
    pub fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        let Some(from) = self.inside(offset, buf.len()) else {
            return Err(self.outside("read", offset, buf.len()));
        };
        // SAFETY: `inside` has checked that so many bytes are there, and they are mapped as long as
        // `self` lives. `buf` is exclusive, so it cannot overlap them: a reference to bytes of the
        // map comes only from the unsafe slices, whose callers keep others away.
        unsafe { copy::copy(from, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    /// Copies `data` into the map from `offset` on.
    ///
    /// Others may see it in part meanwhile. Orders nothing: store an atomic word with `Release`
    /// afterwards.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if that is not all inside the map,
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if it is read-only; nothing is copied.
    #[inline]
    pub fn write_at(&self, offset: usize, data: &[u8]) -> Result<()> {
        let Some(to) = self.inside(offset, data.len()) else {
            return Err(self.outside("write", offset, data.len()));
        };
        if !self.writable {
            return Err(self.not_writable());
        }
        // SAFETY: `inside` has checked that so many bytes are there, they are mapped as long as
        // `self` lives, and writable, checked above. `data` cannot overlap them, see `read_at`.
        unsafe { copy::copy(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    /// The four bytes at `offset` as an atomic word; `None` if they are not all inside the map, not
    /// aligned to four, or the map is read-only.
    #[inline]
    #[must_use]
    pub fn atomic_u32_at(&self, offset: usize) -> Option<&AtomicU32> {
        let word = self.aligned(offset, size_of::<AtomicU32>()).filter(|_| self.writable)?;
        // SAFETY: inside the map and aligned, checked; writable, checked; mapped as long as the
        // borrow of `self`. Every bit pattern is a number. Other accesses from this process are
        // atomic too, or those of copies, which are to the compiler.
        #[allow(clippy::cast_ptr_alignment, reason = "checked")]
        Some(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// The eight bytes at `offset` as an atomic word; `None` if they are not all inside the map, not
    /// aligned to eight, or the map is read-only.
    #[inline]
    #[must_use]
    pub fn atomic_u64_at(&self, offset: usize) -> Option<&AtomicU64> {
        let word = self.aligned(offset, size_of::<AtomicU64>()).filter(|_| self.writable)?;
        // SAFETY: as for `atomic_u32_at`.
        #[allow(clippy::cast_ptr_alignment, reason = "checked")]
        Some(unsafe { AtomicU64::from_ptr(word.cast()) })
    }

    /// Loads the four bytes at `offset`, also where the map is read-only, with the effect of
    /// `Acquire`. `None` if they are not all inside the map or not aligned to four.
    #[inline]
    #[must_use]
    pub fn load_u32_at(&self, offset: usize) -> Option<u32> {
        let word = self.aligned(offset, size_of::<AtomicU32>())?;
        // SAFETY: as for `atomic_u32_at`; where the map is read-only a relaxed load of this size is
        // the one atomic access that may be made, and the only one that is.
        #[allow(clippy::cast_ptr_alignment, reason = "checked")]
        let value = unsafe { AtomicU32::from_ptr(word.cast()) }.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Some(value)
    }

    /// Loads the eight bytes at `offset`, also where the map is read-only, with the effect of
    /// `Acquire`. `None` if they are not all inside the map or not aligned to eight.
    #[inline]
    #[must_use]
    pub fn load_u64_at(&self, offset: usize) -> Option<u64> {
        let word = self.aligned(offset, size_of::<AtomicU64>())?;
        // SAFETY: as for `load_u32_at`.
        #[allow(clippy::cast_ptr_alignment, reason = "checked")]
        let value = unsafe { AtomicU64::from_ptr(word.cast()) }.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Some(value)
    }

    /// All of it as a slice.
    ///
    /// # Safety
    /// For as long as the slice lives nobody writes to these bytes: no other process that has or
    /// comes to have a map or a descriptor of the object, and nothing in this one. Nor does anybody
    /// shorten the object, or the process is ended by SIGBUS.
    #[must_use]
    pub const unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped for `len` bytes as long as `self` lives, which is no more than isize::MAX;
        // that nobody writes is promised by the caller.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// All of it as a slice to write to; `None` if the map is read-only.
    ///
    /// # Safety
    /// For as long as the slice lives nobody else reads or writes these bytes, in this process or in
    /// another, nor shortens the object.
    #[must_use]
    pub const unsafe fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if !self.writable {
            return None;
        }
        // SAFETY: mapped and writable for `len` bytes as long as `self` lives; that nobody else
        // touches them is promised by the caller.
        Some(unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) })
    }

    /// Fetches all pages now, so that touching them later faults no more: for writing if the map is
    /// writable (MADV_POPULATE_WRITE), else for reading.
    ///
    /// # Errors
    /// [`NoSpace`](ErrorKind::NoSpace) where the memory is not there: an error, not a SIGBUS. Where a
    /// sandbox has not that advice, the kernel is asked for the pages one by one.
    pub fn populate(&self) -> Result<()> {
        use mm::Advice::{LinuxPopulateRead, LinuxPopulateWrite};

        if !Feature::MadvPopulate.usable() {
            return self.touch();
        }
        let advice = if self.writable { LinuxPopulateWrite } else { LinuxPopulateRead };
        loop {
            // SAFETY: populating changes no byte.
            match unsafe { mm::madvise(self.whole(), self.span, advice) } {
                Ok(()) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The last page can lie beyond the end of the object only if it has shrunk.
                Err(Errno::INVAL) => {
                    Feature::MadvPopulate.refused();
                    return self.touch();
                }
                Err(errno) => return Err(self.unpopulated(errno)),
            }
        }
    }

    /// Has the kernel fetch every page for each of them in turn. It does so for a wake on a futex
    /// word that nobody is to be woken at: for writing where the map allows that, without changing a
    /// byte, and with EFAULT where a touch of ours would end the process by SIGBUS.
    fn touch(&self) -> Result<()> {
        for at in (0..self.span).step_by(self.page) {
            // SAFETY: `at` is inside the span that the kernel gave.
            let word = unsafe { self.base.as_ptr().add(at) };
            // SAFETY: mapped, and aligned at the start of a page; only its address is used.
            #[allow(clippy::cast_ptr_alignment, reason = "the start of a page")]
            let word = unsafe { AtomicU32::from_ptr(word.cast()) };
            // Any other failure is of a host without futexes, where this stays a hint.
            if futex::wake(word, futex::Flags::empty(), 0) == Err(Errno::FAULT) {
                return Err(self.unpopulated(Errno::FAULT));
            }
        }
        Ok(())
    }

    fn unpopulated(&self, errno: Errno) -> Error {
        let error = self.error("populate", errno);
        match errno {
            Errno::FAULT | Errno::NOMEM => error
                .of_kind(ErrorKind::NoSpace)
                .because("there is no memory for all its pages, or it has shrunk"),
            _ => error,
        }
    }

    /// Tells the kernel what is to come.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) where this kernel, or this kind of memory, has no
    /// such advice.
    pub fn advise(&self, advice: Advice) -> Result<()> {
        // SAFETY: none of these changes what the memory holds for this process.
        let done = unsafe { mm::madvise(self.whole(), self.span, advice.raw()) };
        done.map_err(|e| self.error("advise", e))
    }

    /// Locks all of it into memory, where it counts against RLIMIT_MEMLOCK until
    /// [`unlock`](Self::unlock) or the drop. A forked child inherits no locks.
    ///
    /// # Errors
    /// [`LimitReached`](ErrorKind::LimitReached), the limit named.
    pub fn lock(&self) -> Result<()> {
        // SAFETY: locking changes no byte.
        let done = unsafe { mm::mlock(self.whole(), self.span) };
        done.map_err(|e| explain::lock_error(e, self.mechanism, self.len))
    }

    /// Unlocks it.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn unlock(&self) -> Result<()> {
        // SAFETY: unlocking changes no byte.
        let done = unsafe { mm::munlock(self.whole(), self.span) };
        done.map_err(|e| self.error("unlock", e))
    }

    /// Writes what was changed to the file and waits until the disk has it (MS_SYNC). For anything
    /// but a shared map of a file on a disk it does nothing.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self) -> Result<()> {
        self.sync_range(0, self.len)
    }

    /// Writes the changed ones of `len` bytes from `offset` on to the file, in whole pages, and waits
    /// until the disk has them.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if that is not all inside the map; what the disk
    /// says.
    pub fn sync_range(&self, offset: usize, len: usize) -> Result<()> {
        if self.inside(offset, len).is_none() {
            return Err(self.outside("sync", offset, len));
        }
        let begin = (self.lead + offset) / self.page * self.page;
        let len = self.lead + offset + len - begin;
        // SAFETY: not beyond where the caller's bytes begin, which are inside the map.
        let page = unsafe { self.base.as_ptr().add(begin) };
        // SAFETY: writing out changes no byte of the memory.
        let done = unsafe { mm::msync(page.cast(), len, MsyncFlags::SYNC) };
        done.map_err(|e| self.error("sync", e))
    }

    /// How many bytes of it are in huge pages now, of whatever kind: what a request for them has
    /// obtained, read from `/proc/self/smaps`. Neighbouring maps that the kernel has merged with it
    /// count too. Slow: for tests and reports.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn huge_bytes(&self) -> Result<u64> {
        let file = fs::File::open("/proc/self/smaps").map_err(|e| {
            self.error("open /proc/self/smaps", Errno::from_io_error(&e).unwrap_or(Errno::IO))
        })?;
        let address = self.base.as_ptr().addr();
        let mut inside = false;
        let mut bytes = 0;
        for line in BufReader::new(file).lines().map_while(std::io::Result::ok) {
            let mut fields = line.split_whitespace();
            let (Some(head), next) = (fields.next(), fields.next()) else { continue };
            if let Some(kind) = head.strip_suffix(':') {
                let huge = ["AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"].contains(&kind)
                    || ["Shared_Hugetlb", "Private_Hugetlb"].contains(&kind);
                if inside && huge {
                    bytes += next.and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024;
                }
            } else if let Some((begin, end)) = head.split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
                inside = (number(begin)..number(end)).contains(&address);
            }
        }
        Ok(bytes)
    }

    fn whole(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }

    /// The address of `offset`, if `len` bytes from there on are inside the map.
    #[inline]
    fn inside(&self, offset: usize, len: usize) -> Option<*mut u8> {
        if offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: not beyond the end of the map, checked above.
        Some(unsafe { self.as_mut_ptr().add(offset) })
    }

    /// The same for a word, which is as long as it is aligned.
    #[inline]
    fn aligned(&self, offset: usize, size: usize) -> Option<*mut u8> {
        self.inside(offset, size).filter(|word| word.addr().is_multiple_of(size))
    }

    #[cold]
    fn outside(&self, operation: &'static str, offset: usize, len: usize) -> Error {
        Error::new(ErrorKind::InvalidInput, operation)
            .on(self.mechanism)
            .object(format!("{len} bytes at {offset}"))
            .because(format!("the map has {} bytes", self.len))
    }

    #[cold]
    fn not_writable(&self) -> Error {
        Error::new(ErrorKind::PermissionDenied, "write")
            .on(self.mechanism)
            .because("the map is read-only")
    }

    #[cold]
    fn error(&self, operation: &'static str, errno: Errno) -> Error {
        Error::os(operation, errno)
            .on(self.mechanism)
            .object(format!("a map of {} bytes", self.len))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Neither can fail for what the kernel gave; if one does, the memory is lost and nothing
        // else is, which is no reason to panic.
        match self.release {
            Release::Unmap => {
                // SAFETY: exactly what mmap gave, which only this type unmaps; every reference into
                // it borrows `self`.
                let _ = unsafe { mm::munmap(self.whole(), self.span) };
            }
            Release::Detach => {
                // SAFETY: exactly what shmat gave, see `attached`.
                let _ = unsafe { libc::shmdt(self.whole()) };
            }
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("mechanism", &self.mechanism)
            .field("address", &self.as_ptr())
            .field("len", &self.len)
            .field("offset", &self.offset)
            .field("page_size", &self.page)
            .field("writable", &self.writable)
            .field("shared", &self.shared)
            .finish()
    }
}

fn protection(options: Options) -> ProtFlags {
    if options.read_only { ProtFlags::READ } else { ProtFlags::READ | ProtFlags::WRITE }
}

fn found(base: *mut c_void, len: usize, mechanism: Mechanism) -> Result<NonNull<u8>> {
    // The kernel gives address zero only to who asks for it.
    NonNull::new(base.cast()).ok_or_else(|| explain::map_error(Errno::NOMEM, mechanism, len))
}

#[cold]
fn bad_length(len: usize, mechanism: Mechanism) -> Error {
    let error = Error::os("map", Errno::INVAL).on(mechanism).object(format!("{len} bytes"));
    if len == 0 {
        error.because("a map has at least one byte")
    } else {
        error.because("it is longer than the address space")
    }
}
