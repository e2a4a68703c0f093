//! The receiving end of lanes whose senders overtake it.

use super::{End, Message, Receiver};
use crate::channel::lane::Lane;
use crate::channel::memory::Memory;
use crate::channel::ring::overtake::chase::{Chasing, Next};
use crate::channel::ring::{Corrupt, Record};
use crate::error::RecvError;

/// The next message of a lane, or why there is none.
pub(super) fn find(chase: &Chasing, lane: &Lane) -> Result<Option<Record>, RecvError> {
    match chase.peek(lane) {
        Ok(Next::Message(record)) => Ok(Some(record)),
        Ok(Next::Nothing) => Ok(None),
        Ok(Next::Lagged(missed)) => Err(RecvError::Lagged(missed)),
        Err(Corrupt) => Err(RecvError::Corrupt),
    }
}

impl Receiver {
    /// Copies a message out of a lane, unless it has as many borrowed as can be.
    #[inline(never)]
    pub(super) fn recv_overtaken(
        &self,
        end: &End,
        record: &Record,
        room: &mut [u8],
    ) -> Result<usize, RecvError> {
        let chase = roomy(end)?;
        // Pinned, so nobody writes it.
        end.lane.read(record.at, room);
        chase.consume(&end.lane, record);
        self.count();
        Ok(room.len())
    }

    /// The same, without a copy.
    #[inline(never)]
    pub(super) fn borrow_overtaken<'a>(
        &'a self,
        end: &'a End,
        record: Record,
    ) -> Result<Message<'a>, RecvError> {
        let chase = roomy(end)?;
        let number = chase.next();
        let index = chase.borrow(&end.lane, &record);
        self.count();
        Ok(Message { end, record, index, number, origin: &self.origin })
    }
}

/// Of a lane that is overtaken, if more can be borrowed.
fn roomy(end: &End) -> Result<&Chasing, RecvError> {
    match &end.chase {
        Some(chase) if !chase.is_full() => Ok(chase),
        _ => Err(RecvError::TooManyBorrowed),
    }
}
