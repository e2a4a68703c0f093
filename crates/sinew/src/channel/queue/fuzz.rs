//! The slots of a queue against a peer that rewrites what it likes: see [`crate::channel::fuzz`].

use super::publish::{NoRoom, Publishing};
use super::slots::{
    self, Dead, Field, Found, Place, Table, Who, claim, claim_aside, give_back, recover, release,
};
use crate::channel::fuzz::{Input, Word};
use crate::channel::memory::SenderField;

const SLOTS: usize = 16;
const CAPACITY: u64 = 4096;

struct Lane<'i> {
    slots: Vec<[Word<'i>; 4]>,
    sender: [Word<'i>; 3],
    hint: Word<'i>,
}

impl<'i> Lane<'i> {
    fn new(input: &'i Input<'i>) -> Self {
        let slot = |_| std::array::from_fn(|_| Word::new(input));
        Self {
            slots: (0..SLOTS).map(slot).collect(),
            sender: std::array::from_fn(|_| Word::new(input)),
            hint: Word::new(input),
        }
    }
}

impl<'i> Table for Lane<'i> {
    type Word = Word<'i>;

    fn slots(&self) -> u64 {
        SLOTS as u64
    }

    fn capacity(&self) -> u64 {
        CAPACITY
    }

    fn word(&self, number: u64, field: Field) -> &Word<'i> {
        &self.slots[number as usize % SLOTS][field as usize]
    }

    fn sender(&self, field: SenderField) -> &Word<'i> {
        &self.sender[field as usize]
    }

    fn hint(&self) -> &Word<'i> {
        &self.hint
    }
}

fn is_inside(place: Place) -> bool {
    place.offset.checked_add(place.len).is_some_and(|end| end <= CAPACITY)
}

pub(in crate::channel) fn sender(bytes: &[u8]) {
    let input = Input::new(bytes);
    let lane = Lane::new(&input);
    while !input.is_empty() {
        input.operation();
        let Ok(mut publishing) = Publishing::resume(&lane) else { continue };
        while !input.is_empty() {
            let operation = input.operation();
            let len = input.below(CAPACITY + 100);
            match publishing.reserve(&lane, len) {
                Ok(at) => {
                    assert!(is_inside(Place { offset: at, len }), "{len} at {at}");
                    if operation & 3 != 0 {
                        publishing.commit(&lane, len / (1 + u64::from(operation >> 6)));
                    }
                }
                Err(NoRoom::Yet | NoRoom::TooBig) => {}
                Err(NoRoom::Corrupt) => break,
            }
            if operation & 0x3C == 0x3C {
                break;
            }
        }
    }
}

pub(in crate::channel) fn worker(bytes: &[u8]) {
    let input = Input::new(bytes);
    let lane = Lane::new(&input);
    let mut jobs = Vec::new();
    while !input.is_empty() {
        let operation = input.operation();
        let who = Who::new(u64::from(operation >> 6), 1);
        let most = input.below(CAPACITY);
        let found = match operation & 7 {
            0..=2 => claim(&lane, who, most),
            3 => claim_aside(&lane, who, most),
            4 => {
                if let Some(job) = jobs.pop() {
                    release(&lane, &job);
                }
                continue;
            }
            5 => {
                if let Some(job) = jobs.pop() {
                    give_back(&lane, &job, most % 15 + 1);
                }
                continue;
            }
            6 => {
                recover(&lane, Dead::This(who), most % 15 + 1);
                recover(&lane, Dead::Before(who), most % 15 + 1);
                continue;
            }
            _ => {
                slots::tally(&lane, who);
                slots::may_have_more(&lane);
                continue;
            }
        };
        if let Ok(Found::Job(job)) = found {
            assert!(is_inside(job.place) && job.place.len <= most, "{:?}", job.place);
            jobs.push(job);
        }
    }
}
