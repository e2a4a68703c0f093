//! Locks on a file, whose holder is killed.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};

use sinew::file_lock::{FileLock, Flock};
use sinew::wait::Locks;
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::Matrix;

/// A description of one's own of the shared memory, which is a file.
fn reopened(memory: &Memory) -> OwnedFd {
    let held = memory.descriptor();
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path).unwrap().into()
}

/// Locks, enters, leaves.
fn in_turn<L: Locks>(lock: &L, stage: &Stage<'_>) -> Outcome {
    let guard = lock.lock().map_err(|_| "not locked".to_owned())?;
    stage.enter();
    stage.leave();
    drop(guard);
    Ok("locked".to_owned())
}

struct OfDescriptions;

impl Subject for OfDescriptions {
    type Handle = FileLock;

    fn name(&self) -> String {
        "file_lock of a description: lock, unlock".to_owned()
    }

    fn make(&self, _: &Memory) {}

    fn open(&self, memory: &Memory) -> FileLock {
        FileLock::from(reopened(memory))
    }

    fn operate(&self, lock: &mut FileLock, stage: &Stage<'_>) {
        let guard = lock.lock().unwrap();
        stage.enter();
        stage.pause();
        stage.leave();
        drop(guard);
    }

    fn check(&self, lock: &mut FileLock, stage: &Stage<'_>) -> Outcome {
        in_turn(lock, stage)
    }
}

struct OfFlock;

impl Subject for OfFlock {
    type Handle = Flock;

    fn name(&self) -> String {
        "flock: lock, unlock".to_owned()
    }

    fn make(&self, _: &Memory) {}

    fn open(&self, memory: &Memory) -> Flock {
        Flock::from(reopened(memory))
    }

    fn operate(&self, lock: &mut Flock, stage: &Stage<'_>) {
        let guard = lock.lock().unwrap();
        stage.enter();
        stage.pause();
        stage.leave();
        drop(guard);
    }

    fn check(&self, lock: &mut Flock, stage: &Stage<'_>) -> Outcome {
        in_turn(lock, stage)
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    for sleepers in [1, 4] {
        matrix.run(&OfDescriptions, sleepers, 1)?;
        matrix.run(&OfFlock, sleepers, 1)?;
    }
    Ok(())
}
