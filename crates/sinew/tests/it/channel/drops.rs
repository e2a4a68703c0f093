//! Channels that drop messages when they are full, between real processes: the sender never waits, and every message
//! is received or counted, whoever is stopped or killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;
use sinew::channel::{Counts, Full, Options, Receiver, Sender};
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use super::{mapped, receives, sends};
use crate::pipe::stop;

pub(crate) const TESTS: &[Test] = tests![
    a_receiver_that_is_stopped_holds_up_nobody_and_all_is_counted,
    who_is_killed_changes_no_count,
    the_newest_is_dropped_where_there_is_no_room,
    who_joins_is_told_of_another_policy,
];
pub(crate) const ROLES: &[Role] = roles![sender, receiver];

const POLICIES: [Full; 1] = [Full::DropNewest];
/// How many messages.
const COUNT: u64 = 1_000_000;

/// The words behind the channel.
#[derive(Clone, Copy)]
enum Word {
    /// How many messages were about to be sent.
    Begun = 0,
    /// How many arrived.
    Seen = 8,
    /// The label that comes next, if nothing is lost.
    Next = 16,
}

fn options(full: Full) -> Options {
    Options::stream().capacity(1 << 14).full(full)
}

fn word(map: &Mapping, word: Word) -> &AtomicU64 {
    map.atomic_u64_at(map.len() - 4096 + word as usize).unwrap()
}

fn made(full: Full) -> (Memfd, Arc<Mapping>) {
    let options = options(full);
    let memfd = memfd::Options::new().create("drops", options.bytes().unwrap() + 4096).unwrap();
    let map = Arc::new(memfd.map().unwrap());
    options.create_in(&map).unwrap();
    (memfd, map)
}

/// A label, words that belong to it, and a sum over them: 16 to 312 bytes.
fn message(label: u64, bytes: &mut [u8; 320]) -> usize {
    let words = (label.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize % 38;
    let len = 16 + 8 * words;
    let mut sum = 0;
    for (i, word) in bytes[..len - 8].chunks_exact_mut(8).enumerate() {
        let value = label.rotate_left(i as u32 * 7);
        sum = (sum ^ value).wrapping_mul(0x0100_0000_01B3);
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes[len - 8..len].copy_from_slice(&sum.to_le_bytes());
    len
}

/// The label of a message that is whole.
fn label(bytes: &[u8]) -> u64 {
    let label = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let mut own = [0; 320];
    let len = message(label, &mut own);
    assert_eq!(bytes, &own[..len], "torn: {label}");
    label
}

/// Sends so many; or as many as it can before it is killed.
fn sender(link: &Link) {
    let map = mapped(link);
    let mut sender = sends(&map, 0);
    link.say("attached");
    push(&map, &mut sender, link.hear().parse().unwrap());
    link.say("sent");
}

fn push(map: &Mapping, sender: &mut Sender, count: u64) {
    let begun = word(map, Word::Begun);
    let mut bytes = [0; 320];
    for _ in 0..count {
        let label = begun.load(Ordering::Relaxed);
        let len = message(label, &mut bytes);
        begun.store(label + 1, Ordering::Relaxed);
        if label.is_multiple_of(4)
            && let Ok(mut loan) = sender.try_loan(len)
        {
            loan.copy_from_slice(&bytes[..len]);
            loan.send();
        } else {
            sender.send(&bytes[..len]).unwrap();
        }
    }
}

/// Receives until the sender has left.
fn receiver(link: &Link) {
    let map = mapped(link);
    let receiver = receives(&map);
    link.say("attached");
    let (seen, next) = (word(&map, Word::Seen), word(&map, Word::Next));
    let mut bytes = [0; 320];
    // One before it may have died over what comes first.
    let mut begin = true;
    loop {
        let came = seen.load(Ordering::Relaxed);
        let message = if came.is_multiple_of(3) {
            receiver.borrow().map(|message| label(&message))
        } else {
            receiver.recv(&mut bytes).map(|len| label(&bytes[..len]))
        };
        match message {
            Ok(label) => {
                let least = next.load(Ordering::Relaxed);
                assert!(label >= least - u64::from(begin && least > 0), "{label} after {least}");
                begin = false;
                next.store(label + 1, Ordering::Relaxed);
                seen.store(came + 1, Ordering::Relaxed);
            }
            Err(RecvError::Closed) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    link.say("left");
}

fn peer(role: &str, memfd: &Memfd) -> Peer {
    let peer = Peer::spawn(role);
    peer.send_fd(memfd);
    peer.expect("attached");
    peer
}

/// That every message is somewhere.
fn balanced(counts: Counts) {
    assert_eq!(counts.sent, counts.received + counts.dropped + counts.waiting(), "{counts:?}");
}

fn a_receiver_that_is_stopped_holds_up_nobody_and_all_is_counted() -> Result<(), Skip> {
    for full in POLICIES {
        let (memfd, map) = made(full);
        let mut sender = sends(&map, 0);
        let peer = peer("channel::drops::receiver", &memfd);
        push(&map, &mut sender, COUNT / 4);
        stop(&peer);
        let before = sender.counts();
        push(&map, &mut sender, COUNT / 4);
        let counts = sender.counts();
        assert_eq!(counts.received, before.received);
        assert!(counts.dropped >= before.dropped + COUNT / 4 - 1024, "{counts:?}");
        peer.signal(Signal::CONT);
        push(&map, &mut sender, COUNT / 2);
        drop(sender);
        peer.expect("left");
        peer.join();
        let counts = receives(&map).counts(0).unwrap();
        balanced(counts);
        assert_eq!((counts.sent, counts.waiting()), (COUNT, 0), "{counts:?}");
        // What the receiver itself counted.
        assert_eq!(counts.received, word(&map, Word::Seen).load(Ordering::Relaxed));
    }
    Ok(())
}

fn who_is_killed_changes_no_count() -> Result<(), Skip> {
    for full in POLICIES {
        let (memfd, map) = made(full);
        let (seen, begun) = (word(&map, Word::Seen), word(&map, Word::Begun));
        let arrived = |count| while seen.load(Ordering::Relaxed) < count {};
        let mut receiver = peer("channel::drops::receiver", &memfd);
        let mut sender = peer("channel::drops::sender", &memfd);
        sender.say(u64::MAX);
        let kills = 20;
        for kill in 1..=kills {
            arrived(seen.load(Ordering::Relaxed) + 500 + kill * 37);
            if kill % 2 == 0 {
                receiver.kill();
                receiver = peer("channel::drops::receiver", &memfd);
            } else {
                sender.kill();
                sender = peer("channel::drops::sender", &memfd);
                sender.say(u64::MAX);
            }
        }
        sender.kill();
        let mut last = sends(&map, 0);
        push(&map, &mut last, 1000);
        drop(last);
        receiver.expect("left");
        receiver.join();
        let counts = receives(&map).counts(0).unwrap();
        balanced(counts);
        assert_eq!(counts.waiting(), 0, "{counts:?}");
        let (begun, seen) = (begun.load(Ordering::Relaxed), seen.load(Ordering::Relaxed));
        assert!((begun - kills..=begun).contains(&counts.sent), "{begun} begun, {counts:?}");
        assert!(seen.abs_diff(counts.received) <= kills, "{seen} seen, {counts:?}");
    }
    Ok(())
}

fn the_newest_is_dropped_where_there_is_no_room() -> Result<(), Skip> {
    let (_memfd, map) = made(Full::DropNewest);
    let (mut sender, receiver) = (sends(&map, 0), receives(&map));
    let mut sent = 0_u64;
    let send = |sent: &mut u64| {
        sender.send(&sent.to_le_bytes()).unwrap();
        *sent += 1;
    };
    while sender.counts().dropped == 0 {
        send(&mut sent);
    }
    let room = sent - 1;
    (0..9).for_each(|_| send(&mut sent));
    let counts = sender.counts();
    assert_eq!((counts.sent, counts.dropped, counts.dropped_bytes), (sent, 10, 80));
    assert_eq!((sender.sent(), counts.waiting()), (room, room));
    let mut buf = [0; 8];
    for number in 0..room {
        assert_eq!(receiver.recv(&mut buf), Ok(8));
        assert_eq!(u64::from_le_bytes(buf), number);
    }
    assert_eq!(receiver.try_recv(&mut buf), Err(RecvError::Empty));
    // What never fits is no matter of room; and a loan is no message yet.
    let limit = sender.max_message();
    assert_eq!(sender.send(&vec![0; limit + 1]), Err(SendError::TooBig { limit }));
    for _ in 0..room {
        sender.send(&[0; 8]).unwrap();
    }
    assert_eq!(sender.loan(100).err(), Some(SendError::Full));
    let early = sender.counts().dropped - 10;
    assert!(early < 10, "{early}");
    // One that comes after it goes on with the count.
    drop(sender);
    let sender = sends(&map, 0);
    sender.send(&[0; 100]).unwrap();
    let counts = receiver.counts(0).unwrap();
    assert_eq!(
        (counts.dropped, counts.dropped_bytes, counts.received),
        (11 + early, 180 + 8 * early, room)
    );
    balanced(counts);
    assert_eq!(receiver.counts(1), None);
    Ok(())
}

fn who_joins_is_told_of_another_policy() -> Result<(), Skip> {
    let name = format!("drops-{}", std::process::id());
    for full in [Full::Block, Full::Fail].into_iter().chain(POLICIES) {
        let stream = Options::stream().capacity(4096);
        let receiver: Receiver = stream.full(full).receiver().create(&name).unwrap();
        let other = if full == Full::Fail { Full::Block } else { Full::Fail };
        let refused = stream.full(other).sender().open(&name).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
        assert!(refused.to_string().contains(&format!("{full:?}")), "{refused}");
        drop(stream.full(full).sender().open(&name).unwrap());
        // Who says nothing takes what there is.
        drop(stream.sender().open(&name).unwrap());
        drop(receiver);
    }
    for full in POLICIES {
        let queue = Options::queue(1, 1).full(full).bytes().unwrap_err();
        assert_eq!(queue.kind(), ErrorKind::InvalidInput, "{queue}");
        let (sender, receiver) = Options::stream().capacity(4096).full(full).ends().unwrap();
        let (sender, receiver) = (sender.attach().unwrap(), receiver.attach().unwrap());
        for _ in 0..1000 {
            sender.send(&[1; 50]).unwrap();
        }
        assert!(receiver.counts(0).unwrap().waiting() < 100);
    }
    Ok(())
}
