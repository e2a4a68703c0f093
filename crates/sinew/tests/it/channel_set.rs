//! Wait sets: several channels, and descriptors beside them, between real processes.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Pid, getpid, getppid};
use sinew::channel::{Attach, Options, Receiver, Sender, WaitSet};
use sinew::eventfd::{self, Counter, EventFd};
use sinew::poller::{Interest, Token};
use sinew::wait::{Borrows, Interrupt, Receives, Sends, Wait, Waits};
use sinew::{ErrorKind, RecvError, SendError, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, steps, tests};

use crate::anonymous::in_child;
use crate::channel::steady::ALLOCATIONS;
use crate::event_loop::sleeps;
use crate::pipe::until_asleep;

pub(crate) const TESTS: &[Test] = tests![
    every_message_of_four_channels_and_two_descriptors_is_taken_once,
    a_message_that_is_left_is_told_again,
    a_death_and_an_end_are_told,
    a_sender_is_told_of_room_once,
    a_set_that_idles_makes_no_wake_up,
    a_set_is_interrupted,
    what_has_no_doorbell_is_refused,
    a_forked_child_has_no_set,
    a_wait_takes_no_system_call_and_no_allocation,
];
pub(crate) const ROLES: &[Role] = roles![sends, writes, receives, idles];

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);
/// Messages of each channel, and of the pipe and the eventfd.
const COUNT: u64 = 22_000;
const OTHERS: u64 = 6_000;

const PIPE: Token = Token(10);
const EVENTS: Token = Token(11);

fn stream() -> Options {
    Options::stream().capacity(4096)
}

fn sender() -> Attach<Sender> {
    stream().sender().folder(scratch())
}

fn receiver() -> Attach<Receiver> {
    stream().receiver().folder(scratch())
}

fn receivers(count: u64) -> Vec<Receiver> {
    (0..count).map(|index| receiver().create(format!("test-{index}")).unwrap()).collect()
}

/// Sends numbers, as many as it is told each time: at once, or in bursts of different lengths, some of them to a receiver
/// that sleeps.
fn sends(link: &Link) {
    let (name, parent) = (link.hear(), getppid().unwrap());
    let sender = sender().open(name).unwrap();
    link.say("here");
    loop {
        let words = link.hear();
        let at_once = words.strip_suffix(" now");
        let Ok(count) = at_once.unwrap_or(&words).parse::<u64>() else { return };
        let last = sender.sent() + count;
        for burst in [1, 1, 2, 40, 1, 3].into_iter().cycle() {
            if burst == 1 && at_once.is_none() {
                until_asleep(parent);
            }
            for _ in 0..burst {
                if sender.sent() == last {
                    break;
                }
                sender.send_timeout(&sender.sent().to_le_bytes(), LONG).unwrap();
            }
            if sender.sent() == last {
                break;
            }
        }
        link.say("sent");
    }
}

fn sending(index: u64) -> Peer {
    let peer = Peer::spawn("channel_set::sends");
    peer.say(format!("test-{index}"));
    peer.expect("here");
    peer
}

fn end(peer: Peer) {
    peer.say("end");
    peer.join();
}

/// Writes numbers into a pipe, and counts in an eventfd.
fn writes(link: &Link) {
    let parent = getppid().unwrap();
    let pipe = PipeWriter::from(link.recv_fd());
    let events = EventFd::<Counter>::try_from(link.recv_fd()).unwrap();
    for number in 0..OTHERS {
        if number % 4 == 0 {
            until_asleep(parent);
        }
        pipe.send(&number.to_le_bytes()).unwrap();
        events.add(1).unwrap();
    }
}

fn number(receiver: &Receiver) -> Result<u64, RecvError> {
    let mut number = [0; 8];
    assert_eq!(receiver.try_recv(&mut number)?, 8);
    Ok(u64::from_le_bytes(number))
}

fn every_message_of_four_channels_and_two_descriptors_is_taken_once() -> Result<(), Skip> {
    let receivers = receivers(4);
    let (pipe, writer): (PipeReader, PipeWriter) = sinew::pipe::pipe().unwrap();
    let events = eventfd::counter().unwrap();
    let mut set = WaitSet::new().unwrap();
    for (index, receiver) in receivers.iter().enumerate() {
        set.add(receiver, Token(index as u64)).unwrap();
    }
    set.add_fd(&pipe, PIPE, Interest::READABLE).unwrap();
    set.add_fd(&events, EVENTS, Interest::READABLE).unwrap();
    let slept = sleeps(getpid());

    let mut peers: Vec<Peer> = (0..4).map(sending).collect();
    let other = Peer::spawn("channel_set::writes");
    other.send_fd(&writer);
    other.send_fd(&events);
    drop(writer);
    peers.iter().for_each(|peer| peer.say(COUNT));
    let mut peers: Vec<Option<Peer>> = peers.drain(..).map(Some).collect();

    let (mut taken, mut written, mut counted, mut spurious) = ([0; 4], 0, 0, 0_u64);
    let mut open = 5;
    while open > 0 || counted < OTHERS {
        match set.wait_timeout(LONG) {
            Ok(PIPE) => {
                let mut word = [0; 8];
                match pipe.try_recv(&mut word) {
                    Ok(8) => {
                        assert_eq!(u64::from_le_bytes(word), written);
                        written += 1;
                    }
                    Err(RecvError::Closed) => {
                        assert!(set.remove(PIPE));
                        open -= 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            Ok(EVENTS) => counted += events.try_wait().unwrap(),
            Ok(Token(index)) => {
                let index = index as usize;
                // Some are left, now and then.
                let most = 1 + taken[index] % 5 * 20;
                for turn in 0..most {
                    match number(&receivers[index]) {
                        Ok(number) => {
                            assert_eq!(number, taken[index]);
                            taken[index] += 1;
                        }
                        Err(RecvError::Empty) => {
                            spurious += u64::from(turn == 0);
                            break;
                        }
                        Err(RecvError::Closed) => {
                            assert!(set.remove(Token(index as u64)));
                            open -= 1;
                            break;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                if taken[index] == COUNT
                    && let Some(peer) = peers[index].take()
                {
                    peer.expect("sent");
                    end(peer);
                }
            }
            other => panic!("{other:?} after {taken:?}, {written} and {counted}"),
        }
    }
    assert_eq!((taken, written, counted), ([COUNT; 4], OTHERS, OTHERS));
    assert_eq!(spurious, 0);
    let slept = sleeps(getpid()) - slept;
    assert!(slept > 100, "it slept {slept} times");
    assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
    other.join();
    Ok(())
}

fn a_message_that_is_left_is_told_again() -> Result<(), Skip> {
    let receivers = receivers(2);
    let mut set = WaitSet::new().unwrap();
    set.add(&receivers[0], Token(0)).unwrap();
    set.add(&receivers[1], Token(1)).unwrap();
    assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
    let peers = [sending(0), sending(1)];
    assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut), "somebody came");
    for _ in 0..40 {
        peers[1].say(2);
        assert_eq!(set.wait_timeout(LONG), Ok(Token(1)));
        peers[1].expect("sent");
        // Whether it was looked at or not.
        assert_eq!(set.wait_timeout(LONG), Ok(Token(1)));
        number(&receivers[1]).unwrap();
        assert_eq!(set.try_wait(), Ok(Token(1)));
        // One that is borrowed is no other one.
        let message = receivers[1].borrow().unwrap();
        assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
        drop(message);
        // In turns.
        peers.iter().for_each(|peer| peer.say(3));
        peers.iter().for_each(|peer| peer.expect("sent"));
        let mut told = [0; 2];
        for _ in 0..6 {
            let Token(index) = set.wait_timeout(LONG).unwrap();
            number(&receivers[index as usize]).unwrap();
            told[index as usize] += 1;
        }
        assert_eq!(told, [3, 3]);
        // A call that waits for one of them comes in between.
        assert_eq!(
            receivers[0].recv_timeout(&mut [0; 8], Duration::ZERO),
            Err(RecvError::TimedOut)
        );
        assert_eq!(receivers[0].try_recv(&mut [0; 8]), Err(RecvError::Empty));
        assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
        peers[0].say(1);
        assert_eq!(set.wait(), Ok(Token(0)));
        peers[0].expect("sent");
        // What was taken meanwhile is not told.
        number(&receivers[0]).unwrap();
        assert_eq!(set.wait_timeout(Duration::ZERO), Err(WaitError::TimedOut));
    }
    peers.into_iter().for_each(end);
    Ok(())
}

fn a_death_and_an_end_are_told() -> Result<(), Skip> {
    let receivers = receivers(3);
    let mut set = WaitSet::new().unwrap();
    for (index, receiver) in receivers.iter().enumerate() {
        set.add(receiver, Token(index as u64)).unwrap();
    }
    let (dies, leaves, stays) = (sending(0), sending(1), sending(2));
    assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut));
    dies.kill();
    assert_eq!(set.wait_timeout(LONG), Ok(Token(0)));
    // Until it is taken, once.
    assert_eq!(set.wait_timeout(LONG), Ok(Token(0)));
    assert_eq!(number(&receivers[0]), Err(RecvError::PeerDied));
    assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut));
    end(leaves);
    // For ever.
    for _ in 0..100 {
        assert_eq!(set.wait_timeout(LONG), Ok(Token(1)));
        assert_eq!(number(&receivers[1]), Err(RecvError::Closed));
    }
    stays.say("1 now");
    let mut told = 0;
    while told < 10 {
        told += u64::from(set.wait_timeout(LONG) == Ok(Token(2)));
    }
    stays.expect("sent");
    assert!(set.remove(Token(1)));
    assert!(!set.remove(Token(1)));
    assert_eq!(number(&receivers[2]), Ok(0));
    assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut));
    // Another one comes to where one died.
    let next = sending(0);
    next.say(1);
    assert_eq!(set.wait_timeout(LONG), Ok(Token(0)));
    assert_eq!(number(&receivers[0]), Ok(0));
    next.expect("sent");
    end(next);
    end(stays);
    Ok(())
}

/// Receives as many as it is told each time.
fn receives(link: &Link) {
    let receiver = receiver().open("test").unwrap();
    link.say("here");
    while let Ok(count) = link.hear().parse::<u64>() {
        for _ in 0..count {
            receiver.recv_timeout(&mut [0; 2048], LONG).unwrap();
        }
        link.say("received");
    }
}

fn a_sender_is_told_of_room_once() -> Result<(), Skip> {
    const ROOM: Token = Token(1);
    let sender = sender().create("test").unwrap();
    let peer = Peer::spawn("channel_set::receives");
    peer.expect("here");
    let mut set = WaitSet::new().unwrap();
    set.add(&sender, ROOM).unwrap();
    assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut), "nothing was refused");
    for _ in 0..5 {
        let mut sent = 0;
        while sender.try_send(&[1; 8]).is_ok() {
            sent += 1;
            assert!(sent < 1000);
        }
        assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut));
        peer.say(1);
        assert_eq!(set.wait_timeout(LONG), Ok(ROOM));
        peer.expect("received");
        assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut), "once");
        sender.try_send(&[1; 8]).unwrap();
        // Less room than for that is none.
        assert_eq!(sender.try_send(&[1; 1000]), Err(SendError::Full));
        peer.say(10);
        peer.expect("received");
        assert_eq!(set.wait_timeout(SHORT), Err(WaitError::TimedOut));
        peer.say(sent - 10);
        assert_eq!(set.wait_timeout(LONG), Ok(ROOM));
        sender.try_send(&[1; 1000]).unwrap();
        peer.expect("received");
        peer.say(1);
        peer.expect("received");
    }
    end(peer);
    Ok(())
}

/// Waits for four channels, and says which has something.
fn idles(link: &Link) {
    let receivers = receivers(4);
    let mut set = WaitSet::new().unwrap();
    for (index, receiver) in receivers.iter().enumerate() {
        set.add(receiver, Token(index as u64)).unwrap();
    }
    link.say("here");
    loop {
        let Token(index) = set.wait().unwrap();
        match number(&receivers[index as usize]) {
            Ok(number) => link.say(format!("{number} of {index}")),
            Err(RecvError::Closed) => return,
            other => panic!("{other:?}"),
        }
    }
}

/// Lets it lie for a while: how often it was woken.
fn woken(pid: Pid) -> u64 {
    until_asleep(pid);
    let before = sleeps(pid);
    let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
    rustix::event::poll(&mut [], Some(&patience)).unwrap();
    sleeps(pid) - before
}

fn a_set_that_idles_makes_no_wake_up() -> Result<(), Skip> {
    let peer = Peer::spawn("channel_set::idles");
    peer.expect("here");
    let senders = (0..4).map(|index| sender().open(format!("test-{index}")).unwrap());
    let senders: Vec<Sender> = senders.collect();
    assert_eq!(woken(peer.pid()), 0);
    for round in 0..3_u64 {
        for (index, sender) in senders.iter().enumerate() {
            sender.send(&round.to_le_bytes()).unwrap();
            peer.expect(&format!("{round} of {index}"));
        }
        assert_eq!(woken(peer.pid()), 0);
    }
    drop(senders);
    peer.join();
    Ok(())
}

fn a_set_is_interrupted() -> Result<(), Skip> {
    const WOKEN: Token = Token(7);
    let (sender, receiver) = stream().pair().unwrap();
    let mut set = WaitSet::new().unwrap();
    set.add(&receiver, Token(0)).unwrap();
    let waker = set.waker(WOKEN).unwrap();
    let own = getpid();
    let interrupt = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(own);
            waker.wake();
        });
        assert_eq!(set.wait(), Ok(WOKEN));
        s.spawn(|| {
            until_asleep(own);
            interrupt.trigger();
        });
        let wait = Wait::FOREVER.interrupted_by(&interrupt);
        assert_eq!(set.wait_for(wait), Err(WaitError::Interrupted));
        // It comes before what is ready, and takes nothing of it.
        sender.send(b"x").unwrap();
        assert_eq!(set.wait_for(wait), Err(WaitError::Interrupted));
        interrupt.clear();
        assert_eq!(set.wait_for(wait), Ok(Token(0)));
    });
    // One that comes while nobody waits ends the next wait.
    waker.wake();
    receiver.try_recv(&mut [0; 8]).unwrap();
    assert_eq!(set.wait(), Ok(WOKEN));
    // What others have too is seen, however much the channel has.
    waker.wake();
    (0..60).for_each(|_| sender.send(b"x").unwrap());
    assert!((0..60).any(|_| set.wait() == Ok(WOKEN)));
    Ok(())
}

fn what_has_no_doorbell_is_refused() -> Result<(), Skip> {
    let (_sender, receiver) = stream().pair().unwrap();
    let many = Options::fan_in(2).capacity(4096).sender().folder(scratch()).create("many").unwrap();
    let mut set = WaitSet::new().unwrap();
    let refused = set.add(&many, Token(0)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    set.add(&receiver, Token(0)).unwrap();
    let twice = set.add(&receiver, Token(1)).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists, "{twice}");
    let (pipe, _writer) = sinew::pipe::pipe().unwrap();
    let taken = set.add_fd(OwnedFd::from(pipe), Token(0), Interest::READABLE).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "{taken}");
    assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
    assert!(set.remove(Token(0)));
    set.add(&receiver, Token(3)).unwrap();
    assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
    Ok(())
}

fn a_forked_child_has_no_set() -> Result<(), Skip> {
    let (sender, receiver) = stream().pair().unwrap();
    let mut set = WaitSet::new().unwrap();
    set.add(&receiver, Token(0)).unwrap();
    sender.send(b"x").unwrap();
    in_child(|| {
        assert_eq!(set.wait(), Err(WaitError::Forked));
        let refused = set.add(&receiver, Token(1)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Forked);
        set.remove(Token(0));
    });
    assert_eq!(set.wait(), Ok(Token(0)));
    receiver.try_recv(&mut [0; 8]).unwrap();
    assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
    sender.send(b"x").unwrap();
    assert_eq!(set.wait(), Ok(Token(0)), "the parent's registration is there");
    Ok(())
}

fn a_wait_takes_no_system_call_and_no_allocation() -> Result<(), Skip> {
    let pairs: Vec<(Sender, Receiver)> = (0..4).map(|_| stream().pair().unwrap()).collect();
    let mut set = WaitSet::new().unwrap();
    for (index, (_, receiver)) in pairs.iter().enumerate() {
        set.add(receiver, Token(index as u64)).unwrap();
    }
    let round = || {
        pairs.iter().for_each(|(sender, _)| (0..8).for_each(|_| sender.send(b"x").unwrap()));
        for _ in 0..32 {
            let Token(index) = set.wait().unwrap();
            pairs[index as usize].1.try_recv(&mut [0; 8]).unwrap();
        }
    };
    (0..10).for_each(|_| round());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..100).for_each(|_| round());
    assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
    (0..100).for_each(|_| round());
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);

    let (mut parts, mut waits) = (None, 0);
    let measured = steps::measure(100, || {
        let (sender, receiver, set) = parts.get_or_insert_with(|| {
            let (sender, receiver) = stream().pair().unwrap();
            let receiver = std::rc::Rc::new(receiver);
            let mut set = WaitSet::new().unwrap();
            set.add(std::rc::Rc::clone(&receiver), Token(0)).unwrap();
            (sender, receiver, set)
        });
        sender.send(b"x").unwrap();
        sender.send(b"x").unwrap();
        waits += 1;
        assert_eq!(set.wait(), Ok(Token(0)));
        receiver.try_recv(&mut [0; 8]).unwrap();
        receiver.try_recv(&mut [0; 8]).unwrap();
    });
    let Ok(measured) = measured else { return skip("there is no single-stepper here") };
    // Where no page is wiped in a child, a handle asks for the process.
    let calls = measured.calls.iter().filter(|call| call.number != libc::SYS_getpid);
    assert_eq!(calls.count(), 0, "{measured:?}");
    Ok(())
}
