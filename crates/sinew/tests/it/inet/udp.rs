//! UDP: datagrams, their boundaries and their losses.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use sinew::inet::{Udp, UdpOptions};
use sinew::wait::{Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    datagrams_keep_their_boundaries,
    a_datagram_longer_than_the_buffer_is_lost_and_told,
    the_longest_datagram_is_as_long_as_said,
    the_longest_datagram_over_ipv6_is_longer,
    a_connected_socket_hears_only_its_peer,
    answers_go_to_the_sender,
    a_killed_receiver_refuses_and_its_successor_receives,
    a_waiting_receiver_is_woken_by_a_refusal,
    dropped_datagrams_are_counted,
    a_datagram_socket_waits_as_it_is_told,
    an_unconnected_socket_needs_an_address,
    a_datagram_socket_converts_both_ways,
];
pub(crate) const ROLES: &[Role] = roles![udp_receiver];

/// Binds, says where, and says the length of each datagram that comes.
fn udp_receiver(link: &Link) {
    let at: SocketAddr = link.hear().parse().unwrap();
    let socket = Udp::bind(at).unwrap();
    link.say(socket.local_addr().unwrap());
    let mut buf = [0; 1000];
    loop {
        match socket.recv(&mut buf) {
            Ok(length) => link.say(length),
            Err(error) => link.say(error),
        }
    }
}

/// A receiver at this address, and a socket connected to it.
fn to_receiver(at: SocketAddr) -> (Peer, Udp) {
    let peer = Peer::spawn("inet::udp::udp_receiver");
    peer.say(at);
    let socket = Udp::connect(peer.hear().parse::<SocketAddr>().unwrap()).unwrap();
    (peer, socket)
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn datagrams_keep_their_boundaries() -> Result<(), Skip> {
    let (peer, socket) = to_receiver(ANY_PORT);
    for length in [1, 1000, 0, 17] {
        socket.send(&vec![1; length]).unwrap();
    }
    for length in ["1", "1000", "0", "17"] {
        peer.expect(length);
    }
    socket.send(&[0; 1001]).unwrap();
    peer.expect("the message is longer than the buffer (it has 1001 bytes) and was cut");
    Ok(())
}

fn a_datagram_longer_than_the_buffer_is_lost_and_told() -> Result<(), Skip> {
    let (a, b) = Udp::pair().unwrap();
    let mut buf = [0; 4];
    let lost = RecvError::TooSmall { needed: Some(5), lost: true };
    a.send(b"12345").unwrap();
    a.send(b"12345").unwrap();
    a.send(b"").unwrap();
    a.send(b"1234").unwrap();
    assert_eq!(b.recv(&mut buf), Err(lost));
    assert_eq!(b.with_sender().recv(&mut buf), Err(lost));
    // Empty is no end, with any buffer.
    assert_eq!(b.recv(&mut []), Ok(0));
    assert_eq!(b.recv(&mut buf), Ok(4));
    Ok(())
}

/// Finds the longest datagram that goes and compares it with the stated limit.
fn longest(receiver: &Udp, sender: &Udp, limit: usize) {
    let longer = vec![0; limit + 1];
    assert_eq!(sender.send(&longer), Err(SendError::TooBig { limit }));
    let to = receiver.local_addr().unwrap();
    assert_eq!(receiver.to(to).send(&longer), Err(SendError::TooBig { limit }));
    sender.send(&longer[..limit]).unwrap();
    assert_eq!(receiver.recv(&mut vec![0; 70_000]), Ok(limit));
}

fn the_longest_datagram_is_as_long_as_said() -> Result<(), Skip> {
    let receiver = Udp::loopback().unwrap();
    let sender = Udp::connect(receiver.local_addr().unwrap()).unwrap();
    longest(&receiver, &sender, 65_507);
    Ok(())
}

fn the_longest_datagram_over_ipv6_is_longer() -> Result<(), Skip> {
    let Ok(receiver) = Udp::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return skip("this host has no ::1");
    };
    let sender = Udp::connect(receiver.local_addr().unwrap()).unwrap();
    longest(&receiver, &sender, 65_527);
    // An IPv6 socket that speaks IPv4.
    let receiver = Udp::loopback().unwrap();
    let port = receiver.local_addr().unwrap().port();
    let sender = Udp::connect((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port)).unwrap();
    let limit = 65_507;
    assert_eq!(sender.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    sender.send(&vec![0; limit]).unwrap();
    Ok(())
}

fn a_connected_socket_hears_only_its_peer() -> Result<(), Skip> {
    let (a, b) = Udp::pair().unwrap();
    let stranger = Udp::loopback().unwrap();
    stranger.to(a.local_addr().unwrap()).send(b"psst").unwrap();
    b.send(b"you").unwrap();
    assert_eq!(a.recv(&mut [0; 8]), Ok(3));
    assert_eq!(a.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    Ok(())
}

fn answers_go_to_the_sender() -> Result<(), Skip> {
    let server = Udp::loopback().unwrap();
    let clients = [Udp::loopback().unwrap(), Udp::loopback().unwrap()];
    let mut buf = [0; 8];
    for client in &clients {
        let to = client.to(server.local_addr().unwrap());
        to.send(b"a").unwrap();
        to.try_send(b"bc").unwrap();
        for length in [1, 2] {
            let got = server.with_sender().recv(&mut buf).unwrap();
            assert_eq!(got, (length, client.local_addr().unwrap()));
            server.to(got.1).send(&buf[..length]).unwrap();
        }
        assert_eq!(client.recv(&mut buf), Ok(1));
        assert_eq!(client.recv(&mut buf), Ok(2));
    }
    Ok(())
}

fn a_killed_receiver_refuses_and_its_successor_receives() -> Result<(), Skip> {
    let (peer, socket) = to_receiver(ANY_PORT);
    let at = socket.peer_addr().unwrap();
    socket.send(b"one").unwrap();
    peer.expect("3");
    peer.kill();
    // The refusal of one datagram is told by the next call.
    socket.send(b"into the void").unwrap();
    assert_eq!(socket.send(b"told"), Err(SendError::Closed));
    socket.send(b"into the void").unwrap();
    assert_eq!(socket.recv(&mut [0; 8]), Err(RecvError::Closed));
    assert_eq!(socket.try_recv(&mut [0; 8]), Err(RecvError::Empty), "told once");

    let (successor, _) = to_receiver(at);
    socket.send(b"again").unwrap();
    successor.expect("5");
    Ok(())
}

fn a_waiting_receiver_is_woken_by_a_refusal() -> Result<(), Skip> {
    let gone = Udp::loopback().unwrap().local_addr().unwrap();
    let socket = Udp::connect(gone).unwrap();
    thread::scope(|s| {
        let waiting = s.spawn(|| socket.recv(&mut [0; 8]));
        socket.send(b"x").unwrap();
        assert_eq!(waiting.join().unwrap(), Err(RecvError::Closed));
    });
    let timeout = Duration::from_secs(30);
    socket.send(b"x").unwrap();
    assert_eq!(socket.recv_timeout(&mut [0; 8], timeout), Err(RecvError::Closed));
    Ok(())
}

fn dropped_datagrams_are_counted() -> Result<(), Skip> {
    let receiver = UdpOptions::new().receive_buffer(20_000).bind_loopback().unwrap();
    let sender = Udp::connect(receiver.local_addr().unwrap()).unwrap();
    assert_eq!(receiver.dropped().unwrap(), 0);
    let mut received = 0;
    let mut sent = 0;
    for round in 1..=3 {
        for _ in 0..100 {
            sender.send(&[0; 1000]).unwrap();
            sent += 1;
        }
        loop {
            match receiver.try_recv(&mut [0; 1000]) {
                Ok(1000) => received += 1,
                Err(RecvError::Empty) => break,
                other => panic!("{other:?}"),
            }
        }
        let dropped = receiver.dropped().unwrap();
        assert!(dropped >= round * 50, "{dropped}");
        assert_eq!(sent, received + dropped, "every datagram is accounted for");
    }
    assert_eq!(sender.dropped().unwrap(), 0);
    Ok(())
}

fn a_datagram_socket_waits_as_it_is_told() -> Result<(), Skip> {
    let (a, b) = Udp::pair().unwrap();
    let mut buf = [0; 8];
    assert_eq!(a.try_recv(&mut buf), Err(RecvError::Empty));
    assert_eq!(a.with_sender().try_recv(&mut buf), Err(RecvError::Empty));
    let pause = Duration::from_millis(10);
    let began = Instant::now();
    assert_eq!(a.recv_timeout(&mut buf, pause), Err(RecvError::TimedOut));
    assert!(began.elapsed() >= pause);
    let stop = Interrupt::new().unwrap();
    thread::scope(|s| {
        s.spawn(|| stop.trigger());
        let wait = Wait::FOREVER.interrupted_by(&stop);
        assert_eq!(a.with_sender().recv_wait(&mut buf, wait), Err(RecvError::Interrupted));
    });
    b.send_timeout(b"x", pause).unwrap();
    assert_eq!(a.recv_timeout(&mut buf, pause), Ok(1));
    Ok(())
}

fn an_unconnected_socket_needs_an_address() -> Result<(), Skip> {
    let socket = Udp::loopback().unwrap();
    assert_eq!(socket.send(b"x"), Err(SendError::Os(libc::EDESTADDRREQ)));
    assert_eq!(socket.peer_addr().unwrap_err().kind(), ErrorKind::Closed);
    let other = Udp::loopback().unwrap();
    socket.connect_to(other.local_addr().unwrap()).unwrap();
    socket.send(b"x").unwrap();
    assert_eq!(other.recv(&mut [0; 4]), Ok(1));
    Ok(())
}

fn a_datagram_socket_converts_both_ways() -> Result<(), Skip> {
    let socket = UdpSocket::from(Udp::loopback().unwrap());
    let address = socket.local_addr().unwrap();
    let socket = Udp::from(OwnedFd::from(Udp::from(socket)));
    assert_eq!(socket.local_addr().unwrap(), address);
    Ok(())
}
