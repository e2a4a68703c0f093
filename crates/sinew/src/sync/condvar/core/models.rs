//! The condition variable in every interleaving: no notification is lost.

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::*;
use crate::sync::word::{ALL, model};

/// A condition, its lock, and what notifies of it.
struct Model {
    condition: Mutex<u32>,
    sequence: model::Word,
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self { condition: Mutex::new(0), sequence: model::Word::new(0) })
    }

    fn core(&self) -> Core<'_, model::Word> {
        Core { sequence: &self.sequence }
    }

    /// Takes one, when there is one.
    fn take(&self) {
        loop {
            let mut condition = self.condition.lock().unwrap();
            if *condition > 0 {
                *condition -= 1;
                return;
            }
            let ticket = self.core().ticket();
            drop(condition);
            self.core().wait_past(ticket, Wait::FOREVER).unwrap();
        }
    }

    /// Puts `count`, and notifies after the lock is released.
    fn put(&self, count: u32) {
        *self.condition.lock().unwrap() += count;
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn one_that_waits_is_notified() {
    explore(|| {
        let model = Model::new();
        let other = Arc::clone(&model);
        let waiter = thread::spawn(move || other.take());
        model.put(1);
        model.core().notify(1);
        waiter.join().unwrap();
    });
}

#[test]
fn two_that_wait_are_notified_at_once() {
    explore(|| {
        let model = Model::new();
        let waiters = [(); 2].map(|()| {
            let other = Arc::clone(&model);
            thread::spawn(move || other.take())
        });
        model.put(2);
        model.core().notify(ALL);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn two_that_wait_are_notified_one_by_one() {
    explore(|| {
        let model = Model::new();
        let waiters = [(); 2].map(|()| {
            let other = Arc::clone(&model);
            thread::spawn(move || other.take())
        });
        for _ in 0..2 {
            model.put(1);
            model.core().notify(1);
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}
