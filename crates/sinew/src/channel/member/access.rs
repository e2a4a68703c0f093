//! Who may take part: processes of the same user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::slot::{Info, NAME};
use crate::unix::{PeerCredentials, Seqpacket, Socket};

/// Whether the process at the other end is of this process's user, by the kernel's word.
pub(super) fn is_same_user(socket: &Seqpacket) -> bool {
    let me = rustix::process::geteuid().as_raw();
    socket.peer_credentials().is_ok_and(|peer| is_same(&peer, me, sees_all_users))
}

fn is_same(peer: &PeerCredentials, me: u32, sees_all: impl Fn() -> bool) -> bool {
    // The overflow id stands for every user that has no number here; where every user has one, it stands
    // for the one with this number only.
    peer.uid() == me && (!peer.is_overflow() || sees_all())
}

/// Whether this process's user namespace has a number for every user of the host.
fn sees_all_users() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_all(&map))
}

fn maps_all(map: &str) -> bool {
    let mut lines = map.lines().map(str::split_whitespace);
    let all = ["0", "0", "4294967295"];
    lines.next().is_some_and(|line| line.eq(all)) && lines.next().is_none()
}

/// What this process says about itself, for people. What /proc does not tell is zero.
pub(super) fn info() -> Info {
    Info {
        pid: std::process::id(),
        uid: rustix::process::geteuid().as_raw(),
        namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |file| file.ino()),
        started: started(Path::new("/proc/self")).unwrap_or(0),
        name: [0; NAME],
    }
}

/// When a process started, in clock ticks since the host did, by its folder in /proc.
pub(crate) fn started(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // Field 22 of proc_pid_stat(5), counted after the name, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{info, is_same, maps_all};
    use crate::unix::{Seqpacket, Socket};

    #[test]
    fn a_namespace_of_all_users_is_known() {
        assert!(maps_all("         0          0 4294967295\n"));
        for map in
            ["", "0 0 1\n", "0 1000 4294967295\n", "0 0 4294967295\n1 1 1\n", "0 0 4294967294"]
        {
            assert!(!maps_all(map), "{map:?}");
        }
    }

    #[test]
    fn the_overflow_id_matches_only_where_it_is_somebody() {
        let (a, _b) = Seqpacket::pair().unwrap();
        let peer = a.peer_credentials().unwrap();
        let overflows = peer.is_overflow();
        assert!(is_same(&peer, peer.uid(), || true));
        assert_eq!(is_same(&peer, peer.uid(), || false), !overflows);
        assert!(!is_same(&peer, peer.uid() ^ 1, || true));
    }

    #[test]
    fn this_process_knows_who_it_is() {
        let info = info();
        assert_eq!(info.pid, std::process::id());
        assert!(info.namespace != 0 && info.started != 0);
    }
}
