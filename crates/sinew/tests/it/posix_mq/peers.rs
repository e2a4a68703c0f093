//! Queues between processes: what crosses, and what a death leaves.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::Signal;
use sinew::posix_mq::{self, Access, Options, Queue};
use sinew::wait::{Receives, Sends};
use sinew::{RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

use super::{Name, SHORT, become_nobody, in_call, unnamed};

pub(crate) const TESTS: &[Test] = tests![
    a_message_crosses_processes,
    a_descriptor_crosses_processes,
    a_killed_receiver_takes_no_message_with_it,
    a_killed_sender_leaves_whole_messages,
    a_stopped_receiver_makes_the_sender_time_out,
    many_senders_and_receivers_lose_and_double_nothing,
    another_user_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![receiver, blocked_receiver, flood, worker, stranger];

fn a_message_crosses_processes() -> Result<(), Skip> {
    let name = Name::new("cross");
    let queue = Options::new().depth(4).message_bytes(4096).create(&name.0).unwrap();
    let peer = Peer::spawn("posix_mq::peers::receiver");
    peer.say(&name.0);
    for (length, priority) in [(0, 0), (1, 1), (64, 2), (4096, 32767)] {
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        queue.priority(priority).send(&message).unwrap();
        let sum: u64 = message.iter().map(|b| u64::from(*b)).sum();
        peer.expect(&format!("{length} {priority} {sum}"));
    }
    drop(peer);
    Ok(())
}

fn receiver(link: &Link) {
    let queue = Options::new().access(Access::Receive).open(link.hear()).unwrap();
    let mut buf = vec![0; queue.attributes().unwrap().message_bytes];
    loop {
        let got = queue.recv(&mut buf).unwrap();
        let sum: u64 = buf[..got.len].iter().map(|b| u64::from(*b)).sum();
        link.say(format!("{} {} {sum}", got.len, got.priority));
    }
}

fn a_descriptor_crosses_processes() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let peer = Peer::spawn("posix_mq::echo");
    // Unlinked already: only the descriptor leads to it.
    peer.send_fd(queue.as_fd());
    peer.expect("ready");
    peer.say("hello");
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 5);
    peer.expect("done");
    let fd = OwnedFd::from(queue);
    let number = fd.as_raw_fd();
    let queue = Queue::from(fd);
    assert_eq!(queue.as_fd().as_raw_fd(), number);
    peer.say("end");
    peer.join();
    Ok(())
}

fn a_killed_receiver_takes_no_message_with_it() -> Result<(), Skip> {
    let queue = unnamed(4, 8);
    let peer = Peer::spawn("posix_mq::peers::blocked_receiver");
    peer.send_fd(&queue);
    peer.expect("receiving");
    in_call(&peer, libc::SYS_mq_timedreceive);
    assert!(!peer.kill().success());
    queue.send(b"mine").unwrap();
    assert_eq!(queue.len().unwrap(), 1);
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 4);
    Ok(())
}

fn blocked_receiver(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    link.say("receiving");
    let got = queue.recv(&mut [0; 8]).unwrap();
    link.say(got.len);
    let _ = link.hear();
}

fn a_killed_sender_leaves_whole_messages() -> Result<(), Skip> {
    let queue = unnamed(4, 64);
    let peer = Peer::spawn("posix_mq::peers::flood");
    peer.send_fd(&queue);
    let mut buf = [0; 64];
    for _ in 0..1000 {
        let got = queue.recv(&mut buf).unwrap();
        check_flood(&buf[..got.len]);
    }
    in_call(&peer, libc::SYS_mq_timedsend);
    peer.kill();
    let mut left = 0;
    while let Ok(got) = queue.try_recv(&mut buf) {
        check_flood(&buf[..got.len]);
        left += 1;
    }
    assert_eq!(left, 4, "it was blocked in a full queue");
    assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Empty));
    Ok(())
}

fn check_flood(message: &[u8]) {
    assert_eq!(message.len(), usize::from(message[0]));
    assert!(message.iter().all(|b| *b == message[0]));
}

/// Sends messages of every length, each byte of which is the length, for ever.
fn flood(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    for length in (1..=64_u8).cycle() {
        queue.send(&vec![length; usize::from(length)]).unwrap();
    }
}

fn a_stopped_receiver_makes_the_sender_time_out() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let peer = Peer::spawn("posix_mq::peers::blocked_receiver");
    peer.send_fd(&queue);
    peer.expect("receiving");
    in_call(&peer, libc::SYS_mq_timedreceive);
    peer.signal(Signal::STOP);
    // The first goes to the sleeper's account: it was waiting, and is stopped, not dead.
    queue.send(b"one").unwrap();
    while queue.try_send(b"two").is_ok() {}
    assert_eq!(queue.send_timeout(b"three", SHORT), Err(SendError::TimedOut));
    peer.signal(Signal::CONT);
    peer.expect("3");
    peer.say("end");
    peer.join();
    Ok(())
}

fn many_senders_and_receivers_lose_and_double_nothing() -> Result<(), Skip> {
    const EACH: u32 = 2_000;
    let queue = unnamed(8, 8);
    let peers: Vec<_> = (0..3).map(|_| Peer::spawn("posix_mq::peers::worker")).collect();
    for peer in &peers {
        peer.send_fd(&queue);
    }
    std::thread::scope(|s| {
        for sender in 0..3_u32 {
            let queue = &queue;
            s.spawn(move || {
                for n in 0..EACH {
                    let word = u64::from(sender) << 32 | u64::from(n);
                    queue.priority(sender).send(&word.to_ne_bytes()).unwrap();
                }
            });
        }
    });
    for _ in &peers {
        // Behind everything else: the lowest priority, sent last.
        queue.send(b"").unwrap();
    }
    let mut all = Vec::new();
    for peer in peers {
        let (bytes, _) = peer.receive();
        let mut last = [None; 3];
        for word in bytes.chunks_exact(8) {
            let word = u64::from_ne_bytes(word.try_into().unwrap());
            let (sender, n) = ((word >> 32) as usize, word as u32);
            assert!(last[sender] < Some(n), "in order of sending");
            last[sender] = Some(n);
            all.push(word);
        }
        peer.join();
    }
    all.sort_unstable();
    let expected: Vec<u64> =
        (0..3_u64).flat_map(|s| (0..u64::from(EACH)).map(move |n| s << 32 | n)).collect();
    assert_eq!(all, expected);
    Ok(())
}

/// Collects messages until an empty one comes, and reports them all.
fn worker(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    let mut all = Vec::new();
    let mut buf = [0; 8];
    loop {
        match queue.recv(&mut buf).unwrap().len {
            0 => break,
            len => all.extend_from_slice(&buf[..len]),
        }
    }
    // Who got nothing says so by the odd byte, which is no word: no bytes are the end of the link.
    all.push(0);
    link.send(&all, &[]);
}

fn another_user_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let name = Name::new("secret");
    let queue = Options::new().depth(1).message_bytes(8).create(&name.0).unwrap();
    let peer = Peer::spawn("posix_mq::peers::stranger");
    peer.say(&name.0);
    peer.expect("Send PermissionDenied, Receive PermissionDenied, unlink PermissionDenied");
    // Who may only send may not receive, nor take the name away.
    rustix::fs::fchmod(&queue, rustix::fs::Mode::from_raw_mode(0o602)).unwrap();
    peer.say(&name.0);
    peer.expect("Send ok, Receive PermissionDenied, unlink PermissionDenied");
    peer.join();
    assert_eq!(queue.try_recv(&mut [0; 8]).unwrap().len, 1);
    Ok(())
}

fn stranger(link: &Link) {
    become_nobody();
    for _ in 0..2 {
        let name = link.hear();
        let words = |result: sinew::Result<()>| match result {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        let send = Options::new().access(Access::Send).open(&name).map(|queue| {
            queue.try_send(b"x").unwrap();
        });
        let receive = Options::new().access(Access::Receive).open(&name).map(drop);
        let unlink = posix_mq::unlink(&name);
        let [send, receive, unlink] = [send, receive, unlink].map(words);
        link.say(format!("Send {send}, Receive {receive}, unlink {unlink}"));
    }
}
