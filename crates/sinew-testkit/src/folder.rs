//! The folder of a running test, and the folders that killed runs have left.
//!
//! A folder is in use while somebody holds the lock of the file `alive` in it, which the kernel
//! releases with the process that has it. No process id and no time says whether it is.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const PREFIX: &str = "sinew-test-";
const ALIVE: &str = "alive";

/// A new folder for temporary files, in use by this process and removed when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked.
    _alive: File,
}

impl Folder {
    /// Makes one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new() -> io::Result<Self> {
        // A sweep may take it for left until it is locked; then the next one is made.
        loop {
            let path = tempfile::Builder::new().prefix(PREFIX).tempdir()?.keep();
            match File::create_new(path.join(ALIVE)) {
                Ok(alive) if locked(&alive) && alive.metadata()?.nlink() > 0 => {
                    return Ok(Self { path, _alive: alive });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now, the next run tries again.
        let _ = clear(&self.path);
    }
}

/// Removes the folders of this user that no live process has in use.
pub fn sweep() {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let ours = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir() && m.uid() == user);
        if !named || !ours {
            continue;
        }
        match File::open(path.join(ALIVE)) {
            Ok(alive) if locked(&alive) => {
                let _ = clear(&path);
            }
            Ok(_) => {}
            // Its maker, or its remover, came no further. One with contents is nothing of ours.
            Err(_) => {
                let _ = fs::remove_dir(&path);
            }
        }
    }
}

fn locked(alive: &File) -> bool {
    flock(alive, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// The file by which it is known goes last: whoever is killed in between leaves it to the next.
fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == ALIVE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(folder.join(ALIVE))?;
    fs::remove_dir(folder)
}
