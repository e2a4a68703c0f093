//! Giving up the place that is kept for a member with a name.

use super::slot::{Info, NAME};
use super::{Member, Place, Who, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// How often the place may change hands meanwhile.
const TURNS: usize = 1000;

impl Member {
    /// Frees the place that is kept for the member of this name, which is dead or has left. Any member may: it makes good
    /// what was left, as the holder would.
    ///
    /// # Errors
    /// `NotFound` if no place is kept for it; `InUse` if it is there, naming the process.
    pub(crate) fn forget(&self, name: &[u8; NAME]) -> Result<()> {
        self.check()?;
        let core = &self.core;
        let refused = |kind, why| Err(failed(kind, name).because(why));
        for _ in 0..TURNS {
            let found = (0..core.table.count())
                .filter_map(|slot| Some((slot, core.table.state(slot)?)))
                .find(|(slot, state)| {
                    (state.is_kept() || state.is_taken()) && core.table.info(*slot).name == *name
                });
            let Some((slot, state)) = found else {
                return refused(ErrorKind::NotFound, "no place is kept for it".to_owned());
            };
            let (Some(word), Some(role)) = (core.table.slot(slot), state.role) else { continue };
            let place = Place { slot, generation: state.generation };
            if state.is_taken() {
                // Perhaps nobody has noticed yet. Where this process has not been told of it there is no proof.
                let ended = lock(&core.inner).peer(place).is_some_and(super::Peer::has_ended);
                if ended {
                    word.bury(place.generation);
                } else if core.table.state(slot) == Some(state) {
                    let Info { pid, .. } = core.table.info(slot);
                    return refused(ErrorKind::InUse, format!("process {pid} is there as that"));
                }
                continue;
            }
            let who = Who { slot, generation: state.generation, role, lane: state.lane };
            {
                let _telling = lock(&core.telling);
                core.pattern.recover(who);
            }
            // Else it came back.
            if word.free(place.generation) {
                return Ok(());
            }
        }
        refused(ErrorKind::InUse, "it keeps coming and going".to_owned())
    }
}

#[cold]
fn failed(kind: ErrorKind, name: &[u8; NAME]) -> Error {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    Error::new(kind, "forget a member")
        .on(Mechanism::Channel)
        .object(format!("\"{}\"", name[..end].escape_ascii()))
}
