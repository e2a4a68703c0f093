//! Who goes on with a channel whose holder is dead.
//!
//! A dead holder's name stands there until a survivor takes it over, a millisecond later; or for as long as the
//! survivors are stopped. Whoever made a channel of its own under it meanwhile would split the channel in two. So before
//! a stale name is taken the memory of the channels of this user is looked at, through /proc, read-only: that of the
//! channel whose holder had this socket says so, and who takes part.
//!
//! A member that cannot be seen in /proc, in another container, is not found: then the name counts as nobody's.

use super::Identity;
use crate::channel::stats::{self, State};

/// A process that takes part in the channel whose name this socket had, and runs.
pub(super) fn of(identity: Identity) -> Option<u32> {
    let (channel, _) = stats::with_socket(identity).ok()?;
    // A child that a dead member forked has the memory too, and is no member.
    channel?
        .members
        .iter()
        .filter(|member| member.state == State::Here)
        .find_map(|member| member.pid)
}
