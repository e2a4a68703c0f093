//! System V message queues.

#![allow(unsafe_code, reason = "the comparison with ftok(3) needs libc")]

use std::time::{Duration, SystemTime};

use sinew::sysv_mq::{Key, Options, Owned, Queue, Received};
use sinew::wait::{Receives, Sends};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, scratch, skip, tests};

use crate::posix_mq::{alone, without};

pub(crate) mod messages;
pub(crate) mod peers;

pub(crate) const TESTS: &[Test] = tests![
    ftok_is_what_the_c_library_computes,
    a_private_queue_is_found_by_its_id_only,
    create_wants_a_new_key_and_open_an_old_one,
    open_or_create_keeps_what_exists,
    racing_creators_agree_on_one_queue,
    a_queue_that_others_remove_can_be_opened_or_created,
    a_queue_outlives_its_handle_and_its_creator,
    a_guard_removes_and_can_be_told_not_to,
    the_status_is_typed,
    owner_mode_and_capacity_can_be_set,
    a_capacity_above_the_limit_names_it,
    too_many_queues_name_the_limit,
    a_kernel_without_queues_says_so,
    a_removed_queue_is_closed,
];
pub(crate) const ROLES: &[Role] = roles![creator, racer, remover];

/// A queue that is removed at the end.
fn queue() -> Owned {
    Options::new().create(Key::PRIVATE).unwrap().remove_on_drop()
}

fn small(capacity: usize) -> Owned {
    Options::new().capacity(capacity).create(Key::PRIVATE).unwrap().remove_on_drop()
}

/// A key that is this test process's own.
fn key(n: u8) -> Key {
    Key::new(i32::from(n) << 24 | (std::process::id() & 0x00ff_ffff).cast_signed())
}

fn setting(file: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap();
    text.trim().parse().unwrap()
}

/// A length of time in which nothing happens that a correct program would notice.
const SHORT: Duration = Duration::from_millis(30);

const LONG: Duration = Duration::from_secs(60);

fn ftok_is_what_the_c_library_computes() -> Result<(), Skip> {
    let file = scratch().join("ftok");
    std::fs::write(&file, "").unwrap();
    let own = file.to_str().unwrap();
    for path in ["/", "/proc/self/exe", "/dev/null", "/tmp", own] {
        for project in [0_u8, 1, b'q', 127, 128, 255] {
            let name = std::ffi::CString::new(path).unwrap();
            // SAFETY: `name` has a NUL at its end and is borrowed for the call.
            let expected = unsafe { libc::ftok(name.as_ptr(), i32::from(project)) };
            assert_eq!(Key::ftok(path, project).unwrap().get(), expected, "{path} {project}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let error = Key::ftok(&file, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("ftok\""), "{error}");
    Ok(())
}

fn a_private_queue_is_found_by_its_id_only() -> Result<(), Skip> {
    let (a, b) = (queue(), queue());
    assert_ne!(a.id(), b.id());
    a.send(b"x").unwrap();
    assert_eq!(Queue::from_id(a.id()).try_recv(&mut [0; 8]).unwrap().len, 1);
    for error in [
        Options::new().open(Key::PRIVATE).unwrap_err(),
        Options::new().open(Key::new(0)).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    Ok(())
}

fn create_wants_a_new_key_and_open_an_old_one() -> Result<(), Skip> {
    let missing = Options::new().open(key(1)).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().starts_with("sysv-mq key 0x01"), "{missing}");
    let queue = Options::new().create(key(1)).unwrap().remove_on_drop();
    let again = Options::new().create(key(1)).unwrap_err();
    assert_eq!(
        (again.kind(), again.raw_os_error()),
        (ErrorKind::AlreadyExists, Some(libc::EEXIST))
    );
    assert_eq!(Options::new().open(key(1)).unwrap().id(), queue.id());
    drop(queue);
    assert_eq!(Options::new().open(key(1)).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn open_or_create_keeps_what_exists() -> Result<(), Skip> {
    let options = Options::new().capacity(1000);
    let first = options.open_or_create(key(2)).unwrap().remove_on_drop();
    assert_eq!(first.status().unwrap().capacity, 1000);
    let second = Options::new().capacity(2000).mode(0o666).open_or_create(key(2)).unwrap();
    assert_eq!(second.id(), first.id());
    let status = second.status().unwrap();
    assert_eq!((status.capacity, status.mode), (1000, 0o600));
    Ok(())
}

fn racing_creators_agree_on_one_queue() -> Result<(), Skip> {
    let peers: Vec<_> = (0..4).map(|_| Peer::spawn("sysv_mq::racer")).collect();
    for round in 1..=20 {
        for peer in &peers {
            peer.say(key(round).get());
        }
        let ids: Vec<String> = peers.iter().map(|p| p.hear()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        Queue::from_id(ids[0].parse().unwrap()).remove().unwrap();
    }
    for peer in peers {
        peer.say("0");
        peer.join();
    }
    Ok(())
}

fn racer(link: &Link) {
    loop {
        let key = Key::new(link.hear().parse().unwrap());
        if key == Key::PRIVATE {
            return;
        }
        link.say(Options::new().capacity(512).open_or_create(key).unwrap().id());
    }
}

fn a_queue_that_others_remove_can_be_opened_or_created() -> Result<(), Skip> {
    let peers: Vec<_> = (0..3).map(|_| Peer::spawn("sysv_mq::remover")).collect();
    for peer in &peers {
        peer.say(key(30).get());
    }
    for peer in &peers {
        peer.expect("done");
    }
    // What one of them made after the others had their last turn.
    if let Ok(queue) = Options::new().open(key(30)) {
        queue.remove().unwrap();
    }
    Ok(())
}

fn remover(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    for _ in 0..3000 {
        let queue = Options::new().capacity(512).open_or_create(key).unwrap();
        if let Err(error) = queue.remove() {
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
    }
    link.say("done");
}

fn a_queue_outlives_its_handle_and_its_creator() -> Result<(), Skip> {
    let peer = Peer::spawn("sysv_mq::creator");
    peer.say(key(3).get());
    let id: i32 = peer.hear().parse().unwrap();
    peer.kill();
    let queue = Options::new().open(key(3)).unwrap().remove_on_drop();
    assert_eq!(queue.id(), id);
    assert_eq!(queue.try_recv(&mut [0; 64]), Ok(Received { len: 12, mtype: 1 }));
    Ok(())
}

fn creator(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    let id = {
        let queue = Options::new().create(key).unwrap();
        queue.send(b"left behind.").unwrap();
        queue.id()
    };
    link.say(id);
    let _ = link.hear();
}

fn a_guard_removes_and_can_be_told_not_to() -> Result<(), Skip> {
    let before = census::objects();
    let kept = queue().keep();
    assert_eq!(census::objects().len(), before.len() + 1);
    drop(kept.clone().remove_on_drop());
    assert_eq!(census::objects(), before);
    assert_eq!(kept.remove().unwrap_err().kind(), ErrorKind::Closed);
    Ok(())
}

fn the_status_is_typed() -> Result<(), Skip> {
    let begin = SystemTime::now() - Duration::from_secs(2);
    let queue = Options::new().mode(0o640).create(key(4)).unwrap().remove_on_drop();
    let status = queue.status().unwrap();
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!(status.key, key(4));
    assert_eq!((status.owner, status.creator), (own, own));
    assert_eq!(status.mode, 0o640);
    assert_eq!((status.messages, status.bytes), (0, 0));
    assert_eq!(status.capacity, setting("msgmnb"));
    assert_eq!((status.last_send, status.last_recv), (None, None));
    assert_eq!((status.last_sender, status.last_receiver), (None, None));
    assert!(status.changed.unwrap() >= begin);

    queue.send(b"12345").unwrap();
    queue.send(b"678").unwrap();
    let peer = Peer::spawn("sysv_mq::peers::receiver");
    peer.say(queue.id());
    peer.expect("1 5 12345");
    let status = queue.status().unwrap();
    assert_eq!(status.last_sender, Some(std::process::id()));
    assert_eq!(status.last_receiver, Some(peer.pid().as_raw_nonzero().get().cast_unsigned()));
    assert!(status.last_send.unwrap() >= begin && status.last_recv.unwrap() >= begin);
    peer.expect("1 3 678");
    assert_eq!(queue.status().unwrap().messages, 0);
    Ok(())
}

fn owner_mode_and_capacity_can_be_set() -> Result<(), Skip> {
    let queue = queue();
    queue.set_capacity(100).unwrap();
    queue.set_mode(0o1604).unwrap();
    let status = queue.status().unwrap();
    assert_eq!((status.capacity, status.mode), (100, 0o604));
    queue.set_owner(status.owner.0, status.owner.1).unwrap();
    assert_eq!(queue.status().unwrap(), status);
    // What is in it stays.
    queue.send(&[0; 90]).unwrap();
    queue.set_capacity(10).unwrap();
    assert_eq!(queue.status().unwrap().bytes, 90);
    assert_eq!(queue.try_recv(&mut [0; 90]).unwrap().len, 90);
    Ok(())
}

fn a_capacity_above_the_limit_names_it() -> Result<(), Skip> {
    alone()?;
    let max = setting("msgmnb");
    let before = census::objects();
    let error = Options::new().capacity(max + 1).create(Key::PRIVATE).unwrap_err();
    // Nothing half made stays.
    assert_eq!(census::objects(), before);
    let queue = queue();
    for error in [error, queue.set_capacity(max + 1).unwrap_err()] {
        // CAP_SYS_RESOURCE of the namespace may be asked for, or of the host.
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        let text = error.to_string();
        assert!(text.contains(&format!("kernel.msgmnb ({max} bytes)")), "{text}");
        assert!(text.contains(&(max + 1).to_string()), "{text}");
    }
    queue.set_capacity(max).unwrap();
    Ok(())
}

fn too_many_queues_name_the_limit() -> Result<(), Skip> {
    alone()?;
    if let Err(e) = std::fs::write("/proc/sys/kernel/msgmni", "2") {
        return skip(format!("the limit cannot be lowered: {e}"));
    }
    let _two = (queue(), queue());
    let error = Options::new().create(Key::PRIVATE).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::LimitReached, Some(libc::ENOSPC)));
    assert!(error.to_string().contains("kernel.msgmni (2)"), "{error}");
    Ok(())
}

fn a_kernel_without_queues_says_so() -> Result<(), Skip> {
    without(libc::SYS_msgget);
    let all = [
        Options::new().create(Key::PRIVATE).unwrap_err(),
        Options::new().open(key(9)).unwrap_err(),
        Options::new().open_or_create(key(9)).unwrap_err(),
    ];
    for error in all {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("CONFIG_SYSVIPC"), "{error}");
    }
    Ok(())
}

fn a_removed_queue_is_closed() -> Result<(), Skip> {
    let queue = queue().keep();
    let other = queue.clone();
    queue.send(b"lost").unwrap();
    queue.remove().unwrap();
    let mut buf = [0; 8];
    for queue in [&queue, &other, &Queue::from_id(queue.id()), &Queue::from_id(-1)] {
        assert_eq!(queue.send(b"x"), Err(SendError::Closed));
        assert_eq!(queue.try_send(b"x"), Err(SendError::Closed));
        assert_eq!(queue.send_timeout(b"x", LONG), Err(SendError::Closed));
        assert_eq!(queue.recv(&mut buf), Err(RecvError::Closed));
        assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Closed));
        assert_eq!(queue.recv_timeout(&mut buf, LONG), Err(RecvError::Closed));
        assert_eq!(queue.status().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(queue.set_capacity(1).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(queue.remove().unwrap_err().kind(), ErrorKind::Closed);
    }
    Ok(())
}
