//! What a row moves its messages with.

use std::io;

/// Moves whole messages of a known length. Static dispatch: each loop of a row is compiled for its
/// carrier, as a user's own loop would be.
pub(crate) trait Carrier {
    /// Sends the whole message; waits as long as it takes.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// Receives a message of exactly the length of `buf`; waits as long as it takes.
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()>;
}
