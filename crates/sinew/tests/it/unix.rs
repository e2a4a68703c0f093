//! UNIX sockets: names, the verbs, limits and ends.

pub(crate) mod binding;
pub(crate) mod credentials;
pub(crate) mod descriptors;

use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};
use rustix::net::SendFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use sinew::limits::Limit;
use sinew::unix::{self, Address, Datagram, Seqpacket, Socket};
use sinew::wait::{ByteStream, Connects, Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError, Stop};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, steps, tests};

pub(crate) const TESTS: &[Test] = tests![
    an_address_survives_being_printed_and_parsed,
    a_path_has_at_most_108_bytes_and_an_abstract_name_107,
    a_path_of_108_bytes_binds_and_is_named_to_others,
    a_message_takes_one_system_call,
    a_stream_carries_all_bytes_between_processes,
    a_stream_that_stops_half_way_says_how_much_went,
    messages_keep_their_bounds_between_processes,
    a_message_longer_than_the_buffer_is_lost_and_says_its_length,
    a_message_longer_than_the_send_buffer_names_the_limit,
    an_empty_record_is_told_from_the_end_as_far_as_can_be,
    a_datagram_may_be_empty,
    a_datagram_names_its_sender,
    a_full_receiver_is_back_pressure,
    a_dead_receiver_is_closed,
    a_datagram_socket_that_was_shut_down_does_not_spin,
    what_came_before_a_shutdown_is_received_and_nothing_after_it,
    a_killed_peer_is_the_end,
    unread_data_at_the_peers_end_is_still_the_end,
    what_a_peer_sent_arrives_though_it_left_messages_unread,
    a_stopped_peer_is_slow_and_not_gone,
    waits_end_by_deadline_and_interrupt,
    a_closed_peer_raises_no_signal,
    the_send_buffer_is_bounded_by_wmem_max,
    an_attempt_changes_no_flag_of_the_description,
    sockets_convert_to_and_from_those_of_std,
];
pub(crate) const ROLES: &[Role] =
    roles![echo_stream, count_messages, hold, send_with_sigpipe_default];

/// Stops a peer, and returns when it has stopped.
fn stop(peer: &Peer) {
    peer.signal(Signal::STOP);
    waitid(WaitId::Pid(peer.pid()), WaitIdOptions::STOPPED).unwrap();
}

/// Gives a role its end of a connection.
fn give(peer: &Peer, fd: impl Into<OwnedFd>) {
    peer.send_fd(fd.into());
}

fn an_address_survives_being_printed_and_parsed() -> Result<(), Skip> {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    runner
        .run(&vec(any::<u8>(), 0..=107), |name| {
            let address = Address::abstract_name(&name).unwrap();
            assert_eq!(address.as_abstract(), Some(&name[..]));
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            Ok(())
        })
        .unwrap();
    runner
        .run(&vec(1..=u8::MAX, 1..=106), |path| {
            use std::os::unix::ffi::OsStrExt;
            let os = std::ffi::OsStr::from_bytes(&path);
            let address = Address::path(os).unwrap();
            assert_eq!(address.as_path(), Some(std::path::Path::new(os)));
            let again: Address = address.to_string().parse().unwrap();
            let expected = if path[0] == b'@' { [b"./", &path[..]].concat() } else { path.clone() };
            assert_eq!(again.as_path().unwrap().as_os_str().as_bytes(), expected);
            Ok(())
        })
        .unwrap();
    runner
        .run(&any::<String>(), |text| {
            if let Ok(address) = text.parse::<Address>() {
                assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
            Ok(())
        })
        .unwrap();
    for bad in ["", "a\0b", "\\", "\\q", "\\x1", "\\xgg"] {
        assert_eq!(bad.parse::<Address>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    assert_eq!(Address::unnamed().to_string(), "(unnamed)");
    Ok(())
}

fn a_path_has_at_most_108_bytes_and_an_abstract_name_107() -> Result<(), Skip> {
    assert!(Address::path("x".repeat(108)).is_ok());
    let error = Address::path("x".repeat(109)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(text.contains("109 bytes") && text.contains("108"), "{text}");
    assert!(text.contains("shorter path"), "{text}");
    assert!(Address::abstract_name(vec![0; 107]).is_ok());
    let error = Address::abstract_name(vec![0; 108]).unwrap_err();
    assert!(error.to_string().contains("107"), "{error}");
    Ok(())
}

fn a_path_of_108_bytes_binds_and_is_named_to_others() -> Result<(), Skip> {
    let folder = scratch();
    let room = 107 - folder.as_os_str().len();
    let address = Address::path(folder.join("x".repeat(room))).unwrap();
    assert_eq!(address.as_path().unwrap().as_os_str().len(), 108);
    let bound = Datagram::bind(&address).unwrap();
    assert_eq!(bound.local_address().unwrap(), address);
    let other = Datagram::unbound().unwrap();
    other.connect(&address).unwrap();
    assert_eq!(other.peer_address().unwrap(), address);
    // Its name is one byte longer than the kernel's structure; both ways of receiving take it.
    let own = Address::path(folder.join("own")).unwrap();
    let receiver = Datagram::bind(&own).unwrap();
    bound.to(&own).send(b"x").unwrap();
    bound.to(&own).send(b"x").unwrap();
    assert_eq!(receiver.with_sender().recv(&mut [0; 4]).unwrap(), (1, address.clone()));
    assert_eq!(receiver.fds(0).recv(&mut [0; 4]).unwrap().sender, address);
    Ok(())
}

/// Runs `exchange` step by step: exactly `calls`, each soon after it is entered.
fn assert_calls(exchange: impl FnMut(), calls: &[libc::c_long]) -> Result<(), Skip> {
    let Ok(steps) = steps::measure(3, exchange) else {
        return skip("this process may not trace its own child");
    };
    let numbers: Vec<_> = steps.calls.iter().map(|c| c.number).collect();
    assert_eq!(numbers, calls);
    if cfg!(not(debug_assertions)) {
        for call in &steps.calls {
            assert!(call.instructions_before <= 100, "{steps:?}");
        }
    }
    Ok(())
}

fn a_message_takes_one_system_call() -> Result<(), Skip> {
    let exchange = [libc::SYS_sendto, libc::SYS_recvfrom];
    let data = [7; 64];
    let mut buf = [0; 64];
    let (a, b) = unix::pair().unwrap();
    assert_calls(
        || {
            a.send(&data).unwrap();
            b.recv(&mut buf).unwrap();
        },
        &exchange,
    )?;
    assert_calls(
        || {
            a.try_send(&data).unwrap();
            b.try_recv(&mut buf).unwrap();
        },
        &exchange,
    )?;
    let (a, b) = Seqpacket::pair().unwrap();
    assert_calls(
        || {
            a.send(&data).unwrap();
            b.recv(&mut buf).unwrap();
        },
        &exchange,
    )?;
    assert_calls(
        || {
            a.try_send(&data).unwrap();
            b.try_recv(&mut buf).unwrap();
        },
        &exchange,
    )?;
    let (a, b) = Datagram::pair().unwrap();
    assert_calls(
        || {
            a.send(&data).unwrap();
            b.recv(&mut buf).unwrap();
        },
        &exchange,
    )?;
    assert_calls(
        || {
            a.try_send(&data).unwrap();
            b.try_recv(&mut buf).unwrap();
        },
        &exchange,
    )?;
    let name = Address::abstract_name(format!("sinew-steps-{}", std::process::id())).unwrap();
    let b = Datagram::bind(&name).unwrap();
    let a = Datagram::unbound().unwrap();
    assert_calls(
        || {
            a.to(&name).send(&data).unwrap();
            b.with_sender().recv(&mut buf).unwrap();
        },
        &exchange,
    )
}

fn echo_stream(link: &Link) {
    let stream: UnixStream = link.recv_fd().into();
    let mut buf = vec![0; 70_000];
    loop {
        match stream.recv(&mut buf) {
            Ok(count) => stream.send(&buf[..count]).unwrap(),
            Err(error) => return link.say(format!("{error:?}")),
        }
    }
}

fn a_stream_carries_all_bytes_between_processes() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::echo_stream");
    let (a, b) = unix::pair().unwrap();
    give(&peer, b);
    let data: Vec<u8> = (0..150_000_u32).map(|n| (n % 251) as u8).collect();
    let mut back = vec![0; data.len()];
    for chunk in [1, 4096, 150_000] {
        for (piece, back) in data.chunks(chunk).zip(back.chunks_mut(chunk)).take(50) {
            a.send(piece).unwrap();
            a.exact().recv(back).unwrap();
        }
    }
    assert_eq!(back, data);
    assert_eq!(a.recv(&mut []), Ok(0));
    assert_eq!(a.try_recv(&mut [0; 4]), Err(RecvError::Empty));
    a.shutdown(Shutdown::Write).unwrap();
    peer.expect("Closed");
    peer.join();
    assert_eq!(a.recv(&mut [0; 4]), Err(RecvError::Closed));
    assert_eq!(a.send(b"x"), Err(SendError::Closed));
    Ok(())
}

fn a_stream_that_stops_half_way_says_how_much_went() -> Result<(), Skip> {
    let (a, b) = unix::pair().unwrap();
    let data: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 253) as u8).collect();
    let Err(SendError::Partial { sent, stop: Stop::WouldBlock }) = a.try_send(&data) else {
        panic!("four million bytes do not fit")
    };
    let mut back = vec![0; sent];
    b.exact().recv(&mut back).unwrap();
    assert_eq!(back, data[..sent]);
    assert_eq!(b.try_recv(&mut back), Err(RecvError::Empty));
    let late = a.send_timeout(&data, Duration::from_millis(20));
    assert!(matches!(late, Err(SendError::Partial { stop: Stop::TimedOut, .. })), "{late:?}");
    Ok(())
}

/// Receives messages and says the length of each, then how it ended.
fn count_messages(link: &Link) {
    let socket: Seqpacket = link.recv_fd().into();
    let mut buf = [0; 1000];
    loop {
        match socket.recv(&mut buf) {
            Ok(length) => link.say(length),
            Err(error) => {
                link.say(format!("{error:?}"));
                if error == RecvError::Closed {
                    return;
                }
            }
        }
    }
}

fn messages_keep_their_bounds_between_processes() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::count_messages");
    let (a, b) = Seqpacket::pair().unwrap();
    give(&peer, b);
    for length in [1, 1000, 7, 999] {
        a.send(&vec![1; length]).unwrap();
    }
    a.send(&[0; 1001]).unwrap();
    a.send(&[0; 3]).unwrap();
    drop(a);
    for length in [1, 1000, 7, 999] {
        peer.expect(&length.to_string());
    }
    peer.expect("TooSmall { needed: Some(1001), lost: true }");
    peer.expect("3");
    peer.expect("Closed");
    peer.join();
    Ok(())
}

fn a_message_longer_than_the_buffer_is_lost_and_says_its_length() -> Result<(), Skip> {
    fn check<S: Sends + Receives<Received = usize> + Socket>(a: &S, b: &S) {
        let lost = Some(RecvError::TooSmall { needed: Some(10), lost: true });
        a.send(&[1; 10]).unwrap();
        a.send(&[2; 4]).unwrap();
        assert_eq!(b.recv(&mut [0; 4]).err(), lost);
        assert_eq!(b.recv(&mut [0; 4]), Ok(4));
        a.send(&[1; 10]).unwrap();
        assert_eq!(b.fds(0).recv(&mut [0; 4]).err(), lost);
        a.send(&[1; 10]).unwrap();
        assert_eq!(b.recv(&mut []).err(), lost);
    }
    let (a, b) = Seqpacket::pair().unwrap();
    check(&a, &b);
    let (a, b) = Datagram::pair().unwrap();
    check(&a, &b);
    a.send(&[1; 10]).unwrap();
    let lost = b.with_sender().recv(&mut [0; 4]);
    assert_eq!(lost, Err(RecvError::TooSmall { needed: Some(10), lost: true }));
    Ok(())
}

fn a_message_longer_than_the_send_buffer_names_the_limit() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    let Err(SendError::TooBig { limit }) = a.send(&vec![0; 1 << 20]) else { panic!("1 MiB fits") };
    assert_eq!(a.max_message(), Some(limit));
    assert_eq!(limit, a.send_buffer().unwrap() - 32);
    a.send(&vec![0; limit]).unwrap();
    assert_eq!(b.recv(&mut vec![0; limit]), Ok(limit));
    assert_eq!(a.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    let (a, _b) = Datagram::pair().unwrap();
    assert_eq!(a.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    let (a, _b) = unix::pair().unwrap();
    assert_eq!(a.max_message(), None);
    Ok(())
}

fn an_empty_record_is_told_from_the_end_as_far_as_can_be() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    assert_eq!(a.send(b""), Err(SendError::Empty));
    assert_eq!(a.with_fds(&[]).send(b""), Err(SendError::Empty));
    let empty = || rustix::net::send(&a, b"", SendFlags::NOSIGNAL).unwrap();
    let mut buf = [0; 8];
    // While the connection stands.
    empty();
    assert_eq!(b.recv(&mut buf), Ok(0));
    empty();
    assert_eq!(b.fds(1).recv(&mut buf).unwrap().length, 0);
    assert_eq!(b.try_recv(&mut buf), Err(RecvError::Empty));
    // With something behind it.
    empty();
    a.send(b"last").unwrap();
    empty();
    drop(a);
    assert_eq!(b.recv(&mut buf), Ok(0));
    assert_eq!(b.recv(&mut buf), Ok(4));
    // As the last thing before the end it cannot be told from that.
    assert_eq!(b.recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(b.recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(b.fds(1).recv(&mut buf).unwrap_err(), RecvError::Closed);
    Ok(())
}

fn a_datagram_may_be_empty() -> Result<(), Skip> {
    let (a, b) = Datagram::pair().unwrap();
    a.send(b"").unwrap();
    assert_eq!(b.recv(&mut [0; 8]), Ok(0));
    a.with_fds(&[a.as_fd()]).send(b"").unwrap();
    assert_eq!(b.fds(1).recv(&mut [0; 8]).unwrap().fds.len(), 1);
    assert_eq!(b.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    Ok(())
}

fn a_datagram_names_its_sender() -> Result<(), Skip> {
    let server = Address::path(scratch().join("server")).unwrap();
    let client = Address::path(scratch().join("client")).unwrap();
    let rx = Datagram::bind(&server).unwrap();
    let tx = Datagram::bind(&client).unwrap();
    tx.to(&server).send(b"question").unwrap();
    let mut buf = [0; 16];
    let (length, from) = rx.with_sender().recv(&mut buf).unwrap();
    assert_eq!((&buf[..length], &from), (&b"question"[..], &client));
    rx.to(&from).with_fds(&[rx.as_fd()]).send(b"answer").unwrap();
    let answer = tx.fds(1).recv(&mut buf).unwrap();
    assert_eq!((answer.length, answer.fds.len(), answer.sender), (6, 1, server.clone()));
    // The kernel chooses a name.
    let anybody = Datagram::bind(&Address::unnamed()).unwrap();
    let name = anybody.local_address().unwrap();
    assert!(name.as_abstract().is_some_and(|n| n.len() == 5), "{name}");
    anybody.to(&server).send(b"x").unwrap();
    assert_eq!(rx.with_sender().recv(&mut buf).unwrap().1, name);
    // A receiver that is connected to one takes from no other.
    rx.connect(&client).unwrap();
    assert_eq!(anybody.connect(&server).unwrap_err().kind(), ErrorKind::PermissionDenied);
    Ok(())
}

fn a_full_receiver_is_back_pressure() -> Result<(), Skip> {
    let address = Address::path(scratch().join("rx")).unwrap();
    let rx = Datagram::bind(&address).unwrap();
    let tx = Datagram::unbound().unwrap();
    let limit = Limit::UnixMaxDgramQlen.value().unwrap();
    let mut sent = 0;
    let stopped = loop {
        match tx.to(&address).try_send(&[1]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent <= 100_000, "there is a limit");
    };
    assert_eq!(stopped, SendError::Full);
    assert!(sent == limit || sent == limit + 1, "{sent} of {limit}");
    let begin = Instant::now();
    let nap = Duration::from_millis(20);
    assert_eq!(tx.to(&address).send_timeout(&[1], nap), Err(SendError::TimedOut));
    assert!(begin.elapsed() >= nap);
    tx.connect(&address).unwrap();
    assert_eq!(tx.try_send(&[1]), Err(SendError::Full));
    assert_eq!(tx.send_timeout(&[1], nap), Err(SendError::TimedOut));
    std::thread::scope(|s| {
        let late = s.spawn(|| tx.send_timeout(&[2], Duration::from_secs(60)));
        let named = Datagram::unbound().unwrap();
        let named_late = s.spawn({
            let address = &address;
            move || named.to(address).send_timeout(&[2], Duration::from_secs(60))
        });
        for _ in 0..sent + 2 {
            rx.recv(&mut [0; 4]).unwrap();
        }
        assert_eq!(late.join().unwrap(), Ok(()));
        assert_eq!(named_late.join().unwrap(), Ok(()));
    });
    // The byte buffer of a sender is the other limit.
    let (a, b) = Seqpacket::pair().unwrap();
    let mut sent = 0;
    while a.try_send(&[0; 1000]).is_ok() {
        sent += 1;
    }
    assert_eq!(a.try_send(&[0; 1000]), Err(SendError::Full));
    for _ in 0..sent {
        assert_eq!(b.recv(&mut [0; 1000]), Ok(1000));
    }
    a.try_send(&[0; 1000]).unwrap();
    Ok(())
}

fn a_dead_receiver_is_closed() -> Result<(), Skip> {
    let (a, b) = Datagram::pair().unwrap();
    drop(b);
    assert_eq!(a.send(b"x"), Err(SendError::Closed));
    assert_eq!(a.send(b"x"), Err(SendError::Closed));
    let address = Address::path(scratch().join("rx")).unwrap();
    let rx = Datagram::bind(&address).unwrap();
    let tx = Datagram::unbound().unwrap();
    tx.connect(&address).unwrap();
    tx.send(b"x").unwrap();
    // As after a crash: the path stays.
    drop(OwnedFd::from(rx));
    assert_eq!(tx.send(b"x"), Err(SendError::Closed));
    assert_eq!(Datagram::unbound().unwrap().to(&address).send(b"x"), Err(SendError::Closed));
    let refused = Datagram::unbound().unwrap().connect(&address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    drop(Datagram::bind(&address).unwrap());
    let missing = Datagram::unbound().unwrap().to(&address).send(b"x");
    assert_eq!(missing, Err(SendError::Os(libc::ENOENT)));
    let (a, b) = Seqpacket::pair().unwrap();
    drop(b);
    assert_eq!(a.send(b"x"), Err(SendError::Closed));
    assert_eq!(a.recv(&mut [0; 1]), Err(RecvError::Closed));
    Ok(())
}

fn a_datagram_socket_that_was_shut_down_does_not_spin() -> Result<(), Skip> {
    let (a, _b) = Datagram::pair().unwrap();
    rustix::net::shutdown(&a, rustix::net::Shutdown::Both).unwrap();
    assert_eq!(a.recv(&mut [0; 1]), Err(RecvError::Closed));
    assert_eq!(a.recv_timeout(&mut [0; 1], Duration::from_secs(60)), Err(RecvError::Closed));
    assert_eq!(a.fds(1).recv(&mut [0; 1]).unwrap_err(), RecvError::Closed);
    assert_eq!(a.send(b"x"), Err(SendError::Closed));
    Ok(())
}

/// Takes sockets and keeps them until it is killed or told to end.
fn hold(link: &Link) {
    let mut kept = Vec::new();
    while let Some((_, fds)) = link.try_receive() {
        if fds.is_empty() {
            return;
        }
        kept.extend(fds);
        link.say("held");
    }
}

fn what_came_before_a_shutdown_is_received_and_nothing_after_it() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    let mut buf = [0; 16];
    b.send(b"before").unwrap();
    b.send(b"too").unwrap();
    a.shutdown(Shutdown::Read).unwrap();
    assert_eq!(b.try_send(b"after"), Err(SendError::Closed));
    assert_eq!(a.try_recv(&mut buf), Ok(6));
    assert_eq!(a.try_recv(&mut buf), Ok(3));
    assert_eq!(a.try_recv(&mut buf), Err(RecvError::Closed));
    // The other direction goes on.
    a.send(b"answer").unwrap();
    assert_eq!(b.try_recv(&mut buf), Ok(6));
    a.shutdown(Shutdown::Write).unwrap();
    assert_eq!(b.try_recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(a.try_send(b"x"), Err(SendError::Closed));
    b.shutdown(Shutdown::Both).unwrap();
    let (rx, _tx) = std::io::pipe().unwrap();
    let error = Seqpacket::from(OwnedFd::from(rx)).shutdown(Shutdown::Both).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    Ok(())
}

fn a_killed_peer_is_the_end() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::hold");
    let (stream, b) = unix::pair().unwrap();
    b.send(b"last words").unwrap();
    give(&peer, b);
    peer.expect("held");
    let (packets, b) = Seqpacket::pair().unwrap();
    b.send(b"last words").unwrap();
    give(&peer, b);
    peer.expect("held");
    let (datagrams, b) = Datagram::pair().unwrap();
    give(&peer, b);
    peer.expect("held");
    let mut buf = [0; 16];
    assert_eq!(stream.recv(&mut buf), Ok(10));
    std::thread::scope(|s| {
        let blocked = s.spawn(|| stream.recv(&mut [0; 16]));
        peer.kill();
        assert_eq!(blocked.join().unwrap(), Err(RecvError::Closed));
    });
    assert_eq!(packets.recv(&mut buf), Ok(10));
    assert_eq!(packets.recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(stream.send(b"x"), Err(SendError::Closed));
    assert_eq!(packets.send(b"x"), Err(SendError::Closed));
    assert_eq!(datagrams.send(b"x"), Err(SendError::Closed));
    assert_eq!(datagrams.try_recv(&mut buf), Err(RecvError::Empty));
    Ok(())
}

fn unread_data_at_the_peers_end_is_still_the_end() -> Result<(), Skip> {
    let (a, b) = unix::pair().unwrap();
    a.send(b"never read").unwrap();
    b.send(b"answer").unwrap();
    drop(b);
    assert_eq!(a.recv(&mut [0; 16]), Ok(6));
    assert_eq!(a.recv(&mut [0; 16]), Err(RecvError::Closed));
    assert_eq!(a.recv(&mut [0; 16]), Err(RecvError::Closed));
    let (a, b) = Seqpacket::pair().unwrap();
    a.send(b"never read").unwrap();
    drop(b);
    assert_eq!(a.recv(&mut [0; 16]), Err(RecvError::Closed));
    assert_eq!(a.send(b"x"), Err(SendError::Closed));
    Ok(())
}

fn what_a_peer_sent_arrives_though_it_left_messages_unread() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    let mut buf = [0; 16];
    a.send(b"never read").unwrap();
    b.send(b"answer").unwrap();
    b.send(b"more").unwrap();
    drop(b);
    // The kernel tells of the reset first.
    assert_eq!(a.recv(&mut buf), Ok(6));
    assert_eq!(a.fds(1).recv(&mut buf).unwrap().length, 4);
    assert_eq!(a.try_recv(&mut buf), Err(RecvError::Closed));
    let (a, b) = Seqpacket::pair().unwrap();
    a.send(b"never read").unwrap();
    b.send(b"answer").unwrap();
    drop(b);
    assert_eq!(a.fds(1).try_recv(&mut buf).unwrap().length, 6);
    assert_eq!(a.recv(&mut buf), Err(RecvError::Closed));
    Ok(())
}

fn a_stopped_peer_is_slow_and_not_gone() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::count_messages");
    let (a, b) = Seqpacket::pair().unwrap();
    give(&peer, b);
    a.send(&[0; 5]).unwrap();
    peer.expect("5");
    stop(&peer);
    let mut sent = 0;
    while a.try_send(&[0; 900]).is_ok() {
        sent += 1;
    }
    assert_eq!(a.send_timeout(&[0; 900], Duration::from_millis(20)), Err(SendError::TimedOut));
    peer.signal(Signal::CONT);
    a.send_timeout(&[0; 900], Duration::from_secs(60)).unwrap();
    drop(a);
    for _ in 0..=sent {
        peer.expect("900");
    }
    peer.expect("Closed");
    peer.join();
    Ok(())
}

fn waits_end_by_deadline_and_interrupt() -> Result<(), Skip> {
    fn check<S: Sends + Receives<Received = usize> + Socket + Sync>(a: &S, b: &S) {
        let nap = Duration::from_millis(20);
        let begin = Instant::now();
        assert_eq!(b.recv_timeout(&mut [0; 4], nap), Err(RecvError::TimedOut));
        assert!(begin.elapsed() >= nap);
        assert_eq!(b.fds(1).recv_timeout(&mut [0; 4], nap).unwrap_err(), RecvError::TimedOut);
        assert_eq!(b.fds(1).try_recv(&mut [0; 4]).unwrap_err(), RecvError::Empty);
        let stop = Interrupt::new().unwrap();
        std::thread::scope(|s| {
            let wait = Wait::FOREVER.interrupted_by(&stop);
            let blocked = s.spawn(move || b.recv_wait(&mut [0; 4], wait));
            stop.trigger();
            assert_eq!(blocked.join().unwrap(), Err(RecvError::Interrupted));
        });
        let wait = Wait::NEVER.interrupted_by(&stop);
        assert_eq!(a.send_wait(b"x", wait), Err(SendError::Interrupted));
        std::thread::scope(|s| {
            let blocked = s.spawn(|| b.recv_timeout(&mut [0; 4], Duration::from_secs(60)));
            a.send(b"now").unwrap();
            assert_eq!(blocked.join().unwrap(), Ok(3));
        });
    }
    let (a, b) = unix::pair().unwrap();
    check(&a, &b);
    let (a, b) = Seqpacket::pair().unwrap();
    check(&a, &b);
    let (a, b) = Datagram::pair().unwrap();
    check(&a, &b);
    Ok(())
}

fn send_with_sigpipe_default(link: &Link) {
    // SAFETY: this process has one thread and sets no handler, only the default.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let closed = [SendError::Closed, SendError::Closed];
    let (a, _) = unix::pair().unwrap();
    let fds = [a.as_fd()];
    assert_eq!([a.send(b"x"), a.with_fds(&fds).send(b"x")].map(Result::unwrap_err), closed);
    let (a, _) = Seqpacket::pair().unwrap();
    assert_eq!([a.send(b"x"), a.with_fds(&fds).send(b"x")].map(Result::unwrap_err), closed);
    let (a, _) = Datagram::pair().unwrap();
    assert_eq!([a.send(b"x"), a.with_fds(&fds).send(b"x")].map(Result::unwrap_err), closed);
    link.say("alive");
    // The trap is armed: without the flag the signal ends the process.
    let (a, _) = unix::pair().unwrap();
    let _ = rustix::net::send(&a, b"x", SendFlags::empty());
    link.say("the signal did not come");
}

fn a_closed_peer_raises_no_signal() -> Result<(), Skip> {
    use std::os::unix::process::ExitStatusExt;
    let mut peer = Peer::spawn("unix::send_with_sigpipe_default");
    peer.expect("alive");
    assert_eq!(peer.wait().signal(), Some(libc::SIGPIPE));
    Ok(())
}

fn the_send_buffer_is_bounded_by_wmem_max() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    assert!(a.set_send_buffer(8192).unwrap() >= 16384);
    let limit = a.max_message().unwrap();
    assert!(limit >= 8192);
    assert_eq!(a.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    // A small buffer is back-pressure, nothing is lost.
    let mut sent = 0;
    while a.try_send(&[0; 100]).is_ok() {
        sent += 1;
    }
    assert!((1..200).contains(&sent), "{sent}");
    for _ in 0..sent {
        b.recv(&mut [0; 100]).unwrap();
    }
    let wmem_max = usize::try_from(Limit::WmemMax.value().unwrap()).unwrap();
    match a.set_send_buffer(wmem_max * 2) {
        Ok(size) => assert!(size >= wmem_max * 4, "CAP_NET_ADMIN goes beyond the limit"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::LimitReached);
            assert!(error.to_string().contains("net.core.wmem_max"), "{error}");
            assert_eq!(a.send_buffer().unwrap(), wmem_max * 2);
        }
    }
    let error = a.set_send_buffer(usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    Ok(())
}

fn an_attempt_changes_no_flag_of_the_description() -> Result<(), Skip> {
    fn check<S: Sends + Receives<Received = usize> + Socket>(a: &S, b: &S) {
        let flags = |s: &S| rustix::fs::fcntl_getfl(s.as_fd()).unwrap();
        let before = flags(a);
        assert!(!before.contains(rustix::fs::OFlags::NONBLOCK));
        let _ = a.try_recv(&mut [0; 1]);
        let _ = b.recv_timeout(&mut [0; 1], Duration::from_millis(1));
        a.send_timeout(b"x", Duration::from_secs(1)).unwrap();
        b.try_recv(&mut [0; 1]).unwrap();
        assert_eq!(flags(a), before);
        // A description that somebody made non-blocking waits all the same.
        rustix::io::ioctl_fionbio(b.as_fd(), true).unwrap();
        a.send(b"x").unwrap();
        assert_eq!(b.recv(&mut [0; 1]), Ok(1));
        let late = b.recv_timeout(&mut [0; 1], Duration::from_millis(5));
        assert_eq!(late, Err(RecvError::TimedOut));
    }
    let (a, b) = unix::pair().unwrap();
    check(&a, &b);
    let (a, b) = Seqpacket::pair().unwrap();
    check(&a, &b);
    let (a, b) = Datagram::pair().unwrap();
    check(&a, &b);
    // What connects with a deadline blocks afterwards like any other.
    let address = Address::path(scratch().join("x")).unwrap();
    let _listener = unix::StreamListener::bind(&address).unwrap();
    let stream = address.stream().connect_timeout(Duration::from_secs(60)).unwrap();
    assert!(!rustix::fs::fcntl_getfl(&stream).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    Ok(())
}

fn sockets_convert_to_and_from_those_of_std() -> Result<(), Skip> {
    let address = Address::path(scratch().join("rx")).unwrap();
    let ours: UnixDatagram = Datagram::bind(&address).unwrap().into();
    // The path goes with the socket, and stays.
    let (std, _) = UnixDatagram::pair().unwrap();
    std.send_to(b"from std", address.as_path().unwrap()).unwrap();
    let ours: Datagram = ours.into();
    assert_eq!(ours.recv(&mut [0; 16]), Ok(8));
    drop(ours);
    assert!(address.as_path().unwrap().exists());
    std::fs::remove_file(address.as_path().unwrap()).unwrap();
    Ok(())
}
