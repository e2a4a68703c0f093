//! A mutex whose owner is killed, or one that waits for it, or one that repairs.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;
use sinew::LockError;
use sinew::mutex::{Mutex, Options};
use sinew::wait::Locks;
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{Matrix, map, mapped};

pub(super) struct Handle {
    mutex: Mutex,
    /// Two words that are equal whenever the lock is free, and a third to wait for.
    words: &'static [AtomicU32; 1024],
}

const FIRST: usize = 512;
const SECOND: usize = 513;
const GO: usize = 528;

impl Handle {
    fn new(memory: &Memory) -> Self {
        let mutex = Mutex::open_in(&Arc::new(mapped(memory)), 0).unwrap();
        Self { mutex, words: map(memory) }
    }

    /// Locks it, repairs if need be, and finds what it guards in order.
    fn take(&self, stage: &Stage<'_>) -> Outcome {
        let (guard, word) = match self.mutex.lock() {
            Ok(guard) => (guard, "locked"),
            Err(LockError::OwnerDied(recovery)) => {
                let first = self.words[FIRST].load(Ordering::Relaxed);
                self.words[SECOND].store(first, Ordering::Relaxed);
                (recovery.repaired(), "owner died")
            }
            Err(other) => return Err(format!("{other:?}")),
        };
        stage.enter();
        let count = self.change(|| ());
        stage.leave();
        drop(guard);
        match count {
            Some(_) => Ok(word.to_owned()),
            None => Err("half-done, and nobody said that the owner died".to_owned()),
        }
    }

    /// Adds one to both words, with `between` between them. None if they were not equal.
    fn change(&self, between: impl FnOnce()) -> Option<u32> {
        let [first, second] = [FIRST, SECOND].map(|at| self.words[at].load(Ordering::Relaxed));
        self.words[FIRST].store(first + 1, Ordering::Relaxed);
        between();
        self.words[SECOND].store(second + 1, Ordering::Relaxed);
        (first == second).then_some(first)
    }
}

/// The owner.
struct Owner(Options, &'static str);

impl Subject for Owner {
    type Handle = Handle;

    fn name(&self) -> String {
        format!("mutex{}: lock, unlock", self.1)
    }

    fn make(&self, memory: &Memory) {
        self.0.create_in(&Arc::new(mapped(memory)), 0).unwrap();
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        let guard = handle.mutex.lock().unwrap();
        stage.enter();
        handle.change(|| stage.pause());
        stage.leave();
        drop(guard);
    }

    fn check(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.take(stage)
    }
}

/// One who has it after its owner died, and dies too.
struct Repairer;

impl Subject for Repairer {
    type Handle = Handle;

    fn name(&self) -> String {
        "mutex: lock after a death, repair, unlock".to_owned()
    }

    fn make(&self, memory: &Memory) {
        let mutex = Mutex::create_in(&Arc::new(mapped(memory)), 0).unwrap();
        let handle = Handle { mutex, words: map(memory) };
        let handle = ManuallyDrop::new(handle);
        let _held = ManuallyDrop::new(handle.mutex.lock().unwrap());
        handle.words[FIRST].store(1, Ordering::Relaxed);
        // This process ends now, with the lock.
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        let Err(LockError::OwnerDied(recovery)) = handle.mutex.lock() else {
            panic!("nobody told");
        };
        stage.enter();
        handle.words[SECOND].store(1, Ordering::Relaxed);
        stage.pause();
        let guard = recovery.repaired();
        stage.leave();
        drop(guard);
    }

    fn check(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.take(stage)
    }
}

/// One who waits for it: a live process holds it, others wait too.
struct Waiter;

impl Subject for Waiter {
    type Handle = Handle;

    fn name(&self) -> String {
        "mutex: lock while it is held, unlock".to_owned()
    }

    fn make(&self, memory: &Memory) {
        Mutex::create_in(&Arc::new(mapped(memory)), 0).unwrap();
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        stage.pause();
        let guard = handle.mutex.lock().unwrap();
        stage.enter();
        handle.change(|| ());
        stage.leave();
        drop(guard);
    }

    fn release(&self) -> Option<fn(&Self, &mut Handle)> {
        Some(|_, handle| go(handle))
    }

    /// The first holds it until the victim is released or dead; the others wait.
    fn sleep(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        if stage.number() != Some(0) {
            return handle.take(stage);
        }
        let guard = handle.mutex.lock().map_err(|e| format!("{e:?}"))?;
        stage.enter();
        let nap = futex::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        while handle.words[GO].load(Ordering::Acquire) == 0 && !stage.killed() {
            let _ = futex::wait(&handle.words[GO], futex::Flags::empty(), 0, Some(&nap));
        }
        stage.leave();
        drop(guard);
        Ok("held".to_owned())
    }

    fn check(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.take(stage)
    }
}

fn go(handle: &Handle) {
    handle.words[GO].store(1, Ordering::Release);
    let _ = futex::wake(&handle.words[GO], futex::Flags::empty(), 1);
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    let inheriting = Owner(Options::new().inherit_priority(), " that inherits priority");
    matrix.locks(&Owner(Options::new(), ""))?;
    matrix.run(&inheriting, 1, 1)?;
    matrix.run(&inheriting, 4, 1)?;
    matrix.run(&Repairer, 1, 1)?;
    matrix.run(&Repairer, 4, 1)?;
    matrix.run(&Waiter, 1, 1)?;
    matrix.run(&Waiter, 4, 1)
}
