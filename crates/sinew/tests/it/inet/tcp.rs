//! TCP: streams, listeners and what they say of a peer.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sinew::inet::{self, Listener, TcpOptions, Udp};
use sinew::limits::Limit;
use sinew::wait::{Accepts, ByteStream, Connects, Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, Mechanism, RecvError, SendError, Stop};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, skip, tests};

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
    the_backlog_is_cut_to_somaxconn,
    a_pair_is_connected_to_itself,
];
pub(crate) const ROLES: &[Role] = roles![echo, holder];

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
pub(super) fn connected(role: &str) -> (Peer, TcpStream) {
    let listener = Listener::loopback().unwrap();
    let peer = Peer::spawn(role);
    peer.say(listener.local_addr().unwrap());
    let stream = listener.accept().unwrap();
    (peer, stream)
}

/// A holder that has said hello and waits.
fn held() -> (Peer, TcpStream) {
    let (peer, stream) = connected("inet::tcp::holder");
    peer.expect("connected");
    let mut hello = [0; 5];
    stream.exact().recv(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    (peer, stream)
}

fn bytes_cross_between_processes_both_ways() -> Result<(), Skip> {
    let (peer, stream) = connected("inet::tcp::echo");
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
    let (peer, stream) = connected("inet::tcp::echo");
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
    let (peer, stream) = connected("inet::tcp::holder");
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
    let peer = Peer::spawn("inet::tcp::holder");
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

fn the_backlog_is_cut_to_somaxconn() -> Result<(), Skip> {
    let most = u32::try_from(Limit::Somaxconn.value().unwrap()).unwrap();
    let listener = TcpOptions::new().backlog(u32::MAX).listen_loopback().unwrap();
    assert_eq!(listener.backlog(), Some(most));
    assert_eq!(TcpOptions::new().backlog(3).listen_loopback().unwrap().backlog(), Some(3));
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
