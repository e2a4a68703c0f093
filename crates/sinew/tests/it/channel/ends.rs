//! How the other end's end is told: left in order, or dead.

use rustix::thread::gettid;
use sinew::channel::Options;
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew::{RecvError, SendError};
use sinew_testkit::{Peer, Role, Skip, Test, roles, tests};

use super::{CAPACITY, LONG, SHORT, made, message, peer, push, receives, sends, stream, take};
use crate::futex::until_on_futex;

pub(crate) const TESTS: &[Test] = tests![
    what_was_sent_comes_before_the_end,
    a_death_is_told_once,
    a_receiver_that_left_is_waited_for,
    who_has_no_receiver_in_a_pair_is_told_when_there_is_no_room,
    a_dead_receiver_is_waited_for,
    of_many_senders_the_last_one_is_the_end,
];
pub(crate) const ROLES: &[Role] = roles![];

fn what_was_sent_comes_before_the_end() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let receiver = receives(&map);
    let first = peer("channel::sender", &memfd, 0);
    first.say("send 3 10");
    first.expect("sent");
    first.say("leave");
    first.join();
    (0..3).for_each(|number| take(&receiver, number, 10));
    for _ in 0..3 {
        assert_eq!(receiver.try_recv(&mut [0; 10]), Err(RecvError::Closed));
        assert_eq!(receiver.recv(&mut [0; 10]), Err(RecvError::Closed));
        assert_eq!(receiver.borrow_timeout(LONG).err(), Some(RecvError::Closed));
    }
    // It is no end for ever.
    let second = peer("channel::sender", &memfd, 0);
    assert_eq!(receiver.try_recv(&mut [0; 10]), Err(RecvError::Empty));
    second.say("send 2 10");
    (3..5).for_each(|number| take(&receiver, number, 10));
    second.expect("sent");
    // Who sleeps is told too.
    let pid = gettid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_on_futex(pid);
            second.say("leave");
        });
        assert_eq!(receiver.recv(&mut [0; 10]), Err(RecvError::Closed));
    });
    second.join();
    Ok(())
}

fn a_death_is_told_once() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let receiver = receives(&map);
    let mut number = 0;
    for _ in 0..3 {
        let peer = peer("channel::sender", &memfd, 0);
        peer.say("send 5 30");
        peer.expect("sent");
        peer.kill();
        // Nobody knows yet.
        take(&receiver, number, 30);
        receiver.sender_died(0);
        receiver.sender_died(0);
        receiver.sender_died(77);
        (number + 1..number + 5).for_each(|number| take(&receiver, number, 30));
        number += 5;
        assert_eq!(receiver.recv(&mut [0; 30]), Err(RecvError::PeerDied));
        assert_eq!(receiver.try_recv(&mut [0; 30]), Err(RecvError::Empty));
        assert_eq!(receiver.recv_timeout(&mut [0; 30], SHORT), Err(RecvError::TimedOut));
    }
    // One that comes back knows what arrived.
    assert_eq!(sends(&map, 0).sent(), number);
    assert_eq!(receiver.recv(&mut [0; 30]), Err(RecvError::Closed));
    Ok(())
}

fn a_receiver_that_left_is_waited_for() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let mut sender = sends(&map, 0);
    let first = peer("channel::receiver", &memfd, 0);
    push(&mut sender, 56);
    first.say("recv 1 56");
    first.expect("received");
    first.say("leave");
    first.join();
    while sender.try_send(&message(sender.sent(), 56)).is_ok() {}
    assert_eq!(sender.sent(), 64);
    assert_eq!(sender.try_loan(56).err(), Some(SendError::Full));
    assert_eq!(sender.loan_timeout(56, SHORT).err(), Some(SendError::TimedOut));
    // Whoever comes next receives what is there, and wakes who sleeps.
    let pid = gettid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_on_futex(pid);
            let second = peer("channel::receiver", &memfd, 1);
            second.say("recv 64 56");
            second.expect("received");
            second.say("leave");
            second.join();
        });
        push(&mut sender, 56);
    });
    Ok(())
}

fn who_has_no_receiver_in_a_pair_is_told_when_there_is_no_room() -> Result<(), Skip> {
    let (sender, receiver) = Options::stream().capacity(CAPACITY).pair().unwrap();
    sender.send(&[1; 56]).unwrap();
    assert_eq!(receiver.recv(&mut [0; 56]), Ok(56));
    drop(receiver);
    let closed = loop {
        if let Err(other) = sender.send(&[1; 56]) {
            break other;
        }
    };
    assert_eq!((closed, sender.sent()), (SendError::Closed, 64));
    // Who sleeps is told too.
    let (sender, receiver) = Options::stream().capacity(CAPACITY).pair().unwrap();
    while sender.try_send(&[1; 56]).is_ok() {}
    let pid = gettid();
    std::thread::scope(|s| {
        s.spawn(move || {
            until_on_futex(pid);
            drop(receiver);
        });
        assert_eq!(sender.send(&[1; 56]), Err(SendError::Closed));
    });
    Ok(())
}

fn a_dead_receiver_is_waited_for() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let mut sender = sends(&map, 0);
    peer("channel::receiver", &memfd, 0).kill();
    sender.receiver_died();
    while sender.try_send(&message(sender.sent(), 56)).is_ok() {}
    assert_eq!(sender.send_timeout(&[0; 56], SHORT), Err(SendError::TimedOut));
    let sent = sender.sent();
    let next = peer("channel::receiver", &memfd, 0);
    next.say(format!("recv {} 56", sent + 10));
    (0..10).for_each(|_| push(&mut sender, 56));
    next.expect("received");
    Ok(())
}

fn of_many_senders_the_last_one_is_the_end() -> Result<(), Skip> {
    let (memfd, map) = made(Options::fan_in(8).capacity(CAPACITY));
    let receiver = receives(&map);
    let mut peers: Vec<Peer> = (0..8).map(|lane| peer("channel::sender", &memfd, lane)).collect();
    for (lane, peer) in peers.iter().enumerate() {
        // The length tells which lane it is.
        peer.say(format!("send 300 {}", 40 + lane));
    }
    let mut next = [0; 8];
    let mut count = 0;
    while count < 8 * 300 {
        let got = receiver.borrow().unwrap();
        let lane = got.len() - 40;
        assert_eq!((got.number(), &*got), (next[lane], &*message(next[lane], 40 + lane)));
        next[lane] += 1;
        count += 1;
    }
    peers.iter().for_each(|peer| peer.expect("sent"));
    peers.remove(5).kill();
    receiver.sender_died(5);
    assert_eq!(receiver.recv(&mut [0; 64]), Err(RecvError::PeerDied));
    assert_eq!(receiver.try_recv(&mut [0; 64]), Err(RecvError::Empty));
    for peer in peers {
        assert_eq!(receiver.try_recv(&mut [0; 64]), Err(RecvError::Empty));
        peer.say("leave");
        peer.join();
    }
    assert_eq!(receiver.recv(&mut [0; 64]), Err(RecvError::Closed));
    Ok(())
}
