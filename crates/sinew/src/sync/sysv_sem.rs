//! System V semaphores: sets of counters, several of which change in one step, with undo.
//!
//! A set lives in the kernel of its IPC namespace until somebody [removes](Set::remove) it or the host
//! goes down: dropping a [`Set`] does not, the end of a process does not.
//!
//! ```
//! use sinew::sysv_sem::{Key, Op, Options};
//! use sinew::wait::Waits;
//!
//! // A lock, and three places.
//! let set = Options::new().create(Key::PRIVATE, &[1, 3])?.remove_on_drop();
//! set.at(0).undo().wait().unwrap();
//! set.at(0).undo().post().unwrap();
//!
//! // Both or neither; given back if this process dies.
//! set.step(&[Op::take(0, 1).undo(), Op::take(1, 2).undo()]).wait().unwrap();
//! assert_eq!(set.values()?, [0, 1]);
//! assert_eq!(set.at(1).take(2).try_wait(), Err(sinew::WaitError::WouldBlock));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Waiting
//! A wait without end, and one with a deadline, are one system call; the kernel wakes whoever can go on,
//! in the order in which they came. A wait with an interrupt asks anew each millisecond, which is how late
//! it can notice and which puts it behind others who wait.
//!
//! # When a process dies
//! What it did with [`undo`](Op::undo) the kernel takes back at once, at whatever instruction it was
//! killed: its tokens are there again and who waits for them has them. What it guarded with them is as it
//! left it, and nobody is told. A change without undo stays.
//!
//! The kernel keeps one sum a semaphore and process (of all its threads), at most 32767 either way, and a
//! forked child begins with none. [`Set::set_values`] and [`At::set`] clear the sums of all processes.
//! Where another process has taken meanwhile what an undo would take, the value stays at zero.
//!
//! # A set that is not complete
//! The kernel makes a set in one call and its values in another, so an opener could find it in between.
//! Who creates one with this library changes it once, by nothing, when it is complete; that leaves a time
//! in its status ([`Status::last_change`]), for which [`Options::open`] waits. C programs that follow
//! Stevens do the same. A set without that time after [`Options::patience`] is an error that says why it
//! may be: its creator is slow, was killed in between, or never meant to do so (`ipcmk`), for which
//! there is [`Options::as_is`].
//!
//! # Limits
//! | what | default | where |
//! |---|---|---|
//! | a value | 32767 | none: it is the kernel's |
//! | semaphores of a set | 32000 | first of `/proc/sys/kernel/sem` |
//! | semaphores of all sets | 1024000000 | second |
//! | operations of one step | 500 | third |
//! | sets of an IPC namespace | 32000 | fourth |
//!
//! Source: sysvipc(7), semget(2), semop(2), semctl(2).

#![allow(unsafe_code, reason = "neither std nor rustix has System V semaphores; libc does")]

use std::ffi::{c_int, c_short};
use std::ops::Deref;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result, Stop, WaitError};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::syscall;
use crate::sysv::{last_errno, process};
use crate::wait::{Span, Wait, Waits, drive_by_spans};

mod options;
mod status;

pub use crate::sysv::Key;
pub use options::Options;
pub use status::Status;

const MECHANISM: Mechanism = Mechanism::SysvSem;

/// The largest value of a semaphore (SEMVMX).
pub const MAX: u16 = 32767;

/// As many operations as are changed on the stack where none of them may wait.
const FEW: usize = 16;

/// A set of semaphores, by its id. Dropping it does nothing to the set; clones are the same set.
///
/// | condition | result |
/// |---|---|
/// | not now, `try_wait` | [`WaitError::WouldBlock`] |
/// | removed, before the call or during it | [`WaitError::Closed`] |
/// | no semaphore of this number | [`WaitError::Os`] of EFBIG |
/// | a value, or a sum of undo, would be beyond 32767; an operation by 0 or by more | `Os` of ERANGE |
/// | more operations than the third number of `/proc/sys/kernel/sem` | `Os` of E2BIG |
/// | no operation | `Os` of EINVAL |
/// | mode does not allow it | `Os` of EACCES |
///
/// None of these changes anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    id: i32,
}

/// One change of one semaphore, in a [`step`](Set::step).
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Op(libc::sembuf);

/// What no operation can be: the kernel would let it wait for ever, or take it for another.
const NONSENSE: c_short = c_short::MIN;

impl Op {
    /// Takes `count` of semaphore `number`, 1 to 32767; waits until it has so many.
    #[must_use]
    pub const fn take(number: u16, count: u16) -> Self {
        let change = change(count);
        Self::new(number, if change == NONSENSE { NONSENSE } else { -change })
    }

    /// Adds `count` to semaphore `number`, 1 to 32767. Waits for nothing.
    #[must_use]
    pub const fn post(number: u16, count: u16) -> Self {
        Self::new(number, change(count))
    }

    /// Waits until semaphore `number` is zero, and changes nothing.
    #[must_use]
    pub const fn zero(number: u16) -> Self {
        Self::new(number, 0)
    }

    /// Is taken back when this process ends (SEM_UNDO).
    #[must_use]
    pub const fn undo(mut self) -> Self {
        self.0.sem_flg |= flag(libc::SEM_UNDO);
        self
    }

    /// If this is what would have to wait, the whole step fails with [`WaitError::WouldBlock`]
    /// (IPC_NOWAIT), however long it may wait for the others.
    #[must_use]
    pub const fn no_wait(mut self) -> Self {
        self.0.sem_flg |= flag(libc::IPC_NOWAIT);
        self
    }

    const fn new(number: u16, change: c_short) -> Self {
        Self(libc::sembuf { sem_num: number, sem_op: change, sem_flg: 0 })
    }

    const fn is_no_wait(&self) -> bool {
        self.0.sem_flg & flag(libc::IPC_NOWAIT) != 0
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Op")
            .field("number", &self.0.sem_num)
            .field("change", &self.0.sem_op)
            .field("undo", &(self.0.sem_flg & flag(libc::SEM_UNDO) != 0))
            .field("no_wait", &self.is_no_wait())
            .finish()
    }
}

/// A count as the kernel takes it.
#[allow(clippy::cast_possible_wrap, reason = "compared")]
const fn change(count: u16) -> c_short {
    if count == 0 || count > MAX { NONSENSE } else { count as c_short }
}

#[allow(clippy::cast_possible_truncation, reason = "the flags are small")]
const fn flag(flag: c_int) -> c_short {
    flag as c_short
}

impl Set {
    /// The set with this id, which came from [`id`](Self::id) in any process of this IPC namespace.
    /// If there is none, its use fails with `Closed`: the kernel does not tell what never was from
    /// what was removed.
    #[must_use]
    pub const fn from_id(id: i32) -> Self {
        Self { id }
    }

    /// Its id. The kernel gives it to no other set until it has given away many more.
    #[must_use]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// A view of one of its semaphores, counted from 0.
    #[inline]
    #[must_use]
    pub const fn at(&self, number: u16) -> At<'_> {
        At { set: self, number, undo: false }
    }

    /// A view of several operations, which the verb `wait` does in one step: all of them, in their
    /// order, or none.
    #[inline]
    #[must_use]
    pub const fn step<'a>(&'a self, operations: &'a [Op]) -> Step<'a> {
        Step { set: self, operations }
    }

    /// Removes the set at once. Who waits in it, in whatever process, gets `Closed`. Only its owner,
    /// its creator and CAP_SYS_ADMIN may.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if it was removed before;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied).
    pub fn remove(&self) -> Result<()> {
        // SAFETY: IPC_RMID looks at no memory.
        match unsafe { libc::semctl(self.id, 0, libc::IPC_RMID) } {
            0 => Ok(()),
            _ => Err(self.error("remove", last_errno())),
        }
    }

    /// Makes a guard that removes the set when it is dropped. A process that is killed drops
    /// nothing, and a forked child that drops its copy removes the set for both.
    #[must_use]
    pub const fn remove_on_drop(self) -> Owned {
        Owned { set: self }
    }

    #[cold]
    fn error(&self, operation: &'static str, errno: Errno) -> Error {
        let error = Error::os(operation, errno).on(MECHANISM).object(format!("id {}", self.id));
        match errno {
            Errno::INVAL | Errno::IDRM => {
                error.of_kind(ErrorKind::Closed).because("it was removed, or never was")
            }
            Errno::ACCESS => error.because("its mode does not allow it"),
            Errno::PERM => error.because("only its owner, its creator or root may"),
            _ => error,
        }
    }

    /// Does what `operations` say as one.
    #[inline]
    fn perform(&self, operations: &[Op], wait: Wait<'_>) -> Result<(), WaitError> {
        if operations.iter().any(|op| op.0.sem_op == NONSENSE) {
            return Err(WaitError::Os(Errno::RANGE.raw_os_error()));
        }
        if operations.is_empty() {
            // The kernel says so too, with the number that means a set that was removed.
            return Err(WaitError::Os(Errno::INVAL.raw_os_error()));
        }
        if wait.is_unbounded() {
            match self.semtimedop(operations, None) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // One of those that may not wait would have to.
                Err(Errno::AGAIN) => return Err(WaitError::WouldBlock),
                Err(errno) => return Err(wait_error(Stop::Os(errno.raw_os_error()))),
            }
        }
        // Where there is nothing to wait for, the clock is not asked: it costs more than all the rest.
        if !wait.is_interruptible() {
            match self.try_now(operations) {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN) if wait.is_never() => return Err(WaitError::WouldBlock),
                Err(Errno::AGAIN) => {}
                Err(errno) => return Err(wait_error(Stop::Os(errno.raw_os_error()))),
            }
        }
        self.perform_bounded(operations, wait)
    }

    #[inline(never)]
    fn perform_bounded(&self, operations: &[Op], wait: Wait<'_>) -> Result<(), WaitError> {
        let done = drive_by_spans(wait, |span| {
            let (time, begin) = match span {
                Span::Never => return self.try_now(operations).map(|()| true),
                Span::AtMost(time) => (Some(time), Instant::now()),
                Span::Forever => (None, Instant::now()),
            };
            match self.semtimedop(operations, time) {
                // It is not the time that is over: one of those that may not wait would have to.
                Err(Errno::AGAIN) if time.is_none_or(|time| begin.elapsed() < time) => Ok(false),
                done => done.map(|()| true),
            }
        });
        match done {
            Ok(true) => Ok(()),
            Ok(false) => Err(WaitError::WouldBlock),
            Err(stop) => Err(wait_error(stop)),
        }
    }

    /// Does them if none has to wait.
    fn try_now(&self, operations: &[Op]) -> Result<(), Errno> {
        if let [only] = operations {
            return self.semtimedop(&[only.no_wait()], None);
        }
        let mut few = [Op::zero(0); FEW];
        let mut many;
        let now = match few.get_mut(..operations.len()) {
            Some(few) => {
                few.copy_from_slice(operations);
                few
            }
            None => {
                many = operations.to_vec();
                many.as_mut_slice()
            }
        };
        now.iter_mut().for_each(|op| *op = op.no_wait());
        self.semtimedop(now, None)
    }

    /// semtimedop(2).
    #[inline]
    fn semtimedop(&self, operations: &[Op], time: Option<Duration>) -> Result<(), Errno> {
        // A time too long for the kernel's clock is none.
        let time = time.and_then(|time| rustix::time::Timespec::try_from(time).ok());
        let at = time.as_ref().map_or(0, |time| std::ptr::from_ref(time) as usize);
        #[allow(clippy::cast_sign_loss, reason = "the kernel takes the low half back")]
        let id = self.id as usize;
        let arguments = [id, operations.as_ptr() as usize, operations.len(), at, 0];
        // SAFETY: `Op` is a sembuf, of which the kernel reads as many as said; the time is a kernel's
        // timespec, as rustix has it, or null. Both are borrowed for the call.
        unsafe { syscall::call(libc::SYS_semtimedop, arguments) }.map(drop)
    }

    /// A number that semctl(2) gives of one semaphore.
    fn number(&self, operation: &'static str, number: u16, command: c_int) -> Result<c_int> {
        // SAFETY: the commands that are given here take and fill no memory.
        match unsafe { libc::semctl(self.id, c_int::from(number), command) } {
            -1 => Err(self.number_error(operation, number, last_errno())),
            value => Ok(value),
        }
    }

    #[cold]
    fn number_error(&self, operation: &'static str, number: u16, errno: Errno) -> Error {
        // One number for two reasons.
        match self.stat() {
            Ok(raw) if errno == Errno::INVAL && u64::from(number) >= raw.sem_nsems => {
                Error::os(operation, errno)
                    .on(MECHANISM)
                    .object(format!("id {}, number {number}", self.id))
                    .because(format!("the set has {} semaphores", raw.sem_nsems))
            }
            _ => self.error(operation, errno),
        }
    }
}

#[cold]
fn wait_error(stop: Stop) -> WaitError {
    match stop {
        // No argument of ours is invalid but the id.
        Stop::Os(libc::EIDRM | libc::EINVAL) => WaitError::Closed,
        stop => stop.into(),
    }
}

/// Several operations on a set, done in one step. Made by [`Set::step`].
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    set: &'a Set,
    operations: &'a [Op],
}

impl Waits for Step<'_> {
    type Waited = ();

    /// Does all of them, waiting until that can be done at once.
    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        self.set.perform(self.operations, wait)
    }
}

/// One operation that can wait. Made by [`At::take`] and [`At::zero`].
#[derive(Clone, Copy, Debug)]
pub struct Single<'a> {
    set: &'a Set,
    operation: Op,
}

impl Waits for Single<'_> {
    type Waited = ();

    /// Does it, waiting until it can be done.
    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        self.set.perform(&[self.operation], wait)
    }
}

/// One semaphore of a set. Made by [`Set::at`]. Its verb `wait` takes one.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    set: &'a Set,
    number: u16,
    undo: bool,
}

impl<'a> At<'a> {
    /// The same; what it takes and adds is taken back when this process ends (SEM_UNDO).
    #[inline]
    #[must_use]
    pub const fn undo(self) -> Self {
        Self { undo: true, ..self }
    }

    /// A view that takes `count` at once, 1 to 32767.
    #[inline]
    #[must_use]
    pub const fn take(self, count: u16) -> Single<'a> {
        self.single(Op::take(self.number, count))
    }

    /// A view that waits until the value is zero.
    #[inline]
    #[must_use]
    pub const fn zero(self) -> Single<'a> {
        self.single(Op::zero(self.number))
    }

    /// Adds one. Never waits.
    ///
    /// # Errors
    /// `Os` of ERANGE if the value would be beyond 32767; see [`Set`].
    #[inline]
    pub fn post(self) -> Result<(), WaitError> {
        self.post_many(1)
    }

    /// Adds `count` at once, 1 to 32767. Never waits.
    ///
    /// # Errors
    /// As those of [`post`](Self::post).
    #[inline]
    pub fn post_many(self, count: u16) -> Result<(), WaitError> {
        self.single(Op::post(self.number, count)).wait()
    }

    /// The value now (GETVAL). Takes the permission to read, as do the next three.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if the set was removed;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it has no such semaphore;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied).
    pub fn value(self) -> Result<u16> {
        let value = self.set.number("look at", self.number, libc::GETVAL)?;
        Ok(u16::try_from(value).unwrap_or(MAX))
    }

    /// The process that last changed it (GETPID); it may be gone. None if nobody has, or one that
    /// this pid namespace does not see.
    ///
    /// # Errors
    /// As those of [`value`](Self::value).
    pub fn last_pid(self) -> Result<Option<u32>> {
        self.set.number("look at", self.number, libc::GETPID).map(process)
    }

    /// How many wait to take of it (GETNCNT). One who waits for several semaphores counts at the first
    /// that it cannot take.
    ///
    /// # Errors
    /// As those of [`value`](Self::value).
    pub fn waiters(self) -> Result<usize> {
        let count = self.set.number("look at", self.number, libc::GETNCNT)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// How many wait for it to be zero (GETZCNT).
    ///
    /// # Errors
    /// As those of [`value`](Self::value).
    pub fn waiters_for_zero(self) -> Result<usize> {
        let count = self.set.number("look at", self.number, libc::GETZCNT)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Sets the value (SETVAL), and clears what all processes have to undo here. Who can go on is
    /// woken.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) beyond 32767; as those of [`value`](Self::value).
    pub fn set(self, value: u16) -> Result<()> {
        let error = |errno| self.set.number_error("set", self.number, errno);
        if value > MAX {
            return Err(error(Errno::RANGE)
                .of_kind(ErrorKind::InvalidInput)
                .because(format!("{value} is more than {MAX}")));
        }
        let (id, number) = (self.set.id, c_int::from(self.number));
        // SAFETY: SETVAL takes a number.
        match unsafe { libc::semctl(id, number, libc::SETVAL, c_int::from(value)) } {
            -1 => Err(error(last_errno())),
            _ => Ok(()),
        }
    }

    #[inline]
    const fn single(self, operation: Op) -> Single<'a> {
        let operation = if self.undo { operation.undo() } else { operation };
        Single { set: self.set, operation }
    }
}

impl Waits for At<'_> {
    type Waited = ();

    /// Takes one, waiting while there is none.
    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        self.take(1).wait_for(wait)
    }
}

/// A set that is removed when this is dropped. Made by [`Set::remove_on_drop`].
#[derive(Debug)]
pub struct Owned {
    set: Set,
}

impl Deref for Owned {
    type Target = Set;

    fn deref(&self) -> &Set {
        &self.set
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may be removed already; nobody is there to be told.
        let _ = self.set.remove();
    }
}
