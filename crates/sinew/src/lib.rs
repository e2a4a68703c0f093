//! Every Linux inter-process communication mechanism as a small, safe, honest type.
//!
//! Two processes of one Linux host, and everything they can say to each other: pipes, sockets, queues and
//! shared memory, locks, semaphores, events and signals, with one set of verbs, waits that end when you say so, and errors that
//! name the limit that was hit. Over the kernel's own calls it adds no system call, no allocation and
//! no thread.
//!
//! # By hand, and with Sinew
//! Receive from a pipe, but wait at most a second. By hand:
//!
//! ```
//! # use std::io;
//! # use std::time::{Duration, Instant};
//! fn recv(fd: i32, buf: &mut [u8]) -> io::Result<usize> {
//!     let deadline = Instant::now() + Duration::from_secs(1);
//!     loop {
//!         let left = deadline.saturating_duration_since(Instant::now());
//!         let mut pipe = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
//!         // Cut to milliseconds: the deadline is missed by up to one, to the early side.
//!         match unsafe { libc::poll(&mut pipe, 1, left.as_millis() as i32) } {
//!             0 => return Err(io::ErrorKind::TimedOut.into()),
//!             n if n > 0 => {}
//!             // A signal came, or an error; which is in errno.
//!             _ => match io::Error::last_os_error() {
//!                 e if e.kind() == io::ErrorKind::Interrupted => continue,
//!                 e => return Err(e),
//!             },
//!         }
//!         // If another process took the bytes meanwhile, this waits for ever. O_NONBLOCK would
//!         // help, and would also change the pipe for every process that has it.
//!         match unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) } {
//!             -1 => match io::Error::last_os_error() {
//!                 e if e.kind() == io::ErrorKind::Interrupted => continue,
//!                 e => return Err(e),
//!             },
//!             // Zero is the end. Or was `buf` empty?
//!             n => return Ok(n as usize),
//!         }
//!     }
//! }
//! # let (rx, tx) = std::io::pipe()?;
//! # std::io::Write::write_all(&mut &tx, b"hello")?;
//! # assert_eq!(recv(std::os::fd::AsRawFd::as_raw_fd(&rx), &mut [0; 16])?, 5);
//! # Ok::<(), io::Error>(())
//! ```
//!
//! With Sinew, and without what is wrong in it:
//!
//! ```
//! use std::time::Duration;
//! use sinew::pipe;
//! use sinew::wait::{Receives, Sends};
//!
//! let (rx, tx) = pipe::pipe()?;
//! tx.send(b"hello").unwrap();
//!
//! let mut buf = [0; 16];
//! assert_eq!(rx.recv_timeout(&mut buf, Duration::from_secs(1)), Ok(5));
//!
//! drop(tx);
//! assert_eq!(rx.recv_timeout(&mut buf, Duration::from_secs(1)), Err(sinew::RecvError::Closed));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Which one
//! | I need | Use |
//! |---|---|
//! | bytes from a parent to its child, or back | [`pipe`] |
//! | the same in both directions | [`unix::pair`] |
//! | a program started by hand, or a shell, to take part | [`fifo`] |
//! | a server with clients that it can tell apart | [`unix::StreamListener`], [`unix::SeqpacketListener`] |
//! | messages with their boundaries, over a connection | [`unix::Seqpacket`]; within a family, [`pipe::Options::create_packets`] |
//! | messages from anybody to one receiver | [`unix::Datagram`] |
//! | to hand over an open file, a socket, shared memory | [`unix::Socket::with_fds`] and [`unix::Socket::fds`] |
//! | to know who is at the other end, vouched for by the kernel | [`unix::Socket::peer_credentials`], [`unix::Socket::peer_pidfd`] |
//! | urgent messages first, in an event loop | [`posix_mq`] |
//! | to receive messages by their kind | [`sysv_mq`] |
//! | messages that wait while nobody runs | [`posix_mq`], [`sysv_mq`] |
//! | what may move to another host later | [`inet`] |
//! | bytes from a file or socket to another without a copy here | [`splice`] |
//! | much data, handed over without a copy | [`memfd`], frozen, over [`unix`] |
//! | shared memory found by a name | [`posix_shm`] |
//! | shared memory with a program that uses `shmget` | [`sysv_shm`] |
//! | data that outlives the processes, and the host | [`file`](mod@file) |
//! | memory shared with forked children only | [`anonymous`] |
//! | a lock between processes that survives the death of its owner | [`mutex`] |
//! | to wait until what a lock guards is as wanted | [`condvar`] |
//! | to sleep until a word in shared memory changes | [`futex`] |
//! | a counter that processes take from, waiting while it is zero; also with C, Python and Java | [`posix_sem`] |
//! | to know for certain whether a process lives, and how a child ended | [`pidfd`] |
//! | several counters changed in one step, given back when their holder dies | [`sysv_sem`] |
//! | to wait for many of these at once, without threads | [`poller`] |
//! | to ring a bell in an event loop, or hand out tickets | [`eventfd`] |
//! | a time that comes, once or again and again, in an event loop | [`timerfd`] |
//! | one process at a time in a file, or in a part of it | [`file_lock`] |
//! | one process of a kind at a time, and its number | [`pidfile`] |
//! | a structure that processes share under a lock, found by name | [`shared`] |
//! | messages at the speed of memory, between processes that may be killed | [`channel`] |
//! | data in shared memory that many read and few change | [`rwlock`] |
//! | several processes to start each step together, and to know who died | [`barrier`] |
//! | one process to set something up, and the others to wait for it | [`once`] |
//! | a child that finds a descriptor under a number, and ends with its parent | [`command`] |
//! | to look into, or change, another process's memory | [`process_vm`] |
//! | to stop another process, step it, see its system calls | [`ptrace`] |
//! | a descriptor of another process, or whether two are the same | [`fd`] |
//! | to tell a process to end, to look again, or one number | [`signal`] |
//! | signals in an event loop, without a handler | [`signalfd`] |
//! | to see that a configuration changed, or that a socket is there | [`inotify`] |
//!
//! How each fails when a peer is slow or dies, and what the table leaves out, is in the guide,
//! `docs/choosing.md`. Every number about speed depends on the machine: `sinew bench` measures yours.
//!
//! # The map
//! - **Bytes cross the kernel**: [`pipe`], [`fifo`], [`unix`], [`inet`], [`posix_mq`], [`sysv_mq`],
//!   [`splice`].
//! - **Pages in two processes**: [`mapping`], the one owner of mapped memory, and what makes it:
//!   [`memfd`], [`posix_shm`], [`sysv_shm`], [`file`](mod@file), [`anonymous`].
//! - **Who goes, and who waits**: [`mutex`], [`rwlock`], [`condvar`], [`barrier`], [`once`],
//!   [`shared`], [`posix_sem`], [`sysv_sem`], [`futex`], [`file_lock`], [`pidfile`].
//! - **Something happened**: [`poller`], [`eventfd`], [`timerfd`], [`signal`], [`signalfd`],
//!   [`inotify`].
//! - **Messages through shared memory**: [`channel`].
//! - **Another process**: [`command`], [`pidfd`], [`process_vm`], [`ptrace`], [`fd`].
//! - **For all of them**: [`wait`], the verbs; [`error`](mod@error); [`mechanism`], the names and the facts;
//!   [`limits`], what this host allows; [`kernel`], what newer kernels have.
//!
//! # Verbs and waiting
//! [`send`](wait::Sends), [`recv`](wait::Receives), [`accept`](wait::Accepts),
//! [`connect`](wait::Connects), [`open`](wait::Opens), [`wait`](wait::Waits), [`lock`](wait::Locks), and without a copy
//! [`loan`](wait::Loans) and [`borrow`](wait::Borrows)
//! mean the same everywhere and come in four forms: `recv` waits as long as it takes, `try_recv` not at all, `recv_timeout` so long,
//! `recv_until` until then. `recv_wait` takes a [`Wait`](wait::Wait), which can also carry an
//! [`Interrupt`](wait::Interrupt): another thread ends the call with it.
//!
//! They are traits, implemented on std's own types where std has one (`std::io::PipeReader`,
//! `std::os::unix::net::UnixStream`, `std::net::TcpStream`), so what you have already gains them. What a
//! call takes beside its data is a view with the same verbs: `queue.priority(9).send(..)`,
//! `socket.with_fds(&fds).send(..)`, `stream.exact().recv(..)`.
//!
//! EINTR never reaches you. A deadline is of the monotonic clock. No call sets O_NONBLOCK on what
//! another process may hold too. No call raises SIGPIPE, and none touches a signal handler.
//!
//! Everything with a descriptor gives it (`AsFd`, `Into<OwnedFd>`) and takes one (`From<OwnedFd>`), so
//! that poll, epoll, mio or tokio can watch it.
//!
//! # Errors
//! Setting something up gives an [`Error`]: what was tried, on what, why it failed, and what to do
//! about it. It has a [`kind`](Error::kind) to match on.
//!
//! ```
//! use sinew::{ErrorKind, posix_mq};
//!
//! let error = posix_mq::Options::new().open("/no-such-queue").unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::NotFound);
//! assert!(error.to_string().contains("/no-such-queue"));
//! ```
//!
//! Each call gives a [`SendError`], [`RecvError`], [`WaitError`] or [`LockError`], which allocate nothing. That there is no
//! room now, that time ran out, that another thread interrupted, and that the other end is closed are
//! different values; the end is never a length of zero.
//!
//! # When a process dies
//! At any instruction, by `kill -9` too:
//!
//! - Pipes, streams and seqpacket sockets give what was sent before and then
//!   [`Closed`](RecvError::Closed), as long as no child keeps an end open.
//! - Queues keep their messages, whole ones only, and tell nobody.
//! - Shared memory stays as the last instruction left it. Its locks tell the next owner that the last one
//!   died, and what they guard can be repaired; a barrier and a once tell the others.
//! - File locks are released, and System V semaphores with undo given back; POSIX semaphores are not.
//! - A channel goes on: nothing half-written is seen, what was accepted is there for the next receiver, and a successor goes
//!   on where the dead one ended.
//! - What had no name is gone with its last user. What has one stays until it is unlinked or removed;
//!   nothing half-made is ever found under it.
//! - A stopped process is not a dead one, and no time-out is taken for a death.
//!
//! # Trust
//! A peer is input: whatever it sends, and whatever it writes into shared memory, makes a call fail at
//! worst. No safe function gives a reference to memory that another process may write to ([`shared`] does,
//! under its lock, and opening one is `unsafe` for that);
//! [`memfd::Frozen`] is a slice because a seal of the kernel keeps everybody from writing. Descriptors
//! are close-on-exec, named objects have mode 0600. A process that may ptrace this one is outside of all this.
//!
//! # Kernels
//! Linux 5.15 and later, x86-64 and aarch64. What is newer is probed once and has a fallback
//! ([`kernel::Feature`]); `SINEW_WITHOUT=all` in the environment forces every fallback.
//!
//! # What it does not do
//! It serialises nothing, connects no other hosts and runs no event loop. Netlink and D-Bus
//! have names in [`Mechanism`] and no module yet.

#![deny(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::panic_in_result_fn)]

mod copy;
mod event;
mod fork;
mod process;
mod share;
mod sync;
mod syscall;
mod sysv;

pub mod channel;
pub mod error;
pub mod kernel;
pub mod limits;
pub mod mechanism;
pub mod wait;

pub use copy::{fifo, inet, pipe, posix_mq, splice, sysv_mq, unix};
pub use event::{eventfd, inotify, poller, signal, signalfd, timerfd};
pub use process::{command, fd, pidfd, process_vm, ptrace};
pub use share::{anonymous, file, mapping, memfd, posix_shm, sysv_shm};
pub use sync::{
    barrier, condvar, file_lock, futex, mutex, once, pidfile, posix_sem, rwlock, shared, sysv_sem,
};

pub use error::{Error, ErrorKind, LockError, RecvError, Result, SendError, Stop, WaitError};
pub use mechanism::Mechanism;

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
