//! What each mechanism is and can do: the types of the one table.

use std::fmt;

use super::Mechanism;
use super::table::TABLE;
use crate::limits::{Limit, Value};

/// What is true of one mechanism. Plain data; [`Mechanism::facts`] gives it.
///
/// ```
/// use sinew::Mechanism;
///
/// let facts = Mechanism::PosixMq.facts();
/// assert!(facts.priority && facts.pollable && !facts.passes_fds);
/// assert!(facts.sources.contains(&"mq_overview(7)"));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// Which mechanism.
    pub mechanism: Mechanism,
    /// What it is, in one sentence.
    pub about: &'static str,
    /// Where else in Sinew it appears.
    pub roles: Roles,
    /// What goes through it.
    pub carries: Carries,
    /// Whether a receiver sees where one message ends and the next begins.
    pub boundaries: Boundaries,
    /// Who can send to whom.
    pub direction: Direction,
    /// How two processes find the same object; the first is the usual way.
    pub naming: &'static [Naming],
    /// How long it lives.
    pub lifetime: Lifetime,
    /// Whether poll(2) and epoll(7) can wait for it, so that it fits an event loop.
    pub pollable: bool,
    /// Whether file descriptors can be sent through it.
    pub passes_fds: bool,
    /// Whether more urgent messages overtake others.
    pub priority: bool,
    /// What the kernel tells a receiver about the sender.
    pub credentials: Credentials,
    /// The largest message.
    pub largest: Largest,
    /// What a send that succeeded means.
    pub accepted: Accepted,
    /// What is atomic and what is not.
    pub atomicity: &'static str,
    /// What is left after a participant was killed.
    pub after_crash: &'static str,
    /// The manual pages and other sources.
    pub sources: &'static [&'static str],
    /// The limits of the host that bound it.
    pub limits: &'static [Limit],
}

/// Where in Sinew a mechanism appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Roles {
    /// It can carry an endpoint: messages between two programs by an address.
    pub endpoint: bool,
    /// It has rows in `sinew bench`.
    pub bench_row: bool,
    /// Its objects on this host can be listed.
    pub listed: bool,
}

/// What goes through a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Carries {
    /// Bytes in order.
    Bytes,
    /// Messages, each whole.
    Messages,
    /// Memory that several processes see, or that one reads and writes in another.
    Memory,
    /// One number.
    Number,
    /// The news that something happened.
    Events,
    /// No data: it decides who goes and who waits.
    Order,
}

/// Whether a receiver sees where one message ends and the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Boundaries {
    /// Each receive gives exactly one message.
    Kept,
    /// Bytes run together; a length or a mark has to be sent along.
    NotKept,
    /// Kept in packet mode (O_DIRECT, up to PIPE_BUF bytes), else not.
    InPacketMode,
    /// There are no messages.
    NoMessages,
}

/// Who can send to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// From the writing side to the reading side.
    OneWay,
    /// Both sides send and receive.
    BothWays,
    /// Everyone who has it sees and changes the same thing.
    Shared,
    /// One process acts on another, which takes no part.
    OneSided,
}

/// How two processes find the same object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Naming {
    /// A path in the file system.
    Path,
    /// An abstract socket name: no file, no permissions, per network namespace.
    Abstract,
    /// An address and a port.
    Port,
    /// A name of its own kind, as `/jobs` of a POSIX queue or a bus name.
    Name,
    /// A System V key, usually made by ftok(3).
    Key,
    /// A System V identifier.
    Id,
    /// A descriptor, inherited or passed over a UNIX socket.
    Fd,
    /// Inheritance over fork(2) alone.
    Fork,
    /// A place in memory that both have mapped.
    Memory,
    /// A process id.
    Pid,
}

/// How long an object lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lifetime {
    /// As long as one process has it open, mapped or on the way to another.
    Reference,
    /// Until it is removed or the machine stops, whether or not anybody uses it.
    Kernel,
    /// Until its file is removed; it is there again after a restart of the machine.
    FileSystem,
    /// As long as the process that it belongs to.
    Process,
    /// As long as the memory that it lies in.
    Memory,
}

/// What the kernel tells a receiver about the sender. What a peer says about itself is no
/// credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Credentials {
    /// Nothing.
    None,
    /// Who is connected (SO_PEERCRED and the like), and who sent each message if asked for.
    Connection,
    /// Who sent each message, if asked for.
    Message,
}

/// The largest message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Largest {
    /// It carries no messages of a size of their own.
    NoMessages,
    /// A stream, or memory: as much as one likes.
    Unbounded,
    /// So many bytes.
    Bytes(u64),
    /// What this limit says.
    Limit(Limit),
    /// The socket's send buffer (SO_SNDBUF as getsockopt tells it) less so many bytes.
    SendBufferLess(u64),
}

/// What a send that succeeded means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Accepted {
    /// In a buffer of the kernel, and lost if the receiver ends without reading it.
    Buffered,
    /// Handed to the kernel, which drops it without a word when the receiver's buffer is full.
    MayBeDropped,
    /// In a queue of the kernel that outlives both sides until it is removed.
    Queued,
    /// In memory that the others see at once; whether they looked is theirs to say.
    Visible,
    /// In the page cache of a file: outlives both processes, and the machine once it is synced.
    Stored,
    /// Done: the other process has it, or it was changed.
    Done,
    /// It holds no data.
    Nothing,
}

impl Mechanism {
    /// What is true of it.
    ///
    /// ```
    /// use sinew::Mechanism;
    ///
    /// let pollable: Vec<_> = Mechanism::ALL.into_iter().filter(|m| m.facts().pollable).collect();
    /// assert!(pollable.contains(&Mechanism::PosixMq));
    /// assert!(!pollable.contains(&Mechanism::SysvMq));
    /// ```
    #[must_use]
    pub fn facts(self) -> &'static Facts {
        // A test holds the table to the order of the enumeration.
        &TABLE[self as usize]
    }
}

impl Largest {
    /// The largest message on this host now, in bytes: what an unprivileged process gets without
    /// setting anything. `None` if there is no such bound or the limit behind it cannot be read.
    #[must_use]
    pub fn now(self) -> Option<u64> {
        match self {
            Self::NoMessages | Self::Unbounded => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Limit(limit) => limit.value(),
            Self::SendBufferLess(less) => Limit::WmemDefault.value()?.checked_sub(less),
        }
    }
}

impl fmt::Display for Largest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMessages => f.write_str("no messages"),
            Self::Unbounded => f.write_str("no bound"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Limit(limit) => match limit.read() {
                Ok(Value::Finite(value)) => write!(f, "{value} bytes ({limit})"),
                Ok(Value::Unlimited) => write!(f, "no bound ({limit} is unlimited)"),
                Err(_) => write!(f, "{limit}, which cannot be read here"),
            },
            Self::SendBufferLess(less) => match self.now() {
                Some(now) => write!(f, "{now} bytes (SO_SNDBUF less {less}, which can be raised)"),
                None => write!(f, "SO_SNDBUF less {less} bytes"),
            },
        }
    }
}

/// Gives a plain enumeration its words, one per variant: `name` for machines, and Display.
macro_rules! words {
    ($($kind:ident { $($variant:ident: $name:literal, $text:literal;)* })*) => {
        $(
            impl $kind {
                /// The short name, stable, as in `sinew mechanisms --json`.
                #[must_use]
                pub const fn name(self) -> &'static str {
                    match self { $(Self::$variant => $name,)* }
                }

                /// In words.
                #[must_use]
                pub const fn text(self) -> &'static str {
                    match self { $(Self::$variant => $text,)* }
                }
            }

            impl fmt::Display for $kind {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.pad(self.text())
                }
            }
        )*
    };
}

words! {
    Carries {
        Bytes: "bytes", "a byte stream";
        Messages: "messages", "messages";
        Memory: "memory", "memory";
        Number: "number", "one number";
        Events: "events", "events";
        Order: "order", "no data: it decides who goes and who waits";
    }
    Boundaries {
        Kept: "kept", "kept: each receive gives exactly one message";
        NotKept: "not-kept", "not kept: send a length or a mark along";
        InPacketMode: "in-packet-mode", "kept in packet mode (O_DIRECT, up to 4096 bytes), else not";
        NoMessages: "no-messages", "there are no messages";
    }
    Direction {
        OneWay: "one-way", "one way";
        BothWays: "both-ways", "both ways";
        Shared: "shared", "shared: everyone who has it sees and changes the same thing";
        OneSided: "one-sided", "one process acts on another, which takes no part";
    }
    Naming {
        Path: "path", "a path";
        Abstract: "abstract", "an abstract socket name";
        Port: "port", "an address and a port";
        Name: "name", "a name of its own kind";
        Key: "key", "a System V key";
        Id: "id", "a System V identifier";
        Fd: "fd", "a descriptor, inherited or passed";
        Fork: "fork", "inheritance over fork";
        Memory: "memory", "a place in shared memory";
        Pid: "pid", "a process id";
    }
    Lifetime {
        Reference: "reference", "as long as somebody has it open or mapped";
        Kernel: "kernel", "until it is removed or the machine stops";
        FileSystem: "file-system", "until its file is removed, over restarts of the machine";
        Process: "process", "as long as the process that it belongs to";
        Memory: "memory", "as long as the memory that it lies in";
    }
    Credentials {
        None: "none", "the kernel says nothing about the sender";
        Connection: "connection", "the kernel says who is connected, and who sent a message";
        Message: "message", "the kernel says who sent each message, if asked for";
    }
    Accepted {
        Buffered: "buffered", "in a kernel buffer; lost if the receiver ends without reading it";
        MayBeDropped: "may-be-dropped", "handed over; dropped silently if the receiver's buffer is full";
        Queued: "queued", "in a kernel queue that outlives both sides until it is removed";
        Visible: "visible", "in memory that the others see at once";
        Stored: "stored", "in a file's page cache; outlives the machine once synced";
        Done: "done", "done: the other process has it";
        Nothing: "nothing", "it holds no data";
    }
}
