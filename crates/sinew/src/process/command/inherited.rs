#![allow(unsafe_code, reason = "descriptors known by number")]
//! Taking over what this program was started with.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::{LISTEN_FDS_START, locked};
use crate::error::{Error, ErrorKind, Result};
use crate::inet::Listener;

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
