//! Who goes on with a channel whose holder is dead.
//!
//! A dead holder's name stands there until a survivor takes it over, a millisecond later; or for as long as the
//! survivors are stopped. Whoever made a channel of its own under it meanwhile would split the channel in two. So before
//! a stale name is taken the memory of the channels of this user is looked at, through /proc, read-only: that of the
//! channel whose holder had this socket says so, and who takes part.
//!
//! A member that cannot be seen in /proc, in another container, is not found: then the name counts as nobody's.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::Identity;
use crate::channel::layout::{MEMBERS, SOCKET_AT, Shape};
use crate::channel::member::{Info, Kind, SIZE, State};
use crate::channel::options::LABEL;

/// How many bytes of the header are read.
const HEAD: usize = 256;

/// A process that takes part in the channel whose name this socket had, and runs.
pub(super) fn of(identity: Identity) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut all = numbers.map(|pid| (pid, Path::new("/proc").join(pid.to_string())));
    all.find(|(_, process)| {
        // None where it has ended, is another user's, or may not be looked at.
        let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut channels = fds.filter(|fd| is_channel(&fd.path())).map(|fd| fd.path());
        channels.any(|memory| takes_part(process, &memory, identity).unwrap_or(false))
    })
    .map(|(pid, _)| pid)
}

fn is_channel(fd: &Path) -> bool {
    let of = format!("/memfd:{LABEL}");
    fs::read_link(fd).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(of.as_bytes()))
}

/// Whether a process is a member of the channel in this memory, and the channel the one that is asked for.
fn takes_part(process: &Path, memory: &Path, identity: Identity) -> Option<bool> {
    let memory = File::open(memory).ok()?;
    let mut head = [0; HEAD];
    memory.read_exact_at(&mut head, 0).ok()?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| head[at + index]));
    let socket = std::array::from_fn(|index| word(SOCKET_AT + 8 * index));
    if Identity::from_words(socket) != identity {
        return None;
    }
    let shape = Shape::parse(word, memory.metadata().ok()?.len()).ok()?;
    // A child that a dead member forked has the memory too, and is no member.
    let (pid, namespace, started) = who(process)?;
    Some((0..shape.members).any(|slot| {
        let mut place = [0; SIZE];
        if memory.read_exact_at(&mut place, MEMBERS + slot * SIZE as u64).is_err() {
            return false;
        }
        let (state, info) = place.split_at(8);
        let state = u64::from_le_bytes(std::array::from_fn(|index| state[index]));
        let info = Info::parse(&std::array::from_fn(|index| info[index]));
        State::parse(state).is_some_and(|state| state.kind == Kind::Here)
            && (info.pid, info.namespace, info.started) == (pid, namespace, started)
    }))
}

/// What a process, as a member, says about itself: its number in its own pid namespace, that, and when it started.
pub(crate) fn who(process: &Path) -> Option<(u32, u64, u64)> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let pid = numbers.split_whitespace().next_back()?.parse().ok()?;
    let namespace = fs::metadata(process.join("ns/pid")).ok()?.ino();
    Some((pid, namespace, crate::channel::member::started(process)?))
}
