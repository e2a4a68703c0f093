//! Sealed memory without a name, between two real processes.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags, ftruncate};
use rustix::io::{Errno, FdFlags, fcntl_getfd};
use rustix::process::{Resource, Rlimit, setrlimit};
use sinew::memfd::{Memfd, Options, Seals};
use sinew::{ErrorKind, mapping};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    two_processes_share_a_memfd,
    a_killed_peer_leaves_the_memory_usable,
    its_size_is_sealed_and_it_cannot_be_executed,
    without_newer_features_it_works_too,
    names_have_at_most_249_bytes,
    no_bytes_of_a_fixed_size_are_refused,
    seals_of_the_size_hold_against_truncation,
    a_writable_map_stands_against_the_write_seal,
    the_future_write_seal_leaves_old_maps_alone,
    only_the_seal_protects_a_publisher,
    no_seal_can_be_added_after_the_seal_of_seals,
    an_unsealable_one_takes_no_seals,
    what_is_no_memory_is_refused,
    one_that_can_shrink_is_mapped_only_on_request,
    a_peer_that_shrinks_it_costs_an_error_and_no_life,
    a_missing_seal_is_named,
    frozen_contents_are_the_same_for_both,
    a_consumer_cannot_map_for_writing,
    a_length_beyond_all_memory_is_an_error,
    a_sender_can_claim_any_size,
    a_resizable_one_grows,
    descriptors_are_closed_on_exec,
    a_used_up_descriptor_limit_is_named,
    a_memory_cgroup_that_would_kill_is_named,
];
pub(crate) const ROLES: &[Role] =
    roles![doubler, sleeper, plain, shrinker, reader, mapper, toucher, hoarder];

fn new(len: u64) -> Memfd {
    Options::new().create("test", len).unwrap()
}

/// Takes a memfd, doubles its first word, and says how long it is.
fn doubler(link: &Link) {
    let memfd = Memfd::try_from(link.recv_fd()).unwrap();
    memfd.require(Seals::SHRINK | Seals::GROW).unwrap();
    let map = memfd.map().unwrap();
    let word = map.atomic_u32_at(0).unwrap();
    word.store(word.load(Ordering::Acquire) * 2, Ordering::Release);
    link.say(map.len());
}

fn two_processes_share_a_memfd() -> Result<(), Skip> {
    let memfd = new(5000);
    let map = memfd.map().unwrap();
    map.write_at(0, &21_u32.to_ne_bytes()).unwrap();
    let peer = Peer::spawn("memfd::doubler");
    peer.send_fd(&memfd);
    peer.expect("5000");
    assert_eq!(map.load_u32_at(0), Some(42));
    peer.join();
    Ok(())
}

/// Maps a memfd, writes to it, and waits to be killed.
fn sleeper(link: &Link) {
    let map = Memfd::try_from(link.recv_fd()).unwrap().map().unwrap();
    map.write_at(100, b"last words").unwrap();
    link.say("written");
    let _ = link.try_receive();
}

fn a_killed_peer_leaves_the_memory_usable() -> Result<(), Skip> {
    let memfd = new(4096);
    let peer = Peer::spawn("memfd::sleeper");
    peer.send_fd(&memfd);
    peer.expect("written");
    peer.kill();
    let mut words = [0; 10];
    memfd.map().unwrap().read_at(100, &mut words).unwrap();
    assert_eq!(&words, b"last words");
    assert_eq!(memfd.freeze().unwrap()[100..110], words);
    Ok(())
}

fn its_size_is_sealed_and_it_cannot_be_executed() -> Result<(), Skip> {
    let seals = new(1).seals().unwrap();
    assert!(seals.contains(Seals::SHRINK | Seals::GROW), "{seals}");
    assert!(!seals.contains(Seals::SEAL), "{seals}");
    let newer = Options::new().executable().create("test", 1);
    // MFD_EXEC is there exactly where the seal is; some hosts forbid it.
    if sinew_is_newer_than_6_3() && !sinew_testkit::fallbacks_forced() {
        assert!(seals.contains(Seals::EXEC), "{seals}");
        if let Ok(executable) = newer {
            assert!(!executable.seals().unwrap().contains(Seals::EXEC));
        }
    }
    Ok(())
}

fn sinew_is_newer_than_6_3() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

/// Creates one with whatever features it is left.
fn plain(link: &Link) {
    let memfd = new(10_000);
    let map = memfd.map_with(mapping::Options::new().populate()).unwrap();
    map.write_at(0, b"old").unwrap();
    drop(map);
    link.say(memfd.seals().unwrap());
    assert_eq!(&memfd.freeze().unwrap()[..3], b"old");
}

fn without_newer_features_it_works_too() -> Result<(), Skip> {
    let peer = Peer::spawn_with("memfd::plain", |c| {
        c.env("SINEW_WITHOUT", "all");
    });
    peer.expect("SHRINK|GROW");
    peer.join();
    Ok(())
}

fn names_have_at_most_249_bytes() -> Result<(), Skip> {
    Options::new().create(&"x".repeat(249), 1).unwrap();
    for name in ["x".repeat(250), "a\0b".to_owned()] {
        let error = Options::new().create(&name, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    Ok(())
}

fn no_bytes_of_a_fixed_size_are_refused() -> Result<(), Skip> {
    let error = Options::new().create("test", 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let empty = Options::new().resizable().create("test", 0).unwrap();
    let error = empty.map_unsealed(mapping::Options::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    Ok(())
}

fn seals_of_the_size_hold_against_truncation() -> Result<(), Skip> {
    let memfd = new(4096);
    assert_eq!(ftruncate(&memfd, 4095), Err(Errno::PERM));
    assert_eq!(ftruncate(&memfd, 4097), Err(Errno::PERM));
    let error = memfd.grow(8192).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let error = memfd.write_at(4090, &[0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(memfd.size().unwrap(), 4096);
    Ok(())
}

fn a_writable_map_stands_against_the_write_seal() -> Result<(), Skip> {
    let memfd = new(4096);
    let map = memfd.map().unwrap();
    let error = memfd.add_seals(Seals::WRITE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("FUTURE_WRITE"), "{error}");
    let error = memfd.try_clone().unwrap().freeze().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    drop(map);
    memfd.add_seals(Seals::WRITE).unwrap();
    assert_eq!(memfd.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    Ok(())
}

fn the_future_write_seal_leaves_old_maps_alone() -> Result<(), Skip> {
    let memfd = new(4096);
    let old = memfd.map().unwrap();
    memfd.add_seals(Seals::FUTURE_WRITE).unwrap();
    let error = memfd.map().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("F_SEAL_FUTURE_WRITE"), "{error}");
    assert_eq!(memfd.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    let new = memfd.map_with(mapping::Options::new().read_only()).unwrap();
    old.write_at(7, b"still").unwrap();
    let mut five = [0; 5];
    new.read_at(7, &mut five).unwrap();
    assert_eq!(&five, b"still");
    Ok(())
}

/// A descriptor of the same memory that is opened anew.
fn reopened(fd: impl AsFd, flags: OFlags) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn only_the_seal_protects_a_publisher() -> Result<(), Skip> {
    let memfd = new(4096);
    let read_only = Memfd::try_from(reopened(&memfd, OFlags::RDONLY)).unwrap();
    assert_eq!(read_only.map().unwrap_err().kind(), ErrorKind::PermissionDenied);
    // The open mode is no protection: whoever has it opens it anew.
    Memfd::try_from(reopened(&read_only, OFlags::RDWR)).unwrap().map().unwrap();
    memfd.add_seals(Seals::FUTURE_WRITE).unwrap();
    let again = Memfd::try_from(reopened(&read_only, OFlags::RDWR)).unwrap();
    assert_eq!(again.map().unwrap_err().kind(), ErrorKind::PermissionDenied);
    Ok(())
}

fn no_seal_can_be_added_after_the_seal_of_seals() -> Result<(), Skip> {
    let memfd = new(4096);
    memfd.add_seals(Seals::SEAL).unwrap();
    let error = memfd.add_seals(Seals::WRITE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("no more can be added"), "{error}");
    Ok(())
}

fn an_unsealable_one_takes_no_seals() -> Result<(), Skip> {
    let memfd = Options::new().unsealable().create("test", 4096).unwrap();
    assert!(memfd.seals().unwrap().contains(Seals::SEAL | Seals::SHRINK | Seals::GROW));
    assert_eq!(memfd.freeze().unwrap_err().kind(), ErrorKind::PermissionDenied);
    Ok(())
}

fn what_is_no_memory_is_refused() -> Result<(), Skip> {
    let open = |path: &str| -> OwnedFd { std::fs::File::open(path).unwrap().into() };
    let (reader, writer) = std::io::pipe().unwrap();
    let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
    let hostile: [(OwnedFd, &str); 6] = [
        (reader.into(), "a pipe"),
        (writer.into(), "a pipe"),
        (one.into(), "a socket"),
        (open("/"), "a directory"),
        (open("/dev/null"), "a character device"),
        // A file system without seals, wherever the tests run.
        (open("/proc/self/status"), "a file on a disk"),
    ];
    for (fd, what) in hostile {
        let error = Memfd::try_from(fd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    assert_eq!(Memfd::try_from(event).unwrap_err().kind(), ErrorKind::Mismatch);
    Ok(())
}

fn one_that_can_shrink_is_mapped_only_on_request() -> Result<(), Skip> {
    let memfd = Options::new().resizable().create("test", 4096).unwrap();
    let error = memfd.map().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("SHRINK"), "{error}");
    assert_eq!(memfd.map_unsealed(mapping::Options::new()).unwrap().len(), 4096);
    memfd.add_seals(Seals::SHRINK).unwrap();
    assert_eq!(memfd.map().unwrap().len(), 4096);
    Ok(())
}

/// Shortens what it is given to nothing.
fn shrinker(link: &Link) {
    let fd = link.recv_fd();
    match ftruncate(&fd, 0) {
        Ok(()) => link.say("shrunk"),
        Err(errno) => link.say(errno.raw_os_error()),
    }
}

/// Maps what it is given whatever its seals, waits, and touches it.
fn toucher(link: &Link) {
    let map =
        Memfd::try_from(link.recv_fd()).unwrap().map_unsealed(mapping::Options::new()).unwrap();
    link.say("mapped");
    link.expect("touch");
    map.read_at(0, &mut [0; 1]).unwrap();
    link.say("alive");
}

fn a_peer_that_shrinks_it_costs_an_error_and_no_life() -> Result<(), Skip> {
    let attacked = |memfd: &Memfd| {
        let peer = Peer::spawn("memfd::shrinker");
        peer.send_fd(memfd);
        let said = peer.hear();
        peer.join();
        said
    };
    let sealed = new(4096);
    let map = sealed.map().unwrap();
    assert_eq!(attacked(&sealed), Errno::PERM.raw_os_error().to_string());
    map.read_at(0, &mut [0; 1]).unwrap();

    let open = Options::new().resizable().create("test", 4096).unwrap();
    let victim = Peer::spawn("memfd::toucher");
    victim.send_fd(&open);
    victim.expect("mapped");
    assert_eq!(attacked(&open), "shrunk");
    assert_eq!(open.read_at(0, &mut [0; 1]).unwrap_err().kind(), ErrorKind::Truncated);
    // What the seal is good for: who trusts a peer without it is at its mercy.
    let mut victim = victim;
    victim.say("touch");
    let status = victim.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGBUS));
    Ok(())
}

fn a_missing_seal_is_named() -> Result<(), Skip> {
    let error = new(1).require(Seals::SHRINK | Seals::WRITE | Seals::SEAL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("the seals SEAL|WRITE are missing"), "{error}");
    assert_eq!(new(1).frozen().unwrap_err().kind(), ErrorKind::Mismatch);
    Ok(())
}

/// Takes frozen contents and says their sum.
fn reader(link: &Link) {
    let frozen = Memfd::try_from(link.recv_fd()).unwrap().frozen().unwrap();
    link.say(frozen.iter().map(|b| u64::from(*b)).sum::<u64>());
    assert_eq!(frozen.memfd().map().unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(frozen.memfd().write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(frozen.mapping().atomic_u32_at(0).is_none());
}

fn frozen_contents_are_the_same_for_both() -> Result<(), Skip> {
    let memfd = new(1 << 20);
    let map = memfd.map().unwrap();
    let block: Vec<u8> = (0..=255).collect();
    for at in (0..1 << 20).step_by(256) {
        map.write_at(at, &block).unwrap();
    }
    drop(map);
    let frozen = memfd.freeze().unwrap();
    assert_eq!(frozen.len(), 1 << 20);
    let peer = Peer::spawn("memfd::reader");
    peer.send_fd(&frozen);
    let sum: u64 = frozen.iter().map(|b| u64::from(*b)).sum();
    peer.expect(&sum.to_string());
    peer.join();
    Ok(())
}

/// Tries to get write access to what it is given, in every way.
fn mapper(link: &Link) {
    let fd = link.recv_fd();
    let memfd = Memfd::try_from(reopened(&fd, OFlags::RDWR)).unwrap();
    assert_eq!(memfd.map().unwrap_err().kind(), ErrorKind::PermissionDenied);
    let map = memfd.map_with(mapping::Options::new().read_only()).unwrap();
    // SAFETY: only the protection changes; nothing in this process refers to the bytes.
    let done = unsafe {
        rustix::mm::mprotect(
            map.as_mut_ptr().cast(),
            map.len(),
            rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE,
        )
    };
    assert_eq!(done, Err(Errno::ACCESS));
    link.say(map.load_u64_at(8).unwrap());
}

fn a_consumer_cannot_map_for_writing() -> Result<(), Skip> {
    let memfd = new(4096);
    let map = memfd.map().unwrap();
    memfd.add_seals(Seals::FUTURE_WRITE | Seals::SEAL).unwrap();
    let peer = Peer::spawn("memfd::mapper");
    map.atomic_u64_at(8).unwrap().store(77, Ordering::Release);
    peer.send_fd(&memfd);
    peer.expect("77");
    peer.join();
    Ok(())
}

fn a_length_beyond_all_memory_is_an_error() -> Result<(), Skip> {
    for len in [1 << 50, i64::MAX.unsigned_abs(), u64::MAX] {
        let error = Options::new().create("test", len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains(&len.to_string()), "{error}");
    }
    Ok(())
}

fn a_sender_can_claim_any_size() -> Result<(), Skip> {
    let fd = rustix::fs::memfd_create(
        "sparse",
        rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING,
    )
    .unwrap();
    ftruncate(&fd, 1 << 40).unwrap();
    let memfd = Memfd::try_from(fd).unwrap();
    memfd.add_seals(Seals::SHRINK | Seals::GROW).unwrap();
    assert_eq!(memfd.size().unwrap(), 1 << 40);
    let map = memfd.map().unwrap();
    assert_eq!(map.len(), 1 << 40);
    map.write_at((1 << 40) - 3, b"end").unwrap();
    Ok(())
}

fn a_resizable_one_grows() -> Result<(), Skip> {
    let memfd = Options::new().resizable().create("test", 4096).unwrap();
    let old = memfd.map_unsealed(mapping::Options::new()).unwrap();
    old.write_at(0, b"kept").unwrap();
    memfd.grow(10_000).unwrap();
    memfd.grow(5).unwrap();
    assert_eq!(memfd.size().unwrap(), 10_000);
    let all = memfd.map_unsealed(mapping::Options::new()).unwrap();
    all.write_at(2, b"KT").unwrap();
    let mut four = [0; 4];
    old.read_at(0, &mut four).unwrap();
    assert_eq!(&four, b"keKT");
    assert_eq!((old.len(), all.len()), (4096, 10_000));
    Ok(())
}

fn descriptors_are_closed_on_exec() -> Result<(), Skip> {
    let memfd = new(1);
    for fd in [memfd.as_fd(), memfd.try_clone().unwrap().as_fd()] {
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }
    Ok(())
}

fn a_used_up_descriptor_limit_is_named() -> Result<(), Skip> {
    let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::Nofile, limit(10)).unwrap();
    let mut held = Vec::new();
    let error = loop {
        match Options::new().create("test", 1) {
            Ok(memfd) => held.push(memfd),
            Err(error) => break error,
        }
        assert!(held.len() < 10);
    };
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE (10)"), "{error}");
    Ok(())
}

/// In a cgroup of 32 MiB: too much is refused with its name, little is given, and it lives on.
fn hoarder(link: &Link) {
    link.expect("go");
    let error = Options::new().create("test", 64 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    link.say(error);
    let map = new(4 << 20).map_with(mapping::Options::new().populate()).unwrap();
    link.say(map.len());
}

/// A memory cgroup of version 1 below that of this process.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|l| l.split_once(":memory:").map(|(_, path)| path))?;
        let name = format!("sinew-test-{}", std::process::id());
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory{own}/{name}"));
        std::fs::create_dir(&path).ok()?;
        let group = Self(path);
        std::fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        Some(group)
    }

    fn take(&self, pid: rustix::process::Pid) -> std::io::Result<()> {
        let mut procs =
            std::fs::OpenOptions::new().write(true).open(self.0.join("cgroup.procs"))?;
        procs.write_all(pid.as_raw_nonzero().to_string().as_bytes())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn a_memory_cgroup_that_would_kill_is_named() -> Result<(), Skip> {
    let Some(group) = Group::new(32 << 20) else {
        return skip("no memory cgroup can be made here");
    };
    let peer = Peer::spawn("memfd::hoarder");
    if group.take(peer.pid()).is_err() {
        return skip("no process can be moved into a cgroup here");
    }
    peer.say("go");
    let error = peer.hear();
    for part in ["memory.limit_in_bytes", "33554432", "67108864", "kill"] {
        assert!(error.contains(part), "{error}");
    }
    peer.expect(&(4 << 20).to_string());
    peer.join();
    let path = group.0.clone();
    drop(group);
    assert!(!path.exists(), "the cgroup stays");
    Ok(())
}
