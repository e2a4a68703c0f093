//! Each message to exactly one of many workers, and to another if that one dies.
//!
//! ```
//! use sinew::channel::Options;
//! use sinew::wait::{Borrows, Receives, Sends};
//!
//! let (senders, workers) = Options::queue(1, 2).local()?;
//! senders[0].send(b"one").unwrap();
//! senders[0].send(b"two").unwrap();
//!
//! let job = workers[0].borrow().unwrap();
//! assert_eq!((&*job, job.delivery_count()), (&b"one"[..], 1));
//! let mut buf = [0; 64];
//! assert_eq!(workers[1].recv(&mut buf), Ok(3));
//! assert_eq!(&buf[..3], b"two");
//! drop(job);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Between processes
//! Under a name, which lives on when its holder dies; senders and workers come and go as they like, up to the numbers that
//! the queue was made for. Every member knows of a death within milliseconds, whoever the others are: the jobs of a dead worker
//! are given to others, and its place to whoever comes next.
//!
//! ```
//! use sinew::channel::Options;
//! use sinew::wait::{Borrows, Sends};
//!
//! let (name, jobs) = (format!("example-{}", std::process::id()), Options::queue(4, 8));
//! let sender = jobs.sender().create(&name)?;
//! // In up to eight other processes:
//! let worker = jobs.receiver().open(&name)?;
//! sender.send(b"a job").unwrap();
//! assert_eq!(&*worker.borrow().unwrap(), b"a job");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Delivery
//! A [`Job`] that is borrowed is its worker's until it is dropped. If the worker dies first, it is given to another: at
//! least once, and [`Job::delivery_count`] tells. [`recv`](crate::wait::Receives::recv) copies a message out and is done with
//! it before it returns: at most once. A message over which so many workers died as
//! [`Options::deliveries`] says is set aside and left to [`Worker::aside`].
//!
//! A worker that is stopped is slow, not dead: what it has stays its own. Nobody else is held up by it; senders
//! step over what it has, and over what was set aside, as often as they come by. So a queue is full only when
//! nobody takes what is there, or when the slots are all in somebody's hands.
//!
//! The messages of one sender are given out in their order, those of several in turns; a message that comes back
//! is given out before those that follow it.
//!
//! # The end
//! As for a [stream](super#the-end), and each worker is told of each sender that died, once. A worker that has no message is told [`Closed`](crate::RecvError::Closed) only when
//! the others are done with theirs too: until then one of them may die, and leave work to do.
//!
//! # Costs
//! No system call where nobody sleeps, at either end. Who sends wakes one worker, not all. A message takes a slot of 64
//! bytes, and memory in steps of 64 bytes.

mod crew;
#[cfg(any(test, sinew_fuzz))]
pub(super) mod fuzz;
mod map;
mod options;
mod publish;
mod recovery;
mod sender;
mod slots;
mod worker;

#[cfg(all(test, sinew_loom))]
mod models;
#[cfg(test)]
mod tests;

pub(crate) use crew::MOST_WORKERS;
pub use options::Options;
pub(crate) use recovery::{Recovery, Successor};
pub use sender::{Loan, Sender};
#[cfg(any(test, sinew_fuzz))]
pub(super) use slots::Swap;
pub(crate) use slots::{MOST_DELIVERIES, MOST_SLOTS, SLOT};
pub use worker::{Aside, Job, Worker};
