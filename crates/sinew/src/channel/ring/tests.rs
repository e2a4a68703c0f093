//! The ring over mapped memory, in one thread: what fits, what wraps, what a successor finds, and rubbish.
//! Each test runs in memory that others share, and in a map of its own, which Miri knows too.

use std::sync::Arc;

use super::*;
use crate::channel::lane::Lane;
use crate::channel::layout::Shape;
use crate::{anonymous, mapping, memfd};

mod flow;

pub(super) use flow::Random;

const CAPACITY: u64 = 4096;

/// Runs a test over each kind of memory. It is given what makes a new lane.
pub(super) fn over_each(test: impl Fn(&dyn Fn(u64) -> Lane)) {
    if !cfg!(miri) {
        test(&|capacity| {
            lane(capacity, |len| memfd::Options::new().create("lane", len).unwrap().map().unwrap())
        });
    }
    test(&|capacity| {
        let private = anonymous::Options::new().map_with(mapping::Options::new().private());
        lane(capacity, |len| private.create(len as usize).unwrap())
    });
}

fn lane(capacity: u64, map: impl Fn(u64) -> mapping::Mapping) -> Lane {
    let shape = Shape {
        pattern: 1,
        full: 0,
        members: 2,
        receivers: 1,
        lanes: 1,
        capacity,
        slots: 0,
        deliveries: 0,
        type_hash: 0,
        kernel_fences: false,
    };
    Lane::of(&Arc::new(map(shape.bytes())), &shape, 0)
}

fn send(sending: &Sending, lane: &Lane, message: &[u8]) -> Result<(), NoRoom> {
    let room = sending.reserve(lane, message.len() as u64)?;
    lane.write(room.at, message);
    sending.commit(lane, message.len() as u64, 0);
    Ok(())
}

fn recv(receiving: &Receiving, lane: &Lane) -> Option<Vec<u8>> {
    let record = receiving.peek(lane, || ()).unwrap()?;
    let mut message = vec![0; record.len as usize];
    lane.read(record.at, &mut message);
    receiving.step(&record);
    receiving.release(lane, record.end, 1, record.len);
    Some(message)
}

pub(super) fn message(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number as usize * 31 + i * 7) as u8).collect()
}

#[test]
fn messages_of_every_length_arrive_in_order() {
    over_each(|new| {
        let lane = new(CAPACITY);
        let sending = Sending::resume(&lane).unwrap();
        let (receiving, _) = Receiving::resume(&lane).unwrap();
        let lengths = (0..=sending.most() as usize).chain((0..2000).map(|i| i * 37 % 1500));
        // Miri is slow.
        let lengths = lengths.step_by(if cfg!(miri) { 97 } else { 1 });
        for (number, len) in lengths.enumerate() {
            let number = number as u64;
            // The one before the last is still there when the next one is sent, where both fit.
            let message = message(number, len);
            while let Err(why) = send(&sending, &lane, &message) {
                assert!(matches!(why, NoRoom::Until(_)), "{why:?}");
                // Nothing to receive, and no room: only padding was in the way.
                let _padding = receiving.peek(&lane, || ()).unwrap();
            }
            assert_eq!(receiving.next(), number);
            assert_eq!(recv(&receiving, &lane).as_deref(), Some(&message[..]));
            assert_eq!(receiving.peek(&lane, || ()), Ok(None));
        }
    });
}

#[test]
fn too_long_a_message_never_fits_and_the_longest_does() {
    over_each(|new| {
        let lane = new(CAPACITY);
        let sending = Sending::resume(&lane).unwrap();
        for len in [sending.most() + 1, CAPACITY, u64::MAX / 2, u64::MAX - 7, u64::MAX] {
            assert_eq!(sending.reserve(&lane, len), Err(NoRoom::TooBig), "{len}");
        }
        sending.reserve(&lane, sending.most()).unwrap();
    });
}

#[test]
fn a_full_ring_names_where_room_begins() {
    over_each(|new| {
        let lane = new(CAPACITY);
        let sending = Sending::resume(&lane).unwrap();
        let (receiving, _) = Receiving::resume(&lane).unwrap();
        let mut sent = 0;
        let until = loop {
            match send(&sending, &lane, &message(sent, 50)) {
                Ok(()) => sent += 1,
                Err(NoRoom::Until(position)) => break position,
                Err(other) => panic!("{other:?}"),
            }
        };
        // Records of 64 bytes, less the zero behind the last.
        assert_eq!((sent, until), (CAPACITY / 64 - 1, 8));
        assert_eq!(recv(&receiving, &lane), Some(message(0, 50)));
        assert!(receiving.head() >= until);
        send(&sending, &lane, &message(sent, 50)).unwrap();
    });
}

#[test]
fn small_messages_lie_in_one_line() {
    over_each(|new| {
        for len in 0..=56 {
            let lane = new(CAPACITY);
            let sending = Sending::resume(&lane).unwrap();
            for number in 0..30 {
                let begin = sending.tail();
                send(&sending, &lane, &message(number, len)).unwrap();
                assert_eq!(
                    begin / LINE,
                    (begin + HEADER + len as u64 - 1) / LINE,
                    "{len} at {begin}"
                );
            }
        }
    });
}

#[test]
fn successors_go_on_where_the_others_ended() {
    over_each(|new| {
        let lane = new(CAPACITY);
        let mut number = 0;
        for round in 0..300_u64 {
            let sending = Sending::resume(&lane).unwrap();
            assert_eq!(sending.sent(), number);
            let (receiving, _) = Receiving::resume(&lane).unwrap();
            for i in 0..round % 5 {
                let message = message(number, (round * 13 + i * 5) as usize % 200);
                send(&sending, &lane, &message).unwrap();
                // Killed after the commit, before anything else was stored: none of it, or the first part.
                if i + 1 == round % 5 {
                    let (sent, tail) = (SenderField::Sent, SenderField::Tail);
                    let before = sending.tail() - stride(message.len() as u64);
                    if round % 3 < 2 {
                        lane.sender(tail).store(before, Relaxed);
                    }
                    if round % 3 == 0 {
                        lane.sender(sent).store(number, Relaxed);
                    }
                }
                assert_eq!(recv(&receiving, &lane), Some(message));
                number += 1;
            }
            // Killed after the head was stored, before the count.
            if round % 2 == 0 && round % 5 > 0 {
                let received = lane.receiver(ReceiverField::Received);
                received.store(number - 1, Relaxed);
            }
        }
        assert_eq!(number, 600);
    });
}

#[test]
fn what_no_honest_sender_writes_is_corrupt() {
    over_each(|new| {
        for header in [
            u64::MAX,
            1,
            header_of(3, 8, 0, 0),
            header_of(DATA, CAPACITY, 0, 0),
            header_of(DATA, CAPACITY - OVERHEAD + 1, 0, 0),
            header_of(DATA, 0xFFFF_FFFF, 0, 0),
            header_of(DATA, 8, 0, NUMBER_MASK),
            header_of(PADDING, 8, 0, 0),
            header_of(PADDING, CAPACITY, 0, 0),
        ] {
            let lane = new(CAPACITY);
            let (receiving, _) = Receiving::resume(&lane).unwrap();
            lane.word(0).store(header, Relaxed);
            assert_eq!(receiving.peek(&lane, || ()), Err(Corrupt), "{header:#x}");
            // Nothing was consumed.
            assert_eq!((receiving.position(), receiving.head()), (0, 0));
        }
        // Padding twice in a row; and a number out of order in a flow.
        let lane = new(CAPACITY);
        let (receiving, _) = Receiving::resume(&lane).unwrap();
        lane.word(0).store(header_of(PADDING, CAPACITY - HEADER, 0, 0), Relaxed);
        assert_eq!(receiving.peek(&lane, || ()), Err(Corrupt));
    });
}

#[test]
fn what_no_honest_receiver_writes_is_corrupt() {
    over_each(|new| {
        for head in [8, 1, u64::MAX, CAPACITY * 2, 1 << 63] {
            let lane = new(CAPACITY);
            lane.receiver(ReceiverField::Head).store(head, Relaxed);
            assert_eq!(Sending::resume(&lane).map(|s| s.tail()), Err(Corrupt), "{head}");
        }
        let lane = new(CAPACITY);
        let sending = Sending::resume(&lane).unwrap();
        while send(&sending, &lane, &[1; 100]).is_ok() {}
        for head in [sending.tail() + 8, u64::MAX, u64::MAX - CAPACITY] {
            lane.receiver(ReceiverField::Head).store(head, Relaxed);
            assert_eq!(sending.reserve(&lane, 100), Err(NoRoom::Corrupt), "{head}");
        }
        // A step back.
        lane.receiver(ReceiverField::Head).store(512, Relaxed);
        sending.reserve(&lane, 100).unwrap();
        sending.commit(&lane, 100, 0);
        lane.receiver(ReceiverField::Head).store(256, Relaxed);
        assert_eq!(sending.reserve(&lane, 1000), Err(NoRoom::Corrupt));
    });
}
