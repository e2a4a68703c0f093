//! Members of channels that are killed, stopped, forked or starved while the others find each other.

#![allow(unsafe_code, reason = "tests fork")]

pub(crate) mod heirs;
pub(crate) mod worlds;

use std::fs;
use std::io::PipeReader;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use sinew::channel::{Attach, Options, Receiver, Sender};
use sinew::pidfd::PidFd;
use sinew::ptrace::{self, Next, Reason, Running, Stopped};
use sinew::unix::{Address, Seqpacket};
use sinew::wait::{Connects, Opens, Receives, Sends, Waits};
use sinew::{ErrorKind, RecvError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, tests};

use crate::pipe::{stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    a_newcomer_may_be_killed_at_each_system_call,
    a_holder_may_be_killed_at_each_system_call_of_letting_one_in,
    an_heir_may_be_killed_at_each_system_call_of_taking_over,
    the_holder_and_another_die_at_once,
    a_killed_holder_is_dead_though_its_forked_child_lives,
    a_holder_that_leaves_hands_the_name_on,
    a_stopped_holder_is_named,
    names_and_folders_are_removed_under_traffic,
    eighteen_descriptors_are_enough,
    those_who_knock_and_say_nothing_keep_nobody_out,
];
pub(crate) const ROLES: &[Role] = roles![member];

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);
const SENDERS: u32 = 4;

fn options() -> Options {
    Options::fan_in(SENDERS).capacity(4096)
}

fn sender() -> Attach<Sender> {
    options().sender().folder(scratch())
}

fn receiver() -> Attach<Receiver> {
    options().receiver().folder(scratch())
}

/// A sender that does what it is told.
fn member(link: &Link) {
    let mut own = None;
    let mut kept = Vec::new();
    while let Some((words, fds)) = link.try_receive() {
        kept.extend(fds);
        match words.as_slice() {
            b"create" => {
                own = Some(sender().create("test").unwrap());
                link.say("here");
            }
            b"open" => {
                own = Some(sender().awaited("test").open_timeout(LONG).unwrap());
                link.say("here");
            }
            b"open or create" => {
                own = Some(sender().open_or_create("test").unwrap());
                link.say("here");
            }
            b"send" => {
                own.as_ref().unwrap().send_timeout(b"a number", LONG).unwrap();
                link.say("sent");
            }
            b"leave" => {
                own = None;
                link.say("gone");
            }
            b"limit" => {
                limit(18);
                link.say("limited");
            }
            // Sends the pipe by whose end the child ends.
            b"fd" => link.say(fork_child(PipeReader::from(kept.pop().unwrap()))),
            other => panic!("{other:?}"),
        }
    }
}

/// A child that has everything that this process has, until nobody can write to the pipe.
fn fork_child(until: PipeReader) -> i32 {
    // SAFETY: the child makes only the system calls below.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let mut byte = 0_u8;
            // SAFETY: one byte that is this function's own, for the call.
            unsafe { libc::read(until.as_raw_fd(), (&raw mut byte).cast(), 1) };
            // SAFETY: ends the child without anything that the parent would do at its end.
            unsafe { libc::_exit(0) }
        }
        child => child,
    }
}

/// Leaves as many descriptors as a process has with this limit and its standard ones only, whatever this
/// one was started with.
fn limit(limit: usize) {
    let taken = |fd: &u64| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
    let last = (0..).filter(|fd| !taken(fd)).nth(limit - 4);
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: last.map(|fd| fd + 1), maximum }).unwrap();
}

fn start(how: &str) -> Peer {
    let peer = Peer::spawn("channel_members::member");
    peer.say(how);
    peer.expect("here");
    peer
}

/// The next message. Deaths that are told before are not of interest.
fn message(receiver: &Receiver) {
    let mut buf = [0; 16];
    loop {
        match receiver.recv_timeout(&mut buf, LONG) {
            Ok(length) => return assert_eq!(&buf[..length], b"a number"),
            Err(RecvError::PeerDied) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn sends(peer: &Peer, receiver: &Receiver) {
    peer.say("send");
    message(receiver);
    peer.expect("sent");
}

/// Opens the receiving end, once the death of the last one is noticed.
fn receive() -> Receiver {
    let deadline = Instant::now() + LONG;
    loop {
        match receiver().awaited("test").open_timeout(LONG) {
            Ok(receiver) => {
                receiver.outlast_senders(true);
                return receiver;
            }
            // Not followed yet; or with few descriptors, too many are on their way just now.
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::InUse | ErrorKind::LimitReached),
                "{error}"
            ),
        }
        assert!(Instant::now() < deadline, "the place is not given back");
    }
}

/// That so many more senders find room: no place was lost.
fn has_room_for(count: usize) {
    let deadline = Instant::now() + LONG;
    let mut senders = Vec::new();
    while senders.len() < count {
        match sender().awaited("test").open_timeout(LONG) {
            Ok(sender) => senders.push(sender),
            // Not followed yet; or with few descriptors, too many are on their way just now.
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::InUse | ErrorKind::LimitReached),
                "{error}"
            ),
        }
        assert!(Instant::now() < deadline, "{} of {count} places", senders.len());
    }
}

/// A peer of which one thread is stopped at its system calls.
struct Traced {
    peer: Peer,
    running: Running,
    /// How many calls it has entered.
    calls: u32,
}

impl Traced {
    /// Traces the thread with this name, or the first one.
    fn seize(peer: Peer, thread: Option<&str>) -> Result<Self, Skip> {
        let pid = peer.pid().as_raw_nonzero().get().unsigned_abs();
        let number = thread.map_or(pid, |name| number_of(pid, name));
        match ptrace::Options::new().seize(number) {
            Ok(running) => {
                running.interrupt().unwrap();
                Ok(Self { peer, running, calls: 0 })
            }
            Err(e) => {
                peer.kill();
                skip(format!("cannot trace: {e}")).map(|()| unreachable!("it was skipped"))
            }
        }
    }

    /// Runs to the next entry of a system call, and says which.
    fn next_call(self) -> (Peer, Stopped, u32, (i64, u64)) {
        let Self { peer, mut running, calls } = self;
        loop {
            let Next::Stopped(stopped) = running.next() else { panic!("it ended") };
            if let Reason::SyscallEntry { number, arguments } = stopped.reason() {
                let number = i64::try_from(number).unwrap();
                return (peer, stopped, calls + 1, (number, arguments[0]));
            }
            running = stopped.to_syscall();
        }
    }

    /// Kills it when it enters its `turn`th call, or the one for which `is_last` says so. Says whether it was that one.
    fn kill_at(mut self, turn: u32, mut is_last: impl FnMut(i64, u64) -> bool) -> bool {
        loop {
            let (peer, stopped, calls, (number, first)) = self.next_call();
            let last = is_last(number, first);
            if last || calls == turn {
                peer.signal(Signal::KILL);
                let mut running = stopped.cont();
                while let Next::Stopped(stopped) = running.next() {
                    running = stopped.cont();
                }
                peer.kill();
                return last;
            }
            self = Self { peer, running: stopped.to_syscall(), calls };
        }
    }
}

/// The number of the thread with this name, once there is one: it gives the name to itself.
fn number_of(pid: u32, name: &str) -> u32 {
    let deadline = Instant::now() + LONG;
    loop {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let found = tasks.map(|task| task.unwrap()).find(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        });
        if let Some(task) = found {
            return task.file_name().to_str().unwrap().parse().unwrap();
        }
        assert!(Instant::now() < deadline, "it has no such thread");
        std::thread::yield_now();
    }
}

const fn is_sleep(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_epoll_wait {
        return true;
    }
    matches!(number, libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2)
}

/// The number by which a peer has its end of the link.
const LINK: u64 = 3;

fn a_newcomer_may_be_killed_at_each_system_call() -> Result<(), Skip> {
    let receiver = receiver().create("test").unwrap();
    receiver.outlast_senders(true);
    for turn in 1.. {
        let peer = Peer::spawn("channel_members::member");
        until_asleep(peer.pid());
        let traced = Traced::seize(peer, None)?;
        traced.peer.say("open");
        // It says that it is here over the link.
        let says = |number, first| number == libc::SYS_sendmsg && first == LINK;
        let last = traced.kill_at(turn, says);
        if last || turn % 8 == 0 {
            has_room_for(SENDERS as usize);
        }
        if last {
            assert!(turn > 40, "{turn}");
            return Ok(());
        }
    }
    Ok(())
}

fn a_holder_may_be_killed_at_each_system_call_of_letting_one_in() -> Result<(), Skip> {
    for turn in 1.. {
        let holder = start("create");
        let receiver = receive();
        let traced = Traced::seize(holder, Some("sinew"))?;
        let newcomer = Peer::spawn("channel_members::member");
        newcomer.say("open");
        let mut sent = 0;
        // It tells of the newcomer, welcomes it, and sleeps again.
        let last = traced.kill_at(turn, |number, _| {
            sent += u32::from(number == libc::SYS_sendmsg);
            sent >= 2 && is_sleep(number)
        });
        newcomer.expect("here");
        sends(&newcomer, &receiver);
        has_room_for(SENDERS as usize - 1);
        drop(receiver);
        newcomer.say("leave");
        newcomer.expect("gone");
        if last {
            assert!(turn > 20, "{turn}");
            return Ok(());
        }
    }
    Ok(())
}

fn an_heir_may_be_killed_at_each_system_call_of_taking_over() -> Result<(), Skip> {
    for turn in 1.. {
        let holder = start("create");
        let heir = start("open");
        let last_one = start("open");
        // It is slow, and no more: the heir is the other.
        stop(&last_one);
        let traced = Traced::seize(heir, Some("sinew"))?;
        holder.kill();
        let mut renamed = false;
        let last = traced.kill_at(turn, |number, _| {
            renamed |= number == libc::SYS_renameat2;
            renamed && is_sleep(number)
        });
        last_one.signal(Signal::CONT);
        let receiver = receive();
        sends(&last_one, &receiver);
        has_room_for(SENDERS as usize - 1);
        drop(receiver);
        last_one.say("leave");
        last_one.expect("gone");
        if last {
            assert!(turn > 20, "{turn}");
            return Ok(());
        }
    }
    Ok(())
}

fn the_holder_and_another_die_at_once() -> Result<(), Skip> {
    for _ in 0..20 {
        let dying = [start("create"), start("open")];
        let survivors = [start("open"), start("open")];
        for peer in &dying {
            peer.signal(Signal::KILL);
        }
        for mut peer in dying {
            peer.wait();
        }
        let receiver = receive();
        for peer in &survivors {
            sends(peer, &receiver);
        }
        has_room_for(2);
        drop(receiver);
        for peer in survivors {
            peer.say("leave");
            peer.expect("gone");
        }
        assert!(!scratch().join("test").exists());
    }
    Ok(())
}

fn a_killed_holder_is_dead_though_its_forked_child_lives() -> Result<(), Skip> {
    for others in [false, true] {
        let holder = start("create");
        let other = others.then(|| start("open"));
        let first = receive();
        let (rx, tx) = std::io::pipe().unwrap();
        holder.send_fd(rx.as_fd());
        drop(rx);
        let child = PidFd::open(holder.hear().parse().unwrap()).unwrap();
        holder.kill();
        // The child has its connections, its listener and its map.
        assert_eq!(first.recv_timeout(&mut [0; 16], LONG), Err(RecvError::PeerDied));
        assert!(!child.has_ended());
        let receiver = if others {
            first
        } else {
            drop(first);
            receiver().create("test").unwrap()
        };
        let newcomer = start("open");
        sends(&newcomer, &receiver);
        if let Some(other) = &other {
            sends(other, &receiver);
        }
        has_room_for(SENDERS as usize - 1 - usize::from(others));
        drop(tx);
        child.exited().wait().unwrap();
        drop(receiver);
        for peer in other.into_iter().chain([newcomer]) {
            peer.say("leave");
            peer.expect("gone");
        }
    }
    Ok(())
}

fn a_holder_that_leaves_hands_the_name_on() -> Result<(), Skip> {
    let holder = start("create");
    let mut peers = vec![start("open"), holder];
    let receiver = receive();
    for _ in 0..50 {
        // The first of the list has held the name, or holds it after this.
        let leaving = peers.remove(1);
        sends(&leaving, &receiver);
        leaving.say("leave");
        leaving.expect("gone");
        sends(&peers[0], &receiver);
        let newcomer = start("open");
        sends(&newcomer, &receiver);
        leaving.say("open");
        leaving.expect("here");
        sends(&leaving, &receiver);
        newcomer.say("leave");
        newcomer.expect("gone");
        peers.insert(0, leaving);
    }
    drop(receiver);
    for peer in peers {
        peer.say("leave");
        peer.expect("gone");
    }
    assert!(!scratch().join("test").exists());
    Ok(())
}

fn a_stopped_holder_is_named() -> Result<(), Skip> {
    let holder = start("create");
    stop(&holder);
    let pid = holder.pid().as_raw_nonzero();
    let error = receiver().awaited("test").open_timeout(SHORT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains(&format!("held by {pid}, stopped")), "{error}");
    let error = receiver().create("test").unwrap_err();
    assert!(error.to_string().contains(&format!("held by {pid}, stopped")), "{error}");
    holder.signal(Signal::CONT);
    let receiver = receive();
    sends(&holder, &receiver);
    holder.say("leave");
    holder.expect("gone");
    Ok(())
}

fn names_and_folders_are_removed_under_traffic() -> Result<(), Skip> {
    let folder = scratch().join("folder");
    let sender = || options().sender().folder(&folder);
    let receiver = options().receiver().folder(&folder);
    for whole in [false, true] {
        fs::create_dir(&folder).unwrap();
        let receiver = receiver.create("test").unwrap();
        receiver.outlast_senders(true);
        let mut senders = vec![sender().open("test").unwrap(), sender().open("test").unwrap()];
        fs::remove_file(folder.join("test")).unwrap();
        if whole {
            fs::remove_dir(&folder).unwrap();
        }
        for _ in 0..100 {
            for sender in &senders {
                sender.send(b"a number").unwrap();
                message(&receiver);
            }
        }
        let error = sender().open("test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        senders.pop();
        senders[0].send(b"a number").unwrap();
        message(&receiver);
        drop(receiver);
        if whole {
            fs::create_dir(&folder).unwrap();
        } else {
            // The heir of the one that left puts the name back.
            drop(options().receiver().folder(&folder).awaited("test").open_timeout(LONG).unwrap());
        }
        drop(senders);
        // Whether or not somebody had the time to put a name back, it goes with the last one.
        let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        fs::remove_dir(&folder).unwrap();
    }
    Ok(())
}

fn eighteen_descriptors_are_enough() -> Result<(), Skip> {
    let peers = ["create", "open"].map(|how| {
        let peer = Peer::spawn("channel_members::member");
        peer.say("limit");
        peer.expect("limited");
        peer.say(how);
        peer.expect("here");
        peer
    });
    let receiver = receive();
    for peer in &peers {
        sends(peer, &receiver);
    }
    let [holder, heir] = peers;
    holder.kill();
    has_room_for(1);
    sends(&heir, &receiver);
    drop(receiver);
    heir.say("leave");
    heir.expect("gone");
    Ok(())
}

fn those_who_knock_and_say_nothing_keep_nobody_out() -> Result<(), Skip> {
    let receiver = receiver().create("test").unwrap();
    let address = Address::path(scratch().join("test")).unwrap();
    let knock = || -> Seqpacket { address.seqpacket().connect_timeout(LONG).unwrap() };
    let silent: Vec<_> = (0..100).map(|_| knock()).collect();
    let rubbish: Vec<_> = (0..100)
        .map(|turn| {
            let socket = knock();
            // It may be shown out already.
            let _ = socket.try_send(&vec![turn; 1 + usize::from(turn) * 40]);
            socket
        })
        .collect();
    let newcomer = start("open");
    sends(&newcomer, &receiver);
    drop((silent, rubbish));
    newcomer.say("leave");
    newcomer.expect("gone");
    Ok(())
}
