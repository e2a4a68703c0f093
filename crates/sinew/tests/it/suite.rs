//! The suite itself: what a killed run leaves, the next one sweeps.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use sinew_testkit::folder::{self, Folder};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

use crate::pipe::stop;

pub(crate) const TESTS: &[Test] = tests![
    folders_of_killed_runs_are_swept_and_those_of_live_ones_stay,
    a_run_sweeps_when_it_starts,
    what_is_no_folder_of_a_test_stays,
    many_make_and_sweep_at_once,
];
pub(crate) const ROLES: &[Role] = roles![keeper, maker];

/// Has a folder with something in it, until it is told to end.
fn keeper(link: &Link) {
    let folder = Folder::new().unwrap();
    std::fs::create_dir(folder.path().join("scratch")).unwrap();
    std::fs::write(folder.path().join("scratch/left"), "left").unwrap();
    link.say(folder.path().display());
    let _ = link.try_receive();
}

/// A peer with a folder, in the scratch folder of this test.
fn with_folder() -> (Peer, PathBuf) {
    let peer = Peer::spawn("suite::keeper");
    let path = PathBuf::from(peer.hear());
    assert!(path.starts_with(scratch()), "{path:?}");
    (peer, path)
}

fn folders_of_killed_runs_are_swept_and_those_of_live_ones_stay() -> Result<(), Skip> {
    let (alive, kept) = with_folder();
    let (dead, left) = with_folder();
    let (stopped, slow) = with_folder();
    stop(&stopped);
    dead.kill();
    assert!(left.join("scratch/left").exists());
    folder::sweep();
    assert!(!left.exists());
    for folder in [&kept, &slow] {
        assert_eq!(std::fs::read(folder.join("scratch/left")).unwrap(), b"left");
    }
    stopped.signal(Signal::CONT);
    for peer in [alive, stopped] {
        peer.say("end");
        peer.join();
    }
    // They have removed their own.
    assert!(!kept.exists() && !slow.exists());
    Ok(())
}

fn a_run_sweeps_when_it_starts() -> Result<(), Skip> {
    let (dead, left) = with_folder();
    dead.kill();
    let mut run = Command::new("/proc/self/exe");
    run.env_remove("SINEW_TEST_CASE").arg("no test has this name").stdout(Stdio::null());
    assert!(run.status().unwrap().success());
    assert!(!left.exists());
    Ok(())
}

fn what_is_no_folder_of_a_test_stays() -> Result<(), Skip> {
    let (dead, left) = with_folder();
    dead.kill();
    let named = |name: &str| scratch().join(name);
    // Another's, though it is named so; a link to one that was left; one without a name of ours.
    std::fs::create_dir(named("sinew-test-another")).unwrap();
    std::fs::write(named("sinew-test-another/precious"), "").unwrap();
    std::fs::create_dir(named("other")).unwrap();
    std::fs::rename(&left, named("moved")).unwrap();
    std::os::unix::fs::symlink(named("moved"), named("sinew-test-link")).unwrap();
    // One that its maker made, and came no further.
    std::fs::create_dir(named("sinew-test-begun")).unwrap();
    folder::sweep();
    assert!(named("sinew-test-another/precious").exists());
    assert!(named("moved/scratch/left").exists());
    assert!(named("other").exists());
    assert!(!named("sinew-test-begun").exists());
    std::fs::remove_file(named("sinew-test-link")).unwrap();
    for folder in ["sinew-test-another", "moved", "other"] {
        std::fs::remove_dir_all(named(folder)).unwrap();
    }
    Ok(())
}

const ROUNDS: usize = 300;

/// Makes folders, uses them, sweeps, and removes them.
fn maker(link: &Link) {
    for _ in 0..ROUNDS {
        let folder = Folder::new().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        folder::sweep();
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    }
    link.say("done");
}

fn many_make_and_sweep_at_once() -> Result<(), Skip> {
    let peers: Vec<_> = (0..4).map(|_| Peer::spawn("suite::maker")).collect();
    for peer in peers {
        peer.expect("done");
        peer.join();
    }
    // What one sweep took from another before it was in use is nobody's.
    folder::sweep();
    assert_eq!(std::fs::read_dir(scratch()).unwrap().count(), 0);
    Ok(())
}
