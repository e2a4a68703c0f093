//! A condition variable, whose notifier or one of whose waiters is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sinew::LockError;
use sinew::condvar::{Condvar, SIZE};
use sinew::mutex::{Guard, Mutex, Recovery};
use sinew::wait::Locks;
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{Matrix, map, mapped};

/// Where the condition variable is; the mutex is before it.
const AT: usize = 2 * SIZE;
/// What is waited for: the index of a word.
const READY: usize = 512;

struct Handle {
    mutex: Mutex,
    changed: Condvar,
    ready: &'static AtomicU32,
}

impl Handle {
    fn new(memory: &Memory) -> Self {
        let mapping = Arc::new(mapped(memory));
        let words: &[AtomicU32; 1024] = map(memory);
        let mutex = Mutex::open_in(&mapping, 0).unwrap();
        Self { mutex, changed: Condvar::open_in(&mapping, AT).unwrap(), ready: &words[READY] }
    }

    fn make(memory: &Memory) {
        let mapping = Arc::new(mapped(memory));
        Mutex::create_in(&mapping, 0).unwrap();
        Condvar::create_in(&mapping, AT).unwrap();
    }

    /// Changes what is waited for, and tells everybody.
    fn notify(&self, stage: Option<&Stage<'_>>) {
        if let Some(stage) = stage {
            stage.pause();
        }
        let guard = held(self.mutex.lock()).unwrap();
        self.ready.store(1, Ordering::Relaxed);
        drop(guard);
        self.changed.notify_all();
    }

    /// Waits until it is changed, or until nobody will change it any more.
    fn wait(&self, stage: &Stage<'_>) -> Outcome {
        let mut guard = held(self.mutex.lock())?;
        while self.ready.load(Ordering::Relaxed) == 0 {
            // Asked first: what is changed before the death is seen after it.
            let last = stage.killed();
            let waited = self.changed.wait_timeout(guard, Duration::from_millis(10));
            guard = match waited {
                Ok((guard, _)) => guard,
                Err(LockError::OwnerDied(recovery)) => recovery.repaired(),
                Err(other) => return Err(format!("{other:?}")),
            };
            if last && self.ready.load(Ordering::Relaxed) == 0 {
                return Ok("saw no change".to_owned());
            }
        }
        drop(guard);
        Ok("saw the change".to_owned())
    }

    /// Whoever comes later can notify, and wait.
    fn check(&self, stage: &Stage<'_>) -> Outcome {
        self.notify(None);
        self.wait(stage).map(|_| "later works".to_owned())
    }
}

fn held<'a>(locked: Result<Guard<'a>, LockError<Recovery<'a>>>) -> Result<Guard<'a>, String> {
    match locked {
        Ok(guard) => Ok(guard),
        Err(LockError::OwnerDied(recovery)) => Ok(recovery.repaired()),
        Err(other) => Err(format!("{other:?}")),
    }
}

struct Notifier;

impl Subject for Notifier {
    type Handle = Handle;

    fn name(&self) -> String {
        "condvar: change, notify".to_owned()
    }

    fn make(&self, memory: &Memory) {
        Handle::make(memory);
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        handle.notify(Some(stage));
    }

    fn sleep(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.wait(stage)
    }

    fn check(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.check(stage)
    }
}

struct Waiter;

impl Subject for Waiter {
    type Handle = Handle;

    fn name(&self) -> String {
        "condvar: wait".to_owned()
    }

    fn make(&self, memory: &Memory) {
        Handle::make(memory);
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        stage.pause();
        let mut guard = handle.mutex.lock().unwrap();
        while handle.ready.load(Ordering::Relaxed) == 0 {
            guard = handle.changed.wait(guard).unwrap();
        }
        drop(guard);
    }

    fn release(&self) -> Option<fn(&Self, &mut Handle)> {
        Some(|_, handle| handle.notify(None))
    }

    fn sleep(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.wait(stage)
    }

    fn check(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.check(stage)
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    for sleepers in [1, 4] {
        matrix.run(&Notifier, sleepers, 1)?;
        matrix.run(&Waiter, sleepers, 1)?;
    }
    Ok(())
}
