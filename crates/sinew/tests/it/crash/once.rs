//! What one process sets up, and dies while it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sinew::once::Once;
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{Matrix, map, mapped};

const FIRST: usize = 512;
const SECOND: usize = 513;

struct Call;

type Words = &'static [AtomicU32; 1024];

fn words(words: Words) -> [u32; 2] {
    [FIRST, SECOND].map(|at| words[at].load(Ordering::Relaxed))
}

impl Subject for Call {
    type Handle = (Once, Words);

    fn name(&self) -> String {
        "once: call".to_owned()
    }

    fn make(&self, _: &Memory) {}

    fn open(&self, memory: &Memory) -> Self::Handle {
        (Once::open_in(&Arc::new(mapped(memory)), 0).unwrap(), map(memory))
    }

    fn operate(&self, (once, words): &mut Self::Handle, stage: &Stage<'_>) {
        once.call(|_| {
            stage.enter();
            words[FIRST].store(1, Ordering::Relaxed);
            stage.pause();
            words[SECOND].store(1, Ordering::Relaxed);
            stage.leave();
        })
        .unwrap();
    }

    fn check(&self, (once, shared): &mut Self::Handle, stage: &Stage<'_>) -> Outcome {
        let mut did = "found it done";
        let mut wrong = false;
        let called = once.call(|again| {
            stage.enter();
            did = if again { "did it again" } else { "did it" };
            wrong = !again && words(shared) != [0, 0];
            shared[FIRST].store(1, Ordering::Relaxed);
            shared[SECOND].store(1, Ordering::Relaxed);
            stage.leave();
        });
        called.map_err(|e| format!("{e:?}"))?;
        if wrong {
            return Err("half-done, and nobody said that it was begun".to_owned());
        }
        match words(shared) {
            [1, 1] if once.is_done() => Ok(did.to_owned()),
            other => Err(format!("done, and there is {other:?}")),
        }
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    matrix.run(&Call, 0, 1)?;
    matrix.run(&Call, 1, 1)?;
    matrix.run(&Call, 4, 1)
}
