//! Channels that drop messages when they are full, between real processes: the sender never waits, and every message
//! is received or counted, whoever is stopped or killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;
use sinew::channel::{Counts, Full, Options, Receiver, Sender};
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::poller::{Events, Interest, Poller, Token};
use sinew::wait::{Borrows, Loans, Receives, Sends, Waits};
use sinew::{ErrorKind, RecvError, SendError, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use super::{mapped, receives, sends};
use crate::futex::until_on_futex;
use crate::pipe::stop;

pub(crate) const TESTS: &[Test] = tests![
    a_receiver_that_is_stopped_holds_up_nobody_and_all_is_counted,
    who_is_killed_changes_no_count,
    the_newest_is_dropped_where_there_is_no_room,
    who_joins_is_told_of_another_policy,
    the_oldest_are_dropped_where_there_is_no_room,
    what_is_borrowed_stays_however_far_the_sender_goes,
    what_a_dead_receiver_had_borrowed_is_given_again,
    a_receiver_that_is_overtaken_sleeps_and_is_woken,
    each_lane_of_many_is_counted,
];
pub(crate) const ROLES: &[Role] = roles![sender, receiver];

const POLICIES: [Full; 2] = [Full::DropNewest, Full::DropOldest];
/// How many messages.
const COUNT: u64 = 1_000_000;

/// The words behind the channel.
#[derive(Clone, Copy)]
enum Word {
    /// How many messages were about to be sent.
    Begun = 0,
    /// How many arrived.
    Seen = 8,
    /// The label that comes next, if nothing is lost.
    Next = 16,
    /// Every label that is missing is told.
    Exact = 24,
}

fn options(full: Full) -> Options {
    Options::stream().capacity(1 << 14).full(full)
}

fn word(map: &Mapping, word: Word) -> &AtomicU64 {
    map.atomic_u64_at(map.len() - 4096 + word as usize).unwrap()
}

fn made(full: Full) -> (Memfd, Arc<Mapping>) {
    let options = options(full);
    let memfd = memfd::Options::new().create("drops", options.bytes().unwrap() + 4096).unwrap();
    let map = Arc::new(memfd.map().unwrap());
    options.create_in(&map).unwrap();
    (memfd, map)
}

/// A label, words that belong to it, and a sum over them: 16 to 312 bytes.
fn message(label: u64, bytes: &mut [u8; 320]) -> usize {
    let words = (label.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize % 38;
    let len = 16 + 8 * words;
    let mut sum = 0;
    for (i, word) in bytes[..len - 8].chunks_exact_mut(8).enumerate() {
        let value = label.rotate_left(i as u32 * 7);
        sum = (sum ^ value).wrapping_mul(0x0100_0000_01B3);
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes[len - 8..len].copy_from_slice(&sum.to_le_bytes());
    len
}

/// The label of a message that is whole.
fn label(bytes: &[u8]) -> u64 {
    let label = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let mut own = [0; 320];
    let len = message(label, &mut own);
    assert_eq!(bytes, &own[..len], "torn: {label}");
    label
}

/// Sends so many; or as many as it can before it is killed.
fn sender(link: &Link) {
    let map = mapped(link);
    let mut sender = sends(&map, 0);
    link.say("attached");
    push(&map, &mut sender, link.hear().parse().unwrap());
    link.say("sent");
}

fn push(map: &Mapping, sender: &mut Sender, count: u64) {
    let begun = word(map, Word::Begun);
    let mut bytes = [0; 320];
    for _ in 0..count {
        let label = begun.load(Ordering::Relaxed);
        let len = message(label, &mut bytes);
        begun.store(label + 1, Ordering::Relaxed);
        if label.is_multiple_of(4)
            && let Ok(mut loan) = sender.try_loan(len)
        {
            loan.copy_from_slice(&bytes[..len]);
            loan.send();
        } else {
            sender.send(&bytes[..len]).unwrap();
        }
    }
}

/// Receives until the sender has left. Says how many it was told are missing.
fn receiver(link: &Link) {
    let map = mapped(link);
    let receiver = receives(&map);
    link.say("attached");
    let (seen, next) = (word(&map, Word::Seen), word(&map, Word::Next));
    let exact = word(&map, Word::Exact).load(Ordering::Relaxed) == 1;
    let (mut bytes, mut told) = ([0; 320], 0);
    // One before it may have died over what comes first.
    let mut begin = true;
    loop {
        let came = seen.load(Ordering::Relaxed);
        let message = if came.is_multiple_of(3) {
            receiver.borrow().map(|message| label(&message))
        } else {
            receiver.recv(&mut bytes).map(|len| label(&bytes[..len]))
        };
        match message {
            Ok(label) => {
                let least = next.load(Ordering::Relaxed);
                assert!(label >= least - u64::from(begin && least > 0), "{label} after {least}");
                assert!(!exact || label == least, "{label} after {least}");
                begin = false;
                next.store(label + 1, Ordering::Relaxed);
                seen.store(came + 1, Ordering::Relaxed);
            }
            Err(RecvError::Lagged(missed)) => {
                assert!(missed > 0);
                told += missed;
                next.store(next.load(Ordering::Relaxed) + missed, Ordering::Relaxed);
            }
            Err(RecvError::Closed) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    link.say(told);
}

fn peer(role: &str, memfd: &Memfd) -> Peer {
    let peer = Peer::spawn(role);
    peer.send_fd(memfd);
    peer.expect("attached");
    peer
}

/// That every message is somewhere.
fn balanced(counts: Counts) {
    let gone = counts.received + counts.lagged + counts.dropped;
    assert_eq!(counts.sent, gone + counts.waiting(), "{counts:?}");
}

fn a_receiver_that_is_stopped_holds_up_nobody_and_all_is_counted() -> Result<(), Skip> {
    for full in POLICIES {
        let (memfd, map) = made(full);
        word(&map, Word::Exact).store(u64::from(full == Full::DropOldest), Ordering::Relaxed);
        let mut sender = sends(&map, 0);
        let peer = peer("channel::drops::receiver", &memfd);
        push(&map, &mut sender, COUNT / 4);
        stop(&peer);
        let before = sender.counts();
        push(&map, &mut sender, COUNT / 4);
        let counts = sender.counts();
        assert_eq!(counts.received, before.received);
        let lost = |counts: Counts| counts.dropped + counts.lagged;
        assert!(lost(counts) >= lost(before) + COUNT / 4 - 1024, "{counts:?}");
        peer.signal(Signal::CONT);
        push(&map, &mut sender, COUNT / 2);
        drop(sender);
        let told: u64 = peer.hear().parse().unwrap();
        peer.join();
        let counts = receives(&map).counts(0).unwrap();
        balanced(counts);
        assert_eq!((counts.sent, counts.waiting()), (COUNT, 0), "{counts:?}");
        assert_eq!(counts.lagged, told);
        // What the receiver itself counted.
        assert_eq!(counts.received, word(&map, Word::Seen).load(Ordering::Relaxed));
    }
    Ok(())
}

fn who_is_killed_changes_no_count() -> Result<(), Skip> {
    for full in POLICIES {
        let (memfd, map) = made(full);
        let (seen, begun) = (word(&map, Word::Seen), word(&map, Word::Begun));
        let arrived = |count| while seen.load(Ordering::Relaxed) < count {};
        let mut receiver = peer("channel::drops::receiver", &memfd);
        let mut sender = peer("channel::drops::sender", &memfd);
        sender.say(u64::MAX);
        let kills = 20;
        for kill in 1..=kills {
            arrived(seen.load(Ordering::Relaxed) + 500 + kill * 37);
            if kill % 2 == 0 {
                receiver.kill();
                receiver = peer("channel::drops::receiver", &memfd);
            } else {
                sender.kill();
                sender = peer("channel::drops::sender", &memfd);
                sender.say(u64::MAX);
            }
        }
        sender.kill();
        let mut last = sends(&map, 0);
        push(&map, &mut last, 1000);
        drop(last);
        let _told = receiver.hear();
        receiver.join();
        let counts = receives(&map).counts(0).unwrap();
        balanced(counts);
        assert_eq!(counts.waiting(), 0, "{counts:?}");
        let (begun, seen) = (begun.load(Ordering::Relaxed), seen.load(Ordering::Relaxed));
        assert!((begun - kills..=begun).contains(&counts.sent), "{begun} begun, {counts:?}");
        assert!(seen.abs_diff(counts.received) <= kills, "{seen} seen, {counts:?}");
    }
    Ok(())
}

fn the_newest_is_dropped_where_there_is_no_room() -> Result<(), Skip> {
    let (_memfd, map) = made(Full::DropNewest);
    let (mut sender, receiver) = (sends(&map, 0), receives(&map));
    let mut sent = 0_u64;
    let send = |sent: &mut u64| {
        sender.send(&sent.to_le_bytes()).unwrap();
        *sent += 1;
    };
    while sender.counts().dropped == 0 {
        send(&mut sent);
    }
    let room = sent - 1;
    (0..9).for_each(|_| send(&mut sent));
    let counts = sender.counts();
    assert_eq!((counts.sent, counts.dropped, counts.dropped_bytes), (sent, 10, 80));
    assert_eq!((sender.sent(), counts.waiting()), (room, room));
    let mut buf = [0; 8];
    for number in 0..room {
        assert_eq!(receiver.recv(&mut buf), Ok(8));
        assert_eq!(u64::from_le_bytes(buf), number);
    }
    assert_eq!(receiver.try_recv(&mut buf), Err(RecvError::Empty));
    // What never fits is no matter of room; and a loan is no message yet.
    let limit = sender.max_message();
    assert_eq!(sender.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    for _ in 0..room {
        sender.send(&[0; 8]).unwrap();
    }
    assert_eq!(sender.loan(100).err(), Some(SendError::Full));
    let early = sender.counts().dropped - 10;
    assert!(early < 10, "{early}");
    // One that comes after it goes on with the count.
    drop(sender);
    let sender = sends(&map, 0);
    sender.send(&[0; 100]).unwrap();
    let counts = receiver.counts(0).unwrap();
    assert_eq!(
        (counts.dropped, counts.dropped_bytes, counts.received),
        (11 + early, 180 + 8 * early, room)
    );
    balanced(counts);
    assert_eq!(receiver.counts(1), None);
    Ok(())
}

fn who_joins_is_told_of_another_policy() -> Result<(), Skip> {
    let name = format!("drops-{}", std::process::id());
    for full in [Full::Block, Full::Fail].into_iter().chain(POLICIES) {
        let stream = Options::stream().capacity(4096);
        let receiver: Receiver = stream.full(full).receiver().create(&name).unwrap();
        let other = if full == Full::Fail { Full::Block } else { Full::Fail };
        let refused = stream.full(other).sender().open(&name).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
        assert!(refused.to_string().contains(&format!("{full:?}")), "{refused}");
        // It had no place, and so has not left.
        assert_eq!(receiver.try_recv(&mut [0; 8]), Err(RecvError::Empty));
        drop(stream.full(full).sender().open(&name).unwrap());
        // Who says nothing takes what there is.
        drop(stream.sender().open(&name).unwrap());
        drop(receiver);
    }
    for full in POLICIES {
        let queue = Options::queue(1, 1).full(full).bytes().unwrap_err();
        assert_eq!(queue.kind(), ErrorKind::InvalidInput, "{queue}");
        let (sender, receiver) = Options::stream().capacity(4096).full(full).ends().unwrap();
        let (sender, receiver) = (sender.attach().unwrap(), receiver.attach().unwrap());
        for _ in 0..1000 {
            sender.send(&[1; 50]).unwrap();
        }
        assert!(receiver.counts(0).unwrap().waiting() < 100);
    }
    Ok(())
}

fn the_oldest_are_dropped_where_there_is_no_room() -> Result<(), Skip> {
    let (_memfd, map) = made(Full::DropOldest);
    let (mut sender, receiver) = (sends(&map, 0), receives(&map));
    // Of 64 bytes each with the header, less the word behind the last.
    let room = (1 << 14) / 64 - 1;
    for number in 0..1000_u64 {
        sender.send(&[number.to_le_bytes(); 7].concat()).unwrap();
    }
    let counts = sender.counts();
    assert_eq!((counts.sent, counts.lagged, counts.waiting()), (1000, 1000 - room, room));
    let mut buf = [0; 56];
    // What does not fit is there still.
    assert_eq!(receiver.recv(&mut buf), Err(RecvError::Lagged(1000 - room)));
    let short = RecvError::TooSmall { needed: Some(56), lost: false };
    assert_eq!(receiver.recv(&mut [0; 55]), Err(short));
    for number in 1000 - room..1000 {
        assert_eq!(receiver.try_recv(&mut buf), Ok(56));
        assert_eq!(buf[..8], number.to_le_bytes());
    }
    assert_eq!(receiver.try_recv(&mut buf), Err(RecvError::Empty));
    let counts = receiver.counts(0).unwrap();
    assert_eq!((counts.received, counts.lagged, counts.dropped), (room, 1000 - room, 0));
    // A loan overtakes too, and one that is longer than there is ever room for is refused.
    for _ in 0..1000 {
        sender.loan(100).unwrap().fill(1);
        sender.loan(100).unwrap().send();
    }
    let limit = sender.max_message();
    assert_eq!(sender.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    sender.send(&vec![0; limit]).unwrap();
    let mut missed = 0;
    let mut came = 0;
    loop {
        match receiver.try_borrow() {
            Ok(_) => came += 1,
            Err(RecvError::Lagged(more)) => missed += more,
            Err(other) => break assert_eq!(other, RecvError::Empty),
        }
    }
    assert_eq!(came + missed, 1001);
    balanced(sender.counts());
    for borrowed in [0, 16] {
        let options = options(Full::DropOldest).max_borrowed(borrowed);
        assert_eq!(options.bytes().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    // The two of a pair, of which one is gone: the other goes on.
    let (sender, receiver) = options(Full::DropOldest).pair().unwrap();
    drop(receiver);
    (0..1000).for_each(|_| sender.send(&[1; 50]).unwrap());
    Ok(())
}

fn what_is_borrowed_stays_however_far_the_sender_goes() -> Result<(), Skip> {
    let (memfd, map) = made(Full::DropOldest);
    let receiver = receives(&map);
    let peer = peer("channel::drops::sender", &memfd);
    peer.say(8);
    peer.expect("sent");
    let mut held: Vec<_> = (0..7).map(|_| receiver.borrow().unwrap()).collect();
    assert_eq!(receiver.try_borrow().err(), Some(RecvError::TooManyBorrowed));
    let numbers: Vec<u64> = held.iter().map(|message| label(message)).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
    for round in 0..20_u64 {
        let other = self::peer("channel::drops::sender", &memfd);
        other.say(10_000);
        // Looked at all the while.
        while word(&map, Word::Begun).load(Ordering::Relaxed) < 8 + round * 10_000 + 9_000 {
            for (message, number) in held.iter().zip(&numbers) {
                assert_eq!((label(message), message.number()), (*number, *number));
            }
        }
        other.expect("sent");
        other.join();
    }
    peer.join();
    let sent = 8 + 20 * 10_000;
    // Released in another order; then it is told what it missed.
    drop(held.remove(3));
    held.drain(..).rev().for_each(drop);
    // What it looked at last was pinned too.
    let mut next = 7;
    let mut missed = 0;
    loop {
        match receiver.try_borrow() {
            Ok(message) => {
                assert_eq!((label(&message), message.number()), (next, next));
                next += 1;
            }
            Err(RecvError::Lagged(more)) => (next, missed) = (next + more, missed + more),
            Err(other) => break assert_eq!(other, RecvError::Closed),
        }
    }
    let counts = receiver.counts(0).unwrap();
    assert_eq!((next, counts.sent, counts.lagged), (sent, sent, missed));
    assert!(missed > 199_000, "{missed}");
    balanced(counts);
    Ok(())
}

fn what_a_dead_receiver_had_borrowed_is_given_again() -> Result<(), Skip> {
    let (memfd, map) = made(Full::DropOldest);
    let mut sender = sends(&map, 0);
    push(&map, &mut sender, 10);
    for deaths in 0..3 {
        let peer = Peer::spawn("channel::receiver");
        peer.send_fd(&memfd);
        peer.say(0);
        peer.expect("attached");
        for _ in 0..3 {
            peer.say("borrow");
            peer.expect("received");
        }
        peer.kill();
        push(&map, &mut sender, 10_000);
        assert_eq!(sender.counts().received, 0, "{deaths}");
    }
    let receiver = receives(&map);
    let held: Vec<_> = (0..3).map(|_| receiver.borrow().unwrap()).collect();
    for (number, message) in (0..).zip(&held) {
        assert_eq!(
            (label(message), message.number(), message.delivery_count()),
            (number, number, 4)
        );
    }
    drop(held);
    let lagged = receiver.borrow().unwrap_err();
    let RecvError::Lagged(missed) = lagged else { panic!("{lagged:?}") };
    let next = receiver.borrow().unwrap();
    assert_eq!((next.number(), next.delivery_count()), (3 + missed, 1));
    drop(next);
    let counts = receiver.counts(0).unwrap();
    assert_eq!((counts.sent, counts.received, counts.lagged), (30_010, 4, missed));
    Ok(())
}

fn a_receiver_that_is_overtaken_sleeps_and_is_woken() -> Result<(), Skip> {
    let (memfd, map) = made(Full::DropOldest);
    let mut sender = sends(&map, 0);
    let peer = peer("channel::drops::receiver", &memfd);
    let seen = word(&map, Word::Seen);
    for number in 0..20 {
        until_on_futex(peer.pid());
        assert_eq!(seen.load(Ordering::Relaxed), number);
        push(&map, &mut sender, 1);
    }
    // By its doorbell too.
    let (sender_2, receiver_2) = options(Full::DropOldest).pair().unwrap();
    let poller = Poller::new().unwrap();
    let bell = receiver_2.doorbell().unwrap().try_clone_to_owned().unwrap();
    let _bell = poller.add(bell, Token(1), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(4);
    for _ in 0..3 {
        loop {
            match receiver_2.try_recv(&mut [0; 64]) {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(other) => break assert_eq!(other, RecvError::Empty),
            }
        }
        assert_eq!(poller.fill(&mut events).try_wait().err(), Some(WaitError::WouldBlock));
        (0..1000).for_each(|_| sender_2.send(&[1; 56]).unwrap());
        assert_eq!(poller.fill(&mut events).wait(), Ok(1));
    }
    drop(sender);
    let told: u64 = peer.hear().parse().unwrap();
    assert_eq!((told, seen.load(Ordering::Relaxed)), (0, 20));
    peer.join();
    Ok(())
}

fn each_lane_of_many_is_counted() -> Result<(), Skip> {
    for full in POLICIES {
        let options = Options::fan_in(3).capacity(4096).full(full);
        let name = format!("drops-many-{}", std::process::id());
        let receiver = options.receiver().create(&name).unwrap();
        let senders: Vec<Sender> = (0..3).map(|_| options.sender().open(&name).unwrap()).collect();
        let (mut received, mut told) = (0, 0);
        for round in 0..3000_u64 {
            let sender = &senders[(round % 7 % 3) as usize];
            sender.send(&[round as u8; 40]).unwrap();
            if round % 5 == 0 {
                match receiver.try_recv(&mut [0; 40]) {
                    Ok(_) => received += 1,
                    Err(RecvError::Lagged(missed)) => told += missed,
                    Err(other) => assert_eq!(other, RecvError::Empty),
                }
            }
        }
        drop(senders);
        loop {
            match receiver.recv(&mut [0; 40]) {
                Ok(_) => received += 1,
                Err(RecvError::Lagged(missed)) => told += missed,
                Err(other) => break assert_eq!(other, RecvError::Closed),
            }
        }
        let counts: Vec<Counts> = (0..3).map(|lane| receiver.counts(lane).unwrap()).collect();
        counts.iter().for_each(|counts| balanced(*counts));
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        assert_eq!((sum(|c| c.sent), sum(|c| c.received)), (3000, received));
        assert_eq!(sum(|c| c.lagged), told);
        assert_eq!(sum(|c| c.dropped) + told, 3000 - received);
        assert!(received < 2000, "{full:?} {counts:?}");
    }
    Ok(())
}
