//! The system calls that rustix has no safe form of: those whose results it cannot hold (a process
//! id of zero, an address that fills the structure, descriptors of kinds it does not know).
#![allow(unsafe_code, reason = "recvmsg, recvfrom and socket options through libc")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

use super::address::Address;

/// `SCM_PIDFD` of linux/socket.h.
const SCM_PIDFD: i32 = 4;
/// `SO_PEERPIDFD` of asm-generic/socket.h.
const SO_PEERPIDFD: i32 = 77;

/// The header of a control message; the data follows at the next multiple of its alignment.
const HEADER: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = size_of::<usize>();
/// The room that the sender's credentials take.
const CREDENTIALS_ROOM: usize = HEADER + size_of::<libc::ucred>().next_multiple_of(ALIGN);
/// Words for credentials and as many descriptors as one message carries.
const WORDS: usize = (CREDENTIALS_ROOM + HEADER + super::MAX_FDS * 4).div_ceil(ALIGN);

fn errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[inline]
fn checked(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| errno())
}

/// An address as the kernel writes it. One byte longer than `sockaddr_un`, because a path that
/// fills that gets a NUL behind it.
#[repr(C, align(8))]
struct RawAddress([u8; 128]);

impl RawAddress {
    fn parse(&self, length: u32) -> Address {
        let end = (length as usize).min(self.0.len());
        Address::from_kernel(self.0.get(size_of::<libc::sa_family_t>()..end).unwrap_or_default())
    }
}

/// recvfrom(2).
pub(super) fn recvfrom(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    flags: i32,
) -> Result<(usize, Address), Errno> {
    let mut address = RawAddress([0; 128]);
    let mut length: libc::socklen_t = 128;
    // SAFETY: `buf` and `address` are writable for the lengths that are passed with them, and all
    // pointers live for the call; the kernel writes no more than those lengths.
    let received = checked(unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buf.as_mut_ptr().cast(),
            buf.len(),
            flags,
            (&raw mut address).cast(),
            &raw mut length,
        )
    })?;
    Ok((received, address.parse(length)))
}

/// The name that a socket is bound to.
pub(super) fn local_address(fd: BorrowedFd<'_>) -> Result<Address, Errno> {
    let mut address = RawAddress([0; 128]);
    let mut length: libc::socklen_t = 128;
    // SAFETY: `address` is writable for `length` bytes; both live for the call.
    let result =
        unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
    if result == 0 { Ok(address.parse(length)) } else { Err(errno()) }
}

/// The name that the other end is bound to.
pub(super) fn peer_address(fd: BorrowedFd<'_>) -> Result<Address, Errno> {
    let mut address = RawAddress([0; 128]);
    let mut length: libc::socklen_t = 128;
    // SAFETY: `address` is writable for `length` bytes; both live for the call.
    let result =
        unsafe { libc::getpeername(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
    if result == 0 { Ok(address.parse(length)) } else { Err(errno()) }
}

/// What recvmsg(2) gave. Dropped, it closes its descriptors.
pub(super) struct Received {
    /// The length of the message, also where it was longer than the buffer (with MSG_TRUNC).
    pub(super) length: usize,
    /// Whether control data was cut.
    pub(super) cut: bool,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) credentials: Option<libc::ucred>,
    pub(super) sender: Address,
}

/// recvmsg(2) with room for `max` descriptors and for the sender's credentials. Descriptors arrive
/// with CLOEXEC.
pub(super) fn recvmsg(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    max: usize,
    flags: i32,
) -> Result<Received, Errno> {
    let max = max.min(super::MAX_FDS);
    // Exactly the room that is asked for: what a peer sends beyond it, the kernel closes.
    let room = CREDENTIALS_ROOM + if max == 0 { 0 } else { HEADER + max * size_of::<i32>() };
    let mut words = [const { MaybeUninit::<usize>::uninit() }; WORDS];
    let used = room.div_ceil(ALIGN).min(WORDS);
    for word in &mut words[..used] {
        word.write(0);
    }
    let mut address = RawAddress([0; 128]);
    let mut data = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: a msghdr of zeros is valid: null pointers with lengths of zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = 128;
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = words.as_mut_ptr().cast();
    message.msg_controllen = room as _;
    // SAFETY: every pointer of `message` is writable for the length beside it and lives for the
    // call; `room` is at most the size of `words`.
    let result =
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC) };
    let length = checked(result)?;
    #[allow(clippy::unnecessary_cast, reason = "other C libraries have another type here")]
    let filled = (message.msg_controllen as usize).min(room);
    // SAFETY: the first `used` words were written above, and `filled` is within them.
    let control = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), filled) };
    let mut received = Received {
        length,
        cut: message.msg_flags & libc::MSG_CTRUNC != 0,
        fds: Vec::new(),
        credentials: None,
        sender: address.parse(message.msg_namelen),
    };
    parse(control, &mut received);
    if received.fds.len() > max {
        // The room for credentials that did not come took more descriptors than were asked for.
        received.fds.clear();
        received.cut = true;
    }
    Ok(received)
}

/// Takes the control messages apart. Called once for what one recvmsg(2) wrote.
fn parse(control: &[u8], received: &mut Received) {
    let word = |at: usize| -> Option<[u8; 4]> { control.get(at..at + 4)?.try_into().ok() };
    let mut at = 0;
    while let Some(length) = control.get(at..at + ALIGN) {
        let length = usize::from_ne_bytes(length.try_into().unwrap_or_default());
        let (Some(level), Some(kind)) = (word(at + ALIGN), word(at + ALIGN + 4)) else { return };
        if length < HEADER {
            return;
        }
        let end = at.saturating_add(length).min(control.len());
        let data = control.get(at + HEADER..end).unwrap_or_default();
        if i32::from_ne_bytes(level) == libc::SOL_SOCKET {
            match i32::from_ne_bytes(kind) {
                libc::SCM_RIGHTS => received.fds.extend(own_each(data)),
                // Only where another holder of the socket asked for it: nobody here wants it.
                SCM_PIDFD => own_each(data).for_each(drop),
                libc::SCM_CREDENTIALS => received.credentials = credentials(data),
                _ => {}
            }
        }
        at = at.saturating_add(length.next_multiple_of(ALIGN));
    }
}

/// The descriptors whose numbers stand in a control message of kind SCM_RIGHTS or SCM_PIDFD.
fn own_each(data: &[u8]) -> impl Iterator<Item = OwnedFd> {
    data.as_chunks::<4>()
        .0
        .iter()
        .map(|number| i32::from_ne_bytes(*number))
        .filter(|fd| *fd >= 0)
        .map(|number| {
            // SAFETY: the kernel has just installed this number in this process for the receiver of
            // the message; each message is parsed once, so nobody else owns it.
            unsafe { OwnedFd::from_raw_fd(number) }
        })
}

fn credentials(data: &[u8]) -> Option<libc::ucred> {
    let [pid, uid, gid] = data.as_chunks::<4>().0 else { return None };
    Some(libc::ucred {
        pid: i32::from_ne_bytes(*pid),
        uid: u32::from_ne_bytes(*uid),
        gid: u32::from_ne_bytes(*gid),
    })
}

/// SO_PEERCRED. Its process id may be zero, which rustix's type cannot hold.
pub(super) fn peer_credentials(fd: BorrowedFd<'_>) -> Result<libc::ucred, Errno> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` is writable for `length` bytes; both live for the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(credentials) } else { Err(errno()) }
}

/// SO_PEERPIDFD. The kernel sets CLOEXEC on what it gives.
pub(super) fn peer_pidfd(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut number: i32 = -1;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `number` is writable for `length` bytes; both live for the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(errno());
    }
    if number < 0 {
        return Err(Errno::NODATA);
    }
    // SAFETY: the kernel has just installed this number for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// SO_PEERGROUPS: writes what fits and gives how many there are.
pub(super) fn peer_groups(fd: BorrowedFd<'_>, groups: &mut [u32]) -> Result<usize, Errno> {
    let Ok(mut length) = libc::socklen_t::try_from(size_of_val(groups)) else {
        return Err(Errno::INVAL);
    };
    let room = if groups.is_empty() { ptr::null_mut() } else { groups.as_mut_ptr() };
    // SAFETY: `groups` is writable for `length` bytes; both live for the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            room.cast(),
            &raw mut length,
        )
    };
    let count = length as usize / size_of::<u32>();
    match result {
        0 => Ok(count),
        // The kernel says how much room it takes.
        _ => match errno() {
            Errno::RANGE => Ok(count.max(groups.len() + 1)),
            other => Err(other),
        },
    }
}
