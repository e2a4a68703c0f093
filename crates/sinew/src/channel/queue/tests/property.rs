//! Whatever is done in whichever order: each message is there until one worker is done with it, and nothing is written over it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::core::{Plain, send, take};
use crate::channel::queue::publish::{NoRoom, Publishing};
use crate::channel::queue::slots::{
    Dead, Found, Taken, Who, claim_aside, give_back, recover, release, room_for, tally,
};

const SLOTS: usize = 8;
const CAPACITY: u64 = 1024;
const BOUND: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Send(u64),
    Take(u64),
    TakeAside(u64),
    Release(usize),
    GiveBack(usize),
    /// The worker dies, and another takes its place.
    Die(u64),
    /// The sender dies, and another takes its place.
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..400_u64).prop_map(Step::Send),
        1 => (400..1000_u64).prop_map(Step::Send),
        6 => (0..3_u64).prop_map(Step::Take),
        1 => (0..3_u64).prop_map(Step::TakeAside),
        4 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::GiveBack),
        1 => (0..3_u64).prop_map(Step::Die),
        1 => Just(Step::Resume),
    ]
}

/// What is in the memory: the sequence of the message that each grain belongs to.
struct Model {
    grains: [Option<u64>; (CAPACITY / 64) as usize],
    /// Length, and how often it was given out in vain, of each that is not done.
    there: BTreeMap<u64, (u64, u64)>,
    taken: Vec<(Who, Taken)>,
    turns: [u64; 3],
    sent: u64,
}

impl Model {
    fn who(&self, worker: u64) -> Who {
        Who::new(worker, self.turns[worker as usize])
    }

    fn took(&mut self, who: Who, job: Taken, aside: bool) {
        let (len, vain) = self.there[&job.sequence];
        assert_eq!((job.place.len, job.vain), (len, vain));
        assert_eq!(vain >= BOUND, aside);
        assert!(self.taken.iter().all(|(_, other)| other.sequence != job.sequence), "twice");
        self.is_whole(&job);
        self.taken.push((who, job));
    }

    fn is_whole(&self, job: &Taken) {
        let first = (job.place.offset / 64) as usize;
        let count = (room_for(job.place.len) / 64) as usize;
        assert!(self.grains[first..first + count].iter().all(|of| *of == Some(job.sequence)));
    }

    fn back(&mut self, job: &Taken) {
        let (_, vain) = self.there.get_mut(&job.sequence).unwrap();
        *vain = (*vain + 1).min(15);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_written_over(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let table = Plain::new(SLOTS, CAPACITY);
        let mut core = Publishing::resume(&table).unwrap();
        let mut model = Model {
            grains: [None; (CAPACITY / 64) as usize],
            there: BTreeMap::new(),
            taken: Vec::new(),
            turns: [1; 3],
            sent: 0,
        };
        for step in steps {
            match step {
                Step::Send(len) => match send(&mut core, &table, len) {
                    Ok(at) => {
                        let first = (at / 64) as usize;
                        for of in &mut model.grains[first..][..(room_for(len) / 64) as usize] {
                            let old = of.replace(model.sent);
                            prop_assert!(old.is_none_or(|old| !model.there.contains_key(&old)));
                        }
                        model.there.insert(model.sent, (len, 0));
                        model.sent += 1;
                    }
                    Err(why) => {
                        prop_assert_eq!(why, if len > CAPACITY - 64 { NoRoom::TooBig } else { NoRoom::Yet });
                        // Somebody has something, or nobody takes it.
                        prop_assert!(len > CAPACITY - 64 || !model.there.is_empty());
                    }
                },
                Step::Take(worker) => {
                    let who = model.who(worker);
                    let free = model.there.iter().filter(|(_, (_, vain))| *vain < BOUND).count();
                    let held = model.taken.iter().filter(|(_, job)| job.vain < BOUND).count();
                    let found = take(&table, who);
                    prop_assert_eq!(found.is_some(), free > held);
                    if let Some(job) = found {
                        model.took(who, job, false);
                    }
                }
                Step::TakeAside(worker) => {
                    let who = model.who(worker);
                    if let Ok(Found::Job(job)) = claim_aside(&table, who, u64::MAX) {
                        model.took(who, job, true);
                    }
                }
                Step::Release(which) if !model.taken.is_empty() => {
                    let (_, job) = model.taken.swap_remove(which % model.taken.len());
                    model.is_whole(&job);
                    prop_assert!(release(&table, &job));
                    model.there.remove(&job.sequence);
                }
                Step::GiveBack(which) if !model.taken.is_empty() => {
                    let (_, job) = model.taken.swap_remove(which % model.taken.len());
                    model.is_whole(&job);
                    prop_assert!(give_back(&table, &job, BOUND));
                    model.back(&job);
                }
                Step::Die(worker) => {
                    let dead = model.who(worker);
                    recover(&table, Dead::This(dead), BOUND);
                    model.turns[worker as usize] += 1;
                    let (its, others) = model.taken.drain(..).partition(|(who, _)| *who == dead);
                    model.taken = others;
                    let its: Vec<(Who, Taken)> = its;
                    its.iter().for_each(|(_, job)| model.back(job));
                }
                Step::Resume => core = Publishing::resume(&table).unwrap(),
                Step::Release(_) | Step::GiveBack(_) => {}
            }
            let tally = tally(&table, Who::new(9, 0));
            prop_assert_eq!(tally.taken, model.taken.len() as u64);
            prop_assert_eq!(tally.ready + tally.taken + tally.aside, model.there.len() as u64);
            prop_assert_eq!(core.sent(), model.sent);
        }
    }
}
