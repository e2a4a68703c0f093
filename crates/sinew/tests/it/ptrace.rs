//! Tracing: every kind of stop told from the others, and tracees that die at any time.

use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use sinew::process_vm::Memory;
use sinew::ptrace::{Ended, How, Next, Options, Reason, Running, Stopped, TraceError};
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, steps, tests};

pub(crate) const TESTS: &[Test] = tests![
    an_interrupt_stops_it_and_dropping_lets_it_go,
    dropping_a_running_one_lets_it_go,
    system_calls_are_seen_with_arguments_and_results,
    a_system_call_can_be_made_another,
    a_signal_waits_for_the_tracer,
    a_delivered_signal_does_what_it_does,
    a_stop_of_job_control_is_none_of_ours,
    an_unmapped_address_is_an_error,
    code_can_be_changed,
    a_step_is_one_instruction,
    a_trap_that_was_sent_is_no_step,
    a_fork_brings_its_child,
    a_child_that_is_not_taken_runs_on,
    a_thread_is_traced_too,
    an_exec_is_seen,
    an_end_can_be_seen_before_it,
    a_killed_tracee_is_a_result,
    a_tracee_killed_in_its_stop_is_gone,
    a_child_stays_to_be_reaped,
    the_parent_of_a_tracee_sees_its_end,
    a_dead_tracer_lets_go_or_kills,
    waits_end_when_they_should,
    what_cannot_be_seized_says_why,
    another_users_process_is_refused_with_the_reason,
];
pub(crate) const ROLES: &[Role] = roles![worker, tracer, parent, other_user, spinner];

/// Does what it is told, one thing after the other.
fn worker(link: &Link) {
    while let Some((words, _)) = link.try_receive() {
        match std::str::from_utf8(&words).unwrap() {
            "parent" => {
                // SAFETY: takes no memory.
                let answer = unsafe { libc::syscall(libc::SYS_getppid) };
                link.say(answer);
            }
            "close" => {
                // SAFETY: closes nothing: the number is none.
                unsafe { libc::syscall(libc::SYS_close, -1_i64) };
                link.say("done");
            }
            "where" => {
                static mut WORD: usize = 0;
                let code = worker as fn(&Link) as usize;
                let data = (&raw mut WORD).expose_provenance();
                link.say(format!("{code} {data}"));
            }
            "trap" => {
                // SAFETY: signals this thread.
                unsafe { libc::raise(libc::SIGTRAP) };
                link.say("done");
            }
            "fork" => {
                // SAFETY: one thread; the child only ends.
                match unsafe { libc::fork() } {
                    // SAFETY: as above.
                    0 => unsafe { libc::_exit(5) },
                    child => {
                        let child = Pid::from_raw(child).unwrap();
                        let ended = waitpid(Some(child), WaitOptions::empty()).unwrap();
                        link.say(ended.unwrap().1.exit_status().unwrap());
                    }
                }
            }
            "thread" => {
                std::thread::spawn(|| ()).join().unwrap();
                link.say("joined");
            }
            "exec" => {
                use std::os::unix::process::CommandExt;
                panic!("{}", std::process::Command::new("/bin/true").exec());
            }
            // SAFETY: this process has nothing to clean.
            "exit" => unsafe { libc::_exit(7) },
            word => link.say(word),
        }
    }
}

fn number(peer: &Peer) -> u32 {
    peer.pid().as_raw_nonzero().get().unsigned_abs()
}

fn own() -> u32 {
    std::process::id()
}

/// A peer that is traced. Where that is forbidden there is nothing to test.
fn traced(options: Options) -> Result<(Peer, Running), Skip> {
    let peer = Peer::spawn("ptrace::worker");
    match options.seize(number(&peer)) {
        Ok(running) => Ok((peer, running)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            skip(error.to_string()).map(|()| unreachable!("skip is an error"))
        }
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn stop(running: Running) -> Stopped {
    match running.next() {
        Next::Stopped(stopped) => stopped,
        Next::Ended(ended) => panic!("{ended:?}"),
    }
}

#[track_caller]
fn end(running: Running) -> How {
    match running.next() {
        Next::Ended(ended) => ended.how,
        Next::Stopped(stopped) => panic!("{:?}", stopped.reason()),
    }
}

#[track_caller]
fn interrupted(running: Running) -> Stopped {
    running.interrupt().unwrap();
    let stopped = stop(running);
    assert_eq!(stopped.reason(), Reason::Interrupted);
    stopped
}

/// Goes on from system call to system call until the entry of this one.
#[track_caller]
fn entry_of(mut stopped: Stopped, wanted: i64) -> Stopped {
    let wanted = u64::try_from(wanted).unwrap();
    loop {
        stopped = stop(stopped.to_syscall());
        match stopped.reason() {
            Reason::SyscallEntry { number, .. } if number == wanted => return stopped,
            Reason::SyscallEntry { .. } | Reason::SyscallExit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn until_state(pid: u32, wanted: char) {
    while state(pid) != wanted {
        std::thread::yield_now();
    }
}

fn tracer_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("TracerPid:")).unwrap();
    line.trim().parse().unwrap()
}

fn an_interrupt_stops_it_and_dropping_lets_it_go() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    peer.say("hello");
    peer.expect("hello");
    let stopped = interrupted(running);
    assert_eq!(state(number(&peer)), 't');
    assert_eq!(stopped.pid(), number(&peer));
    peer.say("hello");
    drop(stopped);
    peer.expect("hello");
    assert_eq!(tracer_of(number(&peer)), 0);

    // And again, by a detach after going on.
    let running = Options::new().seize(number(&peer)).unwrap();
    let running = interrupted(running).cont();
    peer.say("on");
    peer.expect("on");
    interrupted(running).detach();
    peer.say("off");
    peer.expect("off");
    assert_eq!(tracer_of(number(&peer)), 0);
    Ok(())
}

fn dropping_a_running_one_lets_it_go() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new().exit_kill())?;
    assert_eq!(tracer_of(number(&peer)), own());
    drop(running);
    assert_eq!(tracer_of(number(&peer)), 0);
    peer.say("hello");
    peer.expect("hello");

    // With a signal on its way, which must not be lost by it.
    let running = Options::new().seize(number(&peer)).unwrap();
    peer.signal(Signal::USR1);
    drop(running);
    let mut peer = peer;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&peer.wait()), Some(10));
    Ok(())
}

fn system_calls_are_seen_with_arguments_and_results() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    let stopped = interrupted(running);
    peer.say("parent");
    let stopped = entry_of(stopped, libc::SYS_getppid);
    let stopped = stop(stopped.to_syscall());
    assert_eq!(stopped.reason(), Reason::SyscallExit { value: own().into(), failed: false });
    let running = stopped.cont();
    peer.expect(&own().to_string());

    let stopped = interrupted(running);
    peer.say("close");
    let stopped = entry_of(stopped, libc::SYS_close);
    let Reason::SyscallEntry { arguments, .. } = stopped.reason() else { unreachable!() };
    assert_eq!(arguments[0], u64::MAX);
    assert_eq!(stopped.registers().unwrap().arguments()[0], u64::MAX);
    let stopped = stop(stopped.to_syscall());
    let ebadf = -i64::from(libc::EBADF);
    assert_eq!(stopped.reason(), Reason::SyscallExit { value: ebadf, failed: true });
    assert_eq!(stopped.registers().unwrap().returned(), ebadf.cast_unsigned());
    drop(stopped);
    peer.expect("done");
    Ok(())
}

fn a_system_call_can_be_made_another() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    let stopped = interrupted(running);
    peer.say("parent");
    let stopped = entry_of(stopped, libc::SYS_getppid);
    let mut registers = stopped.registers().unwrap();
    assert_eq!(registers.syscall_number(), u64::try_from(libc::SYS_getppid).unwrap());
    registers.set_syscall_number(u64::try_from(libc::SYS_getpgid).unwrap());
    registers.set_arguments([u64::from(own()), 0, 0, 0, 0, 0]);
    stopped.set_registers(&registers).unwrap();
    let stopped = stop(stopped.to_syscall());
    // The group of the test, which leads it.
    assert_eq!(stopped.reason(), Reason::SyscallExit { value: own().into(), failed: false });
    let mut registers = stopped.registers().unwrap();
    registers.set_returned(4242);
    stopped.set_registers(&registers).unwrap();
    let (pc, sp) = (registers.pc(), registers.sp());
    assert!(stopped.peek(usize::try_from(pc).unwrap()).is_ok());
    assert!(stopped.peek(usize::try_from(sp).unwrap()).is_ok());
    drop(stopped);
    peer.expect("4242");
    Ok(())
}

fn a_signal_waits_for_the_tracer() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    peer.signal(Signal::USR1);
    let mut stopped = stop(running);
    let sent = Reason::Signal { number: 10, code: 0, sender: Some(own()) };
    assert_eq!(stopped.reason(), sent);
    assert_eq!(stopped.set_signal(Some(0)), Err(TraceError::Os(libc::EINVAL)));
    assert_eq!(stopped.set_signal(Some(65)), Err(TraceError::Os(libc::EINVAL)));
    stopped.set_signal(None).unwrap();
    let running = stopped.cont();
    peer.say("alive");
    peer.expect("alive");
    // Another one in its place.
    peer.signal(Signal::USR1);
    let mut stopped = stop(running);
    stopped.set_signal(Some(libc::SIGTERM)).unwrap();
    assert_eq!(end(stopped.cont()), How::Killed { signal: libc::SIGTERM, dumped: false });
    Ok(())
}

fn a_delivered_signal_does_what_it_does() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    peer.signal(Signal::USR2);
    assert_eq!(end(stop(running).cont()), How::Killed { signal: 12, dumped: false });
    // Let go in its stop, it gets the signal too.
    let (mut peer, running) = traced(Options::new())?;
    peer.signal(Signal::USR2);
    drop(stop(running));
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&peer.wait()), Some(12));
    Ok(())
}

fn a_stop_of_job_control_is_none_of_ours() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    peer.signal(Signal::STOP);
    let stopped = stop(running);
    let sent = |number| Reason::Signal { number, code: 0, sender: Some(own()) };
    assert_eq!(stopped.reason(), sent(libc::SIGSTOP));
    // Delivered, it stops the process.
    let stopped = stop(stopped.cont());
    assert_eq!(stopped.reason(), Reason::Group { signal: libc::SIGSTOP });
    let running = stopped.listen();
    assert_eq!(running.wait_timeout(Duration::from_millis(5)), Err(WaitError::TimedOut));
    assert_eq!(state(number(&peer)), 't');
    // An interrupt is told from the end of the stop by what it says.
    running.interrupt().unwrap();
    let stopped = stop(running);
    assert_eq!(stopped.reason(), Reason::Group { signal: libc::SIGSTOP });
    let running = stopped.listen();
    peer.signal(Signal::CONT);
    let stopped = stop(running);
    assert_eq!(stopped.reason(), Reason::Interrupted);
    let stopped = stop(stopped.cont());
    assert_eq!(stopped.reason(), sent(libc::SIGCONT));
    let running = stopped.cont();
    peer.say("on");
    peer.expect("on");
    drop(running);
    Ok(())
}

fn an_unmapped_address_is_an_error() -> Result<(), Skip> {
    let (_peer, running) = traced(Options::new())?;
    let stopped = interrupted(running);
    assert_eq!(stopped.peek(0), Err(TraceError::NotMapped));
    assert_eq!(stopped.poke(8, 1), Err(TraceError::NotMapped));
    assert_eq!(stopped.peek(usize::MAX - 100), Err(TraceError::NotMapped));
    Ok(())
}

fn code_can_be_changed() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    peer.say("where");
    let words = peer.hear();
    let (code, data) = words.split_once(' ').unwrap();
    let (code, data): (usize, usize) = (code.parse().unwrap(), data.parse().unwrap());
    let stopped = interrupted(running);
    stopped.poke(data, 0x1234_5678_9ABC).unwrap();
    assert_eq!(stopped.peek(data), Ok(0x1234_5678_9ABC));
    // Its code is read-only to itself and to process_vm.
    let memory = Memory::of_pid(number(&peer)).unwrap();
    assert!(memory.write(code, &[0; 8]).is_err());
    let before = stopped.peek(code).unwrap();
    stopped.poke(code, !before).unwrap();
    assert_eq!(stopped.peek(code), Ok(!before));
    let mut word = [0; size_of::<usize>()];
    memory.read(code, &mut word).unwrap();
    assert_eq!(usize::from_ne_bytes(word), !before);
    stopped.poke(code, before).unwrap();
    drop(stopped);
    peer.say("well");
    peer.expect("well");
    Ok(())
}

/// A number that means nothing to any kernel: marks begin and end.
const MARK: i64 = 0x51E3;

fn mark() {
    // SAFETY: the kernel refuses an unknown number without looking at any argument.
    unsafe { libc::syscall(MARK) };
}

/// System calls with some instructions between them.
fn operation() {
    let mut sum = 0_u64;
    for rounds in [10, 1, 100] {
        for round in 0..rounds {
            sum = std::hint::black_box(sum.wrapping_mul(31) + round);
        }
        // SAFETY: takes no memory.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    std::hint::black_box(sum);
}

fn spinner(link: &Link) {
    operation();
    link.say("warm");
    link.expect("go");
    mark();
    operation();
    mark();
    link.say("done");
}

/// The single-stepper of the testkit knows nothing of the library: both must count the same.
fn a_step_is_one_instruction() -> Result<(), Skip> {
    let expected = match steps::measure(1, operation) {
        Ok(expected) => expected,
        Err(error) => return skip(error.to_string()),
    };
    // How each comes to its first call differs; from there on it is the same code.
    let expected: Vec<u64> =
        expected.calls[1..].iter().map(|call| call.instructions_before).collect();

    let peer = Peer::spawn("ptrace::spinner");
    peer.expect("warm");
    let running = match Options::new().exit_kill().seize(number(&peer)) {
        Ok(running) => running,
        Err(error) => return skip(error.to_string()),
    };
    let stopped = interrupted(running);
    peer.say("go");
    let mut stopped = entry_of(stopped, MARK);
    stopped = stop(stopped.to_syscall());
    let (mut instructions, mut counted) = (0, Vec::new());
    loop {
        let registers = stopped.registers().unwrap();
        let word = stopped.peek(usize::try_from(registers.pc()).unwrap()).unwrap();
        if is_system_call(word) {
            if about_to_call(&registers) == MARK.cast_unsigned() {
                break;
            }
            counted.push(instructions);
            instructions = 0;
        } else {
            instructions += 1;
        }
        stopped = stop(stopped.step());
        assert_eq!(stopped.reason(), Reason::Step);
    }
    assert_eq!(counted[1..], expected);
    drop(stopped);
    peer.expect("done");
    peer.join();
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn is_system_call(word: usize) -> bool {
    word & 0xFFFF == 0x050F
}

#[cfg(target_arch = "x86_64")]
fn about_to_call(registers: &sinew::ptrace::Registers) -> u64 {
    registers.returned()
}

#[cfg(not(target_arch = "x86_64"))]
fn is_system_call(word: usize) -> bool {
    word & 0xFFFF_FFFF == 0xD400_0001
}

#[cfg(not(target_arch = "x86_64"))]
fn about_to_call(registers: &sinew::ptrace::Registers) -> u64 {
    registers.syscall_number()
}

fn a_trap_that_was_sent_is_no_step() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    let stopped = interrupted(running);
    peer.say("trap");
    // Stepping from further off, through all that comes before, takes long.
    let mut stopped = entry_of(stopped, libc::SYS_tgkill);
    let code = loop {
        stopped = stop(stopped.step());
        match stopped.reason() {
            Reason::Step => {}
            Reason::Signal { number: libc::SIGTRAP, code, sender } => {
                assert_eq!(sender, Some(number(&peer)));
                break code;
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, -6, "tgkill");
    stopped.set_signal(None).unwrap();
    drop(stopped);
    peer.expect("done");
    Ok(())
}

fn a_fork_brings_its_child() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new().forks())?;
    peer.say("fork");
    let mut stopped = stop(running);
    let Reason::Fork { child } = stopped.reason() else { panic!("{:?}", stopped.reason()) };
    let running = stopped.take_child().unwrap();
    assert!(stopped.take_child().is_none());
    assert_eq!(running.pid(), child);
    let parent = stopped.cont();
    let first = stop(running);
    assert_eq!(first.reason(), Reason::Interrupted);
    assert_eq!(end(first.cont()), How::Exited(5));
    // Which its parent sees, and is told of by a signal.
    let told = stop(parent);
    assert!(matches!(told.reason(), Reason::Signal { number: libc::SIGCHLD, .. }));
    let _parent = told.cont();
    peer.expect("5");
    Ok(())
}

fn a_child_that_is_not_taken_runs_on() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new().forks())?;
    peer.say("fork");
    let stopped = stop(running);
    assert!(matches!(stopped.reason(), Reason::Fork { .. }));
    drop(stopped);
    peer.expect("5");
    Ok(())
}

fn a_thread_is_traced_too() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new().clones().exits())?;
    peer.say("thread");
    let mut stopped = stop(running);
    let Reason::Clone { child } = stopped.reason() else { panic!("{:?}", stopped.reason()) };
    let thread = stopped.take_child().unwrap();
    let _main = stopped.cont();
    let first = stop(thread);
    assert_eq!(first.reason(), Reason::Interrupted);
    assert_eq!(first.pid(), child);
    let last = stop(first.cont());
    assert_eq!(last.reason(), Reason::Exiting { status: 0 });
    assert_eq!(end(last.cont()), How::Exited(0));
    peer.expect("joined");
    Ok(())
}

fn an_exec_is_seen() -> Result<(), Skip> {
    let (mut peer, running) = traced(Options::new().execs())?;
    peer.say("exec");
    let stopped = stop(running);
    assert_eq!(stopped.reason(), Reason::Exec { former: number(&peer) });
    let name = std::fs::read_link(format!("/proc/{}/exe", number(&peer))).unwrap();
    assert_ne!(name, std::env::current_exe().unwrap());
    assert_eq!(end(stopped.cont()), How::Exited(0));
    assert!(peer.wait().success());
    Ok(())
}

fn an_end_can_be_seen_before_it() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new().exits())?;
    peer.say("exit");
    let stopped = stop(running);
    assert_eq!(stopped.reason(), Reason::Exiting { status: 7 << 8 });
    assert!(stopped.peek(usize::try_from(stopped.registers().unwrap().sp()).unwrap()).is_ok());
    assert_eq!(end(stopped.cont()), How::Exited(7));
    Ok(())
}

fn a_killed_tracee_is_a_result() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    let pid = number(&peer);
    peer.signal(Signal::KILL);
    assert_eq!(running.wait(), Ok(()));
    let Next::Ended(ended) = running.next() else { panic!("stopped") };
    assert_eq!(ended, Ended { pid, how: How::Killed { signal: 9, dumped: false } });

    // Reaped by others, nothing is known of how.
    let (peer, running) = traced(Options::new())?;
    let killed = interrupted(running).kill();
    peer.kill();
    assert_eq!(killed.interrupt(), Err(TraceError::Gone));
    assert_eq!(killed.wait(), Ok(()));
    assert_eq!(end(killed), How::Unknown);
    Ok(())
}

fn a_tracee_killed_in_its_stop_is_gone() -> Result<(), Skip> {
    let (peer, running) = traced(Options::new())?;
    let mut stopped = interrupted(running);
    let registers = stopped.registers().unwrap();
    peer.signal(Signal::KILL);
    until_state(number(&peer), 'Z');
    assert_eq!(stopped.registers().unwrap_err(), TraceError::Gone);
    assert_eq!(stopped.set_registers(&registers), Err(TraceError::Gone));
    assert_eq!(stopped.peek(0), Err(TraceError::Gone));
    assert_eq!(stopped.poke(0, 0), Err(TraceError::Gone));
    stopped.set_signal(None).unwrap();
    assert_eq!(end(stopped.step()), How::Killed { signal: 9, dumped: false });

    let (peer, running) = traced(Options::new())?;
    let stopped = interrupted(running);
    peer.signal(Signal::KILL);
    drop(stopped);
    Ok(())
}

fn a_child_stays_to_be_reaped() -> Result<(), Skip> {
    let (mut peer, running) = traced(Options::new())?;
    peer.say("exit");
    assert_eq!(end(running), How::Exited(7));
    assert_eq!(peer.wait().code(), Some(7));
    Ok(())
}

/// Has a child that waits for a signal, and waits for its end.
fn parent(link: &Link) {
    // SAFETY: one thread; the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: takes no memory.
            unsafe { libc::pause() };
        }
    }
    link.say(child);
    let (_, status) = waitpid(Pid::from_raw(child), WaitOptions::empty()).unwrap().unwrap();
    link.say(status.terminating_signal().unwrap());
}

fn the_parent_of_a_tracee_sees_its_end() -> Result<(), Skip> {
    for taken in [true, false] {
        let peer = Peer::spawn("ptrace::parent");
        let child: u32 = peer.hear().parse().unwrap();
        let running = match Options::new().seize(child) {
            Ok(running) => running,
            Err(error) => return skip(error.to_string()),
        };
        let running = interrupted(running).kill();
        if taken {
            assert_eq!(end(running), How::Killed { signal: 9, dumped: false });
        } else {
            drop(running);
        }
        peer.expect("9");
        peer.join();
    }
    Ok(())
}

/// Seizes what it is told, and waits to be killed.
fn tracer(link: &Link) {
    let victim = link.hear().parse().unwrap();
    let options = match link.hear().as_str() {
        "kill" => Options::new().exit_kill(),
        _ => Options::new(),
    };
    match options.seize(victim) {
        Ok(_running) => {
            link.say("seized");
            let _ = link.try_receive();
        }
        Err(error) => link.say(error),
    }
}

fn a_dead_tracer_lets_go_or_kills() -> Result<(), Skip> {
    for how in ["kill", "let go"] {
        let victim = Peer::spawn("ptrace::worker");
        let tracer = Peer::spawn("ptrace::tracer");
        tracer.say(number(&victim));
        tracer.say(how);
        let answer = tracer.hear();
        if answer != "seized" {
            return skip(answer);
        }
        tracer.kill();
        if how == "kill" {
            assert!(victim.try_receive().is_none());
        } else {
            victim.say("alive");
            victim.expect("alive");
            assert_eq!(tracer_of(number(&victim)), 0);
        }
    }
    Ok(())
}

fn waits_end_when_they_should() -> Result<(), Skip> {
    let (_peer, running) = traced(Options::new())?;
    assert_eq!(running.try_wait(), Err(WaitError::WouldBlock));
    let before = std::time::Instant::now();
    assert_eq!(running.wait_timeout(Duration::from_millis(5)), Err(WaitError::TimedOut));
    assert!(before.elapsed() >= Duration::from_millis(5));
    let stop = Interrupt::new().unwrap();
    stop.trigger();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    assert_eq!(running.wait_for(wait), Err(WaitError::Interrupted));
    running.interrupt().unwrap();
    // However often it is looked at, it stays to be taken.
    assert_eq!(running.wait_timeout(Duration::from_secs(60)), Ok(()));
    assert_eq!(running.wait(), Ok(()));
    assert_eq!(running.try_wait(), Ok(()));
    assert!(matches!(running.next(), Next::Stopped(_)));
    Ok(())
}

fn what_cannot_be_seized_says_why() -> Result<(), Skip> {
    for pid in [0, u32::MAX, 1 << 30] {
        assert_eq!(Options::new().seize(pid).unwrap_err().kind(), ErrorKind::NotFound);
    }
    let error = Options::new().seize(own()).unwrap_err();
    assert!(error.to_string().contains("a thread of this process"), "{error}");

    let (peer, _running) = traced(Options::new())?;
    let error = Options::new().seize(number(&peer)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains(&format!("process {} traces it", own())), "{error}");

    // What has ended and is not reaped.
    let peer = Peer::spawn("ptrace::worker");
    kill_process(peer.pid(), Signal::KILL).unwrap();
    until_state(number(&peer), 'Z');
    let error = Options::new().seize(number(&peer)).unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
    Ok(())
}

fn other_user(link: &Link) {
    let nobody = rustix::fs::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    let error = Options::new().seize(link.hear().parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    link.say(error);
}

fn another_users_process_is_refused_with_the_reason() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let peer = Peer::spawn("ptrace::other_user");
    peer.say(own());
    let error = peer.hear();
    assert!(error.contains("runs as uid 0, this process as uid 65534"), "{error}");
    peer.join();
    Ok(())
}
