//! The ring in every interleaving: whole messages in order, nothing written that is still read, and
//! deaths at every access of either side.

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::channel::memory::model::{Lane, Life, View, live};

/// Room for one or two messages.
const CAPACITY: usize = 64;

pub(super) fn explore(switches: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = switches;
    builder.check(model);
}

/// The bytes of message `number`, none of which is zero.
pub(super) fn message(number: u64, len: u64) -> Vec<u8> {
    (0..len).map(|i| (number * 16 + i + 1) as u8).collect()
}

/// Sends message `number` as soon as there is room.
fn send(sending: &Sending, lane: &View<'_>, number: u64, len: u64) {
    let room = loop {
        match sending.reserve(lane, len) {
            Ok(room) => break room,
            Err(NoRoom::Until(_)) => thread::yield_now(),
            Err(why) => panic!("{why:?}"),
        }
    };
    lane.write(room.at, &message(number, len));
    sending.commit(lane, len, 0);
}

fn next(receiving: &Receiving, lane: &View<'_>) -> Record {
    loop {
        if let Some(record) = receiving.peek(lane, || ()).unwrap() {
            return record;
        }
        thread::yield_now();
    }
}

/// Whether the message is whole.
fn check(lane: &View<'_>, record: &Record, number: u64) {
    let mut bytes = vec![0; record.len as usize];
    lane.read(record.at, &mut bytes);
    assert_eq!(bytes, message(number, record.len));
}

/// Receives one, which is message `number`.
fn recv(receiving: &Receiving, lane: &View<'_>, number: u64) -> u64 {
    let record = next(receiving, lane);
    assert_eq!(receiving.next(), number);
    check(lane, &record, number);
    receiving.step(&record);
    receiving.release(lane, record.end, 1, record.len);
    record.len
}

/// One sends messages of these lengths, the other receives them.
fn all_arrive(switches: Option<usize>, lens: &'static [u64]) {
    explore(switches, move || {
        let lane = Arc::new(Lane::new(CAPACITY));
        let shared = Arc::clone(&lane);
        let sender = thread::spawn(move || {
            let life = Life::long();
            let lane = shared.seen_by(&life);
            let sending = Sending::resume(&lane).unwrap();
            for (number, len) in (0..).zip(lens) {
                send(&sending, &lane, number, *len);
            }
        });
        let life = Life::long();
        let lane = lane.seen_by(&life);
        let (receiving, _) = Receiving::resume(&lane).unwrap();
        for (number, len) in (0..).zip(lens) {
            assert_eq!(recv(&receiving, &lane, number), *len);
        }
        sender.join().unwrap();
        assert_eq!(receiving.peek(&lane, || ()), Ok(None));
    });
}

#[test]
fn publish() {
    all_arrive(None, &[8, 8, 8, 8]);
}

#[test]
fn publish_where_one_fits_at_a_time() {
    all_arrive(None, &[24, 24, 24]);
}

#[test]
fn pad() {
    // The third does not fit before the end, and there is room for its padding before there is for itself.
    all_arrive(Some(4), &[8, 24, 24, 8]);
}

#[test]
fn release_against_reserve() {
    // The second is released before the first, or after it.
    for in_order in [false, true] {
        explore(None, move || {
            let lane = Arc::new(Lane::new(CAPACITY));
            let shared = Arc::clone(&lane);
            let sender = thread::spawn(move || {
                let life = Life::long();
                let lane = shared.seen_by(&life);
                let sending = Sending::resume(&lane).unwrap();
                (0..4).for_each(|number| send(&sending, &lane, number, 8));
            });
            let life = Life::long();
            let lane = lane.seen_by(&life);
            let (receiving, _) = Receiving::resume(&lane).unwrap();
            let borrow = |number| {
                let record = next(&receiving, &lane);
                assert_eq!(receiving.next(), number);
                receiving.step(&record);
                receiving.give(&lane);
                check(&lane, &record, number);
                record
            };
            let (first, second) = (borrow(0), borrow(1));
            check(&lane, &first, 0);
            if in_order {
                receiving.release(&lane, first.end, 1, first.len);
                check(&lane, &second, 1);
                receiving.release(&lane, second.end, 1, second.len);
            } else {
                check(&lane, &second, 1);
                check(&lane, &first, 0);
                receiving.release(&lane, second.end, 2, first.len + second.len);
            }
            recv(&receiving, &lane, 2);
            recv(&receiving, &lane, 3);
            sender.join().unwrap();
        });
    }
}

/// Runs a model with a death after each number of accesses, until nobody dies.
fn with_every_death(model: impl Fn(u32, &AtomicBool) + Copy + Sync + Send + 'static) {
    for accesses in 0.. {
        let died = StdArc::new(AtomicBool::new(false));
        let seen = StdArc::clone(&died);
        explore(Some(3), move || model(accesses, &seen));
        if !died.load(SeqCst) {
            assert!(accesses > 20, "{accesses} accesses only");
            return;
        }
    }
}

/// With padding before the third.
const LENS: [u64; 3] = [8, 24, 24];
/// Where the last of them ends.
const END: u64 = 96;

/// What is counted when all were sent and received.
fn check_counts(lane: &View<'_>, messages: u64) {
    let sent = lane.sender(SenderField::Sent).load(Acquire);
    let received = lane.receiver(ReceiverField::Received).load(Acquire);
    let tail = lane.sender(SenderField::Tail).load(Acquire);
    let head = lane.receiver(ReceiverField::Head).load(Acquire);
    assert_eq!((sent, received, head), (messages, messages, tail));
}

#[test]
fn death_of_a_sender_at_every_access() {
    with_every_death(|accesses, died| {
        let lane = Arc::new(Lane::new(CAPACITY));
        let shared = Arc::clone(&lane);
        let receiver = thread::spawn(move || {
            let life = Life::long();
            let lane = shared.seen_by(&life);
            let (receiving, _) = Receiving::resume(&lane).unwrap();
            for (number, len) in (0..).zip(LENS) {
                assert_eq!(recv(&receiving, &lane, number), len);
            }
        });
        let send_all = |life: &Life| {
            let lane = lane.seen_by(life);
            let sending = Sending::resume(&lane).unwrap();
            for number in sending.sent()..3 {
                send(&sending, &lane, number, LENS[number as usize]);
            }
        };
        // The successor dies too, as early as that.
        for life in [accesses, accesses, u32::MAX] {
            if live(life, send_all).is_some() {
                break;
            }
            died.store(true, SeqCst);
        }
        receiver.join().unwrap();
        let life = Life::long();
        check_counts(&lane.seen_by(&life), 3);
    });
}

#[test]
fn death_of_a_receiver_at_every_access() {
    with_every_death(|accesses, died| {
        let lane = Arc::new(Lane::new(CAPACITY));
        let shared = Arc::clone(&lane);
        let sender = thread::spawn(move || {
            let life = Life::long();
            let lane = shared.seen_by(&life);
            let sending = Sending::resume(&lane).unwrap();
            for (number, len) in (0..).zip(LENS) {
                send(&sending, &lane, number, len);
            }
        });
        // How many were certainly released, and how many perhaps.
        let (least, most) = (Cell::new(0), Cell::new(0));
        let receive_all = |life: &Life| {
            let lane = lane.seen_by(life);
            let (receiving, _) = Receiving::resume(&lane).unwrap();
            while receiving.head() < END {
                let mut last = next(&receiving, &lane);
                let begin = receiving.next();
                assert!((least.get()..=most.get()).contains(&begin));
                check(&lane, &last, begin);
                receiving.step(&last);
                receiving.give(&lane);
                let (mut count, mut bytes) = (1, last.len);
                // The first two together.
                if begin == 0 {
                    last = next(&receiving, &lane);
                    check(&lane, &last, 1);
                    receiving.step(&last);
                    receiving.give(&lane);
                    (count, bytes) = (2, bytes + last.len);
                }
                most.set(begin + count);
                receiving.release(&lane, last.end, count, bytes);
                least.set(begin + count);
            }
        };
        for life in [accesses, accesses, u32::MAX] {
            if live(life, receive_all).is_some() {
                break;
            }
            died.store(true, SeqCst);
        }
        sender.join().unwrap();
        // The next message tells what the last death left uncounted.
        let life = Life::long();
        let lane = lane.seen_by(&life);
        send(&Sending::resume(&lane).unwrap(), &lane, 3, 8);
        recv(&Receiving::resume(&lane).unwrap().0, &lane, 3);
        check_counts(&lane, 4);
    });
}
