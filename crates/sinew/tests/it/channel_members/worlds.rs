//! Members of two pid namespaces with equal numbers, channels of two users with equal names, and folders without room.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sinew::wait::{Receives, Sends};
use sinew::{ErrorKind, RecvError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, tests};

use super::{LONG, SENDERS, has_room_for, options, receive, sender, sends};

pub(crate) const TESTS: &[Test] = tests![
    containers_with_equal_pids_share_a_folder,
    equal_names_of_two_users_are_two_channels,
    a_folder_without_room_is_named,
];
pub(crate) const ROLES: &[Role] = roles![container, inside, user];

const NOBODY: u32 = 65534;

/// Has one process in a pid namespace of its own, to which it passes words on and back.
fn container(link: &Link) {
    // SAFETY: one thread; of this process only the mounts are affected, and no descriptor.
    if unsafe { unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) }.is_err() {
        return link.say("no namespace");
    }
    let inside = Peer::spawn("channel_members::worlds::inside");
    link.say(inside.hear());
    while let Some((words, _)) = link.try_receive() {
        if words == b"kill" {
            inside.kill();
            return link.say("killed");
        }
        inside.send(&words, &[]);
        link.say(inside.hear());
    }
}

/// The first process of its namespace, with a /proc of that.
fn inside(link: &Link) {
    assert_eq!(std::process::id(), 1);
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let mounted = mount_change("/", flags)
        .and_then(|()| mount("proc", "/proc", "proc", MountFlags::empty(), None));
    if mounted.is_err() {
        return link.say("no namespace");
    }
    link.say("ready");
    super::member(link);
}

fn containers_with_equal_pids_share_a_folder() -> Result<(), Skip> {
    let containers = ["create", "open"].map(|how| {
        let container = Peer::spawn("channel_members::worlds::container");
        let words = container.hear();
        if words == "ready" {
            container.say(how);
            container.expect("here");
        }
        (container, words)
    });
    if containers.iter().any(|(_, words)| words == "no namespace") {
        return skip("no pid namespaces of one's own here");
    }
    let [holder, other] = containers.map(|(container, _)| container);
    let receiver = receive();
    sends(&holder, &receiver);
    sends(&other, &receiver);
    // Both have the number 1: one of them dies.
    holder.say("kill");
    holder.expect("killed");
    assert_eq!(receiver.recv_timeout(&mut [0; 16], LONG), Err(RecvError::PeerDied));
    sends(&other, &receiver);
    assert_eq!(receiver.try_recv(&mut [0; 16]), Err(RecvError::Empty));
    has_room_for(SENDERS as usize - 1);
    other.say("leave");
    other.expect("gone");
    other.say("kill");
    other.expect("killed");
    holder.join();
    other.join();
    Ok(())
}

/// A sender whose names are those of this user.
fn user(link: &Link) {
    let foreign = link.hear();
    let own = options().sender().create("same").unwrap();
    link.say("here");
    own.send_timeout(link.hear().as_bytes(), LONG).unwrap();
    let error = options().sender().folder(foreign).open("same").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let receiver = options().receiver().open("same").unwrap();
    let mut buf = [0; 16];
    let len = receiver.recv_timeout(&mut buf, LONG).unwrap();
    link.say(std::str::from_utf8(&buf[..len]).unwrap());
}

fn equal_names_of_two_users_are_two_channels() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can be two users");
    }
    // Whoever may not enter the folder can still go through those above it.
    fs::set_permissions(scratch(), Permissions::from_mode(0o711)).unwrap();
    let peers = [0, NOBODY].map(|id| {
        let folder = scratch().join(id.to_string());
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&folder, Some(id), Some(id)).unwrap();
        let peer = Peer::spawn_with("channel_members::worlds::user", |command| {
            command.env("XDG_RUNTIME_DIR", &folder).uid(id).gid(id);
        });
        (peer, folder)
    });
    for (at, (peer, _)) in peers.iter().enumerate() {
        let (_, foreign) = &peers[1 - at];
        // To root no folder is closed, but that one is of somebody whom it need not trust.
        peer.say(foreign.join("sinew").display());
        peer.expect("here");
    }
    for (at, (peer, _)) in peers.iter().enumerate() {
        peer.say(["of root", "of nobody"][at]);
    }
    for (at, (peer, _)) in peers.iter().enumerate() {
        peer.expect(["of root", "of nobody"][at]);
    }
    for (peer, folder) in peers {
        peer.join();
        fs::remove_dir_all(folder).unwrap();
    }
    Ok(())
}

fn a_folder_without_room_is_named() -> Result<(), Skip> {
    // SAFETY: one thread; only the mounts are affected.
    if unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.is_err() {
        return skip("needs a mount namespace");
    }
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let folder = scratch().join("small");
    fs::create_dir(&folder).unwrap();
    let limits = c"nr_inodes=3,mode=700";
    let mounted = mount_change("/", flags)
        .and_then(|()| mount("small", &folder, "tmpfs", MountFlags::empty(), Some(limits)));
    if mounted.is_err() {
        return skip("needs a mount namespace");
    }
    let sender = sender().folder(&folder);
    let first = sender.create("first").unwrap();
    let second = sender.create("second").unwrap();
    let error = sender.create("third").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("third"), "{error}");
    assert_eq!(names(&folder), ["first", "second"]);
    drop(first);
    // What others left is room.
    let third = sender.open("second").unwrap();
    drop((second, third, sender.create("third").unwrap()));
    assert!(names(&folder).is_empty());
    unmount(&folder, rustix::mount::UnmountFlags::empty()).unwrap();
    fs::remove_dir(&folder).unwrap();
    Ok(())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
