//! Shared memory without a name, handed over as a file descriptor, whose seals the kernel keeps.
//!
//! The mechanism of choice between processes that know each other: nobody can find it who was not
//! given it, it is gone with its last descriptor and map however its users end, and a receiver can
//! check by the [seals](Seals) what no peer will be able to do to it.
//!
//! ```
//! use sinew::memfd::{self, Memfd, Seals};
//! # use std::os::fd::OwnedFd;
//!
//! // One process makes it and hands over the descriptor (through a UNIX socket).
//! let memfd = memfd::Options::new().create("frames", 1 << 20)?;
//! let map = memfd.map()?;
//! # let received: OwnedFd = memfd.try_clone()?.into();
//!
//! // The other one takes it. Its length comes from the kernel, and cannot change any more.
//! let memfd = Memfd::try_from(received)?;
//! memfd.require(Seals::SHRINK)?;
//! assert_eq!(memfd.map()?.len(), 1 << 20);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Filled once, read by many
//! [`Memfd::freeze`] seals the contents. What is left is a [`Frozen`], which is a `&[u8]`: the kernel
//! lets nobody write to it, so a reference is honest. Handing over the descriptor takes the same time
//! for a byte as for a gigabyte.
//!
//! # Memory
//! All memory is there when [`Options::create`] returns: too little is an error, named, and never a
//! SIGBUS at the first touch. Where a memory cgroup, or the machine, would kill a process rather
//! than refuse, the room is looked at first. (The pages count for the cgroup of the creator.)
//!
//! # After a crash
//! Nothing is left but what others have open. The memory is as the last instruction left it.
//!
//! Source: memfd_create(2), fcntl(2), "File Sealing".

#![allow(unsafe_code, reason = "gives a slice of sealed memory")]

use std::fmt;
use std::ops::{BitOr, Deref};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals};
use rustix::io::Errno;

use super::{allocate, headroom, pages};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Feature;
use crate::limits::Limit;
use crate::mapping::{self, Huge, Mapping};
use crate::mechanism::Mechanism;

const MECHANISM: Mechanism = Mechanism::Memfd;
/// What memfd_create(2) takes.
const LONGEST_NAME: usize = 249;

/// What the kernel will not let anybody do to a memfd. Seals are only ever added.
///
/// ```
/// use sinew::memfd::Seals;
///
/// let both = Seals::SHRINK | Seals::GROW;
/// assert!(both.contains(Seals::GROW));
/// assert_eq!(both.to_string(), "SHRINK|GROW");
/// assert_eq!(Seals::NONE.to_string(), "none");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seals(u32);

impl Seals {
    /// None.
    pub const NONE: Self = Self(0);
    /// No more seals can be added (F_SEAL_SEAL).
    pub const SEAL: Self = Self(libc::F_SEAL_SEAL.cast_unsigned());
    /// It cannot become shorter (F_SEAL_SHRINK): no peer can cause a SIGBUS.
    pub const SHRINK: Self = Self(libc::F_SEAL_SHRINK.cast_unsigned());
    /// It cannot become longer (F_SEAL_GROW).
    pub const GROW: Self = Self(libc::F_SEAL_GROW.cast_unsigned());
    /// Nobody can write to it (F_SEAL_WRITE). Cannot be added while writable maps of it exist.
    pub const WRITE: Self = Self(libc::F_SEAL_WRITE.cast_unsigned());
    /// Nobody can write to it but through the writable maps that exist already
    /// (F_SEAL_FUTURE_WRITE): for a publisher that keeps its own.
    pub const FUTURE_WRITE: Self = Self(libc::F_SEAL_FUTURE_WRITE.cast_unsigned());
    /// Its permission to be executed cannot change (F_SEAL_EXEC, Linux 6.3).
    pub const EXEC: Self = Self(0x20);

    /// Whether all of `others` are among these.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Those of these that are not among `others`.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Seals {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl fmt::Display for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Seals, &str); 6] = [
            (Seals::SEAL, "SEAL"),
            (Seals::SHRINK, "SHRINK"),
            (Seals::GROW, "GROW"),
            (Seals::WRITE, "WRITE"),
            (Seals::FUTURE_WRITE, "FUTURE_WRITE"),
            (Seals::EXEC, "EXEC"),
        ];
        let mut rest = *self;
        let mut between = "";
        for (seal, name) in NAMES {
            if rest.contains(seal) {
                write!(f, "{between}{name}")?;
                between = "|";
                rest = rest.without(seal);
            }
        }
        match rest {
            Self::NONE if between.is_empty() => f.write_str("none"),
            Self::NONE => Ok(()),
            // Of a newer kernel.
            Self(bits) => write!(f, "{between}{bits:#x}"),
        }
    }
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seals({self})")
    }
}

/// How to create a memfd: of a fixed size, sealable, not executable, in ordinary pages.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    resizable: bool,
    sealable: bool,
    executable: bool,
    huge: Option<Huge>,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Its size is sealed ([`Seals::SHRINK`] and [`Seals::GROW`]), more seals can be added, and it
    /// can never be executed, where the kernel knows how (MFD_NOEXEC_SEAL, Linux 6.3).
    #[must_use]
    pub const fn new() -> Self {
        Self { resizable: false, sealable: true, executable: false, huge: None }
    }

    /// Leaves the size open: [`Memfd::grow`] works, and a receiver has to trust whoever else has it,
    /// see [`Memfd::map_unsealed`].
    #[must_use]
    pub const fn resizable(mut self) -> Self {
        self.resizable = true;
        self
    }

    /// Lets nobody add seals.
    #[must_use]
    pub const fn unsealable(mut self) -> Self {
        self.sealable = false;
        self
    }

    /// Lets it be executed (MFD_EXEC), unless `vm.memfd_noexec` of the host forbids it.
    #[must_use]
    pub const fn executable(mut self) -> Self {
        self.executable = true;
        self
    }

    /// Asks for huge pages from the administrator's pool. The length is rounded up to whole pages.
    #[must_use]
    pub const fn huge_pages(mut self, huge: Huge) -> Self {
        self.huge = Some(huge);
        self
    }

    /// Creates one of `len` zeroed bytes, for all of which there is memory. The name, up to 249
    /// bytes, shows in /proc and identifies nothing.
    ///
    /// # Errors
    /// [`NoSpace`](ErrorKind::NoSpace) or [`LimitReached`](ErrorKind::LimitReached), with the limit
    /// and the sizes; [`InvalidInput`](ErrorKind::InvalidInput) for a name that cannot be, and for no
    /// bytes of a fixed size.
    pub fn create(&self, name: &str, len: u64) -> Result<Memfd> {
        let wrong = |why: String| {
            let error = Error::new(ErrorKind::InvalidInput, "create").on(MECHANISM);
            Err(error.object(format!("{name:?}")).because(why))
        };
        if name.len() > LONGEST_NAME {
            return wrong(format!("a name of {} bytes, of at most {LONGEST_NAME}", name.len()));
        }
        if name.contains('\0') {
            return wrong("a name has no NUL".to_owned());
        }
        if len == 0 && !self.resizable {
            return wrong("a memfd of a fixed size has at least one byte".to_owned());
        }
        match self.huge {
            None => self.create_of(name, len, None, MemfdFlags::empty()),
            Some(huge) => {
                let code =
                    MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(huge.code(MECHANISM)?);
                let pages = len.checked_next_multiple_of(huge.bytes()).unwrap_or(u64::MAX);
                match self.create_of(name, pages, Some(huge), code) {
                    Err(_) if !huge.is_required() => {
                        self.create_of(name, len, None, MemfdFlags::empty())
                    }
                    done => done,
                }
            }
        }
    }

    fn create_of(
        &self,
        name: &str,
        len: u64,
        huge: Option<Huge>,
        flags: MemfdFlags,
    ) -> Result<Memfd> {
        if huge.is_none() {
            headroom::check(len, MECHANISM)?;
        }
        let fd = self.open(name, flags).map_err(|errno| {
            let error = Error::os("create", errno).on(MECHANISM).object(format!("{name:?}"));
            match (errno, huge) {
                (Errno::MFILE, _) => error
                    .because(format!("all descriptors are in use: {}", Limit::Nofile.stated()))
                    .fix(Limit::Nofile.raise()),
                (Errno::ACCESS, _) => error
                    .because("vm.memfd_noexec of this host forbids memfds that can be executed")
                    .fix("do without `executable()`"),
                (_, Some(huge)) => huge.explain(error),
                _ => error,
            }
        })?;
        let memfd = Memfd { fd };
        memfd.extend(len).map_err(|errno| match huge {
            Some(huge) => huge.explain(memfd.no_room(errno, len)),
            None => memfd.no_room(errno, len),
        })?;
        let mut seals = Seals::NONE;
        if !self.resizable {
            seals = seals | Seals::SHRINK | Seals::GROW;
        }
        if !self.sealable {
            seals = seals | Seals::SEAL;
        }
        if !seals.is_empty() {
            memfd.add_seals(seals)?;
        }
        Ok(memfd)
    }

    fn open(&self, name: &str, flags: MemfdFlags) -> Result<OwnedFd, Errno> {
        // Sealable in any case, because the size is sealed by it.
        let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if !Feature::NoexecSeal.usable() {
            return fs::memfd_create(name, flags);
        }
        let newer = if self.executable { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
        match fs::memfd_create(name, flags | newer) {
            Err(Errno::INVAL) => {
                let older = fs::memfd_create(name, flags)?;
                Feature::NoexecSeal.refused();
                Ok(older)
            }
            done => done,
        }
    }
}

/// A memfd: a descriptor of memory. See the [module](self).
///
/// Received ones are made with `Memfd::try_from(fd)`, which fails with
/// [`Mismatch`](ErrorKind::Mismatch) for anything that is not memory.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
}

impl Memfd {
    /// How many bytes it has now, as the kernel says.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn size(&self) -> Result<u64> {
        let stat = fs::fstat(&self.fd).map_err(|e| self.error("look at", e))?;
        Ok(allocate::length(&stat))
    }

    /// Its seals.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn seals(&self) -> Result<Seals> {
        let seals = fcntl_get_seals(&self.fd).map_err(|e| self.error("read the seals", e))?;
        Ok(Seals(seals.bits()))
    }

    /// Adds seals, for ever and for everybody.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) after [`Seals::SEAL`], or if it is open for
    /// reading only; [`InUse`](ErrorKind::InUse) for [`Seals::WRITE`] while there is a writable map.
    pub fn add_seals(&self, seals: Seals) -> Result<()> {
        fcntl_add_seals(&self.fd, SealFlags::from_bits_retain(seals.0)).map_err(|errno| {
            let error = self.error("add seals", errno).object(seals);
            match errno {
                Errno::BUSY => error
                    .because("a process has it mapped for writing, or a device is reading from it")
                    .fix("drop the writable maps, or use FUTURE_WRITE, which leaves them be"),
                Errno::PERM if self.seals().is_ok_and(|s| s.contains(Seals::SEAL)) => {
                    error.because("it has the seal SEAL: no more can be added")
                }
                Errno::PERM => error.because("it is open for reading only"),
                Errno::INVAL => error
                    .of_kind(ErrorKind::Unsupported)
                    .because("this kernel, or this kind of file, has no such seal"),
                _ => error,
            }
        })
    }

    /// Fails unless it has all of these seals. They are the kernel's word about what its other users
    /// cannot do.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch), naming those that are missing.
    pub fn require(&self, seals: Seals) -> Result<()> {
        let found = self.seals()?;
        let missing = seals.without(found);
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Mismatch, "check the seals")
            .on(MECHANISM)
            .object(self.label())
            .because(format!("the seals {missing} are missing (it has: {found})"))
            .fix("whoever creates it has to add them"))
    }

    /// Maps all of it, shared and writable.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) without [`Seals::SHRINK`]: see
    /// [`map_unsealed`](Self::map_unsealed). [`PermissionDenied`](ErrorKind::PermissionDenied) if a
    /// seal forbids writing, or if it is open for reading only.
    pub fn map(&self) -> Result<Mapping> {
        self.map_with(mapping::Options::new())
    }

    /// Maps all of it.
    ///
    /// # Errors
    /// As those of [`map`](Self::map).
    pub fn map_with(&self, options: mapping::Options) -> Result<Mapping> {
        self.require(Seals::SHRINK).map_err(|e| {
            e.fix("whoever creates it has to add them; or trust it: `map_unsealed`")
        })?;
        self.map_unsealed(options)
    }

    /// Maps all of it even if others can shorten it: then any of them can end this process, by
    /// SIGBUS at the next touch beyond the new end.
    ///
    /// # Errors
    /// As those of [`map`](Self::map).
    pub fn map_unsealed(&self, options: mapping::Options) -> Result<Mapping> {
        pages::map_all(self.fd.as_fd(), options, MECHANISM)
    }

    /// Makes it longer; all new memory is there when the call returns. Maps stay as long as they
    /// are: map again to see the rest. Never makes it shorter.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) unless it is
    /// [resizable](Options::resizable); those of [`Options::create`].
    pub fn grow(&self, len: u64) -> Result<()> {
        headroom::check(len.saturating_sub(self.size()?), MECHANISM)?;
        self.extend(len).map_err(|errno| self.no_room(errno, len))
    }

    fn extend(&self, len: u64) -> Result<(), Errno> {
        allocate::allocate(self.fd.as_fd(), len)
    }

    fn no_room(&self, errno: Errno, len: u64) -> Error {
        let error = allocate::no_room(errno, MECHANISM, self.label(), self.fd.as_fd(), len);
        match errno {
            Errno::PERM => error.because("its seals forbid that").fix("create it resizable"),
            _ => error,
        }
    }

    /// Reads `buf.len()` bytes from `offset` on, by system calls: no SIGBUS whatever others do.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) if it ends before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        pages::read_at(self.fd.as_fd(), offset, buf, MECHANISM)
    }

    /// Writes `data` from `offset` on, by system calls.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if a seal forbids it, be it that it would
    /// have to grow.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        pages::write_at(self.fd.as_fd(), offset, data, MECHANISM)
    }

    /// Seals the contents and the size for ever ([`Seals::WRITE`], [`SHRINK`](Seals::SHRINK),
    /// [`GROW`](Seals::GROW)) and maps them. The descriptor can be handed over before or after: whoever
    /// has it reads the same bytes.
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse) while anybody has it mapped for writing.
    pub fn freeze(self) -> Result<Frozen> {
        self.add_seals(Seals::WRITE | Seals::SHRINK | Seals::GROW)?;
        self.frozen()
    }

    /// Maps contents that were sealed by another process.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) unless it has [`Seals::WRITE`] and [`Seals::SHRINK`].
    pub fn frozen(self) -> Result<Frozen> {
        self.require(Seals::WRITE | Seals::SHRINK)?;
        let map = self.map_unsealed(mapping::Options::new().read_only())?;
        Ok(Frozen { map, memfd: self })
    }

    /// Another descriptor of the same memory.
    ///
    /// # Errors
    /// [`LimitReached`](ErrorKind::LimitReached) when no descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0);
        fd.map(|fd| Self { fd }).map_err(|e| self.error("duplicate", e))
    }

    fn label(&self) -> String {
        // `/memfd:name (deleted)`
        let link = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let target = std::fs::read_link(link).unwrap_or_default();
        let target = target.to_string_lossy();
        let name = target.strip_prefix("/memfd:").unwrap_or(&target);
        format!("{:?}", name.strip_suffix(" (deleted)").unwrap_or(name))
    }

    #[cold]
    fn error(&self, operation: &'static str, errno: Errno) -> Error {
        Error::os(operation, errno).on(MECHANISM).object(self.label())
    }
}

impl TryFrom<OwnedFd> for Memfd {
    type Error = Error;

    /// Takes a descriptor that came from elsewhere, if it is one of memory (a memfd, or a file of a
    /// tmpfs): what that is the kernel says, not the sender. A refused descriptor is closed.
    ///
    /// It can be of any [`size`](Memfd::size), without memory behind it: compare that with what is
    /// expected, because the pages that this process touches first count for its own memory cgroup.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        let refuse = |what: &str| {
            Err(Error::new(ErrorKind::Mismatch, "take a received descriptor")
                .on(MECHANISM)
                .object(format!("descriptor {}", fd.as_raw_fd()))
                .because(format!("it is {what}, not a memfd")))
        };
        let stat = fs::fstat(&fd).map_err(|e| Error::os("look at", e).on(MECHANISM))?;
        if let Some(what) = allocate::irregular(&stat) {
            return refuse(what);
        }
        match fcntl_get_seals(&fd) {
            Ok(_) => Ok(Self { fd }),
            Err(_) => refuse("a file on a disk"),
        }
    }
}

impl From<Memfd> for OwnedFd {
    fn from(memfd: Memfd) -> Self {
        memfd.fd
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Contents that nobody can change any more: a slice, and the descriptor to hand on.
///
/// ```
/// use sinew::memfd::{self, Memfd};
///
/// let memfd = memfd::Options::new().create("table", 6)?;
/// memfd.write_at(0, b"frozen")?;
/// let table = memfd.freeze()?;
/// assert_eq!(&*table, b"frozen");
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Debug)]
pub struct Frozen {
    map: Mapping,
    memfd: Memfd,
}

impl Frozen {
    /// The memfd, for its seals.
    #[must_use]
    pub const fn memfd(&self) -> &Memfd {
        &self.memfd
    }

    /// The map, for advice.
    #[must_use]
    pub const fn mapping(&self) -> &Mapping {
        &self.map
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memfd has F_SEAL_WRITE, checked by `frozen`, which the kernel grants only when
        // no writable map is left and which ends all writing for ever, holes included; and
        // F_SEAL_SHRINK, so that it stays as long as it was. The map itself is read-only, and of the
        // whole memfd.
        unsafe { self.map.as_slice() }
    }
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsFd for Frozen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}
