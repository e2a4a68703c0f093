//! What survivors do for the dead. All of it may be done by several at a time, and again by another where one dies
//! over it.

use std::sync::Arc;

use super::crew;
use super::map::{Slots, Workers};
use super::slots::{self, Dead, Who};
use crate::channel::layout::Shape;
use crate::channel::presence::{Presence, Seen};
use crate::mapping::Mapping;

/// A queue, as whoever recovers needs it.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(super) lanes: Arc<[Slots]>,
    pub(super) workers: Workers,
    /// How often a message is given out.
    pub(super) deliveries: u64,
}

impl Recovery {
    /// That of a queue of this shape, which was read from this map, or written to it.
    pub(crate) fn of(map: &Arc<Mapping>, shape: &Shape) -> Self {
        Self {
            lanes: (0..shape.lanes).map(|lane| Slots::of(map, shape, lane)).collect(),
            workers: Workers::of(map, shape),
            deliveries: shape.deliveries,
        }
    }

    /// In which turn the worker at a place is, or was last: to be kept by who may have to recover for it.
    pub(crate) fn turn_of(&self, worker: u64) -> u64 {
        Seen::at(self.workers.side(worker)).turn
    }

    /// Says that the worker in its turn at a place is dead, as is proven, and hands on what it had. It may be that another
    /// has its place already.
    pub(crate) fn worker_died(&self, worker: u64, turn: u64) {
        let side = self.workers.side(worker);
        if Seen::at(side).turn == turn {
            Seen::died(side, || Seen::at(side).turn != turn);
            crew::clear(&self.workers, worker);
        }
        self.hand_on(Dead::This(Who::new(worker, turn)));
    }

    /// Says that the sender of a lane is dead, as is proven, and that nobody has its place yet.
    pub(crate) fn sender_died(&self, lane: u64) {
        Seen::died(&self.lanes[lane as usize].lane.sender_side(), || false);
        // It may have sent something and not rung.
        crew::wake_all(&self.workers);
    }

    /// Hands on what the dead had, and rings for everybody.
    pub(super) fn hand_on(&self, dead: Dead) {
        for lane in self.lanes.iter() {
            slots::recover(lane, dead, self.deliveries);
        }
        if !cfg!(sabotage = "queue-hand-on-in-silence") {
            crew::wake_all(&self.workers);
        }
        self.ring_senders();
    }

    /// A worker came, went or died.
    pub(super) fn ring_senders(&self) {
        self.lanes.iter().for_each(|lane| lane.lane.sender_side().bell().ring());
    }

    /// Whether no sender is there and one left, and nobody but `own` has a message that may come back.
    pub(super) fn is_over(&self, own: Who, has_some: bool) -> bool {
        let presence = |lane: &Slots| Seen::at(&lane.lane.sender_side()).presence;
        let gone = self.lanes.iter().all(|lane| presence(lane) != Presence::Here)
            && self.lanes.iter().any(|lane| presence(lane) == Presence::Left);
        // Who has some itself waits for nobody: another may wait for it.
        gone && self.lanes.iter().all(|lane| {
            let tally = slots::tally(lane, own);
            tally.ready == 0 && (has_some || tally.taken == 0)
        })
    }
}
