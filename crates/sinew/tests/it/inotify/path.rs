//! What stands at a path: replaced, linked elsewhere, gone, and there at last.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sinew::inotify::{Change, PathWatch};
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, steps, tests};

use super::{LONG, SHORT, folder, overflow};
use crate::pipe::until_asleep;

pub(crate) const TESTS: &[Test] = tests![
    a_file_replaced_by_rename_is_seen_each_time,
    a_written_file_is_told_when_its_writer_closes_it,
    a_killed_writer_closes_it_too,
    a_lock_file_comes_and_goes,
    other_files_do_not_matter,
    several_changes_are_the_newest,
    links_on_the_way_are_followed,
    a_link_to_nothing_is_no_file,
    links_in_a_circle_are_refused,
    folders_on_the_way_may_come_later,
    a_replaced_folder_is_followed,
    a_file_where_a_folder_should_be_is_nothing,
    a_socket_that_appears_ends_the_wait,
    what_is_there_already_is_not_waited_for,
    nothing_appears_and_the_wait_ends,
    no_moment_is_missed,
    what_is_watched_is_looked_at_afterwards,
    an_overflow_says_look,
    paths_without_a_name_are_refused,
];
pub(crate) const ROLES: &[Role] = roles![doer, waiter];

/// Does with files as it is told: `write PATH TEXT`, `rename FROM TO`, ...
fn doer(link: &Link) {
    let mut open = None;
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        let words: Vec<_> = words.split(' ').collect();
        match words[..] {
            ["write", path, text] => fs::write(path, text).unwrap(),
            ["rename", from, to] => fs::rename(from, to).unwrap(),
            ["begin", path] => {
                let mut file = File::create(path).unwrap();
                file.write_all(b"half").unwrap();
                open = Some(file);
            }
            ["end"] => drop(open.take()),
            ["remove", path] => fs::remove_file(path).unwrap(),
            ["exclusively", path] => drop(File::create_new(path).unwrap()),
            ["many", path] => {
                for _ in 0..100 {
                    drop(UnixListener::bind(path).unwrap());
                    link.say("bound");
                    link.expect("seen");
                    fs::remove_file(path).unwrap();
                    link.say("removed");
                    link.expect("again");
                }
            }
            _ => panic!("{words:?}"),
        }
        link.say("done");
    }
}

/// Waits for a path to be there.
fn waiter(link: &Link) {
    let watch = PathWatch::new(link.hear()).unwrap();
    link.say("waits");
    let there = watch.present().wait().unwrap();
    link.say(format!("{:?}", there.file_type().is_socket()));
}

/// Has the peer do it.
fn have(peer: &Peer, words: &str, paths: &[&Path]) {
    let paths: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
    peer.say(
        [&[verb], paths.as_slice(), &[rest][..usize::from(!rest.is_empty())]].concat().join(" "),
    );
    peer.expect("done");
}

fn nothing(watch: &PathWatch) {
    assert_eq!(watch.try_wait(), Err(WaitError::WouldBlock));
}

/// How many watches the kernel holds for it.
fn watches(watch: &PathWatch) -> usize {
    let path = format!("/proc/self/fdinfo/{}", watch.as_fd().as_raw_fd());
    fs::read_to_string(path).unwrap().lines().filter(|line| line.starts_with("inotify wd:")).count()
}

fn a_file_replaced_by_rename_is_seen_each_time() -> Result<(), Skip> {
    let folder = folder();
    let (config, new) = (folder.join("config"), folder.join("config.new"));
    fs::write(&config, "0").unwrap();
    let peer = Peer::spawn("inotify::path::doer");
    let watch = PathWatch::new(&config).unwrap();
    nothing(&watch);
    for round in 1..=50 {
        have(&peer, &format!("write {round}"), &[&new]);
        nothing(&watch);
        have(&peer, "rename", &[&new, &config]);
        assert_eq!(watch.wait(), Ok(Change::Replaced));
        assert_eq!(fs::read_to_string(&config).unwrap(), round.to_string());
        nothing(&watch);
    }
    Ok(())
}

fn a_written_file_is_told_when_its_writer_closes_it() -> Result<(), Skip> {
    let folder = folder();
    let config = folder.join("config");
    fs::write(&config, "0").unwrap();
    let peer = Peer::spawn("inotify::path::doer");
    let watch = PathWatch::new(&config).unwrap();
    have(&peer, "begin", &[&config]);
    nothing(&watch);
    have(&peer, "end", &[]);
    assert_eq!(watch.wait(), Ok(Change::Written));
    // Who only reads it changes nothing.
    fs::read(&config).unwrap();
    nothing(&watch);
    Ok(())
}

fn a_killed_writer_closes_it_too() -> Result<(), Skip> {
    let folder = folder();
    let config = folder.join("config");
    fs::write(&config, "whole").unwrap();
    let peer = Peer::spawn("inotify::path::doer");
    let watch = PathWatch::new(&config).unwrap();
    have(&peer, "begin", &[&config]);
    nothing(&watch);
    peer.kill();
    // So a file that is written in place may be half a file.
    assert_eq!(watch.wait_timeout(LONG), Ok(Change::Written));
    assert_eq!(fs::read_to_string(&config).unwrap(), "half");
    Ok(())
}

fn a_lock_file_comes_and_goes() -> Result<(), Skip> {
    let folder = folder();
    let lock = folder.join("lock");
    let peer = Peer::spawn("inotify::path::doer");
    let watch = PathWatch::new(&lock).unwrap();
    for _ in 0..20 {
        have(&peer, "exclusively", &[&lock]);
        // It was opened for writing, and closed.
        assert_eq!(watch.wait(), Ok(Change::Written));
        have(&peer, "remove", &[&lock]);
        assert_eq!(watch.wait(), Ok(Change::Removed));
    }
    have(&peer, "begin", &[&lock]);
    assert_eq!(watch.wait(), Ok(Change::Created));
    Ok(())
}

fn other_files_do_not_matter() -> Result<(), Skip> {
    let folder = folder();
    let watch = PathWatch::new(folder.join("config")).unwrap();
    for name in ["config.new", "confi", "Config", "config~"] {
        fs::write(folder.join(name), "x").unwrap();
        fs::remove_file(folder.join(name)).unwrap();
    }
    nothing(&watch);
    let start = Instant::now();
    fs::write(folder.join("other"), "x").unwrap();
    assert_eq!(watch.wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(start.elapsed() >= SHORT);
    Ok(())
}

fn several_changes_are_the_newest() -> Result<(), Skip> {
    let folder = folder();
    let config = folder.join("config");
    let watch = PathWatch::new(&config).unwrap();
    fs::write(&config, "1").unwrap();
    fs::remove_file(&config).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Removed));
    nothing(&watch);
    fs::write(&config, "2").unwrap();
    fs::remove_file(&config).unwrap();
    fs::write(&config, "3").unwrap();
    assert_eq!(watch.wait(), Ok(Change::Written));
    nothing(&watch);
    Ok(())
}

/// As Kubernetes mounts a configuration: `config -> ..data/config`, `..data -> v1`.
fn links_on_the_way_are_followed() -> Result<(), Skip> {
    let folder = folder();
    for version in ["v1", "v2", "v3"] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("config"), version).unwrap();
    }
    symlink("v1", folder.join("..data")).unwrap();
    symlink("..data/config", folder.join("config")).unwrap();
    let path = folder.join("config");
    let watch = PathWatch::new(&path).unwrap();
    assert_eq!(watches(&watch), 2, "the folder, and v1");
    for version in ["v2", "v3", "v1", "v2"] {
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        assert_eq!(watch.wait(), Ok(Change::Replaced));
        assert_eq!(fs::read_to_string(&path).unwrap(), version);
        assert_eq!(watches(&watch), 2);
        nothing(&watch);
        // It is the new one that is watched now.
        fs::write(folder.join(version).join("config"), version).unwrap();
        assert_eq!(watch.wait(), Ok(Change::Written));
        let other = if version == "v2" { "v1" } else { "v2" };
        fs::write(folder.join(other).join("config"), other).unwrap();
        nothing(&watch);
    }
    // A file in place of the link, and a link in place of the file, to an absolute path.
    fs::remove_file(&path).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Removed));
    symlink(folder.join("v3/config"), &path).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Replaced));
    fs::write(folder.join("v3/config"), "again").unwrap();
    assert_eq!(watch.wait(), Ok(Change::Written));
    Ok(())
}

fn a_link_to_nothing_is_no_file() -> Result<(), Skip> {
    let folder = folder();
    let path = folder.join("link");
    symlink("nowhere/file", &path).unwrap();
    let watch = PathWatch::new(&path).unwrap();
    assert_eq!(watch.present().try_wait().unwrap_err(), WaitError::WouldBlock);
    fs::create_dir(folder.join("nowhere")).unwrap();
    nothing(&watch);
    fs::write(folder.join("nowhere/file"), "x").unwrap();
    assert_eq!(watch.wait(), Ok(Change::Written));
    assert!(watch.present().try_wait().is_ok());
    fs::rename(folder.join("nowhere"), folder.join("elsewhere")).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Removed));
    Ok(())
}

fn links_in_a_circle_are_refused() -> Result<(), Skip> {
    let folder = folder();
    symlink("b", folder.join("a")).unwrap();
    symlink("a", folder.join("b")).unwrap();
    let error = PathWatch::new(folder.join("a")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    Ok(())
}

fn folders_on_the_way_may_come_later() -> Result<(), Skip> {
    let folder = folder();
    let path = folder.join("run/app/socket");
    let watch = PathWatch::new(&path).unwrap();
    fs::create_dir(folder.join("run")).unwrap();
    nothing(&watch);
    fs::create_dir(folder.join("run/app")).unwrap();
    nothing(&watch);
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Created));
    drop(listener);
    // All of it goes, and comes at once.
    fs::remove_dir_all(folder.join("run")).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Removed));
    nothing(&watch);
    fs::create_dir_all(folder.join("run/app")).unwrap();
    fs::write(&path, "x").unwrap();
    assert!(matches!(watch.wait(), Ok(Change::Replaced | Change::Written)));
    Ok(())
}

fn a_replaced_folder_is_followed() -> Result<(), Skip> {
    let folder = folder();
    for name in ["a", "b"] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("config"), name).unwrap();
    }
    let path = folder.join("a/config");
    let watch = PathWatch::new(&path).unwrap();
    fs::rename(folder.join("a"), folder.join("old")).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Removed));
    fs::rename(folder.join("b"), folder.join("a")).unwrap();
    assert_eq!(watch.wait(), Ok(Change::Replaced));
    fs::write(folder.join("old/config"), "x").unwrap();
    nothing(&watch);
    fs::write(&path, "y").unwrap();
    assert_eq!(watch.wait(), Ok(Change::Written));
    Ok(())
}

fn a_file_where_a_folder_should_be_is_nothing() -> Result<(), Skip> {
    let folder = folder();
    fs::write(folder.join("app"), "a file").unwrap();
    let path: PathBuf = folder.join("app/config");
    let watch = PathWatch::new(&path).unwrap();
    assert_eq!(watch.present().try_wait().unwrap_err(), WaitError::WouldBlock);
    fs::remove_file(folder.join("app")).unwrap();
    nothing(&watch);
    fs::create_dir(folder.join("app")).unwrap();
    fs::write(&path, "x").unwrap();
    assert!(watch.present().wait().unwrap().is_file());
    Ok(())
}

fn a_socket_that_appears_ends_the_wait() -> Result<(), Skip> {
    let folder = folder();
    let path = folder.join("socket");
    let peer = Peer::spawn("inotify::path::waiter");
    peer.say(path.display());
    peer.expect("waits");
    until_asleep(peer.pid());
    let _listener = UnixListener::bind(&path).unwrap();
    peer.expect("true");
    peer.join();
    Ok(())
}

fn what_is_there_already_is_not_waited_for() -> Result<(), Skip> {
    let folder = folder();
    let path = folder.join("fifo");
    sinew::fifo::Options::new().create(&path).unwrap();
    let watch = PathWatch::new(&path).unwrap();
    assert!(watch.present().try_wait().unwrap().file_type().is_fifo());
    assert_eq!(watch.path(), path);
    Ok(())
}

fn nothing_appears_and_the_wait_ends() -> Result<(), Skip> {
    let folder = folder();
    let watch = PathWatch::new(folder.join("socket")).unwrap();
    let start = Instant::now();
    fs::write(folder.join("other"), "").unwrap();
    assert_eq!(watch.present().wait_timeout(SHORT).unwrap_err(), WaitError::TimedOut);
    assert!(start.elapsed() >= SHORT);
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let view = watch.present();
        let stop_ref = &stop;
        let waits = s.spawn(move || view.wait_for(Wait::timeout(LONG).interrupted_by(stop_ref)));
        stop.trigger();
        assert_eq!(waits.join().unwrap().unwrap_err(), WaitError::Interrupted);
    });
    Ok(())
}

fn no_moment_is_missed() -> Result<(), Skip> {
    let folder = folder();
    let path = folder.join("socket");
    let peer = Peer::spawn("inotify::path::doer");
    peer.say(format!("many {}", path.display()));
    for round in 0..100 {
        // The peer binds at any moment of this.
        let watch = PathWatch::new(&path).unwrap();
        if round % 2 == 0 {
            assert!(watch.present().wait_timeout(LONG).is_ok());
        } else {
            assert!(watch.present().wait().is_ok());
        }
        peer.expect("bound");
        peer.say("seen");
        peer.expect("removed");
        // Its event may have come after the look that found it.
        let mut change = watch.wait_timeout(LONG);
        if change == Ok(Change::Created) {
            change = watch.wait_timeout(LONG);
        }
        assert_eq!(change, Ok(Change::Removed));
        peer.say("again");
    }
    peer.expect("done");
    Ok(())
}

fn what_is_watched_is_looked_at_afterwards() -> Result<(), Skip> {
    let folder = folder();
    let path = folder.join("socket");
    let calls = |operation: &mut dyn FnMut()| {
        let steps = steps::measure(1, operation).ok()?;
        Some(steps.calls.iter().map(|call| call.number).collect::<Vec<_>>())
    };
    let watch = PathWatch::new(&path).unwrap();
    let looks = calls(&mut || assert!(watch.present().try_wait().is_err()));
    let starts = calls(&mut || drop(PathWatch::new(&path).unwrap()));
    let (Some(looks), Some(starts)) = (looks, starts) else {
        return skip("this process may not trace its own child");
    };
    // An event that is taken after the look would be lost.
    assert_eq!(looks, [libc::SYS_read, libc::SYS_statx]);
    let last = |number| starts.iter().rposition(|call| *call == number).unwrap();
    assert!(last(libc::SYS_inotify_add_watch) < last(libc::SYS_readlinkat), "{starts:?}");
    assert!(last(libc::SYS_readlinkat) < last(libc::SYS_statx), "{starts:?}");
    Ok(())
}

fn an_overflow_says_look() -> Result<(), Skip> {
    let folder = folder();
    let watch = PathWatch::new(folder.join("config")).unwrap();
    // Of what this watches: each of these is one event.
    let most = overflow(&folder)?;
    for n in 0..most {
        fs::rename(folder.join(["one", "three"][n % 2]), folder.join(["three", "one"][n % 2]))
            .unwrap();
    }
    fs::write(folder.join("config"), "x").unwrap();
    loop {
        match watch.try_wait() {
            Ok(Change::Lost) => break,
            done => {
                assert_eq!(done, Err(WaitError::WouldBlock), "the end of the queue comes later")
            }
        }
    }
    fs::write(folder.join("config"), "y").unwrap();
    assert_eq!(watch.wait(), Ok(Change::Written));
    Ok(())
}

fn paths_without_a_name_are_refused() -> Result<(), Skip> {
    for path in ["/", "..", "/..", ""] {
        let error = PathWatch::new(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}: {error}");
    }
    Ok(())
}
