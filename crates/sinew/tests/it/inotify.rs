//! Events of files and folders: typed, whole, lost ones told, limits named.

pub(crate) mod path;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use sinew::inotify::{Inotify, Interest, What};
use sinew::limits::Limit;
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, steps, tests};

use crate::pipe::{flags, until_asleep};
use crate::posix_mq::alone;

pub(crate) const TESTS: &[Test] = tests![
    each_event_has_its_type,
    names_are_bytes,
    the_halves_of_a_rename_have_one_cookie,
    what_is_watched_is_the_object,
    one_object_is_watched_once,
    an_ended_watch_says_so,
    flags_of_a_watch_hold,
    what_cannot_be_watched_says_why,
    many_events_are_one_system_call,
    all_events_arrive_in_order,
    bounded_waits_end,
    a_wait_sleeps_until_the_peer_acts,
    of_many_readers_one_has_it_and_none_hangs,
    an_overflow_is_an_event,
    too_many_watches_name_the_limit,
    too_many_instances_name_the_limit,
    no_descriptor_names_another_limit,
    it_is_pollable_close_on_exec_and_non_blocking,
    a_foreign_instance_is_taken_if_it_does_not_block,
];
pub(crate) const ROLES: &[Role] = roles![waiter];

pub(crate) const SHORT: Duration = Duration::from_millis(10);
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A new folder, which goes with all that is in it.
pub(crate) struct Folder(tempfile::TempDir);

pub(crate) fn folder() -> Folder {
    Folder(tempfile::tempdir_in(scratch()).unwrap())
}

impl std::ops::Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.path()
    }
}

impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        self
    }
}

/// What has happened, with its name.
fn happened(inotify: &Inotify) -> Vec<(What, String)> {
    let mut all = Vec::new();
    while let Ok(events) = inotify.try_wait() {
        all.extend(events.iter().map(|event| {
            (event.what(), event.name().unwrap_or_default().to_str().unwrap().to_owned())
        }));
    }
    all
}

fn waiter(link: &Link) {
    let inotify = Inotify::new().unwrap();
    inotify.watch(link.hear(), Interest::CREATED).unwrap();
    link.say("waits");
    for event in &inotify.wait().unwrap() {
        link.say(format!("{:?} {:?}", event.what(), event.name().unwrap()));
    }
}

fn each_event_has_its_type() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&folder, Interest::ALL).unwrap();
    let file = folder.join("f");
    fs::write(&file, "text").unwrap();
    let created = [What::Created, What::Opened, What::Modified, What::Written];
    assert_eq!(happened(&inotify), created.map(|what| (what, "f".into())));
    fs::read(&file).unwrap();
    let read = [What::Opened, What::Accessed, What::Closed];
    assert_eq!(happened(&inotify), read.map(|what| (what, "f".into())));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&file).unwrap();
    let gone = [What::Attributes, What::Deleted];
    assert_eq!(happened(&inotify), gone.map(|what| (what, "f".into())));
    fs::create_dir(folder.join("sub")).unwrap();
    let events = inotify.wait().unwrap();
    assert!(events.iter().next().unwrap().is_folder());
    fs::remove_dir(folder.join("sub")).unwrap();
    assert_eq!(happened(&inotify), [(What::Deleted, "sub".into())]);
    let moved = scratch().join("moved");
    fs::rename(&folder, &moved).unwrap();
    fs::remove_dir(&moved).unwrap();
    let ends = [What::SelfMoved, What::SelfDeleted, What::Ignored];
    assert_eq!(happened(&inotify), ends.map(|what| (what, String::new())));
    Ok(())
}

fn names_are_bytes() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&folder, Interest::CREATED).unwrap();
    let names = [vec![0xff, b'\n', 0x80], vec![b'x'; 255], vec![b'y'; 16], vec![b'z'; 15]];
    for name in &names {
        File::create(folder.join(OsStr::from_bytes(name))).unwrap();
    }
    let events = inotify.wait().unwrap();
    let seen: Vec<_> = events.iter().map(|event| event.name().unwrap().as_bytes()).collect();
    assert_eq!(seen, names);
    Ok(())
}

fn the_halves_of_a_rename_have_one_cookie() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(folder.join(name)).unwrap();
        File::create(folder.join(name).join("file")).unwrap();
    }
    let a = inotify.watch(folder.join("a"), Interest::MOVED).unwrap();
    let b = inotify.watch(folder.join("b"), Interest::MOVED).unwrap();
    fs::rename(folder.join("a/file"), folder.join("b/other")).unwrap();
    fs::rename(folder.join("b/file"), folder.join("outside")).unwrap();
    let events = inotify.wait().unwrap();
    let mut seen = Vec::new();
    let mut cookies = Vec::new();
    for event in &events {
        let (what, cookie) = match event.what() {
            What::MovedFrom(cookie) => ("from", cookie),
            What::MovedTo(cookie) => ("to", cookie),
            other => panic!("{other:?}"),
        };
        seen.push((what, event.watch().unwrap(), event.name().unwrap()));
        cookies.push(cookie);
    }
    let name = |name| OsStr::new(name);
    let all = [("from", a, name("file")), ("to", b, name("other")), ("from", b, name("file"))];
    assert_eq!(seen, all);
    assert_eq!(cookies[0], cookies[1]);
    assert_ne!(cookies[1], cookies[2]);
    Ok(())
}

fn what_is_watched_is_the_object() -> Result<(), Skip> {
    let folder = folder();
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&file, Interest::WRITTEN | Interest::ITSELF).unwrap();
    fs::write(&file, "1").unwrap();
    assert_eq!(happened(&inotify), [(What::Written, String::new())]);
    fs::write(folder.join("new"), "2").unwrap();
    fs::rename(folder.join("new"), &file).unwrap();
    let ends = [What::SelfDeleted, What::Ignored].map(|what| (what, String::new()));
    assert_eq!(happened(&inotify), ends);
    fs::write(&file, "3").unwrap();
    assert_eq!(happened(&inotify), [], "the new file is another one");
    Ok(())
}

fn one_object_is_watched_once() -> Result<(), Skip> {
    let folder = folder();
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    fs::hard_link(&file, folder.join("link")).unwrap();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&file, Interest::WRITTEN).unwrap();
    let error = inotify.watch(folder.join("link"), Interest::OPENED).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("watches it already"), "{error}");
    fs::write(&file, "1").unwrap();
    assert_eq!(happened(&inotify), [(What::Written, String::new())], "the first one holds");
    Ok(())
}

fn an_ended_watch_says_so() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    let watch = inotify.watch(&folder, Interest::CREATED).unwrap();
    File::create(folder.join("before")).unwrap();
    inotify.unwatch(watch).unwrap();
    File::create(folder.join("after")).unwrap();
    let all = [(What::Created, "before".into()), (What::Ignored, String::new())];
    assert_eq!(happened(&inotify), all);
    let error = inotify.unwatch(watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let again = inotify.watch(&folder, Interest::CREATED).unwrap();
    assert_ne!(again, watch, "a late event of the old one is not taken for one of the new one");
    Ok(())
}

fn flags_of_a_watch_hold() -> Result<(), Skip> {
    let folder = folder();
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let inotify = Inotify::new().unwrap();
    let error = inotify.watch(&file, Interest::ALL.only_folder()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let link = folder.join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    inotify.watch(&link, Interest::ITSELF.no_follow()).unwrap();
    fs::rename(&link, folder.join("renamed")).unwrap();
    assert_eq!(happened(&inotify), [(What::SelfMoved, String::new())]);
    inotify.watch(&file, Interest::WRITTEN.one_shot()).unwrap();
    fs::write(&file, "1").unwrap();
    fs::write(&file, "2").unwrap();
    let once = [What::Written, What::Ignored].map(|what| (what, String::new()));
    assert_eq!(happened(&inotify), once);
    inotify.watch(&folder, Interest::MODIFIED.named_only()).unwrap();
    let mut open = File::create(folder.join("open")).unwrap();
    fs::remove_file(folder.join("open")).unwrap();
    std::io::Write::write_all(&mut open, b"x").unwrap();
    assert_eq!(happened(&inotify), []);
    Ok(())
}

fn what_cannot_be_watched_says_why() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    let error = inotify.watch(folder.join("none"), Interest::ALL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/none\""), "{error}");
    let error = inotify.watch("nul\0", Interest::ALL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o300)).unwrap();
        let error = inotify.watch(&folder, Interest::ALL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("readable"), "{error}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    Ok(())
}

fn many_events_are_one_system_call() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&folder, Interest::CREATED | Interest::DELETED).unwrap();
    let files: Vec<_> = (0..50).map(|n| folder.join(format!("{n}"))).collect();
    let run = steps::measure(1, || {
        for file in &files {
            rustix::fs::mknodat(rustix::fs::CWD, file, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .unwrap();
            rustix::fs::unlink(file).unwrap();
        }
        assert_eq!(inotify.wait().unwrap().iter().count(), 100);
    });
    let Ok(run) = run else { return skip("this process may not trace its own child") };
    let numbers: Vec<_> = run.calls.iter().map(|call| call.number).collect();
    assert_eq!(numbers[numbers.len() - 1], libc::SYS_read);
    assert_eq!(numbers.len(), 101, "two for each file, and the read");
    Ok(())
}

fn all_events_arrive_in_order() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&folder, Interest::CREATED).unwrap();
    for n in 0..1000 {
        File::create(folder.join(format!("{n:0width$}", width = 1 + n % 200))).unwrap();
    }
    let seen = happened(&inotify);
    assert_eq!(seen.len(), 1000);
    for (n, (what, name)) in seen.into_iter().enumerate() {
        assert_eq!((what, name), (What::Created, format!("{n:0width$}", width = 1 + n % 200)));
    }
    Ok(())
}

fn bounded_waits_end() -> Result<(), Skip> {
    let inotify = Inotify::new().unwrap();
    inotify.watch(scratch(), Interest::CREATED).unwrap();
    assert_eq!(inotify.try_wait().unwrap_err(), WaitError::WouldBlock);
    let start = Instant::now();
    assert_eq!(inotify.wait_timeout(SHORT).unwrap_err(), WaitError::TimedOut);
    assert!(start.elapsed() >= SHORT);
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let waits = s.spawn(|| inotify.wait_for(Wait::timeout(LONG).interrupted_by(&stop)));
        stop.trigger();
        assert_eq!(waits.join().unwrap().unwrap_err(), WaitError::Interrupted);
    });
    Ok(())
}

fn a_wait_sleeps_until_the_peer_acts() -> Result<(), Skip> {
    let folder = folder();
    let peer = Peer::spawn("inotify::waiter");
    peer.say(folder.display());
    peer.expect("waits");
    until_asleep(peer.pid());
    File::create(folder.join("lock")).unwrap();
    peer.expect("Created \"lock\"");
    peer.join();
    Ok(())
}

fn of_many_readers_one_has_it_and_none_hangs() -> Result<(), Skip> {
    const MADE: usize = 200;
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&folder, Interest::CREATED).unwrap();
    let taken = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                while taken.load(Ordering::Relaxed) < MADE {
                    match inotify.wait_timeout(SHORT) {
                        Ok(events) => {
                            taken.fetch_add(events.iter().count(), Ordering::Relaxed);
                        }
                        Err(error) => assert_eq!(error, WaitError::TimedOut),
                    }
                }
            });
        }
        for n in 0..MADE {
            File::create(folder.join(n.to_string())).unwrap();
        }
    });
    assert_eq!(taken.into_inner(), MADE);
    Ok(())
}

/// Makes more events than a queue holds; equal neighbours would be merged. Says how many it holds.
pub(crate) fn overflow(folder: &Path) -> Result<usize, Skip> {
    let most = Limit::InotifyMaxQueuedEvents.value().unwrap_or(u64::MAX);
    let Ok(most) = usize::try_from(most.min(200_000)) else { unreachable!() };
    if most == 200_000 {
        return skip("fs.inotify.max_queued_events is too high to fill").map(|()| 0);
    }
    let files = ["one", "two"].map(|name| folder.join(name));
    for file in &files {
        File::create(file).unwrap();
    }
    for n in 0..most {
        File::open(&files[n % 2]).unwrap();
    }
    Ok(most)
}

fn an_overflow_is_an_event() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&folder, Interest::ALL).unwrap();
    let most = overflow(&folder)?;
    let mut seen = 0;
    let mut last = None;
    while let Ok(events) = inotify.try_wait() {
        for event in &events {
            seen += 1;
            last = Some((event.what(), event.watch(), event.name().map(OsStr::to_owned)));
        }
    }
    assert_eq!(last, Some((What::Overflow, None, None)));
    assert_eq!(seen, most + 1, "so many, and that it overflowed");
    // It goes on.
    File::create(folder.join("three")).unwrap();
    assert!(happened(&inotify).contains(&(What::Created, "three".into())));
    Ok(())
}

/// Lowers a limit of this user namespace.
fn lower(limit: &str, value: u64) {
    fs::write(format!("/proc/sys/user/{limit}"), value.to_string()).unwrap();
}

fn too_many_watches_name_the_limit() -> Result<(), Skip> {
    let folder = folder();
    for name in ["a", "b", "c"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    alone()?;
    lower("max_inotify_watches", 2);
    let inotify = Inotify::new().unwrap();
    inotify.watch(folder.join("a"), Interest::ALL).unwrap();
    let b = inotify.watch(folder.join("b"), Interest::ALL).unwrap();
    let error = inotify.watch(folder.join("c"), Interest::ALL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let text = error.to_string();
    assert!(text.contains("fs.inotify.max_user_watches (") && text.contains("sysctl -w"), "{text}");
    inotify.unwatch(b).unwrap();
    inotify.watch(folder.join("c"), Interest::ALL).unwrap();
    Ok(())
}

fn too_many_instances_name_the_limit() -> Result<(), Skip> {
    alone()?;
    lower("max_inotify_instances", 2);
    let _two = [Inotify::new().unwrap(), Inotify::new().unwrap()];
    let error = Inotify::new().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("fs.inotify.max_user_instances ("), "{error}");
    Ok(())
}

fn no_descriptor_names_another_limit() -> Result<(), Skip> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum }).unwrap();
    let error = Inotify::new().unwrap_err();
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE (0)"), "{error}");
    Ok(())
}

fn it_is_pollable_close_on_exec_and_non_blocking() -> Result<(), Skip> {
    let folder = folder();
    let inotify = Inotify::new().unwrap();
    inotify.watch(&folder, Interest::CREATED).unwrap();
    assert_eq!(rustix::io::fcntl_getfd(&inotify).unwrap(), FdFlags::CLOEXEC);
    assert!(flags(&inotify).contains(OFlags::NONBLOCK));
    let mut fds = [PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec::default())), Ok(0));
    File::create(folder.join("file")).unwrap();
    assert_eq!(poll(&mut fds, None), Ok(1));
    let _ = inotify.wait().unwrap();
    assert_eq!(poll(&mut fds, Some(&Timespec::default())), Ok(0));
    Ok(())
}

fn a_foreign_instance_is_taken_if_it_does_not_block() -> Result<(), Skip> {
    use rustix::fs::inotify::{CreateFlags, init};
    let own = Inotify::new().unwrap();
    let folder = folder();
    own.watch(&folder, Interest::CREATED).unwrap();
    let back = Inotify::try_from(OwnedFd::from(own)).unwrap();
    File::create(folder.join("file")).unwrap();
    assert_eq!(happened(&back), [(What::Created, "file".into())]);
    let error = Inotify::try_from(init(CreateFlags::CLOEXEC).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("it blocks"), "{error}");
    let (rx, _tx) = std::io::pipe().unwrap();
    let error = Inotify::try_from(OwnedFd::from(rx)).unwrap_err();
    assert!(error.to_string().contains("not an inotify instance"), "{error}");
    Ok(())
}
