//! The folder of a run, and what remains of runs that were killed.
//!
//! Whatever gets a name is written into the folder's list *before* it is made. The supervisor holds
//! a lock on the folder as long as it lives; a run that finds a folder whose lock is free removes
//! what its list names, and the folder. No process number is trusted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sinew::{Error, ErrorKind, Result, posix_mq, posix_shm, sysv_mq, sysv_sem, sysv_shm};

const PREFIX: &str = "sinew-bench-";
const LIST: &str = "objects";
const LOCK: &str = "lock";

/// The folder of this run; removed with all that it names when dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    id: String,
    list: File,
    _lock: File,
    rows: u32,
}

/// The names that one row may use.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) prefix: String,
    pub(crate) keys: [i32; 2],
}

impl RunDir {
    /// Removes what dead runs left, and makes a folder for this one.
    pub(crate) fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let trouble = |e: std::io::Error| {
            let kind = match e.kind() {
                std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
                _ => ErrorKind::PermissionDenied,
            };
            Error::new(kind, "make a folder for the run")
                .object(format!("{parent:?}"))
                .because(e.to_string())
                .fix("set TMPDIR to a folder that can be written")
        };
        loop {
            let id = format!("{:012x}", random() & 0xFFFF_FFFF_FFFF);
            let path = parent.join(format!("{PREFIX}{id}"));
            DirBuilder::new().mode(0o700).create(&path).map_err(trouble)?;
            let open = |name: &str| {
                OpenOptions::new().append(true).create(true).mode(0o600).open(path.join(name))
            };
            let made = open(LOCK).and_then(|lock| {
                flock(&lock, FlockOperation::LockExclusive)?;
                // Another run may have swept the folder away before it was locked.
                let swept = lock.metadata()?.nlink() == 0;
                Ok(if swept { None } else { Some((lock, open(LIST)?)) })
            });
            match made {
                Ok(Some((lock, list))) => return Ok(Self { path, id, list, _lock: lock, rows: 0 }),
                Ok(None) => {}
                // Swept away even before there was a lock to take.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    let _ = fs::remove_dir_all(&path);
                    return Err(trouble(e));
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names for one more row, on record before anybody uses them.
    pub(crate) fn names(&mut self) -> Result<Names> {
        self.rows += 1;
        let keys = [random_key(), random_key()];
        let prefix = format!("{PREFIX}{}-{}", self.id, self.rows);
        writeln!(self.list, "{prefix} {} {}", keys[0], keys[1]).map_err(|e| {
            Error::new(ErrorKind::NoSpace, "write the list of objects").because(e.to_string())
        })?;
        Ok(Names { prefix, keys })
    }
}

impl Names {
    /// Removes whatever exists under these names.
    pub(crate) fn remove(&self) {
        for way in ["there", "back"] {
            let name = format!("/{}-{way}", self.prefix);
            let _ = posix_mq::unlink(&name);
            let _ = posix_shm::unlink(&name);
        }
        for key in self.keys {
            let key = sysv_mq::Key::new(key);
            if let Ok(queue) = sysv_mq::Options::new().open(key) {
                let _ = queue.remove();
            }
            // Also one whose creator was killed before it was complete.
            if let Ok(set) = sysv_sem::Options::new().as_is().open(key) {
                let _ = set.remove();
            }
            if let Ok(segment) = sysv_shm::Options::new().open(key) {
                let _ = segment.remove();
            }
        }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a folder and what its list names.
fn remove(path: &Path) {
    for line in fs::read_to_string(path.join(LIST)).unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let (Some(prefix), Some(Ok(one)), Some(Ok(two))) =
            (words.next(), words.next().map(str::parse), words.next().map(str::parse))
        else {
            continue;
        };
        // The list is in a folder that only this user can write, and still nothing but our own
        // names is believed.
        if prefix.starts_with(PREFIX) {
            Names { prefix: prefix.to_owned(), keys: [one, two] }.remove();
        }
    }
    // By their names first: to list a folder takes a descriptor, and there may be none left.
    for name in [LIST, LOCK] {
        let _ = fs::remove_file(path.join(name));
    }
    if fs::remove_dir(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

/// Removes what dead runs of this user left.
fn sweep(parent: &Path) {
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // lstat: never through a link that somebody put there.
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_dir() || meta.uid() != me {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else {
            // Killed before it made a lock. Fails if there is anything in it.
            let _ = fs::remove_dir(entry.path());
            continue;
        };
        // Refused while the run that made it lives.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&entry.path());
        }
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => crate::cpu::now_ns() ^ u64::from(std::process::id()) << 32,
    }
}

/// A key that is not IPC_PRIVATE.
fn random_key() -> i32 {
    let key = (random() & 0x7FFF_FFFF) as i32;
    key.max(1)
}
