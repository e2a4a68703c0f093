//! Why the kernel refuses a map, in words: its error numbers name no limit.

use std::fs;
use std::io::Read;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::{Error, ErrorKind};
use crate::limits::Limit;
use crate::mechanism::Mechanism;

/// The error of a failed mmap(2) or shmat(2) of `bytes`.
#[cold]
pub(in crate::share) fn map_error(errno: Errno, mechanism: Mechanism, bytes: usize) -> Error {
    let error = Error::os("map", errno).on(mechanism).object(format!("{bytes} bytes"));
    match errno {
        Errno::NOMEM => no_memory(error, bytes),
        Errno::AGAIN => memlock(error, bytes),
        Errno::ACCESS => error
            .because("the object is open for reading only, or its mode forbids it")
            .fix("map it read-only, or open it for reading and writing"),
        Errno::PERM => error
            .because("a seal (F_SEAL_WRITE or F_SEAL_FUTURE_WRITE) forbids new writable maps")
            .fix("map it read-only"),
        Errno::NODEV => error
            .of_kind(ErrorKind::Unsupported)
            .because("what the descriptor is open on cannot be mapped"),
        _ => error,
    }
}

/// ENOMEM has four causes, three of them limits.
fn no_memory(error: Error, bytes: usize) -> Error {
    let maps = count_maps();
    if let Some(most) = Limit::MaxMapCount.value()
        && maps + 1 >= most
    {
        return error
            .of_kind(ErrorKind::LimitReached)
            .because(format!("the process has {maps} maps, of {}", Limit::MaxMapCount.stated()))
            .fix(Limit::MaxMapCount.raise());
    }
    if let Some(most) = getrlimit(Resource::As).current {
        let used = status_bytes("VmSize:").unwrap_or(0);
        if used.saturating_add(bytes as u64) > most {
            return error
                .of_kind(ErrorKind::LimitReached)
                .because(format!(
                    "the process has {used} bytes mapped, of RLIMIT_AS ({most} bytes)"
                ))
                .fix("raise it (`ulimit -v`)");
        }
    }
    error.because(
        "the address space, or the memory that may be promised (vm.overcommit_memory), is used up",
    )
}

/// How many maps the process has. Counted in a buffer on the stack: when they are too many, memory
/// for a table of them may not be had.
fn count_maps() -> u64 {
    let Ok(mut file) = fs::File::open("/proc/self/maps") else { return 0 };
    let mut buffer = [0; 4096];
    let mut maps = 0;
    while let Ok(count @ 1..) = file.read(&mut buffer) {
        maps += buffer[..count].iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
    }
    maps
}

/// The error of a failed mlock(2).
#[cold]
pub(super) fn lock_error(errno: Errno, mechanism: Mechanism, bytes: usize) -> Error {
    let error = Error::os("lock", errno).on(mechanism).object(format!("{bytes} bytes"));
    match errno {
        Errno::NOMEM | Errno::AGAIN | Errno::PERM => memlock(error, bytes),
        _ => error,
    }
}

fn memlock(error: Error, bytes: usize) -> Error {
    let locked = status_bytes("VmLck:").unwrap_or(0);
    error
        .of_kind(ErrorKind::LimitReached)
        .because(format!(
            "{bytes} bytes beside the {locked} that are locked already exceed {}",
            Limit::Memlock.stated()
        ))
        .fix(Limit::Memlock.raise())
}

/// A line of /proc/self/status that has kilobytes.
fn status_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb * 1024)
}
