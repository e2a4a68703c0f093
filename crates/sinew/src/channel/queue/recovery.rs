//! What survivors do for the dead. All of it may be done by several at a time, and again by another where one dies
//! over it.

use std::sync::Arc;

use super::crew;
use super::map::{Slots, Workers};
use super::slots::{self, Dead, Who};
use crate::channel::attach::Events;
use crate::channel::lane::Side;
use crate::channel::layout::Shape;
use crate::channel::presence::{Presence, Seen};
use crate::mapping::Mapping;

/// Who may take the place of one that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Successor {
    /// Nobody: there are only the two that there were.
    Never,
    /// Of one that died; not of one that left.
    OfDead,
    /// By the name.
    Always,
}

impl Successor {
    /// Of a member, of a queue with a name or of a pair.
    pub(super) const fn of(named: bool) -> Self {
        if named { Self::Always } else { Self::Never }
    }
}

/// A queue, as whoever recovers needs it.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(super) lanes: Arc<[Slots]>,
    /// The senders' sides, by lane.
    pub(super) senders: Arc<[Side]>,
    pub(super) workers: Workers,
    /// How often a message is given out.
    pub(super) deliveries: u64,
}

impl Recovery {
    /// That of a queue of this shape, which was read from this map, or written to it.
    pub(crate) fn of(map: &Arc<Mapping>, shape: &Shape, events: &Events) -> Self {
        let lanes: Arc<[Slots]> = (0..shape.lanes).map(|i| Slots::of(map, shape, i)).collect();
        let sides = lanes
            .iter()
            .zip(0..)
            .map(|(slots, lane)| slots.lane.sender_side().with_event(events.sender(lane)));
        Self {
            senders: sides.collect(),
            lanes,
            workers: Workers::of(map, shape, events),
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
        Seen::died(&self.senders[lane as usize], || false);
        self.ring_workers();
    }

    /// A sender came, went or died: it may have sent something and not rung.
    pub(crate) fn ring_workers(&self) {
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
        self.senders.iter().for_each(Side::ring);
    }

    /// Whether no sender is there and none will come, and nobody but `own` has a message that may come back. One that
    /// left is followed by none if `left_is_end`.
    pub(super) fn is_over(
        &self,
        own: Who,
        has_some: bool,
        left_is_end: bool,
        successor: Successor,
    ) -> bool {
        let presences = || self.senders.iter().map(|side| Seen::at(side).presence);
        let ends = |presence| match presence {
            Presence::Left => left_is_end,
            Presence::Died => successor == Successor::Never,
            Presence::Never | Presence::Here => false,
        };
        let gone = presences().all(|presence| presence != Presence::Here) && presences().any(ends);
        // Who has some itself waits for nobody: another may wait for it.
        gone && self.lanes.iter().all(|lane| {
            let tally = slots::tally(lane, own);
            tally.ready == 0 && (has_some || tally.taken == 0)
        })
    }
}
