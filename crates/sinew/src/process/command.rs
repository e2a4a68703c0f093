#![allow(unsafe_code, reason = "hooks between fork and exec")]
//! Starting a program with the descriptors it is to have, and taking over what one was started with.
//!
//! [`CommandExt`] adds to [`std::process::Command`]:
//!
//! - [`fd`](CommandExt::fd): a descriptor at a number of your choice;
//! - [`spawn_with_listen_fds`](CommandExt::spawn_with_listen_fds): sockets in the way of systemd's
//!   socket activation, which many servers understand;
//! - [`die_with_parent`](CommandExt::die_with_parent): no orphan is left when you are killed;
//! - [`keep_only`](CommandExt::keep_only): nothing else goes along, whoever opened it;
//! - [`unblock_signals`](CommandExt::unblock_signals): signals end the program as usual, whatever is
//!   blocked here.
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

mod grant;
mod image;
mod inherited;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{getpid, getppid, kill_process, set_parent_process_death_signal};

pub use inherited::{ListenFd, inherited_fd, listen_fds};

use crate::error::{Error, ErrorKind, Result};
use crate::event::signal::Signal;
use grant::Grant;
use image::Image;

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
    /// use sinew::command::CommandExt;
    /// use sinew::signal::Signal;
    ///
    /// let mut child = Command::new("sleep").arg("1000").die_with_parent(Signal::KILL).spawn().unwrap();
    /// # child.kill().unwrap();
    /// # child.wait().unwrap();
    /// ```
    fn die_with_parent(&mut self, signal: Signal) -> &mut Self;

    /// Starts the program with no signal blocked, whatever the thread that starts it blocks.
    ///
    /// A program inherits the mask of signals, and most programs rely on an empty one. Who reads its
    /// own signals from a [`signalfd`](crate::signalfd) blocks them, and would start programs that
    /// SIGTERM cannot end. Unblocking them here for a moment instead would let them strike here.
    ///
    /// ```
    /// use std::process::Command;
    /// use sinew::command::CommandExt;
    /// use sinew::signal::{Set, Signal};
    ///
    /// let _held = Set::from(Signal::TERM).block()?;
    /// let mut child = Command::new("sleep").arg("1000").unblock_signals().spawn().unwrap();
    /// sinew::signal::Target::process(child.id()).send(Signal::TERM)?;
    /// assert!(!child.wait().unwrap().success());
    /// # Ok::<(), sinew::Error>(())
    /// ```
    fn unblock_signals(&mut self) -> &mut Self;

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
        let signal = signal.as_rustix();
        // SAFETY: the hook makes plain system calls and allocates nothing.
        unsafe { self.pre_exec(move || die_with(parent, signal)) }
    }

    fn unblock_signals(&mut self) -> &mut Self {
        // SAFETY: the hook makes a plain system call and allocates nothing.
        unsafe { self.pre_exec(block_nothing) }
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

/// Sets of numbers stay right whatever panicked while they were locked.
fn locked<T>(set: &Mutex<T>) -> MutexGuard<'_, T> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
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
fn block_nothing() -> io::Result<()> {
    let mut nothing = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it fills the set, which is of this frame.
    unsafe { libc::sigemptyset(nothing.as_mut_ptr()) };
    // SAFETY: it reads the set, filled above; the old mask is not asked for.
    let done =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, nothing.as_ptr(), std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// In the child.
fn die_with(parent: rustix::process::Pid, signal: rustix::process::Signal) -> io::Result<()> {
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
