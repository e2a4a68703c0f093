//! Peers: real processes that run another role of the same test binary.

use std::fmt::Display;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const ROLE: &str = "SINEW_TEST_ROLE";
/// The number at which a peer finds its end of the link.
const LINK: i32 = 3;
/// How long any message or exit of a peer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a peer process does: a function that talks to the test over the [`Link`].
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// `area::role`.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Link),
}

/// A line of messages between a test and its peer. Synchronise by it, never by sleeping.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Says something to the other side.
    pub fn say(&self, text: impl Display) {
        self.send(text.to_string().as_bytes(), &[]);
    }

    /// Sends bytes and descriptors.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "at most 16 descriptors");
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            .expect("the other side of the link is there");
    }

    /// Sends one descriptor.
    pub fn send_fd(&self, fd: impl AsFd) {
        self.send(b"fd", &[fd.as_fd()]);
    }

    /// What the other side says next.
    #[must_use]
    pub fn hear(&self) -> String {
        String::from_utf8(self.receive().0).expect("words")
    }

    /// Waits for exactly these words.
    #[track_caller]
    pub fn expect(&self, words: &str) {
        assert_eq!(self.hear(), words);
    }

    /// The descriptor that the other side sends next.
    #[must_use]
    pub fn recv_fd(&self) -> OwnedFd {
        let (_, mut fds) = self.receive();
        assert_eq!(fds.len(), 1, "one descriptor");
        fds.remove(0)
    }

    /// The next bytes and descriptors.
    #[must_use]
    pub fn receive(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        self.try_receive().expect("the other side of the link died")
    }

    /// The next bytes and descriptors, or nothing if the other side has ended.
    #[must_use]
    pub fn try_receive(&self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        let patience = Timespec::try_from(PATIENCE).expect("seconds");
        assert_ne!(poll(&mut ready, Some(&patience)).expect("poll"), 0, "no word in {PATIENCE:?}");
        let mut bytes = vec![0; 1 << 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = match got {
            Ok(message) => message.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(e) => panic!("the link fails: {e}"),
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if length == 0 && fds.is_empty() {
            return None;
        }
        bytes.truncate(length);
        Some((bytes, fds))
    }
}

impl AsFd for Link {
    /// Readable when the other side has said something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A running peer. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    link: Link,
}

impl Peer {
    /// Starts the role registered under the end of this name (`pipe::writer`).
    #[must_use]
    pub fn spawn(role: &str) -> Self {
        Self::spawn_with(role, |_| {})
    }

    /// The same, with a change to the command (limits, environment, user).
    #[must_use]
    pub fn spawn_with(role: &str, change: impl FnOnce(&mut Command)) -> Self {
        let (own, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("socketpair");
        let role = if role.starts_with("it::") { role.to_owned() } else { format!("it::{role}") };
        let mut command = Command::new("/proc/self/exe");
        command.env(ROLE, role).env_remove("SINEW_TEST_CASE");
        let number = theirs.as_raw_fd();
        let hook = move || {
            // Fails only where the parent died in between, and then so should this child.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if number == LINK {
                // SAFETY: `theirs` is open in the child; nothing else uses it there.
                let link = unsafe { BorrowedFd::borrow_raw(LINK) };
                fcntl_setfd(link, FdFlags::empty())?;
            } else {
                // SAFETY: dup2 touches no memory; what stands at LINK in the child between fork
                // and exec is CLOEXEC property of the parent and needed by nobody there.
                if unsafe { libc::dup2(number, LINK) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the hook makes only async-signal-safe system calls and allocates nothing.
        unsafe { command.pre_exec(hook) };
        change(&mut command);
        let child = command.spawn().expect("the test binary starts itself");
        Self { child, link: Link(own) }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the peer is not reaped");
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.child.wait().expect("a child")
    }

    /// Waits for its end and asserts that it went well.
    #[track_caller]
    pub fn join(mut self) {
        let status = self.wait();
        assert!(status.success(), "the peer ended with {status}");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let pidfd = rustix::process::pidfd_open(self.pid(), rustix::process::PidfdFlags::empty())
            .expect("a child that is not reaped");
        let mut ready = [PollFd::new(&pidfd, PollFlags::IN)];
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("seconds");
        let ended = poll(&mut ready, Some(&left)).expect("poll");
        assert_ne!(ended, 0, "the peer does not end");
        self.child.wait().expect("a child")
    }
}

impl std::ops::Deref for Peer {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run_role(role: &Role) -> ExitCode {
    // SAFETY: `Peer::spawn` put the link there, and nothing else of this fresh process owns it.
    let link = unsafe { OwnedFd::from_raw_fd(LINK) };
    fcntl_setfd(&link, FdFlags::CLOEXEC).expect("the link is open");
    (role.run)(&Link(link));
    ExitCode::SUCCESS
}
