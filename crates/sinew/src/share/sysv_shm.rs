//! System V shared memory: segments under a number, for programs that were written so.
//!
//! ```
//! use sinew::sysv_shm::{Key, Options};
//!
//! let segment = Options::new().create(Key::PRIVATE, 4096)?.remove_on_drop();
//! let map = segment.attach()?;
//! map.write_at(0, b"hello")?;
//! assert_eq!(segment.status()?.attached, 1);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! A segment lives in the kernel of its IPC namespace until somebody [removes](Segment::remove) it;
//! its memory goes when the last process has detached. Dropping a [`Segment`] does not remove it, the
//! end of a process only detaches. On Linux a removed segment can still be attached by its id for as
//! long as somebody has it attached: so create, attach, hand over the id, and remove when the other
//! side has it: then nothing is left behind however the processes end.
//!
//! # Memory
//! Its size never changes, so nobody can cause a SIGBUS by shortening it. Its pages come when they
//! are touched: where a memory cgroup, or the machine, would kill a process for that, the room is
//! looked at first. [`populate`](mapping::Options::populate) fetches them all while attaching. Huge
//! pages are reserved when it is created.
//!
//! # Limits
//! | what | where |
//! |---|---|
//! | bytes of a segment | `/proc/sys/kernel/shmmax` |
//! | pages of all segments of the IPC namespace | `/proc/sys/kernel/shmall` |
//! | segments of the IPC namespace | `/proc/sys/kernel/shmmni` |
//!
//! Source: sysvipc(7), shmget(2), shmop(2), shmctl(2).

#![allow(unsafe_code, reason = "neither std nor rustix has System V segments; libc does")]

use std::ffi::c_int;
use std::fs;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::param::page_size;

use super::headroom;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mapping::{self, Huge, Mapping, explain};
use crate::mechanism::Mechanism;
use crate::sysv::{self, Permissions, last_errno, process};

pub use crate::sysv::Key;

const MECHANISM: Mechanism = Mechanism::SysvShm;
/// Pages from the pool of huge ones (`linux/shm.h`).
const SHM_HUGETLB: c_int = 0o4000;
/// In the mode of a segment: it was removed and lives only as long as it is attached.
const SHM_DEST: u32 = 0o1000;

/// How to create or open a segment.
///
/// ```
/// use sinew::ErrorKind;
/// use sinew::sysv_shm::{Key, Options};
///
/// let key = Key::new(0x5158_0000 | (std::process::id() as i32 & 0xffff));
/// let segment = Options::new().create(key, 4096)?.remove_on_drop();
/// assert_eq!(Options::new().open(key)?.id(), segment.id());
/// assert_eq!(Options::new().create(key, 1).unwrap_err().kind(), ErrorKind::AlreadyExists);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options {
    mode: u32,
    huge: Option<Huge>,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600, in ordinary pages.
    #[must_use]
    pub const fn new() -> Self {
        Self { mode: 0o600, huge: None }
    }

    /// The permission bits of a new segment: 4 to attach for reading, 6 for writing. The umask has no
    /// say.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Asks for huge pages from the administrator's pool. Takes CAP_IPC_LOCK, or membership in the
    /// group of `vm.hugetlb_shm_group`.
    #[must_use]
    pub const fn huge_pages(mut self, huge: Huge) -> Self {
        self.huge = Some(huge);
        self
    }

    /// Creates a segment of `len` zeroed bytes under a number that must not have one yet.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); [`LimitReached`](ErrorKind::LimitReached), the
    /// limit named; [`InvalidInput`](ErrorKind::InvalidInput) for no bytes.
    pub fn create(&self, key: Key, len: u64) -> Result<Segment> {
        let flags = libc::IPC_CREAT | libc::IPC_EXCL;
        if let Some(huge) = self.huge {
            // The code is of six bits from bit 26 on, which fit.
            let code = c_int::from_ne_bytes(huge.code(MECHANISM)?.to_ne_bytes());
            match self.get("create", key, len, flags | SHM_HUGETLB | code) {
                Err((Errno::EXIST, error)) => return Err(error),
                Err(_) if !huge.is_required() => {}
                Err((_, error)) => return Err(huge.explain(error)),
                Ok(segment) => return Ok(segment),
            }
        }
        headroom::check(len, MECHANISM)?;
        self.get("create", key, len, flags).map_err(|(_, error)| error)
    }

    /// Opens the segment that has the number. Whether this process may attach it shows then.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound).
    pub fn open(&self, key: Key) -> Result<Segment> {
        if key == Key::PRIVATE {
            return Err(Error::new(ErrorKind::InvalidInput, "open")
                .on(MECHANISM)
                .object(key)
                .because("a private segment has no number to find it by")
                .fix("hand over its id, and use `Segment::from_id`"));
        }
        self.get("open", key, 0, 0).map_err(|(_, error)| error)
    }

    /// Opens the segment that has the number, or creates it. One that exists keeps its mode and size,
    /// which has to be at least `len`.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open);
    /// [`Mismatch`](ErrorKind::Mismatch) if it is shorter.
    pub fn open_or_create(&self, key: Key, len: u64) -> Result<Segment> {
        loop {
            match self.create(key, len) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
            match self.get("open", key, len, 0) {
                // Somebody removed it in between, so it can be created now.
                Err((Errno::NOENT | Errno::IDRM, _)) => {}
                Err((Errno::INVAL, error)) => {
                    return Err(error
                        .of_kind(ErrorKind::Mismatch)
                        .because(format!("it has fewer than {len} bytes")));
                }
                Err((_, error)) => return Err(error),
                Ok(segment) => return Ok(segment),
            }
        }
    }

    fn get(
        &self,
        operation: &'static str,
        key: Key,
        len: u64,
        flags: c_int,
    ) -> Result<Segment, (Errno, Error)> {
        let mode = if flags == 0 { 0 } else { c_int::try_from(self.mode & 0o777).unwrap_or(0) };
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        // SAFETY: shmget takes numbers only.
        let id = unsafe { libc::shmget(key.get(), bytes, flags | mode) };
        if id >= 0 {
            return Ok(Segment { id });
        }
        let errno = last_errno();
        Err((errno, get_error(operation, errno, key, len)))
    }
}

#[cold]
fn get_error(operation: &'static str, errno: Errno, key: Key, len: u64) -> Error {
    let error = Error::os(operation, errno).on(MECHANISM).object(key);
    match errno {
        Errno::NOENT => error.because("no segment of this IPC namespace has it"),
        Errno::INVAL if len == 0 => error.because("a segment has at least one byte"),
        Errno::INVAL if Limit::ShmMax.value().is_some_and(|most| len > most) => error
            .of_kind(ErrorKind::LimitReached)
            .because(format!("{len} bytes are more than {}", Limit::ShmMax.stated()))
            .fix(Limit::ShmMax.raise()),
        Errno::NOSPC => {
            let there = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
            let there = there.lines().count().saturating_sub(1);
            let error = error.of_kind(ErrorKind::LimitReached);
            if Limit::ShmMni.value().is_some_and(|most| there as u64 >= most) {
                error
                    .because(format!("{there} segments exist, of {}", Limit::ShmMni.stated()))
                    .fix("raise it, or remove segments that nobody uses (`ipcs -m`, `ipcrm -m ID`)")
            } else {
                let pages = len.div_ceil(page_size() as u64);
                error
                    .because(format!(
                        "{pages} pages more than there are exceed {}",
                        Limit::ShmAll.stated()
                    ))
                    .fix(Limit::ShmAll.raise())
            }
        }
        Errno::NOMEM => error.because("there is no memory left for it"),
        Errno::NOSYS => error.because("this kernel has no System V IPC (CONFIG_SYSVIPC)"),
        _ => error,
    }
}

/// A segment, by its id. Dropping it does nothing to the segment; clones are the same segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    id: i32,
}

/// What a segment is, and who uses it (IPC_STAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number; [`Key::PRIVATE`] once it was removed.
    pub key: Key,
    /// The user and the group that own it.
    pub owner: (u32, u32),
    /// The user and the group that created it.
    pub creator: (u32, u32),
    /// Its permission bits.
    pub mode: u32,
    /// How many bytes it has.
    pub size: u64,
    /// How many maps of it there are, in all processes.
    pub attached: u64,
    /// Whether it was removed and goes with the last of them.
    pub removed: bool,
    /// When it was last attached, to the second.
    pub last_attach: Option<SystemTime>,
    /// When it was last detached, to the second.
    pub last_detach: Option<SystemTime>,
    /// When it was created, or its owner or mode last set, to the second.
    pub changed: Option<SystemTime>,
    /// The process that created it; it may be gone.
    pub created_by: Option<u32>,
    /// The process that last attached or detached it; it may be gone.
    pub last_used_by: Option<u32>,
}

impl Segment {
    /// The segment with this id, which came from [`id`](Self::id) in any process of this IPC
    /// namespace. If there is none, its use fails.
    #[must_use]
    pub const fn from_id(id: i32) -> Self {
        Self { id }
    }

    /// Its id. The kernel gives it to no other segment until it has given away many more.
    #[must_use]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// Maps all of it, shared and writable.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if it was removed and nobody has it attached;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied);
    /// [`LimitReached`](ErrorKind::LimitReached), the limit named.
    pub fn attach(&self) -> Result<Mapping> {
        self.attach_with(mapping::Options::new())
    }

    /// Maps all of it. A segment cannot be mapped privately.
    ///
    /// # Errors
    /// As those of [`attach`](Self::attach); [`InvalidInput`](ErrorKind::InvalidInput) for a private
    /// map.
    pub fn attach_with(&self, options: mapping::Options) -> Result<Mapping> {
        if options.private {
            return Err(Error::new(ErrorKind::InvalidInput, "attach")
                .on(MECHANISM)
                .object(format!("id {}", self.id))
                .because("a System V segment is always shared"));
        }
        let flags = if options.read_only { libc::SHM_RDONLY } else { 0 };
        // SAFETY: the kernel chooses an address where nothing is mapped, so no memory that anybody
        // has a reference to changes.
        let base = unsafe { libc::shmat(self.id, std::ptr::null(), flags) };
        if base.addr() == usize::MAX {
            return Err(self.attach_error(last_errno()));
        }
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return Err(self.attach_error(Errno::NOMEM));
        };
        // Attached, it can neither go nor can its id be another's, so this is its size for ever.
        let (size, page) = match self.stat() {
            Ok(raw) => (raw.shm_segsz, page_of(base)),
            Err(errno) => {
                // SAFETY: exactly what shmat gave, and nobody has seen it yet.
                unsafe { libc::shmdt(base.as_ptr().cast()) };
                return Err(self.error("look at", errno));
            }
        };
        // SAFETY: shmat gave it, for a segment of this size, as writable as said; nobody else
        // detaches it.
        unsafe { Mapping::attached(base, size, page, options) }
    }

    #[cold]
    fn attach_error(&self, errno: Errno) -> Error {
        match errno {
            Errno::NOMEM | Errno::AGAIN => {
                explain::map_error(errno, MECHANISM, 0).object(format!("id {}", self.id))
            }
            // Too many segments attached by a process, which Linux does not limit.
            _ => self.error("attach", errno),
        }
    }

    /// Removes it: nobody finds it by its number any more. Who has it attached keeps it, and the
    /// memory goes with the last of them.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if there is none any more;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) unless this user owns or created it.
    pub fn remove(&self) -> Result<()> {
        // SAFETY: IPC_RMID takes no pointer.
        match unsafe { libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(self.error("remove", last_errno())),
        }
    }

    /// Makes a guard that removes the segment when it is dropped. A process that is killed drops
    /// nothing, and a forked child that drops its copy removes the segment for both.
    #[must_use]
    pub const fn remove_on_drop(self) -> Owned {
        Owned { segment: self }
    }

    /// What it is, and who uses it. Takes the permission to read.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if there is none any more;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied).
    pub fn status(&self) -> Result<Status> {
        let raw = self.stat().map_err(|errno| self.error("look at", errno))?;
        let perm = Permissions::from(&raw.shm_perm);
        Ok(Status {
            key: perm.key,
            owner: perm.owner,
            creator: perm.creator,
            mode: perm.mode & 0o777,
            size: raw.shm_segsz as u64,
            attached: raw.shm_nattch,
            removed: perm.mode & SHM_DEST != 0,
            last_attach: sysv::time(raw.shm_atime),
            last_detach: sysv::time(raw.shm_dtime),
            changed: sysv::time(raw.shm_ctime),
            created_by: process(raw.shm_cpid),
            last_used_by: process(raw.shm_lpid),
        })
    }

    fn stat(&self) -> Result<libc::shmid_ds, Errno> {
        let mut raw = MaybeUninit::<libc::shmid_ds>::zeroed();
        // SAFETY: IPC_STAT writes one shmid_ds, for which there is room.
        if unsafe { libc::shmctl(self.id, libc::IPC_STAT, raw.as_mut_ptr()) } != 0 {
            return Err(last_errno());
        }
        // SAFETY: plain numbers, zeroed and then written by the kernel.
        Ok(unsafe { raw.assume_init() })
    }

    #[cold]
    fn error(&self, operation: &'static str, errno: Errno) -> Error {
        let error = Error::os(operation, errno).on(MECHANISM).object(format!("id {}", self.id));
        match errno {
            Errno::INVAL | Errno::IDRM => error
                .of_kind(ErrorKind::Closed)
                .because("no segment has this id: it was removed, or never was"),
            Errno::ACCESS => error.because("its mode does not allow it"),
            Errno::PERM => error.because("only its owner, its creator or root may"),
            _ => error,
        }
    }
}

/// A segment that is removed when this is dropped. Made by [`Segment::remove_on_drop`].
#[derive(Debug)]
pub struct Owned {
    segment: Segment,
}

impl Deref for Owned {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may be removed already; nobody is there to be told.
        let _ = self.segment.remove();
    }
}

/// The size of the pages at an address. No call tells it of a segment, so it is looked up where the
/// kernel shows it of a map; segments of ordinary pages are not worth that, and are most: the
/// address of one of huge pages is a multiple of those.
fn page_of(base: NonNull<u8>) -> usize {
    let ordinary = page_size();
    if !base.as_ptr().addr().is_multiple_of(64 * 1024) {
        return ordinary;
    }
    let head = format!("{:x}-", base.as_ptr().addr());
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&head)).skip(1);
    let size = lines.find_map(|line| line.strip_prefix("KernelPageSize:"));
    let kb = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kb.map_or(ordinary, |kb| kb * 1024)
}
