//! POSIX message queues.

#![allow(unsafe_code, reason = "waiting for a signal needs libc")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sinew::posix_mq::{self, Access, Options, PRIORITY_MAX, Queue, Received};
use sinew::wait::{Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, skip, steps, tests};

pub(crate) const TESTS: &[Test] = tests![
    names_are_a_slash_and_at_most_255_bytes,
    a_queue_is_private_to_its_user_unless_told_otherwise,
    create_wants_a_new_name_and_open_an_old_one,
    open_or_create_keeps_what_exists,
    descriptors_are_close_on_exec,
    the_cost_is_what_the_kernel_counts,
    a_limit_of_proc_is_named,
    a_queue_too_large_for_the_user_is_told_from_one_descriptor_too_many,
    queues_of_the_user_fill_the_limit,
    too_many_queues_name_the_limit,
    messages_come_by_priority_and_then_in_order,
    the_highest_priority_is_32767,
    empty_messages_are_messages,
    full_and_empty_are_told_apart_from_time_out,
    an_attempt_changes_no_flag_of_the_description,
    a_non_blocking_description_waits_all_the_same,
    a_message_too_long_names_the_size,
    a_buffer_too_small_loses_nothing,
    a_descriptor_does_what_it_was_opened_for,
    what_is_no_queue_says_so,
    a_bounded_wait_ends_when_something_comes,
    an_interrupt_ends_a_wait,
    a_signal_does_not_end_a_wait,
    poll_says_readable_exactly_while_a_message_waits,
    a_signal_comes_once_when_the_empty_queue_gets_a_message,
    one_process_at_a_time_is_notified,
    a_message_crosses_processes,
    a_descriptor_crosses_processes,
    a_killed_receiver_takes_no_message_with_it,
    a_killed_sender_leaves_whole_messages,
    a_stopped_receiver_makes_the_sender_time_out,
    many_senders_and_receivers_lose_and_double_nothing,
    an_unlinked_queue_goes_on,
    another_user_is_refused,
    a_kernel_without_queues_says_so,
    a_message_takes_one_system_call,
];
pub(crate) const ROLES: &[Role] =
    roles![receiver, echo, blocked_receiver, flood, worker, registrant, stranger];

/// A name of this test process alone, unlinked at the end.
struct Name(String);

impl Name {
    fn new(word: &str) -> Self {
        Self(format!("/sinew-test-{}-{word}", std::process::id()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = posix_mq::unlink(&self.0);
    }
}

/// An open queue without a name.
fn unnamed(depth: usize, bytes: usize) -> Queue {
    let name = Name::new("unnamed");
    Options::new().depth(depth).message_bytes(bytes).create(&name.0).unwrap()
}

fn setting(file: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/fs/mqueue/{file}")).unwrap();
    text.trim().parse().unwrap()
}

/// Makes this process, in a user and an IPC namespace of its own, the only one whose queues count,
/// and one without CAP_SYS_RESOURCE on the host, which alone lifts limits.
pub(crate) fn alone() -> Result<(), Skip> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: these flags change no descriptors and no memory, and a test has one thread.
    let done = unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWIPC) };
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {} 1", user.as_raw())),
        ("gid_map", format!("0 {} 1", group.as_raw())),
    ];
    done.map_err(std::io::Error::from)
        .and_then(|()| {
            maps.iter().try_for_each(|(map, ids)| std::fs::write(format!("/proc/self/{map}"), ids))
        })
        .or_else(|e| skip(format!("no user namespace: {e}")))
}

fn soft_limit(resource: Resource, value: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(value), maximum }).unwrap();
}

/// A length of time in which nothing happens that a correct program would notice.
const SHORT: Duration = Duration::from_millis(30);

fn names_are_a_slash_and_at_most_255_bytes() -> Result<(), Skip> {
    let longest = format!("/{}", "x".repeat(255));
    let too_long = format!("/{}", "x".repeat(256));
    for (name, errno, kind, words) in [
        ("jobs", libc::EINVAL, ErrorKind::InvalidInput, "begins with a slash"),
        ("", libc::EINVAL, ErrorKind::InvalidInput, "begins with a slash"),
        ("/", libc::ENOENT, ErrorKind::InvalidInput, "goes on after its slash"),
        ("/a/b", libc::EACCES, ErrorKind::InvalidInput, "one slash"),
        ("//a", libc::EACCES, ErrorKind::InvalidInput, "one slash"),
        ("/.", libc::EACCES, ErrorKind::InvalidInput, "not a dot"),
        ("/..", libc::EACCES, ErrorKind::InvalidInput, "not a dot"),
        ("/with\0nul", libc::EINVAL, ErrorKind::InvalidInput, "NUL"),
        (&too_long, libc::ENAMETOOLONG, ErrorKind::InvalidInput, "256 bytes"),
    ] {
        let all = [
            Options::new().create(name).unwrap_err(),
            Options::new().open(name).unwrap_err(),
            Options::new().open_or_create(name).unwrap_err(),
            posix_mq::unlink(name).unwrap_err(),
        ];
        for error in all {
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            assert_eq!(error.kind(), kind, "{error}");
            let text = error.to_string();
            assert!(text.contains(words) && text.starts_with("posix-mq \""), "{text}");
        }
    }
    let queue = Options::new().depth(1).message_bytes(1).create(&longest).unwrap();
    posix_mq::unlink(&longest).unwrap();
    drop(queue);
    Ok(())
}

fn a_queue_is_private_to_its_user_unless_told_otherwise() -> Result<(), Skip> {
    let name = Name::new("mode");
    let mode = |q: &Queue| rustix::fs::fstat(q).unwrap().st_mode & 0o7777;
    let queue = Options::new().depth(1).create(&name.0).unwrap();
    assert_eq!(mode(&queue), 0o600);
    posix_mq::unlink(&name.0).unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let queue = Options::new().depth(1).mode(0o666).create(&name.0).unwrap();
    assert_eq!(mode(&queue), 0o644);
    Ok(())
}

fn create_wants_a_new_name_and_open_an_old_one() -> Result<(), Skip> {
    let name = Name::new("names");
    let missing = Options::new().open(&name.0).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(missing.mechanism(), Some(sinew::Mechanism::PosixMq));
    let queue = Options::new().depth(1).create(&name.0).unwrap();
    assert_eq!(Options::new().create(&name.0).unwrap_err().kind(), ErrorKind::AlreadyExists);
    queue.send(b"one").unwrap();
    let other = Options::new().open(&name.0).unwrap();
    assert_eq!(other.len().unwrap(), 1);
    posix_mq::unlink(&name.0).unwrap();
    assert_eq!(posix_mq::unlink(&name.0).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Options::new().open(&name.0).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn open_or_create_keeps_what_exists() -> Result<(), Skip> {
    let name = Name::new("keep");
    let first = Options::new().depth(3).message_bytes(33).open_or_create(&name.0).unwrap();
    first.send(b"kept").unwrap();
    let second = Options::new().depth(9).message_bytes(99).open_or_create(&name.0).unwrap();
    let attributes = second.attributes().unwrap();
    assert_eq!((attributes.depth, attributes.message_bytes, attributes.waiting), (3, 33, 1));
    // One size given, the other the host's.
    let name = Name::new("half");
    let queue = Options::new().depth(1).create(&name.0).unwrap();
    let bytes = setting("msgsize_default").min(setting("msgsize_max"));
    assert_eq!(queue.attributes().unwrap().message_bytes, bytes);
    let name = Name::new("none");
    let attributes = Options::new().create(&name.0).unwrap().attributes().unwrap();
    assert_eq!(attributes.message_bytes, bytes);
    assert_eq!(attributes.depth, setting("msg_default").min(setting("msg_max")));
    Ok(())
}

fn descriptors_are_close_on_exec() -> Result<(), Skip> {
    let queue = unnamed(1, 1);
    let flags = rustix::io::fcntl_getfd(&queue).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    Ok(())
}

fn the_cost_is_what_the_kernel_counts() -> Result<(), Skip> {
    alone()?;
    for (depth, bytes) in [(1, 1), (1, 8192), (10, 8192), (7, 100)] {
        let options = Options::new().depth(depth).message_bytes(bytes);
        let cost = options.cost();
        let name = Name::new("cost");
        soft_limit(Resource::Msgqueue, cost - 1);
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains(&format!("need {cost} bytes")), "{error}");
        assert!(
            error.to_string().contains(&format!("RLIMIT_MSGQUEUE ({} bytes)", cost - 1)),
            "{error}"
        );
        soft_limit(Resource::Msgqueue, cost);
        options.create(&name.0).unwrap();
    }
    assert_eq!(Options::new().depth(usize::MAX).message_bytes(usize::MAX).cost(), u64::MAX);
    Ok(())
}

fn a_limit_of_proc_is_named() -> Result<(), Skip> {
    let name = Name::new("over");
    for (options, words) in [
        (Options::new().depth(0), "at least one message"),
        (Options::new().message_bytes(0), "at least one byte"),
    ] {
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(error.to_string().contains(words), "{error}");
    }
    alone()?;
    let (depth, bytes) = (setting("msg_max"), setting("msgsize_max"));
    for (options, asked, file, max) in [
        (Options::new().depth(depth + 1), depth + 1, "msg_max", depth),
        (Options::new().message_bytes(bytes + 1), bytes + 1, "msgsize_max", bytes),
    ] {
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{asked} ")), "{text}");
        assert!(text.contains(&format!("fs.mqueue.{file} ({max}")), "{text}");
    }
    for (options, words) in [
        (Options::new().depth(65_537), "65537 messages are more than the 65536"),
        (Options::new().message_bytes(usize::MAX), "more than the 16777216"),
    ] {
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    // Exactly the limit is allowed.
    Options::new().depth(depth).message_bytes(1).create(&name.0).unwrap();
    Ok(())
}

fn a_queue_too_large_for_the_user_is_told_from_one_descriptor_too_many() -> Result<(), Skip> {
    let name = Name::new("emfile");
    let options = Options::new().depth(4).message_bytes(64);
    let msgqueue = getrlimit(Resource::Msgqueue).current.unwrap_or(u64::MAX >> 1);
    soft_limit(Resource::Msgqueue, 100);
    let bytes = options.create(&name.0).unwrap_err();
    soft_limit(Resource::Msgqueue, msgqueue);

    let queue = options.create(&name.0).unwrap();
    let nofile = getrlimit(Resource::Nofile).current.unwrap();
    soft_limit(Resource::Nofile, 0);
    let descriptors =
        [options.create(format!("{}-2", name.0)).unwrap_err(), options.open(&name.0).unwrap_err()];
    soft_limit(Resource::Nofile, nofile);
    drop(queue);

    assert_eq!(bytes.raw_os_error(), Some(libc::EMFILE));
    assert_eq!(bytes.kind(), ErrorKind::LimitReached);
    let text = bytes.to_string();
    for words in ["4 messages of 64 bytes need 640 bytes", "RLIMIT_MSGQUEUE", "100", "ulimit -q"] {
        assert!(text.contains(words), "{text}");
    }
    for error in descriptors {
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        let text = error.to_string();
        assert!(text.contains("RLIMIT_NOFILE (0)") && !text.contains("MSGQUEUE"), "{text}");
    }
    Ok(())
}

fn queues_of_the_user_fill_the_limit() -> Result<(), Skip> {
    alone()?;
    let options = Options::new().depth(2).message_bytes(256);
    soft_limit(Resource::Msgqueue, 3 * options.cost() + 1);
    let before = census::descriptors();
    let mut queues = Vec::new();
    let error = loop {
        let name = Name::new(&queues.len().to_string());
        // The name goes at once, the bytes count as long as the queue is open.
        match options.create(&name.0) {
            Ok(queue) => queues.push(queue),
            Err(error) => break error,
        }
    };
    assert_eq!(queues.len(), 3);
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    let text = error.to_string();
    for words in
        ["2 messages of 256 bytes need 704 bytes", "this user's other queues leave", "2113"]
    {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(census::descriptors().len(), before.len() + 3);
    queues.pop();
    let name = Name::new("again");
    options.create(&name.0).unwrap();
    Ok(())
}

fn too_many_queues_name_the_limit() -> Result<(), Skip> {
    alone()?;
    if let Err(e) = std::fs::write("/proc/sys/fs/mqueue/queues_max", "1") {
        return skip(format!("the limit cannot be lowered: {e}"));
    }
    let first = Name::new("first");
    let _queue = Options::new().depth(1).create(&first.0).unwrap();
    let second = Name::new("second");
    let error = Options::new().depth(1).create(&second.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(error.to_string().contains("fs.mqueue.queues_max (1)"), "{error}");
    Ok(())
}

fn messages_come_by_priority_and_then_in_order() -> Result<(), Skip> {
    let queue = unnamed(8, 8);
    for (priority, word) in [(0, "a"), (5, "b"), (0, "c"), (5, "d"), (9, "e")] {
        queue.priority(priority).send(word.as_bytes()).unwrap();
    }
    queue.send(b"f").unwrap();
    let mut buf = [0; 8];
    let mut order = String::new();
    for _ in 0..6 {
        let got = queue.recv(&mut buf).unwrap();
        order += &format!("{}{}", got.priority, char::from(buf[0]));
    }
    assert_eq!(order, "9e5b5d0a0c0f");
    Ok(())
}

fn the_highest_priority_is_32767() -> Result<(), Skip> {
    let queue = unnamed(2, 8);
    queue.priority(PRIORITY_MAX).send(b"top").unwrap();
    let refused = queue.priority(PRIORITY_MAX + 1).send(b"over");
    assert_eq!(refused, Err(SendError::Os(libc::EINVAL)));
    assert_eq!(queue.recv(&mut [0; 8]), Ok(Received { len: 3, priority: PRIORITY_MAX }));
    Ok(())
}

fn empty_messages_are_messages() -> Result<(), Skip> {
    let queue = unnamed(2, 8);
    queue.priority(3).send(b"").unwrap();
    assert_eq!(queue.len().unwrap(), 1);
    assert_eq!(queue.recv(&mut [0; 8]), Ok(Received { len: 0, priority: 3 }));
    assert!(queue.is_empty().unwrap());
    Ok(())
}

fn full_and_empty_are_told_apart_from_time_out() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let mut buf = [0; 8];
    assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Empty));
    let begin = Instant::now();
    assert_eq!(queue.recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(queue.recv_until(&mut buf, begin), Err(RecvError::TimedOut));
    // Room, with a deadline that is over: done all the same.
    queue.send_until(b"1", begin).unwrap();
    assert_eq!(queue.try_send(b"2"), Err(SendError::Full));
    let begin = Instant::now();
    assert_eq!(queue.send_timeout(b"2", SHORT), Err(SendError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(queue.priority(1).try_send(b"2"), Err(SendError::Full));
    assert_eq!(queue.recv_until(&mut buf, begin), Ok(Received { len: 1, priority: 0 }));
    Ok(())
}

fn an_attempt_changes_no_flag_of_the_description() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let before = fcntl_getfl(&queue).unwrap();
    assert!(!before.contains(OFlags::NONBLOCK));
    for () in [(), ()] {
        let steps = match steps::measure(0, || {
            let _ = queue.try_recv(&mut [0; 8]);
        }) {
            Ok(steps) => steps,
            Err(e) => return skip(e.to_string()),
        };
        let calls: Vec<_> = steps.calls.iter().map(|c| c.number).collect();
        assert_eq!(calls, [libc::SYS_mq_timedreceive]);
    }
    assert_eq!(fcntl_getfl(&queue).unwrap(), before);
    Ok(())
}

fn a_non_blocking_description_waits_all_the_same() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    fcntl_setfl(&queue, OFlags::NONBLOCK).unwrap();
    assert_eq!(queue.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    let peer = Peer::spawn("posix_mq::echo");
    peer.send_fd(&queue);
    peer.expect("ready");
    // The peer echoes what it is told, so this call may begin before the message is there.
    peer.say("late");
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 4);
    queue.send(b"1").unwrap();
    assert_eq!(queue.try_send(b"2"), Err(SendError::Full));
    peer.say("end");
    peer.join();
    Ok(())
}

fn a_message_too_long_names_the_size() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    assert_eq!(queue.send(b"123456789"), Err(SendError::TooBig { limit: 8 }));
    assert_eq!(queue.try_send(b"123456789"), Err(SendError::TooBig { limit: 8 }));
    assert_eq!(queue.len().unwrap(), 0);
    // Full or not, it can never fit.
    queue.send(b"12345678").unwrap();
    assert_eq!(queue.send(b"123456789"), Err(SendError::TooBig { limit: 8 }));
    Ok(())
}

fn a_buffer_too_small_loses_nothing() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    queue.send(b"1").unwrap();
    let small = RecvError::TooSmall { needed: Some(8), lost: false };
    assert_eq!(queue.recv(&mut [0; 7]), Err(small));
    assert_eq!(queue.try_recv(&mut []), Err(small));
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 1);
    Ok(())
}

fn a_descriptor_does_what_it_was_opened_for() -> Result<(), Skip> {
    let name = Name::new("access");
    let both = Options::new().depth(1).create(&name.0).unwrap();
    let sender = Options::new().access(Access::Send).open(&name.0).unwrap();
    let receiver = Options::new().access(Access::Receive).open(&name.0).unwrap();
    let mut buf = vec![0; both.attributes().unwrap().message_bytes];
    sender.send(b"x").unwrap();
    assert_eq!(sender.recv(&mut buf), Err(RecvError::Os(libc::EBADF)));
    assert_eq!(receiver.send(b"x"), Err(SendError::Os(libc::EBADF)));
    assert_eq!(receiver.recv(&mut buf).unwrap().len, 1);
    Ok(())
}

fn what_is_no_queue_says_so() -> Result<(), Skip> {
    let (rx, _tx) = std::io::pipe().unwrap();
    let queue = Queue::from(OwnedFd::from(rx));
    assert_eq!(queue.send(b"x"), Err(SendError::Os(libc::EBADF)));
    assert_eq!(queue.try_recv(&mut [0; 8]), Err(RecvError::Os(libc::EBADF)));
    assert_eq!(queue.attributes().unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(queue.notify(libc::SIGUSR1).unwrap_err().kind(), ErrorKind::Mismatch);
    Ok(())
}

fn a_bounded_wait_ends_when_something_comes() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let peer = Peer::spawn("posix_mq::echo");
    peer.send_fd(&queue);
    peer.expect("ready");
    peer.say("word");
    assert_eq!(queue.recv_timeout(&mut [0; 8], Duration::from_secs(60)).unwrap().len, 4);
    peer.say("full");
    peer.expect("done");
    peer.expect("done");
    // The peer takes the first message when it is told, so this call may have to wait for room.
    peer.say("take");
    queue.send_timeout(b"second", Duration::from_secs(60)).unwrap();
    peer.expect("took 4");
    peer.say("end");
    peer.join();
    Ok(())
}

/// Sends what it is told into the queue it is given; takes one message out on "take".
fn echo(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    link.say("ready");
    loop {
        let word = link.hear();
        match word.as_str() {
            "end" => return,
            "take" => {
                let got = queue.recv(&mut [0; 8]).unwrap();
                link.say(format!("took {}", got.len));
            }
            word => {
                queue.send(word.as_bytes()).unwrap();
                // Nobody has to hear it.
                link.say("done");
            }
        }
    }
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| stop.trigger());
        let got = queue.recv_wait(&mut [0; 8], Wait::FOREVER.interrupted_by(&stop));
        assert_eq!(got, Err(RecvError::Interrupted));
    });
    queue.send(b"1").unwrap();
    let wait = Wait::timeout(Duration::from_secs(60)).interrupted_by(&stop);
    assert_eq!(queue.send_wait(b"2", wait), Err(SendError::Interrupted));
    stop.clear();
    assert!(queue.recv_wait(&mut [0; 8], wait).is_ok());
    Ok(())
}

/// Blocks the signal, so that it waits until it is asked for.
fn block(signal: i32) -> libc::sigset_t {
    // SAFETY: a sigset_t is a bit field, for which zero is a value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is initialised and borrowed for the call.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: as above; no old mask is asked for.
    let done =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    set
}

/// The next signal of the set within 10 seconds, or none if `wait` is false and none is there.
fn signalled(set: &libc::sigset_t, wait: bool) -> Option<(i32, i32)> {
    // SAFETY: siginfo_t is plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let time = libc::timespec { tv_sec: if wait { 10 } else { 0 }, tv_nsec: 0 };
    // SAFETY: the three are whole and borrowed for the call.
    let got = unsafe { libc::sigtimedwait(set, &raw mut info, &raw const time) };
    (got >= 0).then_some((got, info.si_code))
}

fn a_signal_does_not_end_a_wait() -> Result<(), Skip> {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
    // SAFETY: the handler does nothing, and `action` is borrowed for the call.
    let done = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    let every = libc::timeval { tv_sec: 0, tv_usec: 2_000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `timer` is borrowed for the call; no old value is asked for.
    let done =
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(done, 0);

    let queue = unnamed(1, 8);
    let begin = Instant::now();
    assert_eq!(queue.recv_timeout(&mut [0; 8], SHORT), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    // An unbounded wait sleeps through EINTR, too: a thread sends after the signals came.
    std::thread::scope(|s| {
        s.spawn(|| {
            let nobody = unnamed(1, 1).recv_timeout(&mut [0; 1], SHORT);
            assert_eq!(nobody, Err(RecvError::TimedOut));
            queue.send(b"1").unwrap();
        });
        assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 1);
    });
    Ok(())
}

fn poll_says_readable_exactly_while_a_message_waits() -> Result<(), Skip> {
    let queue = unnamed(2, 8);
    let ready = || {
        let mut fds = [PollFd::new(&queue, PollFlags::IN | PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        (fds[0].revents().contains(PollFlags::IN), fds[0].revents().contains(PollFlags::OUT))
    };
    let mut buf = [0; 8];
    assert_eq!(ready(), (false, true));
    queue.send(b"1").unwrap();
    assert_eq!(ready(), (true, true));
    queue.send(b"2").unwrap();
    assert_eq!(ready(), (true, false));
    queue.recv(&mut buf).unwrap();
    assert_eq!(ready(), (true, true), "partly drained");
    queue.recv(&mut buf).unwrap();
    assert_eq!(ready(), (false, true));
    Ok(())
}

fn a_signal_comes_once_when_the_empty_queue_gets_a_message() -> Result<(), Skip> {
    let set = block(libc::SIGUSR1);
    let queue = unnamed(4, 8);
    queue.notify(libc::SIGUSR1).unwrap();
    assert_eq!(signalled(&set, false), None);

    let peer = Peer::spawn("posix_mq::echo");
    peer.send_fd(&queue);
    peer.expect("ready");
    peer.say("one");
    assert_eq!(signalled(&set, true), Some((libc::SIGUSR1, libc::SI_MESGQ)));
    peer.expect("done");
    // Used up, and the queue is not empty.
    queue.send(b"two").unwrap();
    assert_eq!(signalled(&set, false), None);
    // Registered while messages wait: nothing until the queue has been empty.
    queue.notify(libc::SIGUSR1).unwrap();
    queue.send(b"three").unwrap();
    assert_eq!(signalled(&set, false), None);
    for _ in 0..3 {
        queue.recv(&mut [0; 8]).unwrap();
    }
    queue.send(b"four").unwrap();
    assert_eq!(signalled(&set, false), Some((libc::SIGUSR1, libc::SI_MESGQ)));
    queue.recv(&mut [0; 8]).unwrap();
    // Cancelled.
    queue.notify(libc::SIGUSR1).unwrap();
    queue.cancel_notify().unwrap();
    queue.send(b"five").unwrap();
    assert_eq!(signalled(&set, false), None);
    assert_eq!(queue.notify(4096).unwrap_err().kind(), ErrorKind::InvalidInput);
    peer.say("end");
    peer.join();
    Ok(())
}

fn one_process_at_a_time_is_notified() -> Result<(), Skip> {
    let set = block(libc::SIGUSR1);
    let queue = unnamed(1, 8);
    queue.notify(libc::SIGUSR1).unwrap();
    let error = queue.notify(libc::SIGUSR1).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InUse, Some(libc::EBUSY)));
    queue.cancel_notify().unwrap();

    let peer = Peer::spawn("posix_mq::registrant");
    peer.send_fd(&queue);
    peer.expect("registered");
    assert_eq!(queue.notify(libc::SIGUSR1).unwrap_err().kind(), ErrorKind::InUse);
    // What another process registered is not ours to cancel.
    queue.cancel_notify().unwrap();
    assert_eq!(queue.notify(libc::SIGUSR1).unwrap_err().kind(), ErrorKind::InUse);
    // Its death is the end of its registration.
    peer.kill();
    queue.notify(libc::SIGUSR1).unwrap();
    queue.send(b"x").unwrap();
    assert!(signalled(&set, false).is_some());
    Ok(())
}

fn registrant(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    queue.notify(libc::SIGUSR1).unwrap();
    link.say("registered");
    let _ = link.hear();
}

fn a_message_crosses_processes() -> Result<(), Skip> {
    let name = Name::new("cross");
    let queue = Options::new().depth(4).message_bytes(4096).create(&name.0).unwrap();
    let peer = Peer::spawn("posix_mq::receiver");
    peer.say(&name.0);
    for (length, priority) in [(0, 0), (1, 1), (64, 2), (4096, 32767)] {
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        queue.priority(priority).send(&message).unwrap();
        let sum: u64 = message.iter().map(|b| u64::from(*b)).sum();
        peer.expect(&format!("{length} {priority} {sum}"));
    }
    drop(peer);
    Ok(())
}

fn receiver(link: &Link) {
    let queue = Options::new().access(Access::Receive).open(link.hear()).unwrap();
    let mut buf = vec![0; queue.attributes().unwrap().message_bytes];
    loop {
        let got = queue.recv(&mut buf).unwrap();
        let sum: u64 = buf[..got.len].iter().map(|b| u64::from(*b)).sum();
        link.say(format!("{} {} {sum}", got.len, got.priority));
    }
}

fn a_descriptor_crosses_processes() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let peer = Peer::spawn("posix_mq::echo");
    // Unlinked already: only the descriptor leads to it.
    peer.send_fd(queue.as_fd());
    peer.expect("ready");
    peer.say("hello");
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 5);
    peer.expect("done");
    let fd = OwnedFd::from(queue);
    let number = fd.as_raw_fd();
    let queue = Queue::from(fd);
    assert_eq!(queue.as_fd().as_raw_fd(), number);
    peer.say("end");
    peer.join();
    Ok(())
}

fn a_killed_receiver_takes_no_message_with_it() -> Result<(), Skip> {
    let queue = unnamed(4, 8);
    let peer = Peer::spawn("posix_mq::blocked_receiver");
    peer.send_fd(&queue);
    peer.expect("receiving");
    in_call(&peer, libc::SYS_mq_timedreceive);
    assert!(!peer.kill().success());
    queue.send(b"mine").unwrap();
    assert_eq!(queue.len().unwrap(), 1);
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 4);
    Ok(())
}

fn blocked_receiver(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    link.say("receiving");
    let got = queue.recv(&mut [0; 8]).unwrap();
    link.say(got.len);
    let _ = link.hear();
}

/// Waits until a peer sleeps in this system call.
pub(crate) fn in_call(peer: &Peer, number: i64) {
    let path = format!("/proc/{}/syscall", peer.pid().as_raw_nonzero());
    let begin = Instant::now();
    loop {
        // Empty while it runs; unreadable only for who may not trace it.
        let text = std::fs::read_to_string(&path).expect("a child may be looked at");
        if text.split(' ').next() == Some(&number.to_string()) {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "never in the call: {text}");
        std::thread::yield_now();
    }
}

fn a_killed_sender_leaves_whole_messages() -> Result<(), Skip> {
    let queue = unnamed(4, 64);
    let peer = Peer::spawn("posix_mq::flood");
    peer.send_fd(&queue);
    let mut buf = [0; 64];
    for _ in 0..1000 {
        let got = queue.recv(&mut buf).unwrap();
        check_flood(&buf[..got.len]);
    }
    in_call(&peer, libc::SYS_mq_timedsend);
    peer.kill();
    let mut left = 0;
    while let Ok(got) = queue.try_recv(&mut buf) {
        check_flood(&buf[..got.len]);
        left += 1;
    }
    assert_eq!(left, 4, "it was blocked in a full queue");
    assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Empty));
    Ok(())
}

fn check_flood(message: &[u8]) {
    assert_eq!(message.len(), usize::from(message[0]));
    assert!(message.iter().all(|b| *b == message[0]));
}

/// Sends messages of every length, each byte of which is the length, for ever.
fn flood(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    for length in (1..=64_u8).cycle() {
        queue.send(&vec![length; usize::from(length)]).unwrap();
    }
}

fn a_stopped_receiver_makes_the_sender_time_out() -> Result<(), Skip> {
    let queue = unnamed(1, 8);
    let peer = Peer::spawn("posix_mq::blocked_receiver");
    peer.send_fd(&queue);
    peer.expect("receiving");
    in_call(&peer, libc::SYS_mq_timedreceive);
    peer.signal(Signal::STOP);
    // The first goes to the sleeper's account: it was waiting, and is stopped, not dead.
    queue.send(b"one").unwrap();
    while queue.try_send(b"two").is_ok() {}
    assert_eq!(queue.send_timeout(b"three", SHORT), Err(SendError::TimedOut));
    peer.signal(Signal::CONT);
    peer.expect("3");
    peer.say("end");
    peer.join();
    Ok(())
}

fn many_senders_and_receivers_lose_and_double_nothing() -> Result<(), Skip> {
    const EACH: u32 = 2_000;
    let queue = unnamed(8, 8);
    let peers: Vec<_> = (0..3).map(|_| Peer::spawn("posix_mq::worker")).collect();
    for peer in &peers {
        peer.send_fd(&queue);
    }
    std::thread::scope(|s| {
        for sender in 0..3_u32 {
            let queue = &queue;
            s.spawn(move || {
                for n in 0..EACH {
                    let word = u64::from(sender) << 32 | u64::from(n);
                    queue.priority(sender).send(&word.to_ne_bytes()).unwrap();
                }
            });
        }
    });
    for _ in &peers {
        // Behind everything else: the lowest priority, sent last.
        queue.send(b"").unwrap();
    }
    let mut all = Vec::new();
    for peer in peers {
        let (bytes, _) = peer.receive();
        let mut last = [None; 3];
        for word in bytes.chunks_exact(8) {
            let word = u64::from_ne_bytes(word.try_into().unwrap());
            let (sender, n) = ((word >> 32) as usize, word as u32);
            assert!(last[sender] < Some(n), "in order of sending");
            last[sender] = Some(n);
            all.push(word);
        }
        peer.join();
    }
    all.sort_unstable();
    let expected: Vec<u64> =
        (0..3_u64).flat_map(|s| (0..u64::from(EACH)).map(move |n| s << 32 | n)).collect();
    assert_eq!(all, expected);
    Ok(())
}

/// Collects messages until an empty one comes, and reports them all.
fn worker(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    let mut all = Vec::new();
    let mut buf = [0; 8];
    loop {
        match queue.recv(&mut buf).unwrap().len {
            0 => break,
            len => all.extend_from_slice(&buf[..len]),
        }
    }
    // Who got nothing says so by the odd byte, which is no word: no bytes are the end of the link.
    all.push(0);
    link.send(&all, &[]);
}

fn an_unlinked_queue_goes_on() -> Result<(), Skip> {
    let name = Name::new("gone");
    let queue = Options::new().depth(2).message_bytes(8).create(&name.0).unwrap();
    let other = Options::new().open(&name.0).unwrap();
    posix_mq::unlink(&name.0).unwrap();
    queue.send(b"still").unwrap();
    assert_eq!(other.recv(&mut [0; 8]).unwrap().len, 5);
    // The name is free for another queue.
    let new = Options::new().depth(1).message_bytes(8).create(&name.0).unwrap();
    new.send(b"new").unwrap();
    assert_eq!(queue.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    Ok(())
}

fn another_user_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let name = Name::new("secret");
    let queue = Options::new().depth(1).message_bytes(8).create(&name.0).unwrap();
    let peer = Peer::spawn("posix_mq::stranger");
    peer.say(&name.0);
    peer.expect("Send PermissionDenied, Receive PermissionDenied, unlink PermissionDenied");
    // Who may only send may not receive, nor take the name away.
    rustix::fs::fchmod(&queue, rustix::fs::Mode::from_raw_mode(0o602)).unwrap();
    peer.say(&name.0);
    peer.expect("Send ok, Receive PermissionDenied, unlink PermissionDenied");
    peer.join();
    assert_eq!(queue.try_recv(&mut [0; 8]).unwrap().len, 1);
    Ok(())
}

fn stranger(link: &Link) {
    become_nobody();
    for _ in 0..2 {
        let name = link.hear();
        let words = |result: sinew::Result<()>| match result {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        let send = Options::new().access(Access::Send).open(&name).map(|queue| {
            queue.try_send(b"x").unwrap();
        });
        let receive = Options::new().access(Access::Receive).open(&name).map(drop);
        let unlink = posix_mq::unlink(&name);
        let [send, receive, unlink] = [send, receive, unlink].map(words);
        link.say(format!("Send {send}, Receive {receive}, unlink {unlink}"));
    }
}

/// Turns this process, which has one thread and is root's, into one of a user without any rights.
pub(crate) fn become_nobody() {
    let nobody = 65534;
    // SAFETY: an empty list of groups, and this process has one thread.
    assert_eq!(unsafe { libc::setgroups(0, std::ptr::null()) }, 0);
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::setresgid(nobody, nobody, nobody) }, 0);
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::setresuid(nobody, nobody, nobody) }, 0);
}

/// Makes one system call of this process fail with ENOSYS from now on, by a filter.
pub(crate) fn without(call: i64) {
    refuse(call, libc::ENOSYS);
}

/// Makes one system call of this process fail with this error from now on, by a filter.
pub(crate) fn refuse(call: i64, errno: i32) {
    let refuse = libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let statement =
        |code: u32, k, jt, jf| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let mut program = [
        // The number of the call stands first in the data of the filter.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u32::try_from(call).unwrap(), 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, refuse, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    rustix::thread::set_no_new_privs(true).unwrap();
    let (set, filter) = (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER);
    // SAFETY: the kernel copies the four statements, which live until the call is over.
    let done = unsafe { libc::prctl(set, filter, &raw const program) };
    assert_eq!(done, 0);
}

fn a_kernel_without_queues_says_so() -> Result<(), Skip> {
    without(libc::SYS_mq_open);
    let all = [
        Options::new().create("/a").unwrap_err(),
        Options::new().open("/a").unwrap_err(),
        Options::new().open_or_create("/a").unwrap_err(),
    ];
    for error in all {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("CONFIG_POSIX_MQUEUE"), "{error}");
    }
    Ok(())
}

fn a_message_takes_one_system_call() -> Result<(), Skip> {
    let queue = unnamed(8, 64);
    for _ in 0..4 {
        queue.send(&[7; 64]).unwrap();
    }
    let mut buf = [0; 64];
    let stop = Interrupt::new().unwrap();
    let far = Instant::now() + Duration::from_secs(600);
    type Operation<'a> = (&'a str, i64, Box<dyn FnMut() + 'a>);
    let buf = &mut buf;
    let queue = &queue;
    let mut operations: Vec<Operation<'_>> = Vec::new();
    let send = libc::SYS_mq_timedsend;
    let recv = libc::SYS_mq_timedreceive;
    operations.push(("send", send, Box::new(|| queue.send(&[1; 64]).unwrap())));
    operations.push(("try_send", send, Box::new(|| queue.try_send(&[1; 64]).unwrap())));
    operations.push(("priority", send, Box::new(|| queue.priority(4).send(&[1; 64]).unwrap())));
    operations.push(("send_until", send, Box::new(|| queue.send_until(&[1; 64], far).unwrap())));
    let cell = std::cell::RefCell::new(buf);
    operations.push((
        "recv",
        recv,
        Box::new(|| assert_eq!(queue.recv(&mut cell.borrow_mut()[..]).unwrap().len, 64)),
    ));
    operations.push((
        "try_recv",
        recv,
        Box::new(|| assert_eq!(queue.try_recv(&mut cell.borrow_mut()[..]).unwrap().len, 64)),
    ));
    for (name, number, operation) in operations {
        let steps = match steps::measure(1, operation) {
            Ok(steps) => steps,
            Err(e) => return skip(e.to_string()),
        };
        let calls: Vec<_> = steps.calls.iter().map(|c| c.number).collect();
        assert_eq!(calls, [number], "{name}");
        if cfg!(not(debug_assertions)) {
            let before = steps.calls[0].instructions_before;
            assert!(before <= 100, "{name}: {before} instructions");
        }
        // The child did it on the shared queue: make up for it.
        while queue.len().unwrap() > 4 {
            queue.recv(&mut [0; 64]).unwrap();
        }
        while queue.len().unwrap() < 4 {
            queue.send(&[7; 64]).unwrap();
        }
    }
    // An interrupt costs one look at it before.
    let steps = steps::measure(1, || {
        queue.send_wait(b"x", Wait::FOREVER.interrupted_by(&stop)).unwrap();
    });
    let calls: Vec<_> = steps.unwrap().calls.iter().map(|c| c.number).collect();
    assert_eq!(calls, [libc::SYS_ppoll, send]);
    Ok(())
}
