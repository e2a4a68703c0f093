//! Memory that a process shares with its children.

use std::sync::atomic::Ordering;

use rustix::process::{WaitOptions, waitpid};
use sinew::{ErrorKind, anonymous, mapping};
use sinew_testkit::{Role, Skip, Test, roles, tests};

pub(crate) const TESTS: &[Test] = tests![
    a_forked_child_writes_what_its_parent_reads,
    a_private_map_is_a_childs_own,
    no_bytes_are_refused,
    more_than_all_memory_is_refused_by_name,
];
pub(crate) const ROLES: &[Role] = roles![];

/// Runs `child` in a forked process.
pub(crate) fn in_child(child: impl FnOnce()) {
    // SAFETY: a test has one thread, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => panic!("fork fails"),
        0 => {
            child();
            // SAFETY: ends the process without running what the test harness registered.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let pid = rustix::process::Pid::from_raw(pid);
            let (_, status) = waitpid(pid, WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0));
        }
    }
}

fn a_forked_child_writes_what_its_parent_reads() -> Result<(), Skip> {
    let map = anonymous::create(10_000).unwrap();
    in_child(|| {
        map.write_at(5000, b"from the child").unwrap();
        map.atomic_u32_at(0).unwrap().store(14, Ordering::Release);
    });
    let length = map.load_u32_at(0).unwrap() as usize;
    let mut words = vec![0; length];
    map.read_at(5000, &mut words).unwrap();
    assert_eq!(words, b"from the child");
    Ok(())
}

fn a_private_map_is_a_childs_own() -> Result<(), Skip> {
    let options = anonymous::Options::new().map_with(mapping::Options::new().private());
    let map = options.create(4096).unwrap();
    assert!(!map.is_shared());
    in_child(|| map.write_at(0, b"unseen").unwrap());
    let mut six = [0; 6];
    map.read_at(0, &mut six).unwrap();
    assert_eq!(six, [0; 6]);
    Ok(())
}

fn no_bytes_are_refused() -> Result<(), Skip> {
    let error = anonymous::create(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    Ok(())
}

fn more_than_all_memory_is_refused_by_name() -> Result<(), Skip> {
    for len in [1 << 50, usize::MAX] {
        let error = anonymous::create(len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    }
    Ok(())
}
