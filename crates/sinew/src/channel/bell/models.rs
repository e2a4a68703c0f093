//! Sleepers and those who ring for them in every interleaving: no wake-up is lost. A sleep that nobody ends
//! is a deadlock, which loom reports.

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::channel::memory::Memory;
use crate::channel::memory::model::{self, Lane, Life, Slot, View, live};
use crate::channel::presence::{Presence, Seen};
use crate::channel::ring::{NoRoom, Receiving, Sending};
use crate::sync::word;

const CAPACITY: usize = 64;
/// How long the messages are. The third does not fit before the end of the lane, nor beside the others.
const LENS: [usize; 3] = [8, 24, 24];
/// Where they end.
const ENDS: [u64; 3] = [16, 48, 96];

/// The words of one who may sleep, and its presence.
struct Side {
    sleeping: Slot,
    sleeps: Slot,
    presence: Slot,
    word: word::model::Word,
}

/// A side as one of the two sees it.
struct Seat<'a> {
    sleeping: model::Word<'a>,
    sleeps: model::Word<'a>,
    presence: model::Word<'a>,
    word: &'a word::model::Word,
}

impl Side {
    fn new() -> Self {
        let slots = (Slot::new(), Slot::new(), Slot::new());
        let word = word::model::Word::new(0);
        Self { sleeping: slots.0, sleeps: slots.1, presence: slots.2, word }
    }

    fn seen_by<'a>(&'a self, life: &'a Life) -> Seat<'a> {
        let word = |slot| model::Word { slot, life };
        let (sleeping, sleeps) = (word(&self.sleeping), word(&self.sleeps));
        Seat { sleeping, sleeps, presence: word(&self.presence), word: &self.word }
    }
}

impl<'a> Seat<'a> {
    fn bell(&self) -> Bell<'_, model::Word<'a>, word::model::Word> {
        Bell { sleeping: &self.sleeping, sleeps: &self.sleeps, word: self.word }
    }

    /// What one begins with who takes the side over.
    fn sleeps(&self) -> Sleeps {
        self.sleeping.store(0, Relaxed);
        Sleeps { last: self.sleeps.load(Relaxed) }
    }

    fn sleep_until<T>(&self, sleeps: &mut Sleeps, look: impl FnMut() -> Option<T>) -> T {
        self.bell().sleep_until(sleeps, fencing(), Wait::FOREVER, look).unwrap()
    }

    fn ring_if_asleep(&self, rung: &mut Rung) {
        self.bell().ring_if_asleep(rung, fencing());
    }
}

/// Full fences: loom knows no other.
fn fencing() -> Fencing {
    Fencing::in_model()
}

fn explore(switches: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = switches;
    builder.check(model);
}

/// A receiver, its senders, and their lanes.
struct Channel {
    receiver: Side,
    senders: Vec<(Lane, Side)>,
}

impl Channel {
    fn new(senders: usize) -> Arc<Self> {
        let senders = (0..senders).map(|_| (Lane::new(CAPACITY), Side::new())).collect();
        Arc::new(Self { receiver: Side::new(), senders })
    }

    /// Sends so many messages through a lane, sleeping until there is room.
    fn send(&self, index: usize, messages: usize, life: &Life) {
        let (lane, own) = &self.senders[index];
        let (lane, own) = (lane.seen_by(life), own.seen_by(life));
        let peer = self.receiver.seen_by(life);
        let (sending, mut rung) = (Sending::resume(&lane).unwrap(), Rung::default());
        let mut sleeps = own.sleeps();
        for len in &LENS[..messages] {
            let reserve = || sending.reserve(&lane, *len as u64);
            let room = reserve().or_else(|why| match why {
                NoRoom::Until(_) => {
                    // Padding may have been committed.
                    peer.ring_if_asleep(&mut rung);
                    own.sleep_until(&mut sleeps, || {
                        let before = sending.tail();
                        let room = reserve();
                        if sending.tail() != before {
                            peer.ring_if_asleep(&mut rung);
                        }
                        room.ok().map(Ok)
                    })
                }
                why => Err(why),
            });
            lane.write(room.unwrap().at, &vec![1; *len]);
            sending.commit(&lane, *len as u64, 0);
            peer.ring_if_asleep(&mut rung);
        }
    }

    /// Receives so many messages from whichever lanes, sleeping until there is one.
    fn receive(&self, messages: usize, life: &Life) {
        let own = self.receiver.seen_by(life);
        let mut sleeps = own.sleeps();
        let ends: Vec<(View<'_>, Seat<'_>)> = self
            .senders
            .iter()
            .map(|(lane, side)| (lane.seen_by(life), side.seen_by(life)))
            .collect();
        let mut rung = vec![Rung::default(); ends.len()];
        let rings: Vec<Receiving> =
            ends.iter().map(|(lane, _)| Receiving::resume(lane).unwrap().0).collect();
        for _ in 0..messages {
            let mut look = || {
                ends.iter().zip(&rings).zip(&mut rung).find_map(|(((lane, sender), ring), rung)| {
                    let record = ring.peek(lane, || sender.ring_if_asleep(rung)).unwrap()?;
                    ring.step(&record);
                    ring.release(lane, record.end, 1, record.len);
                    sender.ring_if_asleep(rung);
                    Some(())
                })
            };
            if look().is_none() {
                own.sleep_until(&mut sleeps, look);
            }
        }
    }
}

/// Sends and receives so many messages between so many senders and a receiver.
fn all_arrive(senders: usize, messages: usize, switches: Option<usize>) {
    explore(switches, move || {
        let channel = Channel::new(senders);
        let spawn = |index| {
            let channel = Arc::clone(&channel);
            thread::spawn(move || channel.send(index, messages, &Life::long()))
        };
        let threads: Vec<_> = (0..senders).map(spawn).collect();
        channel.receive(messages * senders, &Life::long());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn arm_and_ring() {
    all_arrive(1, 1, None);
}

#[test]
fn park_and_wake() {
    // The second waits until the first is released; the third, for padding too.
    all_arrive(1, 3, Some(3));
}

#[test]
fn two_ring_for_one() {
    all_arrive(2, 1, Some(4));
    all_arrive(2, 2, Some(2));
}

#[test]
fn a_close_is_heard() {
    explore(None, || {
        let channel = Channel::new(1);
        let other = Arc::clone(&channel);
        let peer = thread::spawn(move || {
            let life = Life::long();
            let (_, own) = &other.senders[0];
            let seen = Seen { presence: Presence::Left, turn: 1 };
            seen.say_in(&own.seen_by(&life).presence);
            other.receiver.seen_by(&life).bell().ring();
        });
        let life = Life::long();
        let (_, sender) = &channel.senders[0];
        let (own, sender) = (channel.receiver.seen_by(&life), sender.seen_by(&life));
        own.sleep_until(&mut own.sleeps(), || {
            (Seen::of(&sender.presence).presence == Presence::Left).then_some(())
        });
        assert_eq!(Seen::of(&sender.presence).turn, 1);
        peer.join().unwrap();
    });
}

/// A receiver dies at each of its accesses, when the sender may have rung for it; its successor is rung for
/// too.
#[test]
fn a_successor_is_rung_for() {
    let mut accesses = 0;
    loop {
        let died = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&died);
        explore(Some(3), move || {
            let channel = Channel::new(1);
            let other = Arc::clone(&channel);
            let sender = thread::spawn(move || other.send(0, 2, &Life::long()));
            if live(accesses, |life| channel.receive(2, life)).is_none() {
                seen.store(true, std::sync::atomic::Ordering::SeqCst);
                // What a survivor does.
                let life = Life::long();
                channel.senders[0].1.seen_by(&life).bell().ring();
                let lane = channel.senders[0].0.seen_by(&life);
                let head = Receiving::resume(&lane).unwrap().0.head();
                let left = ENDS[..2].iter().filter(|end| **end > head).count();
                channel.receive(left, &life);
            }
            sender.join().unwrap();
        });
        if !died.load(std::sync::atomic::Ordering::SeqCst) {
            assert!(accesses > 20);
            return;
        }
        accesses += 1;
    }
}
