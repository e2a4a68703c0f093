//! System V message queues.

#![allow(unsafe_code, reason = "the comparison with ftok(3), and a second user, need libc")]

use std::ffi::c_long;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use sinew::sysv_mq::{Key, Message, Options, Owned, Queue, Received};
use sinew::wait::{Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, scratch, skip, steps, tests};

use crate::posix_mq::{alone, become_nobody, in_call, without};

pub(crate) const TESTS: &[Test] = tests![
    ftok_is_what_the_c_library_computes,
    a_private_queue_is_found_by_its_id_only,
    create_wants_a_new_key_and_open_an_old_one,
    open_or_create_keeps_what_exists,
    racing_creators_agree_on_one_queue,
    a_queue_that_others_remove_can_be_opened_or_created,
    a_queue_outlives_its_handle_and_its_creator,
    a_guard_removes_and_can_be_told_not_to,
    the_status_is_typed,
    owner_mode_and_capacity_can_be_set,
    a_capacity_above_the_limit_names_it,
    too_many_queues_name_the_limit,
    messages_come_in_order_or_by_type,
    a_type_is_at_least_one,
    empty_messages_are_messages,
    full_and_empty_are_told_apart_from_time_out,
    a_message_that_can_never_fit_is_refused,
    a_buffer_too_small_loses_nothing,
    cutting_takes_the_message_and_says_so,
    peeking_leaves_the_message,
    long_messages_arrive_whole,
    messages_beyond_the_stack_arrive_whole_and_by_one_call,
    a_kernel_without_queues_says_so,
    a_message_with_its_type_needs_no_copy,
    a_removed_queue_is_closed,
    removal_closes_a_blocked_receiver_and_sender,
    removal_closes_a_bounded_wait,
    a_bounded_wait_ends_when_something_comes,
    an_interrupt_ends_a_wait,
    a_signal_does_not_end_a_wait,
    a_message_crosses_processes,
    a_killed_receiver_takes_no_message_with_it,
    a_killed_sender_leaves_whole_messages,
    a_stopped_receiver_makes_the_sender_time_out,
    many_senders_and_receivers_lose_and_double_nothing,
    another_user_is_refused,
    a_message_takes_one_system_call,
];
pub(crate) const ROLES: &[Role] =
    roles![receiver, sender, typed_receiver, creator, flood, worker, stranger, racer, remover];

/// A queue that is removed at the end.
fn queue() -> Owned {
    Options::new().create(Key::PRIVATE).unwrap().remove_on_drop()
}

fn small(capacity: usize) -> Owned {
    Options::new().capacity(capacity).create(Key::PRIVATE).unwrap().remove_on_drop()
}

/// A key that is this test process's own.
fn key(n: u8) -> Key {
    Key::new(i32::from(n) << 24 | (std::process::id() & 0x00ff_ffff).cast_signed())
}

fn setting(file: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap();
    text.trim().parse().unwrap()
}

/// A length of time in which nothing happens that a correct program would notice.
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(60);

fn ftok_is_what_the_c_library_computes() -> Result<(), Skip> {
    let file = scratch().join("ftok");
    std::fs::write(&file, "").unwrap();
    let own = file.to_str().unwrap();
    for path in ["/", "/proc/self/exe", "/dev/null", "/tmp", own] {
        for project in [0_u8, 1, b'q', 127, 128, 255] {
            let name = std::ffi::CString::new(path).unwrap();
            // SAFETY: `name` has a NUL at its end and is borrowed for the call.
            let expected = unsafe { libc::ftok(name.as_ptr(), i32::from(project)) };
            assert_eq!(Key::ftok(path, project).unwrap().get(), expected, "{path} {project}");
        }
    }
    std::fs::remove_file(&file).unwrap();
    let error = Key::ftok(&file, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("ftok\""), "{error}");
    Ok(())
}

fn a_private_queue_is_found_by_its_id_only() -> Result<(), Skip> {
    let (a, b) = (queue(), queue());
    assert_ne!(a.id(), b.id());
    a.send(b"x").unwrap();
    assert_eq!(Queue::from_id(a.id()).try_recv(&mut [0; 8]).unwrap().len, 1);
    for error in [
        Options::new().open(Key::PRIVATE).unwrap_err(),
        Options::new().open(Key::new(0)).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    Ok(())
}

fn create_wants_a_new_key_and_open_an_old_one() -> Result<(), Skip> {
    let missing = Options::new().open(key(1)).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().starts_with("sysv-mq key 0x01"), "{missing}");
    let queue = Options::new().create(key(1)).unwrap().remove_on_drop();
    let again = Options::new().create(key(1)).unwrap_err();
    assert_eq!(
        (again.kind(), again.raw_os_error()),
        (ErrorKind::AlreadyExists, Some(libc::EEXIST))
    );
    assert_eq!(Options::new().open(key(1)).unwrap().id(), queue.id());
    drop(queue);
    assert_eq!(Options::new().open(key(1)).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn open_or_create_keeps_what_exists() -> Result<(), Skip> {
    let options = Options::new().capacity(1000);
    let first = options.open_or_create(key(2)).unwrap().remove_on_drop();
    assert_eq!(first.status().unwrap().capacity, 1000);
    let second = Options::new().capacity(2000).mode(0o666).open_or_create(key(2)).unwrap();
    assert_eq!(second.id(), first.id());
    let status = second.status().unwrap();
    assert_eq!((status.capacity, status.mode), (1000, 0o600));
    Ok(())
}

fn racing_creators_agree_on_one_queue() -> Result<(), Skip> {
    let peers: Vec<_> = (0..4).map(|_| Peer::spawn("sysv_mq::racer")).collect();
    for round in 1..=20 {
        for peer in &peers {
            peer.say(key(round).get());
        }
        let ids: Vec<String> = peers.iter().map(|p| p.hear()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        Queue::from_id(ids[0].parse().unwrap()).remove().unwrap();
    }
    for peer in peers {
        peer.say("0");
        peer.join();
    }
    Ok(())
}

fn racer(link: &Link) {
    loop {
        let key = Key::new(link.hear().parse().unwrap());
        if key == Key::PRIVATE {
            return;
        }
        link.say(Options::new().capacity(512).open_or_create(key).unwrap().id());
    }
}

fn a_queue_that_others_remove_can_be_opened_or_created() -> Result<(), Skip> {
    let peers: Vec<_> = (0..3).map(|_| Peer::spawn("sysv_mq::remover")).collect();
    for peer in &peers {
        peer.say(key(30).get());
    }
    for peer in &peers {
        peer.expect("done");
    }
    // What one of them made after the others had their last turn.
    if let Ok(queue) = Options::new().open(key(30)) {
        queue.remove().unwrap();
    }
    Ok(())
}

fn remover(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    for _ in 0..3000 {
        let queue = Options::new().capacity(512).open_or_create(key).unwrap();
        if let Err(error) = queue.remove() {
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
    }
    link.say("done");
}

fn a_queue_outlives_its_handle_and_its_creator() -> Result<(), Skip> {
    let peer = Peer::spawn("sysv_mq::creator");
    peer.say(key(3).get());
    let id: i32 = peer.hear().parse().unwrap();
    peer.kill();
    let queue = Options::new().open(key(3)).unwrap().remove_on_drop();
    assert_eq!(queue.id(), id);
    assert_eq!(queue.try_recv(&mut [0; 64]), Ok(Received { len: 12, mtype: 1 }));
    Ok(())
}

fn creator(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    let id = {
        let queue = Options::new().create(key).unwrap();
        queue.send(b"left behind.").unwrap();
        queue.id()
    };
    link.say(id);
    let _ = link.hear();
}

fn a_guard_removes_and_can_be_told_not_to() -> Result<(), Skip> {
    let before = census::objects();
    let kept = queue().keep();
    assert_eq!(census::objects().len(), before.len() + 1);
    drop(kept.clone().remove_on_drop());
    assert_eq!(census::objects(), before);
    assert_eq!(kept.remove().unwrap_err().kind(), ErrorKind::Closed);
    Ok(())
}

fn the_status_is_typed() -> Result<(), Skip> {
    let begin = SystemTime::now() - Duration::from_secs(2);
    let queue = Options::new().mode(0o640).create(key(4)).unwrap().remove_on_drop();
    let status = queue.status().unwrap();
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!(status.key, key(4));
    assert_eq!((status.owner, status.creator), (own, own));
    assert_eq!(status.mode, 0o640);
    assert_eq!((status.messages, status.bytes), (0, 0));
    assert_eq!(status.capacity, setting("msgmnb"));
    assert_eq!((status.last_send, status.last_recv), (None, None));
    assert_eq!((status.last_sender, status.last_receiver), (None, None));
    assert!(status.changed.unwrap() >= begin);

    queue.send(b"12345").unwrap();
    queue.send(b"678").unwrap();
    let peer = Peer::spawn("sysv_mq::receiver");
    peer.say(queue.id());
    peer.expect("1 5 12345");
    let status = queue.status().unwrap();
    assert_eq!(status.last_sender, Some(std::process::id()));
    assert_eq!(status.last_receiver, Some(peer.pid().as_raw_nonzero().get().cast_unsigned()));
    assert!(status.last_send.unwrap() >= begin && status.last_recv.unwrap() >= begin);
    peer.expect("1 3 678");
    assert_eq!(queue.status().unwrap().messages, 0);
    Ok(())
}

/// Receives messages for ever, and says what came or how it ended.
fn receiver(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    let mut buf = [0; 8192];
    loop {
        match queue.recv(&mut buf) {
            Ok(got) if got.len < 64 => {
                let text = String::from_utf8_lossy(&buf[..got.len]);
                link.say(format!("{} {} {text}", got.mtype, got.len));
            }
            Ok(got) => {
                let sum: u64 = buf[..got.len].iter().map(|b| u64::from(*b)).sum();
                link.say(format!("{} {} {sum}", got.mtype, got.len));
            }
            Err(error) => return link.say(format!("{error:?}")),
        }
    }
}

fn owner_mode_and_capacity_can_be_set() -> Result<(), Skip> {
    let queue = queue();
    queue.set_capacity(100).unwrap();
    queue.set_mode(0o1604).unwrap();
    let status = queue.status().unwrap();
    assert_eq!((status.capacity, status.mode), (100, 0o604));
    queue.set_owner(status.owner.0, status.owner.1).unwrap();
    assert_eq!(queue.status().unwrap(), status);
    // What is in it stays.
    queue.send(&[0; 90]).unwrap();
    queue.set_capacity(10).unwrap();
    assert_eq!(queue.status().unwrap().bytes, 90);
    assert_eq!(queue.try_recv(&mut [0; 90]).unwrap().len, 90);
    Ok(())
}

fn a_capacity_above_the_limit_names_it() -> Result<(), Skip> {
    alone()?;
    let max = setting("msgmnb");
    let before = census::objects();
    let error = Options::new().capacity(max + 1).create(Key::PRIVATE).unwrap_err();
    // Nothing half made stays.
    assert_eq!(census::objects(), before);
    let queue = queue();
    for error in [error, queue.set_capacity(max + 1).unwrap_err()] {
        // CAP_SYS_RESOURCE of the namespace may be asked for, or of the host.
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        let text = error.to_string();
        assert!(text.contains(&format!("kernel.msgmnb ({max} bytes)")), "{text}");
        assert!(text.contains(&(max + 1).to_string()), "{text}");
    }
    queue.set_capacity(max).unwrap();
    Ok(())
}

fn too_many_queues_name_the_limit() -> Result<(), Skip> {
    alone()?;
    if let Err(e) = std::fs::write("/proc/sys/kernel/msgmni", "2") {
        return skip(format!("the limit cannot be lowered: {e}"));
    }
    let _two = (queue(), queue());
    let error = Options::new().create(Key::PRIVATE).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::LimitReached, Some(libc::ENOSPC)));
    assert!(error.to_string().contains("kernel.msgmni (2)"), "{error}");
    Ok(())
}

fn messages_come_in_order_or_by_type() -> Result<(), Skip> {
    let queue = queue();
    let mut buf = [0; 8];
    let fill = || {
        for (mtype, word) in [(5, b"a"), (3, b"b"), (9, b"c"), (3, b"d"), (1, b"e")] {
            queue.of_type(mtype).send(word).unwrap();
        }
    };
    let mut drain = |view: &dyn Receives<Received = Received>| {
        let mut order = String::new();
        while let Ok(got) = view.try_recv(&mut buf) {
            order += &format!("{}{}", got.mtype, char::from(buf[0]));
        }
        order
    };
    fill();
    assert_eq!(drain(&*queue), "5a3b9c3d1e");
    fill();
    assert_eq!(drain(&queue.of_type(3)), "3b3d", "exactly");
    assert_eq!(drain(&queue.of_type(4)), "", "none of this type");
    assert_eq!(drain(&queue.of_type(-5)), "1e5a", "the lowest first, up to 5");
    assert_eq!(drain(&queue.of_type(0)), "9c", "any");
    fill();
    assert_eq!(drain(&queue.except(3)), "5a9c1e", "others");
    assert_eq!(drain(&queue.of_type(c_long::MIN)), "3b3d");
    queue.send(b"f").unwrap();
    assert_eq!(drain(&*queue), "1f", "1 unless said otherwise");
    queue.of_type(c_long::MAX).send(b"g").unwrap();
    assert_eq!(queue.of_type(c_long::MAX).try_recv(&mut buf).unwrap().mtype, c_long::MAX);
    Ok(())
}

fn a_type_is_at_least_one() -> Result<(), Skip> {
    let queue = queue();
    for mtype in [0, -1, c_long::MIN] {
        assert_eq!(queue.of_type(mtype).send(b"x"), Err(SendError::Os(libc::EINVAL)));
    }
    assert_eq!(queue.status().unwrap().messages, 0);
    Ok(())
}

fn empty_messages_are_messages() -> Result<(), Skip> {
    let queue = queue();
    queue.of_type(4).send(b"").unwrap();
    assert_eq!(queue.recv(&mut []), Ok(Received { len: 0, mtype: 4 }));
    Ok(())
}

fn full_and_empty_are_told_apart_from_time_out() -> Result<(), Skip> {
    let queue = small(8);
    let mut buf = [0; 8];
    assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Empty));
    let begin = Instant::now();
    assert_eq!(queue.recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    assert_eq!(queue.of_type(2).recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= 2 * SHORT);
    assert_eq!(queue.recv_until(&mut buf, begin), Err(RecvError::TimedOut));
    queue.send_until(b"12345", begin).unwrap();
    assert_eq!(queue.try_send(b"6789"), Err(SendError::Full));
    let begin = Instant::now();
    assert_eq!(queue.send_timeout(b"6789", SHORT), Err(SendError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    queue.try_send(b"678").unwrap();
    assert_eq!(queue.recv_until(&mut buf, begin).unwrap().len, 5);
    assert_eq!(queue.recv(&mut buf).unwrap().len, 3);
    // Messages without bytes fill it, too: by their number.
    for _ in 0..8 {
        queue.try_send(b"").unwrap();
    }
    assert_eq!(queue.try_send(b""), Err(SendError::Full));
    Ok(())
}

fn a_message_that_can_never_fit_is_refused() -> Result<(), Skip> {
    let max = setting("msgmax");
    let big = queue();
    for too_long in [max + 1, 1 << 24] {
        let message = vec![0; too_long];
        assert_eq!(big.send(&message), Err(SendError::TooBig { limit: max }));
        assert_eq!(big.try_send(&message), Err(SendError::TooBig { limit: max }));
    }
    if big.status().unwrap().capacity >= max {
        big.try_send(&vec![0; max]).unwrap();
    }
    // The kernel lets this one wait for ever.
    let small = small(8);
    assert_eq!(small.send(b"123456789"), Err(SendError::TooBig { limit: 8 }));
    assert_eq!(small.try_send(b"123456789"), Err(SendError::TooBig { limit: 8 }));
    let mut message = Message::new(9);
    message.resize(9);
    let refused = small.send_message(&message, Wait::FOREVER);
    assert_eq!(refused, Err(SendError::TooBig { limit: 8 }));
    small.send(b"12345678").unwrap();
    // Raised by this handle or by another.
    Queue::from_id(small.id()).set_capacity(100).unwrap();
    small.try_send(b"123456789").unwrap();
    Ok(())
}

fn a_buffer_too_small_loses_nothing() -> Result<(), Skip> {
    let queue = queue();
    queue.of_type(2).send(b"12345").unwrap();
    let small = RecvError::TooSmall { needed: None, lost: false };
    assert_eq!(queue.recv(&mut [0; 4]), Err(small));
    assert_eq!(queue.try_recv(&mut []), Err(small));
    let mut message = Message::new(0);
    assert_eq!(queue.recv_message(&mut message, Wait::NEVER), Err(small));
    assert_eq!(queue.recv(&mut [0; 5]), Ok(Received { len: 5, mtype: 2 }));
    Ok(())
}

fn cutting_takes_the_message_and_says_so() -> Result<(), Skip> {
    let queue = queue();
    let cut = RecvError::TooSmall { needed: None, lost: true };
    let mut buf = [0; 4];
    for (mtype, message) in [(1, &b"12345"[..]), (2, b"abcd"), (3, b"vwxyz"), (2, b"")] {
        queue.of_type(mtype).send(message).unwrap();
    }
    assert_eq!(queue.cutting().recv(&mut buf), Err(cut));
    assert_eq!(&buf, b"1234");
    assert_eq!(queue.of_type(2).cutting().recv(&mut buf).unwrap().len, 4, "just fits");
    assert_eq!(&buf, b"abcd");
    assert_eq!(queue.except(2).cutting().recv(&mut buf), Err(cut));
    assert_eq!(&buf, b"vwxy");
    assert_eq!(queue.cutting().try_recv(&mut buf), Ok(Received { len: 0, mtype: 2 }));
    assert_eq!(queue.cutting().try_recv(&mut buf), Err(RecvError::Empty));
    // Beyond what goes through the stack.
    if setting("msgmax") >= 8192 {
        queue.send(&[7; 8192]).unwrap();
        let mut buf = vec![0; 8191];
        assert_eq!(queue.cutting().recv(&mut buf), Err(cut));
        assert!(buf.iter().all(|b| *b == 7));
    }
    Ok(())
}

fn peeking_leaves_the_message() -> Result<(), Skip> {
    let queue = queue();
    let mut buf = [0; 8];
    match queue.peek(0, &mut buf) {
        Err(RecvError::Os(libc::ENOSYS)) => return skip("no CONFIG_CHECKPOINT_RESTORE"),
        got => assert_eq!(got, Err(RecvError::Empty)),
    }
    queue.of_type(4).send(b"four").unwrap();
    queue.of_type(2).send(b"second").unwrap();
    assert_eq!(queue.peek(1, &mut buf), Ok(Received { len: 6, mtype: 2 }));
    assert_eq!(&buf[..6], b"second");
    assert_eq!(queue.peek(0, &mut buf), Ok(Received { len: 4, mtype: 4 }));
    assert_eq!(queue.peek(2, &mut buf), Err(RecvError::Empty));
    assert_eq!(queue.peek(usize::MAX, &mut buf), Err(RecvError::Empty));
    let small = RecvError::TooSmall { needed: None, lost: false };
    assert_eq!(queue.peek(1, &mut buf[..5]), Err(small));
    assert_eq!(queue.status().unwrap().messages, 2);
    queue.remove().unwrap();
    assert_eq!(queue.peek(0, &mut buf), Err(RecvError::Closed));
    Ok(())
}

fn long_messages_arrive_whole() -> Result<(), Skip> {
    let queue = queue();
    let longest = setting("msgmax").min(setting("msgmnb"));
    let mut buf = vec![0; 1 << 16];
    for length in [0, 1, 7, 8, 9, 4095, 4096, 8191, 8192, 8193, 65536] {
        if length > longest {
            continue;
        }
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        // The buffer is longer than the stack takes, exactly as long, and in the other form.
        queue.send(&message).unwrap();
        assert_eq!(queue.recv(&mut buf).unwrap().len, length);
        assert_eq!(buf[..length], message);
        queue.send(&message).unwrap();
        assert_eq!(queue.recv(&mut buf[..length]).unwrap().len, length);
        let mut form = Message::new(0);
        form.resize(length);
        form.copy_from_slice(&message);
        queue.send_message(&form, Wait::NEVER).unwrap();
        let mut got = Message::new(length);
        queue.recv_message(&mut got, Wait::FOREVER).unwrap();
        assert_eq!(got[..], message[..]);
    }
    Ok(())
}

fn messages_beyond_the_stack_arrive_whole_and_by_one_call() -> Result<(), Skip> {
    alone()?;
    for (file, bytes) in [("msgmax", 1 << 21), ("msgmnb", 1 << 23)] {
        let file = format!("/proc/sys/kernel/{file}");
        if let Err(e) = std::fs::write(file, (bytes as usize).to_string()) {
            return skip(format!("the limit cannot be raised: {e}"));
        }
    }
    let queue = queue();
    let mut buf = vec![0; 1 << 21];
    for length in [8191, 8192, 8193, 65_536, 1 << 20, (1 << 20) + 1, 1 << 21, 100] {
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        queue.of_type(3).send(&message).unwrap();
        queue.of_type(4).send(&message).unwrap();
        // A handle that does not know yet how long messages can be, and one that does.
        for queue in [&Queue::from_id(queue.id()), &*queue] {
            if length > 8193 {
                let small = RecvError::TooSmall { needed: None, lost: false };
                assert_eq!(queue.recv(&mut buf[..8193]), Err(small));
                assert_eq!(queue.recv(&mut buf[..100]), Err(small));
            }
            assert_eq!(queue.peek(0, &mut buf).unwrap().len, length);
            let got = queue.recv(&mut buf).unwrap();
            assert_eq!(got.len, length);
            assert!(buf[..length] == message, "{length}");
            buf.fill(0xAA);
        }
    }
    let cut = RecvError::TooSmall { needed: None, lost: true };
    queue.send(&vec![1; 65_536]).unwrap();
    assert_eq!(queue.cutting().recv(&mut buf[..65_535]), Err(cut));
    assert!(buf[..65_535].iter().all(|b| *b == 1));

    // Stepping through a copy takes a step a byte, so only the sent message is long, and just so.
    let long = vec![1; 8193];
    for _ in 0..4 {
        queue.of_type(2).send(b"short").unwrap();
    }
    let operations: [(i64, &mut dyn FnMut()); 2] = [
        (libc::SYS_msgsnd, &mut || queue.send(&long).unwrap()),
        (libc::SYS_msgrcv, &mut || assert_eq!(queue.of_type(2).recv(&mut buf).unwrap().len, 5)),
    ];
    for (number, operation) in operations {
        // Elsewhere there is no stepper.
        let Ok(steps) = steps::measure(1, operation) else { return Ok(()) };
        let calls: Vec<_> = steps.calls.iter().map(|c| c.number).collect();
        assert_eq!(calls, [number]);
    }
    Ok(())
}

fn a_kernel_without_queues_says_so() -> Result<(), Skip> {
    without(libc::SYS_msgget);
    let all = [
        Options::new().create(Key::PRIVATE).unwrap_err(),
        Options::new().open(key(9)).unwrap_err(),
        Options::new().open_or_create(key(9)).unwrap_err(),
    ];
    for error in all {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("CONFIG_SYSVIPC"), "{error}");
    }
    Ok(())
}

fn a_message_with_its_type_needs_no_copy() -> Result<(), Skip> {
    let queue = queue();
    let mut message = Message::new(13);
    assert_eq!((message.len(), message.capacity() >= 13, message.mtype()), (0, true, 1));
    message.resize(3);
    message.copy_from_slice(b"abc");
    for mtype in [7, 2, 7] {
        message.set_mtype(mtype);
        queue.send_message(&message, Wait::FOREVER).unwrap();
    }
    message.set_mtype(0);
    let refused = queue.send_message(&message, Wait::FOREVER);
    assert_eq!(refused, Err(SendError::Os(libc::EINVAL)));

    let mut got = Message::new(8);
    queue.of_type(2).recv_message(&mut got, Wait::NEVER).unwrap();
    assert_eq!((&got[..], got.mtype()), (&b"abc"[..], 2));
    let none = queue.except(7).recv_message(&mut got, Wait::NEVER);
    assert_eq!((none, &got[..]), (Err(RecvError::Empty), &b"abc"[..]));
    queue.recv_message(&mut got, Wait::NEVER).unwrap();
    queue.recv_message(&mut got, Wait::timeout(LONG)).unwrap();
    assert_eq!(got.mtype(), 7);
    queue.send(b"123456789").unwrap();
    let mut tiny = Message::new(8);
    queue.cutting().recv_message(&mut tiny, Wait::NEVER).unwrap();
    assert_eq!(&tiny[..], b"12345678");
    Ok(())
}

fn a_removed_queue_is_closed() -> Result<(), Skip> {
    let queue = queue().keep();
    let other = queue.clone();
    queue.send(b"lost").unwrap();
    queue.remove().unwrap();
    let mut buf = [0; 8];
    for queue in [&queue, &other, &Queue::from_id(queue.id()), &Queue::from_id(-1)] {
        assert_eq!(queue.send(b"x"), Err(SendError::Closed));
        assert_eq!(queue.try_send(b"x"), Err(SendError::Closed));
        assert_eq!(queue.send_timeout(b"x", LONG), Err(SendError::Closed));
        assert_eq!(queue.recv(&mut buf), Err(RecvError::Closed));
        assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Closed));
        assert_eq!(queue.recv_timeout(&mut buf, LONG), Err(RecvError::Closed));
        assert_eq!(queue.status().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(queue.set_capacity(1).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(queue.remove().unwrap_err().kind(), ErrorKind::Closed);
    }
    Ok(())
}

fn removal_closes_a_blocked_receiver_and_sender() -> Result<(), Skip> {
    let queue = queue().keep();
    let peer = Peer::spawn("sysv_mq::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    queue.remove().unwrap();
    peer.expect("Closed");
    peer.join();

    let queue = small(8).keep();
    queue.send(b"12345678").unwrap();
    let peer = Peer::spawn("sysv_mq::sender");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgsnd);
    queue.remove().unwrap();
    peer.expect("Err(Closed)");
    peer.join();
    Ok(())
}

/// Sends one byte and says how that ended.
fn sender(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    link.say(format!("{:?}", queue.send(b"x")));
}

fn removal_closes_a_bounded_wait() -> Result<(), Skip> {
    let queue = queue().keep();
    std::thread::scope(|s| {
        s.spawn(|| queue.remove().unwrap());
        assert_eq!(queue.recv_timeout(&mut [0; 8], LONG), Err(RecvError::Closed));
    });
    Ok(())
}

fn a_bounded_wait_ends_when_something_comes() -> Result<(), Skip> {
    let queue = small(8);
    let peer = Peer::spawn("sysv_mq::typed_receiver");
    peer.say(queue.id());
    peer.expect("waiting");
    queue.of_type(1).send(b"other").unwrap();
    queue.of_type(2).send(b"it").unwrap();
    peer.expect("got 2");
    // Room comes when the peer takes the rest, which it does when it is told.
    queue.of_type(2).send(b"123").unwrap();
    assert_eq!(queue.try_send(b"x"), Err(SendError::Full));
    peer.say("go on");
    queue.send_timeout(b"x", LONG).unwrap();
    peer.expect("got 3");
    peer.join();
    Ok(())
}

fn typed_receiver(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    link.say("waiting");
    let got = queue.of_type(2).recv_timeout(&mut [0; 8], LONG).unwrap();
    link.say(format!("got {}", got.len));
    link.expect("go on");
    let got = queue.of_type(2).recv_timeout(&mut [0; 8], LONG).unwrap();
    link.say(format!("got {}", got.len));
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let queue = small(1);
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| stop.trigger());
        let got = queue.recv_wait(&mut [0; 8], Wait::FOREVER.interrupted_by(&stop));
        assert_eq!(got, Err(RecvError::Interrupted));
    });
    queue.send(b"1").unwrap();
    let wait = Wait::timeout(LONG).interrupted_by(&stop);
    assert_eq!(queue.send_wait(b"2", wait), Err(SendError::Interrupted));
    stop.clear();
    assert!(queue.recv_wait(&mut [0; 8], wait).is_ok());
    Ok(())
}

fn a_signal_does_not_end_a_wait() -> Result<(), Skip> {
    let queue = queue();
    let peer = Peer::spawn("sysv_mq::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    // A stop and a continue make msgrcv fail with EINTR, with no handler at all.
    for _ in 0..3 {
        peer.signal(Signal::STOP);
        peer.signal(Signal::CONT);
    }
    in_call(&peer, libc::SYS_msgrcv);
    queue.send(b"word").unwrap();
    peer.expect("1 4 word");
    Ok(())
}

fn a_message_crosses_processes() -> Result<(), Skip> {
    let queue = queue();
    let peer = Peer::spawn("sysv_mq::receiver");
    peer.say(queue.id());
    for (length, mtype) in [(64, 1), (4096, 7), (8192, c_long::MAX)] {
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        queue.of_type(mtype).send(&message).unwrap();
        let sum: u64 = message.iter().map(|b| u64::from(*b)).sum();
        peer.expect(&format!("{mtype} {length} {sum}"));
    }
    Ok(())
}

fn a_killed_receiver_takes_no_message_with_it() -> Result<(), Skip> {
    let queue = queue();
    let peer = Peer::spawn("sysv_mq::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    assert!(!peer.kill().success());
    queue.send(b"mine").unwrap();
    assert_eq!(queue.status().unwrap().messages, 1);
    assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 4);
    Ok(())
}

fn a_killed_sender_leaves_whole_messages() -> Result<(), Skip> {
    let queue = small(256);
    let peer = Peer::spawn("sysv_mq::flood");
    peer.say(queue.id());
    let mut buf = [0; 64];
    let check = |got: Option<Received>, buf: &[u8]| {
        let Some(got) = got else { return false };
        assert_eq!(got.len as c_long, got.mtype);
        assert!(buf[..got.len].iter().all(|b| c_long::from(*b) == got.mtype));
        true
    };
    for _ in 0..1000 {
        let got = queue.recv(&mut buf).unwrap();
        check(Some(got), &buf);
    }
    in_call(&peer, libc::SYS_msgsnd);
    peer.kill();
    let mut left = 0;
    while check(queue.try_recv(&mut buf).ok(), &buf) {
        left += 1;
    }
    assert!(left > 0, "it was blocked in a full queue");
    assert_eq!(queue.try_recv(&mut buf), Err(RecvError::Empty));
    Ok(())
}

/// Sends messages of every length, whose type and each byte is the length, for ever.
fn flood(link: &Link) {
    let queue = Queue::from_id(link.hear().parse().unwrap());
    for length in (1..=64_u8).cycle() {
        queue.of_type(length.into()).send(&vec![length; usize::from(length)]).unwrap();
    }
}

fn a_stopped_receiver_makes_the_sender_time_out() -> Result<(), Skip> {
    let queue = small(8);
    let peer = Peer::spawn("sysv_mq::receiver");
    peer.say(queue.id());
    in_call(&peer, libc::SYS_msgrcv);
    peer.signal(Signal::STOP);
    while queue.try_send(b"1234").is_ok() {}
    assert_eq!(queue.send_timeout(b"12345", SHORT), Err(SendError::TimedOut));
    peer.signal(Signal::CONT);
    queue.send_timeout(b"12345", LONG).unwrap();
    while peer.hear() != "1 5 12345" {}
    Ok(())
}

fn many_senders_and_receivers_lose_and_double_nothing() -> Result<(), Skip> {
    const EACH: u32 = 2_000;
    let queue = small(512);
    let peers: Vec<_> = (0..3).map(|_| Peer::spawn("sysv_mq::worker")).collect();
    for peer in &peers {
        peer.say(queue.id());
    }
    std::thread::scope(|s| {
        for sender in 0..3_u32 {
            let queue = &queue;
            s.spawn(move || {
                for n in 0..EACH {
                    let word = u64::from(sender) << 32 | u64::from(n);
                    queue.of_type((sender + 1).into()).send(&word.to_ne_bytes()).unwrap();
                }
            });
        }
    });
    for _ in &peers {
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
    let queue = Queue::from_id(link.hear().parse().unwrap());
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

fn another_user_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let closed = queue();
    let send_only = Options::new().mode(0o602).create(Key::PRIVATE).unwrap().remove_on_drop();
    closed.send(b"secret").unwrap();
    let peer = Peer::spawn("sysv_mq::stranger");
    peer.say(closed.id());
    peer.expect(
        "recv Err(Os(13)) send Err(Os(13)) status PermissionDenied remove PermissionDenied",
    );
    peer.say(send_only.id());
    peer.expect("recv Err(Os(13)) send Ok(()) status PermissionDenied remove PermissionDenied");
    peer.join();
    assert_eq!(send_only.recv(&mut [0; 8]).unwrap().len, 1);
    Ok(())
}

fn stranger(link: &Link) {
    become_nobody();
    for _ in 0..2 {
        let queue = Queue::from_id(link.hear().parse().unwrap());
        link.say(format!(
            "recv {:?} send {:?} status {:?} remove {:?}",
            queue.try_recv(&mut [0; 8]),
            queue.try_send(b"x"),
            queue.status().unwrap_err().kind(),
            queue.remove().unwrap_err().kind(),
        ));
    }
}

fn a_message_takes_one_system_call() -> Result<(), Skip> {
    let queue = queue();
    let far = Instant::now() + Duration::from_secs(600);
    let mut out = Message::new(64);
    out.resize(64);
    let long = vec![1; 1 << 16];
    for _ in 0..16 {
        queue.of_type(7).send(&[1; 64]).unwrap();
    }
    let (send, recv) = (libc::SYS_msgsnd, libc::SYS_msgrcv);
    let q = &*queue;
    let (mut buf, mut wide) = ([0; 64], long.clone());
    let mut got = Message::new(64);
    type Operation<'a> = (&'a str, i64, &'a mut dyn FnMut());
    let operations: [Operation<'_>; 9] = [
        ("send", send, &mut || q.send(&[1; 64]).unwrap()),
        ("try_send", send, &mut || q.try_send(&[1; 64]).unwrap()),
        ("send_until", send, &mut || q.send_until(&[1; 64], far).unwrap()),
        ("of_type", send, &mut || q.of_type(4).send(&[1; 64]).unwrap()),
        ("send_message", send, &mut || q.send_message(&out, Wait::FOREVER).unwrap()),
        ("recv", recv, &mut || assert_eq!(q.recv(&mut buf).unwrap().len, 64)),
        ("recv of_type", recv, &mut || {
            assert_eq!(q.of_type(7).recv(&mut [0; 64]).unwrap().len, 64)
        }),
        ("recv wide", recv, &mut || assert_eq!(q.try_recv(&mut wide).unwrap().len, 64)),
        ("recv_message", recv, &mut || q.recv_message(&mut got, Wait::FOREVER).unwrap()),
    ];
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
    }
    Ok(())
}
