//! What a signal says about itself: `struct signalfd_siginfo`, typed.

use std::mem::offset_of;

use libc::signalfd_siginfo as Raw;

use crate::event::signal::{Signal, Value};

/// The length of what the kernel writes for each signal.
pub(super) const RECORD: usize = size_of::<Raw>();
const _: () = assert!(RECORD == 128);

/// A signal that came, and what the kernel or the sender says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    signal: Signal,
    code: i32,
    kind: Kind,
    sender: Option<Sender>,
}

/// Where a signal came from (`si_code`).
///
/// [`Timer`](Self::Timer), [`MessageQueue`](Self::MessageQueue) and [`AsyncIo`](Self::AsyncIo) can be
/// forged by whoever may send this process a signal, as [`Queued`](Self::Queued) can be sent by them;
/// the others come from the kernel as they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// kill(2), [`Target::send`](crate::signal::Target::send) (SI_USER). Also a real-time signal whose data
    /// had no room: then it has no [`sender`](Info::sender).
    Sent,
    /// tgkill(2), to one thread (SI_TKILL).
    SentToThread,
    /// sigqueue(3), [`Target::queue`](crate::signal::Target::queue), with a value (SI_QUEUE).
    Queued(Value),
    /// A timer of timer_create(2) ran out (SI_TIMER).
    Timer {
        /// The kernel's number of the timer.
        id: u32,
        /// How often it ran out again before this signal was taken.
        overrun: u32,
        /// What the timer was made with.
        value: Value,
    },
    /// A message came into an empty POSIX queue, mq_notify(3) (SI_MESGQ).
    MessageQueue(Value),
    /// An operation of aio(7) is done (SI_ASYNCIO).
    AsyncIo(Value),
    /// A descriptor with O_ASYNC is ready: `SIGIO`, or the signal of F_SETSIG.
    Io {
        /// The descriptor.
        fd: i32,
        /// What poll(2) would say of it.
        events: u32,
    },
    /// A child changed its state (SIGCHLD). Others may have done so too: see
    /// [the module](super).
    Child(Child),
    /// The kernel itself (SI_KERNEL): Ctrl-C at the terminal, a limit on time.
    Kernel,
    /// Another code of the kernel's; see [`Info::code`].
    Other,
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Child {
    /// It ended with this status, of which only the lowest eight bits arrive.
    Exited(i32),
    /// A signal ended it.
    Killed(Signal),
    /// A signal ended it and had its memory written to a file.
    Dumped(Signal),
    /// A signal stopped it.
    Stopped(Signal),
    /// It stopped for its tracer.
    Trapped(Signal),
    /// It goes on.
    Continued,
}

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The process id in the namespace of the receiver. The process may be gone, and another may have the
    /// number.
    pub pid: u32,
    /// The real user id.
    pub uid: u32,
    /// Whether the kernel says so. Of a queued signal the sender itself does, and may lie: a
    /// decision must not rest on that.
    pub vouched: bool,
}

impl Info {
    /// Which signal.
    #[must_use]
    pub const fn signal(&self) -> Signal {
        self.signal
    }

    /// Where it came from, and what came with it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Who sent it, or which child changed. `None` where no process did, where it is outside of this pid
    /// namespace, and where its data was lost because the queue of the user was full: the kernel then says
    /// pid 0 and uid 0, which is not root.
    #[must_use]
    pub const fn sender(&self) -> Option<Sender> {
        self.sender
    }

    /// `si_code`, as the kernel gave it.
    #[must_use]
    pub const fn code(&self) -> i32 {
        self.code
    }

    /// `None` if it is not what a kernel writes.
    fn decode(raw: &[u8; RECORD]) -> Option<Self> {
        let u32_at = |at: usize| {
            raw[at..].first_chunk().map_or(0, |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes))
        };
        let i32_at = |at: usize| u32_at(at).cast_signed();
        let signal = Signal::from_raw(i32_at(offset_of!(Raw, ssi_signo)))?;
        let code = i32_at(offset_of!(Raw, ssi_code));
        let status = i32_at(offset_of!(Raw, ssi_status));
        // The kernel fills the pointer with the whole of the union.
        let value = Value(*raw[offset_of!(Raw, ssi_ptr)..].first_chunk()?);
        // Of a positive code the number decides, and a readiness may come by any signal.
        let kind = match code {
            libc::SI_USER => Kind::Sent,
            libc::SI_TKILL => Kind::SentToThread,
            libc::SI_QUEUE => Kind::Queued(value),
            libc::SI_TIMER => Kind::Timer {
                id: u32_at(offset_of!(Raw, ssi_tid)),
                overrun: u32_at(offset_of!(Raw, ssi_overrun)),
                value,
            },
            libc::SI_MESGQ => Kind::MessageQueue(value),
            libc::SI_ASYNCIO => Kind::AsyncIo(value),
            libc::SI_KERNEL => Kind::Kernel,
            _ if signal == Signal::CHLD => child(code, status).map_or(Kind::Other, Kind::Child),
            POLL_IN..=POLL_HUP if signal == Signal::IO || signal.is_rt() => Kind::Io {
                fd: i32_at(offset_of!(Raw, ssi_fd)),
                events: u32_at(offset_of!(Raw, ssi_band)),
            },
            _ => Kind::Other,
        };
        // Only the process itself can send itself another code than a negative one.
        let vouched = match kind {
            Kind::Sent | Kind::SentToThread | Kind::Child(_) => Some(true),
            Kind::Queued(_) | Kind::MessageQueue(_) => Some(false),
            _ => None,
        };
        let pid = u32_at(offset_of!(Raw, ssi_pid));
        let uid = u32_at(offset_of!(Raw, ssi_uid));
        let sender = vouched.filter(|_| pid != 0).map(|vouched| Sender { pid, uid, vouched });
        Some(Self { signal, code, kind, sender })
    }
}

/// The codes of a readiness, which libc does not name.
const POLL_IN: i32 = 1;
const POLL_HUP: i32 = 6;

fn child(code: i32, status: i32) -> Option<Child> {
    let signal = Signal::from_raw(status);
    match code {
        libc::CLD_EXITED => Some(Child::Exited(status)),
        libc::CLD_KILLED => signal.map(Child::Killed),
        libc::CLD_DUMPED => signal.map(Child::Dumped),
        libc::CLD_STOPPED => signal.map(Child::Stopped),
        // The tracer's own events stand above the lowest eight bits.
        libc::CLD_TRAPPED => Signal::from_raw(status & 0x7f).map(Child::Trapped),
        libc::CLD_CONTINUED => Some(Child::Continued),
        _ => None,
    }
}

/// Signals that one call of [`SignalFd::many`](super::SignalFd::many) gave, in the order in which the
/// kernel gave them.
#[derive(Clone, Debug)]
pub struct Infos<const N: usize> {
    records: [[u8; RECORD]; N],
    next: usize,
    end: usize,
}

impl<const N: usize> Infos<N> {
    pub(super) const fn new() -> Self {
        Self { records: [[0; RECORD]; N], next: 0, end: 0 }
    }

    /// Where the kernel writes.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.records.as_flattened_mut()
    }

    /// The same with so many records written; `None` if one of them is nonsense.
    pub(super) fn filled(mut self, count: usize) -> Option<Self> {
        self.end = count.min(N);
        let sound = self.records[..self.end].iter().all(|record| Info::decode(record).is_some());
        sound.then_some(self)
    }
}

impl<const N: usize> Iterator for Infos<N> {
    type Item = Info;

    fn next(&mut self) -> Option<Info> {
        let record = self.records[self.next..self.end].first()?;
        self.next += 1;
        Info::decode(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.next, Some(self.end - self.next))
    }
}

impl<const N: usize> ExactSizeIterator for Infos<N> {}
impl<const N: usize> std::iter::FusedIterator for Infos<N> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(signal: i32, code: i32, status: i32) -> [u8; RECORD] {
        let mut raw = [0; RECORD];
        for (at, value) in [
            (offset_of!(Raw, ssi_signo), signal),
            (offset_of!(Raw, ssi_code), code),
            (offset_of!(Raw, ssi_status), status),
        ] {
            raw[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        raw
    }

    #[test]
    fn codes_are_told_apart() {
        let kind = |signal, code, status| Info::decode(&record(signal, code, status)).unwrap().kind;
        assert_eq!(kind(libc::SIGUSR1, libc::SI_USER, 0), Kind::Sent);
        assert_eq!(kind(libc::SIGCHLD, libc::SI_USER, 0), Kind::Sent);
        assert_eq!(kind(libc::SIGINT, libc::SI_KERNEL, 0), Kind::Kernel);
        assert_eq!(kind(libc::SIGCHLD, libc::CLD_EXITED, 3), Kind::Child(Child::Exited(3)));
        let trapped = kind(libc::SIGCHLD, libc::CLD_TRAPPED, 0x80 | libc::SIGTRAP);
        assert_eq!(trapped, Kind::Child(Child::Trapped(Signal::TRAP)));
        assert_eq!(kind(libc::SIGCHLD, libc::CLD_KILLED, 0), Kind::Other);
        assert_eq!(kind(libc::SIGIO, POLL_IN, 0), Kind::Io { fd: 0, events: 0 });
        assert_eq!(kind(40, POLL_HUP, 0), Kind::Io { fd: 0, events: 0 });
        assert_eq!(kind(libc::SIGSEGV, 1, 0), Kind::Other);
    }

    #[test]
    fn no_signal_is_nonsense() {
        for number in [0, 65, -1, i32::MIN] {
            assert_eq!(Info::decode(&record(number, 0, 0)), None);
        }
        assert!(Infos::<2>::new().filled(1).is_none());
        assert_eq!(Infos::<2>::new().filled(0).unwrap().count(), 0);
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "Miri gives proptest no files and takes minutes; what it runs is safe code")]
        fn nothing_that_is_read_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), RECORD..=RECORD),
            signal in -2_i32..70,
        ) {
            let mut raw: [u8; RECORD] = bytes.try_into().unwrap();
            raw[..4].copy_from_slice(&signal.to_ne_bytes());
            prop_assert_eq!(Info::decode(&raw).is_some(), (1..=64).contains(&signal));
        }
    }
}
