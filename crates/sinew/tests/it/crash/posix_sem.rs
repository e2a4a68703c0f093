//! Semaphores: whoever posts is killed, and whoever waits is.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sinew::WaitError;
use sinew::mapping::Mapping;
use sinew::posix_sem::{Options, Unnamed};
use sinew::wait::Waits;
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{Matrix, map, mapped};

/// How many tokens were taken is counted beside the semaphore, on another cache line.
const AT: usize = 64;
const TAKEN: usize = 512;

struct Handle {
    memory: &'static Mapping,
    taken: &'static AtomicU32,
}

impl Handle {
    fn new(memory: &Memory) -> Self {
        let words: &[AtomicU32; 1024] = map(memory);
        Self { memory: Box::leak(Box::new(mapped(memory))), taken: &words[TAKEN] }
    }

    fn semaphore(&self) -> Unnamed<'static> {
        Options::new().open_at(self.memory, AT).unwrap()
    }

    /// What the next one finds: tokens of which there is one, and a semaphore that works.
    fn check(&self, most: u32) -> Outcome {
        let semaphore = self.semaphore();
        let mut left = 0;
        while semaphore.try_wait().is_ok() {
            left += 1;
        }
        let taken = self.taken.load(Ordering::SeqCst);
        if left + taken > most {
            return Err(format!("{taken} taken and {left} left of {most}"));
        }
        semaphore.post().map_err(|e| e.to_string())?;
        semaphore.wait_timeout(Duration::from_secs(60)).map_err(|e| e.to_string())?;
        Ok(format!("left {left}"))
    }

    fn take(&self, wait: Duration) -> Outcome {
        let begin = Instant::now();
        match self.semaphore().wait_timeout(wait) {
            Ok(()) => {
                self.taken.fetch_add(1, Ordering::SeqCst);
                let late = begin.elapsed() >= wait;
                Ok(if late { "took at its deadline" } else { "took" }.to_owned())
            }
            Err(WaitError::TimedOut) => Ok("found none".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The victim posts while others wait.
struct Post;

impl Subject for Post {
    type Handle = Handle;

    fn name(&self) -> String {
        "posix_sem: post".to_owned()
    }

    fn make(&self, memory: &Memory) {
        Options::new().value(0).create_at(&mapped(memory), AT).unwrap();
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        stage.pause();
        handle.semaphore().post().unwrap();
    }

    /// A token that was posted is found, though its poster did not live to wake anybody: within a
    /// second by who sleeps behind another, else by who looks again at its deadline.
    fn sleep(&self, handle: &mut Handle, _: &Stage<'_>) -> Outcome {
        let found = handle.take(Duration::from_millis(1500))?;
        if found == "found none" && handle.semaphore().value() > 0 {
            return Err("there is a token, and who slept has none".to_owned());
        }
        Ok(found)
    }

    fn check(&self, handle: &mut Handle, _: &Stage<'_>) -> Outcome {
        handle.check(1)
    }
}

/// The victim waits, and somebody posts.
struct Wait;

impl Subject for Wait {
    type Handle = Handle;

    fn name(&self) -> String {
        "posix_sem: wait, asleep".to_owned()
    }

    fn make(&self, memory: &Memory) {
        Options::new().value(0).create_at(&mapped(memory), AT).unwrap();
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle::new(memory)
    }

    fn operate(&self, handle: &mut Handle, _: &Stage<'_>) {
        handle.semaphore().wait().unwrap();
    }

    fn release(&self) -> Option<fn(&Self, &mut Handle)> {
        Some(|_, handle| handle.semaphore().post().unwrap())
    }

    /// One that comes while the victim stands still, after it slept.
    fn sleep(&self, handle: &mut Handle, _: &Stage<'_>) -> Outcome {
        handle.take(Duration::from_millis(50))
    }

    fn check(&self, handle: &mut Handle, _: &Stage<'_>) -> Outcome {
        handle.check(1)
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    matrix.run(&Post, 0, 1)?;
    // Those who find no token wait for all of their time.
    matrix.few(&Post, 1, 24)?;
    matrix.few(&Post, 4, 24)?;
    matrix.run(&Wait, 0, 1)?;
    matrix.few(&Wait, 1, 200)
}
