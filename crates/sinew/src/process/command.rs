#![allow(unsafe_code, reason = "hooks between fork and exec, and descriptors known by number")]
//! Starting a program with the descriptors it is to have, and taking over what one was started with.
//!
//! [`CommandExt`] adds to [`std::process::Command`]:
//!
//! - [`fd`](CommandExt::fd): a descriptor at a number of your choice;
//! - [`spawn_with_listen_fds`](CommandExt::spawn_with_listen_fds): sockets in the way of systemd's
//!   socket activation, which many servers understand;
//! - [`die_with_parent`](CommandExt::die_with_parent): no orphan is left when you are killed;
//! - [`keep_only`](CommandExt::keep_only): nothing else goes along, whoever opened it.
//!
//! For a pipe or a socket as stdin, stdout or stderr std has what it takes: `OwnedFd`, and what
//! becomes one, is a [`Stdio`](std::process::Stdio).
//!
//! On the other side, [`inherited_fd`] takes a descriptor that the program was started with, and
//! [`listen_fds`] the sockets of socket activation.
//!
//! ```
//! use std::process::Command;
//! use sinew::command::CommandExt;
//!
//! let (rx, tx) = std::io::pipe().unwrap();
//! let mut command = Command::new("sh");
//! command.args(["-c", "printf word >&7"]).fd(7, tx)?;
//! let mut child = command.spawn().unwrap();
//! drop(command); // it holds our end of what it gave to the child
//! assert!(child.wait().unwrap().success());
//!
//! assert_eq!(std::io::read_to_string(rx).unwrap(), "word");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # What leaks
//! Nothing of this library: every descriptor is close-on-exec, and what a child is given loses that
//! flag in the child only, between fork(2) and execve(2). Another thread may start a program at any
//! moment and does not pass these on. After a failed start, what was given is still held by the
//! `Command`, and nothing else is left.
//!
//! # Between fork and exec
//! The child of a program with threads may do nothing but plain system calls there. The hooks do
//! nothing else: everything is allocated, duplicated and checked before.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::fstat;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{getpid, getppid, kill_process, set_parent_process_death_signal};

pub use rustix::process::Signal;

use crate::error::{Error, ErrorKind, Result};
use crate::inet::Listener;
use crate::limits::Limit;

/// The number of the first descriptor of socket activation: SD_LISTEN_FDS_START.
const LISTEN_FDS_START: RawFd = 3;

/// What Sinew adds to [`std::process::Command`].
///
/// What is added runs between fork and exec, each time the command is started, in the order in which
/// it was added, and after what std does there (stdin and its like, user, folder).
pub trait CommandExt {
    /// Gives the child this descriptor under this number.
    ///
    /// Any numbers go, also when the descriptors have each other's numbers here; the last one given
    /// for a number counts. 0, 1 and 2 go too, and come before what std's `stdin`, `stdout` and
    /// `stderr` say. The child finds it in the mode (O_NONBLOCK) and at the file offset that it has
    /// here, as it is the same open file description.
    ///
    /// The command holds the descriptor until it is dropped, and can be started many times. A
    /// reader of a pipe sees the end only when the command is gone too.
    ///
    /// Where the number is taken here by something that is closed before the start, std may come to
    /// use it for telling why a start failed; then the start fails with EBUSY, and can be tried
    /// again.
    ///
    /// ```
    /// use std::process::Command;
    /// use sinew::command::CommandExt;
    /// use sinew::inet;
    /// use sinew::wait::Receives;
    ///
    /// let (ours, theirs) = inet::pair()?;
    /// let mut command = Command::new("sh");
    /// let mut child = command.args(["-c", "echo hello >&3"]).fd(3, theirs)?.spawn().unwrap();
    /// let mut buf = [0; 16];
    /// assert_eq!(ours.recv(&mut buf), Ok(6));
    /// # child.wait().unwrap();
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of kind [`InvalidInput`](ErrorKind::InvalidInput) for a negative number,
    /// [`LimitReached`](ErrorKind::LimitReached) for one that RLIMIT_NOFILE does not allow, or when
    /// no descriptor is left for a duplicate.
    fn fd(&mut self, number: RawFd, fd: impl Into<OwnedFd>) -> Result<&mut Self>;

    /// Lets no other descriptor into the child than 0, 1, 2 and these: not those either that other
    /// code in this process opened without close-on-exec.
    ///
    /// It may come before or after [`fd`](Self::fd), and must name the numbers given there. See
    /// close_range(2).
    ///
    /// ```
    /// use std::process::Command;
    /// use sinew::command::CommandExt;
    ///
    /// let mut command = Command::new("ls");
    /// let output = command.arg("/proc/self/fd").keep_only([]).output().unwrap();
    /// // The fourth is how `ls` reads the folder.
    /// assert_eq!(output.stdout, b"0\n1\n2\n3\n");
    /// ```
    fn keep_only(&mut self, numbers: impl IntoIterator<Item = RawFd>) -> &mut Self;

    /// Has the kernel send this signal to the child when this process dies, of whatever cause.
    ///
    /// It is the death of the *thread* that starts the child that counts (PR_SET_PDEATHSIG(2const)):
    /// start it from one that lives as long as the process. If this process is dead before
    /// the child can ask for the signal, the child ends before it becomes the program.
    ///
    /// The child's own children do not inherit it, and the kernel takes it back where the child
    /// executes a program that is set-user-id or has capabilities, or changes its user itself (what
    /// std's `uid` does comes before, and is fine). A process that was made by fork must not start a
    /// command that its parent prepared: the start fails.
    ///
    /// ```
    /// use std::process::Command;
    /// use sinew::command::{CommandExt, Signal};
    ///
    /// let mut child = Command::new("sleep").arg("1000").die_with_parent(Signal::KILL).spawn().unwrap();
    /// # child.kill().unwrap();
    /// # child.wait().unwrap();
    /// ```
    fn die_with_parent(&mut self, signal: Signal) -> &mut Self;

    /// Starts the program with sockets (or other descriptors) as systemd's socket activation does:
    /// at 3, 4, ... in the given order, with LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID in its
    /// environment. See sd_listen_fds(3); [`listen_fds`] is the other side.
    ///
    /// LISTEN_PID is the id of the child, which is known in the child only, when its environment
    /// cannot be built any more. So this executes the program itself, with an environment
    /// that is complete but for the digits of the id. Program, arguments and environment are those
    /// that the command has now; hooks, user, folder, stdin and its like are applied by std as ever.
    /// What [`arg0`](std::os::unix::process::CommandExt::arg0) set cannot be read back, and is not
    /// kept.
    ///
    /// The command holds the descriptors until it is dropped. Start it again by this method, not by
    /// `spawn`, which gives the descriptors without the environment.
    ///
    /// ```
    /// use std::process::{Command, Stdio};
    /// use sinew::command::CommandExt;
    /// use sinew::inet::Listener;
    ///
    /// let listener = Listener::loopback()?;
    /// let script = "test $LISTEN_PID = $$ && echo $LISTEN_FDS $LISTEN_FDNAMES";
    /// let mut command = Command::new("sh");
    /// command.args(["-c", script]).stdout(Stdio::piped());
    /// let child = command.spawn_with_listen_fds([("http", listener)])?;
    /// assert_eq!(child.wait_with_output().unwrap().stdout, b"1 http\n");
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of kind [`InvalidInput`](ErrorKind::InvalidInput) for a name that is empty, longer than 255
    /// bytes, not printable ASCII, or has a colon; what [`fd`](Self::fd) gives; and what stands
    /// against starting the program.
    fn spawn_with_listen_fds<N, F>(
        &mut self,
        fds: impl IntoIterator<Item = (N, F)>,
    ) -> Result<Child>
    where
        N: AsRef<str>,
        F: Into<OwnedFd>;
}

impl CommandExt for Command {
    fn fd(&mut self, number: RawFd, fd: impl Into<OwnedFd>) -> Result<&mut Self> {
        let grant = Grant::new(number, fd.into())?;
        // SAFETY: `apply` makes plain system calls and allocates nothing.
        unsafe { self.pre_exec(move || grant.apply()) };
        Ok(self)
    }

    fn keep_only(&mut self, numbers: impl IntoIterator<Item = RawFd>) -> &mut Self {
        let numbers: BTreeSet<u32> =
            numbers.into_iter().filter_map(|n| u32::try_from(n).ok()).collect();
        let mut gaps = Vec::new();
        let mut from = 3;
        for number in numbers.into_iter().filter(|n| *n >= 3) {
            if number > from {
                gaps.push((from, number - 1));
            }
            from = number + 1;
        }
        gaps.push((from, u32::MAX));
        // SAFETY: the hook makes plain system calls and allocates nothing.
        unsafe {
            self.pre_exec(move || gaps.iter().try_for_each(|gap| close_on_exec(gap.0, gap.1)))
        }
    }

    fn die_with_parent(&mut self, signal: Signal) -> &mut Self {
        let parent = getpid();
        // SAFETY: the hook makes plain system calls and allocates nothing.
        unsafe { self.pre_exec(move || die_with(parent, signal)) }
    }

    fn spawn_with_listen_fds<N, F>(
        &mut self,
        fds: impl IntoIterator<Item = (N, F)>,
    ) -> Result<Child>
    where
        N: AsRef<str>,
        F: Into<OwnedFd>,
    {
        let mut names: Vec<String> = Vec::new();
        for (number, (name, fd)) in (LISTEN_FDS_START..).zip(fds) {
            let name = name.as_ref();
            if !is_fd_name(name) {
                return Err(Error::new(ErrorKind::InvalidInput, "name a descriptor")
                    .object(format!("{name:?}"))
                    .because("a name has 1 to 255 printable ASCII characters and no colon"));
            }
            names.push(name.to_owned());
            self.fd(number, fd)?;
        }
        let mut image = Image::of(self, &names)?;
        let armed = Arc::new(AtomicBool::new(true));
        let once = Arc::clone(&armed);
        // SAFETY: `execute` allocates nothing, and the loads of an atomic are safe anywhere. It ends in
        // execvp, which std itself calls at this place.
        unsafe {
            self.pre_exec(
                move || {
                    if once.load(Ordering::Relaxed) { Err(image.execute()) } else { Ok(()) }
                },
            );
        }
        let child = self.spawn();
        // A later start of this command is another matter.
        armed.store(false, Ordering::Relaxed);
        child.map_err(|error| {
            let operation = "start a program";
            let object = format!("{:?}", self.get_program());
            match Errno::from_io_error(&error) {
                Some(errno) => Error::os(operation, errno).object(object),
                None => Error::new(ErrorKind::InvalidInput, operation)
                    .object(object)
                    .because(error.to_string()),
            }
        })
    }
}

/// Numbers at which a hook of some command puts a descriptor that is held elsewhere in this process,
/// and how many such hooks there are. A hook that runs later must find its own source untouched, so
/// no source is held at one of them.
static TARGETS: Mutex<BTreeMap<RawFd, usize>> = Mutex::new(BTreeMap::new());

/// Sets of numbers stay right whatever panicked while they were locked.
fn locked<T>(set: &Mutex<T>) -> MutexGuard<'_, T> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A descriptor that the child gets at a number.
#[derive(Debug)]
struct Grant {
    number: RawFd,
    place: Place,
    /// Where it was before, if it was duplicated. Held so that its number, which may be the target
    /// of another grant, stays taken.
    _original: Option<OwnedFd>,
}

/// Where the parent holds a granted descriptor.
#[derive(Debug)]
enum Place {
    /// At its number already.
    There(OwnedFd),
    /// At a number that no earlier hook of the command puts anything at.
    Elsewhere {
        source: OwnedFd,
        /// Whatever keeps std from using the number, where it was free.
        _reservation: Option<OwnedFd>,
        /// What had the number otherwise, for telling whether it is something else by the time of
        /// the start.
        occupant: Option<(u64, u64)>,
    },
}

impl Grant {
    fn new(number: RawFd, original: OwnedFd) -> Result<Self> {
        let operation = "give a descriptor to a child";
        let failed = |e| Error::os(operation, e).object(format!("number {number}"));
        if number < 0 {
            return Err(failed(Errno::INVAL).because("a number is not negative"));
        }
        let most = Limit::Nofile.value().unwrap_or(u64::MAX);
        if u64::try_from(number).is_ok_and(|n| n >= most) {
            return Err(failed(Errno::MFILE)
                .because(format!("the number is above {}", Limit::Nofile.stated()))
                .fix(Limit::Nofile.raise()));
        }
        let none_left = |e| match e {
            // As fcntl(2) says where all numbers from the lowest wanted one up are taken.
            Errno::MFILE | Errno::INVAL => failed(Errno::MFILE)
                .because(format!("this process has {}", Limit::Nofile.stated()))
                .fix(Limit::Nofile.raise()),
            e => failed(e),
        };

        let mut targets = locked(&TARGETS);
        let is_target = targets.contains_key(&number);
        // The three standard ones are this process's own too: nothing is placed there.
        if number > 2 && !is_target && original.as_raw_fd() == number {
            return Ok(Self { number, place: Place::There(original), _original: None });
        }
        let there = match fcntl_dupfd_cloexec(&original, number) {
            Ok(there) if there.as_raw_fd() == number && number > 2 => Some(there),
            Ok(_) | Err(Errno::MFILE) => None,
            Err(e) => return Err(none_left(e)),
        };
        let place = match there {
            Some(there) if !is_target => Place::There(there),
            reservation => {
                let mut lowest = 3;
                let source = loop {
                    let source = fcntl_dupfd_cloexec(&original, lowest).map_err(none_left)?;
                    let at = source.as_raw_fd();
                    if at != number && !targets.contains_key(&at) {
                        break source;
                    }
                    lowest = at + 1;
                };
                *targets.entry(number).or_default() += 1;
                let occupant = identity(number);
                Place::Elsewhere { source, _reservation: reservation, occupant }
            }
        };
        Ok(Self { number, place, _original: Some(original) })
    }

    /// In the child.
    fn apply(&self) -> io::Result<()> {
        let (source, occupant) = match &self.place {
            Place::There(fd) => return Ok(fcntl_setfd(fd, FdFlags::empty())?),
            Place::Elsewhere { source, occupant, .. } => (source, *occupant),
        };
        if self.number > 2 && identity(self.number) != occupant && is_channel(self.number) {
            return Err(Errno::BUSY.into());
        }
        // SAFETY: dup2 touches no memory. What it closes is the child's copy of something that
        // belongs to the parent, or an earlier grant of this command for the same number.
        if unsafe { libc::dup2(source.as_raw_fd(), self.number) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Place::Elsewhere { .. } = self.place {
            let mut targets = locked(&TARGETS);
            if let Some(count) = targets.get_mut(&self.number) {
                *count -= 1;
                if *count == 0 {
                    targets.remove(&self.number);
                }
            }
        }
    }
}

/// Device and inode of what has this number.
fn identity(number: RawFd) -> Option<(u64, u64)> {
    // SAFETY: only asked about, whoever owns it; fstat(2) says EBADF where it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Whether this may be where std reports from the child that a start failed, which is one end of a
/// UNIX seqpacket pair.
fn is_channel(number: RawFd) -> bool {
    // SAFETY: only asked about, whoever owns it; the calls say EBADF where it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    matches!(sockopt::socket_domain(fd), Ok(AddressFamily::UNIX))
        && matches!(sockopt::socket_type(fd), Ok(SocketType::SEQPACKET))
}

/// In the child: sets close-on-exec on all of these numbers.
fn close_on_exec(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: close_range(2) takes three numbers. With this flag it closes nothing now, so that
    // nobody's descriptor goes while it is in use.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// In the child.
fn die_with(parent: rustix::process::Pid, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    // If the parent died before that, its death is over and sends nothing: but then somebody else is
    // the parent by now. No parent at all is one outside this pid namespace, which cannot be told
    // apart; and where this process is the caller itself (`exec`), its parent is another matter.
    match getppid() {
        Some(now) if now != parent && getpid() != parent => {
            kill_process(getpid(), signal)?;
            Err(Errno::SRCH.into())
        }
        _ => Ok(()),
    }
}

/// What sd_listen_fds(3) takes for a name.
fn is_fd_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b':')
}

/// A program to execute: everything but the process id is there before the fork.
struct Image {
    program: CString,
    /// What the pointers below point to.
    _texts: Vec<CString>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// `LISTEN_PID=`, and room for the digits and the NUL.
    pid: Box<[u8; PID_KEY.len() + 11]>,
}

const PID_KEY: &[u8] = b"LISTEN_PID=";

// SAFETY: the pointers are to texts on the heap that the same value owns and that nothing changes but
// `execute`, which takes the value exclusively.
unsafe impl Send for Image {}
// SAFETY: as above; a shared reference gives no access at all.
unsafe impl Sync for Image {}

impl Image {
    fn of(command: &mut Command, names: &[String]) -> Result<Self> {
        let text = |bytes: Vec<u8>| {
            CString::new(bytes).map_err(|e| {
                Error::new(ErrorKind::InvalidInput, "start a program")
                    .because(format!("a NUL byte in its name, arguments or environment: {e}"))
            })
        };
        let program = text(command.get_program().as_bytes().to_vec())?;
        let mut texts = Vec::new();
        let mut arguments = vec![program.as_ptr()];
        for argument in command.get_args() {
            let argument = text(argument.as_bytes().to_vec())?;
            arguments.push(argument.as_ptr());
            texts.push(argument);
        }
        arguments.push(std::ptr::null());

        let pid = Box::new([0; PID_KEY.len() + 11]);
        let mut environment = vec![pid.as_ptr().cast()];
        let count = names.len().to_string();
        let variables = environment_of(command)
            .into_iter()
            .filter(|(key, _)| !key.as_bytes().starts_with(b"LISTEN_"))
            .chain([
                ("LISTEN_FDS".into(), count.into()),
                ("LISTEN_FDNAMES".into(), names.join(":").into()),
            ]);
        for (mut variable, value) in variables {
            variable.push("=");
            variable.push(value);
            let variable = text(variable.into_vec())?;
            environment.push(variable.as_ptr());
            texts.push(variable);
        }
        environment.push(std::ptr::null());
        Ok(Self { program, _texts: texts, arguments, environment, pid })
    }

    /// In the child. Comes back only if it fails.
    fn execute(&mut self) -> io::Error {
        unsafe extern "C" {
            /// The environment of the process, as execvp(3) takes it and searches its PATH.
            static mut environ: *const *const c_char;
        }
        let mut rest = getpid().as_raw_nonzero().get().unsigned_abs();
        let mut digits = [0_u8; 10];
        let mut first = digits.len();
        while rest > 0 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let digits = &digits[first..];
        let (key, value) = self.pid.split_at_mut(PID_KEY.len());
        key.copy_from_slice(PID_KEY);
        value.fill(0);
        value[..digits.len()].copy_from_slice(digits);
        // A pointer made before the write could not be read through by the rules of Rust.
        self.environment[0] = self.pid.as_ptr().cast();

        // SAFETY: this process is the child, which has one thread, and std sets the same variable at
        // this place.
        unsafe { environ = self.environment.as_ptr() };
        // SAFETY: NUL-terminated texts in arrays that end with a null pointer, all owned by `self`.
        unsafe { libc::execvp(self.program.as_ptr(), self.arguments.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// The environment that std would give.
fn environment_of(command: &mut Command) -> Vec<(OsString, OsString)> {
    // Whether it was cleared shows in what removing a variable does: from an inherited environment
    // it is a change that is kept, from an empty one it is nothing.
    const PROBE: &str = "SINEW_IS_THE_ENVIRONMENT_CLEARED";
    let removed = |command: &Command| {
        command.get_envs().any(|(key, value)| key == OsStr::new(PROBE) && value.is_none())
    };
    command.env_remove(PROBE);
    let inherits = removed(command);
    let mut variables: Vec<(OsString, OsString)> =
        if inherits { std::env::vars_os().collect() } else { Vec::new() };
    for (key, value) in command.get_envs() {
        variables.retain(|(k, _)| k != key);
        if let Some(value) = value {
            variables.push((key.to_owned(), value.to_owned()));
        }
    }
    variables
}

/// Numbers that were handed out as an owned descriptor.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// The descriptor that this program was started with at this number, owned from now on and
/// close-on-exec.
///
/// Each number can be taken once. A descriptor that came through execve(2) is not close-on-exec; one
/// that is belongs to somebody in this process, as all that std and this library open does, and is
/// refused. So are 0, 1 and 2, which std's `stdin` and its like use. Code of other languages may open
/// descriptors without that flag: take what is yours at the beginning of `main`, before such
/// code runs.
///
/// ```
/// use sinew::{ErrorKind, command};
///
/// // This program was started with nothing there.
/// assert_eq!(command::inherited_fd(700).unwrap_err().kind(), ErrorKind::NotFound);
/// ```
///
/// # Errors
/// Of kind [`NotFound`](ErrorKind::NotFound) if nothing is there,
/// [`InUse`](ErrorKind::InUse) if it was taken before,
/// [`Mismatch`](ErrorKind::Mismatch) if it was not inherited, and
/// [`InvalidInput`](ErrorKind::InvalidInput) for 0, 1, 2 and negative numbers.
pub fn inherited_fd(number: RawFd) -> Result<OwnedFd> {
    let mut taken = locked(&TAKEN);
    check_inherited(number, &taken)?;
    take(number, &mut taken)
}

fn check_inherited(number: RawFd, taken: &BTreeSet<RawFd>) -> Result<()> {
    let new = |kind| {
        Error::new(kind, "take an inherited descriptor").object(format!("descriptor {number}"))
    };
    if number < 0 {
        return Err(new(ErrorKind::InvalidInput).because("a number is not negative"));
    }
    if number <= 2 {
        return Err(new(ErrorKind::InvalidInput)
            .because("std uses it")
            .fix("see std::io::stdin, stdout and stderr, and BorrowedFd::try_clone_to_owned"));
    }
    if taken.contains(&number) {
        return Err(new(ErrorKind::InUse).because("it was taken before"));
    }
    // SAFETY: only asked about, whoever owns it; fcntl(2) says EBADF where it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    match fcntl_getfd(fd) {
        Ok(flags) if flags.contains(FdFlags::CLOEXEC) => Err(new(ErrorKind::Mismatch)
            .because("it is close-on-exec, so this process opened it, and somebody owns it")),
        Ok(_) => Ok(()),
        Err(_) => Err(new(ErrorKind::NotFound).because("this program was not started with it")),
    }
}

fn take(number: RawFd, taken: &mut BTreeSet<RawFd>) -> Result<OwnedFd> {
    // SAFETY: it is open, came through exec, and was not handed out before: `check_inherited` looked,
    // under the lock that is still held. Only code that opens descriptors without close-on-exec
    // could own it too, which the documentation of the callers tells.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    taken.insert(number);
    fcntl_setfd(&fd, FdFlags::CLOEXEC)
        .map_err(|e| Error::os("set close-on-exec", e).object(format!("descriptor {number}")))?;
    Ok(fd)
}

/// A descriptor of socket activation. Made by [`listen_fds`].
#[derive(Debug)]
pub struct ListenFd {
    name: String,
    fd: OwnedFd,
}

impl ListenFd {
    /// The name that it has in LISTEN_FDNAMES (`FileDescriptorName=` of a systemd unit); `unknown`
    /// without one.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As a TCP listener.
    ///
    /// # Errors
    /// Of kind [`Mismatch`](ErrorKind::Mismatch) if it is anything else; the descriptor is closed.
    pub fn into_tcp_listener(self) -> Result<Listener> {
        let is_inet = matches!(
            sockopt::socket_domain(&self.fd),
            Ok(AddressFamily::INET | AddressFamily::INET6)
        );
        if is_inet
            && matches!(sockopt::socket_type(&self.fd), Ok(SocketType::STREAM))
            && matches!(sockopt::socket_acceptconn(&self.fd), Ok(true))
        {
            return Ok(self.fd.into());
        }
        Err(Error::new(ErrorKind::Mismatch, "take over a TCP listener")
            .object(format!("{:?}", self.name))
            .because("it is no TCP socket that listens"))
    }
}

impl From<ListenFd> for OwnedFd {
    fn from(listen: ListenFd) -> Self {
        listen.fd
    }
}

/// The descriptors of socket activation that this process was started with: none if it was started
/// in another way. They are owned from now on and close-on-exec.
///
/// They are for this process if LISTEN_PID is its id, and are 3, 4, ... as many as LISTEN_FDS says.
/// The variables are left as they are, as changing the environment is not safe once there are
/// threads; children that inherit them see that LISTEN_PID is not theirs. See sd_listen_fds(3).
///
/// ```
/// use sinew::command;
/// use sinew::inet::Listener;
///
/// // Works alone and under systemd.
/// let listener = match command::listen_fds()?.pop() {
///     Some(given) => given.into_tcp_listener()?,
///     None => Listener::loopback()?,
/// };
/// # drop(listener);
/// # Ok::<(), sinew::Error>(())
/// ```
///
/// # Errors
/// Of kind [`InUse`](ErrorKind::InUse) if they were taken before, and
/// [`Mismatch`](ErrorKind::Mismatch) if the variables contradict each other or what is open. Then
/// nothing is taken.
pub fn listen_fds() -> Result<Vec<ListenFd>> {
    let read = |key| std::env::var_os(key).map(|value| value.to_string_lossy().into_owned());
    if read("LISTEN_PID").and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let Some(count) = read("LISTEN_FDS") else { return Ok(Vec::new()) };
    let mismatch =
        |object| Error::new(ErrorKind::Mismatch, "take over activated sockets").object(object);
    let most = RawFd::MAX - LISTEN_FDS_START;
    let Some(count) = count.parse().ok().filter(|count| (0..=most).contains(count)) else {
        return Err(
            mismatch(format!("LISTEN_FDS={count}")).because("it is no number of descriptors")
        );
    };
    let names = read("LISTEN_FDNAMES");
    let names: Option<Vec<&str>> = names.as_deref().map(|names| names.split(':').collect());
    if let Some(names) = &names {
        // No descriptors have no names, and yet splitting nothing gives one.
        if names.len() != count as usize && !(count == 0 && *names == [""]) {
            return Err(mismatch(format!("LISTEN_FDNAMES={:?}", names.join(":")))
                .because(format!("LISTEN_FDS says {count}")));
        }
    }

    let numbers = LISTEN_FDS_START..LISTEN_FDS_START + count;
    let mut taken = locked(&TAKEN);
    for number in numbers.clone() {
        check_inherited(number, &taken).map_err(|error| match error.kind() {
            ErrorKind::InUse => error,
            _ => error.of_kind(ErrorKind::Mismatch),
        })?;
    }
    let mut fds = Vec::new();
    for (index, number) in numbers.enumerate() {
        let name = names.as_ref().map_or("unknown", |names| names[index]).to_owned();
        fds.push(ListenFd { name, fd: take(number, &mut taken)? });
    }
    Ok(fds)
}
