//! Which processes have which channels, by /proc.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::copy::Contents;
use super::{LOOK, Memory};
use crate::channel::member::{Info, started};
use crate::channel::options::LABEL;
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// What a look at all processes gave.
pub(super) struct Scan {
    pub(super) objects: Vec<Found>,
    /// How many processes could not be looked at.
    pub(super) unreadable: usize,
}

/// Memory with a channel's name.
pub(super) struct Found {
    pub(super) object: Object,
    pub(super) contents: Result<Contents>,
}

/// Who has it.
pub(super) struct Object {
    pub(super) label: String,
    pub(super) memory: Memory,
    pub(super) processes: Vec<u32>,
    /// What each of these says about itself: its number in its own namespace, that, and when it started.
    who: Vec<Option<(u32, u64, u64)>>,
}

impl Object {
    /// The process of a member, as this process sees it.
    pub(super) fn process(&self, info: &Info) -> Option<u32> {
        let wanted = Some((info.pid, info.namespace, info.started));
        let index = self.who.iter().position(|who| *who == wanted)?;
        self.processes.get(index).copied()
    }
}

/// Looks at the descriptors of all processes.
///
/// # Errors
/// What the kernel says of /proc.
pub(super) fn scan() -> Result<Scan> {
    let mut found = BTreeMap::<Memory, Found>::new();
    let mut unreadable = 0;
    let processes = fs::read_dir("/proc").map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::os(LOOK, errno).on(Mechanism::Channel).object("/proc")
    })?;
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Err(error) = look_at(pid, &entry.path(), &mut found) {
            // Else it has ended.
            let refused = [Errno::ACCESS, Errno::PERM].map(Errno::raw_os_error);
            unreadable += usize::from(error.raw_os_error().is_some_and(|no| refused.contains(&no)));
        }
    }
    Ok(Scan { objects: found.into_values().collect(), unreadable })
}

fn look_at(pid: u32, process: &Path, found: &mut BTreeMap<Memory, Found>) -> std::io::Result<()> {
    // Before any is opened here: this process may be one of them.
    let fds = fs::read_dir(process.join("fd"))?;
    let paths: Vec<_> = fds.flatten().map(|fd| fd.path()).filter(|p| label(p).is_some()).collect();
    for path in paths {
        let Some((pinned, label, memory)) = pin(&path) else { continue };
        let known = found.entry(memory).or_insert_with(|| Found {
            object: Object { label, memory, processes: Vec::new(), who: Vec::new() },
            contents: contents(&pinned),
        });
        if known.contents.as_ref().is_err_and(|error| error.kind() != ErrorKind::Mismatch) {
            known.contents = contents(&pinned);
        }
        if !known.object.processes.contains(&pid) {
            known.object.processes.push(pid);
            known.object.who.push(who(process));
        }
    }
    Ok(())
}

/// The label of a channel's memory, by a link of /proc.
fn label(link: &Path) -> Option<String> {
    let to = fs::read_link(link).ok()?;
    let to = to.as_os_str().to_string_lossy();
    let label = to.strip_prefix("/memfd:")?.strip_prefix(LABEL)?;
    Some(label.strip_suffix(" (deleted)").unwrap_or(label).to_owned())
}

/// Holds what a descriptor of another process stands for, without opening it: it may be something else by now, whose
/// opening has effects.
fn pin(path: &Path) -> Option<(OwnedFd, String, Memory)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let pinned = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&pinned).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let label = label(&own(&pinned))?;
    Some((pinned, label, Memory { device: stat.st_dev, inode: stat.st_ino }))
}

fn own(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn contents(pinned: &OwnedFd) -> Result<Contents> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(CWD, own(pinned), flags, Mode::empty())
        .map_err(|errno| Error::os(LOOK, errno).on(Mechanism::Channel))?;
    Contents::of(&File::from(file))
}

/// What a process, as a member, says about itself: its number in its own pid namespace, that, and when it started.
fn who(process: &Path) -> Option<(u32, u64, u64)> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let pid = numbers.split_whitespace().next_back()?.parse().ok()?;
    let namespace = fs::metadata(process.join("ns/pid")).ok()?.ino();
    Some((pid, namespace, started(process)?))
}
