//! Descriptors through sockets, and what happens when not all can arrive.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;

use rustix::io::{FdFlags, fcntl_getfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sinew::unix::{self, Datagram, MAX_FDS, Seqpacket, Socket};
use sinew::wait::{Accepts, Connects, Receives, Sends};
use sinew::{RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, scratch, tests};

pub(crate) const TESTS: &[Test] = tests![
    descriptors_go_both_ways_between_processes,
    descriptors_go_with_the_first_bytes_of_a_stream,
    one_message_carries_253_descriptors,
    a_thousand_descriptors_go_in_several_messages,
    a_full_descriptor_table_is_an_error_and_leaks_nothing,
    more_than_asked_for_is_an_error_and_leaks_nothing,
    a_plain_receive_closes_what_came_along,
    unread_descriptors_are_closed_with_the_socket,
    too_many_on_their_way_is_named,
    nothing_is_inherited_by_a_child,
    accept_without_descriptors_names_the_limit_and_recovers,
    descriptors_take_one_system_call_each_way,
];
pub(crate) const ROLES: &[Role] = roles![exchange, receive_thousand, crowd, list];

fn slot(free: usize) -> (Vec<OwnedFd>, Rlimit) {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: before.maximum }).unwrap();
    let mut filler = Vec::new();
    while let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 0) {
        filler.push(fd);
    }
    filler.truncate(filler.len() - free);
    (filler, before)
}

fn exchange(link: &Link) {
    let socket: Seqpacket = link.recv_fd().into();
    let mut buf = [0; 16];
    let mut message = socket.fds(2).recv(&mut buf).unwrap();
    assert_eq!((&buf[..message.length], message.fds.len()), (&b"two"[..], 2));
    let mut tx = std::fs::File::from(message.fds.remove(0));
    tx.write_all(b"through the pipe").unwrap();
    let (rx, mut tx) = std::io::pipe().unwrap();
    tx.write_all(b"and back").unwrap();
    socket.with_fds(&[rx.as_fd()]).send(b"one").unwrap();
}

fn descriptors_go_both_ways_between_processes() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::descriptors::exchange");
    let (a, b) = Seqpacket::pair().unwrap();
    peer.send_fd(&b);
    drop(b);
    let (mut rx, tx) = std::io::pipe().unwrap();
    a.with_fds(&[tx.as_fd(), rx.as_fd()]).send(b"two").unwrap();
    drop(tx);
    let mut message = a.fds(8).recv(&mut [0; 16]).unwrap();
    assert_eq!((message.length, message.fds.len()), (3, 1));
    assert!(message.sender.is_unnamed() && message.claimed.is_none());
    let back = message.fds.remove(0);
    assert!(fcntl_getfd(&back).unwrap().contains(FdFlags::CLOEXEC));
    peer.join();
    let mut text = String::new();
    rx.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the pipe");
    text.clear();
    std::fs::File::from(back).read_to_string(&mut text).unwrap();
    assert_eq!(text, "and back");
    Ok(())
}

fn descriptors_go_with_the_first_bytes_of_a_stream() -> Result<(), Skip> {
    let (a, b) = unix::pair().unwrap();
    let fds = [a.as_fd()];
    assert_eq!(a.with_fds(&fds).send(b""), Err(SendError::Empty));
    // More than the buffers hold, so that the message goes in several pieces.
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 249) as u8).collect();
    std::thread::scope(|s| {
        let sender = s.spawn(|| a.with_fds(&fds).send(&data));
        let mut back = Vec::new();
        let mut arrived = 0;
        let mut buf = vec![0; 100_000];
        while back.len() < data.len() {
            let message = b.fds(4).recv(&mut buf).unwrap();
            assert!(message.fds.is_empty() || back.is_empty(), "with the first bytes");
            arrived += message.fds.len();
            back.extend_from_slice(&buf[..message.length]);
        }
        assert_eq!((arrived, back == data), (1, true));
        assert_eq!(sender.join().unwrap(), Ok(()));
    });
    drop(a);
    assert_eq!(b.fds(4).recv(&mut [0; 4]).unwrap_err(), RecvError::Closed);
    Ok(())
}

fn one_message_carries_253_descriptors() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    let fd = a.as_fd();
    for count in [1, 64, MAX_FDS] {
        a.with_fds(&vec![fd; count]).send(b"x").unwrap();
        let message = b.fds(count).recv(&mut [0; 4]).unwrap();
        assert_eq!(message.fds.len(), count);
    }
    let too_many = vec![fd; MAX_FDS + 1];
    let limit = SendError::TooManyFds { limit: 253 };
    assert_eq!(a.with_fds(&too_many).send(b"x"), Err(limit));
    assert!(limit.to_string().contains("253"));
    // The kernel says the same.
    let mut space =
        vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&too_many)));
    let flags = rustix::net::SendFlags::empty();
    let sent = rustix::net::sendmsg(&a, &[std::io::IoSlice::new(b"x")], &mut control, flags);
    assert_eq!(sent, Err(rustix::io::Errno::INVAL));
    assert_eq!(b.try_recv(&mut [0; 4]), Err(RecvError::Empty));
    Ok(())
}

fn raise_nofile() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn receive_thousand(link: &Link) {
    raise_nofile();
    let socket: Seqpacket = link.recv_fd().into();
    let before = census::descriptors().len();
    let mut all = Vec::new();
    while all.len() < 1000 {
        let message = socket.fds(MAX_FDS).recv(&mut [0; 8]).unwrap();
        all.extend(message.fds);
        link.say(all.len());
    }
    assert!(all.iter().all(|fd| fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC)));
    assert_eq!(census::descriptors().len(), before + 1000);
    drop(all);
    assert_eq!(census::descriptors().len(), before);
}

fn a_thousand_descriptors_go_in_several_messages() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::descriptors::receive_thousand");
    let (a, b) = Seqpacket::pair().unwrap();
    peer.send_fd(&b);
    let many = vec![b.as_fd(); 1000];
    for chunk in many.chunks(MAX_FDS) {
        a.with_fds(chunk).send(b"x").unwrap();
        let _so_far = peer.hear();
    }
    peer.join();
    Ok(())
}

fn squeeze<S: Socket + Sends + Receives<Received = usize>>(a: &S, b: &S) {
    let before = census::descriptors();
    for free in [0, 2] {
        let four = [a.as_fd(); 4];
        a.with_fds(&four).send(b"data").unwrap();
        let (filler, limit) = slot(free);
        let got = b.fds(4).recv(&mut [0; 8]);
        drop(filler);
        setrlimit(Resource::Nofile, limit).unwrap();
        assert_eq!(got.unwrap_err(), RecvError::Truncated, "{free} free");
        assert_eq!(census::descriptors(), before);
    }
    // It goes on as before.
    a.with_fds(&[a.as_fd(); 4]).send(b"data").unwrap();
    assert_eq!(b.fds(4).recv(&mut [0; 8]).unwrap().fds.len(), 4);
}

fn a_full_descriptor_table_is_an_error_and_leaks_nothing() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    squeeze(&a, &b);
    let (a, b) = Datagram::pair().unwrap();
    squeeze(&a, &b);
    let (a, b) = unix::pair().unwrap();
    squeeze(&a, &b);
    Ok(())
}

fn more_than_asked_for_is_an_error_and_leaks_nothing() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    let before = census::descriptors();
    for claims in [false, true] {
        b.set_receive_claims(claims).unwrap();
        for (sent, asked) in [(1, 0), (2, 1), (4, 3), (9, 1), (10, 1), (253, 252), (253, 0)] {
            a.with_fds(&vec![a.as_fd(); sent]).send(b"data").unwrap();
            let got = b.fds(asked).recv(&mut [0; 8]);
            assert_eq!(got.unwrap_err(), RecvError::Truncated, "{sent} for {asked}");
            assert_eq!(census::descriptors(), before, "{sent} for {asked}");
        }
    }
    // A message that is too long takes its descriptors with it.
    a.with_fds(&[a.as_fd(); 4]).send(b"longer than four").unwrap();
    let lost = RecvError::TooSmall { needed: Some(16), lost: true };
    assert_eq!(b.fds(4).recv(&mut [0; 4]).unwrap_err(), lost);
    assert_eq!(census::descriptors(), before);
    // And so does a message that is not looked at.
    a.with_fds(&[a.as_fd(); 4]).send(b"x").unwrap();
    drop(b.fds(4).recv(&mut [0; 4]).unwrap());
    assert_eq!(census::descriptors(), before);
    Ok(())
}

fn a_plain_receive_closes_what_came_along() -> Result<(), Skip> {
    let before = census::descriptors();
    let (mut rx, tx) = std::io::pipe().unwrap();
    let (a, b) = Seqpacket::pair().unwrap();
    a.with_fds(&[tx.as_fd()]).send(b"x").unwrap();
    drop(tx);
    assert_eq!(b.recv(&mut [0; 4]), Ok(1));
    // The last writer is gone: the pipe is at its end.
    assert_eq!(rx.read(&mut [0; 4]).unwrap(), 0);
    drop((a, b, rx));
    assert_eq!(census::descriptors(), before);
    Ok(())
}

fn unread_descriptors_are_closed_with_the_socket() -> Result<(), Skip> {
    let (mut rx, tx) = std::io::pipe().unwrap();
    let (a, b) = Seqpacket::pair().unwrap();
    a.with_fds(&[tx.as_fd()]).send(b"x").unwrap();
    drop((tx, a, b));
    assert_eq!(rx.read(&mut [0; 4]).unwrap(), 0);
    Ok(())
}

/// Sends descriptors that nobody receives until the kernel refuses.
fn crowd(link: &Link) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
    let (a, b) = Seqpacket::pair().unwrap();
    let many = vec![a.as_fd(); 40];
    let mut sent = 0;
    let refused = loop {
        match a.with_fds(&many).send(b"x") {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 10, "the kernel refuses");
    };
    assert_eq!(refused, SendError::TooManyInFlight);
    assert!(refused.to_string().contains("RLIMIT_NOFILE"));
    // Other messages still go, and descriptors do once some have arrived.
    a.send(b"plain").unwrap();
    for _ in 0..sent {
        assert_eq!(b.fds(40).recv(&mut [0; 4]).unwrap().fds.len(), 40);
    }
    a.with_fds(&many[..1]).send(b"x").unwrap();
    link.say("named");
}

fn too_many_on_their_way_is_named() -> Result<(), Skip> {
    let peer = Peer::spawn_with("unix::descriptors::crowd", |command| {
        if rustix::process::geteuid().is_root() {
            // Root is exempt. A number of its own, as the count is per user.
            command.uid(61_234);
        }
    });
    peer.expect("named");
    peer.join();
    Ok(())
}

/// Says how many descriptors a fresh child has.
fn list(link: &Link) {
    link.say(format!("{:?}", census::descriptors().len()));
}

fn nothing_is_inherited_by_a_child() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::descriptors::list");
    let bare = peer.hear();
    peer.join();
    let address = unix::Address::path(scratch().join("x")).unwrap();
    let listener = unix::StreamListener::bind(&address).unwrap();
    let client = address.stream().connect().unwrap();
    let server = listener.accept().unwrap();
    client.with_fds(&[listener.as_fd(); 8]).send(b"x").unwrap();
    let message = server.fds(8).recv(&mut [0; 4]).unwrap();
    let pidfd = server.peer_pidfd().unwrap();
    let pairs = (Seqpacket::pair().unwrap(), Datagram::pair().unwrap(), unix::pair().unwrap());
    let bound = Datagram::bind(&unix::Address::unnamed()).unwrap();
    let peer = Peer::spawn("unix::descriptors::list");
    peer.expect(&bare);
    peer.join();
    drop((message, pidfd, pairs, bound));
    Ok(())
}

fn accept_without_descriptors_names_the_limit_and_recovers() -> Result<(), Skip> {
    let address = unix::Address::path(scratch().join("x")).unwrap();
    let listener = unix::SeqpacketListener::bind(&address).unwrap();
    let client = address.seqpacket().connect().unwrap();
    client.send(b"waiting").unwrap();
    let (filler, limit) = slot(0);
    // Each call ends, with or without a deadline: nothing waits for a descriptor in circles.
    let errors = [
        listener.accept().map(drop).unwrap_err(),
        listener.accept_timeout(std::time::Duration::from_secs(60)).map(drop).unwrap_err(),
        address.seqpacket().connect().map(drop).unwrap_err(),
    ];
    drop(filler);
    setrlimit(Resource::Nofile, limit).unwrap();
    for error in &errors {
        assert_eq!(error.kind(), sinew::ErrorKind::LimitReached, "{error}");
    }
    assert!(errors[0].to_string().contains("RLIMIT_NOFILE"), "{}", errors[0]);
    // The connection is still in the backlog, with what it sent.
    let server = listener.accept().unwrap();
    assert_eq!(server.recv(&mut [0; 16]), Ok(7));
    Ok(())
}

fn descriptors_take_one_system_call_each_way() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    let fd = rustix::stdio::stderr();
    let calls = [libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_close];
    let exchange = || {
        a.with_fds(&[fd]).send(b"x").unwrap();
        drop(b.fds(1).recv(&mut [0; 4]).unwrap());
    };
    let Ok(steps) = sinew_testkit::steps::measure(3, exchange) else {
        return sinew_testkit::skip("this process may not trace its own child");
    };
    let numbers: Vec<_> = steps.calls.iter().map(|c| c.number).collect();
    // A debug build looks at each descriptor once more before it closes it.
    let numbers: Vec<_> = numbers.into_iter().filter(|n| *n != libc::SYS_fcntl).collect();
    assert_eq!(numbers, calls);
    Ok(())
}
