//! Both ends in one thread, over a map of its own, which Miri knows: slices of messages are lent and borrowed
//! in any order, and never two of the same bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::channel::layout::Shape;
use crate::channel::sender::Sender;
use crate::wait::{Loans, Sends};
use crate::{anonymous, mapping};

fn ends(capacity: u64) -> (Sender, Receiver) {
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
    let private = anonymous::Options::new().map_with(mapping::Options::new().private());
    let map = Arc::new(private.create(shape.bytes() as usize).unwrap());
    let lane = || Lane::of(&map, &shape, 0);
    let side = || Side::of_receiver(&map, &shape, 0);
    let receiver = Receiver::attach(vec![lane()], &shape, side(), None, None, true).unwrap();
    let sender = Sender::attach(lane(), &shape, lane().sender_side(), side(), None, true).unwrap();
    (sender, receiver)
}

#[test]
fn slices_are_lent_and_borrowed_in_any_order() {
    let (mut sender, receiver) = ends(1024);
    let mut random = 7_u64;
    let mut below = |end: u64| {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % end
    };
    // What was sent and not received, and what is borrowed.
    let (mut sent, mut borrowed) = (VecDeque::new(), Vec::<(Message<'_>, Vec<u8>)>::new());
    let (mut lent, mut copied, mut out_of_order) = (0, 0, 0);
    for step in 0..if cfg!(miri) { 400 } else { 20_000 } {
        let bytes = vec![step as u8; below(200) as usize];
        match below(8) {
            0 if sender.try_send(&bytes).is_ok() => sent.push_back(bytes),
            1..3 => {
                let Ok(mut loan) = sender.try_loan(bytes.len()) else { continue };
                loan.copy_from_slice(&bytes);
                let first = below(bytes.len() as u64 + 1) as usize;
                match below(4) {
                    0 => {}
                    1 => {
                        loan.send_first(first);
                        sent.push_back(bytes[..first].to_vec());
                    }
                    _ => {
                        loan.send();
                        sent.push_back(bytes);
                    }
                }
                lent += 1;
            }
            3 => {
                let mut room = [0; 256];
                let Ok(len) = receiver.try_recv(&mut room) else { continue };
                assert_eq!(Some(&room[..len]), sent.pop_front().as_deref());
                copied += 1;
            }
            4..6 => {
                let Ok(message) = receiver.try_borrow() else { continue };
                assert_eq!(message.delivery_count(), 1);
                borrowed.push((message, sent.pop_front().unwrap()));
            }
            _ if borrowed.is_empty() => {}
            _ => {
                let any = below(borrowed.len() as u64) as usize;
                out_of_order += usize::from(any > 0);
                drop(borrowed.remove(any));
            }
        }
        for (message, bytes) in &borrowed {
            assert_eq!(**message, **bytes);
        }
    }
    assert!(lent > 20 && copied > 10 && out_of_order > 10, "{lent} {copied} {out_of_order}");
}

#[test]
fn no_loan_is_longer_than_its_memory() {
    let (mut sender, _receiver) = ends(1024);
    for len in [sender.max_message() + 1, 1024, usize::MAX - 7, usize::MAX] {
        assert!(sender.try_loan(len).is_err(), "{len}");
    }
    assert_eq!(sender.try_loan(sender.max_message()).unwrap().len(), sender.max_message());
}
