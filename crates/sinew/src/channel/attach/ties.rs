//! What a channel is told of its members: who has which lane, and what is done for the dead.

use std::sync::Arc;

use super::Events;
use crate::channel::lane::{Lane, Side};
use crate::channel::layout::{self, Shape};
use crate::channel::member::{Hello, Kind, NAME, Pattern, Role, Seat, State, Table, Who};
use crate::channel::options::Full;
use crate::channel::presence::Seen;
use crate::channel::queue::Recovery;
use crate::channel::typed;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;

/// What of a channel the service looks after.
pub(super) struct Ties {
    map: Arc<Mapping>,
    shape: Shape,
    events: Events,
    /// Of a queue.
    queue: Option<Recovery>,
    named: bool,
}

impl Ties {
    pub(super) fn new(map: &Arc<Mapping>, shape: Shape, events: &Events, named: bool) -> Arc<Self> {
        let queue = (shape.slots > 0).then(|| Recovery::of(map, &shape, events));
        Arc::new(Self { map: Arc::clone(map), shape, events: events.clone(), queue, named })
    }

    pub(super) fn table(&self) -> Result<Table> {
        let (at, count) = (layout::MEMBERS as usize, self.shape.members as usize);
        Table::new(Arc::clone(&self.map), at, count, layout::HOLDER_AT)
    }

    fn receivers(&self) -> impl Iterator<Item = Side> {
        let side = |index| Side::of_receiver(&self.map, &self.shape, index);
        (0..self.shape.receivers).map(move |i| side(i).with_event(self.events.receiver(i)))
    }

    fn senders(&self) -> impl Iterator<Item = Side> {
        let side = |lane| Lane::of(&self.map, &self.shape, lane).sender_side();
        (0..self.shape.lanes).map(move |lane| side(lane).with_event(self.events.sender(lane)))
    }

    /// The words of a member, if there is such a lane.
    fn side(&self, who: Who) -> Option<Side> {
        let index = usize::from(who.lane);
        match who.role {
            Role::Receiver => self.receivers().nth(index),
            Role::Sender => self.senders().nth(index),
        }
    }

    /// Whether another member has its place in the channel by now.
    fn is_replaced(&self, who: Who) -> bool {
        let Ok(table) = self.table() else { return false };
        (0..table.count())
            .filter(|slot| *slot != who.slot)
            .filter_map(|slot| table.state(slot))
            .any(|state| {
                matches!(state.kind, Kind::Joining | Kind::Here)
                    && (state.role, state.lane) == (Some(who.role), who.lane)
            })
            || table.state(who.slot).is_some_and(|state| {
                state.generation != who.generation
                    && matches!(state.kind, Kind::Joining | Kind::Here)
            })
    }

    /// Wakes those who count on a member.
    fn ring_for(&self, who: Who) {
        match (&self.queue, who.role) {
            (Some(queue), Role::Sender) => queue.ring_workers(),
            (None, Role::Sender) => self.receivers().for_each(|side| side.ring()),
            (_, Role::Receiver) => self.senders().for_each(|side| side.ring()),
        }
    }

    /// What a dead worker had is others'. As often as one likes.
    fn hand_on(&self, queue: &Recovery, who: Who) {
        let worker = u64::from(who.lane);
        if worker < self.shape.receivers {
            // Before the look at who is there: a successor does this itself, and whoever comes after the look
            // has another turn.
            let turn = queue.turn_of(worker);
            if !self.is_replaced(who) {
                queue.worker_died(worker, turn);
            }
        }
    }

    /// The places for a role.
    const fn places(&self, role: Role) -> u64 {
        match role {
            Role::Receiver => self.shape.receivers,
            Role::Sender => self.shape.lanes,
        }
    }
}

impl Pattern for Ties {
    // It says itself that it is here, when it is.
    fn joined(&self, _: Who) {}

    fn left(&self, who: Who) {
        // Of a queue with a name somebody else may come there.
        if let Some(side) = self.side(who)
            && !(self.named && self.queue.is_some())
        {
            Seen::never_comes(&side);
        }
        self.ring_for(who);
    }

    fn died(&self, who: Who) {
        match &self.queue {
            Some(queue) if who.role == Role::Receiver => self.hand_on(queue, who),
            _ => {
                if let Some(side) = self.side(who) {
                    Seen::died(&side, || self.is_replaced(who));
                }
                self.ring_for(who);
            }
        }
    }

    // A lane is as its sender left it, and so is the place of a receiver: whoever comes next goes on there. Only
    // what a worker had is for others, and who has a name keeps its place.
    fn recover(&self, who: Who) -> bool {
        if let Some(queue) = &self.queue
            && who.role == Role::Receiver
        {
            self.hand_on(queue, who);
        }
        self.table().is_ok_and(|table| table.info(who.slot).name == [0; NAME])
    }

    fn seat(&self, hello: &Hello, table: &Table) -> Result<Seat> {
        let refused =
            |kind, why: String| Err(Error::new(kind, "join").on(Mechanism::Channel).because(why));
        if u64::from(hello.pattern) != self.shape.pattern {
            return refused(ErrorKind::Mismatch, "it is a channel of another pattern".to_owned());
        }
        if let Some(why) = Full::refusal(&hello.facts, &self.shape) {
            return refused(ErrorKind::Mismatch, why);
        }
        // Here, and not only by the newcomer: who leaves a place has left, for those who count on it.
        if !typed::is_accepted(&hello.types, self.shape.type_hash) {
            return refused(
                ErrorKind::Mismatch,
                typed::mismatch(&hello.types, self.shape.type_hash),
            );
        }
        let places = |lane: Option<u64>| {
            (0..table.count()).filter_map(|slot| Some((slot, table.state(slot)?))).filter(
                move |(_, state)| {
                    state.role == Some(hello.role)
                        && lane.is_none_or(|lane| lane == u64::from(state.lane))
                        && state.kind != Kind::Free
                },
            )
        };
        let is_there = |state: &State| matches!(state.kind, Kind::Joining | Kind::Here);
        if hello.name != [0; NAME] {
            let own = places(None).find(|(slot, _)| table.info(*slot).name == hello.name);
            match own {
                Some((_, state)) if is_there(&state) => {
                    let why = format!("{} is there already", show(&hello.name));
                    return refused(ErrorKind::InUse, why);
                }
                Some((slot, state)) => return Ok(Seat::Same { slot, lane: state.lane }),
                None => {}
            }
        }
        // A place whose member is gone is taken only where that keeps it.
        let taken = |lane| {
            places(Some(lane))
                .find(|(slot, state)| is_there(state) || table.info(*slot).name != [0; NAME])
        };
        let mut lanes = 0..self.places(hello.role);
        if let Some(lane) = lanes.find(|lane| taken(*lane).is_none()) {
            return Ok(Seat::Any { lane: lane as u16 });
        }
        let why = match (hello.role, self.queue.is_some(), taken(0)) {
            (Role::Receiver, true, _) => {
                "it has, or keeps places for, as many workers as it can have".to_owned()
            }
            (Role::Receiver, false, Some((slot, state))) if !is_there(&state) => {
                format!("the receiver's place is kept for {}", show(&table.info(slot).name))
            }
            (Role::Receiver, false, _) => "it has a receiver".to_owned(),
            (Role::Sender, ..) => {
                "it has, or keeps places for, as many senders as it can have".to_owned()
            }
        };
        refused(ErrorKind::InUse, why)
    }
}

/// The name of a durable member, for people.
fn show(name: &[u8; NAME]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    format!("\"{}\"", name[..end].escape_ascii())
}
