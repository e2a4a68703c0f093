//! Who gets a path, and who never loses one.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Signal;
use sinew::ErrorKind;
use sinew::unix::{
    Address, Datagram, Listener, Options, Seqpacket, SeqpacketListener, Socket, StreamListener,
};
use sinew::wait::{Accepts, Connects, Interrupt, Receives, Sends, Wait};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    processes_connect_by_path_and_by_abstract_name,
    a_live_address_is_never_taken,
    a_stopped_listener_with_a_full_backlog_is_live,
    what_is_bound_and_does_not_listen_yet_is_live,
    a_stale_path_is_taken_over,
    a_killed_listeners_path_is_taken_over,
    what_is_not_a_socket_is_never_removed,
    of_a_hundred_processes_one_takes_a_stale_path,
    the_race_for_a_stale_path_has_one_winner_every_time,
    a_lock_file_that_was_removed_meanwhile_is_no_lock,
    a_path_is_removed_only_by_who_bound_it,
    a_forked_child_removes_nothing,
    a_socket_is_private_to_its_user_unless_told_otherwise,
    another_user_needs_the_mode,
    accepting_ends_by_deadline_and_interrupt,
    connecting_tells_what_stands_against_it,
    a_listener_of_others_is_taken_as_it_is,
];
pub(crate) const ROLES: &[Role] = roles![client, listen, race, racer, stranger];

fn at(name: &str) -> Address {
    Address::path(scratch().join(name)).unwrap()
}

fn path(address: &Address) -> PathBuf {
    address.as_path().unwrap().to_owned()
}

/// What a process that died leaves.
fn leave_stale(address: &Address) {
    drop(UnixListener::bind(path(address)).unwrap());
}

fn kind(result: sinew::Result<impl Sized>) -> ErrorKind {
    result.map(drop).unwrap_err().kind()
}

fn client(link: &Link) {
    let address: Address = link.hear().parse().unwrap();
    address.stream().connect().unwrap().send(b"hello").unwrap();
    let address: Address = link.hear().parse().unwrap();
    address.seqpacket().connect_timeout(Duration::from_secs(60)).unwrap().send(b"hello").unwrap();
}

fn processes_connect_by_path_and_by_abstract_name() -> Result<(), Skip> {
    let peer = Peer::spawn("unix::binding::client");
    let mut buf = [0; 16];
    let address = at("stream socket");
    let listener = StreamListener::bind(&address).unwrap();
    assert_eq!(listener.local_address().unwrap(), address);
    peer.say(&address);
    let stream = listener.accept().unwrap();
    assert_eq!(stream.recv(&mut buf), Ok(5));
    assert_eq!(stream.local_address().unwrap(), address);
    assert!(stream.peer_address().unwrap().is_unnamed());
    let address = Address::abstract_name(format!("sinew\0\n{}", std::process::id())).unwrap();
    let listener = SeqpacketListener::bind(&address).unwrap();
    assert_eq!(kind(SeqpacketListener::bind(&address)), ErrorKind::InUse);
    peer.say(&address);
    let packets = listener.accept_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(packets.recv(&mut buf), Ok(5));
    peer.join();
    Ok(())
}

fn assert_not_taken(address: &Address) {
    for error in [
        StreamListener::bind(address).map(drop).unwrap_err(),
        SeqpacketListener::bind(address).map(drop).unwrap_err(),
        Datagram::bind(address).map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    }
}

fn a_live_address_is_never_taken() -> Result<(), Skip> {
    let address = at("x");
    {
        let listener = StreamListener::bind(&address).unwrap();
        assert_not_taken(&address);
        // The question was no connection.
        assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
        address.stream().connect().unwrap();
        listener.accept().unwrap();
    }
    {
        let listener = SeqpacketListener::bind(&address).unwrap();
        assert_not_taken(&address);
        assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
    }
    {
        let receiver = Datagram::bind(&address).unwrap();
        assert_not_taken(&address);
        // One that takes from another only refuses to be connected, and lives.
        let other = at("other");
        let _other = Datagram::bind(&other).unwrap();
        receiver.connect(&other).unwrap();
        assert_not_taken(&address);
    }
    // Others' sockets are as live.
    let std = UnixDatagram::bind(path(&address)).unwrap();
    assert_not_taken(&address);
    drop(std);
    fs::remove_file(path(&address)).unwrap();
    assert_eq!(fs::read_dir(scratch()).unwrap().count(), 0, "no lock files");
    Ok(())
}

/// Listens with a backlog of one until it is killed or told to end.
fn listen(link: &Link) {
    let address: Address = link.hear().parse().unwrap();
    let listener = Options::new().backlog(1).stream(&address).unwrap();
    link.say("listens");
    link.expect("end");
    drop(listener);
}

fn a_stopped_listener_with_a_full_backlog_is_live() -> Result<(), Skip> {
    let address = at("x");
    let peer = Peer::spawn("unix::binding::listen");
    peer.say(&address);
    peer.expect("listens");
    super::stop(&peer);
    let mut waiting = Vec::new();
    let full = loop {
        match address.stream().try_connect() {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    assert!(full.to_string().contains("backlog"), "{full}");
    assert_eq!(waiting.len(), 2, "the kernel takes one more than it is told");
    assert_not_taken(&address);
    let late = address.stream().connect_timeout(Duration::from_millis(20));
    assert_eq!(kind(late), ErrorKind::TimedOut);
    let stop = Interrupt::new().unwrap();
    stop.trigger();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    assert_eq!(kind(address.stream().connect_wait(wait)), ErrorKind::Interrupted);
    peer.signal(Signal::CONT);
    peer.say("end");
    peer.join();
    assert!(!path(&address).exists());
    Ok(())
}

fn what_is_bound_and_does_not_listen_yet_is_live() -> Result<(), Skip> {
    let address = at("x");
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let name = rustix::net::SocketAddrUnix::new(path(&address)).unwrap();
    rustix::net::bind(&fd, &name).unwrap();
    assert_not_taken(&address);
    drop(fd);
    drop(StreamListener::bind(&address).unwrap());
    Ok(())
}

fn a_stale_path_is_taken_over() -> Result<(), Skip> {
    let address = at("x");
    leave_stale(&address);
    let error = address.stream().connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("left behind"), "{error}");
    let listener = StreamListener::bind(&address).unwrap();
    address.stream().connect().unwrap();
    listener.accept().unwrap();
    drop(listener);
    leave_stale(&address);
    drop(SeqpacketListener::bind(&address).unwrap());
    drop(UnixDatagram::bind(path(&address)).unwrap());
    drop(Datagram::bind(&address).unwrap());
    assert_eq!(fs::read_dir(scratch()).unwrap().count(), 0, "nothing stays, no lock file either");
    Ok(())
}

fn a_killed_listeners_path_is_taken_over() -> Result<(), Skip> {
    let address = at("x");
    let peer = Peer::spawn("unix::binding::listen");
    peer.say(&address);
    peer.expect("listens");
    peer.kill();
    assert!(path(&address).exists());
    let _listener = StreamListener::bind(&address).unwrap();
    address.stream().connect().unwrap();
    Ok(())
}

fn what_is_not_a_socket_is_never_removed() -> Result<(), Skip> {
    let address = at("x");
    let refused = |address: &Address| {
        assert_eq!(kind(StreamListener::bind(address)), ErrorKind::AlreadyExists);
        assert_eq!(kind(Datagram::bind(address)), ErrorKind::AlreadyExists);
    };
    fs::write(path(&address), "precious").unwrap();
    refused(&address);
    assert_eq!(fs::read(path(&address)).unwrap(), b"precious");
    fs::remove_file(path(&address)).unwrap();
    fs::create_dir(path(&address)).unwrap();
    refused(&address);
    fs::remove_dir(path(&address)).unwrap();
    // A link to a stale socket: neither is removed.
    let stale = at("stale");
    leave_stale(&stale);
    symlink(path(&stale), path(&address)).unwrap();
    refused(&address);
    assert!(path(&address).is_symlink() && path(&stale).exists());
    fs::remove_file(path(&address)).unwrap();
    fs::remove_file(path(&stale)).unwrap();
    Ok(())
}

/// Binds once when told to, says how it went, and keeps what it got until told to end.
fn race(link: &Link) {
    let address: Address = link.hear().parse().unwrap();
    link.say("ready");
    link.expect("go");
    match StreamListener::bind(&address) {
        Ok(listener) => {
            link.say("won");
            let connection = listener.accept().unwrap();
            connection.send(b"here").unwrap();
            link.expect("end");
        }
        Err(error) => {
            link.say(format!("{:?}", error.kind()));
            link.expect("end");
        }
    }
}

fn of_a_hundred_processes_one_takes_a_stale_path() -> Result<(), Skip> {
    let address = at("x");
    leave_stale(&address);
    let peers: Vec<Peer> = (0..100).map(|_| Peer::spawn("unix::binding::race")).collect();
    for peer in &peers {
        peer.say(&address);
        peer.expect("ready");
    }
    for peer in &peers {
        peer.say("go");
    }
    let words: Vec<String> = peers.iter().map(|peer| peer.hear()).collect();
    assert_eq!(words.iter().filter(|w| *w == "won").count(), 1, "{words:?}");
    assert_eq!(words.iter().filter(|w| *w == "InUse").count(), 99, "{words:?}");
    let mut buf = [0; 8];
    assert_eq!(address.stream().connect().unwrap().recv(&mut buf), Ok(4));
    for peer in peers {
        peer.say("end");
        peer.join();
    }
    assert_eq!(fs::read_dir(scratch()).unwrap().count(), 0);
    Ok(())
}

/// Races again and again: each word is an address to bind, "drop" leaves it stale.
fn racer(link: &Link) {
    let address: Address = link.hear().parse().unwrap();
    loop {
        match link.hear().as_str() {
            "go" => match SeqpacketListener::bind(&address) {
                Ok(listener) => {
                    link.say("won");
                    link.expect("crash");
                    // As a crash would: the path stays behind.
                    drop(std::os::fd::OwnedFd::from(listener));
                    link.say("crashed");
                }
                Err(error) => link.say(format!("{:?}", error.kind())),
            },
            _ => return,
        }
    }
}

fn the_race_for_a_stale_path_has_one_winner_every_time() -> Result<(), Skip> {
    let address = at("x");
    let peers: Vec<Peer> = (0..6).map(|_| Peer::spawn("unix::binding::racer")).collect();
    for peer in &peers {
        peer.say(&address);
    }
    leave_stale(&address);
    for round in 0..100 {
        for peer in &peers {
            peer.say("go");
        }
        let words: Vec<String> = peers.iter().map(|peer| peer.hear()).collect();
        let winners: Vec<&Peer> =
            peers.iter().zip(&words).filter(|(_, w)| *w == "won").map(|(p, _)| p).collect();
        assert_eq!(winners.len(), 1, "round {round}: {words:?}");
        assert_eq!(words.iter().filter(|w| *w == "InUse").count(), 5, "round {round}: {words:?}");
        address.seqpacket().connect().unwrap();
        winners[0].say("crash");
        winners[0].expect("crashed");
    }
    for peer in peers {
        peer.say("end");
        peer.join();
    }
    fs::remove_file(path(&address)).unwrap();
    Ok(())
}

fn a_lock_file_that_was_removed_meanwhile_is_no_lock() -> Result<(), Skip> {
    let address = at("x");
    leave_stale(&address);
    let lock = scratch().join("x.lock");
    let file = fs::File::create(&lock).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let peer = Peer::spawn("unix::binding::race");
    peer.say(&address);
    peer.expect("ready");
    peer.say("go");
    // The peer opens the file; it is removed and replaced by one that another holds.
    let opened = |path: &Path| {
        let folder = format!("/proc/{}/fd", peer.pid().as_raw_nonzero());
        fs::read_dir(folder)
            .unwrap()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == path))
    };
    while !opened(&lock) {
        std::thread::yield_now();
    }
    fs::remove_file(&lock).unwrap();
    let second = fs::File::create(&lock).unwrap();
    flock(&second, FlockOperation::LockExclusive).unwrap();
    drop(file);
    // It must find that what it has locked is not the file any more, and wait for the second.
    while !opened(&lock) {
        std::thread::yield_now();
    }
    assert_eq!(kind(address.stream().connect()), ErrorKind::Refused, "not taken over yet");
    assert!(fs::symlink_metadata(path(&address)).unwrap().file_type().is_socket());
    drop(second);
    peer.expect("won");
    assert_eq!(address.stream().connect().unwrap().recv(&mut [0; 8]), Ok(4));
    peer.say("end");
    peer.join();
    assert_eq!(fs::read_dir(scratch()).unwrap().count(), 0);
    Ok(())
}

fn a_path_is_removed_only_by_who_bound_it() -> Result<(), Skip> {
    let address = at("x");
    let listener = StreamListener::bind(&address).unwrap();
    // Somebody moved it and put another there.
    fs::rename(path(&address), path(&at("moved"))).unwrap();
    let other = UnixListener::bind(path(&address)).unwrap();
    drop(listener);
    address.stream().connect().unwrap();
    drop(other);
    fs::remove_file(path(&address)).unwrap();
    fs::remove_file(path(&at("moved"))).unwrap();
    // A path that is gone already is no matter.
    let listener = StreamListener::bind(&address).unwrap();
    fs::remove_file(path(&address)).unwrap();
    drop(listener);
    // A relative path is removed where it was bound.
    std::env::set_current_dir(scratch()).unwrap();
    let listener = StreamListener::bind(&Address::path("x").unwrap()).unwrap();
    std::env::set_current_dir("/").unwrap();
    assert!(path(&address).exists());
    drop(listener);
    assert!(!path(&address).exists());
    Ok(())
}

fn a_forked_child_removes_nothing() -> Result<(), Skip> {
    let address = at("x");
    let listener = StreamListener::bind(&address).unwrap();
    let bound = Datagram::bind(&at("y")).unwrap();
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        0 => {
            drop((listener, bound));
            // SAFETY: ends the child at once, running nothing of the parent's.
            unsafe { libc::_exit(0) }
        }
        child => {
            let pid = rustix::process::Pid::from_raw(child).unwrap();
            let options = rustix::process::WaitOptions::empty();
            rustix::process::waitpid(Some(pid), options).unwrap();
        }
    }
    assert!(path(&address).exists() && path(&at("y")).exists());
    address.stream().connect().unwrap();
    drop((listener, bound));
    assert!(!path(&address).exists() && !path(&at("y")).exists());
    Ok(())
}

fn a_socket_is_private_to_its_user_unless_told_otherwise() -> Result<(), Skip> {
    let mode =
        |address: &Address| fs::metadata(path(address)).unwrap().permissions().mode() & 0o777;
    let address = at("x");
    rustix::process::umask(rustix::fs::Mode::empty());
    let socket = StreamListener::bind(&address).unwrap();
    assert_eq!(mode(&address), 0o600);
    drop(socket);
    let socket = Datagram::bind(&address).unwrap();
    assert_eq!(mode(&address), 0o600);
    drop(socket);
    let socket = Options::new().mode(0o666).seqpacket(&address).unwrap();
    assert_eq!(mode(&address), 0o666);
    drop(socket);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let socket = Options::new().mode(0o666).seqpacket(&address).unwrap();
    assert_eq!(mode(&address), 0o644);
    drop(socket);
    Ok(())
}

fn stranger(link: &Link) {
    let address: Address = link.hear().parse().unwrap();
    link.say(format!("{:?}", address.stream().connect().map(drop).map_err(|e| e.kind())));
    let address: Address = link.hear().parse().unwrap();
    link.say(format!("{:?}", address.stream().connect().map(drop).map_err(|e| e.kind())));
    // What cannot be proven stale is never removed.
    let address: Address = link.hear().parse().unwrap();
    link.say(format!("{:?}", StreamListener::bind(&address).map(drop).map_err(|e| e.kind())));
}

fn another_user_needs_the_mode() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    for folder in [scratch(), scratch().parent().unwrap().to_owned()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let (private, open) = (at("private"), at("open"));
    let _private = StreamListener::bind(&private).unwrap();
    let _open = Options::new().mode(0o666).stream(&open).unwrap();
    let stale = at("stale");
    leave_stale(&stale);
    fs::set_permissions(path(&stale), fs::Permissions::from_mode(0o600)).unwrap();
    let peer = Peer::spawn_with("unix::binding::stranger", |command| {
        command.uid(65534).gid(65534);
    });
    peer.say(&private);
    peer.expect("Err(PermissionDenied)");
    peer.say(&open);
    peer.expect("Ok(())");
    peer.say(&stale);
    peer.expect("Err(PermissionDenied)");
    peer.join();
    fs::remove_file(path(&stale)).unwrap();
    Ok(())
}

fn accepting_ends_by_deadline_and_interrupt() -> Result<(), Skip> {
    let address = at("x");
    let listener = StreamListener::bind(&address).unwrap();
    assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
    assert_eq!(kind(listener.accept_timeout(Duration::from_millis(20))), ErrorKind::TimedOut);
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let wait = Wait::FOREVER.interrupted_by(&stop);
        let listener = &listener;
        let blocked = s.spawn(move || kind(listener.accept_wait(wait)));
        stop.trigger();
        assert_eq!(blocked.join().unwrap(), ErrorKind::Interrupted);
        let blocked = s.spawn(|| listener.accept().map(drop));
        address.stream().connect().unwrap();
        blocked.join().unwrap().unwrap();
    });
    Ok(())
}

fn connecting_tells_what_stands_against_it() -> Result<(), Skip> {
    let address = at("x");
    assert_eq!(kind(address.stream().connect()), ErrorKind::NotFound);
    let listener = StreamListener::bind(&address).unwrap();
    assert_eq!(kind(address.seqpacket().connect()), ErrorKind::Mismatch);
    assert_eq!(kind(Datagram::unbound().unwrap().connect(&address)), ErrorKind::Mismatch);
    drop(listener);
    fs::write(path(&address), "").unwrap();
    assert_eq!(kind(address.stream().connect()), ErrorKind::Refused);
    fs::remove_file(path(&address)).unwrap();
    let nobody = Address::abstract_name("sinew: nobody has this name").unwrap();
    assert_eq!(kind(nobody.stream().connect()), ErrorKind::Refused);
    let deep = Address::path(scratch().join("no/such/folder")).unwrap();
    assert_eq!(kind(StreamListener::bind(&deep)), ErrorKind::NotFound);
    Ok(())
}

fn a_listener_of_others_is_taken_as_it_is() -> Result<(), Skip> {
    let address = at("x");
    let listener: StreamListener = UnixListener::bind(path(&address)).unwrap().into();
    assert_eq!(kind(listener.try_accept()), ErrorKind::WouldBlock);
    assert_eq!(kind(listener.accept_timeout(Duration::from_millis(5))), ErrorKind::TimedOut);
    assert!(!rustix::fs::fcntl_getfl(&listener).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    let client = address.stream().connect().unwrap();
    let server = listener.try_accept().unwrap();
    client.send(b"x").unwrap();
    assert_eq!(server.recv(&mut [0; 4]), Ok(1));
    drop(listener);
    assert!(path(&address).exists(), "its path is its maker's");
    fs::remove_file(path(&address)).unwrap();
    // One of ours that was handed on keeps its path.
    let listener = SeqpacketListener::bind(&address).unwrap();
    let again: Listener<Seqpacket> = std::os::fd::OwnedFd::from(listener).into();
    address.seqpacket().connect().unwrap();
    again.accept().unwrap().as_fd();
    drop(again);
    fs::remove_file(path(&address)).unwrap();
    Ok(())
}
