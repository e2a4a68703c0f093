//! Sleepers and those who ring for them in every interleaving: no wake-up is lost. A sleep that nobody ends
//! is a deadlock, which loom reports.

use std::cell::Cell;
use std::sync::atomic::Ordering::AcqRel;

use loom::sync::Arc;
use loom::thread;

use super::doorbell::{Doorbell, Readable};
use super::*;
use crate::channel::fence;
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
    manner: Manner,
}

/// How one sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Where everybody fences.
    Fenced,
    /// With the kernel's fence.
    ByKernel,
    /// It has the kernel fence once, and asks the others from then on.
    Asks,
    /// The same, and it takes that back after each message that it moves without a sleep.
    AsksAtTimes,
}

/// A side as one of the two sees it.
struct Seat<'a> {
    sleeping: model::Word<'a>,
    sleeps: model::Word<'a>,
    presence: model::Word<'a>,
    word: &'a word::model::Word,
    manner: Manner,
}

impl Manner {
    /// Fences: of loom, and where others do not fence, the kernel's.
    fn fencing(self) -> Fencing {
        Fencing::in_model(self != Self::Fenced)
    }

    fn about_to_sleep(self, sleeps: &mut Sleeps) {
        sleeps.often = matches!(self, Self::Asks | Self::AsksAtTimes);
    }

    /// Of who is there.
    fn life(self, cpu: usize) -> Life {
        if self == Self::Fenced { Life::long() } else { Life::on(cpu) }
    }
}

impl Side {
    fn new(manner: Manner) -> Self {
        let slots = (Slot::new(), Slot::new(), Slot::new());
        let word = word::model::Word::new(0);
        Self { sleeping: slots.0, sleeps: slots.1, presence: slots.2, word, manner }
    }

    fn seen_by<'a>(&'a self, life: &'a Life) -> Seat<'a> {
        let word = |slot| model::Word { slot, life };
        let (sleeping, sleeps) = (word(&self.sleeping), word(&self.sleeps));
        let presence = word(&self.presence);
        Seat { sleeping, sleeps, presence, word: &self.word, manner: self.manner }
    }
}

impl<'a> Seat<'a> {
    fn bell(&self) -> Bell<'_, model::Word<'a>, word::model::Word> {
        Bell { sleeping: &self.sleeping, sleeps: &self.sleeps, word: self.word }
    }

    /// What one begins with who takes the side over.
    fn sleeps(&self) -> Sleeps {
        self.sleeping.store(0, Relaxed);
        Sleeps::behind(self.sleeps.load(Relaxed))
    }

    fn sleep_until<T>(&self, sleeps: &mut Sleeps, look: impl FnMut() -> Option<T>) -> T {
        self.manner.about_to_sleep(sleeps);
        self.bell().sleep_until(sleeps, self.manner.fencing(), Wait::FOREVER, look).unwrap()
    }

    /// A message was moved without a sleep.
    fn moved(&self, sleeps: &mut Sleeps) {
        if self.manner == Manner::AsksAtTimes && sleeps.has_asked() {
            self.bell().ask_no_longer(sleeps);
        }
    }

    fn ring_if_asleep(&self, rung: &mut Rung) {
        self.bell().ring_if_asleep(rung, self.manner.fencing(), || ());
    }
}

fn explore(switches: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = switches;
    // With the places that the kernel's fence passes.
    builder.max_branches = 10_000;
    builder.check(move || {
        fence::model::boot();
        model();
    });
}

/// A receiver, its senders, and their lanes.
struct Channel {
    receiver: Side,
    senders: Vec<(Lane, Side)>,
    manner: Manner,
}

impl Channel {
    fn new(senders: usize, manner: Manner) -> Arc<Self> {
        let senders = (0..senders).map(|_| (Lane::new(CAPACITY), Side::new(manner))).collect();
        Arc::new(Self { receiver: Side::new(manner), senders, manner })
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
            let mut slept = false;
            let room = reserve().or_else(|why| match why {
                NoRoom::Until(_) => {
                    slept = true;
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
            if !slept {
                own.moved(&mut sleeps);
            }
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
            if look().is_some() {
                own.moved(&mut sleeps);
            } else {
                own.sleep_until(&mut sleeps, look);
            }
        }
    }
}

/// Sends and receives so many messages between so many senders and a receiver.
fn all_arrive(senders: usize, messages: usize, switches: Option<usize>, manner: Manner) {
    explore(switches, move || {
        let channel = Channel::new(senders, manner);
        let spawn = |index| {
            let channel = Arc::clone(&channel);
            thread::spawn(move || channel.send(index, messages, &channel.manner.life(index + 1)))
        };
        let threads: Vec<_> = (0..senders).map(spawn).collect();
        channel.receive(messages * senders, &manner.life(0));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn arm_and_ring() {
    all_arrive(1, 1, None, Manner::Fenced);
}

#[test]
fn park_and_wake() {
    // The second waits until the first is released; the third, for padding too.
    all_arrive(1, 3, Some(3), Manner::Fenced);
}

#[test]
fn two_ring_for_one() {
    all_arrive(2, 1, Some(4), Manner::Fenced);
    all_arrive(2, 2, Some(2), Manner::Fenced);
}

#[test]
fn the_kernel_fences() {
    all_arrive(1, 1, None, Manner::ByKernel);
    all_arrive(1, 3, Some(2), Manner::ByKernel);
    all_arrive(2, 1, Some(2), Manner::ByKernel);
}

#[test]
fn who_is_asked_fences() {
    all_arrive(1, 2, Some(3), Manner::Asks);
    all_arrive(1, 3, Some(2), Manner::Asks);
    all_arrive(2, 1, Some(2), Manner::Asks);
}

#[test]
fn what_was_asked_is_taken_back() {
    all_arrive(1, 3, Some(2), Manner::AsksAtTimes);
    all_arrive(2, 2, Some(1), Manner::AsksAtTimes);
}

#[test]
fn a_close_is_heard() {
    explore(None, || {
        let channel = Channel::new(1, Manner::Fenced);
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

/// An eventfd: readable while it is not zero.
struct Event(word::model::Word);

impl Event {
    fn wait(&self) {
        self.0.sleep(0, Wait::FOREVER).unwrap();
    }
}

impl Readable for Event {
    fn ring(&self) {
        self.0.fetch_add(1, AcqRel);
        self.0.wake(ALL);
    }

    fn clear(&self) {
        self.0.swap(0, AcqRel);
    }
}

/// A message, or a close, to one who waits for its doorbell to be readable, and may sleep in a call for the last one.
struct Polled {
    channel: Arc<Channel>,
    event: Event,
}

impl Polled {
    fn new(manner: Manner) -> Arc<Self> {
        let event = Event(word::model::Word::new(1));
        Arc::new(Self { channel: Channel::new(1, manner), event })
    }

    fn send(&self, messages: usize) {
        let life = self.channel.manner.life(1);
        let lane = self.channel.senders[0].0.seen_by(&life);
        let receiver = self.channel.receiver.seen_by(&life);
        let (sending, mut rung) = (Sending::resume(&lane).unwrap(), Rung::default());
        for _ in 0..messages {
            let room = sending.reserve(&lane, 8).expect("there is room");
            lane.write(room.at, &[1; 8]);
            sending.commit(&lane, 8, 0);
            let fencing = receiver.manner.fencing();
            receiver.bell().ring_if_asleep(&mut rung, fencing, || self.event.ring());
        }
    }

    fn close(&self) {
        let life = self.channel.manner.life(1);
        let own = self.channel.senders[0].1.seen_by(&life);
        Seen { presence: Presence::Left, turn: 1 }.say_in(&own.presence);
        let receiver = self.channel.receiver.seen_by(&life);
        receiver.bell().ring();
        doorbell::ring_if_armed(receiver.bell(), &self.event, Fencing::in_model(false));
    }

    /// Waits for so many to be found, for the last in a call if it `calls`.
    fn find(
        &self,
        seat: &Seat<'_>,
        polling: &Polling,
        count: usize,
        calls: bool,
        look: impl Fn() -> Option<()>,
    ) {
        for number in 1..=count {
            if look().is_some() {
                polling.moved(seat);
            } else if calls && number == count {
                polling.doorbell.rest_armed(seat.bell(), &self.event, &polling.sleeps);
                seat.sleep_until(&mut polling.sleeps.get(), &look);
            } else {
                while polling.arm(seat, &self.event, &look).is_none() {
                    // Nobody has to wait for the doorbell.
                    if seat.manner == Manner::AsksAtTimes && look().is_some() {
                        polling.moved(seat);
                        break;
                    }
                    self.event.wait();
                    if look().is_some() {
                        break;
                    }
                    thread::yield_now();
                }
            }
        }
    }

    /// Receives so many messages, until the sender ends. After that no loop goes round in vain.
    fn receive(&self, messages: usize, calls: bool, sender: thread::JoinHandle<()>) {
        let life = self.channel.manner.life(0);
        let seat = self.channel.receiver.seen_by(&life);
        let lane = self.channel.senders[0].0.seen_by(&life);
        let (ring, polling) = (Receiving::resume(&lane).unwrap().0, Polling::of(&seat));
        let look = || {
            let record = ring.peek(&lane, || ()).unwrap()?;
            ring.step(&record);
            ring.release(&lane, record.end, 1, record.len);
            Some(())
        };
        self.find(&seat, &polling, messages, calls, look);
        if !calls {
            // Perhaps before the sender has rung for the last one.
            assert!(polling.arm(&seat, &self.event, look).is_none());
        }
        sender.join().unwrap();
        if !calls {
            assert!(polling.arm(&seat, &self.event, look).is_none());
            assert_eq!(self.event.0.load(Acquire), 0, "readable, and nothing to do");
        }
    }
}

/// What one who polls has to itself.
struct Polling {
    doorbell: Doorbell,
    sleeps: Cell<Sleeps>,
}

impl Polling {
    fn of(seat: &Seat<'_>) -> Self {
        Self { doorbell: Doorbell::default(), sleeps: Cell::new(seat.sleeps()) }
    }

    fn arm(&self, seat: &Seat<'_>, event: &Event, look: impl Fn() -> Option<()>) -> Option<()> {
        let asks = matches!(seat.manner, Manner::Asks | Manner::AsksAtTimes);
        let moved = || self.sleeps.get().moved + if asks { 0 } else { FEW };
        let (at, fencing) = ((seat.bell(), event), seat.manner.fencing());
        self.doorbell.arm_taken(at, &self.sleeps, fencing, moved, || (), look)
    }

    fn moved(&self, seat: &Seat<'_>) {
        let mut sleeps = self.sleeps.get();
        seat.moved(&mut sleeps);
        self.sleeps.set(sleeps);
    }
}

fn all_are_polled(messages: usize, switches: Option<usize>, manner: Manner, calls: bool) {
    explore(switches, move || {
        let polled = Polled::new(manner);
        let other = Arc::clone(&polled);
        let sender = thread::spawn(move || other.send(messages));
        polled.receive(messages, calls, sender);
    });
}

#[test]
fn who_polls_is_told() {
    all_are_polled(1, None, Manner::Fenced, false);
    all_are_polled(2, Some(3), Manner::Fenced, true);
    all_are_polled(2, Some(2), Manner::ByKernel, true);
}

#[test]
fn who_polls_asks_for_fences() {
    all_are_polled(2, Some(3), Manner::Asks, false);
    all_are_polled(3, Some(2), Manner::Asks, true);
    all_are_polled(3, Some(2), Manner::AsksAtTimes, false);
    all_are_polled(3, Some(2), Manner::AsksAtTimes, true);
}

#[test]
fn who_polls_is_told_of_a_close() {
    for manner in [Manner::Fenced, Manner::ByKernel, Manner::Asks] {
        explore(None, move || {
            let polled = Polled::new(manner);
            let life = manner.life(0);
            let seat = polled.channel.receiver.seen_by(&life);
            let polling = Polling::of(&seat);
            // One that asks has done so.
            let mut sleeps = polling.sleeps.get();
            manner.about_to_sleep(&mut sleeps);
            seat.bell().say_asleep(&mut sleeps, manner.fencing(), 0, || ());
            seat.bell().say_awake(&mut sleeps);
            polling.sleeps.set(sleeps);
            let other = Arc::clone(&polled);
            let sender = thread::spawn(move || other.close());
            let sender_seat = polled.channel.senders[0].1.seen_by(&life);
            polled.find(&seat, &polling, 1, false, || {
                (Seen::of(&sender_seat.presence).presence == Presence::Left).then_some(())
            });
            sender.join().unwrap();
        });
    }
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
            let channel = Channel::new(1, Manner::Fenced);
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
