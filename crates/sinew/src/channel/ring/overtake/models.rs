//! A sender that overtakes, in every interleaving: no byte is written that is looked at or borrowed, and each message
//! is received or missed.

use loom::sync::Arc;
use loom::thread;

use super::chase::{Chasing, Counted, Next};
use super::*;
use crate::channel::memory::model::{Lane, Life, View};
use crate::channel::ring::models::{explore, message};

/// Room for seven messages of eight bytes, which is the most they may have.
const CAPACITY: usize = 128;
const FILL: u64 = 7;
const LEN: u64 = 8;

const fn pins() -> Pins {
    Pins::new(1, CAPACITY as u64)
}

fn send(sending: &Sending, lane: &View<'_>) {
    let room = sending.reserve(lane, LEN).unwrap();
    lane.write(room.at, &message(sending.sent() % 15, LEN));
    sending.commit(lane, LEN, 0);
}

/// How many were received, and up to which number they were received or missed.
fn counted(lane: &View<'_>) -> (u64, u64) {
    let counted = Counted::of(|field| lane.receiver(field).load(Acquire));
    (counted.received, counted.number)
}

fn check(lane: &View<'_>, record: &Record, number: u64) {
    let mut bytes = vec![0; record.len as usize];
    lane.read(record.at, &mut bytes);
    assert_eq!(bytes, message(number % 15, LEN), "{number}");
}

/// A lane in which there is no more room.
fn full() -> Arc<Lane> {
    let lane = Arc::new(Lane::new(CAPACITY));
    let life = Life::long();
    let view = lane.seen_by(&life);
    let sending = Sending::resume_overtaking(&view, pins()).unwrap();
    (0..FILL).for_each(|_| send(&sending, &view));
    drop(view);
    lane
}

/// Sends so many in all.
fn send_all(lane: &View<'_>, all: u64) {
    let sending = Sending::resume_overtaking(lane, pins()).unwrap();
    while sending.sent() < all {
        send(&sending, lane);
    }
}

/// The next message, with how many were missed before it.
fn next(chasing: &Chasing, lane: &View<'_>) -> (u64, Record) {
    let mut missed = 0;
    loop {
        let before = chasing.next();
        match chasing.peek(lane).unwrap() {
            Next::Message(record) => return (missed, record),
            Next::Lagged(more) => {
                chasing.told();
                assert_eq!(before + more, chasing.next());
                missed += more;
            }
            Next::Nothing => thread::yield_now(),
        }
    }
}

/// One sends so many more than there is room for; the other receives copies.
fn copies(switches: usize, more: u64) {
    explore(Some(switches), move || {
        let lane = full();
        let shared = Arc::clone(&lane);
        let sender = thread::spawn(move || send_all(&shared.seen_by(&Life::long()), FILL + more));
        let life = Life::long();
        let lane = lane.seen_by(&life);
        let chasing = Chasing::resume(&lane, pins()).unwrap();
        let (mut received, mut number) = (0, 0);
        while number < FILL + more {
            let (missed, record) = next(&chasing, &lane);
            number += missed;
            assert_eq!(number, chasing.next());
            check(&lane, &record, number);
            chasing.consume(&lane, &record);
            (received, number) = (received + 1, number + 1);
        }
        sender.join().unwrap();
        assert_eq!(chasing.peek(&lane), Ok(Next::Nothing));
        assert_eq!(counted(&lane), (received, FILL + more));
    });
}

#[test]
fn pin_against_overtake() {
    copies(4, 1);
}

#[test]
fn lag_against_overtake() {
    copies(2, 4);
}

#[test]
fn borrow_against_overtake() {
    // The first stays borrowed, while what is looked at moves on.
    explore(Some(3), || {
        let lane = full();
        let shared = Arc::clone(&lane);
        let sender = thread::spawn(move || send_all(&shared.seen_by(&Life::long()), FILL + 2));
        let life = Life::long();
        let lane = lane.seen_by(&life);
        let chasing = Chasing::resume(&lane, pins()).unwrap();
        let (missed, first) = next(&chasing, &lane);
        let index = chasing.borrow(&lane, &first);
        assert!(chasing.is_full());
        let (_, second) = next(&chasing, &lane);
        check(&lane, &second, chasing.next());
        check(&lane, &first, missed);
        sender.join().unwrap();
        check(&lane, &first, missed);
        chasing.release(&lane, index);
        let (_, second) = next(&chasing, &lane);
        check(&lane, &second, chasing.next());
        let (received, number) = counted(&lane);
        assert_eq!((received, number), (1, chasing.next()));
    });
}
