//! A copy of the words of a channel, taken through a descriptor.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};

use rustix::io::Errno;

use super::process::Object;
use super::{Channel, LOOK, Lane, Member, Pattern, Receiver, Role, State};
use crate::channel::lane::{RECEIVER_AT, SENDER_AT, SENDER_SIDE_AT};
use crate::channel::layout::{ASLEEP_AT, HOLDER_AT, LANE, MEMBERS, SOCKET_AT, Shape};
use crate::channel::member::{self, Holder, Info, Kind, SIZE};
use crate::channel::name::Identity;
use crate::channel::options::Full;
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// How many bytes of the header are read to know the shape.
const HEAD: usize = 512;

/// The words before the records and slots, copied twice, one copy after the other: what receivers write is taken from the
/// first, all else from the second. So nothing is received that was not sent.
pub(super) struct Contents {
    shape: Shape,
    pattern: Pattern,
    first: Box<[u8]>,
    second: Box<[u8]>,
}

impl Contents {
    /// # Errors
    /// What the kernel says; `Mismatch` for what is no channel of this version.
    pub(super) fn of(memory: &File) -> Result<Self> {
        let failed = |error: std::io::Error| match Errno::from_io_error(&error) {
            Some(errno) => Error::os(LOOK, errno).on(Mechanism::Channel),
            None => mismatch("it is shorter than a channel"),
        };
        let len = memory.metadata().map_err(failed)?.len();
        let mut head = [0; HEAD];
        memory.read_exact_at(&mut head, 0).map_err(failed)?;
        let shape = Shape::parse(|at| word(&head, at), len)?;
        let pattern = Pattern::of(&shape).ok_or_else(|| mismatch("it has an unknown pattern"))?;
        // Of a few pages: a shape that is possible has few members.
        let end = shape.lane_at(shape.lanes - 1).0 + LANE as usize;
        let copy = || {
            let mut bytes = vec![0; end].into_boxed_slice();
            memory.read_exact_at(&mut bytes, 0).map(|()| bytes).map_err(failed)
        };
        let first = copy()?;
        fence(Ordering::SeqCst);
        Ok(Self { shape, pattern, first, second: copy()? })
    }

    /// Which socket was the last to have its name.
    pub(super) fn socket(&self) -> Identity {
        Identity::from_words(std::array::from_fn(|i| word(&self.second, SOCKET_AT + 8 * i)))
    }

    pub(super) fn channel(&self, object: Object) -> Channel {
        let shape = &self.shape;
        let members = (0..shape.members as usize).filter_map(|i| self.member(i, &object)).collect();
        let lanes: Vec<_> = (0..shape.lanes).map(|index| self.lane(index)).collect();
        let receivers = (0..shape.receivers).map(|index| self.receiver(index, &lanes)).collect();
        let holder = word(&self.second, HOLDER_AT) as u32;
        let Object { label, memory, processes, .. } = object;
        Channel {
            label,
            memory,
            pattern: self.pattern,
            full: Full::of(shape),
            capacity: shape.capacity,
            slots: shape.slots,
            most_members: shape.members,
            processes,
            holder: Holder::from_word(holder).slot().filter(|slot| *slot < shape.members as usize),
            members,
            lanes,
            receivers,
        }
    }

    /// Who has this place. Nobody where it is free, or says what no member writes.
    fn member(&self, place: usize, object: &Object) -> Option<Member> {
        let at = MEMBERS as usize + place * SIZE;
        let state = member::State::parse(word(&self.second, at))?;
        let info = self.second.get(at + 8..at + SIZE)?.try_into().ok().map(Info::parse)?;
        Some(Member {
            place,
            role: match state.role? {
                member::Role::Sender => Role::Sender,
                member::Role::Receiver => Role::Receiver,
            },
            lane: state.lane.into(),
            generation: state.generation,
            state: match state.kind {
                Kind::Free => return None,
                Kind::Joining => State::Joining,
                Kind::Here => State::Here,
                Kind::Left => State::Left,
                Kind::Dead => State::Dead,
            },
            name: name_of(&info),
            pid: object.process(&info),
            own_pid: info.pid,
            pid_namespace: info.namespace,
            uid: info.uid,
            started: info.started,
        })
    }

    fn lane(&self, index: u64) -> Lane {
        let at = self.shape.lane_at(index).0;
        let receiver = |field| word(&self.first, at + RECEIVER_AT + field as usize * 8);
        Lane::of(
            &|field| word(&self.second, at + SENDER_AT + field as usize * 8),
            &|field| word(&self.second, at + SENDER_SIDE_AT + field as usize * 8),
            (self.pattern != Pattern::Queue).then_some((self.shape.capacity, &receiver)),
            self.shape.pins().is_some(),
        )
    }

    fn receiver(&self, index: u64, lanes: &[Lane]) -> Receiver {
        let at = self.shape.receiver_at(index);
        let side = |field| word(&self.first, at + field as usize * 8);
        if self.pattern == Pattern::Queue {
            let asleep = word(&self.first, ASLEEP_AT) >> index & 1 == 1;
            return Receiver { asleep, ..Receiver::of_worker(&side) };
        }
        let of_lane = |lane: &Lane| lane.received.zip(lane.received_bytes);
        Receiver::of_lanes(&side, lanes.iter().filter_map(of_lane))
    }
}

fn name_of(info: &Info) -> Option<OsString> {
    let len = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    (len > 0).then(|| OsString::from_vec(info.name[..len].to_vec()))
}

/// The word at a byte; zero where there is none.
fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

fn mismatch(why: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, LOOK).on(Mechanism::Channel).because(why)
}
