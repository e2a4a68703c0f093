//! The channels of this host and what they count, seen from outside.
//!
//! ```
//! use sinew::channel::{Options, stats};
//! use sinew::wait::{Receives, Sends};
//!
//! let name = format!("stats-{}", std::process::id());
//! let receiver = Options::stream().receiver().create(&name)?;
//! let sender = Options::stream().sender().open(&name)?;
//! for _ in 0..3 {
//!     sender.send(b"hello").unwrap();
//! }
//! receiver.recv(&mut [0; 8]).unwrap();
//!
//! let channel = stats::of(&name)?;
//! assert_eq!((channel.sent(), channel.received(), channel.waiting()), (3, 1, 2));
//! assert_eq!((channel.lanes[0].sent_bytes, channel.receivers[0].bytes), (15, 5));
//! for member in &channel.members {
//!     println!("{:?} {:?} {:?}", member.role, member.pid, member.state);
//! }
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Who may look
//! Whoever may look at the descriptors of one process that has the channel: root, and the same user (ptrace(2), "access mode
//! checking"). The memory is found through /proc/PID/fd, opened read-only, and copied out (pread(2)). Nobody attaches, and
//! no process is stopped, signalled or connected to: not the members, nor who holds the name. They may all
//! be stopped, or dead but for one. What could not be looked at is told: [`Survey::unreadable`], [`Survey::unknown`].
//!
//! A channel whose ends are all in one process and have no descriptor ([`pair`](super::Options::pair),
//! [`local`](super::queue::Options::local)) is not found, nor one in memory that was shared some other way
//! ([`create_in`](super::Options::create_in)); there the ends tell: [`Sender::stats`](super::Sender::stats),
//! [`Receiver::stats`](super::Receiver::stats). Nor are the processes found that a /proc mounted with `hidepid` hides.
//!
//! # What is true
//! Each number is as it was at some moment of the call: words are copied whole by the kernel, though it does not promise that. They
//! are not of one moment: two that are equal at rest may differ while messages flow. Two things hold even then: no count goes back from one look to the next, and a lane was
//! sent at least what was received from it. At rest all are exact.
//!
//! After deaths: messages that were sent are counted exactly once the lane has its next sender, and those received
//! once the receiver has a successor that received one; up to then each may be one short. A queue's worker that was killed
//! may have been done with one message more than is counted. Bytes may be off by one message for each death.
//!
//! The members write these words, and any of them could write rubbish: then rubbish is what is told.
//!
//! Source: proc_pid_fd(5), proc_pid_status(5), memfd_create(2).

mod copy;
mod process;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::folder::Folder;
use super::lane::SideField;
use super::layout::Shape;
use super::memory::{ReceiverField, SenderField};
use super::name::{Identity, Name};
use super::options::Full;
pub use super::presence::Presence;
use super::presence::{self, KINDS};
use super::ring::overtake::chase::Counted;
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// What was found on this host. See [`channels`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Survey {
    /// Each channel once, however many processes have it; the oldest memory first.
    pub channels: Vec<Channel>,
    /// Memory that has a channel's name and is none that this version knows.
    pub unknown: Vec<Unknown>,
    /// How many processes there are whose descriptors this process may not see: the channels that only they have are
    /// missing.
    pub unreadable: usize,
}

/// Memory that has a channel's name and could not be read as one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unknown {
    /// The label that its maker gave it.
    pub label: String,
    /// Which memory it is.
    pub memory: Memory,
    /// The processes that have it open, as this process sees them.
    pub processes: Vec<u32>,
    /// Why it could not be read.
    pub error: Error,
}

/// Which memory it is: no two have the same at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory {
    /// The device, as fstat(2) says it.
    pub device: u64,
    /// The number of its inode there.
    pub inode: u64,
}

/// A channel, and what is counted there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Channel {
    /// The name under which it was made, without its folder; `pair` where it has none. Two channels may have the same.
    pub label: String,
    /// Which memory it is.
    pub memory: Memory,
    /// Who sends to whom.
    pub pattern: Pattern,
    /// What happens to a message for which there is no room.
    pub full: Full,
    /// The bytes of records of each lane.
    pub capacity: u64,
    /// Of a queue, how many messages of each lane may be under way. Else zero.
    pub slots: u64,
    /// The most members at a time.
    pub most_members: u64,
    /// The processes that have the memory open, as this process sees them, and as far as it does. Not only members: a child
    /// that one forked, too, and for a moment whoever looks as this does.
    pub processes: Vec<u32>,
    /// The place of the member that holds the name. None for a channel without one.
    pub holder: Option<usize>,
    /// Who takes part, and who did and is not made good yet. Nobody where the ends came by
    /// [`open_in`](super::Sender::open_in).
    pub members: Vec<Member>,
    /// The lanes: one for each sender that there can be.
    pub lanes: Vec<Lane>,
    /// The receivers that there can be: one, or the workers of a queue.
    pub receivers: Vec<Receiver>,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pattern {
    /// One to one.
    Stream,
    /// Many to one.
    FanIn,
    /// Each message to one of many: see [`queue`](super::queue).
    Queue,
}

/// One who takes part in a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Member {
    /// Its place among the members.
    pub place: usize,
    /// What it does.
    pub role: Role,
    /// Which of the [lanes](Channel::lanes) is a sender's, or which of the [receivers](Channel::receivers) it is.
    pub lane: u32,
    /// The how-manieth member it is at its place, from 1.
    pub generation: u32,
    /// How far it is.
    pub state: State,
    /// The name of a durable member.
    pub name: Option<OsString>,
    /// Its process, as this process sees it: none if it was not found, because it has ended, or may not be looked at.
    pub pid: Option<u32>,
    /// Its process as it sees itself.
    pub own_pid: u32,
    /// The inode number of its pid namespace: what `readlink /proc/PID/ns/pid` says.
    pub pid_namespace: u64,
    /// Whose it is.
    pub uid: u32,
    /// When its process started, in clock ticks since the host did.
    pub started: u64,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It sends.
    Sender,
    /// It receives.
    Receiver,
}

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It was let in and has not arrived.
    Joining,
    /// It takes part. It may have died just now: see [`Member::pid`].
    Here,
    /// It has left in order.
    Left,
    /// It has died, as a survivor has seen.
    Dead,
}

/// What is counted of a lane: of whoever sends through it now, and all who did before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lane {
    /// Whether its sender is there.
    pub presence: Presence,
    /// The how-manieth sender of this lane it is, from 1; zero if there was none.
    pub turn: u64,
    /// Whether it waits for room now, in a call or by its doorbell.
    pub asleep: bool,
    /// Messages that were sent, with those that were dropped.
    pub sent: u64,
    /// The bytes that were in them.
    pub sent_bytes: u64,
    /// Of these, messages that were dropped because there was no room: [`DropNewest`](Full::DropNewest).
    pub dropped: u64,
    /// The bytes that were in them.
    pub dropped_bytes: u64,
    /// Of these, messages that the receiver missed, or will have: [`DropOldest`](Full::DropOldest).
    pub lagged: u64,
    /// Messages that were received and released. None in a queue, where the [receivers](Channel::receivers) count.
    pub received: Option<u64>,
    /// The bytes that were in them.
    pub received_bytes: Option<u64>,
    /// How many bytes of the capacity messages take that are not released, with headers and padding. None in a
    /// queue.
    pub in_use: Option<u64>,
    /// The most bytes of the capacity that were in use when the sender looked. It looks when, as far as it knows, there is no
    /// room: always when the lane is full, else once around. So a short peak may not be seen; zero as long as it knew of room.
    pub high_water: u64,
    /// How often a sender went to sleep for room, or armed its doorbell.
    pub sleeps: u64,
    /// How often it woke a receiver, which is a system call each time.
    pub rings: u64,
}

/// What is counted of a receiver: of the one that is there now, and all who were at this place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receiver {
    /// Whether it is there.
    pub presence: Presence,
    /// The how-manieth receiver at this place it is, from 1; zero if there was none.
    pub turn: u64,
    /// Whether it waits for a message now, in a call or by its doorbell.
    pub asleep: bool,
    /// Messages that were received and released, of all lanes.
    pub received: u64,
    /// The bytes that were in them.
    pub bytes: u64,
    /// How often it went to sleep for a message, or armed its doorbell.
    pub sleeps: u64,
    /// How often it woke a sender that waited for room, which is a system call each time.
    pub rings: u64,
}

/// All channels of this host that this process may read. Never blocks, but takes as long as looking at each descriptor of
/// each process does.
///
/// # Errors
/// What the kernel says of /proc; a process or a channel that cannot be read is no error, but told.
pub fn channels() -> Result<Survey> {
    let found = process::scan()?;
    let mut survey =
        Survey { channels: Vec::new(), unknown: Vec::new(), unreadable: found.unreadable };
    for found in found.objects {
        match found.contents {
            Ok(contents) => survey.channels.push(contents.channel(found.object)),
            Err(error) => {
                let process::Object { label, memory, processes, .. } = found.object;
                survey.unknown.push(Unknown { label, memory, processes, error });
            }
        }
    }
    Ok(survey)
}

/// The channel that has this name, in the folder of this user's channels. See [`at`].
///
/// # Errors
/// As [`at`]; [`InvalidInput`](ErrorKind::InvalidInput) for a name that cannot be.
pub fn of(name: impl AsRef<OsStr>) -> Result<Channel> {
    let name = name.as_ref().to_string_lossy();
    at(Name::new(Folder::default()?, &name)?.path())
}

/// The channel whose name is at this path: `/run/user/1000/sinew/camera`. Whose name it is the memory says; the one who
/// holds it may be dead.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) if there is no such name, or no process that may be looked at has its channel.
pub fn at(path: impl AsRef<Path>) -> Result<Channel> {
    let path = path.as_ref();
    let failed = |error: Error| error.on(Mechanism::Channel).object(format!("{path:?}"));
    let stat = rustix::fs::lstat(path).map_err(|errno| failed(Error::os(LOOK, errno)))?;
    let identity = Identity::of(&stat);
    let (channel, unreadable) = with_socket(identity)?;
    channel.ok_or_else(|| {
        failed(Error::new(ErrorKind::NotFound, LOOK))
            .because(format!("no process that may be looked at has it ({unreadable} may not)"))
    })
}

/// The channel whose name this socket had last, and how many processes may not be looked at.
pub(super) fn with_socket(identity: Identity) -> Result<(Option<Channel>, usize)> {
    let found = process::scan()?;
    let of_name = |found: process::Found| {
        let contents = found.contents.ok()?;
        (contents.socket() == identity).then(|| contents.channel(found.object))
    };
    Ok((found.objects.into_iter().find_map(of_name), found.unreadable))
}

/// What is done here, in errors.
const LOOK: &str = "look at a channel";

impl Channel {
    /// Messages that were sent, through all lanes, with those that were dropped.
    #[must_use]
    pub fn sent(&self) -> u64 {
        // In a queue, one that is received may not be counted by its sender yet.
        sum(self.lanes.iter().map(|lane| lane.sent)).max(self.received())
    }

    /// Of these, messages that were dropped because there was no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        sum(self.lanes.iter().map(|lane| lane.dropped))
    }

    /// Of these, messages that the receiver missed, or will have, because the sender took them away.
    #[must_use]
    pub fn lagged(&self) -> u64 {
        sum(self.lanes.iter().map(|lane| lane.lagged))
    }

    /// Messages that were received and released, by all receivers.
    #[must_use]
    pub fn received(&self) -> u64 {
        sum(self.receivers.iter().map(|receiver| receiver.received))
    }

    /// Messages that were sent, neither dropped nor missed, and are not released: those that nobody has received, that are borrowed, or, in a queue, were set
    /// aside.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let gone = [self.received(), self.lagged(), self.dropped()];
        gone.into_iter().fold(self.sent(), u64::saturating_sub)
    }
}

/// Rubbish overflows nothing.
fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// The number of a sleep: what else is in the word is flags.
const NUMBER: u64 = (1 << 62) - 1;

fn presence_of(word: u64) -> (Presence, u64) {
    (presence::kind_of(word), word >> KINDS)
}

impl Lane {
    /// From its words. Those of the receiver were read before those of the sender.
    pub(super) fn of(
        sender: Words<'_, SenderField>,
        side: Words<'_, SideField>,
        ring: Option<(u64, Words<'_, ReceiverField>)>,
        overtaken: bool,
    ) -> Self {
        let (presence, turn) = presence_of(side(SideField::Presence));
        let (mut committed, mut bytes) = (sender(SenderField::Sent), sender(SenderField::Bytes));
        let (mut received, mut received_bytes, mut in_use) = (None, None, None);
        let mut lagged = 0;
        if let Some((capacity, receiver)) = ring {
            let (count, in_them) = if overtaken {
                let counted = Counted::of(receiver);
                lagged = counted.lagged(sender(SenderField::OldestNumber));
                committed = committed.max(counted.received.saturating_add(lagged));
                (counted.received, counted.bytes)
            } else {
                (receiver(ReceiverField::Received), receiver(ReceiverField::Bytes))
            };
            // A sender counts a message after it has sent it, and it may be received by then.
            (committed, bytes) = (committed.max(count), bytes.max(in_them));
            (received, received_bytes) = (Some(count), Some(in_them));
            let used = sender(SenderField::Tail).saturating_sub(receiver(ReceiverField::Head));
            in_use = Some(used.min(capacity));
        }
        let dropped = sender(SenderField::Dropped);
        let dropped_bytes = sender(SenderField::DroppedBytes);
        Self {
            presence,
            turn,
            asleep: side(SideField::Sleeping) & NUMBER != 0,
            sent: committed.saturating_add(dropped),
            sent_bytes: bytes.saturating_add(dropped_bytes),
            dropped,
            dropped_bytes,
            lagged,
            received,
            received_bytes,
            in_use,
            high_water: side(SideField::HighWater),
            sleeps: side(SideField::Sleeps),
            rings: side(SideField::Rung),
        }
    }
}

/// How one reads a word.
pub(super) type Words<'a, F> = &'a dyn Fn(F) -> u64;

impl Receiver {
    /// A worker, from its words.
    pub(super) fn of_worker(side: Words<'_, SideField>) -> Self {
        Self::of(side, side(SideField::Received), side(SideField::Bytes))
    }

    /// The one of these lanes.
    pub(super) fn of_lanes(
        side: Words<'_, SideField>,
        lanes: impl Iterator<Item = (u64, u64)>,
    ) -> Self {
        let add = |sum: (u64, u64), one: (u64, u64)| {
            (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
        };
        let (received, bytes) = lanes.fold((0, 0), add);
        Self::of(side, received, bytes)
    }

    fn of(side: Words<'_, SideField>, received: u64, bytes: u64) -> Self {
        let (presence, turn) = presence_of(side(SideField::Presence));
        Self {
            presence,
            turn,
            asleep: side(SideField::Sleeping) & NUMBER != 0,
            received,
            bytes,
            sleeps: side(SideField::Sleeps),
            rings: side(SideField::Rung),
        }
    }
}

impl Pattern {
    /// As the header has it. None for one that this version does not know, or that cannot be of this shape.
    fn of(shape: &Shape) -> Option<Self> {
        match (shape.pattern, shape.slots) {
            (1, 0) => Some(Self::Stream),
            (2, 0) => Some(Self::FanIn),
            (3, 1..) => Some(Self::Queue),
            _ => None,
        }
    }
}
