//! The slots over plain memory, in one thread.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::channel::memory::SenderField;
use crate::channel::queue::crew::{Crew, ring_one};
use crate::channel::queue::publish::{NoRoom, Publishing};
use crate::channel::queue::slots::{
    Dead, Field, Found, GRAIN, Table, Taken, Who, claim, claim_aside, give_back, hand_on, recover,
    release, rewind, tally,
};
use crate::channel::ring::Corrupt;

/// A lane on the heap.
pub(super) struct Plain {
    slots: Vec<[AtomicU64; 4]>,
    sender: [AtomicU64; 3],
    hint: AtomicU64,
    capacity: u64,
}

impl Plain {
    pub(super) fn new(slots: usize, capacity: u64) -> Self {
        Self {
            slots: (0..slots).map(|_| Default::default()).collect(),
            sender: Default::default(),
            hint: AtomicU64::new(0),
            capacity,
        }
    }
}

impl Table for Plain {
    type Word = AtomicU64;

    fn slots(&self) -> u64 {
        self.slots.len() as u64
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn word(&self, number: u64, field: Field) -> &AtomicU64 {
        &self.slots[number as usize % self.slots.len()][field as usize]
    }

    fn sender(&self, field: SenderField) -> &AtomicU64 {
        &self.sender[field as usize]
    }

    fn hint(&self) -> &AtomicU64 {
        &self.hint
    }
}

const A: Who = Who::new(0, 1);
const B: Who = Who::new(1, 1);

pub(super) fn send(core: &mut Publishing, table: &Plain, len: u64) -> Result<u64, NoRoom> {
    let at = core.reserve(table, len)?;
    core.commit(table, len);
    Ok(at)
}

pub(super) fn take(table: &Plain, who: Who) -> Option<Taken> {
    match claim(table, who, u64::MAX) {
        Ok(Found::Job(job)) => Some(job),
        Ok(Found::Nothing) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_message_goes_to_one_worker_in_order() {
    let table = Plain::new(4, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    for sequence in 0..1000 {
        send(&mut core, &table, sequence % 200).unwrap();
        let job = take(&table, [A, B][sequence as usize % 2]).unwrap();
        assert_eq!((job.sequence, job.place.len, job.vain), (sequence, sequence % 200, 0));
        assert_eq!(take(&table, A), None);
        assert!(release(&table, &job));
        assert!(!release(&table, &job), "it is nobody's any more");
    }
    assert_eq!(core.sent(), 1000);
}

#[test]
fn it_is_full_when_nobody_takes_what_is_there() {
    let table = Plain::new(4, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    for _ in 0..4 {
        send(&mut core, &table, 10).unwrap();
    }
    let tail = table.sender(SenderField::Tail).load(Relaxed);
    for _ in 0..3 {
        assert_eq!(send(&mut core, &table, 10), Err(NoRoom::Yet));
    }
    assert_eq!(table.sender(SenderField::Tail).load(Relaxed), tail, "nothing is skipped in vain");
    release(&table, &take(&table, A).unwrap());
    send(&mut core, &table, 10).unwrap();
    assert_eq!(send(&mut core, &table, 10), Err(NoRoom::Yet));

    // By bytes.
    let table = Plain::new(64, 1024);
    let mut core = Publishing::resume(&table).unwrap();
    assert_eq!(send(&mut core, &table, 1024), Err(NoRoom::TooBig));
    assert_eq!(send(&mut core, &table, u64::MAX), Err(NoRoom::TooBig));
    send(&mut core, &table, 1024 - GRAIN).unwrap();
    send(&mut core, &table, 0).unwrap();
    assert_eq!(send(&mut core, &table, 0), Err(NoRoom::Yet));
    release(&table, &take(&table, A).unwrap());
    // Behind the end of the memory there is nothing: it goes to the beginning.
    assert_eq!(send(&mut core, &table, 900), Ok(0));
}

#[test]
fn who_keeps_a_message_holds_up_nobody() {
    let table = Plain::new(4, 1024);
    let mut core = Publishing::resume(&table).unwrap();
    send(&mut core, &table, 100).unwrap();
    let kept = take(&table, A).unwrap();
    for sequence in 1..200 {
        let at = send(&mut core, &table, 200).unwrap();
        let free = at >= kept.place.offset + 128 || at + 256 <= kept.place.offset;
        assert!(free, "{at} is in {:?}", kept.place);
        let job = take(&table, B).unwrap();
        assert_eq!((job.sequence, job.place.len), (sequence, 200));
        release(&table, &job);
    }
    // It comes back, and is given out before what follows.
    send(&mut core, &table, 1).unwrap();
    assert!(give_back(&table, &kept, 9));
    let again = take(&table, B).unwrap();
    assert_eq!((again.sequence, again.vain, again.place), (0, 1, kept.place));
    assert_eq!(take(&table, B).unwrap().sequence, 200);
    // All the slots are in somebody's hands.
    send(&mut core, &table, 1).unwrap();
    send(&mut core, &table, 1).unwrap();
    assert_eq!(send(&mut core, &table, 1), Err(NoRoom::Yet));
    let hands = [take(&table, A).unwrap(), take(&table, A).unwrap()];
    assert_eq!(send(&mut core, &table, 1), Err(NoRoom::Yet));
    release(&table, &hands[1]);
    send(&mut core, &table, 1).unwrap();
    assert_eq!(take(&table, A).unwrap().sequence, 203);
}

#[test]
fn what_the_dead_had_is_handed_on_and_set_aside_at_last() {
    let table = Plain::new(8, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    for _ in 0..3 {
        send(&mut core, &table, 10).unwrap();
    }
    for turn in 1..=3 {
        let own = Who::new(0, turn);
        let job = take(&table, own).unwrap();
        assert_eq!((job.sequence, job.vain), (0, turn - 1));
        recover(&table, Dead::This(own), 3);
        // Once more does nothing more.
        recover(&table, Dead::This(own), 3);
    }
    assert_eq!((tally(&table, A).ready, tally(&table, A).aside), (2, 1));
    assert_eq!(take(&table, A).unwrap().sequence, 1);
    let Ok(Found::Job(aside)) = claim_aside(&table, A, u64::MAX) else { panic!("nothing aside") };
    assert_eq!((aside.sequence, aside.vain), (0, 3));
    assert_eq!(claim_aside(&table, A, u64::MAX), Ok(Found::Nothing));
    release(&table, &aside);
}

#[test]
fn a_late_recoverer_leaves_a_successor_its_own() {
    let table = Plain::new(8, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    send(&mut core, &table, 10).unwrap();
    let (dead, next) = (Who::new(3, 7), Who::new(3, 8));
    take(&table, dead).unwrap();
    recover(&table, Dead::Before(next), 9);
    let job = take(&table, next).unwrap();
    recover(&table, Dead::This(dead), 9);
    recover(&table, Dead::Before(next), 9);
    assert_eq!(take(&table, B), None);
    assert!(release(&table, &job));
}

#[test]
fn one_taken_for_dead_changes_nothing_of_another() {
    let table = Plain::new(8, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    send(&mut core, &table, 10).unwrap();
    let mine = take(&table, A).unwrap();
    recover(&table, Dead::This(A), 9);
    let other = take(&table, B).unwrap();
    assert!(!release(&table, &mine));
    assert!(!give_back(&table, &mine, 9));
    assert_eq!(tally(&table, A).taken, 1);
    assert!(release(&table, &other));
}

#[test]
fn a_killed_recoverer_is_followed_by_another() {
    let table = Plain::new(8, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    for _ in 0..2 {
        send(&mut core, &table, 10).unwrap();
    }
    assert!(take(&table, A).is_some() && take(&table, B).is_some());
    assert_eq!(take(&table, B), None);
    // Killed before it moves the hint: nobody looks there.
    hand_on(&table, Dead::This(A), 9);
    assert_eq!(take(&table, B), None);
    recover(&table, Dead::This(A), 9);
    assert_eq!(take(&table, B).unwrap().sequence, 0);
}

#[test]
fn who_looked_before_a_message_came_back_hides_it_from_nobody() {
    let table = Plain::new(8, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    send(&mut core, &table, 10).unwrap();
    take(&table, A).unwrap();
    // As a slow worker does: it has read the hint and seen nothing.
    table.hint().store(0, Relaxed);
    let (old, new) = (0, 1);
    recover(&table, Dead::This(A), 9);
    assert!(table.hint().compare_exchange(old, new, AcqRel, Acquire).is_err());
    assert_eq!(take(&table, B).unwrap().sequence, 0);
}

#[test]
fn too_long_a_message_stays_where_it_is() {
    let table = Plain::new(8, 4096);
    let mut core = Publishing::resume(&table).unwrap();
    send(&mut core, &table, 10).unwrap();
    assert_eq!(claim(&table, A, 9), Ok(Found::TooLong(10)));
    assert_eq!(take(&table, B).unwrap().sequence, 0);
}

#[test]
fn a_successor_sends_on_where_the_other_ended() {
    for last in 0..40_u64 {
        for noted in 0..3 {
            let table = Plain::new(8, 1024);
            let mut core = Publishing::resume(&table).unwrap();
            let mut kept = Vec::new();
            for sequence in 0..=last {
                send(&mut core, &table, sequence).unwrap();
                let job = take(&table, A).unwrap();
                // Every seventh is kept for a while.
                if sequence % 7 == 3 {
                    kept.push(job);
                } else {
                    assert!(release(&table, &job));
                }
                if sequence % 21 == 20 {
                    kept.drain(..).for_each(|job| assert!(release(&table, &job)));
                }
            }
            let words = || [0, 1, 2].map(|i| table.sender[i].load(Relaxed));
            let after = words();
            // Killed after the message was sent, before some of the words were stored.
            let before = [after[0] - 1, after[1] - 1, after[2] - last];
            for (i, value) in before.into_iter().enumerate() {
                if i == 0 && noted < 3 || i == 1 && noted < 2 || i == 2 && noted < 1 {
                    table.sender[i].store(value, Release);
                }
            }
            let mut next = Publishing::resume(&table).unwrap();
            assert_eq!((next.sent(), words()), (last + 1, after));
            // And again.
            drop(Publishing::resume(&table).unwrap());
            assert_eq!(words(), after);
            for sequence in last + 1..last + 30 {
                let at = send(&mut next, &table, 60).unwrap();
                for job in &kept {
                    let (from, to) = (job.place.offset, job.place.offset + job.place.len);
                    assert!(at + 64 <= from || to <= at, "{at} in {:?}", job.place);
                }
                let job = take(&table, B).unwrap();
                assert_eq!(job.sequence, sequence);
                release(&table, &job);
            }
        }
    }
}

#[test]
fn what_nobody_honest_writes_is_corrupt() {
    let fresh = || {
        let table = Plain::new(4, 1024);
        let mut core = Publishing::resume(&table).unwrap();
        send(&mut core, &table, 10).unwrap();
        send(&mut core, &table, 10).unwrap();
        (table, core)
    };
    for place in [1 << 32, 1024 << 32, 960 << 32 | 65, u64::MAX, 1025] {
        let (table, mut core) = fresh();
        table.word(0, Field::Place).store(place, Relaxed);
        assert_eq!(claim(&table, A, u64::MAX), Err(Corrupt), "{place:#x}");
        assert!(Publishing::resume(&table).is_err());
        send(&mut core, &table, 10).unwrap();
    }
    for state in [1, 5 << 61, 7 << 61, u64::MAX] {
        let (table, mut core) = fresh();
        table.word(0, Field::State).store(state, Relaxed);
        assert_eq!(take(&table, A).unwrap().sequence, 1, "nobody's message is skipped");
        assert!(Publishing::resume(&table).is_err(), "{state:#x}");
        table.word(2, Field::State).store(0, Relaxed);
        while send(&mut core, &table, 10).is_ok() {}
        assert_eq!(send(&mut core, &table, 10), Err(NoRoom::Corrupt));
    }
    for tail in [1 << 42, u64::MAX] {
        let (table, _) = fresh();
        table.sender(SenderField::Tail).store(tail, Relaxed);
        assert_eq!(claim(&table, A, u64::MAX), Err(Corrupt));
        assert!(Publishing::resume(&table).is_err());
    }
    let (table, _) = fresh();
    table.hint().store(4, Relaxed);
    assert_eq!(claim(&table, A, u64::MAX), Err(Corrupt), "ahead of every tail");
    // That is mended by whoever recovers.
    rewind(&table);
    assert_eq!(take(&table, A).unwrap().sequence, 0);
    let (table, _) = fresh();
    table.word(0, Field::State).store(1 << 61 | 9, Relaxed);
    assert!(Publishing::resume(&table).is_err(), "a number behind the tail");
}

/// Three workers who say that they sleep, and do not: they are on their way, stopped, or dead.
#[derive(Default)]
struct Sleepless {
    asleep: AtomicU64,
    bells: [AtomicU32; 3],
}

impl Crew for Sleepless {
    type Bits = AtomicU64;
    type Bell = AtomicU32;

    fn asleep(&self) -> &AtomicU64 {
        &self.asleep
    }

    fn workers(&self) -> u64 {
        3
    }

    fn bell(&self, worker: u64) -> &AtomicU32 {
        &self.bells[worker as usize]
    }
}

#[test]
fn who_is_not_woken_is_followed_by_the_next() {
    let crew = Sleepless::default();
    // And bits that nobody honest sets.
    crew.asleep.store(0xF0 | 0b101, Relaxed);
    assert!(ring_one(&crew));
    assert_eq!(crew.bells.each_ref().map(|bell| bell.load(Relaxed)), [1, 0, 1]);
    assert!(!ring_one(&crew));
}
