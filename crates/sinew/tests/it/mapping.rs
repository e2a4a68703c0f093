//! The one owner of mapped memory.

use std::fs;
use std::os::unix::process::CommandExt;
use std::sync::atomic::Ordering;

use rustix::process::{Resource, Rlimit, setrlimit};
use sinew::mapping::{Advice, HUGE_1G, HUGE_2M, Huge, Mapping, Options};
use sinew::memfd::{self, Memfd};
use sinew::{ErrorKind, anonymous, sysv_shm};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, steps, tests};

pub(crate) const TESTS: &[Test] = tests![
    copies_of_every_length_and_place_are_exact,
    nothing_outside_is_touched,
    a_copy_while_a_peer_writes_is_a_mixture_and_no_more,
    a_copy_makes_no_system_call,
    words_are_aligned_inside_and_writable,
    a_read_only_map_refuses_writes,
    a_private_map_keeps_writes_to_itself,
    populating_leaves_no_faults,
    populating_works_without_the_advice,
    advice_is_taken,
    locked_memory_is_counted_and_freed,
    the_lock_limit_is_named,
    the_limit_on_maps_is_named,
    the_limit_on_address_space_is_named,
    ten_thousand_generations_leave_no_map,
    an_empty_pool_of_huge_pages_is_named_or_done_without,
    huge_pages_are_had_from_a_pool,
];
pub(crate) const ROLES: &[Role] = roles![scribbler, populator, locker];

fn map_of(len: usize) -> Mapping {
    memfd::Options::new().create("test", len as u64).unwrap().map().unwrap()
}

fn copies_of_every_length_and_place_are_exact() -> Result<(), Skip> {
    let map = map_of(1 << 16);
    let pattern: Vec<u8> = (0..1 << 16).map(|i: u32| (i * 7 + (i >> 8)) as u8).collect();
    map.write_at(0, &pattern).unwrap();
    let lengths = (0..=300).chain([511, 512, 4095, 4096, 4097, 30_000]);
    for len in lengths {
        for offset in [0, 1, 7, 8, 31, 4090] {
            let mut got = vec![0xAA; len + 2];
            map.read_at(offset, &mut got[1..=len]).unwrap();
            assert_eq!(got[1..=len], pattern[offset..offset + len], "{len} at {offset}");
            assert_eq!((got[0], got[len + 1]), (0xAA, 0xAA), "{len} at {offset}");
            let other = map_of(1 << 16);
            if len % 37 == 0 {
                other.write_at(offset + 1, &pattern[..len]).unwrap();
                let mut all = vec![0; 1 << 16];
                other.read_at(0, &mut all).unwrap();
                let mut expected = vec![0; 1 << 16];
                expected[offset + 1..=offset + len].copy_from_slice(&pattern[..len]);
                assert!(all == expected, "{len} at {offset}");
            }
        }
    }
    Ok(())
}

fn nothing_outside_is_touched() -> Result<(), Skip> {
    let map = map_of(100);
    assert_eq!(map.len(), 100);
    map.read_at(100, &mut []).unwrap();
    map.write_at(99, b"x").unwrap();
    for (offset, len) in [(100, 1), (99, 2), (0, 101), (101, 0), (usize::MAX, 1), (usize::MAX, 0)] {
        for error in [
            map.read_at(offset, &mut vec![0; len]).unwrap_err(),
            map.write_at(offset, &vec![0; len]).unwrap_err(),
            map.sync_range(offset, len).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains("100 bytes"), "{error}");
        }
    }
    Ok(())
}

/// Fills its memory with one letter and then another until it is killed.
fn scribbler(link: &Link) {
    let map = Memfd::try_from(link.recv_fd()).unwrap().map().unwrap();
    let letters = [vec![b'a'; map.len()], vec![b'b'; map.len()]];
    map.write_at(0, &letters[0]).unwrap();
    link.say("writing");
    loop {
        for letter in &letters {
            map.write_at(0, letter).unwrap();
        }
    }
}

fn a_copy_while_a_peer_writes_is_a_mixture_and_no_more() -> Result<(), Skip> {
    let memfd = memfd::Options::new().create("test", 4099).unwrap();
    let map = memfd.map().unwrap();
    let peer = Peer::spawn("mapping::scribbler");
    peer.send_fd(&memfd);
    peer.expect("writing");
    let mut seen = [0; 256];
    let mut buf = vec![0; 4099];
    for _ in 0..20_000 {
        map.read_at(0, &mut buf).unwrap();
        for byte in &buf {
            seen[usize::from(*byte)] += 1;
        }
    }
    peer.kill();
    let others: u32 = seen.iter().sum::<u32>() - seen[usize::from(b'a')] - seen[usize::from(b'b')];
    assert_eq!(others, 0);
    Ok(())
}

fn a_copy_makes_no_system_call() -> Result<(), Skip> {
    let map = map_of(4096);
    let mut buf = [0; 64];
    let counted = steps::measure(100, || {
        map.write_at(64, &buf).unwrap();
        map.atomic_u32_at(0).unwrap().fetch_add(1, Ordering::Release);
        map.load_u64_at(8).unwrap();
        map.read_at(128, &mut buf).unwrap();
    });
    let Ok(counted) = counted else { return skip("this process may not trace its child") };
    assert_eq!(counted.calls, []);
    if cfg!(not(debug_assertions)) {
        assert!(counted.instructions_after <= 150, "{counted:?}");
    }
    Ok(())
}

fn words_are_aligned_inside_and_writable() -> Result<(), Skip> {
    let memfd = memfd::Options::new().create("test", 4094).unwrap();
    let map = memfd.map().unwrap();
    assert!(map.atomic_u32_at(4088).is_some());
    assert!(map.load_u32_at(4088).is_some());
    for bad in [1, 2, 3, 4089, 4092, 4096, usize::MAX] {
        assert!(map.atomic_u32_at(bad).is_none(), "{bad}");
        assert!(map.load_u32_at(bad).is_none(), "{bad}");
    }
    assert!(map.atomic_u64_at(4080).is_some());
    for bad in [4, 4088, 4094, usize::MAX - 7] {
        assert!(map.atomic_u64_at(bad).is_none(), "{bad}");
        assert!(map.load_u64_at(bad).is_none(), "{bad}");
    }
    map.atomic_u64_at(8).unwrap().store(u64::MAX - 1, Ordering::Release);
    let reader = memfd.map_with(Options::new().read_only()).unwrap();
    assert_eq!(reader.load_u64_at(8), Some(u64::MAX - 1));
    assert!(reader.atomic_u64_at(8).is_none());
    Ok(())
}

fn a_read_only_map_refuses_writes() -> Result<(), Skip> {
    let memfd = memfd::Options::new().create("test", 10).unwrap();
    let mut map = memfd.map_with(Options::new().read_only()).unwrap();
    assert!(!map.is_writable());
    let error = map.write_at(0, b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    // SAFETY: nobody else has the memory.
    assert!(unsafe { map.as_mut_slice() }.is_none());
    // SAFETY: as above.
    assert_eq!(unsafe { map.as_slice() }, [0; 10]);
    Ok(())
}

fn a_private_map_keeps_writes_to_itself() -> Result<(), Skip> {
    let memfd = memfd::Options::new().create("test", 4096).unwrap();
    let shared = memfd.map().unwrap();
    let mut own = memfd.map_with(Options::new().private()).unwrap();
    own.write_at(0, b"mine").unwrap();
    // SAFETY: a page of one's own since it was written to.
    unsafe { own.as_mut_slice() }.unwrap()[0] = b'M';
    let mut four = [0; 4];
    shared.read_at(0, &mut four).unwrap();
    assert_eq!(four, [0; 4]);
    own.read_at(0, &mut four).unwrap();
    assert_eq!(&four, b"Mine");
    Ok(())
}

/// Page faults of this process so far that needed no disk.
fn faults() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

fn populated_faults() -> u64 {
    let map = anonymous::create(1 << 20).unwrap();
    faults();
    map.populate().unwrap();
    let before = faults();
    for at in (0..map.len()).step_by(4096) {
        map.write_at(at, b"x").unwrap();
    }
    faults() - before
}

fn populating_leaves_no_faults() -> Result<(), Skip> {
    let faults = populated_faults();
    assert!(faults < 20, "{faults} of 256 pages");
    Ok(())
}

fn populator(link: &Link) {
    link.say(populated_faults());
    // It changes nothing either.
    let map = map_of(8192);
    map.write_at(4096, b"kept").unwrap();
    map.populate().unwrap();
    let mut four = [0; 4];
    map.read_at(4096, &mut four).unwrap();
    assert_eq!(&four, b"kept");
}

fn populating_works_without_the_advice() -> Result<(), Skip> {
    let peer = Peer::spawn_with("mapping::populator", |c| {
        c.env("SINEW_WITHOUT", "all");
    });
    let faults: u64 = peer.hear().parse().unwrap();
    assert!(faults < 20, "{faults} of 256 pages");
    peer.join();
    Ok(())
}

fn advice_is_taken() -> Result<(), Skip> {
    let map = map_of(1 << 20);
    map.write_at(5, b"kept").unwrap();
    for advice in [
        Advice::Normal,
        Advice::Sequential,
        Advice::Random,
        Advice::WillNeed,
        Advice::Cold,
        Advice::PageOut,
        Advice::DontFork,
        Advice::DoFork,
        Advice::DontDump,
        Advice::DoDump,
    ] {
        map.advise(advice).unwrap();
    }
    let mut four = [0; 4];
    map.read_at(5, &mut four).unwrap();
    assert_eq!(&four, b"kept");
    Ok(())
}

/// A line of /proc/self/status in kB.
fn status_kb(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

fn locked_memory_is_counted_and_freed() -> Result<(), Skip> {
    let map = map_of(65536);
    map.lock().unwrap();
    assert_eq!(status_kb("VmLck:"), 64);
    map.unlock().unwrap();
    assert_eq!(status_kb("VmLck:"), 0);
    let memfd = memfd::Options::new().create("test", 8192).unwrap();
    let locked = memfd.map_with(Options::new().lock()).unwrap();
    assert_eq!(status_kb("VmLck:"), 8);
    drop(locked);
    assert_eq!(status_kb("VmLck:"), 0);
    Ok(())
}

/// An ordinary user who may lock 64 KiB.
fn locker(link: &Link) {
    let limit = Some(65536);
    setrlimit(Resource::Memlock, Rlimit { current: limit, maximum: limit }).unwrap();
    let map = map_of(1 << 20);
    let error = map.lock().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    link.say(error);
}

fn the_lock_limit_is_named() -> Result<(), Skip> {
    let peer = Peer::spawn_with("mapping::locker", |c| {
        if rustix::process::geteuid().is_root() {
            c.uid(65534).gid(65534);
        }
    });
    let error = peer.hear();
    assert!(error.contains("RLIMIT_MEMLOCK (65536"), "{error}");
    assert!(error.contains("1048576 bytes"), "{error}");
    peer.join();
    Ok(())
}

fn the_limit_on_maps_is_named() -> Result<(), Skip> {
    let limit = sinew::limits::Limit::MaxMapCount.value().unwrap();
    if limit > 300_000 {
        return skip("vm.max_map_count is too high to be reached in a test");
    }
    let memfd = memfd::Options::new().create("test", 4096).unwrap();
    let mut maps = Vec::with_capacity(usize::try_from(limit).unwrap());
    let error = loop {
        // Neighbours of one kind would be merged.
        let options = if maps.len() % 2 == 0 { Options::new() } else { Options::new().read_only() };
        match memfd.map_with(options) {
            Ok(map) => maps.push(map),
            Err(error) => break error,
        }
        assert!((maps.len() as u64) < limit);
    };
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains(&format!("vm.max_map_count ({limit})")), "{error}");
    drop(maps);
    memfd.map().unwrap();
    Ok(())
}

fn the_limit_on_address_space_is_named() -> Result<(), Skip> {
    let limit = Some(8 << 30);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    let fd = rustix::fs::memfd_create("sparse", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, 1 << 34).unwrap();
    let error = Memfd::try_from(fd).unwrap().map_unsealed(Options::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains("RLIMIT_AS (8589934592 bytes)"), "{error}");
    Ok(())
}

fn ten_thousand_generations_leave_no_map() -> Result<(), Skip> {
    let count = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let generation = |i: u32| {
        let memfd = memfd::Options::new().create("generation", 4096).unwrap();
        let map = memfd.map_with(Options::new().lock()).unwrap();
        map.write_at(0, &i.to_ne_bytes()).unwrap();
        // One in three fails half-way.
        if i.is_multiple_of(3) {
            memfd.add_seals(memfd::Seals::FUTURE_WRITE).unwrap();
            memfd.map().unwrap_err();
        }
        if i.is_multiple_of(100) {
            let key = sysv_shm::Key::PRIVATE;
            let segment = sysv_shm::Options::new().create(key, 4096).unwrap().remove_on_drop();
            segment.attach().unwrap().write_at(0, b"x").unwrap();
        }
    };
    (0..100).for_each(generation);
    let before = (count(), status_kb("VmLck:"));
    (0..10_000).for_each(generation);
    assert_eq!((count(), status_kb("VmLck:")), before);
    Ok(())
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Keeps other runs of these tests from the one pool of huge pages of the host.
fn pool_lock() -> Option<fs::File> {
    let folder = fs::File::open(POOL).ok()?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).ok()?;
    Some(folder)
}

fn pool_pages(file: &str) -> u64 {
    fs::read_to_string(format!("{POOL}/{file}")).unwrap().trim().parse().unwrap()
}

fn an_empty_pool_of_huge_pages_is_named_or_done_without() -> Result<(), Skip> {
    let Some(_alone) = pool_lock() else {
        return skip("no huge pages of 2 MiB here");
    };
    if pool_pages("free_hugepages") + pool_pages("nr_overcommit_hugepages") > 0 {
        return skip("the pool of huge pages is not empty");
    }
    let (required, preferred) = (Huge::Required(HUGE_2M), Huge::Preferred(HUGE_2M));
    for error in [
        memfd::Options::new().huge_pages(required).create("test", 1).unwrap_err(),
        anonymous::Options::new().huge_pages(required).create(1).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("nr_hugepages"), "{error}");
    }
    let key = sysv_shm::Key::PRIVATE;
    let error = sysv_shm::Options::new().huge_pages(required).create(key, 1).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::LimitReached | ErrorKind::PermissionDenied),
        "{error}"
    );
    let segment = sysv_shm::Options::new().huge_pages(preferred).create(key, 1).unwrap();
    let maps = [
        memfd::Options::new().huge_pages(preferred).create("test", 1).unwrap().map().unwrap(),
        anonymous::Options::new().huge_pages(preferred).create(1).unwrap(),
        segment.remove_on_drop().attach().unwrap(),
    ];
    for map in maps {
        assert_eq!(map.page_size(), rustix::param::page_size());
        assert_eq!(map.huge_bytes().unwrap(), 0);
        map.write_at(0, b"x").unwrap();
    }
    for wrong in [0, 1, 4096, HUGE_2M + 1] {
        let options = memfd::Options::new().huge_pages(Huge::Required(wrong));
        let error = options.create("test", 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let error = anonymous::Options::new().huge_pages(Huge::Required(1 << 40)).create(1);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    let _ = HUGE_1G;
    Ok(())
}

/// Lets the pool take pages for as long as it lives.
struct MorePages {
    before: u64,
    _alone: fs::File,
}

impl MorePages {
    fn new(pages: u64) -> Option<Self> {
        let alone = pool_lock()?;
        let before = pool_pages("nr_overcommit_hugepages");
        fs::write(format!("{POOL}/nr_overcommit_hugepages"), pages.to_string()).ok()?;
        Some(Self { before, _alone: alone })
    }
}

impl Drop for MorePages {
    fn drop(&mut self) {
        let _ = fs::write(format!("{POOL}/nr_overcommit_hugepages"), self.before.to_string());
    }
}

fn huge_pages_are_had_from_a_pool() -> Result<(), Skip> {
    let Some(_pages) = MorePages::new(8) else {
        return skip("this user cannot give the pool more huge pages");
    };
    let huge = Huge::Required(HUGE_2M);
    let Ok(memfd) = memfd::Options::new().huge_pages(huge).create("test", 5000) else {
        return skip("the host has no contiguous memory for huge pages");
    };
    assert_eq!(memfd.size().unwrap(), HUGE_2M);
    let segment = sysv_shm::Options::new().huge_pages(huge);
    let segment = segment.create(sysv_shm::Key::PRIVATE, 5000).unwrap().remove_on_drop();
    let maps = [
        memfd.map().unwrap(),
        anonymous::Options::new().huge_pages(huge).create(5000).unwrap(),
        segment.attach().unwrap(),
    ];
    for map in &maps {
        assert_eq!(map.page_size() as u64, HUGE_2M, "{map:?}");
        map.populate().unwrap();
        map.write_at(4990, b"0123456789").unwrap();
        assert_eq!(map.huge_bytes().unwrap() % HUGE_2M, 0, "{map:?}");
        assert!(map.huge_bytes().unwrap() >= HUGE_2M, "{map:?}");
    }
    drop(maps);
    let frozen = memfd.freeze().unwrap();
    assert_eq!(&frozen[4990..5000], b"0123456789");
    Ok(())
}
