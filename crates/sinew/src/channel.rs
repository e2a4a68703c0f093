//! Messages through shared memory: no system call, no lock and no copy by the kernel, between processes that may be
//! killed at any instruction.
//!
//! ```
//! use sinew::channel::Options;
//! use sinew::wait::{Borrows, Loans, Receives, Sends};
//!
//! let (mut sender, receiver) = Options::stream().capacity(1 << 16).pair()?;
//!
//! sender.send(b"copied in").unwrap();
//! let mut buf = [0; 64];
//! let len = receiver.recv(&mut buf).unwrap();
//! assert_eq!(&buf[..len], b"copied in");
//!
//! let mut loan = sender.loan(8).unwrap();
//! loan.copy_from_slice(b"in place");
//! loan.send();
//! let message = receiver.borrow().unwrap();
//! assert_eq!(&*message, b"in place");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! A message goes whole or not at all, and is there when the call that sent it returns. Up to its
//! commit, by one store, nobody sees any of it: a sender that is killed leaves no part of one.
//!
//! # Delivery
//! [`borrow`](crate::wait::Borrows::borrow) gives a message where it lies; until it is released it is still in the channel, and is
//! given again if its receiver dies: at least once, and [`Message::delivery_count`] tells. [`recv`](crate::wait::Receives::recv) copies it
//! out and releases it before it returns: at most once. A sender that [drops the oldest](Full::DropOldest) never drops what is borrowed, also
//! when its receiver has died over it.
//!
//! # When it is full
//! The sender waits, or the call fails, or the newest or the oldest message is dropped: [`Full`]. Where the oldest are dropped a
//! sender never waits for a receiver that is slow, stopped or dead; what a receiver missed it is told by
//! [`Lagged`](crate::RecvError::Lagged), and what it has borrowed is never written over, however long. [`Counts`] says what became
//! of every message.
//!
//! ```
//! use sinew::RecvError;
//! use sinew::channel::{Full, Options};
//! use sinew::wait::{Receives, Sends};
//!
//! let (sender, receiver) = Options::stream().capacity(4096).full(Full::DropOldest).pair()?;
//! for number in 0..1000_u64 {
//!     sender.send(&number.to_le_bytes()).unwrap();
//! }
//! let mut buf = [0; 8];
//! let Err(RecvError::Lagged(missed)) = receiver.recv(&mut buf) else { panic!() };
//! assert_eq!(receiver.recv(&mut buf), Ok(8));
//! assert_eq!(u64::from_le_bytes(buf), missed);
//! assert_eq!(sender.counts().lagged, missed);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Between processes
//! Under a name ([`Options::sender`], [`Options::receiver`]):
//!
//! ```
//! use sinew::channel::Options;
//! use sinew::wait::{Receives, Sends};
//!
//! let name = format!("example-{}", std::process::id());
//! let receiver = Options::fan_in(8).receiver().create(&name)?;
//! // In another process:
//! let sender = Options::fan_in(8).sender().open(&name)?;
//! sender.send(b"hello").unwrap();
//! assert_eq!(receiver.recv(&mut [0; 64]), Ok(5));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! or without one, by an end that is handed to a child or over a socket ([`Options::ends`]). The channel lives as long as one
//! process has an end of it, with the messages that are in it; a name is gone with the last one, and what `kill -9` leaves in the
//! folder is a dead socket that the next one takes over.
//!
//! A process that has such an end has one service thread, which lets newcomers in, notices deaths and takes the name over when
//! its holder is gone. It touches no message. A program with a loop of its own can do that work there: [`without_thread`].
//!
//! # Of a type
//! Values that mean the same in every process are messages as they lie, and their layout is checked when an end is attached:
//! [`Options::typed`].
//!
//! # Many at once
//! A [`WaitSet`] waits for several channels, and any other descriptors, in one call.
//!
//! # The end
//! A sender that is dropped has left: when everything it sent was received, and no other sender is there, a
//! receiver is told [`Closed`](crate::RecvError::Closed). One that died is told by [`PeerDied`](crate::RecvError::PeerDied), once.
//! When the receiver has left and no other can come, as in a pair, a sender that would wait for room is told
//! [`Closed`](crate::SendError::Closed); elsewhere it waits for the next receiver.
//!
//! # Whom to trust
//! Every process that has the channel can write all of its memory: processes of one user, which may
//! die and mean well. Whatever is read there is checked all the same: rubbish ends in `Corrupt`, and no
//! read is outside of the map.
//!
//! # Costs
//! In a steady flow no system call at either end. Whoever finds nothing looks on for about 20 microseconds
//! while the other side runs on another CPU, and then sleeps in the kernel; who sends to a sleeper pays one system call.
//!
//! Source: membarrier(2), futex(2), memfd_create(2).

mod attach;
mod bell;
mod counters;
mod fence;
mod folder;
#[cfg(any(test, sinew_fuzz))]
pub mod fuzz;
mod lane;
mod layout;
#[allow(dead_code, reason = "what its tests look at")]
mod member;
mod memory;
#[allow(dead_code, reason = "what its tests look at")]
mod name;
mod options;
mod presence;
pub mod queue;
mod receiver;
mod ring;
mod sender;
#[allow(dead_code, reason = "what its tests look at")]
mod service;
mod spin;
pub mod stats;
mod typed;
mod wait_set;

pub use attach::{Attach, Awaited, End, Unattached};
pub use counters::Counts;
pub use options::{Full, Options};
pub use receiver::{MOST_BORROWED, Message, Receiver};
pub use sender::{Loan, Sender};
pub use service::{serve, service_fd, without_thread};
pub use typed::{
    Payload, Type, Typed, TypedLoan, TypedMessage, TypedOptions, TypedReceiver, TypedSender,
    Versions,
};
pub use wait_set::{WaitSet, Watch};
