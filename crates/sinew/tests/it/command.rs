//! What a child is started with: descriptors at their numbers and nothing else, activated sockets,
//! and the death of its parent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, pipe, read_to_string};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sinew::ErrorKind;
use sinew::command::{self, CommandExt};
use sinew::inet::{self, Listener};
use sinew::signal::{Set, Signal};
use sinew::wait::{Accepts, Receives};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, scratch, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    any_permutation_of_descriptors_arrives,
    two_descriptors_swap_their_numbers,
    three_descriptors_rotate_the_lowest_numbers,
    a_number_that_becomes_free_is_not_where_the_next_one_waits,
    the_last_one_for_a_number_counts,
    a_grant_comes_before_stdio,
    a_command_starts_again_with_the_same,
    numbers_that_cannot_be_are_refused,
    a_failed_start_is_told_and_leaves_nothing,
    the_error_channel_of_std_is_never_overwritten,
    only_what_is_kept_goes_along,
    a_child_takes_its_descriptor_once,
    what_this_process_opened_is_not_inherited,
    a_child_dies_with_its_parent,
    a_child_of_a_parent_that_is_dead_already_never_starts,
    a_program_starts_with_no_signal_blocked,
    a_shell_understands_activation,
    a_python_server_understands_activation,
    an_activated_program_takes_its_listener,
    a_program_activated_by_systemd_takes_its_listener,
    activation_keeps_the_environment_of_the_command,
    a_failed_activation_is_told_and_leaves_nothing,
    activation_for_another_process_is_not_ours,
    names_that_activation_cannot_carry_are_refused,
];
pub(crate) const ROLES: &[Role] =
    roles![inheritor, starter, late_starter, activated, activated_by_systemd, activated_wrongly];

/// A file that tells by its name which it is.
fn marked(name: usize) -> OwnedFd {
    memfd_create(format!("m{name}"), MemfdFlags::CLOEXEC).unwrap()
}

/// What the child finds: number -> target, without what `ls` opens to read the folder.
fn listing(command: &mut Command) -> BTreeMap<RawFd, String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let (left, target) = line.split_once(" -> ")?;
            let number = left.rsplit(' ').next()?.parse().ok()?;
            let reading = target.starts_with("/proc/") && target.ends_with("/fd");
            (!reading).then(|| (number, target.to_owned()))
        })
        .collect()
}

fn ls() -> Command {
    let mut command = Command::new("ls");
    command.args(["-l", "/proc/self/fd"]);
    command
}

/// What whoever runs the tests let into this process goes no further.
fn stop_what_was_inherited() {
    // SAFETY: close_range(2) takes three numbers, and closes nothing with this flag.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    assert_eq!(done, 0);
}

fn any_permutation_of_descriptors_arrives() -> Result<(), Skip> {
    stop_what_was_inherited();
    // Numbers here and numbers there, both from the same small range, so that they overlap.
    let range: Vec<RawFd> = (40..48).collect();
    let strategy = (1..=range.len()).prop_flat_map(move |count| {
        (
            Just(range.clone()).prop_shuffle().prop_map(move |mut v| {
                v.truncate(count);
                v
            }),
            Just((3..9).chain(38..50).collect::<Vec<RawFd>>()).prop_shuffle().prop_map(
                move |mut v| {
                    v.truncate(count);
                    v
                },
            ),
            prop::bool::ANY,
        )
    });
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let before = census::descriptors();
    TestRunner::new(config)
        .run(&strategy, |(here, there, keep)| {
            let mut command = ls();
            let sources: Vec<OwnedFd> = here
                .iter()
                .enumerate()
                .map(|(name, number)| {
                    let placed = fcntl_dupfd_cloexec(marked(name), *number).unwrap();
                    assert_eq!(placed.as_raw_fd(), *number);
                    placed
                })
                .collect();
            for (fd, number) in sources.into_iter().zip(&there) {
                command.fd(*number, fd).unwrap();
            }
            if keep {
                command.keep_only(there.iter().copied());
            }
            let mut seen = listing(&mut command);
            for standard in 0..3 {
                seen.remove(&standard);
            }
            let expected: BTreeMap<RawFd, String> = there
                .iter()
                .enumerate()
                .map(|(name, number)| (*number, format!("/memfd:m{name} (deleted)")))
                .collect();
            prop_assert_eq!(seen, expected);
            drop(command);
            prop_assert_eq!(census::descriptors(), before.clone());
            Ok(())
        })
        .unwrap();
    Ok(())
}

fn two_descriptors_swap_their_numbers() -> Result<(), Skip> {
    let (a, b) = (marked(0), marked(1));
    let (number_a, number_b) = (a.as_raw_fd(), b.as_raw_fd());
    let mut command = ls();
    command.fd(number_b, a).unwrap().fd(number_a, b).unwrap();
    let seen = listing(&mut command);
    assert_eq!(seen[&number_b], "/memfd:m0 (deleted)");
    assert_eq!(seen[&number_a], "/memfd:m1 (deleted)");
    Ok(())
}

fn three_descriptors_rotate_the_lowest_numbers() -> Result<(), Skip> {
    // The numbers that they leave are the ones that std would take for itself.
    let fds = [marked(0), marked(1), marked(2)];
    let numbers = fds.each_ref().map(AsRawFd::as_raw_fd);
    // No pipes for its output: they would take those numbers first.
    let script = r#"
        at() { readlink "/proc/$$/fd/$1"; }
        test "$(at $1)" = "/memfd:m2 (deleted)" || exit 2
        test "$(at $2)" = "/memfd:m0 (deleted)" || exit 3
        test "$(at $3)" = "/memfd:m1 (deleted)" || exit 4
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(numbers.map(|n| n.to_string()));
    for (index, fd) in fds.into_iter().enumerate() {
        command.fd(numbers[(index + 1) % 3], fd).unwrap();
    }
    assert_eq!(command.status().unwrap().code(), Some(0));
    Ok(())
}

fn a_number_that_becomes_free_is_not_where_the_next_one_waits() -> Result<(), Skip> {
    let (first, second) = (marked(8), marked(9));
    let (one, two) = (first.as_raw_fd(), second.as_raw_fd());
    let (a, b) = (marked(0), marked(1));
    let mut command = ls();
    command.fd(one, a).unwrap();
    // The lowest free number now is one that the child gets something else at.
    drop(first);
    command.fd(two, b).unwrap();
    let seen = listing(&mut command);
    assert_eq!(seen[&one], "/memfd:m0 (deleted)");
    assert_eq!(seen[&two], "/memfd:m1 (deleted)");
    Ok(())
}

fn the_last_one_for_a_number_counts() -> Result<(), Skip> {
    let mut command = ls();
    command.fd(9, marked(0)).unwrap().fd(9, marked(1)).unwrap();
    assert_eq!(listing(&mut command)[&9], "/memfd:m1 (deleted)");
    // The same where something of this process has the number.
    let own = marked(7);
    let number = own.as_raw_fd();
    let mut command = ls();
    command.fd(number, marked(0)).unwrap().fd(number, marked(1)).unwrap();
    assert_eq!(listing(&mut command)[&number], "/memfd:m1 (deleted)");
    // And where that is closed in between.
    let mut command = ls();
    command.fd(number, marked(0)).unwrap();
    drop(own);
    command.fd(number, marked(1)).unwrap();
    assert_eq!(listing(&mut command)[&number], "/memfd:m1 (deleted)");
    Ok(())
}

fn a_grant_comes_before_stdio() -> Result<(), Skip> {
    let (mut rx, tx) = pipe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo out"]).stdout(Stdio::null()).fd(1, tx).unwrap();
    assert!(command.status().unwrap().success());
    drop(command);
    let mut text = String::new();
    rx.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\n");
    Ok(())
}

fn a_command_starts_again_with_the_same() -> Result<(), Skip> {
    let (rx, tx) = pipe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "printf x >&5"]).fd(5, tx).unwrap();
    for _ in 0..3 {
        assert!(command.status().unwrap().success());
    }
    drop(command);
    assert_eq!(read_to_string(rx).unwrap(), "xxx");
    Ok(())
}

fn numbers_that_cannot_be_are_refused() -> Result<(), Skip> {
    let before = census::descriptors();
    let mut command = Command::new("true");
    let error = command.fd(-1, marked(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = command.fd(RawFd::MAX, marked(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    assert_eq!(census::descriptors(), before);
    Ok(())
}

fn a_failed_start_is_told_and_leaves_nothing() -> Result<(), Skip> {
    let before = census::descriptors();
    let (rx, tx) = pipe().unwrap();
    let mut command = Command::new("/nowhere/no-such-program");
    // Everything around the numbers that std is going to use.
    for number in 3..16 {
        command.fd(number, tx.try_clone().unwrap()).unwrap();
    }
    drop(tx);
    assert_eq!(command.spawn().unwrap_err().kind(), std::io::ErrorKind::NotFound);
    drop(command);
    assert_eq!(read_to_string(rx).unwrap(), "", "nothing of std's report came here");
    assert_eq!(census::descriptors(), before);
    Ok(())
}

fn the_error_channel_of_std_is_never_overwritten() -> Result<(), Skip> {
    let (rx, tx) = pipe().unwrap();
    // The lowest free numbers, which std will use, are taken now and free at the start.
    let takers = [marked(0), marked(1), marked(2)];
    let numbers = takers.each_ref().map(AsRawFd::as_raw_fd);
    let mut command = Command::new("/nowhere/no-such-program");
    for number in numbers {
        command.fd(number, tx.try_clone().unwrap()).unwrap();
    }
    drop((tx, takers));
    let error = command.spawn().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
    drop(command);
    assert_eq!(read_to_string(rx).unwrap(), "");
    Ok(())
}

fn only_what_is_kept_goes_along() -> Result<(), Skip> {
    let careless = marked(5);
    fcntl_setfd(&careless, FdFlags::empty()).unwrap();
    let number = careless.as_raw_fd();
    assert!(listing(&mut ls()).contains_key(&number), "it would go along");
    for order in 0..2 {
        let mut command = ls();
        if order == 0 {
            command.keep_only([30, 40]).fd(30, marked(0)).unwrap().fd(40, marked(1)).unwrap();
        } else {
            command.fd(30, marked(0)).unwrap().fd(40, marked(1)).unwrap().keep_only([40, 30]);
        }
        let seen: Vec<RawFd> = listing(&mut command).into_keys().collect();
        assert_eq!(seen, [0, 1, 2, 30, 40]);
    }
    Ok(())
}

fn inheritor(link: &Link) {
    let mut text = String::new();
    let fd = command::inherited_fd(9).unwrap();
    assert_eq!(fd.as_raw_fd(), 9);
    assert!(fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
    assert_eq!(command::inherited_fd(9).unwrap_err().kind(), ErrorKind::InUse);
    // Also when it is closed and the number has something else.
    File::from(fd).read_to_string(&mut text).unwrap();
    let careless = fcntl_dupfd_cloexec(marked(0), 9).unwrap();
    fcntl_setfd(&careless, FdFlags::empty()).unwrap();
    assert_eq!(careless.as_raw_fd(), 9);
    assert_eq!(command::inherited_fd(9).unwrap_err().kind(), ErrorKind::InUse);
    link.say(text);
}

fn a_child_takes_its_descriptor_once() -> Result<(), Skip> {
    let (rx, mut tx) = pipe().unwrap();
    let peer = Peer::spawn_with("command::inheritor", |command| {
        command.fd(9, rx).unwrap();
    });
    tx.write_all(b"from the parent").unwrap();
    drop(tx);
    peer.expect("from the parent");
    peer.join();
    Ok(())
}

fn what_this_process_opened_is_not_inherited() -> Result<(), Skip> {
    let own = marked(0);
    let refused = |number| command::inherited_fd(number).unwrap_err().kind();
    assert_eq!(refused(own.as_raw_fd()), ErrorKind::Mismatch);
    assert_eq!(refused(900), ErrorKind::NotFound);
    for number in [-1, 0, 1, 2] {
        assert_eq!(refused(number), ErrorKind::InvalidInput);
    }
    // It was not touched.
    assert!(fcntl_getfd(&own).unwrap().contains(FdFlags::CLOEXEC));
    Ok(())
}

/// Waits until the process has ended.
fn ended(pidfd: impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 30, tv_nsec: 0 })).unwrap() == 1
}

fn starter(link: &Link) {
    let mut command = Command::new("sleep");
    command.arg("1000").die_with_parent(Signal::TERM);
    let mut child = command.spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    link.send_fd(pidfd);
    // Killed here.
    let _ = child.wait();
}

fn a_child_dies_with_its_parent() -> Result<(), Skip> {
    let peer = Peer::spawn("command::starter");
    let child = peer.recv_fd();
    let mut now = [PollFd::new(&child, PollFlags::IN)];
    assert_eq!(poll(&mut now, Some(&Timespec::default())), Ok(0), "it lives with its parent");
    peer.kill();
    assert!(ended(child));
    Ok(())
}

fn late_starter(link: &Link) {
    let gate = link.recv_fd();
    let report = link.recv_fd();
    let alive = link.recv_fd();
    let mut command = Command::new("sh");
    command.args(["-c", "echo alive >&9"]).fd(9, alive).unwrap();
    let wait = move || {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        rustix::io::write(&report, &pid.to_ne_bytes())?;
        rustix::io::read(&gate, &mut [0_u8; 1])?;
        Ok(())
    };
    // SAFETY: two system calls and no allocation.
    unsafe { command.pre_exec(wait) };
    command.die_with_parent(Signal::TERM);
    let _ = command.spawn();
}

fn a_child_of_a_parent_that_is_dead_already_never_starts() -> Result<(), Skip> {
    let (gate_rx, mut gate) = pipe().unwrap();
    let (mut report, report_tx) = pipe().unwrap();
    let (alive, alive_tx) = pipe().unwrap();
    let peer = Peer::spawn("command::late_starter");
    for fd in [OwnedFd::from(gate_rx), report_tx.into(), alive_tx.into()] {
        peer.send_fd(fd);
    }
    let mut pid = [0; 4];
    report.read_exact(&mut pid).unwrap();
    let pid = Pid::from_raw(i32::from_ne_bytes(pid)).unwrap();
    let child = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    peer.kill();
    gate.write_all(b"x").unwrap();
    assert!(ended(child));
    assert_eq!(read_to_string(alive).unwrap(), "", "the program never ran");
    Ok(())
}

fn a_program_starts_with_no_signal_blocked() -> Result<(), Skip> {
    let _held = Set::all().block().unwrap();
    let blocked = |unblocked| {
        let mut command = Command::new("grep");
        command.args(["SigBlk", "/proc/self/status"]);
        if unblocked {
            command.unblock_signals();
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(blocked(true), "SigBlk:\t0000000000000000\n");
    assert_ne!(blocked(false), blocked(true));
    assert_eq!(Set::blocked().unwrap(), Set::all(), "here nothing changed");
    Ok(())
}

fn a_shell_understands_activation() -> Result<(), Skip> {
    let (mut rx, tx) = pipe().unwrap();
    let script = r#"
        test "$LISTEN_PID" = "$$" || exit 2
        test "$LISTEN_FDS" = 2 || exit 3
        test "$LISTEN_FDNAMES" = "first:the second" || exit 4
        test "$1" = "an argument" || exit 5
        printf word >&4
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", "an argument"]);
    let fds = [("first", marked(0)), ("the second", tx.into())];
    let mut child = command.spawn_with_listen_fds(fds).unwrap();
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut text = String::new();
    rx.read_to_string(&mut text).unwrap();
    assert_eq!(text, "word");
    Ok(())
}

fn a_python_server_understands_activation() -> Result<(), Skip> {
    let script = "import os, socket
assert int(os.environ['LISTEN_PID']) == os.getpid(), os.environ['LISTEN_PID']
listener = socket.socket(fileno=3)
connection, _ = listener.accept()
connection.sendall(os.environ['LISTEN_FDNAMES'].encode())
";
    let runs = Command::new("python3").args(["-c", ""]).stderr(Stdio::null()).status();
    if !runs.is_ok_and(|status| status.success()) {
        return skip("python3 does not run here");
    }
    let listener = Listener::loopback().unwrap();
    let client = inet::connect(listener.local_addr().unwrap()).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", script]);
    let mut child = command.spawn_with_listen_fds([("web", listener)]).unwrap();
    drop(command);
    let mut buf = [0; 16];
    assert_eq!(client.recv(&mut buf), Ok(3));
    assert_eq!(&buf[..3], b"web");
    assert!(child.wait().unwrap().success());
    Ok(())
}

/// As `Peer` does, by socket activation: the first descriptor is at 3, where a role has its link.
fn activate(role: &str, change: impl FnOnce(&mut Command)) -> (std::process::Child, TcpStream) {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let listener = Listener::loopback().unwrap();
    let client = inet::connect(listener.local_addr().unwrap()).unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.env("SINEW_TEST_ROLE", format!("it::command::{role}")).env_remove("SINEW_TEST_CASE");
    change(&mut command);
    let fds = [("link", theirs), ("web", listener.into())];
    let child = command.spawn_with_listen_fds(fds).unwrap();
    drop(ours);
    (child, client)
}

/// Makes the link look as it did when this process began.
pub(crate) fn restore_link_at_three() {
    // SAFETY: the role's link, which is open until the process ends.
    let link = unsafe { BorrowedFd::borrow_raw(3) };
    fcntl_setfd(link, FdFlags::empty()).unwrap();
}

fn activated(_: &Link) {
    restore_link_at_three();
    let mut fds = command::listen_fds().unwrap();
    assert_eq!(command::listen_fds().unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(fds.iter().map(command::ListenFd::name).collect::<Vec<_>>(), ["link", "web"]);
    let web = fds.pop().unwrap();
    let listener = web.into_tcp_listener().unwrap();
    assert!(fcntl_getfd(&listener).unwrap().contains(FdFlags::CLOEXEC));
    let connection = listener.accept().unwrap();
    sinew::wait::Sends::send(&connection, b"activated").unwrap();
    // The link is owned twice: by the role and by what was taken.
    let link = OwnedFd::from(fds.pop().unwrap());
    assert_eq!(link.into_raw_fd(), 3);
}

fn an_activated_program_takes_its_listener() -> Result<(), Skip> {
    let (mut child, client) = activate("activated", |_| {});
    let mut buf = [0; 16];
    assert_eq!(client.recv(&mut buf), Ok(9));
    assert!(child.wait().unwrap().success());
    Ok(())
}

/// Started by systemd's own program, with its listener at 3, where a role has its link.
fn activated_by_systemd(_: &Link) {
    restore_link_at_three();
    let mut fds = command::listen_fds().unwrap();
    assert_eq!(fds.iter().map(command::ListenFd::name).collect::<Vec<_>>(), ["web"]);
    let listener = UnixListener::from(OwnedFd::from(fds.pop().unwrap()));
    listener.accept().unwrap().0.write_all(b"activated").unwrap();
    // Owned twice: by the role and by what was taken.
    assert_eq!(OwnedFd::from(listener).into_raw_fd(), 3);
}

fn a_program_activated_by_systemd_takes_its_listener() -> Result<(), Skip> {
    let path = scratch().join("web");
    let mut activator = Command::new("systemd-socket-activate");
    activator.arg("--fdname=web").arg("-l").arg(&path);
    activator.arg("-E").arg("SINEW_TEST_ROLE=it::command::activated_by_systemd");
    // The test binary by its own name: /proc/self would be that of the activator.
    activator.arg(std::env::current_exe().unwrap());
    activator.env_remove("SINEW_TEST_CASE").stderr(Stdio::piped());
    activator.die_with_parent(Signal::KILL);
    let Ok(mut activator) = activator.spawn() else {
        return skip("systemd-socket-activate does not run here");
    };
    let mut said = BufReader::new(activator.stderr.take().unwrap());
    let mut line = String::new();
    while said.read_line(&mut line).unwrap() > 0 && !line.contains("Listening on") {}
    assert!(line.contains("Listening on"), "{line}");
    let client = UnixStream::connect(&path).unwrap();
    let answer = read_to_string(client);
    let status = activator.wait().unwrap();
    read_to_string(said).map(|rest| line += &rest).unwrap();
    assert_eq!(answer.unwrap(), "activated", "{line}");
    assert!(status.success(), "{status}: {line}");
    std::fs::remove_file(path).unwrap();
    Ok(())
}

fn activated_wrongly(_: &Link) {
    // The link at 3 is close-on-exec by now, so it is no longer what came through exec.
    let error = command::listen_fds().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    // Nothing was taken: the other one is still there to take.
    let listener = command::inherited_fd(4).unwrap();
    drop(listener);
}

fn activation_keeps_the_environment_of_the_command() -> Result<(), Skip> {
    let (mut child, client) = activate("activated_wrongly", |_| {});
    assert!(child.wait().unwrap().success());
    drop(client);

    let environment = |change: fn(&mut Command)| {
        let mut command = Command::new("/usr/bin/env");
        command.stdout(Stdio::piped());
        change(&mut command);
        let child = command.spawn_with_listen_fds([("x", marked(0))]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let has = |text: &str, line: &str| text.lines().any(|l| l.starts_with(line));

    let all = environment(|c| {
        c.env("NEW", "1").env_remove("SINEW_TEST_CASE").env("LISTEN_PID", "1");
    });
    assert!(has(&all, "PATH=") && has(&all, "NEW=1") && has(&all, "LISTEN_FDS=1"), "{all}");
    assert!(!has(&all, "SINEW_TEST_CASE="), "{all}");
    assert_eq!(all.lines().filter(|l| l.starts_with("LISTEN_PID=")).count(), 1, "{all}");

    let cleared = environment(|c| {
        c.env("OLD", "1").env_clear().env("NEW", "1");
    });
    let mut names: Vec<&str> = cleared.lines().map(|l| l.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NEW"]);
    Ok(())
}

fn a_failed_activation_is_told_and_leaves_nothing() -> Result<(), Skip> {
    let before = census::descriptors();
    let mut command = Command::new("no-such-program-anywhere");
    // A folder of the PATH that this user may not read would be another error.
    command.env("PATH", "/usr/bin:/bin");
    let error = command.spawn_with_listen_fds([("x", marked(0))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no-such-program-anywhere"), "{error}");
    let mut command = Command::new("sh");
    command.arg("a\0b");
    let error = command.spawn_with_listen_fds([("x", marked(0))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    drop(command);
    assert_eq!(census::descriptors().len(), before.len() + 1, "the first command is alive");
    Ok(())
}

fn activation_for_another_process_is_not_ours() -> Result<(), Skip> {
    assert!(command::listen_fds().unwrap().is_empty());
    for (pid, fds) in [("1", "1"), ("", ""), ("x", "1")] {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("LISTEN_PID", pid) };
        // SAFETY: as above.
        unsafe { std::env::set_var("LISTEN_FDS", fds) };
        assert!(command::listen_fds().unwrap().is_empty());
    }
    // SAFETY: as above.
    unsafe { std::env::set_var("LISTEN_PID", std::process::id().to_string()) };
    for (fds, names) in [("many", "x"), ("-1", "x"), ("2", "one"), ("2147483647", "x")] {
        // SAFETY: as above.
        unsafe { std::env::set_var("LISTEN_FDS", fds) };
        // SAFETY: as above.
        unsafe { std::env::set_var("LISTEN_FDNAMES", names) };
        let error = command::listen_fds().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    }
    Ok(())
}

fn names_that_activation_cannot_carry_are_refused() -> Result<(), Skip> {
    let long = "x".repeat(256);
    for name in ["", "a:b", "a\nb", "ä", &long] {
        let error = Command::new("true").spawn_with_listen_fds([(name, marked(0))]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    Ok(())
}
