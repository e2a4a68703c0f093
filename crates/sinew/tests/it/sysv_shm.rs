//! System V segments, between two real processes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::sync::atomic::Ordering;

use sinew::sysv_shm::{Key, Options, Segment};
use sinew::{ErrorKind, mapping};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    two_processes_share_a_segment,
    create_open_and_remove_mean_what_they_say,
    no_bytes_are_refused,
    a_removed_segment_is_attached_by_id_while_somebody_has_it,
    a_killed_peer_detaches_and_the_rest_goes_on,
    the_status_is_the_kernels,
    a_read_only_attachment_refuses_writes,
    a_file_and_a_project_make_a_key,
    a_segment_beyond_the_limit_names_it,
    too_many_segments_name_the_limit,
    too_many_pages_name_the_limit,
    another_user_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![adder, holder, stranger];

fn private(len: u64) -> sinew::sysv_shm::Owned {
    Options::new().create(Key::PRIVATE, len).unwrap().remove_on_drop()
}

fn key(number: i32) -> Key {
    let own = i32::try_from(std::process::id() & 0xffff).unwrap();
    Key::new(0x5159_0000 + number * 0x1_0000 + own)
}

/// Opens a segment by its key, and doubles its first word.
fn adder(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    let map = Options::new().open(key).unwrap().attach().unwrap();
    let word = map.atomic_u32_at(0).unwrap();
    word.fetch_add(word.load(Ordering::Acquire), Ordering::AcqRel);
    let mut words = [0; 5];
    map.read_at(9_000, &mut words).unwrap();
    link.say(format!("{} {}", map.len(), String::from_utf8_lossy(&words)));
}

fn two_processes_share_a_segment() -> Result<(), Skip> {
    let key = key(0);
    let segment = Options::new().create(key, 10_000).unwrap().remove_on_drop();
    let map = segment.attach().unwrap();
    map.atomic_u32_at(0).unwrap().store(21, Ordering::Release);
    map.write_at(9_000, b"hello").unwrap();
    let peer = Peer::spawn("sysv_shm::adder");
    peer.say(key.get());
    peer.expect("10000 hello");
    peer.join();
    assert_eq!(map.load_u32_at(0), Some(42));
    Ok(())
}

fn create_open_and_remove_mean_what_they_say() -> Result<(), Skip> {
    let (key, options) = (key(1), Options::new());
    assert_eq!(options.open(key).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(options.open(Key::PRIVATE).unwrap_err().kind(), ErrorKind::InvalidInput);
    let segment = options.create(key, 4096).unwrap();
    let error = options.create(key, 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().starts_with("sysv-shm key 0x"), "{error}");
    assert_eq!(options.open(key).unwrap(), segment);
    assert_eq!(options.open_or_create(key, 4096).unwrap(), segment);
    let error = options.open_or_create(key, 4097).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    segment.remove().unwrap();
    for error in [
        segment.remove().unwrap_err(),
        segment.attach().unwrap_err(),
        segment.status().unwrap_err(),
        Segment::from_id(-1).attach().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    let other = options.open_or_create(key, 1).unwrap().remove_on_drop();
    assert_ne!(other.id(), segment.id());
    Ok(())
}

fn no_bytes_are_refused() -> Result<(), Skip> {
    let error = Options::new().create(Key::PRIVATE, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    Ok(())
}

fn a_removed_segment_is_attached_by_id_while_somebody_has_it() -> Result<(), Skip> {
    let segment = Options::new().create(Key::PRIVATE, 4096).unwrap();
    let first = segment.attach().unwrap();
    segment.remove().unwrap();
    let status = segment.status().unwrap();
    assert!(status.removed);
    assert_eq!((status.key, status.attached), (Key::PRIVATE, 1));
    let second = Segment::from_id(segment.id()).attach().unwrap();
    first.write_at(0, b"x").unwrap();
    drop(first);
    let mut one = [0];
    second.read_at(0, &mut one).unwrap();
    assert_eq!(&one, b"x");
    drop(second);
    assert_eq!(segment.attach().unwrap_err().kind(), ErrorKind::Closed);
    Ok(())
}

/// Attaches by id, writes, and waits to be killed.
fn holder(link: &Link) {
    let map = Segment::from_id(link.hear().parse().unwrap()).attach().unwrap();
    map.write_at(0, b"last words").unwrap();
    link.say("attached");
    let _ = link.try_receive();
}

fn a_killed_peer_detaches_and_the_rest_goes_on() -> Result<(), Skip> {
    let segment = private(4096);
    let map = segment.attach().unwrap();
    let peer = Peer::spawn("sysv_shm::holder");
    peer.say(segment.id());
    peer.expect("attached");
    assert_eq!(segment.status().unwrap().attached, 2);
    peer.kill();
    assert_eq!(segment.status().unwrap().attached, 1);
    let mut words = [0; 10];
    map.read_at(0, &mut words).unwrap();
    assert_eq!(&words, b"last words");
    Ok(())
}

fn the_status_is_the_kernels() -> Result<(), Skip> {
    let segment = Options::new().mode(0o640).create(key(2), 5000).unwrap().remove_on_drop();
    let fresh = segment.status().unwrap();
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((fresh.owner, fresh.creator), (user, user));
    assert_eq!((fresh.key, fresh.mode, fresh.size), (key(2), 0o640, 5000));
    assert_eq!((fresh.attached, fresh.last_attach, fresh.removed), (0, None, false));
    assert_eq!(fresh.created_by, Some(std::process::id()));
    let map = segment.attach().unwrap();
    assert_eq!(map.len(), 5000);
    assert_eq!(map.write_at(4999, b"xy").unwrap_err().kind(), ErrorKind::InvalidInput);
    let used = segment.status().unwrap();
    assert!(used.last_attach.is_some());
    assert_eq!((used.attached, used.last_used_by), (1, Some(std::process::id())));
    drop(map);
    assert!(segment.status().unwrap().last_detach.is_some());
    Ok(())
}

fn a_read_only_attachment_refuses_writes() -> Result<(), Skip> {
    let segment = private(4096);
    let map = segment.attach_with(mapping::Options::new().read_only()).unwrap();
    assert_eq!(map.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(map.load_u64_at(0), Some(0));
    let error = segment.attach_with(mapping::Options::new().private()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let locked = segment.attach_with(mapping::Options::new().populate().lock()).unwrap();
    locked.write_at(0, b"x").unwrap();
    Ok(())
}

fn a_file_and_a_project_make_a_key() -> Result<(), Skip> {
    let file = sinew_testkit::scratch().join("key");
    fs::write(&file, b"").unwrap();
    let key = Key::ftok(&file, b's').unwrap();
    let path = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    // SAFETY: a string that ends with NUL and lives for the call.
    assert_eq!(key.get(), unsafe { libc::ftok(path.as_ptr(), i32::from(b's')) });
    fs::remove_file(&file).unwrap();
    Ok(())
}

/// Sets a limit of the IPC namespace of this test.
fn limited(name: &str, value: u64) -> bool {
    sinew_testkit::census::can_be_private()
        && fs::write(format!("/proc/sys/kernel/{name}"), value.to_string()).is_ok()
}

fn a_segment_beyond_the_limit_names_it() -> Result<(), Skip> {
    if !limited("shmmax", 8192) {
        return skip("no IPC namespace of its own");
    }
    let error = Options::new().create(Key::PRIVATE, 8193).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("kernel.shmmax (8192 bytes)"), "{error}");
    private(8192);
    Ok(())
}

fn too_many_segments_name_the_limit() -> Result<(), Skip> {
    if !limited("shmmni", 2) {
        return skip("no IPC namespace of its own");
    }
    let _held = [private(1), private(1)];
    let error = Options::new().create(Key::PRIVATE, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("2 segments exist, of kernel.shmmni (2)"), "{error}");
    Ok(())
}

fn too_many_pages_name_the_limit() -> Result<(), Skip> {
    if !limited("shmall", 4) {
        return skip("no IPC namespace of its own");
    }
    let error = Options::new().create(Key::PRIVATE, 5 * 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("kernel.shmall (4"), "{error}");
    Ok(())
}

/// Another user tries everything.
fn stranger(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    let segment = Options::new().open(key).unwrap();
    for error in [
        segment.attach().unwrap_err(),
        segment.attach_with(mapping::Options::new().read_only()).unwrap_err(),
        segment.status().unwrap_err(),
        segment.remove().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    link.say("refused");
}

fn another_user_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can be two users");
    }
    let _segment = Options::new().create(key(3), 4096).unwrap().remove_on_drop();
    let peer = Peer::spawn_with("sysv_shm::stranger", |c| {
        c.uid(65534).gid(65534);
    });
    peer.say(key(3).get());
    peer.expect("refused");
    peer.join();
    Ok(())
}
