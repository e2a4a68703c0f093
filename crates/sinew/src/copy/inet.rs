//! TCP and UDP between processes of one host, over the loopback interface.
//!
//! For two processes that will always be on one host a UNIX socket is faster, carries descriptors
//! and credentials, and is guarded by file permissions. TCP and UDP are for what cannot speak
//! anything else, and for what may move to another host later.
//!
//! - [`TcpStream`](std::net::TcpStream) is std's; the verbs are implemented on it. [`pair`] gives
//!   two connected ones.
//! - [`Listener`] accepts, [`Connector`] connects; both are made by [`TcpOptions`] too.
//! - [`Udp`] is a type of its own, because std's `UdpSocket` has a `recv` that silently cuts long
//!   datagrams.
//!
//! ```
//! use sinew::inet::{self, Listener};
//! use sinew::wait::{Accepts, ByteStream, Receives, Sends};
//!
//! let listener = Listener::loopback()?; // 127.0.0.1, and a free port
//! let address = listener.local_addr()?;
//! let client = inet::connect(address)?;
//! let server = listener.accept()?;
//!
//! client.send(b"12345678").unwrap();
//! let mut word = [0; 8];
//! server.exact().recv(&mut word).unwrap();
//! assert_eq!(&word, b"12345678");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Who can reach it
//! A port has no permissions. Every process of the network namespace, of whatever user, can connect
//! to 127.0.0.1 and to ::1, and nothing in the connection says who it is: authenticate, or use a
//! UNIX socket. A process of another host cannot: the kernel drops packets for loopback addresses
//! that arrive on another interface. Each container usually has a loopback of its own.
//!
//! Nothing here binds anything but loopback unless it is told an address. Binding `0.0.0.0` or `::`
//! (which takes IPv4 too where `net.ipv6.bindv6only` is 0) exposes the port to every network that
//! the host is on: without TLS anybody on the way can read and change what is sent, and anybody at
//! all can connect. See ip(7), ipv6(7), tcp(7), udp(7).
//!
//! # When the other process dies
//! The kernel closes its sockets. What it had sent still arrives, then [`Closed`] follows. If it
//! left something unread, the kernel sends a reset instead; what was received before that is
//! delivered, and then it is [`Closed`] too. A reset and an orderly end are not told apart, as
//! both can mean that the process died: a protocol that needs to know says goodbye by a message.
//! A *stopped* process is not dead: its kernel goes on acknowledging until the buffers are full;
//! bound the wait, or see [`TcpOptions::user_timeout`].
//!
//! [`Closed`]: crate::RecvError::Closed

mod option;
mod stream;
mod tcp;
mod udp;

pub use stream::pair;
pub use tcp::{Connector, Listener, TcpOptions, connect};
pub use udp::{To, Udp, UdpOptions, WithSender};
