//! The ends of queues: doorbells, ends that are handed over, and who is let in.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sinew::channel::queue::{Sender, Worker};
use sinew::channel::{self, Unattached};
use sinew::wait::{Borrows, Receives, Sends};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

use super::named::{LONG, SHORT, attach, number, sender, sending, worker, working};
use crate::pipe::until_asleep;

pub(crate) const TESTS: &[Test] = tests![
    a_workers_doorbell_is_readable_while_there_is_something_to_do,
    who_sleeps_in_a_call_is_woken_beside_one_that_polls,
    a_senders_doorbell_is_readable_while_there_is_room,
    two_ends_are_handed_over,
    names_bring_places_back,
    other_patterns_and_too_many_are_refused,
];
pub(crate) const ROLES: &[Role] = roles![given_end];

fn is_readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::try_from(patience).unwrap())).unwrap() == 1
}

fn a_workers_doorbell_is_readable_while_there_is_something_to_do() -> Result<(), Skip> {
    let mut buf = [0; 8];
    let workers: [Worker; 2] = [worker().create("test").unwrap(), attach(&worker())];
    let bells = workers.each_ref().map(|worker| worker.doorbell().unwrap());
    let at_rest = || bells.iter().all(|bell| !is_readable(*bell, SHORT));
    let empty = |worker: &Worker| assert_eq!(worker.try_recv(&mut []), Err(RecvError::Empty));
    // Every member rings for who is gone.
    let until_at_rest = || {
        let deadline = Instant::now() + LONG;
        while !at_rest() {
            assert!(Instant::now() < deadline, "rung for again and again");
            workers.iter().for_each(empty);
        }
    };
    for killed in [false, true] {
        let (peer, _) = sending("open");
        for job in 1..20_u64 {
            workers.iter().for_each(empty);
            assert!(at_rest(), "armed");
            peer.say(format!("{job} 1"));
            peer.expect("sent");
            // Any may be busy elsewhere.
            assert!(bells.iter().all(|bell| is_readable(*bell, LONG)));
            let (one, other) = if job % 2 == 0 { (0, 1) } else { (1, 0) };
            assert_eq!(workers[one].try_recv(&mut buf), Ok(8));
            assert_eq!(number(&buf) as u64, job);
            empty(&workers[other]);
        }
        // More than one, of which one is taken: still readable.
        workers.iter().for_each(empty);
        peer.say("1 3");
        peer.expect("sent");
        for _ in 0..3 {
            assert!(is_readable(bells[0], LONG));
            workers[0].try_recv(&mut buf).unwrap();
        }
        workers.iter().for_each(empty);
        assert!(at_rest());
        let how = if killed {
            peer.kill();
            RecvError::PeerDied
        } else {
            peer.say("leave");
            peer.join();
            RecvError::Closed
        };
        for (worker, bell) in workers.iter().zip(bells) {
            assert!(is_readable(bell, LONG));
            assert_eq!(worker.try_recv(&mut buf), Err(how));
            worker.outlast_senders(true);
        }
        workers.iter().for_each(empty);
        until_at_rest();
        workers.iter().for_each(|worker| worker.outlast_senders(false));
    }
    // A worker that dies leaves its job to one that polls.
    let (sender, _) = sending("open");
    let peer = working("open");
    peer.say("borrow");
    until_asleep(peer.pid());
    workers.iter().for_each(empty);
    sender.say("9 1");
    peer.expect("9");
    workers.iter().for_each(empty);
    until_at_rest();
    peer.kill();
    assert!(bells.iter().all(|bell| is_readable(*bell, LONG)));
    assert_eq!(workers[1].try_borrow().unwrap().delivery_count(), 2);
    // A call that waits takes the place of the doorbell, and gives it back at rest.
    assert_eq!(workers[1].recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    assert!(is_readable(bells[1], Duration::ZERO));
    sender.kill();
    Ok(())
}

fn who_sleeps_in_a_call_is_woken_beside_one_that_polls() -> Result<(), Skip> {
    // The one that polls is rung for first, and does not come.
    let own = worker().create("test").unwrap();
    let bell = own.doorbell().unwrap();
    let sender = attach(&sender());
    let peer = working("open");
    for job in 0..50_u64 {
        assert_eq!(own.try_recv(&mut []), Err(RecvError::Empty));
        peer.say("recv");
        until_asleep(peer.pid());
        sender.send(&job.to_le_bytes()).unwrap();
        peer.expect(&job.to_string());
        assert!(is_readable(bell, LONG));
    }
    peer.say("leave");
    peer.join();
    Ok(())
}

fn a_senders_doorbell_is_readable_while_there_is_room() -> Result<(), Skip> {
    let sender = sender().create("test").unwrap();
    let peer = working("open");
    let bell = sender.doorbell().unwrap();
    for _ in 0..3 {
        while sender.try_send(&3_u64.to_le_bytes()).is_ok() {}
        assert_eq!(sender.try_send(&[0; 8]), Err(SendError::Full));
        assert!(!is_readable(bell, SHORT));
        peer.say("recv");
        peer.expect("3");
        assert!(is_readable(bell, LONG));
        sender.try_send(&3_u64.to_le_bytes()).unwrap();
    }
    peer.say("leave");
    peer.join();
    Ok(())
}

/// Works at an end that it is given.
fn given_end(link: &Link) {
    let fds = std::array::from_fn(|_| link.recv_fd());
    let worker = Unattached::<Worker>::from_fds(fds).attach().unwrap();
    let job = worker.borrow_timeout(LONG).unwrap();
    link.say(number(&job));
    link.expect("end");
    drop(job);
    assert_eq!(worker.recv_timeout(&mut [], LONG), Err(RecvError::Closed));
    link.say("closed");
}

fn two_ends_are_handed_over() -> Result<(), Skip> {
    for killed in [false, true] {
        let (sender, worker) = channel::Options::queue(1, 1).capacity(4096).ends().unwrap();
        let sender = sender.attach().unwrap();
        let peer = Peer::spawn("channel_queue::ends::given_end");
        worker.into_fds().into_iter().for_each(|fd| peer.send_fd(fd));
        sender.send(&5_u64.to_le_bytes()).unwrap();
        peer.expect("5");
        if killed {
            peer.kill();
            let ended = loop {
                if let Err(error) = sender.send_timeout(&[0; 8], LONG) {
                    break error;
                }
            };
            assert_eq!(ended, SendError::Closed);
        } else {
            peer.say("end");
            drop(sender);
            peer.expect("closed");
            peer.join();
        }
    }
    // An end of another pattern.
    let (stream, _other) = channel::Options::stream().capacity(4096).ends().unwrap();
    let error = Unattached::<Sender>::from_fds(stream.into_fds()).attach().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    Ok(())
}

fn names_bring_places_back() -> Result<(), Skip> {
    let options = channel::Options::queue(2, 1);
    let worker = options.receiver().folder(scratch()).create("test").unwrap();
    let (peer, sent) = sending("one");
    assert_eq!(sent, 0);
    peer.say("0 7");
    peer.expect("sent");
    peer.kill();
    let (other, sent) = sending("open");
    assert_eq!(sent, 0);
    // The last lane is kept.
    let more = sender().open("test").unwrap_err();
    assert_eq!(more.kind(), ErrorKind::InUse, "{more}");
    let (one, sent) = sending("one");
    assert_eq!(sent, 7);
    for expected in 0..7 {
        let mut buf = [0; 8];
        assert_eq!(worker.recv_timeout(&mut buf, LONG), Ok(8));
        assert_eq!(number(&buf), expected);
    }
    for peer in [one, other] {
        peer.say("leave");
        peer.join();
    }
    Ok(())
}

fn other_patterns_and_too_many_are_refused() -> Result<(), Skip> {
    let options = channel::Options::queue(1, 1);
    let worker = options.receiver().folder(scratch()).create("test").unwrap();
    let second = self::worker().open("test").unwrap_err();
    assert_eq!(second.kind(), ErrorKind::InUse, "{second}");
    assert!(second.to_string().contains("as many workers"), "{second}");
    for other in [channel::Options::stream(), channel::Options::fan_in(2)] {
        let error = other.sender().folder(scratch()).open("test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    }
    drop(worker);
    let _receiver = channel::Options::stream().receiver().folder(scratch()).create("test").unwrap();
    let error = sender().open("test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    // For as many as there can be, all have a doorbell but the senders.
    for (senders, have) in [(60, true), (64, false)] {
        let most = channel::Options::queue(senders, 64).capacity(0).slots(0);
        let first = most.receiver().folder(scratch()).create("most").unwrap();
        let second = most.receiver().folder(scratch()).open("most").unwrap();
        let sender = most.sender().folder(scratch()).open("most").unwrap();
        assert!(first.doorbell().is_ok() && second.doorbell().is_ok());
        assert_eq!(sender.doorbell().is_ok(), have);
        sender.send(b"job").unwrap();
        assert_eq!(second.recv_timeout(&mut [0; 8], LONG), Ok(3));
    }
    Ok(())
}
