//! Channels between real processes, in memory that one of them passes to the other.

#![allow(unsafe_code, reason = "ends are attached where the caller vouches for the others; forks")]

pub(crate) mod drops;
pub(crate) mod ends;
pub(crate) mod hostile;
pub(crate) mod stats;
pub(crate) mod steady;

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::gettid;
use sinew::channel::{Full, MOST_BORROWED, Options, Receiver, Sender};
use sinew::mapping::{self, Mapping};
use sinew::memfd::{self, Memfd};
use sinew::wait::{Borrows, Interrupt, Loans, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError, anonymous};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use crate::anonymous::in_child;
use crate::futex::until_on_futex;
use crate::pipe::stop;

pub(crate) const TESTS: &[Test] = tests![
    messages_of_every_length_arrive_whole,
    a_receiver_that_sleeps_is_woken,
    a_sender_that_waits_for_room_is_woken,
    borrowed_messages_are_released_in_any_order,
    a_borrowed_message_is_given_again_after_a_death,
    a_stopped_sender_is_slow,
    a_stopped_receiver_is_slow,
    a_forked_child_has_no_end,
    every_form_keeps_its_deadline,
    an_interrupt_ends_a_wait,
    what_does_not_fit_is_told,
    what_is_no_channel_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![sender, receiver];

const CAPACITY: u64 = 4096;
const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

/// A channel in memory of its own.
fn made(options: Options) -> (Memfd, Arc<Mapping>) {
    let memfd = memfd::Options::new().create("channel", options.bytes().unwrap()).unwrap();
    let map = Arc::new(memfd.map().unwrap());
    options.create_in(&map).unwrap();
    (memfd, map)
}

fn stream() -> (Memfd, Arc<Mapping>) {
    made(Options::stream().capacity(CAPACITY))
}

fn mapped(link: &Link) -> Arc<Mapping> {
    Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap())
}

fn sends(map: &Arc<Mapping>, lane: u32) -> Sender {
    // SAFETY: the tests give each end to one.
    unsafe { Sender::open_in(map, lane) }.unwrap()
}

fn receives(map: &Arc<Mapping>) -> Receiver {
    // SAFETY: as above.
    unsafe { Receiver::open_in(map) }.unwrap()
}

fn peer(role: &str, memfd: &Memfd, lane: u32) -> Peer {
    let peer = Peer::spawn(role);
    peer.send_fd(memfd);
    peer.say(lane);
    peer.expect("attached");
    peer
}

/// The contents of a message of this number and length.
fn message(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (number.wrapping_mul(151) ^ i.wrapping_mul(i | 7)) as u8).collect()
}

/// Does as it is told: `send COUNT LENGTH`, of which every other is written in place; `leave`.
fn sender(link: &Link) {
    let map = mapped(link);
    let lane = link.hear().parse().unwrap();
    let mut sender = sends(&map, lane);
    link.say("attached");
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        match words.split(' ').collect::<Vec<_>>()[..] {
            ["send", count, len] => {
                for _ in 0..count.parse::<u64>().unwrap() {
                    push(&mut sender, len.parse().unwrap());
                }
            }
            ["lengths", most] => {
                for len in lengths(most.parse().unwrap()) {
                    push(&mut sender, len);
                }
            }
            ["leave"] => return,
            _ => panic!("{words}"),
        }
        link.say("sent");
    }
}

fn push(sender: &mut Sender, len: usize) {
    let message = message(sender.sent(), len);
    if sender.sent().is_multiple_of(2) {
        sender.send(&message).unwrap();
    } else {
        let mut loan = sender.loan(len).unwrap();
        loan.copy_from_slice(&message);
        loan.send();
    }
}

/// Does as it is told: `recv COUNT LENGTH`, `borrow`, `leave`.
fn receiver(link: &Link) {
    let map = mapped(link);
    let mut number: u64 = link.hear().parse().unwrap();
    let receiver = receives(&map);
    link.say("attached");
    let mut borrowed = Vec::new();
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        match words.split(' ').collect::<Vec<_>>()[..] {
            ["recv", count, len] => {
                for _ in 0..count.parse::<u64>().unwrap() {
                    take(&receiver, number, len.parse().unwrap());
                    number += 1;
                }
            }
            ["borrow"] => borrowed.push(receiver.borrow().unwrap()),
            ["leave"] => return,
            _ => panic!("{words}"),
        }
        link.say("received");
    }
}

/// Takes one message, and every other without a copy.
fn take(receiver: &Receiver, number: u64, len: usize) {
    if number.is_multiple_of(3) {
        let got = receiver.borrow().unwrap();
        assert_eq!((got.number(), got.delivery_count()), (number, 1));
        assert_eq!(*got, message(number, len)[..], "number {number}");
    } else {
        let mut buf = vec![0; len + 8];
        assert_eq!(receiver.recv(&mut buf), Ok(len));
        assert_eq!(buf[..len], message(number, len), "number {number}");
    }
}

/// All short ones, some long ones, and the longest.
fn lengths(most: usize) -> impl Iterator<Item = usize> {
    (0..=300).chain((300..most).step_by(61)).chain([most, 0, most, 1, most - 1, most])
}

fn messages_of_every_length_arrive_whole() -> Result<(), Skip> {
    for capacity in [4096, 1 << 16] {
        let (memfd, map) = made(Options::stream().capacity(capacity));
        let receiver = receives(&map);
        let peer = peer("channel::sender", &memfd, 0);
        let most = capacity as usize - 16;
        peer.say(format!("lengths {most}"));
        for (number, len) in lengths(most).enumerate() {
            take(&receiver, number as u64, len);
        }
        peer.expect("sent");
        assert_eq!(receiver.try_recv(&mut []), Err(RecvError::Empty));
        peer.say("leave");
        peer.join();
        assert_eq!(receiver.recv(&mut []), Err(RecvError::Closed));
    }
    Ok(())
}

fn a_receiver_that_sleeps_is_woken() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let mut sender = sends(&map, 0);
    let peer = peer("channel::receiver", &memfd, 0);
    for len in [0, 8, 4080, 64] {
        peer.say(format!("recv 1 {len}"));
        until_on_futex(peer.pid());
        push(&mut sender, len);
        peer.expect("received");
    }
    Ok(())
}

fn a_sender_that_waits_for_room_is_woken() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let receiver = receives(&map);
    let peer = peer("channel::sender", &memfd, 0);
    // Of 64 bytes each with the header.
    peer.say("send 100 56");
    for number in 0..20 {
        until_on_futex(peer.pid());
        take(&receiver, number, 56);
    }
    (20..100).for_each(|number| take(&receiver, number, 56));
    peer.expect("sent");
    Ok(())
}

fn borrowed_messages_are_released_in_any_order() -> Result<(), Skip> {
    let (memfd, map) = made(Options::stream().capacity(1 << 16));
    let receiver = receives(&map);
    let peer = peer("channel::sender", &memfd, 0);
    let mut number = 0;
    for step in [1, 5, 7, 63] {
        peer.say(format!("send {} 100", MOST_BORROWED + 2));
        peer.expect("sent");
        let mut borrowed: Vec<_> =
            (0..MOST_BORROWED).map(|_| Some(receiver.borrow().unwrap())).collect();
        assert_eq!(receiver.try_borrow().err(), Some(RecvError::TooManyBorrowed));
        assert_eq!(receiver.try_recv(&mut [0; 100]), Err(RecvError::TooManyBorrowed));
        for i in 0..MOST_BORROWED {
            let one = borrowed[i * step % MOST_BORROWED].take().unwrap();
            let own = number + (i * step % MOST_BORROWED) as u64;
            assert_eq!(one.number(), own);
            assert_eq!(*one, message(own, 100)[..]);
        }
        number += MOST_BORROWED as u64;
        // One that is copied while others are borrowed.
        let held = receiver.borrow().unwrap();
        take(&receiver, number + 1, 100);
        assert_eq!(*held, message(number, 100)[..]);
        number += 2;
    }
    // All the room is back: as many as there are in a new one.
    peer.say("leave");
    peer.join();
    let sender = sends(&map, 0);
    let mut room = 0;
    while sender.try_send(&[0; 56]).is_ok() {
        room += 1;
    }
    assert!(room >= (1 << 16) / 64 - 2, "{room}");
    Ok(())
}

fn a_borrowed_message_is_given_again_after_a_death() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let mut sender = sends(&map, 0);
    (0..4).for_each(|_| push(&mut sender, 20));
    for deaths in 0..3 {
        let peer = peer("channel::receiver", &memfd, 0);
        for _ in 0..=1 {
            peer.say("borrow");
            peer.expect("received");
        }
        peer.kill();
        sender.receiver_died();
        // One that dies before it is given anything counts for nothing.
        let _died = ManuallyDrop::new(receives(&map));
        // As if killed: nothing is released.
        let receiver = ManuallyDrop::new(receives(&map));
        let first = ManuallyDrop::new(receiver.borrow().unwrap());
        assert_eq!((first.number(), first.delivery_count()), (0, 2 + 2 * deaths));
        let second = ManuallyDrop::new(receiver.borrow().unwrap());
        assert_eq!(second.delivery_count(), 2);
        let third = ManuallyDrop::new(receiver.borrow().unwrap());
        assert_eq!(third.delivery_count(), if deaths == 0 { 1 } else { 2 });
    }
    let receiver = receives(&map);
    for number in 0..4 {
        let got = receiver.borrow().unwrap();
        assert_eq!(*got, message(number, 20)[..]);
    }
    Ok(())
}

fn a_stopped_sender_is_slow() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let receiver = receives(&map);
    let peer = peer("channel::sender", &memfd, 0);
    for round in 0..20 {
        peer.say("send 200 24");
        for number in 0..200 {
            if number == round * 9 {
                stop(&peer);
                // What it had sent is there; then nothing is, and that is no death.
                let mut there = 0;
                while let Ok(got) = receiver.try_borrow() {
                    assert_eq!(got.len(), 24);
                    there += 1;
                    drop(got);
                }
                let next = receiver.recv_timeout(&mut [0; 24], SHORT);
                assert_eq!(next, Err(RecvError::TimedOut));
                peer.signal(Signal::CONT);
                for _ in number + there..200 {
                    assert_eq!(receiver.recv(&mut [0; 24]), Ok(24));
                }
                break;
            }
            take(&receiver, round * 200 + number, 24);
        }
        peer.expect("sent");
    }
    Ok(())
}

fn a_stopped_receiver_is_slow() -> Result<(), Skip> {
    let (memfd, map) = stream();
    let mut sender = sends(&map, 0);
    let peer = peer("channel::receiver", &memfd, 0);
    for _ in 0..20 {
        peer.say("recv 200 24");
        (0..50).for_each(|_| push(&mut sender, 24));
        stop(&peer);
        let before = sender.sent();
        let full = loop {
            match sender.send_timeout(&message(sender.sent(), 24), SHORT) {
                Ok(()) => {}
                Err(other) => break other,
            }
        };
        assert_eq!(full, SendError::TimedOut);
        let extra = sender.sent() - before;
        assert!(extra >= 50, "{extra}");
        peer.signal(Signal::CONT);
        (0..150 - extra.min(150)).for_each(|_| push(&mut sender, 24));
        peer.expect("received");
        // What is too many for this round.
        peer.say(format!("recv {} 24", extra.saturating_sub(150)));
        peer.expect("received");
    }
    Ok(())
}

fn a_forked_child_has_no_end() -> Result<(), Skip> {
    let (_memfd, map) = stream();
    let (mut sender, receiver) = (Some(sends(&map, 0)), Some(receives(&map)));
    for _ in 0..3 {
        push(sender.as_mut().unwrap(), 10);
    }
    let mut held = receiver.as_ref().map(|receiver| receiver.borrow().unwrap());
    in_child(|| {
        let mut sender = sender.take().unwrap();
        assert_eq!(sender.send(b"from the child"), Err(SendError::Forked));
        assert_eq!(sender.loan(5).err(), Some(SendError::Forked));
        let own = receiver.as_ref().unwrap();
        assert_eq!(own.recv(&mut [0; 10]), Err(RecvError::Forked));
        assert_eq!(own.try_borrow().err(), Some(RecvError::Forked));
        drop(held.take());
        drop(sender);
    });
    let before = map_of(&map);
    in_child(|| {
        held = None;
        // SAFETY: as the child's copy of an end, which is dropped once.
        drop(unsafe { std::ptr::read(&raw const receiver) });
    });
    assert_eq!(map_of(&map), before, "nothing shared is touched");
    let (mut sender, receiver) = (sender.unwrap(), receiver.as_ref().unwrap());
    // Still borrowed, and everybody still there.
    while sender.try_send(&message(sender.sent(), 10)).is_ok() {}
    assert_eq!(*held.take().unwrap(), message(0, 10)[..]);
    push(&mut sender, 10);
    (1..sender.sent()).for_each(|number| take(receiver, number, 10));
    assert_eq!(receiver.try_recv(&mut [0; 10]), Err(RecvError::Empty));
    // A child that attaches by itself is one.
    drop(sender);
    let number = {
        in_child(|| push(&mut sends(&map, 0), 10));
        sends(&map, 0).sent() - 1
    };
    take(receiver, number, 10);
    assert_eq!(receiver.recv(&mut [0; 10]), Err(RecvError::Closed));
    Ok(())
}

fn map_of(map: &Mapping) -> Vec<u8> {
    let mut all = vec![0; map.len()];
    map.read_at(0, &mut all).unwrap();
    all
}

fn every_form_keeps_its_deadline() -> Result<(), Skip> {
    let (_memfd, map) = stream();
    let (mut sender, receiver) = (sends(&map, 0), receives(&map));
    let mut buf = [0; 64];
    let begin = Instant::now();
    assert_eq!(receiver.try_recv(&mut buf), Err(RecvError::Empty));
    assert_eq!(receiver.try_borrow().err(), Some(RecvError::Empty));
    assert_eq!(receiver.recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(receiver.recv_until(&mut buf, begin), Err(RecvError::TimedOut));
    assert_eq!(receiver.borrow_until(begin + 2 * SHORT).err(), Some(RecvError::TimedOut));
    assert!(begin.elapsed() >= 2 * SHORT);
    while sender.try_send(&[1; 56]).is_ok() {}
    let begin = Instant::now();
    assert_eq!(sender.try_send(&[1; 56]), Err(SendError::Full));
    assert_eq!(sender.try_loan(56).err(), Some(SendError::Full));
    assert_eq!(sender.send_timeout(&[1; 56], SHORT), Err(SendError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(sender.loan_timeout(56, SHORT).err(), Some(SendError::TimedOut));
    assert!(begin.elapsed() >= 2 * SHORT);
    // What can be done at once is, whatever the deadline.
    assert_eq!(receiver.recv_until(&mut buf, begin), Ok(56));
    assert_eq!(sender.send_until(&[1; 56], begin), Ok(()));
    // Who fails when it is full never waits.
    let (_memfd, map) = made(Options::stream().capacity(CAPACITY).full(Full::Fail));
    let sender = sends(&map, 0);
    while sender.send(&[1; 56]).is_ok() {}
    assert_eq!(sender.send_timeout(&[1; 56], LONG), Err(SendError::Full));
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let (_memfd, map) = stream();
    let (sender, receiver) = (sends(&map, 0), receives(&map));
    let pid = gettid();
    for receives in [true, false] {
        let interrupt = Interrupt::new().unwrap();
        std::thread::scope(|s| {
            s.spawn(|| {
                until_on_futex(pid);
                interrupt.trigger();
            });
            let wait = Wait::FOREVER.interrupted_by(&interrupt);
            if receives {
                assert_eq!(receiver.recv_wait(&mut [0; 64], wait), Err(RecvError::Interrupted));
            } else {
                while sender.try_send(&[1; 56]).is_ok() {}
                assert_eq!(sender.send_wait(&[1; 56], wait), Err(SendError::Interrupted));
            }
        });
    }
    // Nothing was sent or lost by that.
    let sent = sender.sent();
    (0..sent).for_each(|_| assert_eq!(receiver.recv(&mut [0; 64]), Ok(56)));
    assert_eq!(receiver.try_recv(&mut [0; 64]), Err(RecvError::Empty));
    Ok(())
}

fn what_does_not_fit_is_told() -> Result<(), Skip> {
    let (_memfd, map) = stream();
    let (mut sender, receiver) = (sends(&map, 0), receives(&map));
    let limit = CAPACITY as usize - 16;
    assert_eq!(sender.max_message(), limit);
    assert_eq!(sender.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    assert_eq!(sender.loan(usize::MAX).err(), Some(SendError::TooBig { limit }));
    sender.send(&[5; 40]).unwrap();
    let short = RecvError::TooSmall { needed: Some(40), lost: false };
    assert_eq!(receiver.recv(&mut [0; 39]), Err(short));
    assert_eq!(receiver.recv(&mut [0; 40]), Ok(40));
    // A loan that is dropped is nothing, and of one a part can be sent.
    drop(sender.loan(1000).unwrap());
    let mut loan = sender.loan(1000).unwrap();
    loan.fill(9);
    loan.send_first(3);
    assert_eq!(*receiver.borrow().unwrap(), [9; 3]);
    assert_eq!(receiver.try_borrow().err(), Some(RecvError::Empty));
    Ok(())
}

fn what_is_no_channel_is_refused() -> Result<(), Skip> {
    let options = Options::stream().capacity(CAPACITY);
    let bytes = options.bytes().unwrap();
    let memfd = memfd::Options::new().create("no channel", bytes).unwrap();
    let map = Arc::new(memfd.map().unwrap());
    // SAFETY: refused.
    let opened = |map: &Arc<Mapping>| unsafe { Receiver::open_in(map) }.unwrap_err().kind();
    assert_eq!(opened(&map), ErrorKind::Mismatch);
    options.create_in(&map).unwrap();
    // SAFETY: refused.
    let lane = unsafe { Sender::open_in(&map, 1) }.unwrap_err();
    assert_eq!(lane.kind(), ErrorKind::InvalidInput);
    let read = Arc::new(memfd.map_with(mapping::Options::new().read_only()).unwrap());
    assert_eq!(opened(&read), ErrorKind::PermissionDenied);
    assert_eq!(options.create_in(&read).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let private = anonymous::Options::new().map_with(mapping::Options::new().private());
    let private = Arc::new(private.create(bytes as usize).unwrap());
    assert_eq!(opened(&private), ErrorKind::InvalidInput);
    let short = Arc::new(anonymous::create(bytes as usize - 4096).unwrap());
    assert_eq!(options.create_in(&short).unwrap_err().kind(), ErrorKind::InvalidInput);
    for options in [Options::fan_in(0), Options::fan_in(65), Options::stream().capacity(1 << 40)] {
        assert_eq!(options.bytes().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    Ok(())
}
