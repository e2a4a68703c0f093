//! TCP and UDP over loopback, between processes.

use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_getfd};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sinew::inet::{self, Listener, TcpOptions, Udp, UdpOptions};
use sinew::limits::Limit;
use sinew::wait::{Accepts, ByteStream, Connects, Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, Mechanism, RecvError, SendError, Stop};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, skip, steps, tests};

pub(crate) const TESTS: &[Test] = tests![
    bytes_cross_between_processes_both_ways,
    a_half_closed_stream_still_answers,
    a_killed_peer_closes_the_stream,
    what_a_killed_peer_left_unread_resets_the_stream,
    a_dead_stream_raises_no_signal,
    what_came_before_a_reset_is_received,
    a_stopped_peer_is_slow_and_not_dead,
    a_stopped_peer_is_given_up_after_the_user_timeout,
    a_stream_waits_as_it_is_told,
    an_interrupt_ends_a_stream_call,
    an_empty_buffer_receives_nothing_at_once,
    nobody_listening_refuses,
    a_full_backlog_outlasts_the_deadline,
    a_socket_never_connects_to_itself,
    accepting_waits_as_it_is_told,
    a_listener_converts_both_ways,
    a_listener_of_std_accepts_with_a_deadline,
    no_descriptor_left_is_named,
    a_port_in_use_is_named,
    a_port_is_free_again_at_once,
    options_reach_both_ends,
    quickack_ends_the_delaying_of_acknowledgements,
    a_buffer_above_the_limit_names_it,
    the_backlog_is_cut_to_somaxconn,
    everything_is_close_on_exec,
    a_pair_is_connected_to_itself,
    ipv6_carries_the_same,
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
    a_message_takes_one_system_call,
    accepting_takes_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![echo, holder, udp_receiver];

/// Connects to the address it hears and sends back what it receives.
fn echo(link: &Link) {
    let address: SocketAddr = link.hear().parse().unwrap();
    let stream = inet::connect(address).unwrap();
    let mut buf = [0; 4096];
    loop {
        match stream.recv(&mut buf) {
            Ok(count) => stream.send(&buf[..count]).unwrap(),
            Err(RecvError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.send(b"the end").unwrap();
}

/// Connects, sends `hello` and holds the connection until it is told to read it to its end.
fn holder(link: &Link) {
    let address: SocketAddr = link.hear().parse().unwrap();
    let stream = inet::connect(address).unwrap();
    stream.send(b"hello").unwrap();
    link.say("connected");
    link.expect("read");
    let mut buf = [0; 65536];
    let mut total = 0;
    while let Ok(count) = stream.recv(&mut buf) {
        total += count;
    }
    link.say(total);
}

/// A peer in this role and our end of its connection.
fn connected(role: &str) -> (Peer, TcpStream) {
    let listener = Listener::loopback().unwrap();
    let peer = Peer::spawn(role);
    peer.say(listener.local_addr().unwrap());
    let stream = listener.accept().unwrap();
    (peer, stream)
}

/// A holder that has said hello and waits.
fn held() -> (Peer, TcpStream) {
    let (peer, stream) = connected("inet::holder");
    peer.expect("connected");
    let mut hello = [0; 5];
    stream.exact().recv(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    (peer, stream)
}

fn bytes_cross_between_processes_both_ways() -> Result<(), Skip> {
    let (peer, stream) = connected("inet::echo");
    let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut back = vec![0; data.len()];
    thread::scope(|s| {
        s.spawn(|| stream.send(&data).unwrap());
        stream.exact().recv(&mut back).unwrap();
    });
    assert!(back == data);
    drop(stream);
    drop(peer);
    Ok(())
}

fn a_half_closed_stream_still_answers() -> Result<(), Skip> {
    let (peer, stream) = connected("inet::echo");
    stream.send(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.send(b"x"), Err(SendError::Closed));
    let mut answer = [0; 11];
    stream.exact().recv(&mut answer).unwrap();
    assert_eq!(&answer, b"lastthe end");
    assert_eq!(stream.recv(&mut answer), Err(RecvError::Closed));
    assert_eq!(stream.recv(&mut answer), Err(RecvError::Closed), "and so it stays");
    peer.join();
    Ok(())
}

fn a_killed_peer_closes_the_stream() -> Result<(), Skip> {
    let (peer, stream) = held();
    peer.kill();
    let mut buf = [0; 16];
    assert_eq!(stream.recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(stream.try_recv(&mut buf), Err(RecvError::Closed));
    // The first send draws the reset, later ones see it.
    let end = (0..1000).find_map(|_| stream.send(b"anybody there?").err());
    assert_eq!(end, Some(SendError::Closed));
    Ok(())
}

fn what_a_killed_peer_left_unread_resets_the_stream() -> Result<(), Skip> {
    let (peer, stream) = held();
    stream.send(b"never read").unwrap();
    peer.kill();
    let mut buf = [0; 16];
    assert_eq!(stream.recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(stream.recv(&mut buf), Err(RecvError::Closed), "and so it stays");
    assert_eq!(stream.send(b"x"), Err(SendError::Closed));
    Ok(())
}

fn a_dead_stream_raises_no_signal() -> Result<(), Skip> {
    // As a host that is not written in Rust has it: SIGPIPE would kill this process.
    // SAFETY: the default action is no handler, and this process has one thread.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let (a, b) = inet::pair().unwrap();
    a.send(b"never read").unwrap();
    drop(b);
    assert_eq!(a.recv(&mut [0; 4]), Err(RecvError::Closed));
    assert_eq!(a.send(b"x"), Err(SendError::Closed));
    assert_eq!(a.try_send(b"x"), Err(SendError::Closed));
    Ok(())
}

fn what_came_before_a_reset_is_received() -> Result<(), Skip> {
    let (peer, stream) = connected("inet::holder");
    peer.expect("connected");
    stream.send(b"never read").unwrap();
    peer.kill();
    let mut buf = [0; 16];
    let got = stream.exact().recv(&mut buf);
    assert_eq!(got, Err(RecvError::Partial { received: 5, stop: Stop::Closed }));
    assert_eq!(&buf[..5], b"hello");
    Ok(())
}

fn a_stopped_peer_is_slow_and_not_dead() -> Result<(), Skip> {
    let (peer, stream) = held();
    peer.signal(Signal::STOP);
    let mut buf = [0; 16];
    assert_eq!(stream.try_recv(&mut buf), Err(RecvError::Empty));
    let began = Instant::now();
    let pause = Duration::from_millis(20);
    assert_eq!(stream.recv_timeout(&mut buf, pause), Err(RecvError::TimedOut));
    assert!(began.elapsed() >= pause);

    // Until both kernels are full.
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    let stop = loop {
        match stream.send_timeout(&block, Duration::from_millis(100)) {
            Ok(()) => sent += block.len(),
            Err(SendError::Partial { sent: part, stop }) => {
                sent += part;
                break stop;
            }
            Err(SendError::TimedOut) => break Stop::TimedOut,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(stop, Stop::TimedOut);
    loop {
        match stream.try_send(&block) {
            Err(SendError::Full) => break,
            Err(SendError::Partial { sent: part, stop: Stop::WouldBlock }) => sent += part,
            other => panic!("{other:?}"),
        }
    }

    peer.signal(Signal::CONT);
    peer.say("read");
    stream.shutdown(Shutdown::Write).unwrap();
    peer.expect(&sent.to_string());
    peer.join();
    Ok(())
}

fn a_stopped_peer_is_given_up_after_the_user_timeout() -> Result<(), Skip> {
    let limit = Duration::from_millis(300);
    let listener = TcpOptions::new().user_timeout(limit).listen_loopback().unwrap();
    let peer = Peer::spawn("inet::holder");
    peer.say(listener.local_addr().unwrap());
    let stream = listener.accept().unwrap();
    peer.expect("connected");
    peer.signal(Signal::STOP);
    let began = Instant::now();
    let block = vec![7; 1 << 20];
    let end = loop {
        if let Err(error) = stream.send(&block) {
            break error;
        }
    };
    match end {
        SendError::Closed | SendError::Partial { stop: Stop::Closed, .. } => {}
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() >= limit);
    Ok(())
}

fn a_stream_waits_as_it_is_told() -> Result<(), Skip> {
    let (a, b) = inet::pair().unwrap();
    let mut buf = [0; 16];
    assert_eq!(a.try_recv(&mut buf), Err(RecvError::Empty));
    let pause = Duration::from_millis(10);
    let began = Instant::now();
    assert_eq!(a.recv_until(&mut buf, began + pause), Err(RecvError::TimedOut));
    assert!(began.elapsed() >= pause);
    b.send_timeout(b"x", pause).unwrap();
    // A deadline that is over still makes one attempt.
    assert_eq!(a.recv_until(&mut buf, began), Ok(1));
    // A descriptor that its owner made non-blocking waits all the same.
    a.set_nonblocking(true).unwrap();
    thread::scope(|s| {
        s.spawn(|| assert_eq!(a.recv(&mut buf), Ok(2)));
        b.send(b"yz").unwrap();
    });
    Ok(())
}

fn an_interrupt_ends_a_stream_call() -> Result<(), Skip> {
    let (a, _b) = inet::pair().unwrap();
    let stop = Interrupt::new().unwrap();
    thread::scope(|s| {
        s.spawn(|| stop.trigger());
        let got = a.recv_wait(&mut [0; 16], Wait::FOREVER.interrupted_by(&stop));
        assert_eq!(got, Err(RecvError::Interrupted));
    });
    let listener = Listener::loopback().unwrap();
    let error = listener.accept_wait(Wait::FOREVER.interrupted_by(&stop)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    Ok(())
}

fn an_empty_buffer_receives_nothing_at_once() -> Result<(), Skip> {
    let (a, b) = inet::pair().unwrap();
    assert_eq!(a.recv(&mut []), Ok(0));
    b.send(b"").unwrap();
    assert_eq!(a.try_recv(&mut [0; 4]), Err(RecvError::Empty));
    Ok(())
}

fn nobody_listening_refuses() -> Result<(), Skip> {
    let before = census::descriptors();
    let address = Listener::loopback().unwrap().local_addr().unwrap();
    let connector = TcpOptions::new().connector(address);
    let attempts = [
        connector.connect(),
        connector.try_connect(),
        connector.connect_timeout(Duration::from_secs(30)),
    ];
    for attempt in attempts {
        let error = attempt.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(error.mechanism(), Some(Mechanism::Tcp));
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    assert_eq!(census::descriptors(), before);
    Ok(())
}

fn a_full_backlog_outlasts_the_deadline() -> Result<(), Skip> {
    let listener = TcpOptions::new().backlog(0).listen_loopback().unwrap();
    let connector = TcpOptions::new().connector(listener.local_addr().unwrap());
    // Over loopback a connection is there at once, also without waiting.
    let first = connector.try_connect().unwrap();
    let before = census::descriptors();

    let error = connector.try_connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    let pause = Duration::from_millis(20);
    let began = Instant::now();
    let error = connector.connect_timeout(pause).unwrap_err();
    assert!(began.elapsed() >= pause);
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let stop = Interrupt::new().unwrap();
    thread::scope(|s| {
        s.spawn(|| stop.trigger());
        let error = connector.connect_wait(Wait::FOREVER.interrupted_by(&stop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    });
    drop(stop);
    assert_eq!(census::descriptors(), before);

    // With room again, one that waits gets in, and in blocking mode.
    let stream = thread::scope(|s| {
        let waiting = s.spawn(|| connector.connect_timeout(Duration::from_secs(30)));
        let accepted = listener.accept().unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), first.local_addr().unwrap());
        waiting.join().unwrap().unwrap()
    });
    let flags = rustix::fs::fcntl_getfl(&stream).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    Ok(())
}

fn a_socket_never_connects_to_itself() -> Result<(), Skip> {
    // SAFETY: only the network of this process changes, which has one thread.
    if unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.is_err() {
        return skip("a network namespace of its own takes privilege");
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.is_ok_and(|status| status.success()) {
        return skip("`ip` does not run here");
    }
    // So few ports that the kernel often chooses the one that is connected to.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "45000 45003").unwrap();
    // A port that was connected to itself rests for a while: each check has one of its own.
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let itself = (0..200).filter(|_| TcpStream::connect(at(45000)).is_ok()).count();
    assert_ne!(itself, 0, "the kernel does that");
    let connectors = [45001, 45002].map(|port| TcpOptions::new().connector(at(port)));
    for _ in 0..200 {
        for attempt in
            [connectors[0].connect(), connectors[1].connect_timeout(Duration::from_secs(30))]
        {
            assert_eq!(attempt.unwrap_err().kind(), ErrorKind::Refused);
        }
    }
    Ok(())
}

fn accepting_waits_as_it_is_told() -> Result<(), Skip> {
    let listener = Listener::loopback().unwrap();
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let pause = Duration::from_millis(20);
    let began = Instant::now();
    assert_eq!(listener.accept_timeout(pause).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(began.elapsed() >= pause);
    let address = listener.local_addr().unwrap();
    thread::scope(|s| {
        let accepting = s.spawn(|| listener.accept().unwrap());
        let client = inet::connect(address).unwrap();
        let server = accepting.join().unwrap();
        client.send(b"x").unwrap();
        assert_eq!(server.recv(&mut [0; 4]), Ok(1));
        let flags = rustix::fs::fcntl_getfl(&server).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    });
    Ok(())
}

fn a_listener_converts_both_ways() -> Result<(), Skip> {
    let listener = Listener::loopback().unwrap();
    let address = listener.local_addr().unwrap();
    // What std expects: accept waits.
    let listener = TcpListener::from(listener);
    thread::scope(|s| {
        let accepting = s.spawn(|| listener.accept().unwrap());
        inet::connect(address).unwrap();
        accepting.join().unwrap();
    });
    let listener = Listener::from(OwnedFd::from(Listener::from(listener)));
    assert_eq!(listener.local_addr().unwrap(), address);
    Ok(())
}

fn a_listener_of_std_accepts_with_a_deadline() -> Result<(), Skip> {
    let listener = Listener::from(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    assert_eq!(listener.try_accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let error = listener.accept_timeout(Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let _client = inet::connect(listener.local_addr().unwrap()).unwrap();
    listener.try_accept().unwrap();
    Ok(())
}

fn no_descriptor_left_is_named() -> Result<(), Skip> {
    let listener = Listener::loopback().unwrap();
    let address = listener.local_addr().unwrap();
    let _client = inet::connect(address).unwrap();
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: old.maximum }).unwrap();
    let errors = [
        listener.accept().unwrap_err(),
        inet::connect(address).unwrap_err(),
        Udp::loopback().unwrap_err(),
    ];
    setrlimit(Resource::Nofile, old).unwrap();
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    }
    // The connection is still there.
    listener.try_accept().unwrap();
    Ok(())
}

fn a_port_in_use_is_named() -> Result<(), Skip> {
    let listener = Listener::loopback().unwrap();
    let address = listener.local_addr().unwrap();
    let error = Listener::bind(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let socket = Udp::loopback().unwrap();
    let error = Udp::bind(socket.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    // Documentation addresses belong to nobody.
    let error = Listener::bind((Ipv4Addr::new(192, 0, 2, 1), 0)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL), "{error}");
    Ok(())
}

fn a_port_is_free_again_at_once() -> Result<(), Skip> {
    let listener = Listener::loopback().unwrap();
    let address = listener.local_addr().unwrap();
    let client = inet::connect(address).unwrap();
    // The side that closes first keeps the port for a while (TIME-WAIT).
    drop(listener.accept().unwrap());
    assert_eq!(client.recv(&mut [0; 4]), Err(RecvError::Closed));
    drop((client, listener));
    let refused = TcpOptions::new().reuse_address(false).listen(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
    Listener::bind(address).unwrap();
    Ok(())
}

fn options_reach_both_ends() -> Result<(), Skip> {
    use rustix::net::sockopt;
    let second = Duration::from_secs(1);
    let options = TcpOptions::new()
        .send_buffer(20_000)
        .receive_buffer(30_000)
        .keepalive(7 * second, 5 * second, 3)
        .user_timeout(Duration::from_millis(4321));
    let listener = options.listen_loopback().unwrap();
    let client = options.connector(listener.local_addr().unwrap()).connect().unwrap();
    let server = listener.accept().unwrap();
    let plain = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(!plain.nodelay().unwrap());
    options.apply(&plain).unwrap();
    for stream in [&client, &server, &plain] {
        assert!(stream.nodelay().unwrap());
        assert_eq!(sockopt::socket_send_buffer_size(stream).unwrap(), 40_000);
        assert_eq!(sockopt::socket_recv_buffer_size(stream).unwrap(), 60_000);
        assert!(sockopt::socket_keepalive(stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(stream).unwrap(), 7 * second);
        assert_eq!(sockopt::tcp_keepintvl(stream).unwrap(), 5 * second);
        assert_eq!(sockopt::tcp_keepcnt(stream).unwrap(), 3);
        assert_eq!(sockopt::tcp_user_timeout(stream).unwrap(), 4321);
    }
    let listener = TcpOptions::new().nodelay(false).listen_loopback().unwrap();
    let _client = inet::connect(listener.local_addr().unwrap()).unwrap();
    assert!(!listener.accept().unwrap().nodelay().unwrap());
    Ok(())
}

fn quickack_ends_the_delaying_of_acknowledgements() -> Result<(), Skip> {
    use rustix::net::sockopt;
    let (a, b) = inet::pair().unwrap();
    assert!(sockopt::tcp_quickack(&a).unwrap(), "a new connection does not delay");
    sockopt::set_tcp_quickack(&a, false).unwrap();
    TcpOptions::new().apply(&a).unwrap();
    assert!(!sockopt::tcp_quickack(&a).unwrap(), "it is not asked for");
    TcpOptions::new().quickack(true).apply(&a).unwrap();
    assert!(sockopt::tcp_quickack(&a).unwrap());
    drop(b);
    Ok(())
}

fn a_buffer_above_the_limit_names_it() -> Result<(), Skip> {
    let beyond = |limit: Limit| usize::try_from(limit.value().unwrap()).unwrap() + 1;
    let send = beyond(Limit::WmemMax);
    let receive = beyond(Limit::RmemMax);
    let errors = [
        (TcpOptions::new().send_buffer(send).listen_loopback().unwrap_err(), "net.core.wmem_max"),
        (UdpOptions::new().send_buffer(send).bind_loopback().unwrap_err(), "net.core.wmem_max"),
        (TcpOptions::new().receive_buffer(receive).listen_loopback().unwrap_err(), "rmem_max"),
        (UdpOptions::new().receive_buffer(receive).bind_loopback().unwrap_err(), "rmem_max"),
    ];
    for (error, name) in errors {
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = TcpOptions::new().send_buffer(usize::MAX).listen_loopback().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    UdpOptions::new().receive_buffer(receive - 1).send_buffer(send - 1).bind_loopback().unwrap();
    Ok(())
}

fn the_backlog_is_cut_to_somaxconn() -> Result<(), Skip> {
    let most = u32::try_from(Limit::Somaxconn.value().unwrap()).unwrap();
    let listener = TcpOptions::new().backlog(u32::MAX).listen_loopback().unwrap();
    assert_eq!(listener.backlog(), Some(most));
    assert_eq!(TcpOptions::new().backlog(3).listen_loopback().unwrap().backlog(), Some(3));
    Ok(())
}

fn everything_is_close_on_exec() -> Result<(), Skip> {
    fn check(fd: impl AsFd) {
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }
    let listener = Listener::loopback().unwrap();
    check(inet::connect(listener.local_addr().unwrap()).unwrap());
    check(listener.accept().unwrap());
    check(listener);
    check(Udp::loopback().unwrap());
    Ok(())
}

fn a_pair_is_connected_to_itself() -> Result<(), Skip> {
    let (a, b) = inet::pair().unwrap();
    assert_eq!(a.local_addr().unwrap(), b.peer_addr().unwrap());
    assert_eq!(b.local_addr().unwrap(), a.peer_addr().unwrap());
    assert!(a.local_addr().unwrap().ip().is_loopback());
    let (a, b) = Udp::pair().unwrap();
    assert_eq!(a.local_addr().unwrap(), b.peer_addr().unwrap());
    assert_eq!(b.local_addr().unwrap(), a.peer_addr().unwrap());
    assert!(a.local_addr().unwrap().ip().is_loopback());
    Ok(())
}

fn ipv6_carries_the_same() -> Result<(), Skip> {
    let Ok(listener) = Listener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return skip("this host has no ::1");
    };
    let client = inet::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap();
    client.send(b"six").unwrap();
    assert_eq!(server.recv(&mut [0; 8]), Ok(3));
    drop(listener);
    let a = Udp::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let b = Udp::connect(a.local_addr().unwrap()).unwrap();
    b.send(b"six").unwrap();
    let from = (3, b.local_addr().unwrap());
    assert_eq!(a.with_sender().recv(&mut [0; 8]), Ok(from));
    a.to(from.1).send(b"seven").unwrap();
    assert_eq!(b.recv(&mut [0; 8]), Ok(5));
    Ok(())
}

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
    let peer = Peer::spawn("inet::udp_receiver");
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

/// Asserts that the operation is this one system call, with few instructions before it.
fn one_call(
    what: &str,
    number: libc::c_long,
    warm: usize,
    operation: impl FnMut(),
) -> Result<(), Skip> {
    let steps = match steps::measure(warm, operation) {
        Ok(steps) => steps,
        Err(error) => return skip(format!("cannot step: {error}")),
    };
    let numbers: Vec<i64> = steps.calls.iter().map(|call| call.number).collect();
    assert_eq!(numbers, [number], "{what}");
    let before = steps.calls[0].instructions_before;
    if cfg!(not(debug_assertions)) {
        assert!(before <= 100, "{what}: {before} instructions before the call");
    }
    Ok(())
}

fn a_message_takes_one_system_call() -> Result<(), Skip> {
    let (a, b) = inet::pair().unwrap();
    let mut buf = [0; 64];
    one_call("tcp send", libc::SYS_sendto, 1, || a.send(&[1; 64]).unwrap())?;
    one_call("tcp try_send", libc::SYS_sendto, 1, || a.try_send(&[1; 64]).unwrap())?;
    a.send(&[1; 256]).unwrap();
    one_call("tcp recv", libc::SYS_recvfrom, 1, || assert_eq!(b.recv(&mut buf), Ok(64)))?;
    one_call("tcp try_recv", libc::SYS_recvfrom, 1, || assert_eq!(b.try_recv(&mut buf), Ok(64)))?;

    let (a, b) = Udp::pair().unwrap();
    let server = Udp::loopback().unwrap();
    let address = server.local_addr().unwrap();
    let to = a.to(address);
    one_call("udp send", libc::SYS_sendto, 1, || a.send(&[1; 64]).unwrap())?;
    one_call("udp to", libc::SYS_sendto, 1, || to.send(&[1; 64]).unwrap())?;
    one_call("udp to, anew", libc::SYS_sendto, 1, || a.to(address).send(&[1; 64]).unwrap())?;
    for _ in 0..2 {
        a.send(&[1; 64]).unwrap();
        to.send(&[1; 64]).unwrap();
    }
    one_call("udp recv", libc::SYS_recvfrom, 1, || assert_eq!(b.recv(&mut buf), Ok(64)))?;
    one_call("udp with_sender", libc::SYS_recvfrom, 1, || {
        assert_eq!(server.with_sender().recv(&mut buf).unwrap().0, 64);
    })
}

fn accepting_takes_one_system_call() -> Result<(), Skip> {
    let listener = Listener::loopback().unwrap();
    let address = listener.local_addr().unwrap();
    let _clients = [inet::connect(address).unwrap(), inet::connect(address).unwrap()];
    let mut accepted = [const { None }; 2];
    let mut index = 0;
    one_call("accept", libc::SYS_accept4, 1, || {
        accepted[index] = Some(listener.accept().unwrap());
        index += 1;
    })
}
