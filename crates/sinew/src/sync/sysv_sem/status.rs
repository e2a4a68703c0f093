//! What a set is, and all its values: semctl(2).

#![allow(unsafe_code, reason = "neither std nor rustix has System V semaphores; libc does")]

use std::time::SystemTime;

use rustix::io::Errno;

use super::{Key, Limit, MAX, MECHANISM, Set, last_errno};
use crate::error::{Error, ErrorKind, Result};
use crate::sysv::{self, Permissions};

/// What a set is (IPC_STAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub key: Key,
    /// The user and the group that own it.
    pub owner: (u32, u32),
    /// The user and the group that created it.
    pub creator: (u32, u32),
    /// Its permission bits.
    pub mode: u32,
    /// How many semaphores it has.
    pub semaphores: usize,
    /// When an operation was last done, to the second; what sets values is none. None also means that
    /// it may not be complete: see the [module](super).
    pub last_change: Option<SystemTime>,
    /// When it was created, or its owner, mode or values last set, to the second.
    pub changed: Option<SystemTime>,
}

impl Set {
    /// What it is. Takes the permission to read.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if it was removed;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied).
    pub fn status(&self) -> Result<Status> {
        let raw = self.stat().map_err(|errno| self.error("look at", errno))?;
        let perm = Permissions::from(&raw.sem_perm);
        Ok(Status {
            key: perm.key,
            owner: perm.owner,
            creator: perm.creator,
            mode: perm.mode & 0o777,
            semaphores: count(&raw),
            last_change: sysv::time(raw.sem_otime),
            changed: sysv::time(raw.sem_ctime),
        })
    }

    /// All values, of one moment (GETALL). Takes the permission to read.
    ///
    /// # Errors
    /// As those of [`status`](Self::status).
    pub fn values(&self) -> Result<Vec<u16>> {
        let raw = self.stat().map_err(|errno| self.error("look at", errno))?;
        let count = count(&raw);
        let mut values = room(count);
        // SAFETY: the kernel writes as many numbers as the set has: there is room for `count`, and for
        // as many as any set can have that took its id meanwhile.
        match unsafe { libc::semctl(self.id, 0, libc::GETALL, values.as_mut_ptr()) } {
            -1 => Err(self.error("look at", last_errno())),
            _ => {
                values.truncate(count);
                Ok(values)
            }
        }
    }

    /// Sets all values in one step (SETALL), and clears what all processes have to undo in this set.
    /// Who can go on is woken.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) unless there are exactly as many as the set has
    /// semaphores, each at most 32767; as those of [`status`](Self::status).
    pub fn set_values(&self, values: &[u16]) -> Result<()> {
        let wrong = |why: String| {
            let error = Error::new(ErrorKind::InvalidInput, "set").on(MECHANISM);
            Err(error.object(format!("id {}", self.id)).because(why))
        };
        if let Some(value) = values.iter().find(|value| **value > MAX) {
            return wrong(format!("{value} is more than {MAX}"));
        }
        let raw = match self.stat() {
            Ok(raw) => Some(raw),
            // It may change the set but not look at it.
            Err(Errno::ACCESS) => None,
            Err(errno) => return Err(self.error("set", errno)),
        };
        if let Some(raw) = raw
            && count(&raw) != values.len()
        {
            return wrong(format!("it has {} semaphores, not {}", count(&raw), values.len()));
        }
        let mut all = room(values.len());
        all[..values.len()].copy_from_slice(values);
        // SAFETY: the kernel reads as many numbers as the set has, for which see `values`.
        match unsafe { libc::semctl(self.id, 0, libc::SETALL, all.as_ptr()) } {
            -1 => Err(self.error("set", last_errno())),
            _ => Ok(()),
        }
    }

    /// Sets its permission bits.
    ///
    /// # Errors
    /// See [`remove`](Self::remove).
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        self.change("set the mode", |raw| raw.sem_perm.mode = (mode & 0o777) as _)
    }

    /// Gives it to another user and group.
    ///
    /// # Errors
    /// See [`remove`](Self::remove).
    pub fn set_owner(&self, user: u32, group: u32) -> Result<()> {
        self.change("set the owner", |raw| {
            raw.sem_perm.uid = user;
            raw.sem_perm.gid = group;
        })
    }

    pub(super) fn stat(&self) -> Result<libc::semid_ds, Errno> {
        // SAFETY: semid_ds is made of numbers, for which zero is a value.
        let mut raw: libc::semid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills `raw`, which is borrowed for the call.
        match unsafe { libc::semctl(self.id, 0, libc::IPC_STAT, &raw mut raw) } {
            -1 => Err(last_errno()),
            _ => Ok(raw),
        }
    }

    fn change(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut libc::semid_ds),
    ) -> Result<()> {
        let mut raw = self.stat().map_err(|errno| self.error(operation, errno))?;
        change(&mut raw);
        // SAFETY: the kernel reads `raw`, which is whole and borrowed for the call.
        match unsafe { libc::semctl(self.id, 0, libc::IPC_SET, &raw mut raw) } {
            -1 => Err(self.error(operation, last_errno())),
            _ => Ok(()),
        }
    }
}

fn count(raw: &libc::semid_ds) -> usize {
    usize::try_from(raw.sem_nsems).unwrap_or(0)
}

/// Room for the values of any set of this moment: the kernel takes no length, and between a look at the
/// set and the call another could have taken its id.
fn room(count: usize) -> Vec<u16> {
    let most = Limit::SemMsl.value().unwrap_or(1 << 16);
    vec![0; count.max(usize::try_from(most).unwrap_or(0))]
}
