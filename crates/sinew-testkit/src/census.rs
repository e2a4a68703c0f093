//! What a process has and what the host holds for it, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{WaitOptions, wait};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where the POSIX queues of a private namespace are shown.
const QUEUES: &str = "SINEW_TEST_QUEUES";

/// Whether this process may have IPC and mount namespaces of its own.
#[must_use]
pub fn can_be_private() -> bool {
    rustix::process::geteuid().is_root()
        && std::thread::spawn(|| unshare().is_ok()).join().is_ok_and(|ok| ok)
}

fn unshare() -> rustix::io::Result<()> {
    // SAFETY: these flags change no descriptors and no memory; the caller has no other threads
    // that count on sharing a file system view with it.
    unsafe { unshare_unsafe(UnshareFlags::NEWIPC | UnshareFlags::NEWNS | UnshareFlags::FS) }
}

/// Gives this process, which must have one thread, its own System V objects, POSIX queues (shown
/// at `queues`) and /dev/shm, so that what it counts is its own. Does nothing without the privilege.
pub fn make_private(queues: &Path) {
    if !rustix::process::geteuid().is_root() || unshare().is_err() {
        return;
    }
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    if mount_change("/", flags).is_err() {
        return;
    }
    let _ = mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None);
    if mount("mqueue", queues, "mqueue", MountFlags::empty(), None).is_ok() {
        // SAFETY: one thread, as documented.
        unsafe { std::env::set_var(QUEUES, queues) };
    }
}

/// Descriptors, children and named objects at one moment.
#[derive(Debug)]
pub struct Census {
    descriptors: BTreeSet<String>,
    objects: BTreeSet<String>,
}

impl Census {
    /// Counts now.
    #[must_use]
    pub fn take() -> Self {
        Self { descriptors: descriptors(), objects: objects() }
    }

    /// What is there now and was not there then, children included, in words.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = descriptors()
            .difference(&self.descriptors)
            .map(|d| format!("descriptor {d}"))
            .collect();
        left.extend(objects().difference(&self.objects).cloned());
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    left.push(format!("unreaped child {pid:?} ({status:?})"))
                }
                Ok(None) => {
                    left.push("a running child".to_owned());
                    break;
                }
                Err(_) => break,
            }
        }
        left
    }
}

/// `number -> target` of every descriptor of this process.
#[must_use]
pub fn descriptors() -> BTreeSet<String> {
    let own = std::process::id();
    fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let target = target.to_string_lossy().into_owned();
            // The descriptor by which this very folder is read.
            let reading = target == format!("/proc/{own}/fd");
            (!reading).then(|| format!("{} -> {target}", entry.file_name().to_string_lossy()))
        })
        .collect()
}

/// Named objects: System V queues, segments and sets, /dev/shm, POSIX queues where they are shown.
#[must_use]
pub fn objects() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for kind in ["msg", "shm", "sem"] {
        let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let mut fields = line.split_whitespace();
            if let (Some(key), Some(id)) = (fields.next(), fields.next()) {
                all.insert(format!("sysv {kind} id {id} key {key}"));
            }
        }
    }
    let queues = std::env::var(QUEUES).unwrap_or_else(|_| "/dev/mqueue".to_owned());
    for folder in ["/dev/shm", &queues] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            all.insert(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    all
}
