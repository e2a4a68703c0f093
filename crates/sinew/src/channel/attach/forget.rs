//! Giving up the place that is kept for a durable member.

use super::{durable, private};
use crate::channel::queue;
use crate::channel::receiver::Receiver;
use crate::channel::sender::Sender;
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

fn forget(end: &impl private::End, name: &[u8]) -> Result<()> {
    match end.member() {
        Some(member) => member.forget(&durable(name)?),
        None => Err(Error::new(ErrorKind::Unsupported, "forget a member")
            .on(Mechanism::Channel)
            .because("this end did not come by a name")),
    }
}

impl Receiver {
    /// Gives up the place that is kept for a [durable](super::Attach::durable) member that is dead or has left: anybody can
    /// have it then, a receiver's with the messages that waited for it. Any member can do that. Does not wait.
    ///
    /// ```
    /// use sinew::channel::Options;
    /// use sinew::wait::{Receives, Sends};
    ///
    /// let (name, stream) = (format!("example-{}", std::process::id()), Options::stream());
    /// let receiver = stream.receiver().durable("archive")?.create(&name)?;
    /// let sender = stream.sender().open(&name)?;
    /// sender.send(b"kept").unwrap();
    /// drop(receiver);
    /// assert!(stream.receiver().open(&name).is_err());
    /// sender.forget("archive")?;
    /// assert_eq!(stream.receiver().open(&name)?.recv(&mut [0; 8]), Ok(4));
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse) if that member is there, naming its process, or came and died so lately that this process has
    /// not been told of it; [`NotFound`](ErrorKind::NotFound) if no place is
    /// kept under that name; [`Unsupported`](ErrorKind::Unsupported) if this end did not come by a name.
    pub fn forget(&self, name: impl AsRef<[u8]>) -> Result<()> {
        forget(self, name.as_ref())
    }
}

impl Sender {
    /// Gives up the place that is kept for a durable member: see [`Receiver::forget`].
    ///
    /// # Errors
    /// As there.
    pub fn forget(&self, name: impl AsRef<[u8]>) -> Result<()> {
        forget(self, name.as_ref())
    }
}

impl queue::Worker {
    /// Gives up the place that is kept for a durable member: see [`Receiver::forget`].
    ///
    /// # Errors
    /// As there.
    pub fn forget(&self, name: impl AsRef<[u8]>) -> Result<()> {
        forget(self, name.as_ref())
    }
}

impl queue::Sender {
    /// Gives up the place that is kept for a durable member: see [`Receiver::forget`].
    ///
    /// # Errors
    /// As there.
    pub fn forget(&self, name: impl AsRef<[u8]>) -> Result<()> {
        forget(self, name.as_ref())
    }
}
