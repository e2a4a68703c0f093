//! What a queue is, holds and allows: msgctl(2).

#![allow(unsafe_code, reason = "neither std nor rustix has System V queues; libc does")]

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rustix::io::Errno;

use super::{Key, Queue};
use crate::error::{ErrorKind, Result};
use crate::limits::Limit;
use crate::sysv::{self, Permissions, last_errno, process};

/// What a queue is and holds, and who used it (IPC_STAT).
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
    /// How many messages are in it.
    pub messages: usize,
    /// How many bytes these have.
    pub bytes: usize,
    /// How many bytes it can hold.
    pub capacity: usize,
    /// When something was last sent, to the second.
    pub last_send: Option<SystemTime>,
    /// When something was last received, to the second.
    pub last_recv: Option<SystemTime>,
    /// When it was created, or its owner, mode or capacity last set, to the second.
    pub changed: Option<SystemTime>,
    /// The process that last sent; it may be gone.
    pub last_sender: Option<u32>,
    /// The process that last received; it may be gone.
    pub last_receiver: Option<u32>,
}

impl Queue {
    /// What it is and holds. Takes the permission to receive.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if it was removed;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied).
    pub fn status(&self) -> Result<Status> {
        let raw = self.stat().map_err(|errno| self.error("look at", errno))?;
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let perm = Permissions::from(&raw.msg_perm);
        Ok(Status {
            key: perm.key,
            owner: perm.owner,
            creator: perm.creator,
            mode: perm.mode & 0o777,
            messages: size(raw.msg_qnum),
            bytes: size(raw.__msg_cbytes),
            capacity: size(raw.msg_qbytes),
            last_send: sysv::time(raw.msg_stime),
            last_recv: sysv::time(raw.msg_rtime),
            changed: sysv::time(raw.msg_ctime),
            last_sender: process(raw.msg_lspid),
            last_receiver: process(raw.msg_lrpid),
        })
    }

    /// Sets how many bytes it can hold. Takes ownership, and CAP_SYS_RESOURCE for more than
    /// `/proc/sys/kernel/msgmnb`. What is in it stays, even if that is more.
    ///
    /// # Errors
    /// [`LimitReached`](ErrorKind::LimitReached) above that limit; see [`remove`](Self::remove).
    pub fn set_capacity(&self, bytes: usize) -> Result<()> {
        const OPERATION: &str = "set the capacity";
        self.fits.store(0, Ordering::Relaxed);
        self.set(OPERATION, |raw| raw.msg_qbytes = bytes as libc::msglen_t).map_err(|error| {
            let limit = Limit::MsgMnb;
            let over = limit.value().is_some_and(|max| bytes as u64 > max);
            if error.raw_os_error() == Some(libc::EPERM) && over {
                error
                    .of_kind(ErrorKind::LimitReached)
                    .because(format!("{bytes} bytes are more than {} allows", limit.stated()))
                    .fix(format!("ask for less, or {}", limit.raise()))
            } else {
                error
            }
        })
    }

    /// Sets its permission bits.
    ///
    /// # Errors
    /// See [`remove`](Self::remove).
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        self.set("set the mode", |raw| raw.msg_perm.mode = (mode & 0o777) as _)
    }

    /// Gives it to another user and group.
    ///
    /// # Errors
    /// See [`remove`](Self::remove).
    pub fn set_owner(&self, user: u32, group: u32) -> Result<()> {
        self.set("set the owner", |raw| {
            raw.msg_perm.uid = user;
            raw.msg_perm.gid = group;
        })
    }

    pub(super) fn stat(&self) -> std::result::Result<libc::msqid_ds, Errno> {
        // SAFETY: msqid_ds is made of numbers, for which zero is a value.
        let mut raw: libc::msqid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills `raw`, which is borrowed for the call.
        match unsafe { libc::msgctl(self.id, libc::IPC_STAT, &raw mut raw) } {
            0 => Ok(raw),
            _ => Err(last_errno()),
        }
    }

    fn set(&self, operation: &'static str, change: impl FnOnce(&mut libc::msqid_ds)) -> Result<()> {
        let mut raw = self.stat().map_err(|errno| self.error(operation, errno))?;
        change(&mut raw);
        // SAFETY: the kernel reads `raw`, which is whole and borrowed for the call.
        match unsafe { libc::msgctl(self.id, libc::IPC_SET, &raw mut raw) } {
            0 => Ok(()),
            _ => Err(self.error(operation, last_errno())),
        }
    }
}
