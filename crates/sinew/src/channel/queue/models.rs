//! Senders, workers and recoverers in every interleaving: each message to one worker, none lost with the dead, none
//! left while somebody sleeps. A death is an early return; that it is proven, a join.

use std::iter;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, Relaxed};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::crew::{self, Crew};
use super::publish::Publishing;
use super::slots::{
    Dead, Field, Found, GRAIN, Seen, State, Swap, Table, Taken, Who, claim, hand_on, may_have_more,
    recover, release,
};
use crate::channel::fence::Fencing;
use crate::channel::memory::model::{Life, live};
use crate::channel::memory::{Atom, SenderField};
use crate::sync::word::model;
use crate::wait::Wait;

/// A word of 64 bits in the model checker.
struct Word(loom::sync::atomic::AtomicU64);

impl Word {
    fn new() -> Self {
        Self(loom::sync::atomic::AtomicU64::new(0))
    }
}

impl Atom for Word {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
}

impl Swap for Word {
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_and(bits, order)
    }
}

const SLOTS: u64 = 2;
const BOUND: u64 = 9;
const A: Who = Who::new(0, 1);
const B: Who = Who::new(1, 1);

/// The bytes of a message.
struct Bytes {
    /// By which loom reports who reads what another writes.
    used: UnsafeCell<()>,
    /// Not loom's: what was written last, as one of its threads runs at a time.
    value: AtomicU64,
}

/// A lane of two slots and two messages' bytes, and two workers.
struct Model {
    slots: [[Word; 4]; SLOTS as usize],
    sender: [Word; 3],
    hint: Word,
    /// The bytes of two messages.
    bytes: [Bytes; 2],
    asleep: Word,
    bells: [model::Word; 2],
}

impl Table for Model {
    type Word = Word;

    fn slots(&self) -> u64 {
        SLOTS
    }

    fn capacity(&self) -> u64 {
        GRAIN * 2
    }

    fn word(&self, number: u64, field: Field) -> &Word {
        &self.slots[(number % SLOTS) as usize][field as usize]
    }

    fn sender(&self, field: SenderField) -> &Word {
        &self.sender[field as usize]
    }

    fn hint(&self) -> &Word {
        &self.hint
    }
}

impl Crew for Model {
    type Bits = Word;
    type Bell = model::Word;

    fn asleep(&self) -> &Word {
        &self.asleep
    }

    fn workers(&self) -> u64 {
        2
    }

    fn bell(&self, worker: u64) -> &model::Word {
        &self.bells[worker as usize]
    }
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            slots: [(); SLOTS as usize].map(|()| [(); 4].map(|()| Word::new())),
            sender: [(); 3].map(|()| Word::new()),
            hint: Word::new(),
            bytes: [(); 2].map(|()| Bytes { used: UnsafeCell::new(()), value: AtomicU64::new(0) }),
            asleep: Word::new(),
            bells: [model::Word::new(0), model::Word::new(0)],
        })
    }

    /// Sends a message that holds its number. Gives whether there was room.
    fn send(&self, core: &mut Publishing) -> bool {
        let Ok(at) = core.reserve(self, 8) else { return false };
        let bytes = &self.bytes[(at / GRAIN) as usize];
        bytes.used.with_mut(|_| ());
        bytes.value.store(core.sent(), Relaxed);
        core.commit(self, 8);
        crew::wake_one(self, full());
        true
    }

    fn try_take(&self, who: Who) -> Option<Taken> {
        match claim(self, who, 8).unwrap() {
            Found::Job(job) => {
                let bytes = &self.bytes[(job.place.offset / GRAIN) as usize];
                bytes.used.with(|_| ());
                assert_eq!(bytes.value.load(Relaxed), job.sequence, "another message's bytes");
                Some(job)
            }
            Found::TooLong(_) => panic!("all have 8 bytes"),
            Found::Nothing => None,
        }
    }

    /// As `Worker::borrow`.
    fn take(&self, worker: u64) -> Taken {
        let look = || self.try_take(Who::new(worker, 1));
        look().unwrap_or_else(|| {
            let more = |_: &Taken| may_have_more(self);
            crew::sleep_until(self, worker, full(), Wait::FOREVER, look, more).unwrap()
        })
    }

    fn work(&self, worker: u64) -> u64 {
        let job = self.take(worker);
        assert!(release(self, &job), "it was this worker's");
        job.sequence
    }

    fn is_done(&self, number: u64) -> bool {
        Seen::at(self, number).unwrap().state == State::Done
    }

    /// What a survivor does that has proof of a death.
    fn recover(&self, dead: Who) {
        recover(self, Dead::This(dead), BOUND);
        if !cfg!(sabotage = "queue-hand-on-in-silence") {
            crew::wake_all(self);
        }
    }
}

/// A word as one sees it who dies after so many accesses.
struct Mortal<'a> {
    word: &'a Word,
    life: &'a Life,
}

impl Mortal<'_> {
    fn of<'a>(word: &'a Word, life: &'a Life) -> Mortal<'a> {
        Mortal { word, life }
    }

    /// The word, for one access more.
    fn alive(&self) -> &Word {
        self.life.step();
        self.word
    }
}

impl Atom for Mortal<'_> {
    fn load(&self, order: Ordering) -> u64 {
        self.alive().load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.alive().store(value, order);
    }
}

impl Swap for Mortal<'_> {
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.alive().compare_exchange(current, new, success, failure)
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.alive().fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.alive().fetch_and(bits, order)
    }
}

/// The lane, as that one sees it.
struct View<'a> {
    slots: [[Mortal<'a>; 4]; SLOTS as usize],
    sender: [Mortal<'a>; 3],
    hint: Mortal<'a>,
}

impl<'a> View<'a> {
    fn of(model: &'a Model, life: &'a Life) -> Self {
        let mortal = |word| Mortal::of(word, life);
        Self {
            slots: model.slots.each_ref().map(|slot| slot.each_ref().map(mortal)),
            sender: model.sender.each_ref().map(mortal),
            hint: mortal(&model.hint),
        }
    }
}

impl<'a> Table for View<'a> {
    type Word = Mortal<'a>;

    fn slots(&self) -> u64 {
        SLOTS
    }

    fn capacity(&self) -> u64 {
        GRAIN * 2
    }

    fn word(&self, number: u64, field: Field) -> &Mortal<'a> {
        &self.slots[(number % SLOTS) as usize][field as usize]
    }

    fn sender(&self, field: SenderField) -> &Mortal<'a> {
        &self.sender[field as usize]
    }

    fn hint(&self) -> &Mortal<'a> {
        &self.hint
    }
}

/// Full fences: what the kernel's comes to.
fn full() -> Fencing {
    Fencing::in_model(false)
}

fn explore(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn spawn<T: 'static>(
    model: &Arc<Model>,
    run: impl FnOnce(&Model) -> T + 'static,
) -> thread::JoinHandle<T> {
    let model = Arc::clone(model);
    thread::spawn(move || run(&model))
}

#[test]
fn two_claim_one_message_and_one_has_it() {
    explore(3, || {
        let model = Model::new();
        let mut core = Publishing::resume(&*model).unwrap();
        let other = spawn(&model, |model| model.try_take(B).is_some());
        assert!(model.send(&mut core));
        let own = model.try_take(A);
        let taken = [own.is_some(), other.join().unwrap()];
        // Who looked before it was sent has nothing, and hides it from nobody.
        let late = model.try_take(A).is_some();
        assert_eq!(taken.iter().filter(|t| **t).count() + usize::from(late), 1);
    });
}

#[test]
fn memory_is_written_again_after_it_was_read() {
    explore(3, || {
        let model = Model::new();
        let worker = spawn(&model, |model| {
            for _ in 0..2 {
                if let Some(job) = model.try_take(A) {
                    assert!(release(model, &job));
                }
            }
        });
        let mut core = Publishing::resume(&*model).unwrap();
        for _ in 0..4 {
            model.send(&mut core);
        }
        worker.join().unwrap();
    });
}

#[test]
fn who_sleeps_is_woken_for_a_message() {
    explore(3, || {
        let model = Model::new();
        let worker = spawn(&model, |model| (model.work(0), model.work(0)));
        let mut core = Publishing::resume(&*model).unwrap();
        assert!(model.send(&mut core) && model.send(&mut core));
        assert_eq!(worker.join().unwrap(), (0, 1));
    });
}

#[test]
fn two_sleep_and_each_is_woken_for_one() {
    explore(2, || {
        let model = Model::new();
        let workers = [0, 1].map(|index| spawn(&model, move |model| model.work(index)));
        let mut core = Publishing::resume(&*model).unwrap();
        assert!(model.send(&mut core) && model.send(&mut core));
        let [a, b] = workers.map(|worker| worker.join().unwrap());
        assert_eq!(a + b, 1, "one each");
    });
}

#[test]
fn a_message_too_long_for_a_sleeper_wakes_another() {
    explore(2, || {
        let model = Model::new();
        // As `Worker::recv` with a buffer that is too small.
        let short = spawn(&model, |model| {
            let look = || match claim(model, A, 7).unwrap() {
                Found::TooLong(len) => Some(len),
                Found::Job(_) => panic!("it is too long"),
                Found::Nothing => None,
            };
            let tail = model.sender(SenderField::Tail);
            // It comes back with nothing where another took the message.
            let look = || look().or_else(|| (tail.load(Relaxed) > 0).then_some(0));
            crew::sleep_until(model, 0, full(), Wait::FOREVER, look, |len| *len > 0).unwrap();
        });
        let long = spawn(&model, |model| model.work(1));
        let mut core = Publishing::resume(&*model).unwrap();
        assert!(model.send(&mut core));
        assert_eq!(long.join().unwrap(), 0);
        // Whom nobody rang for.
        crew::wake_all(&*model);
        short.join().unwrap();
    });
}

#[test]
fn what_a_dead_worker_had_wakes_another() {
    explore(2, || {
        let model = Model::new();
        let mut core = Publishing::resume(&*model).unwrap();
        assert!(model.send(&mut core));
        let survivor = spawn(&model, |model| model.take(1));
        // It dies with what it has, if it was first.
        let _ = model.try_take(A);
        model.recover(A);
        let job = survivor.join().unwrap();
        assert_eq!(job.sequence, 0);
    });
}

#[test]
fn a_death_after_the_ring_wakes_another() {
    explore(2, || {
        let model = Model::new();
        let mut core = Publishing::resume(&*model).unwrap();
        let survivor = spawn(&model, |model| model.take(1).sequence);
        // It sleeps, is rung for, and dies before it looks again; or dies as it sees the message.
        let dies = spawn(&model, |model| {
            let look = || (model.sender(SenderField::Tail).load(Relaxed) > 0).then_some(());
            crew::sleep_until(model, 0, full(), Wait::FOREVER, look, |()| false).unwrap();
        });
        assert!(model.send(&mut core));
        dies.join().unwrap();
        model.recover(A);
        assert_eq!(survivor.join().unwrap(), 0);
    });
}

#[test]
fn two_recover_at_once_and_one_works_on() {
    explore(2, || {
        let model = Model::new();
        let mut core = Publishing::resume(&*model).unwrap();
        assert!(model.send(&mut core));
        assert!(model.try_take(A).is_some());
        let second = spawn(&model, |model| recover(model, Dead::This(A), BOUND));
        let worker = spawn(&model, |model| model.take(1));
        model.recover(A);
        second.join().unwrap();
        let job = worker.join().unwrap();
        assert_eq!(job.sequence, 0);
        // It is still its own.
        assert!(model.try_take(Who::new(0, 2)).is_none());
        assert!(release(&*model, &job));
    });
}

#[test]
fn a_recoverer_that_is_killed_is_followed() {
    explore(2, || {
        let model = Model::new();
        let mut core = Publishing::resume(&*model).unwrap();
        assert!(model.send(&mut core));
        assert!(model.try_take(A).is_some());
        let worker = spawn(&model, |model| model.work(1));
        // The first is killed before it says where to look.
        let killed = spawn(&model, |model| hand_on(model, Dead::This(A), BOUND));
        killed.join().unwrap();
        model.recover(A);
        assert_eq!(worker.join().unwrap(), 0);
    });
}

#[test]
fn who_looks_while_a_message_comes_back_hides_it_from_nobody() {
    explore(3, || {
        let model = Model::new();
        let mut core = Publishing::resume(&*model).unwrap();
        assert!(model.send(&mut core) && model.send(&mut core));
        let (first, _) = (model.try_take(A).unwrap(), model.try_take(Who::new(1, 7)).unwrap());
        assert_eq!(first.sequence, 0);
        // As if nobody had looked: the one that looks goes over both.
        model.hint.store(0, Relaxed);
        let looks = spawn(&model, |model| model.try_take(B).is_some());
        recover(&*model, Dead::This(A), BOUND);
        let early = looks.join().unwrap();
        assert!(early || model.try_take(B).is_some());
    });
}

/// More accesses than any of these takes.
const LONGEST: u32 = 14;

#[test]
fn a_recoverer_that_dies_anywhere_is_followed() {
    for accesses in 0..LONGEST {
        explore(2, move || {
            let model = Model::new();
            let mut core = Publishing::resume(&*model).unwrap();
            assert!(model.send(&mut core));
            assert!(model.try_take(A).is_some());
            let worker = spawn(&model, |model| model.work(1));
            // It is killed before it rings at the latest.
            let _ = live(accesses, |life| recover(&View::of(&model, life), Dead::This(A), BOUND));
            model.recover(A);
            assert_eq!(worker.join().unwrap(), 0);
        });
    }
}

#[test]
fn a_worker_that_dies_anywhere_leaves_its_message_to_another() {
    for accesses in 0..LONGEST {
        explore(2, move || {
            let model = Model::new();
            let mut core = Publishing::resume(&*model).unwrap();
            assert!(model.send(&mut core));
            let other = spawn(&model, |model| model.try_take(B).is_some());
            let done = live(accesses, |life| {
                let view = View::of(&model, life);
                match claim(&view, A, 8).unwrap() {
                    Found::Job(job) => release(&view, &job),
                    _ => false,
                }
            });
            let other = other.join().unwrap();
            model.recover(A);
            // By one of the two, or by whoever comes now.
            let left = model.try_take(Who::new(1, 2)).is_some();
            let times = [done == Some(true), other, left].iter().filter(|t| **t).count();
            assert!(times == 1 || done.is_none() && times == 0 && model.is_done(0));
        });
    }
}

#[test]
fn a_sender_that_dies_anywhere_has_sent_it_or_not() {
    for accesses in 0..LONGEST {
        explore(2, move || {
            let model = Model::new();
            let mut core = Publishing::resume(&*model).unwrap();
            assert!(model.send(&mut core));
            let worker = spawn(&model, |model| [model.try_take(A), model.try_take(A)]);
            let bytes = &model.bytes[1];
            let _ = live(accesses, |life| {
                let view = View::of(&model, life);
                assert_eq!(core.reserve(&view, 8), Ok(GRAIN));
                bytes.used.with_mut(|_| ());
                bytes.value.store(1, Relaxed);
                core.commit(&view, 8);
            });
            let next = Publishing::resume(&*model).unwrap();
            let mut taken: Vec<u64> =
                worker.join().unwrap().iter().flatten().map(|job| job.sequence).collect();
            taken.extend(iter::from_fn(|| model.try_take(B)).map(|job| job.sequence));
            let all: Vec<u64> = (0..next.sent()).collect();
            assert_eq!(taken, all);
        });
    }
}
