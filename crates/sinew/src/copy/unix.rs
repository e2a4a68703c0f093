//! UNIX domain sockets: the way for two processes of one host to talk, pass descriptors and know
//! who the other is.
//!
//! | I need | use |
//! |---|---|
//! | bytes in order | std's `UnixStream`: [`pair`], [`StreamListener`], [`Address::stream`] |
//! | messages in order, over a connection | [`Seqpacket`], [`SeqpacketListener`], [`Address::seqpacket`] |
//! | messages from anybody to one receiver | [`Datagram`] |
//! | to pass descriptors | [`Socket::with_fds`] to send, [`Socket::fds`] to receive |
//! | to know who the other is | [`Socket::peer_credentials`], [`Socket::peer_pidfd`] |
//!
//! All three are reliable: the kernel drops and reorders nothing, and a sender waits for room.
//!
//! ```
//! use sinew::unix::{Address, Socket, StreamListener};
//! use sinew::wait::{Accepts, ByteStream, Connects, Receives, Sends};
//!
//! let folder = tempfile::tempdir()?;
//! let address = Address::path(folder.path().join("jobs"))?;
//! let listener = StreamListener::bind(&address)?;
//! let client = address.stream().connect()?;
//! let server = listener.accept()?;
//! assert_eq!(server.peer_credentials()?.pid(), Some(std::process::id()));
//!
//! client.send(b"12345678").unwrap();
//! let mut word = [0; 8];
//! server.exact().recv(&mut word).unwrap();
//! assert_eq!(&word, b"12345678");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who can reach it
//! A path is guarded by the permissions of its folder and by its own mode: connecting needs write
//! permission, and what is bound here has mode 0600. An abstract name has no permissions: every
//! process of the network namespace can connect, and whoever comes first can take the name. Use
//! one only with a check of [`Socket::peer_credentials`].
//!
//! # When the other process dies
//! Streams and seqpacket sockets: what it had sent still arrives, then the end follows as
//! [`Closed`](crate::RecvError::Closed), and sending is [`Closed`](crate::SendError::Closed). Datagram sockets:
//! sending is `Closed`, a receiver is told nothing. A child that was forked and holds the socket
//! too keeps it open. A stopped process is not dead: its queue fills, then senders wait.
//!
//! No call raises SIGPIPE. See unix(7), socket(7).

mod address;
mod ancillary;
mod binding;
mod connector;
mod credentials;
mod datagram;
mod listener;
mod message;
mod seqpacket;
mod socket;
mod stream;
mod sys;

pub use address::Address;
pub use ancillary::{Ancillary, Fds, MAX_FDS, Message};
pub use connector::Connector;
pub use credentials::{ClaimedCredentials, PeerCredentials};
pub use datagram::{Datagram, To, WithSender};
pub use listener::{Connection, Listener, Options, SeqpacketListener, StreamListener};
pub use seqpacket::Seqpacket;
pub use socket::Socket;
pub use stream::pair;
