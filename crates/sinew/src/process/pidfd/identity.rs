//! What no two processes of a host have in common.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

use rustix::fs::{fstat, fstatfs};
use rustix::io::Errno;

use super::{PidFd, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Feature;
use crate::mechanism::Mechanism;

/// Which process it is: of all processes that this host ever had or will have, one.
///
/// Two that are equal are of the same process, seen from whatever namespace. It can be kept as text
/// (`Display`, `FromStr`) longer than the process, or the host's uptime, lasts.
///
/// It is the inode number of the pidfd, which the kernel never gives twice (Linux 6.9), with the boot id of
/// the host. Before that kernel it is pid namespace, pid and start time in ticks of 10 ms: then it is
/// that of another process for processes of other namespaces, and could be had again only by one that
/// gets the same number within the same tick. Both kinds are never equal to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    boot: u128,
    process: Process,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Process {
    Inode(u64),
    Started { namespace: u64, pid: u32, ticks: u64 },
}

/// The file system of pidfds: `PID_FS_MAGIC` of linux/magic.h.
const PIDFS: u32 = 0x5049_4446;

impl Identity {
    pub(super) fn of(pidfd: &PidFd) -> Result<Self> {
        let process = match inode(pidfd)? {
            Some(inode) => Process::Inode(inode),
            None => started(pidfd)?,
        };
        Ok(Self { boot: boot()?, process })
    }
}

/// Its inode number, where each process has one of its own.
fn inode(pidfd: &PidFd) -> Result<Option<u64>> {
    if !Feature::Pidfs.usable() {
        return Ok(None);
    }
    let failed = |errno| failed("ask for the identity (fstat)", errno);
    if u32::try_from(fstatfs(pidfd).map_err(failed)?.f_type) != Ok(PIDFS) {
        Feature::Pidfs.refused();
        return Ok(None);
    }
    Ok(Some(fstat(pidfd).map_err(failed)?.st_ino))
}

fn started(pidfd: &PidFd) -> Result<Process> {
    let pid = pidfd.pid()?;
    let path = format!("/proc/{pid}/stat");
    let stat = read(&path)?;
    // What was read is of this process if it still has the number now.
    pidfd.pid()?;
    // Counted after the name, which may hold anything: field 22 of proc_pid_stat(5).
    let ticks = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    let ticks = ticks.and_then(|t| t.parse().ok()).ok_or_else(|| unreadable(&path))?;
    let path = "/proc/self/ns/pid";
    let namespace = fs::metadata(path).map_err(|e| unread(path, &e))?.ino();
    Ok(Process::Started { namespace, pid, ticks })
}

fn boot() -> Result<u128> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = read(path)?.trim().replace('-', "");
    u128::from_str_radix(&text, 16).map_err(|_| unreadable(path))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| unread(path, &e))
}

const ASK: &str = "ask for the identity";

fn unread(path: &str, error: &std::io::Error) -> Error {
    failed(ASK, Errno::from_io_error(error).unwrap_or(Errno::IO))
        .because(format!("{path} cannot be read"))
}

fn unreadable(path: &str) -> Error {
    Error::new(ErrorKind::Mismatch, ASK)
        .on(Mechanism::Pidfd)
        .because(format!("{path} does not have the usual form"))
}

impl fmt::Display for Identity {
    /// One word of printable ASCII, without spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Process::Inode(inode) => write!(f, "{:032x}-inode-{inode}", self.boot),
            Process::Started { namespace, pid, ticks } => {
                write!(f, "{:032x}-start-{namespace}-{pid}-{ticks}", self.boot)
            }
        }
    }
}

impl FromStr for Identity {
    type Err = Error;

    /// What [`Display`](fmt::Display) wrote.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for anything else.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).filter(|identity| identity.to_string() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "read an identity")
                .on(Mechanism::Pidfd)
                .object(format!("{text:?}"))
                .because("it is not what an identity is written as")
        })
    }
}

fn parse(text: &str) -> Option<Identity> {
    let mut parts = text.split('-');
    let boot = u128::from_str_radix(parts.next()?, 16).ok()?;
    let process = match parts.next()? {
        "inode" => Process::Inode(parts.next()?.parse().ok()?),
        "start" => Process::Started {
            namespace: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            ticks: parts.next()?.parse().ok()?,
        },
        _ => return None,
    };
    Some(Identity { boot, process })
}

#[cfg(test)]
mod tests {
    use super::{Identity, Process};

    #[test]
    fn an_identity_is_read_as_it_is_written_and_nothing_else_is() {
        let processes =
            [Process::Inode(u64::MAX), Process::Started { namespace: 4, pid: 1, ticks: 0 }];
        for process in processes {
            for boot in [0, 1, u128::MAX] {
                let identity = Identity { boot, process };
                let text = identity.to_string();
                assert_eq!(text.parse::<Identity>().unwrap(), identity);
                for end in 0..text.len() {
                    // Without its last digits it is another one, or none.
                    assert_ne!(text[..end].parse::<Identity>().ok(), Some(identity));
                }
                for wrong in [format!(" {text}"), format!("{text}-1"), text.replace("-", "-+")] {
                    assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
                }
            }
        }
    }
}
