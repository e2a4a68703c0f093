//! Processes by descriptor: their end, how they ended, who they are, and what reaches them.

#![allow(unsafe_code, reason = "tests fork, make namespaces, and trace")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use sinew::command::CommandExt;
use sinew::pidfd::{self, Child, Exit, Identity, PidFd, State};
use sinew::poller::{Events, Interest, Poller, Token};
use sinew::signal::Signal;
use sinew::wait::{Interrupt, Receives, Wait, Waits};
use sinew::{ErrorKind, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, scratch, skip, tests};

use crate::pipe::{assert_one_call, kernel_is_at_least, stop, until_asleep};
use crate::posix_mq::{become_nobody, refuse};

pub(crate) const TESTS: &[Test] = tests![
    the_code_of_a_child_is_told,
    the_signal_that_killed_a_child_is_told,
    the_four_forms_wait_for_a_child,
    anybody_sees_the_end,
    one_of_several_waiters_has_the_exit,
    who_is_not_the_parent_sees_only_that_it_ended,
    the_exit_of_a_strangers_child_is_told_once_it_is_reaped,
    a_stopped_process_is_not_dead,
    a_process_runs_ends_and_is_reaped,
    a_process_whose_first_thread_ended_runs_on,
    a_child_that_a_tracer_holds_is_not_waited_for_busily,
    a_poller_tells_the_end_of_each_child,
    signals_arrive_and_strike_nobody_else,
    a_signal_to_another_user_is_refused,
    an_identity_is_the_same_from_everywhere,
    a_number_used_again_is_another_process,
    a_stranger_with_the_number_of_a_reaped_child_is_left_alone,
    a_process_of_another_namespace_has_no_number,
    a_thread_is_no_process,
    only_a_pidfd_is_taken_for_one,
    a_child_has_its_pipes_and_outlives_its_handle,
    an_activated_child_has_a_pidfd,
    a_start_that_fails_says_why,
    a_child_that_gets_no_pidfd_is_killed_and_reaped,
    children_that_the_kernel_reaps_are_not_mistaken,
    waiting_for_a_child_that_ended_is_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![watcher, two_threads, tracer, numbers, stranger];

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Child {
    pidfd::spawn(Command::new("sh").args(["-c", script])).unwrap()
}

fn sleeper() -> Child {
    pidfd::spawn(Command::new("sleep").arg("1000")).unwrap()
}

fn of(peer: &Peer) -> PidFd {
    PidFd::open(peer.pid().as_raw_nonzero().get().unsigned_abs()).unwrap()
}

fn killed_by(signal: Signal) -> Exit {
    Exit::Signal { signal, core: false }
}

fn the_code_of_a_child_is_told() -> Result<(), Skip> {
    for code in [0, 1, 7, 127, 128, 255] {
        let exit = sh(&format!("exit {code}")).wait().unwrap();
        assert_eq!(exit, Exit::Code(code));
        assert_eq!(exit.success(), code == 0);
        assert_eq!(ExitStatus::from(exit).code(), Some(i32::from(code)));
    }
    assert_eq!(Exit::Code(3).to_string(), "exit code 3");
    Ok(())
}

fn the_signal_that_killed_a_child_is_told() -> Result<(), Skip> {
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum }).unwrap();
    for signal in [Signal::KILL, Signal::TERM, Signal::SEGV, Signal::rt(1).unwrap()] {
        let child = sleeper();
        child.signal(signal).unwrap();
        let exit = child.wait().unwrap();
        assert_eq!(exit, killed_by(signal));
        assert_eq!(exit.to_string(), format!("killed by {signal}"));
        let status = ExitStatus::from(exit);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal.as_raw()));
    }
    // Whether there is a dump, the host decides; std and this are told the same.
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum }).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "kill -QUIT $$"]).current_dir(scratch());
    let std = command.status().unwrap();
    let exit = pidfd::spawn(&mut command).unwrap().wait().unwrap();
    assert_eq!(ExitStatus::from(exit), std);
    for dump in std::fs::read_dir(scratch()).unwrap() {
        std::fs::remove_file(dump.unwrap().path()).unwrap();
    }
    Ok(())
}

fn the_four_forms_wait_for_a_child() -> Result<(), Skip> {
    let child = sleeper();
    let (past, start) = (Instant::now(), Instant::now());
    assert_eq!(child.try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(child.wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(start.elapsed() >= SHORT);
    assert_eq!(child.wait_until(past), Err(WaitError::TimedOut));
    let stop = Interrupt::new().unwrap();
    let main = rustix::process::getpid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(main);
            stop.trigger();
        });
        let wait = Wait::FOREVER.interrupted_by(&stop);
        assert_eq!(child.wait_for(wait), Err(WaitError::Interrupted));
    });
    // A signal ends no wait.
    crate::wait::interrupt_every_millisecond();
    assert_eq!(child.wait_timeout(SHORT * 4), Err(WaitError::TimedOut));
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(main);
            child.signal(Signal::KILL).unwrap();
        });
        assert_eq!(child.wait(), Ok(killed_by(Signal::KILL)));
    });

    let child = sh("exit 3");
    child.exited().wait().unwrap();
    stop.clear();
    assert_eq!(child.wait_for(Wait::NEVER.interrupted_by(&stop)), Ok(Exit::Code(3)));
    let child = sh("read x");
    assert!(matches!(child.wait_timeout(LONG), Ok(Exit::Code(_))));
    let child = sh("exit 4");
    child.exited().wait().unwrap();
    assert_eq!(child.wait_until(past), Ok(Exit::Code(4)), "it looks once");
    Ok(())
}

fn anybody_sees_the_end() -> Result<(), Skip> {
    let child = sleeper();
    assert_eq!(child.exited().try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(child.exited().wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(!child.has_ended());
    let stop = Interrupt::new().unwrap();
    stop.trigger();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    assert_eq!(child.exited().wait_for(wait), Err(WaitError::Interrupted));
    std::thread::scope(|s| {
        let waits: Vec<_> = (0..3).map(|_| s.spawn(|| child.exited().wait())).collect();
        child.signal(Signal::KILL).unwrap();
        for wait in waits {
            wait.join().unwrap().unwrap();
        }
    });
    // It is not consumed, before the wait and after it.
    child.exited().try_wait().unwrap();
    assert!(child.has_ended());
    assert_eq!(child.wait(), Ok(killed_by(Signal::KILL)));
    child.exited().try_wait().unwrap();
    Ok(())
}

fn one_of_several_waiters_has_the_exit() -> Result<(), Skip> {
    let child = sleeper();
    std::thread::scope(|s| {
        let waits: Vec<_> = [Wait::FOREVER, Wait::timeout(LONG), Wait::FOREVER]
            .map(|wait| {
                s.spawn({
                    let child = &child;
                    move || child.wait_for(wait)
                })
            })
            .into_iter()
            .collect();
        child.signal(Signal::KILL).unwrap();
        let mut got: Vec<_> = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
        let one = got.iter().position(Result::is_ok).expect("one has it");
        assert_eq!(got.remove(one), Ok(killed_by(Signal::KILL)));
        assert_eq!(got, [Err(WaitError::Os(libc::ECHILD)); 2]);
    });
    let error = std::io::Error::from(child.try_wait().unwrap_err());
    assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
    Ok(())
}

/// Watches a process that is not its child.
fn watcher(link: &Link) {
    let watched = PidFd::try_from(link.recv_fd()).unwrap();
    for wait in [Wait::NEVER, Wait::FOREVER, Wait::timeout(LONG)] {
        assert_eq!(watched.wait_for(wait), Err(WaitError::Os(libc::ECHILD)));
    }
    assert_eq!(watched.state(), State::Running);
    assert_eq!(watched.exit().unwrap(), None);
    link.say("watches");
    watched.exited().wait().unwrap();
    assert_eq!(watched.state(), State::Ended);
    assert_eq!(watched.exit().unwrap(), None);
    link.say("ended");
    link.expect("reaped");
    assert_eq!(watched.state(), State::Reaped);
    assert_eq!(watched.exited().try_wait(), Ok(()));
    assert_eq!(watched.wait(), Err(WaitError::Os(libc::ECHILD)));
    match watched.exit().unwrap() {
        Some(exit) => link.say(exit),
        None => link.say("unknown"),
    }
}

/// The watcher sees `child` end, which `end` sees to; what it learns of how.
fn watched(child: &Child, end: impl FnOnce()) -> String {
    let peer = Peer::spawn("pidfd::watcher");
    peer.send_fd(child);
    peer.expect("watches");
    until_asleep(peer.pid());
    end();
    peer.expect("ended");
    child.wait().unwrap();
    peer.say("reaped");
    let learned = peer.hear();
    peer.join();
    learned
}

fn who_is_not_the_parent_sees_only_that_it_ended() -> Result<(), Skip> {
    let child = sleeper();
    watched(&child, || child.signal(Signal::KILL).unwrap());
    Ok(())
}

fn the_exit_of_a_strangers_child_is_told_once_it_is_reaped() -> Result<(), Skip> {
    if !kernel_is_at_least(6, 15) || fallbacks_forced() {
        return skip("the kernel does not keep the status");
    }
    let child = sleeper();
    assert_eq!(watched(&child, || child.signal(Signal::KILL).unwrap()), "killed by SIGKILL");
    let mut child = pidfd::spawn(Command::new("cat").stdin(Stdio::piped())).unwrap();
    let stdin = child.stdin.take();
    assert_eq!(watched(&child, || drop(stdin)), "exit code 0");
    let mut child =
        pidfd::spawn(Command::new("sh").args(["-c", "read x; exit 9"]).stdin(Stdio::piped()))
            .unwrap();
    let stdin = child.stdin.take();
    assert_eq!(watched(&child, || drop(stdin)), "exit code 9");
    Ok(())
}

fn a_stopped_process_is_not_dead() -> Result<(), Skip> {
    let peer = Peer::spawn("pidfd::stranger");
    let pidfd = of(&peer);
    stop(&peer);
    assert_eq!(pidfd.state(), State::Running);
    assert_eq!(pidfd.exited().wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert_eq!(pidfd.wait_timeout(SHORT), Err(WaitError::TimedOut));
    pidfd.signal(Signal::CONT).unwrap();
    assert_eq!(pidfd.wait_timeout(SHORT), Err(WaitError::TimedOut));
    stop(&peer);
    pidfd.signal(Signal::KILL).unwrap();
    pidfd.exited().wait().unwrap();
    peer.kill();
    Ok(())
}

fn a_process_runs_ends_and_is_reaped() -> Result<(), Skip> {
    let child = sleeper();
    let pid = child.pid().unwrap();
    assert_eq!(child.state(), State::Running);
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sleep\n");
    assert_eq!(PidFd::open(pid).unwrap().identity().unwrap(), child.identity().unwrap());
    child.signal(Signal::KILL).unwrap();
    child.exited().wait().unwrap();
    assert_eq!(child.state(), State::Ended);
    // A zombie has its number, and takes signals to no effect.
    assert_eq!(child.pid().unwrap(), pid);
    child.signal(Signal::KILL).unwrap();
    assert_eq!(PidFd::open(pid).unwrap().state(), State::Ended);
    child.wait().unwrap();
    assert_eq!(child.state(), State::Reaped);
    assert_eq!(child.pid().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(child.signal(Signal::KILL).unwrap_err().kind(), ErrorKind::NotFound);
    // Nobody takes the number so soon again: the kernel counts on.
    let error = PidFd::open(pid).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with(&format!("pidfd process {pid}: ")), "{error}");
    for nobody in [0, u32::MAX, i32::MAX.unsigned_abs()] {
        assert_eq!(PidFd::open(nobody).unwrap_err().kind(), ErrorKind::NotFound);
    }
    Ok(())
}

/// Its first thread ends, the other talks on.
fn two_threads(link: &Link) {
    std::thread::scope(|s| {
        s.spawn(|| {
            link.expect("end");
            // SAFETY: ends the whole process at once.
            unsafe { libc::_exit(5) }
        });
        // SAFETY: ends this thread alone; nothing of its stack is used after it but by the other
        // thread, and it stays mapped.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
}

fn a_process_whose_first_thread_ended_runs_on() -> Result<(), Skip> {
    let peer = Peer::spawn("pidfd::two_threads");
    let pidfd = of(&peer);
    // The state of the first thread, which is what /proc shows for the process.
    let stat = format!("/proc/{}/stat", pidfd.pid().unwrap());
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    assert_eq!(pidfd.state(), State::Running);
    assert_eq!(pidfd.exited().try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(pidfd.wait_timeout(SHORT), Err(WaitError::TimedOut));
    peer.say("end");
    assert_eq!(pidfd.wait(), Ok(Exit::Code(5)));
    Ok(())
}

/// Traces a process, and sleeps on its end.
fn tracer(link: &Link) {
    let pid: i32 = link.hear().parse().unwrap();
    // SAFETY: seizing takes no pointers.
    let done = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    link.say(if done == 0 { "traces" } else { "refused" });
    link.expect("end");
}

fn a_child_that_a_tracer_holds_is_not_waited_for_busily() -> Result<(), Skip> {
    let child = sleeper();
    let peer = Peer::spawn("pidfd::tracer");
    peer.say(child.pid().unwrap());
    if peer.hear() == "refused" {
        child.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        return skip("a sibling may not be traced here (Yama)");
    }
    child.signal(Signal::KILL).unwrap();
    child.exited().wait().unwrap();
    assert_eq!(child.try_wait(), Err(WaitError::WouldBlock));
    let cpu = || clock_gettime(ClockId::ThreadCPUTime);
    let (begin, start) = (Instant::now(), cpu());
    assert_eq!(child.wait_timeout(SHORT * 60), Err(WaitError::TimedOut));
    let used = Duration::try_from(cpu() - start).unwrap();
    assert!(used * 8 < begin.elapsed(), "it sleeps most of the time: {used:?}");
    peer.say("end");
    peer.join();
    assert_eq!(child.wait_timeout(LONG), Ok(killed_by(Signal::KILL)));
    Ok(())
}

fn a_poller_tells_the_end_of_each_child() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let mut children: Vec<_> = (0..20)
        .map(|i| Some(poller.add(sh(&format!("exit {i}")), Token(i), Interest::READABLE).unwrap()))
        .collect();
    let mut events = Events::with_capacity(3);
    while children.iter().any(Option::is_some) {
        poller.fill(&mut events).wait_timeout(LONG).unwrap();
        for event in &events {
            assert!(event.is_readable());
            let child = children[usize::try_from(event.token().0).unwrap()].take().unwrap();
            assert_eq!(child.try_wait(), Ok(Exit::Code(u8::try_from(event.token().0).unwrap())));
        }
    }
    Ok(())
}

fn signals_arrive_and_strike_nobody_else() -> Result<(), Skip> {
    let child = pidfd::spawn(
        Command::new("sh")
            .args(["-c", "trap 'echo hup; exit 2' HUP; echo ready; while :; do read x; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    )
    .unwrap();
    let out = child.stdout.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap();
    let out = std::io::PipeReader::from(out);
    let mut buf = [0; 16];
    let n = out.recv(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"ready\n");
    child.signal(Signal::HUP).unwrap();
    assert_eq!(child.wait_timeout(LONG), Ok(Exit::Code(2)));
    let n = out.recv(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"hup\n");
    let error = child.signal(Signal::HUP).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    Ok(())
}

/// A process of another user, or one that only is.
fn stranger(link: &Link) {
    while let Some((words, mut fds)) = link.try_receive() {
        match words.as_slice() {
            b"become nobody" => become_nobody(),
            b"fd" => {
                let pidfd = PidFd::try_from(fds.remove(0)).unwrap();
                link.say(format!("{:?}", pidfd.signal(Signal::TERM).unwrap_err().kind()));
                // Looking is allowed to everybody.
                assert_eq!(pidfd.state(), State::Running);
            }
            _ => link.say(PidFd::own().unwrap().identity().unwrap()),
        }
    }
}

fn a_signal_to_another_user_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root may become somebody else");
    }
    let peer = Peer::spawn("pidfd::stranger");
    peer.say("become nobody");
    peer.send_fd(PidFd::own().unwrap());
    peer.expect("PermissionDenied");
    Ok(())
}

fn an_identity_is_the_same_from_everywhere() -> Result<(), Skip> {
    let (a, b) = (Peer::spawn("pidfd::stranger"), Peer::spawn("pidfd::stranger"));
    for peer in [&a, &b] {
        peer.say("who");
        let text = peer.hear();
        let seen = of(peer).identity().unwrap();
        assert_eq!(text.parse::<Identity>().unwrap(), seen);
        assert_eq!(seen.to_string(), text);
        assert_eq!(of(peer).try_clone().unwrap().identity().unwrap(), seen);
        assert_eq!(text.contains("-start-"), fallbacks_forced() || !kernel_is_at_least(6, 9));
    }
    assert_ne!(of(&a).identity().unwrap(), of(&b).identity().unwrap());
    assert_ne!(PidFd::own().unwrap().identity().unwrap(), of(&a).identity().unwrap());
    // A zombie has it too.
    let pidfd = of(&a);
    let before = pidfd.identity().unwrap();
    pidfd.signal(Signal::KILL).unwrap();
    pidfd.exited().wait().unwrap();
    assert_eq!(pidfd.identity().unwrap(), before);
    a.kill();
    match pidfd.identity() {
        Ok(after) => assert_eq!(after, before),
        Err(error) => {
            assert!(before.to_string().contains("-start-"));
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
    for text in ["", "1", "x-inode-1", "1-inode-1", "0-0", "\u{e9}"] {
        assert_eq!(text.parse::<Identity>().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    Ok(())
}

/// A child of this process, with this number, which waits for a signal.
fn child_with_number(number: i32) -> Option<PidFd> {
    let numbers = [number];
    let mut fd = -1_i32;
    // SAFETY: all zeros is what clone3 takes for "nothing asked for".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut fd).addr() as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = numbers.as_ptr().addr() as u64;
    arguments.set_tid_size = 1;
    loop {
        // SAFETY: this process has one thread, and the child only sleeps; without CLONE_VM it has
        // memory of its own. The arguments live until the call is over.
        let made = unsafe {
            libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments))
        };
        match (made, std::io::Error::last_os_error().raw_os_error()) {
            (0, _) => loop {
                // SAFETY: sleeps.
                unsafe { libc::pause() };
            },
            // Its last owner is not quite gone.
            (-1, Some(libc::EEXIST)) => std::thread::yield_now(),
            (-1, _) => return None,
            _ => {
                // SAFETY: the kernel put a new descriptor there.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                return Some(PidFd::try_from(fd).unwrap());
            }
        }
    }
}

/// Runs as the first process of a pid namespace of its own, with a /proc of that.
fn numbers(link: &Link) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    let test = link.hear();
    // SAFETY: one thread, and no descriptor is affected.
    let private = unsafe { unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) };
    if private.is_err() {
        return link.say("may not");
    }
    let outer = PidFd::own().unwrap();
    // SAFETY: one thread.
    match unsafe { libc::fork() } {
        0 => {
            let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            let mounted = mount_change("/", flags)
                .and_then(|()| mount("proc", "/proc", "proc", MountFlags::empty(), None));
            if mounted.is_err() {
                link.say("may not");
            } else if test == "reuse" {
                reuse(link);
            } else if test == "mistake" {
                mistake(link);
            } else {
                elsewhere(link, &outer);
            }
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        first => {
            let first = PidFd::open(first.unsigned_abs()).unwrap();
            assert_eq!(first.wait(), Ok(Exit::Code(0)));
        }
    }
}

fn reuse(link: &Link) {
    let Some(first) = child_with_number(4321) else { return link.say("may not") };
    let noted = (first.pid().unwrap(), first.identity().unwrap());
    assert_eq!(noted.0, 4321);
    first.signal(Signal::KILL).unwrap();
    assert_eq!(first.wait(), Ok(killed_by(Signal::KILL)));
    assert_eq!(PidFd::open(4321).unwrap_err().kind(), ErrorKind::NotFound);
    // Start times count in ticks of 10 ms: wait for the next one.
    let tick = || {
        let now = clock_gettime(ClockId::Boottime);
        (now.tv_sec, now.tv_nsec / 10_000_000)
    };
    let before = tick();
    while tick() == before {
        std::thread::yield_now();
    }
    let second = child_with_number(4321).unwrap();
    // The number means the second one now; everything kept of the first one does not.
    let found = PidFd::open(noted.0).unwrap();
    assert_ne!(found.identity().unwrap(), noted.1);
    assert_eq!(found.identity().unwrap(), second.identity().unwrap());
    assert_eq!(first.state(), State::Reaped);
    assert_eq!(first.signal(Signal::KILL).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(first.try_wait(), Err(WaitError::Os(libc::ECHILD)));
    assert_eq!(first.pid().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(second.state(), State::Running);
    second.signal(Signal::KILL).unwrap();
    second.wait().unwrap();
    link.say("done");
}

/// A child is reaped by the kernel at once, and a stranger has its number before anybody looks.
fn mistake(link: &Link) {
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut number = 0;
    let started = pidfd::spawn_by(|| {
        let child = Command::new("true").spawn().unwrap();
        let exists = || std::path::Path::new(&format!("/proc/{}", child.id())).exists();
        while exists() {
            std::thread::yield_now();
        }
        number = child.id();
        // SAFETY: one thread.
        if unsafe { libc::fork() } == 0 {
            // Not a child of the one that looks, but of this one.
            let made = child_with_number(i32::try_from(number).unwrap());
            link.say(if made.is_some() { "made" } else { "may not" });
            loop {
                // SAFETY: sleeps.
                unsafe { libc::pause() };
            }
        }
        link.expect("look");
        Ok(child)
    });
    let error = started.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("SIGCHLD is ignored"), "{error}");
    let left_alone = PidFd::open(number).unwrap().exited().wait_timeout(SHORT * 10);
    assert_eq!(left_alone, Err(WaitError::TimedOut));
    link.say("done");
}

fn elsewhere(link: &Link, outer: &PidFd) {
    let error = outer.pid().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("pid namespace"), "{error}");
    assert_eq!(outer.state(), State::Running);
    let error = outer.signal(Signal::CHLD).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("outside of this pid namespace"), "{error}");
    match outer.identity() {
        // It is the same one in every namespace.
        Ok(identity) => link.say(identity),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            link.say("unknown");
        }
    }
    assert_eq!(outer.exited().try_wait(), Err(WaitError::WouldBlock));
}

fn a_number_used_again_is_another_process() -> Result<(), Skip> {
    for without in ["none", "all"] {
        let peer = Peer::spawn_with("pidfd::numbers", |command| {
            command.env("SINEW_WITHOUT", without);
        });
        peer.say("reuse");
        if peer.hear() == "may not" {
            return skip("no pid namespace of its own here");
        }
        peer.join();
    }
    Ok(())
}

fn a_stranger_with_the_number_of_a_reaped_child_is_left_alone() -> Result<(), Skip> {
    let peer = Peer::spawn("pidfd::numbers");
    peer.say("mistake");
    if peer.hear() == "may not" {
        return skip("no pid namespace of its own here");
    }
    peer.say("look");
    peer.expect("done");
    peer.join();
    Ok(())
}

fn a_process_of_another_namespace_has_no_number() -> Result<(), Skip> {
    let peer = Peer::spawn("pidfd::numbers");
    let pidfd = of(&peer);
    let known = pidfd.identity().unwrap().to_string();
    peer.say("elsewhere");
    match peer.hear().as_str() {
        "may not" => return skip("no pid namespace of its own here"),
        "unknown" => assert!(known.contains("-start-")),
        identity => assert_eq!(identity, known),
    }
    peer.join();
    Ok(())
}

fn a_thread_is_no_process() -> Result<(), Skip> {
    let (told, tells) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        let (end, ends) = std::sync::mpsc::channel::<()>();
        s.spawn(move || {
            told.send(rustix::thread::gettid()).unwrap();
            let _ = ends.recv();
        });
        let thread = tells.recv().unwrap();
        let error = PidFd::open(thread.as_raw_nonzero().get().unsigned_abs()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("number of a thread"), "{error}");
        // PIDFD_THREAD is O_EXCL.
        let call = libc::SYS_pidfd_open;
        // SAFETY: two numbers.
        let made = unsafe { libc::syscall(call, thread.as_raw_nonzero().get(), libc::O_EXCL) };
        if made >= 0 {
            // SAFETY: the kernel made it just now.
            let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(made).unwrap()) };
            let error = PidFd::try_from(fd).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            assert!(error.to_string().contains("pidfd of a thread"), "{error}");
        }
        drop(end);
    });
    Ok(())
}

fn only_a_pidfd_is_taken_for_one() -> Result<(), Skip> {
    let (rx, _tx) = std::io::pipe().unwrap();
    let poller = std::fs::File::open("/proc/self").unwrap();
    for other in [OwnedFd::from(rx), poller.into()] {
        let error = PidFd::try_from(other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("it is no pidfd"), "{error}");
    }
    // Of this process, of a child, of a zombie, and of one that is gone.
    PidFd::try_from(OwnedFd::from(PidFd::own().unwrap())).unwrap();
    let child = PidFd::try_from(OwnedFd::from(sleeper().into_pidfd())).unwrap();
    child.signal(Signal::KILL).unwrap();
    child.exited().wait().unwrap();
    let zombie = PidFd::try_from(OwnedFd::from(child)).unwrap();
    zombie.wait().unwrap();
    let gone = PidFd::try_from(OwnedFd::from(zombie)).unwrap();
    assert_eq!(gone.state(), State::Reaped);
    let flags = rustix::io::fcntl_getfd(&gone).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    Ok(())
}

fn a_child_has_its_pipes_and_outlives_its_handle() -> Result<(), Skip> {
    let mut command = Command::new("sh");
    command.args(["-c", "read x; echo out $x; echo err $x >&2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pidfd::spawn(&mut command).unwrap();
    let other = child.try_clone().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"word\n").unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    drop(child);
    assert_eq!(std::io::read_to_string(out).unwrap(), "out word\n");
    assert_eq!(std::io::read_to_string(err).unwrap(), "err word\n");
    assert_eq!(other.wait(), Ok(Exit::Code(0)));
    Ok(())
}

fn an_activated_child_has_a_pidfd() -> Result<(), Skip> {
    let listener = std::os::unix::net::UnixListener::bind(scratch().join("socket")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "test $LISTEN_PID = $$ && exit 6"]);
    let child = pidfd::spawn_by(|| command.spawn_with_listen_fds([("x", listener)])).unwrap();
    assert_eq!(child.wait(), Ok(Exit::Code(6)));
    std::fs::remove_file(scratch().join("socket")).unwrap();
    Ok(())
}

fn a_start_that_fails_says_why() -> Result<(), Skip> {
    let error = pidfd::spawn(&mut Command::new("/no/such/program")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("\"/no/such/program\""), "{error}");
    let error = pidfd::spawn(&mut Command::new("nul\0")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    Ok(())
}

fn a_child_that_gets_no_pidfd_is_killed_and_reaped() -> Result<(), Skip> {
    refuse(libc::SYS_pidfd_open, libc::EMFILE);
    let error = pidfd::spawn(Command::new("sleep").arg("1000")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE ("), "{error}");
    // That no child is left, the census finds.
    Ok(())
}

fn children_that_the_kernel_reaps_are_not_mistaken() -> Result<(), Skip> {
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let error = pidfd::spawn_by(|| {
        let child = Command::new("true").spawn().unwrap();
        while std::path::Path::new(&format!("/proc/{}", child.id())).exists() {
            std::thread::yield_now();
        }
        Ok(child)
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("SIGCHLD is ignored"), "{error}");
    let child = sleeper();
    assert_eq!(child.try_wait(), Err(WaitError::WouldBlock));
    child.signal(Signal::KILL).unwrap();
    assert_eq!(child.wait(), Err(WaitError::Os(libc::ECHILD)));
    assert_eq!(child.state(), State::Reaped);
    child.exited().try_wait().unwrap();
    Ok(())
}

fn waiting_for_a_child_that_ended_is_one_system_call() -> Result<(), Skip> {
    // The process that is measured is a child of this one, and has to have children of its own.
    let mut children: Option<Vec<Child>> = None;
    let mut next = 0;
    assert_one_call(libc::SYS_waitid, || {
        let children = children.get_or_insert_with(|| {
            let children: Vec<_> = (0..3).map(|_| sh("exit 0")).collect();
            children.iter().for_each(|child| child.exited().wait().unwrap());
            children
        });
        assert_eq!(children[next].wait(), Ok(Exit::Code(0)));
        next += 1;
    })
}
