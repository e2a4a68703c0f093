//! Messages: order, types, lengths and costs.

use std::ffi::c_long;
use std::time::{Duration, Instant};

use sinew::sysv_mq::{Message, Queue, Received};
use sinew::wait::{Receives, Sends, Wait};
use sinew::{RecvError, SendError};
use sinew_testkit::{Role, Skip, Test, roles, skip, steps, tests};

use super::{LONG, SHORT, queue, setting, small};
use crate::posix_mq::alone;

pub(crate) const TESTS: &[Test] = tests![
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
    a_message_with_its_type_needs_no_copy,
    a_message_takes_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![];

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
