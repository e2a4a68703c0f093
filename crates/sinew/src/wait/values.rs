//! The verbs for values of a type, as those for bytes.

use std::time::{Duration, Instant};

use super::Wait;
use crate::error::{RecvError, Result, SendError};

/// What can send values.
pub trait SendsValues {
    /// What is sent.
    type Value: ?Sized;

    /// Sends `value`, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`SendError`].
    fn send_wait(&self, value: &Self::Value, wait: Wait<'_>) -> Result<(), SendError>;

    /// Sends `value`; waits for room as long as it takes.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline]
    fn send(&self, value: &Self::Value) -> Result<(), SendError> {
        self.send_wait(value, Wait::FOREVER)
    }

    /// Sends `value` if there is room now.
    ///
    /// # Errors
    /// [`SendError::Full`] if there is none; see [`SendError`].
    #[inline]
    fn try_send(&self, value: &Self::Value) -> Result<(), SendError> {
        self.send_wait(value, Wait::NEVER)
    }

    /// Sends `value`; waits for room at most `timeout`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn send_timeout(&self, value: &Self::Value, timeout: Duration) -> Result<(), SendError> {
        self.send_wait(value, Wait::timeout(timeout))
    }

    /// Sends `value`; waits for room at most until `deadline`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn send_until(&self, value: &Self::Value, deadline: Instant) -> Result<(), SendError> {
        self.send_wait(value, Wait::until(deadline))
    }
}

/// What can receive values. The end is [`RecvError::Closed`].
pub trait ReceivesValues {
    /// What a call gives.
    type Value;

    /// Receives a value, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`RecvError`].
    fn recv_wait(&self, wait: Wait<'_>) -> Result<Self::Value, RecvError>;

    /// Receives a value; waits as long as it takes.
    ///
    /// # Errors
    /// See [`RecvError`].
    #[inline]
    fn recv(&self) -> Result<Self::Value, RecvError> {
        self.recv_wait(Wait::FOREVER)
    }

    /// Receives a value if one is there now.
    ///
    /// # Errors
    /// [`RecvError::Empty`] if there is none; see [`RecvError`].
    #[inline]
    fn try_recv(&self) -> Result<Self::Value, RecvError> {
        self.recv_wait(Wait::NEVER)
    }

    /// Receives a value; waits at most `timeout`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if nothing came; see [`RecvError`].
    #[inline]
    fn recv_timeout(&self, timeout: Duration) -> Result<Self::Value, RecvError> {
        self.recv_wait(Wait::timeout(timeout))
    }

    /// Receives a value; waits at most until `deadline`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if nothing came; see [`RecvError`].
    #[inline]
    fn recv_until(&self, deadline: Instant) -> Result<Self::Value, RecvError> {
        self.recv_wait(Wait::until(deadline))
    }
}

/// What lends room for a value in the memory that its receiver reads, as [`Loans`](super::Loans) does for bytes.
pub trait LoansValues {
    /// The room. Dropped, nothing was sent.
    type Loan<'a>
    where
        Self: 'a;

    /// Lends room, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`SendError`].
    fn loan_wait(&mut self, wait: Wait<'_>) -> Result<Self::Loan<'_>, SendError>;

    /// Lends room; waits for it as long as it takes.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline]
    fn loan(&mut self) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(Wait::FOREVER)
    }

    /// Lends room if there is some now.
    ///
    /// # Errors
    /// [`SendError::Full`] if there is none; see [`SendError`].
    #[inline]
    fn try_loan(&mut self) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(Wait::NEVER)
    }

    /// Lends room; waits for it at most `timeout`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn loan_timeout(&mut self, timeout: Duration) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(Wait::timeout(timeout))
    }

    /// Lends room; waits for it at most until `deadline`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn loan_until(&mut self, deadline: Instant) -> Result<Self::Loan<'_>, SendError> {
        self.loan_wait(Wait::until(deadline))
    }
}
