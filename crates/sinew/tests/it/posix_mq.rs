//! POSIX message queues.

#![allow(unsafe_code, reason = "namespaces, other users and filters of system calls need libc")]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sinew::posix_mq::{self, Access, Options, PRIORITY_MAX, Queue, Received};
use sinew::wait::{Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, steps, tests};

pub(crate) mod events;
pub(crate) mod limits;
pub(crate) mod peers;

pub(crate) const TESTS: &[Test] = tests![
    names_are_a_slash_and_at_most_255_bytes,
    a_queue_is_private_to_its_user_unless_told_otherwise,
    create_wants_a_new_name_and_open_an_old_one,
    open_or_create_keeps_what_exists,
    descriptors_are_close_on_exec,
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
    an_unlinked_queue_goes_on,
    a_kernel_without_queues_says_so,
    a_message_takes_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![echo];

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
