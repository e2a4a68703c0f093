//! The verbs: one trait each, with one required method and its four forms.

use std::time::{Duration, Instant};

use super::Wait;
use crate::error::{LockError, RecvError, Result, SendError, WaitError};

/// What can send bytes or messages.
///
/// A message goes whole or not at all. A byte stream goes whole too, however many system calls
/// that takes; what stops it half-way is [`SendError::Partial`], which says how much went. No call
/// raises SIGPIPE.
pub trait Sends {
    /// Sends `data`, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`SendError`].
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError>;

    /// Sends `data`; waits for room as long as it takes.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline]
    fn send(&self, data: &[u8]) -> Result<(), SendError> {
        self.send_wait(data, Wait::FOREVER)
    }

    /// Sends `data` if there is room now.
    ///
    /// # Errors
    /// [`SendError::Full`] if there is none; see [`SendError`].
    #[inline]
    fn try_send(&self, data: &[u8]) -> Result<(), SendError> {
        self.send_wait(data, Wait::NEVER)
    }

    /// Sends `data`; waits for room at most `timeout`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn send_timeout(&self, data: &[u8], timeout: Duration) -> Result<(), SendError> {
        self.send_wait(data, Wait::timeout(timeout))
    }

    /// Sends `data`; waits for room at most until `deadline`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn send_until(&self, data: &[u8], deadline: Instant) -> Result<(), SendError> {
        self.send_wait(data, Wait::until(deadline))
    }
}

/// What can receive bytes or messages.
///
/// A message mechanism gives one message a call, a byte stream at least one byte. The end is
/// always [`RecvError::Closed`], never a length of zero.
pub trait Receives {
    /// What a call gives: the length, and whatever else arrives with a message.
    type Received;

    /// Receives into `buf`, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`RecvError`].
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Self::Received, RecvError>;

    /// Receives into `buf`; waits as long as it takes.
    ///
    /// # Errors
    /// See [`RecvError`].
    #[inline]
    fn recv(&self, buf: &mut [u8]) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::FOREVER)
    }

    /// Receives into `buf` if something is there now.
    ///
    /// # Errors
    /// [`RecvError::Empty`] if nothing is; see [`RecvError`].
    #[inline]
    fn try_recv(&self, buf: &mut [u8]) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::NEVER)
    }

    /// Receives into `buf`; waits at most `timeout`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if nothing came; see [`RecvError`].
    #[inline]
    fn recv_timeout(&self, buf: &mut [u8], timeout: Duration) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::timeout(timeout))
    }

    /// Receives into `buf`; waits at most until `deadline`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if nothing came; see [`RecvError`].
    #[inline]
    fn recv_until(&self, buf: &mut [u8], deadline: Instant) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::until(deadline))
    }
}

/// What lends room for a message in the memory that its receiver reads, to be written there and sent
/// without a copy.
pub trait Loans {
    /// The room. Dropped, nothing was sent.
    type Loan<'a>
    where
        Self: 'a;

    /// Lends room for `len` bytes, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`SendError`].
    fn loan_wait(&mut self, len: usize, wait: Wait<'_>) -> Result<Self::Loan<'_>, SendError>;

    /// Lends room for `len` bytes; waits for it as long as it takes.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline]
    fn loan(&mut self, len: usize) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(len, Wait::FOREVER)
    }

    /// Lends room for `len` bytes if there is some now.
    ///
    /// # Errors
    /// [`SendError::Full`] if there is none; see [`SendError`].
    #[inline]
    fn try_loan(&mut self, len: usize) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(len, Wait::NEVER)
    }

    /// Lends room for `len` bytes; waits for it at most `timeout`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn loan_timeout(&mut self, len: usize, timeout: Duration) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(len, Wait::timeout(timeout))
    }

    /// Lends room for `len` bytes; waits for it at most until `deadline`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn loan_until(&mut self, len: usize, deadline: Instant) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(len, Wait::until(deadline))
    }
}

/// What gives a message where its sender wrote it, without a copy, until it is released.
///
/// A message whose receiver dies before it is released is given again: at least once. [`Receives`] copies a
/// message and releases it before it returns: at most once.
pub trait Borrows {
    /// The message. Dropped, it is released.
    type Message<'a>
    where
        Self: 'a;

    /// Gives the next message, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`RecvError`].
    fn borrow_wait(&self, wait: Wait<'_>) -> Result<Self::Message<'_>, RecvError>;

    /// Gives the next message; waits for it as long as it takes.
    ///
    /// # Errors
    /// See [`RecvError`].
    #[inline]
    fn borrow(&self) -> Result<Self::Message<'_>, RecvError> {
        self.borrow_wait(Wait::FOREVER)
    }

    /// Gives the next message if one is there now.
    ///
    /// # Errors
    /// [`RecvError::Empty`] if there is none; see [`RecvError`].
    #[inline]
    fn try_borrow(&self) -> Result<Self::Message<'_>, RecvError> {
        self.borrow_wait(Wait::NEVER)
    }

    /// Gives the next message; waits for it at most `timeout`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if there was none; see [`RecvError`].
    #[inline]
    fn borrow_timeout(&self, timeout: Duration) -> Result<Self::Message<'_>, RecvError> {
        self.borrow_wait(Wait::timeout(timeout))
    }

    /// Gives the next message; waits for it at most until `deadline`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if there was none; see [`RecvError`].
    #[inline]
    fn borrow_until(&self, deadline: Instant) -> Result<Self::Message<'_>, RecvError> {
        self.borrow_wait(Wait::until(deadline))
    }
}

/// A byte stream: [`recv`](Receives::recv) gives whatever is there, [`exact`](Self::exact) waits
/// for the whole buffer.
pub trait ByteStream: Receives<Received = usize> + Sized {
    /// A view that receives exactly as many bytes as the buffer has.
    ///
    /// ```
    /// use sinew::pipe;
    /// use sinew::wait::{ByteStream, Receives, Sends};
    ///
    /// let (rx, tx) = pipe::pipe()?;
    /// tx.send(b"12").unwrap();
    /// tx.send(b"34").unwrap();
    /// let mut four = [0; 4];
    /// rx.exact().recv(&mut four).unwrap();
    /// assert_eq!(&four, b"1234");
    /// # Ok::<(), sinew::Error>(())
    /// ```
    fn exact(&self) -> Exact<'_, Self> {
        Exact(self)
    }
}

/// A byte stream that fills the whole buffer. Made by [`ByteStream::exact`].
#[derive(Debug)]
pub struct Exact<'a, S>(&'a S);

impl<S: ByteStream> Receives for Exact<'_, S> {
    type Received = ();

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<(), RecvError> {
        if buf.is_empty() {
            return Ok(());
        }
        match self.0.recv_wait(buf, wait) {
            Ok(count) if count == buf.len() => Ok(()),
            first => self.recv_rest(buf, first, wait),
        }
    }
}

impl<S: ByteStream> Exact<'_, S> {
    #[cold]
    #[inline(never)]
    fn recv_rest(
        &self,
        buf: &mut [u8],
        first: Result<usize, RecvError>,
        wait: Wait<'_>,
    ) -> Result<(), RecvError> {
        let mut received = 0;
        let mut last = first;
        loop {
            match last {
                Ok(count) => received += count,
                Err(error) if received == 0 => return Err(error),
                Err(error) => {
                    return Err(RecvError::Partial { received, stop: error.into_stop() });
                }
            }
            if received >= buf.len() {
                return Ok(());
            }
            last = self.0.recv_wait(&mut buf[received..], wait);
        }
    }
}

/// What can accept connections.
pub trait Accepts {
    /// What a call gives.
    type Connection;

    /// Accepts one connection, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`](crate::Error).
    fn accept_wait(&self, wait: Wait<'_>) -> Result<Self::Connection>;

    /// Accepts one connection; waits as long as it takes.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`](crate::Error).
    fn accept(&self) -> Result<Self::Connection> {
        self.accept_wait(Wait::FOREVER)
    }

    /// Accepts one connection if that needs no waiting.
    ///
    /// # Errors
    /// Of kind [`WouldBlock`](crate::ErrorKind::WouldBlock) if it needs waiting.
    fn try_accept(&self) -> Result<Self::Connection> {
        self.accept_wait(Wait::NEVER)
    }

    /// Accepts one connection; waits at most `timeout`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too short.
    fn accept_timeout(&self, timeout: Duration) -> Result<Self::Connection> {
        self.accept_wait(Wait::timeout(timeout))
    }

    /// Accepts one connection; waits at most until `deadline`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too early.
    fn accept_until(&self, deadline: Instant) -> Result<Self::Connection> {
        self.accept_wait(Wait::until(deadline))
    }
}

/// What can connect to a listener.
pub trait Connects {
    /// What a call gives.
    type Connection;

    /// Connects, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`](crate::Error).
    fn connect_wait(&self, wait: Wait<'_>) -> Result<Self::Connection>;

    /// Connects; waits as long as it takes.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`](crate::Error).
    fn connect(&self) -> Result<Self::Connection> {
        self.connect_wait(Wait::FOREVER)
    }

    /// Connects if that needs no waiting.
    ///
    /// # Errors
    /// Of kind [`WouldBlock`](crate::ErrorKind::WouldBlock) if it needs waiting.
    fn try_connect(&self) -> Result<Self::Connection> {
        self.connect_wait(Wait::NEVER)
    }

    /// Connects; waits at most `timeout`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too short.
    fn connect_timeout(&self, timeout: Duration) -> Result<Self::Connection> {
        self.connect_wait(Wait::timeout(timeout))
    }

    /// Connects; waits at most until `deadline`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too early.
    fn connect_until(&self, deadline: Instant) -> Result<Self::Connection> {
        self.connect_wait(Wait::until(deadline))
    }
}

/// What can be opened once another process is there (an end of a FIFO).
pub trait Opens {
    /// What a call gives.
    type Opened;

    /// Opens it, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`](crate::Error).
    fn open_wait(&self, wait: Wait<'_>) -> Result<Self::Opened>;

    /// Opens it; waits as long as it takes.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`](crate::Error).
    fn open(&self) -> Result<Self::Opened> {
        self.open_wait(Wait::FOREVER)
    }

    /// Opens it if that needs no waiting.
    ///
    /// # Errors
    /// Of kind [`WouldBlock`](crate::ErrorKind::WouldBlock) if it needs waiting.
    fn try_open(&self) -> Result<Self::Opened> {
        self.open_wait(Wait::NEVER)
    }

    /// Opens it; waits at most `timeout`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too short.
    fn open_timeout(&self, timeout: Duration) -> Result<Self::Opened> {
        self.open_wait(Wait::timeout(timeout))
    }

    /// Opens it; waits at most until `deadline`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too early.
    fn open_until(&self, deadline: Instant) -> Result<Self::Opened> {
        self.open_wait(Wait::until(deadline))
    }
}

/// What something can be waited for: an event, a count, a child's end.
///
/// What a call gives is the event itself, consumed: the count of an eventfd, the ticks of a timer,
/// a signal. Of several waiters one has it.
pub trait Waits {
    /// What a call gives.
    type Waited;

    /// Waits for it as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`WaitError`].
    fn wait_for(&self, wait: Wait<'_>) -> Result<Self::Waited, WaitError>;

    /// Waits as long as it takes.
    ///
    /// # Errors
    /// See [`WaitError`].
    #[inline]
    fn wait(&self) -> Result<Self::Waited, WaitError> {
        self.wait_for(Wait::FOREVER)
    }

    /// Takes it if it is there now.
    ///
    /// # Errors
    /// [`WaitError::WouldBlock`] if it is not; see [`WaitError`].
    #[inline]
    fn try_wait(&self) -> Result<Self::Waited, WaitError> {
        self.wait_for(Wait::NEVER)
    }

    /// Waits at most `timeout`.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`] if it did not come; see [`WaitError`].
    #[inline]
    fn wait_timeout(&self, timeout: Duration) -> Result<Self::Waited, WaitError> {
        self.wait_for(Wait::timeout(timeout))
    }

    /// Waits at most until `deadline`.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`] if it did not come; see [`WaitError`].
    #[inline]
    fn wait_until(&self, deadline: Instant) -> Result<Self::Waited, WaitError> {
        self.wait_for(Wait::until(deadline))
    }
}

/// What can be locked. The guard holds the lock until it is dropped.
pub trait Locks {
    /// Holds the lock.
    type Guard<'a>
    where
        Self: 'a;
    /// Holds a lock whose owner died: what it guards has to be repaired first.
    /// [`Infallible`](std::convert::Infallible) where the kernel simply releases the locks of the dead.
    type Died<'a>
    where
        Self: 'a;

    /// Locks it, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`LockError`].
    fn lock_wait(&self, wait: Wait<'_>) -> Result<Self::Guard<'_>, LockError<Self::Died<'_>>>;

    /// Locks it; waits as long as it takes.
    ///
    /// # Errors
    /// See [`LockError`].
    #[inline]
    fn lock(&self) -> Result<Self::Guard<'_>, LockError<Self::Died<'_>>> {
        self.lock_wait(Wait::FOREVER)
    }

    /// Locks it if it is free now.
    ///
    /// # Errors
    /// [`LockError::WouldBlock`] if it is not; see [`LockError`].
    #[inline]
    fn try_lock(&self) -> Result<Self::Guard<'_>, LockError<Self::Died<'_>>> {
        self.lock_wait(Wait::NEVER)
    }

    /// Locks it; waits at most `timeout`.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] if it stayed locked; see [`LockError`].
    #[inline]
    fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Self::Guard<'_>, LockError<Self::Died<'_>>> {
        self.lock_wait(Wait::timeout(timeout))
    }

    /// Locks it; waits at most until `deadline`.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] if it stayed locked; see [`LockError`].
    #[inline]
    fn lock_until(&self, deadline: Instant) -> Result<Self::Guard<'_>, LockError<Self::Died<'_>>> {
        self.lock_wait(Wait::until(deadline))
    }
}
