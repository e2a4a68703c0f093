//! Readers and writers in every interleaving: exclusion, no lost wake-up, dead readers.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::*;
use crate::sync::word::model;

/// A lock for two readers at a time, and what it guards.
struct Model {
    turn: model::Word,
    gate: model::Word,
    places: [model::Word; 2],
    mutex: Mutex<()>,
    guarded: UnsafeCell<u32>,
}

impl Places for Model {
    type Word = model::Word;

    fn turn(&self) -> &model::Word {
        &self.turn
    }

    fn gate(&self) -> &model::Word {
        &self.gate
    }

    fn count(&self) -> u32 {
        2
    }

    fn all(&self) -> u32 {
        2
    }

    fn place(&self, index: u32) -> &model::Word {
        &self.places[index as usize]
    }

    fn take(&self, index: u32, seen: u32, tid: u32) -> bool {
        let word = self.place(index);
        word.compare_exchange(seen, tid, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    fn give_back(&self, index: u32, tid: u32) {
        leave(self.place(index), tid);
    }
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            turn: model::Word::new(0),
            gate: model::Word::new(OPEN),
            places: [model::Word::new(0), model::Word::new(0)],
            mutex: Mutex::new(()),
            guarded: UnsafeCell::new(0),
        })
    }

    /// As `RwLock::reader().lock()`.
    fn begin_to_read(&self, tid: u32) -> u32 {
        match enter(self, tid, 0) {
            Entered::At(index) => index,
            Entered::Closed | Entered::Full => {
                self.in_turn(tid, || pass(self, tid, 0).expect("a place for each"))
            }
            Entered::Corrupt => panic!("no rubbish here"),
        }
    }

    fn read(&self, tid: u32) {
        let index = self.begin_to_read(tid);
        // loom reports whoever writes at the same time.
        self.guarded.with(|_| ());
        self.give_back(index, tid);
    }

    /// Reads until it is killed.
    fn read_and_die(&self, tid: u32) {
        let index = self.begin_to_read(tid);
        self.guarded.with(|_| ());
        self.place(index).owner_dies(tid);
    }

    /// As `RwLock::writer().lock()`, and its drop.
    fn write(&self, tid: u32) {
        self.in_turn(tid, || {
            assert_eq!(drain(self, tid, Wait::FOREVER), Ok(Drained::Empty));
            self.gate.store(WRITING, Ordering::Release);
            self.guarded.with_mut(|_| ());
            self.gate.store(OPEN, Ordering::Release);
        });
    }

    /// Has the mutex, whose word says so.
    fn in_turn<T>(&self, tid: u32, inside: impl FnOnce() -> T) -> T {
        let turn = self.mutex.lock().unwrap();
        self.turn.swap(tid, Ordering::SeqCst);
        let done = inside();
        self.turn.swap(0, Ordering::Release);
        drop(turn);
        done
    }
}

/// Three threads: only the interleavings with at most two preemptions, or it takes hours.
fn bounded(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(run);
}

#[test]
fn a_reader_and_a_writer_exclude_each_other() {
    loom::model(|| {
        let lock = Model::new();
        let other = Arc::clone(&lock);
        let reader = thread::spawn(move || other.read(11));
        lock.write(10);
        reader.join().unwrap();
    });
}

#[test]
fn two_readers_and_a_writer_exclude_each_other() {
    bounded(|| {
        let lock = Model::new();
        let readers = [11, 12].map(|tid| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.read(tid))
        });
        lock.write(10);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_reader_and_two_writers_exclude_each_other() {
    bounded(|| {
        let lock = Model::new();
        let writer = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.write(11))
        };
        let reader = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.read(12))
        };
        lock.write(10);
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_reader_that_passes_lets_in_none_whom_a_writer_misses() {
    bounded(|| {
        let lock = Model::new();
        let passes = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                let index = lock.in_turn(11, || pass(&*lock, 11, 0).expect("a place for each"));
                lock.guarded.with(|_| ());
                lock.give_back(index, 11);
            })
        };
        let reads = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.read(12))
        };
        lock.write(10);
        passes.join().unwrap();
        reads.join().unwrap();
    });
}

#[test]
fn a_writer_goes_on_when_a_reader_dies() {
    bounded(|| {
        let lock = Model::new();
        let dies = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.read_and_die(11))
        };
        let reads = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || lock.read(12))
        };
        lock.write(10);
        dies.join().unwrap();
        reads.join().unwrap();
        lock.write(10);
    });
}
