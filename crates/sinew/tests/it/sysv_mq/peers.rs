//! Queues between processes: what crosses, who waits, and what a death leaves.

use std::ffi::c_long;

use rustix::process::Signal;
use sinew::sysv_mq::{Key, Options, Queue, Received};
use sinew::wait::{Interrupt, Receives, Sends, Wait};
use sinew::{RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

use super::{LONG, SHORT, queue, small};
use crate::posix_mq::{become_nobody, in_call};

pub(crate) const TESTS: &[Test] = tests![
    removal_closes_a_blocked_receiver_and_sender,
    removal_closes_a_bounded_wait,
    a_bounded_wait_ends_when_something_comes,
    an_interrupt_ends_a_wait,
    a_signal_does_not_end_a_wait,
    a_message_crosses_processes,
    a_killed_receiver_takes_no_message_with_it,
    a_killed_sender_leaves_whole_messages,
    a_stopped_receiver_makes_the_sender_time_out,
    many_senders_and_receivers_lose_and_double_nothing,
    another_user_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![receiver, sender, typed_receiver, flood, worker, stranger];

/// Receives messages for ever, and says what came or how it ended.
fn receiver(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    let mut buf = [0; 8192];
    loop {
        match queue.recv(&mut buf) {
            Ok(got) if got.len < 64 => {
                let text = String::from_utf8_lossy(&buf[..got.len]);
                link.say(format!("{} {} {text}", got.mtype, got.len));
            }
            Ok(got) => {
                let sum: u64 = buf[..got.len].iter().map(|b| u64::from(*b)).sum();
                link.say(format!("{} {} {sum}", got.mtype, got.len));
            }
            Err(error) => return link.say(format!("{error:?}")),
        }
    }
}

fn removal_closes_a_blocked_receiver_and_sender() -> Result<(), Skip> {
    let queue = queue().keep();
    let peer = Peer::spawn("sysv_mq::peers::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    queue.remove().unwrap();
    peer.expect("Closed");
    peer.join();

    let queue = small(8).keep();
    queue.send(b"12345678").unwrap();
    let peer = Peer::spawn("sysv_mq::peers::sender");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgsnd);
    queue.remove().unwrap();
    peer.expect("Err(Closed)");
    peer.join();
    Ok(())
}

/// Sends one byte and says how that ended.
fn sender(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    link.say(format!("{:?}", queue.send(b"x")));
}

fn removal_closes_a_bounded_wait() -> Result<(), Skip> {
    let queue = queue().keep();
    std::thread::scope(|s| {
        s.spawn(|| queue.remove().unwrap());
        assert_eq!(queue.recv_timeout(&mut [0; 8], LONG), Err(RecvError::Closed));
    });
    Ok(())
}

fn a_bounded_wait_ends_when_something_comes() -> Result<(), Skip> {
    let queue = small(8);
    let peer = Peer::spawn("sysv_mq::peers::typed_receiver");
    peer.say(queue.id());
    peer.expect("waiting");
    queue.of_type(1).send(b"other").unwrap();
    queue.of_type(2).send(b"it").unwrap();
    peer.expect("got 2");
    // Room comes when the peer takes the rest, which it does when it is told.
    queue.of_type(2).send(b"123").unwrap();
    assert_eq!(queue.try_send(b"x"), Err(SendError::Full));
    peer.say("go on");
    queue.send_timeout(b"x", LONG).unwrap();
    peer.expect("got 3");
    peer.join();
    Ok(())
}

fn typed_receiver(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    link.say("waiting");
    let got = queue.of_type(2).recv_timeout(&mut [0; 8], LONG).unwrap();
    link.say(format!("got {}", got.len));
    link.expect("go on");
    let got = queue.of_type(2).recv_timeout(&mut [0; 8], LONG).unwrap();
    link.say(format!("got {}", got.len));
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let queue = small(1);
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| stop.trigger());
        let got = queue.recv_wait(&mut [0; 8], Wait::FOREVER.interrupted_by(&stop));
        assert_eq!(got, Err(RecvError::Interrupted));
    });
    queue.send(b"1").unwrap();
    let wait = Wait::timeout(LONG).interrupted_by(&stop);
    assert_eq!(queue.send_wait(b"2", wait), Err(SendError::Interrupted));
    stop.clear();
    assert!(queue.recv_wait(&mut [0; 8], wait).is_ok());
    Ok(())
}

fn a_signal_does_not_end_a_wait() -> Result<(), Skip> {
    let queue = queue();
    let peer = Peer::spawn("sysv_mq::peers::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    // A stop and a continue make msgrcv fail with EINTR, with no handler at all.
    for _ in 0..3 {
        peer.signal(Signal::STOP);
        peer.signal(Signal::CONT);
    }
    in_call(&peer, libc::SYS_msgrcv);
    queue.send(b"word").unwrap();
    peer.expect("1 4 word");
    Ok(())
}

fn a_message_crosses_processes() -> Result<(), Skip> {
    let queue = queue();
    let peer = Peer::spawn("sysv_mq::peers::receiver");
    peer.say(queue.id());
    for (length, mtype) in [(64, 1), (4096, 7), (8192, c_long::MAX)] {
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        queue.of_type(mtype).send(&message).unwrap();
        let sum: u64 = message.iter().map(|b| u64::from(*b)).sum();
        peer.expect(&format!("{mtype} {length} {sum}"));
    }
    Ok(())
}

fn a_killed_receiver_takes_no_message_with_it() -> Result<(), Skip> {
    let queue = queue();
    let peer = Peer::spawn("sysv_mq::peers::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    assert!(!peer.kill().success());
    queue.send(b"mine").unwrap();
    assert_eq!(queue.status().unwrap().messages, 1);
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 4);
    Ok(())
}

fn a_killed_sender_leaves_whole_messages() -> Result<(), Skip> {
    let queue = small(256);
    let peer = Peer::spawn("sysv_mq::peers::flood");
    peer.say(queue.id());
    let mut buf = [0; 64];
    let check = |got: Option<Received>, buf: &[u8]| {
        let Some(got) = got else { return false };
        assert_eq!(got.len as c_long, got.mtype);
        assert!(buf[..got.len].iter().all(|b| c_long::from(*b) == got.mtype));
        true
    };
    for _ in 0..1000 {
        let got = queue.recv(&mut buf).unwrap();
        check(Some(got), &buf);
    }
    in_call(&peer, libc::SYS_msgsnd);
    peer.kill();
    let mut left = 0;
    while check(queue.try_recv(&mut buf).ok(), &buf) {
        left += 1;
    }
    assert!(left > 0, "it was blocked in a full queue");
    assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Empty));
    Ok(())
}

/// Sends messages of every length, whose type and each byte is the length, for ever.
fn flood(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    for length in (1..=64_u8).cycle() {
        queue.of_type(length.into()).send(&vec![length; usize::from(length)]).unwrap();
    }
}

fn a_stopped_receiver_makes_the_sender_time_out() -> Result<(), Skip> {
    let queue = small(8);
    let peer = Peer::spawn("sysv_mq::peers::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    peer.signal(Signal::STOP);
    while queue.try_send(b"1234").is_ok() {}
    assert_eq!(queue.send_timeout(b"12345", SHORT), Err(SendError::TimedOut));
    peer.signal(Signal::CONT);
    queue.send_timeout(b"12345", LONG).unwrap();
    while peer.hear() != "1 5 12345" {}
    Ok(())
}

fn many_senders_and_receivers_lose_and_double_nothing() -> Result<(), Skip> {
    const EACH: u32 = 2_000;
    let queue = small(512);
    let peers: Vec<_> = (0..3).map(|_| Peer::spawn("sysv_mq::peers::worker")).collect();
    for peer in &peers {
        peer.say(queue.id());
    }
    std::thread::scope(|s| {
        for sender in 0..3_u32 {
            let queue = &queue;
            s.spawn(move || {
                for n in 0..EACH {
                    let word = u64::from(sender) << 32 | u64::from(n);
                    queue.of_type((sender + 1).into()).send(&word.to_ne_bytes()).unwrap();
                }
            });
        }
    });
    for _ in &peers {
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
    let queue = Queue::from_id(link.hear().parse().unwrap());
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
    let closed = queue();
    let send_only = Options::new().mode(0o602).create(Key::PRIVATE).unwrap().remove_on_drop();
    closed.send(b"secret").unwrap();
    let peer = Peer::spawn("sysv_mq::peers::stranger");
    peer.say(closed.id());
    peer.expect(
        "recv Err(Os(13)) send Err(Os(13)) status PermissionDenied remove PermissionDenied",
    );
    peer.say(send_only.id());
    peer.expect("recv Err(Os(13)) send Ok(()) status PermissionDenied remove PermissionDenied");
    peer.join();
    assert_eq!(send_only.recv(&mut [0; 8]).unwrap().len, 1);
    Ok(())
}

fn stranger(link: &Link) {
    become_nobody();
    for _ in 0..2 {
        let queue = Queue::from_id(link.hear().parse().unwrap());
        link.say(format!(
            "recv {:?} send {:?} status {:?} remove {:?}",
            queue.try_recv(&mut [0; 8]),
            queue.try_send(b"x"),
            queue.status().unwrap_err().kind(),
            queue.remove().unwrap_err().kind(),
        ));
    }
}
