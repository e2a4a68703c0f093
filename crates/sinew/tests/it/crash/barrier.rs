//! A barrier, one of whose members is killed while it joins, waits or leaves.

use std::sync::Arc;

use sinew::WaitError;
use sinew::barrier::Barrier;
use sinew::wait::Waits;
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{Matrix, mapped};

struct Meet;

impl Subject for Meet {
    type Handle = Barrier;

    fn name(&self) -> String {
        "barrier: join, wait, leave".to_owned()
    }

    fn make(&self, memory: &Memory) {
        Barrier::create_in(&Arc::new(mapped(memory)), 0, 8).unwrap();
    }

    fn open(&self, memory: &Memory) -> Barrier {
        Barrier::open_in(&Arc::new(mapped(memory)), 0).unwrap()
    }

    fn operate(&self, barrier: &mut Barrier, stage: &Stage<'_>) {
        let member = barrier.join().unwrap();
        stage.pause();
        member.wait().unwrap();
        drop(member);
    }

    fn sleep(&self, barrier: &mut Barrier, stage: &Stage<'_>) -> Outcome {
        let member = barrier.join().map_err(|e| e.to_string())?;
        let waited = member.wait();
        // One at a time is not asked here, but when the first was told is.
        stage.note();
        match waited {
            Ok(_) => Ok("met".to_owned()),
            Err(WaitError::PeerDied) => Ok("peer died".to_owned()),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    /// Whoever comes later is told too, until the dead are forgotten.
    fn check(&self, barrier: &mut Barrier, _: &Stage<'_>) -> Outcome {
        let member = barrier.join().map_err(|e| e.to_string())?;
        let dead = barrier.dead();
        let word = match member.wait() {
            Ok(_) if dead == 0 => "alone",
            Err(WaitError::PeerDied) if dead > 0 => "told later",
            other => return Err(format!("{dead} dead and {other:?}")),
        };
        barrier.forget_dead();
        member.wait().map_err(|e| format!("after forgetting: {e:?}"))?;
        Ok(word.to_owned())
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    matrix.run(&Meet, 0, 1)?;
    matrix.run(&Meet, 1, 1)?;
    matrix.run(&Meet, 4, 1)
}
