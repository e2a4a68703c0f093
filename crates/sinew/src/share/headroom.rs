//! Whether memory can be had without somebody being killed for it.
//!
//! Pages of a memfd or a tmpfs are charged to the memory cgroup of whoever touches them first. A
//! cgroup that is full does not refuse: the kernel kills a process in it. The same holds for the
//! whole machine. So before much is allocated the room is computed, and too little is an error.
//!
//! Source: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// Less than this is not looked at: any other allocation of the process could as well be the last.
const WORTH_A_LOOK: u64 = 64 * 1024;

/// Fails if `bytes` more would exceed what the cgroups of this process, or the machine, can give.
pub(in crate::share) fn check(bytes: u64, mechanism: Mechanism) -> Result<()> {
    if bytes < WORTH_A_LOOK {
        return Ok(());
    }
    let refuse = |limit: String, fix: &'static str| {
        Err(Error::new(ErrorKind::LimitReached, "allocate")
            .on(mechanism)
            .object(format!("{bytes} bytes"))
            .because(format!("{limit}, and going beyond it would kill a process"))
            .fix(fix))
    };
    let (available, free_swap) = machine();
    for group in groups() {
        let room = group.room(free_swap);
        if bytes > room {
            let limit = format!(
                "{} allows {} bytes, of which {} are used and {room} can be had",
                group.limit_file.display(),
                group.limit,
                group.usage,
            );
            return refuse(limit, "raise that limit, or ask for less");
        }
    }
    if let Some(available) = available
        && bytes > available.saturating_add(free_swap)
    {
        let limit =
            format!("MemAvailable in /proc/meminfo is {available} bytes, and SwapFree {free_swap}");
        return refuse(limit, "free memory, or ask for less");
    }
    Ok(())
}

/// What the machine can still give: memory, if it says, and swap.
fn machine() -> (Option<u64>, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb.saturating_mul(1024))
    };
    (value("MemAvailable:"), value("SwapFree:").unwrap_or(0))
}

/// A cgroup that has a limit on memory.
#[derive(Debug)]
struct Group {
    limit_file: PathBuf,
    limit: u64,
    usage: u64,
    /// What of the usage is cached files, which the kernel drops first.
    cache: u64,
    /// What it may still swap out.
    swap: u64,
}

impl Group {
    /// How much can still be charged to it.
    fn room(&self, free_swap: u64) -> u64 {
        let used = self.usage.saturating_sub(self.cache);
        self.limit.saturating_sub(used).saturating_add(self.swap.min(free_swap))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

/// The cgroup of this process and all above it that limit memory.
fn groups() -> Vec<Group> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut groups = Vec::new();
    for (version, mount, path) in hierarchies(&own, &mounts) {
        let mut folder = mount.join(path);
        while folder.starts_with(&mount) {
            groups.extend(look(&folder, version));
            if !folder.pop() {
                break;
            }
        }
    }
    groups
}

/// The memory hierarchies that are mounted: where, and where in them this process is.
fn hierarchies(own: &str, mounts: &str) -> Vec<(Version, PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for line in own.lines() {
        // `4:memory:/path` of version 1, `0::/path` of version 2.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = if controllers.is_empty() {
            Version::Two
        } else if controllers.split(',').any(|c| c == "memory") {
            Version::One
        } else {
            continue;
        };
        for mount in mounts.lines() {
            // id parent device root mount-point options .. - type source options
            let Some((head, tail)) = mount.split_once(" - ") else { continue };
            let head: Vec<&str> = head.split(' ').collect();
            let tail: Vec<&str> = tail.split(' ').collect();
            let (Some(root), Some(point)) = (head.get(3), head.get(4)) else { continue };
            let fits = match version {
                Version::Two => tail.first() == Some(&"cgroup2"),
                Version::One => {
                    tail.first() == Some(&"cgroup")
                        && tail.get(2).is_some_and(|o| o.split(',').any(|c| c == "memory"))
                }
            };
            // A container sees only the part of the hierarchy below `root`.
            if fits && let Ok(below) = Path::new(path).strip_prefix(root) {
                found.push((version, PathBuf::from(point), below.to_owned()));
                break;
            }
        }
    }
    found
}

/// The limit of one cgroup, if it has one.
fn look(folder: &Path, version: Version) -> Option<Group> {
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    };
    let stat = |names: [&str; 2]| -> u64 {
        let text = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(n, _)| names.contains(n)).filter_map(|(_, v)| v.parse::<u64>().ok()).sum()
    };
    let (limit_file, usage_file) = match version {
        Version::Two => ("memory.max", "memory.current"),
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    };
    // `max` is no number, and version 1 writes "none" as a number beyond any machine.
    let limit = number(limit_file).filter(|limit| *limit < u64::MAX / 4)?;
    let usage = number(usage_file)?;
    let (cache, swap) = match version {
        Version::Two => {
            let most = number("memory.swap.max").unwrap_or(u64::MAX);
            let swapped = number("memory.swap.current").unwrap_or(0);
            (stat(["inactive_file", "active_file"]), most.saturating_sub(swapped))
        }
        Version::One => {
            // This limit is on memory and swap together.
            let most = number("memory.memsw.limit_in_bytes").unwrap_or(u64::MAX);
            let both = number("memory.memsw.usage_in_bytes").unwrap_or(0);
            let room = most.saturating_sub(both).saturating_sub(limit.saturating_sub(usage));
            (stat(["total_inactive_file", "total_active_file"]), room)
        }
    };
    Some(Group { limit_file: folder.join(limit_file), limit, usage, cache, swap })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_in_both_versions_and_in_a_container() {
        let one = hierarchies(
            "5:devices:/x\n4:cpu,memory:/a/b\n0::/\n",
            "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,cpu,memory\n",
        );
        assert_eq!(
            one,
            [(Version::One, PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("a/b"))]
        );
        let two = hierarchies(
            "0::/system.slice/x.service\n",
            "29 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        let own = PathBuf::from("system.slice/x.service");
        assert_eq!(two, [(Version::Two, PathBuf::from("/sys/fs/cgroup"), own)]);
        let inside = hierarchies(
            "4:memory:/docker/id/inner\n",
            "35 31 0:32 /docker/id /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        );
        let place = (Version::One, PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("inner"));
        assert_eq!(inside, [place]);
    }

    #[test]
    fn cached_files_and_swap_are_room() {
        let group =
            Group { limit_file: PathBuf::new(), limit: 100, usage: 90, cache: 30, swap: 50 };
        assert_eq!(group.room(0), 40);
        assert_eq!(group.room(20), 60);
        assert_eq!(group.room(1000), 90);
    }
}
