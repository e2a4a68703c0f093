//! Mapped files, between two real processes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sinew::file::Options;
use sinew::{Error, ErrorKind, mapping};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, scratch, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    two_processes_share_a_file,
    create_and_open_mean_what_they_say,
    the_mode_is_exact_whatever_the_umask,
    a_durable_file_is_written_through,
    growing_leaves_old_maps_as_they_are,
    windows_begin_and_end_anywhere,
    a_large_file_is_seen_through_windows,
    replacing_leaves_readers_the_old_file,
    a_failed_replacement_changes_nothing,
    one_file_by_many_paths_is_one,
    a_file_that_a_peer_has_cut_off_is_an_error_to_calls,
    a_killed_creator_leaves_a_whole_file_or_none,
    what_is_no_regular_file_is_refused,
    a_full_disk_is_an_error_and_no_signal,
    a_file_open_for_reading_is_mapped_so,
    without_newer_features_it_works_too,
];
pub(crate) const ROLES: &[Role] = roles![adder, generator, plain];

/// A file in the scratch folder that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(scratch().join(name))
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens a file, adds to its first word whenever asked.
fn adder(link: &Link) {
    let map = Options::new().open(link.hear()).unwrap().map().unwrap();
    link.say(map.len());
    while let Some((bytes, _)) = link.try_receive() {
        let number: u32 = String::from_utf8(bytes).unwrap().parse().unwrap();
        let word = map.atomic_u32_at(0).unwrap();
        link.say(word.fetch_add(number, Ordering::AcqRel) + number);
    }
}

fn two_processes_share_a_file() -> Result<(), Skip> {
    let path = Scratch::new("shared");
    let file = Options::new().create(&path, 10_000).unwrap();
    let map = file.map().unwrap();
    map.atomic_u32_at(0).unwrap().store(40, Ordering::Release);
    let peer = Peer::spawn("file::adder");
    peer.say(path.0.display());
    peer.expect("10000");
    peer.say(2);
    peer.expect("42");
    assert_eq!(map.load_u32_at(0), Some(42));
    peer.kill();
    // What it wrote is in the file.
    assert_eq!(fs::read(&path).unwrap()[..4], 42_u32.to_ne_bytes());
    Ok(())
}

fn create_and_open_mean_what_they_say() -> Result<(), Skip> {
    let (path, options) = (Scratch::new("verbs"), Options::new());
    assert_eq!(options.open(&path).unwrap_err().kind(), ErrorKind::NotFound);
    let file = options.create(&path, 5000).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 5000);
    let error = options.create(&path, 5000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().starts_with("mmap-file \"/"), "{error}");
    assert_eq!(options.open(&path).unwrap().size().unwrap(), 5000);
    assert_eq!(options.open_or_create(&path, 10).unwrap().size().unwrap(), 5000);
    assert_eq!(options.open_or_create(&path, 6000).unwrap().size().unwrap(), 6000);
    fs::remove_file(&path).unwrap();
    assert!(file.is_unlinked().unwrap());
    assert_eq!(options.open_or_create(&path, 10).unwrap().size().unwrap(), 10);
    let other = Scratch::new("empty");
    assert_eq!(options.create(&other, 0).unwrap_err().kind(), ErrorKind::InvalidInput);
    fs::write(&other, b"").unwrap();
    let empty = options.open(&other).unwrap();
    assert_eq!(empty.map().unwrap_err().kind(), ErrorKind::InvalidInput);
    let nowhere = scratch().join("no folder").join("file");
    assert_eq!(options.create(nowhere, 1).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(options.create("/", 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    Ok(())
}

fn the_mode_is_exact_whatever_the_umask() -> Result<(), Skip> {
    rustix::process::umask(Mode::from_raw_mode(0o777));
    for mode in [0o600, 0o666, 0o640] {
        let path = Scratch::new("mode");
        Options::new().mode(mode).create(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
    }
    Ok(())
}

fn a_durable_file_is_written_through() -> Result<(), Skip> {
    let path = Scratch::new("durable");
    let file = Options::new().durable().create(&path, 3 * 4096).unwrap();
    let map = file.map().unwrap();
    map.write_at(5000, b"lasting").unwrap();
    map.sync_range(5003, 1).unwrap();
    map.sync_range(3 * 4096, 0).unwrap();
    map.sync().unwrap();
    file.sync().unwrap();
    let window = file.window(4097, 4096).unwrap();
    window.sync_range(100, 3000).unwrap();
    assert_eq!(fs::read(&path).unwrap()[5000..5007], *b"lasting");
    Ok(())
}

fn growing_leaves_old_maps_as_they_are() -> Result<(), Skip> {
    let path = Scratch::new("growing");
    let file = Options::new().create(&path, 100).unwrap();
    let old = file.map().unwrap();
    old.write_at(0, b"kept").unwrap();
    file.grow(1 << 20).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    file.grow(5).unwrap();
    assert_eq!(file.size().unwrap(), 1 << 20);
    let all = file.map().unwrap();
    all.write_at((1 << 20) - 3, b"end").unwrap();
    all.write_at(0, b"K").unwrap();
    let mut four = [0; 4];
    old.read_at(0, &mut four).unwrap();
    assert_eq!(&four, b"Kept");
    assert_eq!(old.len(), 100);
    Ok(())
}

fn windows_begin_and_end_anywhere() -> Result<(), Skip> {
    let path = Scratch::new("windows");
    let file = Options::new().create(&path, 20_000).unwrap();
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
    file.write_at(0, &bytes).unwrap();
    for (offset, len) in
        [(0, 20_000), (1, 1), (4095, 2), (4096, 4096), (5000, 10_000), (19_999, 1), (8191, 8193)]
    {
        let window = file.window(offset, len).unwrap();
        assert_eq!((window.len(), window.offset()), (len, offset));
        let mut got = vec![0; len];
        window.read_at(0, &mut got).unwrap();
        let begin = usize::try_from(offset).unwrap();
        assert!(got == bytes[begin..begin + len], "{len} at {offset}");
        window.populate().unwrap();
        assert_eq!(window.read_at(1, &mut got).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    for (offset, len) in
        [(0, 20_001), (19_999, 2), (20_000, 1), (20_000, 0), (0, 0), (u64::MAX, 1), (1, usize::MAX)]
    {
        let error = file.window(offset, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{len} at {offset}: {error}");
    }
    Ok(())
}

fn a_large_file_is_seen_through_windows() -> Result<(), Skip> {
    let path = Scratch::new("large");
    fs::File::create(&path).unwrap().set_len(1 << 36).unwrap();
    // 64 GiB, of which next to nothing is on the disk.
    let file = Options::new().sparse().open(&path).unwrap();
    for at in [0, 123_456_789_u64, (1 << 32) - 5, (1 << 36) - 1000] {
        let window = file.window(at, 1000).unwrap();
        window.write_at(500, &at.to_ne_bytes()).unwrap();
        let mut back = [0; 8];
        file.read_at(at + 500, &mut back).unwrap();
        assert_eq!(u64::from_ne_bytes(back), at);
    }
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
    Ok(())
}

fn replacing_leaves_readers_the_old_file() -> Result<(), Skip> {
    let path = Scratch::new("replaced");
    let first = Options::new().create(&path, 4096).unwrap();
    let map = first.map().unwrap();
    map.atomic_u32_at(0).unwrap().store(1, Ordering::Release);
    let reader = Peer::spawn("file::adder");
    reader.say(path.0.display());
    reader.expect("4096");
    let fill = |file: &sinew::file::File| file.write_at(0, &100_u32.to_ne_bytes());
    let second = Options::new().replace(&path, 8192, fill).unwrap();
    assert_ne!(first.identity().unwrap(), second.identity().unwrap());
    assert!(first.is_unlinked().unwrap());
    // The reader goes on with the old one, a new reader has the new one.
    reader.say(1);
    reader.expect("2");
    assert_eq!(map.load_u32_at(0), Some(2));
    let newer = Peer::spawn("file::adder");
    newer.say(path.0.display());
    newer.expect("8192");
    newer.say(1);
    newer.expect("101");
    reader.kill();
    newer.kill();
    // It also makes the first one.
    let absent = Scratch::new("absent");
    Options::new().durable().replace(&absent, 1, |_| Ok(())).unwrap();
    assert_eq!(fs::metadata(&absent).unwrap().len(), 1);
    Ok(())
}

fn a_failed_replacement_changes_nothing() -> Result<(), Skip> {
    let path = Scratch::new("kept");
    fs::write(&path, b"old").unwrap();
    let failed = |_: &sinew::file::File| Err(Error::new(ErrorKind::Other, "fill"));
    assert_eq!(Options::new().replace(&path, 10, failed).unwrap_err().kind(), ErrorKind::Other);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(scratch()).unwrap().count(), 1);
    Ok(())
}

fn one_file_by_many_paths_is_one() -> Result<(), Skip> {
    let (path, link, hard) = (Scratch::new("a"), Scratch::new("b"), Scratch::new("c"));
    let first = Options::new().create(&path, 4096).unwrap();
    symlink(&path, &link).unwrap();
    fs::hard_link(&path, &hard).unwrap();
    let moved = Scratch::new("d");
    for other in [&link, &hard, &path] {
        let same = Options::new().open(other).unwrap();
        assert_eq!(same.identity().unwrap(), first.identity().unwrap());
        same.map().unwrap().atomic_u32_at(0).unwrap().fetch_add(1, Ordering::AcqRel);
    }
    fs::rename(&path, &moved).unwrap();
    let same = Options::new().open(&moved).unwrap();
    assert_eq!(same.identity().unwrap(), first.identity().unwrap());
    assert_eq!(first.map().unwrap().load_u32_at(0), Some(3));
    // Closing one of them closes nothing of the others.
    drop(same);
    first.map().unwrap().write_at(0, b"x").unwrap();
    Ok(())
}

fn a_file_that_a_peer_has_cut_off_is_an_error_to_calls() -> Result<(), Skip> {
    let path = Scratch::new("cut");
    let file = Options::new().create(&path, 8192).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
    let error = file.read_at(0, &mut [0; 11]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated, "{error}");
    assert_eq!(file.window(0, 11).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(file.map().unwrap().len(), 10);
    Ok(())
}

/// Creates and removes a file, over and over, until it is killed.
fn generator(link: &Link) {
    let path = link.hear();
    link.say("running");
    loop {
        Options::new().create(&path, 100_000).unwrap();
        fs::remove_file(&path).unwrap();
    }
}

fn a_killed_creator_leaves_a_whole_file_or_none() -> Result<(), Skip> {
    let path = Scratch::new("killed");
    for _ in 0..20 {
        let peer = Peer::spawn("file::generator");
        peer.say(path.0.display());
        peer.expect("running");
        peer.kill();
        for entry in fs::read_dir(scratch()).unwrap().flatten() {
            // Without O_TMPFILE what is being made has a name of nobody's interest.
            if fallbacks_forced() && entry.file_name().to_string_lossy().starts_with(".sinew-") {
                fs::remove_file(entry.path()).unwrap();
                continue;
            }
            assert_eq!(entry.path(), path.0);
            assert_eq!(entry.metadata().unwrap().len(), 100_000);
        }
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

fn what_is_no_regular_file_is_refused() -> Result<(), Skip> {
    let fifo = Scratch::new("fifo");
    mknodat(CWD, &fifo.0, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for path in [fifo.0.as_path(), Path::new("/dev/null"), &scratch()] {
        let error = Options::new().open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let error = Options::new().take(reader).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.to_string().contains("a pipe"), "{error}");
    Ok(())
}

fn a_full_disk_is_an_error_and_no_signal() -> Result<(), Skip> {
    let folder = scratch().join("small");
    fs::create_dir(&folder).unwrap();
    let small = c"size=64k,nr_inodes=100";
    if !sinew_testkit::census::can_be_private()
        || mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), Some(small)).is_err()
    {
        fs::remove_dir(&folder).unwrap();
        return skip("no small file system can be mounted here");
    }
    let path = folder.join("file");
    let error = Options::new().create(&path, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    for part in ["1048576", "65536 bytes"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    let file = Options::new().create(&path, 32768).unwrap();
    assert_eq!(file.grow(1 << 20).unwrap_err().kind(), ErrorKind::NoSpace);
    file.map().unwrap().write_at(0, &vec![1; 32768]).unwrap();
    drop(file);
    // What another program has made longer than the disk.
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(Options::new().open(&path).unwrap_err().kind(), ErrorKind::NoSpace);
    Options::new().sparse().open(&path).unwrap().map().unwrap();
    unmount(&folder, UnmountFlags::empty()).unwrap();
    fs::remove_dir(&folder).unwrap();
    Ok(())
}

fn a_file_open_for_reading_is_mapped_so() -> Result<(), Skip> {
    let path = Scratch::new("reader");
    fs::write(&path, b"public").unwrap();
    let file = Options::new().read_only().open(&path).unwrap();
    let map = file.map().unwrap();
    assert_eq!(map.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(file.write_at(0, b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    let own = file.map_with(mapping::Options::new().private()).unwrap();
    own.write_at(0, b"P").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"public");
    Ok(())
}

/// Does everything that has a fallback.
fn plain(link: &Link) {
    let folder = PathBuf::from(link.hear());
    let path = folder.join("file");
    let file = Options::new().durable().create(&path, 10_000).unwrap();
    let error = Options::new().create(&path, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    Options::new().replace(&path, 20_000, |file| file.write_at(0, b"new")).unwrap();
    assert!(file.is_unlinked().unwrap());
    let names: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["file"]);
    assert_eq!(fs::read(&path).unwrap()[..3], *b"new");
    fs::remove_file(&path).unwrap();
    link.say("done");
}

fn without_newer_features_it_works_too() -> Result<(), Skip> {
    for without in ["all", "none"] {
        let peer = Peer::spawn_with("file::plain", |c| {
            c.env("SINEW_WITHOUT", without);
        });
        peer.say(scratch().display());
        peer.expect("done");
        peer.join();
    }
    Ok(())
}
