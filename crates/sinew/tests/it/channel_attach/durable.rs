//! Members that keep their place under a name, and places that are given up.

use std::time::Duration;

use sinew::channel::{Attach, Options, Receiver, Sender};
use sinew::wait::{Borrows, Receives, Sends};
use sinew::{ErrorKind, RecvError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

pub(crate) const TESTS: &[Test] = tests![
    the_place_of_a_dead_receiver_is_given_up,
    the_lane_of_a_dead_sender_is_given_up,
    whoever_is_there_is_not_forgotten,
    a_place_is_given_up_before_anybody_has_noticed,
    a_dead_workers_place_is_given_up_and_its_job_is_not,
    a_dead_senders_place_is_had_again_at_once,
];
pub(crate) const ROLES: &[Role] = roles![keeper];

const LONG: Duration = Duration::from_secs(20);

fn fan_in() -> Options {
    Options::fan_in(2).capacity(4096)
}

fn sender() -> Attach<Sender> {
    fan_in().sender().folder(scratch())
}

fn receiver() -> Attach<Receiver> {
    fan_in().receiver().folder(scratch())
}

/// A member that is there under the name "kept", as what it is told, until it is killed or told to leave.
fn keeper(link: &Link) {
    match link.hear().as_str() {
        "receiver" => {
            let receiver = receiver().durable("kept").unwrap().open_or_create("test").unwrap();
            link.say("here");
            if link.hear() == "borrow" {
                let job = receiver.borrow_timeout(LONG).unwrap();
                link.say(job.number());
                link.expect("never");
            }
        }
        "sender" => {
            let sender = sender().durable("kept").unwrap().open_or_create("test").unwrap();
            link.say("here");
            while link.hear() == "send" {
                sender.send(&sender.sent().to_le_bytes()).unwrap();
                link.say("sent");
            }
        }
        "plain" => {
            let sender = sender().open("test").unwrap();
            link.say(sender.sent());
            sender.send(&sender.sent().to_le_bytes()).unwrap();
            link.say("sent");
            link.expect("never");
        }
        _ => {
            let options = Options::queue(1, 2).receiver().folder(scratch());
            let worker = options.durable("kept").unwrap().open("test").unwrap();
            link.say("here");
            let job = worker.borrow_timeout(LONG).unwrap();
            link.say(job.number());
            link.expect("never");
        }
    }
}

fn keeping(role: &str) -> Peer {
    let peer = Peer::spawn("channel_attach::durable::keeper");
    peer.say(role);
    peer.expect("here");
    peer
}

fn the_place_of_a_dead_receiver_is_given_up() -> Result<(), Skip> {
    // The keeper holds the name, or another member; it is killed, or leaves.
    for (holds, killed) in [(false, true), (true, true), (false, false), (true, false)] {
        let before = holds.then(|| keeping("receiver"));
        let sender = sender().open_or_create("test").unwrap();
        let peer = before.unwrap_or_else(|| keeping("receiver"));
        for number in 0..3_u64 {
            sender.send(&number.to_le_bytes()).unwrap();
        }
        if killed {
            peer.say("borrow");
            peer.expect("0");
            peer.kill();
        } else {
            peer.say("leave");
            peer.join();
        }
        let kept = receiver().open("test").unwrap_err();
        assert_eq!(kept.kind(), ErrorKind::InUse, "{kept}");
        assert!(kept.to_string().contains("kept for \"kept\""), "{kept}");
        sender.forget("kept").unwrap();
        let own = receiver().open("test").unwrap();
        for number in 0..3_u64 {
            let message = own.borrow_timeout(LONG).unwrap();
            assert_eq!(message[..], number.to_le_bytes());
            let before = u64::from(killed && number == 0);
            assert_eq!(message.delivery_count(), 1 + before);
        }
        let again = own.forget("kept").unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotFound, "{again}");
    }
    Ok(())
}

fn the_lane_of_a_dead_sender_is_given_up() -> Result<(), Skip> {
    let own = receiver().create("test").unwrap();
    let other = sender().open("test").unwrap();
    let peer = keeping("sender");
    for _ in 0..3 {
        peer.say("send");
        peer.expect("sent");
    }
    peer.kill();
    let kept = sender().open("test").unwrap_err();
    assert_eq!(kept.kind(), ErrorKind::InUse, "{kept}");
    other.forget("kept").unwrap();
    let next = sender().open("test").unwrap();
    // It goes on in the lane.
    assert_eq!(next.sent(), 3);
    next.send(&3_u64.to_le_bytes()).unwrap();
    let mut buf = [0; 8];
    let mut expected = 0_u64;
    while expected < 4 {
        match own.recv_timeout(&mut buf, LONG) {
            Ok(_) => assert_eq!(buf, expected.to_le_bytes()),
            Err(RecvError::PeerDied) => continue,
            Err(other) => panic!("{other:?}"),
        }
        expected += 1;
    }
    Ok(())
}

fn whoever_is_there_is_not_forgotten() -> Result<(), Skip> {
    let own = receiver().create("test").unwrap();
    let peer = keeping("sender");
    let there = own.forget("kept").unwrap_err();
    assert_eq!(there.kind(), ErrorKind::InUse, "{there}");
    let pid = peer.pid().as_raw_nonzero().to_string();
    assert!(there.to_string().contains(&pid), "{there}");
    // A stopped one too.
    crate::pipe::stop(&peer);
    assert_eq!(own.forget("kept").unwrap_err().kind(), ErrorKind::InUse);
    for name in ["", "with\0zero", &"x".repeat(33)] {
        assert_eq!(own.forget(name).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(own.forget("nobody").unwrap_err().kind(), ErrorKind::NotFound);
    let (pair, _other) = Options::stream().capacity(4096).pair().unwrap();
    assert_eq!(pair.forget("kept").unwrap_err().kind(), ErrorKind::Unsupported);
    peer.kill();
    Ok(())
}

fn a_place_is_given_up_before_anybody_has_noticed() -> Result<(), Skip> {
    let own = receiver().create("test").unwrap();
    let other = sender().open("test").unwrap();
    let mut buf = [0; 8];
    for round in 0..50_u64 {
        let peer = keeping("sender");
        peer.say("send");
        peer.expect("sent");
        peer.kill();
        if round % 2 == 0 {
            // Who holds the name knows everybody.
            own.forget("kept").unwrap();
        } else {
            while let Err(error) = other.forget("kept") {
                assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
            }
        }
        let next = sender().open("test").unwrap();
        assert_eq!(next.sent(), round + 1);
        loop {
            match own.recv_timeout(&mut buf, LONG) {
                Ok(_) => break assert_eq!(buf, round.to_le_bytes()),
                Err(RecvError::PeerDied) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    Ok(())
}

fn a_dead_workers_place_is_given_up_and_its_job_is_not() -> Result<(), Skip> {
    let options = Options::queue(1, 2);
    let sender = options.sender().folder(scratch()).create("test").unwrap();
    let own = options.receiver().folder(scratch()).open("test").unwrap();
    for round in 0..10 {
        sender.send(b"job").unwrap();
        let peer = keeping("worker");
        peer.expect(&round.to_string());
        peer.kill();
        sender.forget("kept").unwrap();
        let next = options.receiver().folder(scratch()).open("test").unwrap();
        assert_eq!(own.borrow_timeout(LONG).unwrap().delivery_count(), 2);
        drop(next);
    }
    Ok(())
}

fn a_dead_senders_place_is_had_again_at_once() -> Result<(), Skip> {
    // Whoever starts a process again has no reason to wait until its death is known.
    let own = receiver().create("test").unwrap();
    let _other = sender().open("test").unwrap();
    for round in 0..50_u64 {
        let peer = Peer::spawn("channel_attach::durable::keeper");
        peer.say("plain");
        peer.expect(&round.to_string());
        peer.expect("sent");
        peer.kill();
    }
    drop(own);
    Ok(())
}
