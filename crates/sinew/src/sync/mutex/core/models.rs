//! The mutex in every interleaving: exclusion, no lost wake-up, deaths, and hand-overs.

use std::time::Instant;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::sync::word::model;

/// The steps by which a mutex is locked.
fn lock(
    core: Core<'_, model::Word>,
    me: u32,
    wait: Wait<'_>,
    world: &World,
) -> Result<Taken, Refused> {
    let slept = if core.take_free(me) {
        None
    } else {
        match core.sleep_once(me, wait, world) {
            Once::Taken => None,
            Once::Slept => Some(true),
            Once::Awake => Some(false),
        }
    };
    if let Some(slept) = slept {
        return core.lock_taken(me, wait, world, slept);
    }
    core.state().map(|()| Taken::Clean).inspect_err(|_| core.unlock())
}

/// A mutex and what it guards.
struct Model {
    word: model::Word,
    heir: model::Word,
    state: model::Word,
    guarded: UnsafeCell<u32>,
}

/// One that waits is impatient after so many sleeps.
struct World {
    patience: u32,
}

const PATIENT: World = World { patience: u32::MAX };
const IMPATIENT: World = World { patience: 0 };

impl Host for World {
    fn exists(&self, _: u32) -> bool {
        true
    }

    fn is_known(&self, _: u32) -> bool {
        true
    }

    fn impatient(&self, sleeps: u32) -> bool {
        sleeps >= self.patience
    }

    fn spins(&self) -> u32 {
        0
    }
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: model::Word::new(0),
            heir: model::Word::new(0),
            state: model::Word::new(0),
            guarded: UnsafeCell::new(0),
        })
    }

    fn core(&self) -> Core<'_, model::Word> {
        Core { word: &self.word, heir: &self.heir, state: &self.state }
    }

    fn lock(&self, me: u32, world: &World) -> Result<Taken, Refused> {
        lock(self.core(), me, Wait::FOREVER, world)
    }

    /// Changes what is guarded: loom reports whoever does so at the same time.
    fn change(&self) {
        // loom's cell hands out a pointer to what only the owner of the lock may touch.
        self.guarded.with_mut(|_| ());
    }

    /// One turn of a well-behaved thread. Says whether the last owner had died.
    fn turn(&self, me: u32, world: &World) -> bool {
        let taken = self.lock(me, world).unwrap();
        self.change();
        if taken == Taken::OwnerDied {
            self.core().repaired();
        }
        self.core().unlock();
        taken == Taken::OwnerDied
    }

    /// What the kernel does for a thread that died with the word in its list or its pending slot
    /// (`handle_futex_death`).
    fn bury(&self, dead: u32, pending: bool) {
        loop {
            let seen = self.word.load(Relaxed);
            let owner = seen & TID_MASK;
            if pending && owner == 0 {
                self.word.wake(1);
                return;
            }
            if owner != dead {
                return;
            }
            let left = (seen & WAITERS) | OWNER_DIED;
            if self.word.compare_exchange(seen, left, Release, Relaxed).is_ok() {
                if seen & WAITERS != 0 {
                    self.word.wake(1);
                }
                return;
            }
        }
    }
}

fn explore(threads: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Two threads in every interleaving; three with so many switches that nothing forced.
    if threads > 2 {
        builder.preemption_bound = Some(3);
    }
    builder.check(model);
}

#[test]
fn two_take_turns() {
    explore(2, || {
        let mutex = Model::new();
        let other = Arc::clone(&mutex);
        let peer = thread::spawn(move || {
            other.turn(2, &PATIENT);
        });
        mutex.turn(1, &PATIENT);
        mutex.turn(1, &PATIENT);
        peer.join().unwrap();
        assert_eq!(mutex.word.load(Relaxed) & TID_MASK, 0);
    });
}

#[test]
fn three_take_turns_and_none_sleeps_on() {
    explore(3, || {
        let mutex = Model::new();
        let peers = [2, 3].map(|me| {
            let other = Arc::clone(&mutex);
            thread::spawn(move || {
                other.turn(me, &PATIENT);
            })
        });
        mutex.turn(1, &PATIENT);
        for peer in peers {
            peer.join().unwrap();
        }
    });
}

#[test]
fn three_who_are_impatient_hand_over() {
    explore(3, || {
        let mutex = Model::new();
        let peers = [2, 3].map(|me| {
            let other = Arc::clone(&mutex);
            thread::spawn(move || {
                other.turn(me, &IMPATIENT);
            })
        });
        mutex.turn(1, &IMPATIENT);
        for peer in peers {
            peer.join().unwrap();
        }
        assert_eq!(mutex.heir.load(Relaxed), 0);
    });
}

#[test]
fn one_who_goes_without_passes_the_wake_up_on() {
    explore(3, || {
        let mutex = Model::new();
        let sleeper = Arc::clone(&mutex);
        let sleeper = thread::spawn(move || {
            sleeper.turn(2, &IMPATIENT);
        });
        let bounded = Arc::clone(&mutex);
        let bounded = thread::spawn(move || {
            let wait = Wait::until(Instant::now());
            match lock(bounded.core(), 3, wait, &IMPATIENT) {
                Ok(_) => {
                    bounded.change();
                    bounded.core().unlock();
                }
                Err(refused) => assert_eq!(refused, Refused::Stop(Stop::TimedOut)),
            }
        });
        mutex.turn(1, &IMPATIENT);
        sleeper.join().unwrap();
        bounded.join().unwrap();
    });
}

#[test]
fn the_death_of_an_owner_is_told_to_one_and_all_have_their_turn() {
    explore(3, || {
        let mutex = Model::new();
        let peers = [2, 3].map(|me| {
            let other = Arc::clone(&mutex);
            thread::spawn(move || other.turn(me, &PATIENT))
        });
        let last = mutex.lock(1, &PATIENT).unwrap();
        assert_eq!(last, Taken::Clean);
        mutex.change();
        mutex.bury(1, false);
        let told = peers.map(|peer| peer.join().unwrap());
        // Where both had had their turn before, the next one would be told.
        let left = mutex.word.load(Relaxed) & OWNER_DIED != 0;
        assert_eq!(told.iter().filter(|told| **told).count() + usize::from(left), 1);
    });
}

#[test]
fn a_death_between_release_and_wake_is_made_up_for() {
    explore(2, || {
        let mutex = Model::new();
        let other = Arc::clone(&mutex);
        let peer = thread::spawn(move || other.turn(2, &PATIENT));
        mutex.lock(1, &PATIENT).unwrap();
        mutex.change();
        // The store of `unlock`, and then the kernel with the pending slot.
        mutex.word.swap(0, Release);
        mutex.bury(1, true);
        assert!(!peer.join().unwrap());
    });
}

#[test]
fn nobody_has_what_nobody_repaired() {
    explore(3, || {
        let mutex = Model::new();
        mutex.word.store(OWNER_DIED, Relaxed);
        let take_over = |mutex: &Model, me| {
            let taken = mutex.lock(me, &PATIENT);
            if taken.is_ok() {
                mutex.core().give_up();
                mutex.core().unlock();
            }
            taken
        };
        let peers = [2, 3].map(|me| {
            let other = Arc::clone(&mutex);
            thread::spawn(move || take_over(&other, me))
        });
        let mut results = vec![take_over(&mutex, 1)];
        results.extend(peers.map(|peer| peer.join().unwrap()));
        results.sort_by_key(|result| result.is_ok());
        let refused = Err(Refused::NotRecoverable);
        assert_eq!(results, [refused, refused, Ok(Taken::OwnerDied)]);
    });
}
