//! Named segments, between two real processes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sinew::posix_shm::{Options, Segment, unlink};
use sinew::{ErrorKind, mapping};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    two_processes_share_a_segment,
    create_open_and_unlink_mean_what_they_say,
    the_mode_is_exact_whatever_the_umask,
    names_are_a_slash_and_up_to_255_bytes,
    no_bytes_are_refused,
    an_opener_never_finds_a_part_of_a_segment,
    an_opener_never_finds_a_part_without_nameless_files_either,
    of_many_creators_one_wins,
    a_killed_creator_leaves_a_whole_segment_or_none,
    what_is_not_sized_yet_is_refused,
    what_is_no_segment_is_refused,
    a_removed_name_does_not_stop_traffic,
    a_read_only_segment_is_mapped_so,
    a_full_file_system_is_an_error_and_no_signal,
    another_users_segment_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![adder, generator, racer, stranger];

/// A name that no other run uses.
fn name(what: &str) -> String {
    format!("/sinew-test-{}-{what}", std::process::id())
}

fn path(name: &str) -> String {
    format!("/dev/shm{name}")
}

/// Opens a segment by its name, and adds to its first word whenever asked.
fn adder(link: &Link) {
    let map = Options::new().open(link.hear()).unwrap().map().unwrap();
    link.say(map.len());
    while let Some((bytes, _)) = link.try_receive() {
        let number: u32 = String::from_utf8(bytes).unwrap().parse().unwrap();
        let sum = map.atomic_u32_at(0).unwrap().fetch_add(number, Ordering::AcqRel) + number;
        link.say(sum);
    }
}

fn two_processes_share_a_segment() -> Result<(), Skip> {
    let name = name("share");
    let segment = Options::new().create(&name, 10_000).unwrap().unlink_on_drop();
    let map = segment.map().unwrap();
    map.atomic_u32_at(0).unwrap().store(40, Ordering::Release);
    let peer = Peer::spawn("posix_shm::adder");
    peer.say(&name);
    peer.expect("10000");
    peer.say(2);
    peer.expect("42");
    assert_eq!(map.load_u32_at(0), Some(42));
    // A peer that is killed takes nothing with it.
    peer.kill();
    map.write_at(9_990, b"0123456789").unwrap();
    let mut ten = [0; 10];
    Options::new().open(&name).unwrap().map().unwrap().read_at(9_990, &mut ten).unwrap();
    assert_eq!(&ten, b"0123456789");
    Ok(())
}

fn create_open_and_unlink_mean_what_they_say() -> Result<(), Skip> {
    let name = name("verbs");
    let options = Options::new();
    assert_eq!(options.open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(unlink(&name).unwrap_err().kind(), ErrorKind::NotFound);
    let segment = options.create(&name, 4096).unwrap();
    let error = options.create(&name, 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().starts_with(&format!("posix-shm {name:?}")), "{error}");
    assert_eq!(options.open(&name).unwrap().size().unwrap(), 4096);
    assert_eq!(options.open_or_create(&name, 100).unwrap().size().unwrap(), 4096);
    let error = options.open_or_create(&name, 4097).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    unlink(&name).unwrap();
    assert!(segment.is_unlinked().unwrap());
    assert_eq!(options.open_or_create(&name, 100).unwrap().size().unwrap(), 100);
    // That is another one, which the old handle does not remove.
    assert_eq!(segment.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    options.open(&name).unwrap().unlink().unwrap();
    assert_eq!(options.open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn the_mode_is_exact_whatever_the_umask() -> Result<(), Skip> {
    rustix::process::umask(Mode::from_raw_mode(0o777));
    for mode in [0o600, 0o666, 0o640] {
        let name = name("mode");
        let segment = Options::new().mode(mode).create(&name, 1).unwrap().unlink_on_drop();
        let found = fs::metadata(path(&name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode);
        assert_eq!(found.len(), segment.size().unwrap());
    }
    Ok(())
}

fn names_are_a_slash_and_up_to_255_bytes() -> Result<(), Skip> {
    let (long, longer) = (format!("/{}", "x".repeat(255)), format!("/{}", "x".repeat(256)));
    drop(Options::new().create(&long, 1).unwrap().unlink_on_drop());
    for bad in ["", "name", "/", "/a/b", "//a", "/.", "/..", "/a\0b", longer.as_str()] {
        for error in [
            Options::new().create(bad, 1).unwrap_err(),
            Options::new().open(bad).unwrap_err(),
            unlink(bad).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
    Ok(())
}

fn no_bytes_are_refused() -> Result<(), Skip> {
    let error = Options::new().create(name("empty"), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    Ok(())
}

const GENERATION: u64 = 64 * 1024;

/// Creates and removes a segment, over and over, until it is killed.
fn generator(link: &Link) {
    let name = link.hear();
    link.say("running");
    loop {
        let segment = Options::new().create(&name, GENERATION).unwrap();
        segment.map().unwrap().write_at(0, b"x").unwrap();
        segment.unlink().unwrap();
    }
}

fn open_while_generated(peer: Peer, name: &str) {
    peer.say(name);
    peer.expect("running");
    let mut opened = 0;
    while opened < 500 {
        match Options::new().open(name) {
            Ok(segment) => {
                let map = segment.map().unwrap();
                assert_eq!(map.len() as u64, GENERATION);
                map.write_at(map.len() - 1, b"y").unwrap();
                opened += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
    peer.kill();
    let _ = unlink(name);
}

/// Removes the provisional name that a killed creator can leave, where there are no nameless files.
pub(crate) fn remove_provisional_names() {
    for entry in fs::read_dir("/dev/shm").unwrap().flatten() {
        let own = entry.metadata().is_ok_and(|m| m.uid() == rustix::process::geteuid().as_raw());
        if own && entry.file_name().to_string_lossy().starts_with(".sinew-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn an_opener_never_finds_a_part_of_a_segment() -> Result<(), Skip> {
    open_while_generated(Peer::spawn("posix_shm::generator"), &name("race"));
    if fallbacks_forced() {
        remove_provisional_names();
    }
    Ok(())
}

fn an_opener_never_finds_a_part_without_nameless_files_either() -> Result<(), Skip> {
    let peer = Peer::spawn_with("posix_shm::generator", |c| {
        c.env("SINEW_WITHOUT", "all");
    });
    open_while_generated(peer, &name("race"));
    remove_provisional_names();
    Ok(())
}

/// Opens or creates, and counts itself in.
fn racer(link: &Link) {
    let name = link.hear();
    link.say("ready");
    link.expect("go");
    let map = Options::new().open_or_create(&name, 4096).unwrap().map().unwrap();
    map.atomic_u32_at(0).unwrap().fetch_add(1, Ordering::AcqRel);
    link.say("counted");
}

fn of_many_creators_one_wins() -> Result<(), Skip> {
    let name = name("winner");
    let racers: Vec<Peer> = (0..16).map(|_| Peer::spawn("posix_shm::racer")).collect();
    for racer in &racers {
        racer.say(&name);
        racer.expect("ready");
    }
    racers.iter().for_each(|racer| racer.say("go"));
    for racer in racers {
        racer.expect("counted");
        racer.join();
    }
    let segment = Options::new().open(&name).unwrap().unlink_on_drop();
    assert_eq!(segment.map().unwrap().load_u32_at(0), Some(16));
    Ok(())
}

fn a_killed_creator_leaves_a_whole_segment_or_none() -> Result<(), Skip> {
    let name = name("killed");
    for _ in 0..40 {
        let peer = Peer::spawn("posix_shm::generator");
        peer.say(&name);
        peer.expect("running");
        // At whatever instruction it is now.
        peer.kill();
        match Options::new().open(&name) {
            Ok(segment) => {
                assert_eq!(segment.size().unwrap(), GENERATION);
                segment.unlink().unwrap();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
    if fallbacks_forced() {
        remove_provisional_names();
    }
    Ok(())
}

fn what_is_not_sized_yet_is_refused() -> Result<(), Skip> {
    let name = name("unsized");
    // As a C program between shm_open and ftruncate.
    fs::write(path(&name), b"").unwrap();
    for result in [Options::new().open(&name), Options::new().open_or_create(&name, 1)] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("no size"), "{error}");
    }
    fs::File::options().write(true).open(path(&name)).unwrap().set_len(8192).unwrap();
    let segment = Options::new().open(&name).unwrap().unlink_on_drop();
    // Its holes have memory now, so that no touch of them can fail.
    assert!(fs::metadata(path(&name)).unwrap().blocks() * 512 >= 8192);
    assert_eq!(segment.map().unwrap().len(), 8192);
    Ok(())
}

fn what_is_no_segment_is_refused() -> Result<(), Skip> {
    let name = name("other");
    let path = path(&name);
    let refused = || {
        let error = Options::new().open(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        let error = Options::new().read_only().open(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    };
    symlink("/proc/self/status", &path).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused();
    fs::remove_dir(&path).unwrap();
    Ok(())
}

fn a_removed_name_does_not_stop_traffic() -> Result<(), Skip> {
    let name = name("vanishing");
    let segment = Options::new().create(&name, 4096).unwrap();
    let map = segment.map().unwrap();
    let peer = Peer::spawn("posix_shm::adder");
    peer.say(&name);
    peer.expect("4096");
    assert!(!segment.is_unlinked().unwrap());
    fs::remove_file(path(&name)).unwrap();
    assert!(segment.is_unlinked().unwrap());
    for sum in 1..=10 {
        peer.say(1);
        peer.expect(&sum.to_string());
        assert_eq!(map.load_u32_at(0), Some(sum));
    }
    // Publishing anew works, and is another segment.
    let again = Options::new().create(&name, 4096).unwrap().unlink_on_drop();
    assert_eq!(again.map().unwrap().load_u32_at(0), Some(0));
    assert_eq!(segment.map().unwrap().load_u32_at(0), Some(10));
    peer.kill();
    Ok(())
}

fn a_read_only_segment_is_mapped_so() -> Result<(), Skip> {
    let name = name("reader");
    let segment = Options::new().create(&name, 4096).unwrap().unlink_on_drop();
    segment.map().unwrap().write_at(0, b"public").unwrap();
    let reader: Segment = Options::new().read_only().open(&name).unwrap();
    let map = reader.map().unwrap();
    assert!(!map.is_writable());
    assert_eq!(map.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    let own = reader.map_with(mapping::Options::new().private()).unwrap();
    own.write_at(0, b"P").unwrap();
    let mut six = [0; 6];
    map.read_at(0, &mut six).unwrap();
    assert_eq!(&six, b"public");
    Ok(())
}

fn a_full_file_system_is_an_error_and_no_signal() -> Result<(), Skip> {
    // A test that may mount has a /dev/shm of its own.
    let small = c"size=64k,nr_inodes=100";
    if !sinew_testkit::census::can_be_private()
        || mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), Some(small)).is_err()
    {
        return skip("no small /dev/shm can be mounted here");
    }
    let name = name("full");
    let error = Options::new().create(&name, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    for part in ["1048576", "65536 bytes", "remount"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(Options::new().open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    // All of the room can be had, and touched.
    let all = Options::new().create(&name, 65536).unwrap();
    let map = all.map().unwrap();
    map.write_at(0, &vec![1; 65536]).unwrap();
    drop((map, all));
    unlink(&name).unwrap();
    // What another program has made longer than the room is refused too.
    let foreign = fs::File::create(path(&name)).unwrap();
    foreign.set_len(1 << 20).unwrap();
    assert_eq!(Options::new().open(&name).unwrap_err().kind(), ErrorKind::NoSpace);
    let sparse = Options::new().sparse().open(&name).unwrap();
    let error = sparse.map_with(mapping::Options::new().populate()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    drop((sparse, foreign));
    unlink(&name).unwrap();
    unmount("/dev/shm", UnmountFlags::empty()).unwrap();
    Ok(())
}

/// Another user tries to open, to read and to remove.
fn stranger(link: &Link) {
    let name = link.hear();
    for result in [Options::new().open(&name), Options::new().read_only().open(&name)] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    link.say("refused");
}

fn another_users_segment_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can be two users");
    }
    let name = name("private");
    let _segment = Options::new().create(&name, 4096).unwrap().unlink_on_drop();
    let peer = Peer::spawn_with("posix_shm::stranger", |c| {
        c.uid(65534).gid(65534);
    });
    peer.say(&name);
    peer.expect("refused");
    peer.join();
    Ok(())
}
