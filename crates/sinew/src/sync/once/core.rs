//! Who initialises, over one [`Word`]: nobody yet, the number of the thread that does, or [`DONE`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Stop;
use crate::sync::robust::{LAST_TID, OWNER_DIED, TID_MASK, WAITERS};
use crate::sync::word::{ALL, Word};
use crate::wait::Wait;
use crate::wait::word::Change;

/// The number of the bit that is set alone when it is done. No thread has that number.
const DONE_BIT: u32 = 29;
pub(super) const DONE: u32 = 1 << DONE_BIT;

/// How often one who waits looks without having been woken: before Linux 6.2 the kernel tells nobody
/// when the one that it woke to take over dies at once.
const LOOK: Duration = Duration::from_secs(1);

/// What a claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// It is done.
    Done,
    /// The caller initialises, and nobody has begun before.
    First,
    /// The caller initialises; whoever did so before died or gave up.
    Again,
    /// The caller initialises already.
    Deadlock,
    /// No honest word.
    Corrupt,
}

/// Waits until it is done or can be claimed. The word is in the pending slot meanwhile: whoever is woken to
/// take over and dies before it does has the next one woken.
pub(super) fn claim<W: Word>(word: &W, tid: u32, wait: Wait<'_>) -> Result<Claimed, Stop> {
    loop {
        // Partner: the release in `finish`.
        let seen = word.load(Ordering::Acquire);
        match seen & TID_MASK {
            0 => {
                let own = tid | seen & WAITERS;
                let taken = word.compare_exchange(seen, own, Ordering::Acquire, Ordering::Relaxed);
                if taken.is_ok() {
                    let again = seen & OWNER_DIED != 0;
                    return Ok(if again { Claimed::Again } else { Claimed::First });
                }
            }
            DONE => return Ok(Claimed::Done),
            owner if owner == tid => return Ok(Claimed::Deadlock),
            owner if owner > LAST_TID || seen & OWNER_DIED != 0 => return Ok(Claimed::Corrupt),
            _ => {
                let marked = seen | WAITERS;
                let known = seen == marked
                    || word
                        .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                        .is_ok();
                if known {
                    word.sleep_and_look(marked, wait, LOOK)?;
                }
            }
        }
    }
}

/// It is done: all who wait go on.
pub(super) fn finish<W: Word>(word: &W, tid: u32) {
    // Done before it is written: those who go on may miss what the initialiser wrote.
    let order =
        if cfg!(sabotage = "once-unordered") { Ordering::Relaxed } else { Ordering::Release };
    if word.compare_exchange(tid, DONE, order, Ordering::Relaxed).is_err() {
        word.change_and_wake(Change::ToBit(DONE_BIT as u16), ALL);
    }
}

/// It is not done, and the caller gives up: one of those who wait takes over.
pub(super) fn abandon<W: Word>(word: &W, tid: u32) {
    if word.compare_exchange(tid, OWNER_DIED, Ordering::Release, Ordering::Relaxed).is_err()
        // Given up in silence: those who sleep are not told.
        && !cfg!(sabotage = "once-given-up-in-silence")
    {
        word.change_and_wake(Change::ToBit(OWNER_DIED.trailing_zeros() as u16), ALL);
    }
}

#[cfg(all(test, sinew_loom))]
mod models {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;
    use loom::thread;

    use super::*;
    use crate::sync::word::model::Word as Model;

    struct Cell {
        word: Model,
        data: AtomicU32,
        begun: AtomicU32,
    }

    impl Cell {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                word: Model::new(0),
                data: AtomicU32::new(0),
                begun: AtomicU32::new(0),
            })
        }

        /// One process that initialises or waits; it dies or gives up where it is told.
        fn run(&self, tid: u32, fate: Fate) {
            match claim(&self.word, tid, Wait::FOREVER).unwrap() {
                Claimed::Done => {}
                Claimed::First | Claimed::Again => {
                    self.begun.fetch_add(1, Ordering::Relaxed);
                    match fate {
                        Fate::Finishes => {
                            self.data.store(7, Ordering::Relaxed);
                            finish(&self.word, tid);
                        }
                        Fate::GivesUp => return abandon(&self.word, tid),
                        Fate::Dies => return self.word.owner_dies(tid),
                    }
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(self.data.load(Ordering::Relaxed), 7, "who goes on sees what was written");
        }
    }

    #[derive(Clone, Copy)]
    enum Fate {
        Finishes,
        GivesUp,
        Dies,
    }

    /// Three threads: only the interleavings with at most two preemptions, or it takes hours.
    fn bounded(run: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(run);
    }

    #[test]
    fn one_of_two_initialises() {
        loom::model(|| {
            let cell = Cell::new();
            let other = Arc::clone(&cell);
            let other = thread::spawn(move || other.run(11, Fate::Finishes));
            cell.run(10, Fate::Finishes);
            other.join().unwrap();
            assert_eq!(cell.begun.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn one_of_three_initialises() {
        bounded(|| {
            let cell = Cell::new();
            let others = [11, 12].map(|tid| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || cell.run(tid, Fate::Finishes))
            });
            cell.run(10, Fate::Finishes);
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(cell.begun.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn the_next_takes_over_from_who_gives_up() {
        bounded(|| takes_over(Fate::GivesUp));
    }

    #[test]
    fn the_next_takes_over_from_the_dead() {
        bounded(|| takes_over(Fate::Dies));
    }

    fn takes_over(fate: Fate) {
        let cell = Cell::new();
        let others = [11, 12].map(|tid| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.run(tid, Fate::Finishes))
        });
        cell.run(10, fate);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert!(cell.begun.load(Ordering::Relaxed) <= 2);
    }
}
