//! A lock for readers and writers, whose writer or reader is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sinew::LockError;
use sinew::rwlock::RwLock;
use sinew::wait::Locks;
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{Matrix, map, mapped};

/// Readers that there can be.
const READERS: u32 = 8;
/// Two words that are equal whenever no writer is there; far behind the lock.
const FIRST: usize = 900;
const SECOND: usize = 901;

struct Handle {
    lock: RwLock,
    words: &'static [AtomicU32; 1024],
}

impl Handle {
    fn new(memory: &Memory) -> Self {
        let lock = RwLock::open_in(&Arc::new(mapped(memory)), 0).unwrap();
        Self { lock, words: map(memory) }
    }

    fn pair(&self) -> (u32, u32) {
        let [first, second] = [FIRST, SECOND].map(|at| self.words[at].load(Ordering::Relaxed));
        (first, second)
    }

    fn change(&self, between: impl FnOnce()) {
        let (first, _) = self.pair();
        self.words[FIRST].store(first + 1, Ordering::Relaxed);
        between();
        self.words[SECOND].store(first + 1, Ordering::Relaxed);
    }

    fn repair(&self) {
        self.words[SECOND].store(self.pair().0, Ordering::Relaxed);
    }

    fn in_order(&self, word: &str) -> Outcome {
        match self.pair() {
            (first, second) if first == second => Ok(word.to_owned()),
            half => Err(format!("{half:?}, and nobody said that the writer died")),
        }
    }

    fn write(&self, stage: &Stage<'_>) -> Outcome {
        let (guard, word) = match self.lock.writer().lock() {
            Ok(guard) => (guard, "wrote"),
            Err(LockError::OwnerDied(recovery)) => {
                self.repair();
                (recovery.repaired(), "repaired and wrote")
            }
            Err(other) => return Err(format!("{other:?}")),
        };
        stage.enter();
        let outcome = self.in_order(word);
        self.change(|| ());
        stage.leave();
        drop(guard);
        outcome
    }

    fn read(&self, stage: &Stage<'_>) -> Outcome {
        let (guard, word) = match self.lock.reader().lock() {
            Ok(guard) => (guard, "read"),
            Err(LockError::OwnerDied(recovery)) => {
                self.repair();
                (recovery.repaired(), "repaired and read")
            }
            Err(other) => return Err(format!("{other:?}")),
        };
        stage.note();
        let outcome = self.in_order(word);
        drop(guard);
        outcome
    }

    /// The first writes, the next reads, and so on.
    fn either(&self, stage: &Stage<'_>) -> Outcome {
        if stage.number().unwrap_or(0).is_multiple_of(2) {
            self.write(stage)
        } else {
            self.read(stage)
        }
    }

    fn check(&self, stage: &Stage<'_>) -> Outcome {
        let word = self.read(stage)?;
        self.write(stage)?;
        Ok(format!("later {word}"))
    }
}

struct Writer;

impl Subject for Writer {
    type Handle = Handle;

    fn name(&self) -> String {
        "rwlock: write".to_owned()
    }

    fn make(&self, memory: &Memory) {
        RwLock::create_in(&Arc::new(mapped(memory)), 0, READERS).unwrap();
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        let guard = handle.lock.writer().lock().unwrap();
        stage.enter();
        handle.change(|| stage.pause());
        stage.leave();
        drop(guard);
    }

    fn sleep(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.either(stage)
    }

    fn check(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.check(stage)
    }
}

struct Reader;

impl Subject for Reader {
    type Handle = Handle;

    fn name(&self) -> String {
        "rwlock: read".to_owned()
    }

    fn make(&self, memory: &Memory) {
        RwLock::create_in(&Arc::new(mapped(memory)), 0, READERS).unwrap();
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        let guard = handle.lock.reader().lock().unwrap();
        stage.pause();
        drop(guard);
    }

    fn sleep(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        handle.either(stage)
    }

    /// A dead reader is no reason for a repair.
    fn check(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        match handle.check(stage)? {
            word if word.contains("repaired") => Err(word),
            word => Ok(word),
        }
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    for sleepers in [1, 4] {
        matrix.run(&Writer, sleepers, 1)?;
        matrix.run(&Reader, sleepers, 1)?;
    }
    Ok(())
}
