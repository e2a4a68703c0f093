//! The floor of events: the bare calls on the same descriptors, and on the same processes.

#![allow(unsafe_code, reason = "bare libc calls are what this file is for")]

use std::io;

use libc::{c_int, c_long, c_void};

use crate::children::Child;
use crate::parties::{Solo, Turn};
use crate::process;

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn read(fd: c_int, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are of one live slice, borrowed uniquely.
    check(unsafe { libc::read(fd, room.as_mut_ptr().cast(), room.len()) })
}

fn write(fd: c_int, data: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are of one live slice.
    check(unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) })
}

/// Sleeps until a descriptor is readable: poll(2), needed where it is a non-blocking one.
fn until_readable(fd: c_int) -> io::Result<()> {
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which is live.
    checked(unsafe { libc::poll(&raw mut one, 1, -1) }).map(drop)
}

/// Reads; sleeps where the descriptor is a non-blocking one and has nothing.
fn read_waiting(fd: c_int, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match read(fd, room) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => until_readable(fd)?,
            done => return done,
        }
    }
}

/// Two eventfds: write(2) and read(2).
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) own: c_int,
    pub(crate) other: c_int,
}

impl Turn for Events {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        write(self.other, &1_u64.to_ne_bytes()).map(drop)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        read_waiting(self.own, &mut [0; 8]).map(drop)
    }
}

/// The same through epoll_wait(2), which says that there is something to read.
#[derive(Debug)]
pub(crate) struct Polled {
    pub(crate) events: Events,
    pub(crate) epoll: c_int,
}

impl Turn for Polled {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.events.post()
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event, which is live.
        checked(unsafe { libc::epoll_wait(self.epoll, &raw mut event, 1, -1) })?;
        read(self.events.own, &mut [0; 8]).map(drop)
    }
}

/// A signal to the other process, and a signalfd to read one from: sigqueue(3) or
/// pidfd_send_signal(2), and read(2).
#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) pid: c_int,
    /// To be sent by that instead, without a value.
    pub(crate) pidfd: Option<c_int>,
    pub(crate) signal: c_int,
    pub(crate) signalfd: c_int,
}

impl Turn for Signals {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        if let Some(pidfd) = self.pidfd {
            let no_info = std::ptr::null::<libc::siginfo_t>();
            let call = libc::SYS_pidfd_send_signal;
            // SAFETY: no pointer is given but the null one, which stands for none.
            let sent = unsafe { libc::syscall(call, pidfd, self.signal, no_info, 0) };
            return checked(sent as c_int).map(drop);
        }
        let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
        // SAFETY: sigqueue takes numbers only.
        checked(unsafe { libc::sigqueue(self.pid, self.signal, value) }).map(drop)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        read_waiting(self.signalfd, &mut [0; size_of::<libc::signalfd_siginfo>()]).map(drop)
    }
}

/// A file that the other process watches with inotify: pwrite(2) of one byte, and read(2).
#[derive(Debug)]
pub(crate) struct Watches {
    pub(crate) touched: c_int,
    pub(crate) inotify: c_int,
}

impl Turn for Watches {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        let data = b"1";
        // SAFETY: the pointer and the length are of one live slice.
        check(unsafe { libc::pwrite(self.touched, data.as_ptr().cast(), data.len(), 0) }).map(drop)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        read_waiting(self.inotify, &mut [0; 4096]).map(drop)
    }
}

/// A timerfd, armed for a moment so far ahead: how late is read(2) through.
#[derive(Debug)]
pub(crate) struct Timer {
    pub(crate) timerfd: c_int,
    pub(crate) ahead_ns: u64,
}

impl Solo for Timer {
    fn once(&mut self) -> io::Result<Option<u64>> {
        let at = crate::cpu::now_ns() + self.ahead_ns;
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = libc::timespec {
            tv_sec: (at / 1_000_000_000) as libc::time_t,
            tv_nsec: (at % 1_000_000_000) as c_long,
        };
        let wish = libc::itimerspec { it_interval: none, it_value };
        // SAFETY: the wish is live, and the old setting is not asked for.
        checked(unsafe {
            libc::timerfd_settime(
                self.timerfd,
                libc::TFD_TIMER_ABSTIME,
                &raw const wish,
                std::ptr::null_mut(),
            )
        })?;
        read_waiting(self.timerfd, &mut [0; 8])?;
        Ok(Some(crate::cpu::now_ns().saturating_sub(at)))
    }

    fn check(&mut self) -> io::Result<bool> {
        self.once().map(|_| true)
    }
}

/// The memory of the other process: process_vm_readv(2), and a look at its pidfd whether it is still
/// that process.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) pid: c_int,
    pub(crate) pidfd: c_int,
    pub(crate) address: u64,
    pub(crate) room: Vec<u8>,
}

impl Solo for Memory {
    #[inline]
    fn once(&mut self) -> io::Result<Option<u64>> {
        let iov_len = self.room.len();
        let local = libc::iovec { iov_base: self.room.as_mut_ptr().cast(), iov_len };
        let remote = libc::iovec { iov_base: self.address as *mut c_void, iov_len };
        // SAFETY: the local room is live and borrowed uniquely; the kernel checks the remote one.
        let done = unsafe {
            libc::process_vm_readv(self.pid, &raw const local, 1, &raw const remote, 1, 0)
        };
        if check(done)? != iov_len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut ended = libc::pollfd { fd: self.pidfd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which is live.
        match checked(unsafe { libc::poll(&raw mut ended, 1, 0) })? {
            0 => Ok(None),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }

    fn check(&mut self) -> io::Result<bool> {
        self.once().map(|_| true)
    }
}

/// A child that is traced: one step of one instruction, by ptrace(2) and waitpid(2), and the look at what
/// stopped it, without which a step cannot be told from a SIGTRAP that somebody sent.
#[derive(Debug)]
pub(crate) struct Tracee(Child);

impl Tracee {
    pub(crate) fn seize(child: Child) -> io::Result<Self> {
        let tracee = Self(child);
        tracee.request(libc::PTRACE_SEIZE, libc::PTRACE_O_EXITKILL as usize)?;
        tracee.request(libc::PTRACE_INTERRUPT, 0)?;
        tracee.stop()?;
        Ok(tracee)
    }

    fn request(&self, request: libc::c_uint, data: usize) -> io::Result<()> {
        // SAFETY: these requests take numbers only.
        let done = unsafe { libc::ptrace(request, self.0.pid(), 0, data) };
        checked(done as c_int).map(drop)
    }

    fn stop(&self) -> io::Result<()> {
        let mut status = 0;
        // SAFETY: the status is a live integer.
        checked(unsafe { libc::waitpid(self.0.pid(), &raw mut status, libc::__WALL) })?;
        if libc::WIFSTOPPED(status) { Ok(()) } else { Err(io::Error::other("the child has ended")) }
    }

    fn stopped_by_step(&self) -> io::Result<bool> {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let into = info.as_mut_ptr();
        // SAFETY: the kernel writes a siginfo_t or fails.
        let done = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, self.0.pid(), 0, into) };
        checked(done as c_int)?;
        // SAFETY: all bytes are set, to zero at first.
        let info = unsafe { info.assume_init() };
        Ok(info.si_signo == libc::SIGTRAP && info.si_code > 0)
    }
}

impl Solo for Tracee {
    #[inline]
    fn once(&mut self) -> io::Result<Option<u64>> {
        self.request(libc::PTRACE_SINGLESTEP, 0)?;
        self.stop()?;
        if self.stopped_by_step()? { Ok(None) } else { Err(io::Error::other("a signal came")) }
    }

    fn check(&mut self) -> io::Result<bool> {
        self.once().map(|_| true)
    }
}

/// The end of a child: pidfd_open(2) and poll(2).
pub(crate) struct Ends(pub(crate) process::Ends);

impl Solo for Ends {
    fn once(&mut self) -> io::Result<Option<u64>> {
        self.0.sample(|child| {
            // SAFETY: the call takes numbers only.
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.pid(), 0) };
            let pidfd = checked(pidfd as c_int)?;
            let ended = until_readable(pidfd);
            // SAFETY: opened above, and known to nobody else.
            checked(unsafe { libc::close(pidfd) })?;
            ended
        })
    }

    fn check(&mut self) -> io::Result<bool> {
        self.once().map(|_| true)
    }
}
