//! Who is at the other end.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getegid, geteuid, getgroups, getpid, pidfd_send_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sinew::ErrorKind;
use sinew::unix::{
    self, Address, ClaimedCredentials, Datagram, Seqpacket, SeqpacketListener, Socket,
};
use sinew::wait::{Accepts, Connects, Receives, Sends};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    the_kernel_tells_who_connected,
    a_pidfd_of_the_peer_names_that_process,
    without_the_feature_a_pidfd_is_opened_by_number,
    a_peer_that_ended_before_the_question_is_no_other_process,
    an_unconnected_socket_has_no_peer,
    a_claim_is_received_when_asked_for,
    a_claim_of_another_identity_is_refused,
    an_abstract_name_is_open_to_every_user_and_tells_which,
    an_abstract_name_ends_at_the_network_namespace,
    a_peer_in_another_pid_namespace_has_no_number,
];
pub(crate) const ROLES: &[Role] =
    roles![connect, ask_without, claim, connect_elsewhere, spawn_in_namespace, look_out];

fn address() -> Address {
    Address::path(scratch().join("x")).unwrap()
}

/// Connects and stays until told to end.
fn connect(link: &Link) {
    let address: Address = link.hear().parse().unwrap();
    let socket = address.seqpacket().connect().unwrap();
    socket.send(b"here").unwrap();
    link.expect("end");
}

fn the_kernel_tells_who_connected() -> Result<(), Skip> {
    let listener = SeqpacketListener::bind(&address()).unwrap();
    let peer = Peer::spawn("unix::credentials::connect");
    peer.say(address());
    let server = listener.accept().unwrap();
    let who = server.peer_credentials().unwrap();
    assert_eq!(who.pid(), u32::try_from(peer.pid().as_raw_nonzero().get()).ok());
    assert_eq!((who.uid(), who.gid()), (geteuid().as_raw(), getegid().as_raw()));
    assert_eq!(who.is_overflow(), geteuid().as_raw() == 65534);
    let mut groups = server.peer_groups().unwrap();
    let mut own: Vec<u32> = getgroups().unwrap().iter().map(|g| g.as_raw()).collect();
    groups.sort_unstable();
    own.sort_unstable();
    assert_eq!(groups, own);
    peer.say("end");
    peer.join();
    // It still tells who it was.
    assert_eq!(server.peer_credentials().unwrap(), who);
    let (a, _b) = unix::pair().unwrap();
    assert_eq!(a.peer_credentials().unwrap().pid(), Some(std::process::id()));
    Ok(())
}

fn has_ended(pidfd: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
}

fn a_pidfd_of_the_peer_names_that_process() -> Result<(), Skip> {
    let listener = SeqpacketListener::bind(&address()).unwrap();
    let mut peer = Peer::spawn("unix::credentials::connect");
    peer.say(address());
    let server = listener.accept().unwrap();
    let pidfd = server.peer_pidfd().unwrap();
    assert!(!has_ended(&pidfd));
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    peer.wait();
    assert!(has_ended(&pidfd));
    Ok(())
}

fn ask_without(link: &Link) {
    assert!(std::env::var("SINEW_WITHOUT").is_ok());
    let socket: Seqpacket = link.recv_fd().into();
    let pidfd = socket.peer_pidfd().unwrap();
    assert!(!has_ended(&pidfd));
    link.send_fd(&pidfd);
    link.expect("ask again");
    link.say(format!("{:?}", socket.peer_pidfd().unwrap_err().kind()));
}

fn without_the_feature_a_pidfd_is_opened_by_number() -> Result<(), Skip> {
    let asker = Peer::spawn_with("unix::credentials::ask_without", |command| {
        command.env("SINEW_WITHOUT", "all");
    });
    let listener = SeqpacketListener::bind(&address()).unwrap();
    let peer = Peer::spawn("unix::credentials::connect");
    peer.say(address());
    let server = listener.accept().unwrap();
    asker.send_fd(&server);
    let pidfd = asker.recv_fd();
    assert!(!has_ended(&pidfd));
    peer.kill();
    assert!(has_ended(&pidfd));
    asker.say("ask again");
    asker.expect("NotFound");
    asker.join();
    Ok(())
}

fn a_peer_that_ended_before_the_question_is_no_other_process() -> Result<(), Skip> {
    let listener = SeqpacketListener::bind(&address()).unwrap();
    let peer = Peer::spawn("unix::credentials::connect");
    peer.say(address());
    let server = listener.accept().unwrap();
    assert_eq!(server.recv(&mut [0; 8]), Ok(4));
    peer.kill();
    // Kernels from 6.16 on know the dead one, older ones do not; none names another.
    match server.peer_pidfd() {
        Ok(pidfd) => assert!(has_ended(&pidfd)),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
    }
    Ok(())
}

fn an_unconnected_socket_has_no_peer() -> Result<(), Skip> {
    let socket = Datagram::bind(&address()).unwrap();
    assert_eq!(socket.peer_credentials().unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(socket.peer_pidfd().unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(socket.peer_groups().unwrap_err().kind(), ErrorKind::Mismatch);
    let error = socket.peer_credentials().unwrap_err();
    assert_eq!(error.mechanism(), Some(sinew::Mechanism::UnixDgram));
    assert_eq!(socket.peer_address().unwrap_err().kind(), ErrorKind::Closed);
    Ok(())
}

fn claim(link: &Link) {
    let socket: Seqpacket = link.recv_fd().into();
    socket.send(b"plain").unwrap();
    socket.with_claim(ClaimedCredentials::own()).send(b"own").unwrap();
    let fds = [socket.as_fd()];
    socket.with_fds(&fds).with_claim(ClaimedCredentials::own()).send(b"both").unwrap();
}

fn a_claim_is_received_when_asked_for() -> Result<(), Skip> {
    let (a, b) = Seqpacket::pair().unwrap();
    a.set_receive_claims(true).unwrap();
    let peer = Peer::spawn("unix::credentials::claim");
    peer.send_fd(&b);
    drop(b);
    let theirs = ClaimedCredentials {
        pid: peer.pid().as_raw_nonzero().get(),
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    };
    for (words, fds) in [("plain", 0), ("own", 0), ("both", 1)] {
        let mut buf = [0; 16];
        let message = a.fds(1).recv(&mut buf).unwrap();
        assert_eq!(&buf[..message.length], words.as_bytes());
        assert_eq!((message.claimed, message.fds.len()), (Some(theirs), fds), "{words}");
    }
    peer.join();
    // The connection's own answer is who made the pair, whatever was claimed.
    assert_eq!(a.peer_credentials().unwrap().pid(), Some(std::process::id()));
    // It is off unless it is asked for.
    let (a, b) = Datagram::pair().unwrap();
    a.with_claim(ClaimedCredentials::own()).send(b"x").unwrap();
    assert_eq!(b.fds(0).recv(&mut [0; 4]).unwrap().claimed, None);
    Ok(())
}

fn a_claim_of_another_identity_is_refused() -> Result<(), Skip> {
    let (a, _b) = Seqpacket::pair().unwrap();
    let own = ClaimedCredentials::own();
    let refused = |claim| a.with_claim(claim).send(b"x").unwrap_err();
    let nobody = refused(ClaimedCredentials { pid: 0, ..own });
    assert_eq!(nobody, sinew::SendError::Os(libc::ESRCH));
    if !geteuid().is_root() {
        let denied = sinew::SendError::Os(libc::EPERM);
        assert_eq!(refused(ClaimedCredentials { uid: 0, ..own }), denied);
        assert_eq!(refused(ClaimedCredentials { gid: 0, ..own }), denied);
        assert_eq!(refused(ClaimedCredentials { pid: 1, ..own }), denied);
    }
    Ok(())
}

fn abstract_address() -> Address {
    Address::abstract_name(format!("sinew-test-{}", getpid().as_raw_nonzero())).unwrap()
}

fn an_abstract_name_is_open_to_every_user_and_tells_which() -> Result<(), Skip> {
    if !geteuid().is_root() {
        return skip("only root can become another user");
    }
    let listener = SeqpacketListener::bind(&abstract_address()).unwrap();
    let peer = Peer::spawn_with("unix::credentials::connect", |command| {
        command.uid(12_345).gid(23_456);
    });
    peer.say(abstract_address());
    let server = listener.accept().unwrap();
    let who = server.peer_credentials().unwrap();
    assert_eq!((who.uid(), who.gid(), who.is_overflow()), (12_345, 23_456, false));
    peer.say("end");
    peer.join();
    Ok(())
}

/// Connects from a network namespace of its own.
fn connect_elsewhere(link: &Link) {
    let by_name: Address = link.hear().parse().unwrap();
    let by_path: Address = link.hear().parse().unwrap();
    // SAFETY: one thread, and the network namespace touches no descriptor and no memory.
    let moved = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    if moved.is_err() {
        return link.say("no namespace");
    }
    let kind = by_name.seqpacket().connect().map(drop).map_err(|e| e.kind());
    let path = by_path.seqpacket().connect().map(drop).map_err(|e| e.kind());
    link.say(format!("{kind:?} {path:?}"));
}

fn an_abstract_name_ends_at_the_network_namespace() -> Result<(), Skip> {
    let by_name = SeqpacketListener::bind(&abstract_address()).unwrap();
    let by_path = SeqpacketListener::bind(&address()).unwrap();
    let peer = Peer::spawn("unix::credentials::connect_elsewhere");
    peer.say(abstract_address());
    peer.say(address());
    let words = peer.hear();
    peer.join();
    drop((by_name, by_path));
    if words == "no namespace" {
        return skip("this process may not make a network namespace");
    }
    assert_eq!(words, "Err(Refused) Ok(())");
    Ok(())
}

/// Starts a process in a PID namespace below this one, and passes words on to it and back.
fn spawn_in_namespace(link: &Link) {
    let words = link.hear();
    // SAFETY: one thread; only children that are made later are in the namespace.
    if unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.is_err() {
        return link.say("no namespace");
    }
    let inner = Peer::spawn("unix::credentials::look_out");
    inner.say(words);
    link.say(inner.hear());
    inner.join();
}

/// Looks from inside a PID namespace at who listens outside.
fn look_out(link: &Link) {
    assert_eq!(getpid(), Pid::INIT);
    let address: Address = link.hear().parse().unwrap();
    let socket = address.seqpacket().connect().unwrap();
    let who = socket.peer_credentials().unwrap();
    link.say(format!("{:?} {}", who.pid(), who.uid() == geteuid().as_raw()));
}

fn a_peer_in_another_pid_namespace_has_no_number() -> Result<(), Skip> {
    let listener = SeqpacketListener::bind(&address()).unwrap();
    let peer = Peer::spawn("unix::credentials::spawn_in_namespace");
    peer.say(address());
    let words = peer.hear();
    peer.join();
    if words == "no namespace" {
        return skip("this process may not make a PID namespace");
    }
    assert_eq!(words, "None true");
    // From outside the inner process has a number, which is not the one it has for itself.
    let server = listener.accept().unwrap();
    assert!(server.peer_credentials().unwrap().pid().is_some_and(|pid| pid > 1));
    Ok(())
}
