//! Channels between real processes: under names, by handed-over ends, and what the others see of a death.

pub(crate) mod durable;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use sinew::channel::{Attach, Options, Receiver, Sender, Unattached};
use sinew::wait::{Borrows, Opens, Receives, Sends};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

use crate::pipe::until_asleep;

pub(crate) const TESTS: &[Test] = tests![
    messages_go_from_process_to_process,
    an_end_is_handed_to_another_process,
    a_dead_sender_is_told_and_its_successor_goes_on,
    a_dead_receiver_leaves_its_messages_to_the_next,
    the_name_lives_on_when_its_holder_is_killed,
    a_durable_sender_has_its_lane_again,
    whoever_waits_for_a_name_gets_it,
    names_and_ends_are_refused_by_name,
    a_doorbell_is_readable_while_there_is_something_to_receive,
    a_doorbell_is_readable_while_there_is_room,
];
pub(crate) const ROLES: &[Role] = roles![sends, receives, given_end, waits];

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

fn sender(options: Options) -> Attach<Sender> {
    options.sender().folder(scratch())
}

fn receiver(options: Options) -> Attach<Receiver> {
    options.receiver().folder(scratch())
}

fn stream() -> Options {
    Options::stream().capacity(4096)
}

/// Sends numbers: as many as it is told each time.
fn sends(link: &Link) {
    let durable = link.hear();
    let mut attach = sender(Options::fan_in(4).capacity(4096));
    if link.hear() == "stream" {
        attach = sender(stream());
    }
    if durable != "-" {
        attach = attach.durable(&durable).unwrap();
    }
    let sender = attach.open("test").unwrap();
    link.say(sender.sent());
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        if words == "end" {
            return;
        }
        let count: u64 = words.parse().unwrap();
        for _ in 0..count {
            let number = sender.sent();
            sender.send_timeout(&number.to_le_bytes(), LONG).unwrap();
        }
        link.say("sent");
    }
}

fn sending(durable: &str, pattern: &str) -> (Peer, u64) {
    let peer = Peer::spawn("channel_attach::sends");
    peer.say(durable);
    peer.say(pattern);
    let sent = peer.hear().parse().unwrap();
    (peer, sent)
}

fn end(peer: Peer) {
    peer.say("end");
    peer.join();
}

fn number(receiver: &Receiver) -> Result<u64, RecvError> {
    let mut number = [0; 8];
    assert_eq!(receiver.recv_timeout(&mut number, LONG)?, 8);
    Ok(u64::from_le_bytes(number))
}

/// Receives as many as it is told each time, and says what the last one was.
fn receives(link: &Link) {
    let receiver = receiver(stream()).open("test").unwrap();
    link.say("here");
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        if words == "borrow" {
            let message = receiver.borrow().unwrap();
            link.say(u64::from_le_bytes(message[..].try_into().unwrap()));
            link.expect("never");
        }
        let mut last = 0;
        for _ in 0..words.parse().unwrap() {
            last = number(&receiver).unwrap();
        }
        link.say(last);
    }
}

fn messages_go_from_process_to_process() -> Result<(), Skip> {
    let receiver = receiver(stream()).create("test").unwrap();
    let (peer, sent) = sending("-", "stream");
    assert_eq!(sent, 0);
    // Many times the capacity.
    peer.say(5000);
    for expected in 0..5000 {
        assert_eq!(number(&receiver), Ok(expected));
    }
    peer.expect("sent");
    assert_eq!(receiver.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    end(peer);
    assert_eq!(number(&receiver), Err(RecvError::Closed));
    // And another one opens it.
    receiver.outlast_senders(true);
    assert_eq!(receiver.recv_timeout(&mut [0; 8], SHORT), Err(RecvError::TimedOut));
    let (peer, sent) = sending("-", "stream");
    assert_eq!(sent, 5000);
    peer.say(1);
    assert_eq!(number(&receiver), Ok(5000));
    peer.expect("sent");
    end(peer);
    drop(receiver);
    let gone = sender(stream()).open("test").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    Ok(())
}

/// Attaches an end that it is handed.
fn given_end(link: &Link) {
    let fds = std::array::from_fn(|_| link.recv_fd());
    let sender = Unattached::<Sender>::from_fds(fds).attach().unwrap();
    sender.send(b"from the child").unwrap();
    link.say("sent");
    link.expect("end");
}

fn an_end_is_handed_to_another_process() -> Result<(), Skip> {
    for killed in [false, true] {
        let (sender, receiver) = stream().ends().unwrap();
        let receiver = receiver.attach().unwrap();
        let peer = Peer::spawn("channel_attach::given_end");
        for fd in sender.into_fds() {
            peer.send_fd(fd);
        }
        let mut buf = [0; 64];
        assert_eq!(receiver.recv_timeout(&mut buf, LONG), Ok(14));
        assert_eq!(&buf[..14], b"from the child");
        peer.expect("sent");
        if killed {
            peer.kill();
            assert_eq!(receiver.recv_timeout(&mut buf, LONG), Err(RecvError::PeerDied));
        } else {
            peer.say("end");
            peer.join();
        }
        assert_eq!(receiver.recv_timeout(&mut buf, LONG), Err(RecvError::Closed));
    }
    // Nobody ever attaches the other end.
    let (sender, receiver) = stream().ends().unwrap();
    let sender = sender.attach().unwrap();
    drop(receiver);
    let ended = loop {
        if let Err(error) = sender.send_timeout(&[1; 100], LONG) {
            break error;
        }
    };
    assert_eq!(ended, SendError::Closed);
    Ok(())
}

fn a_dead_sender_is_told_and_its_successor_goes_on() -> Result<(), Skip> {
    let receiver = receiver(stream()).create("test").unwrap();
    for round in 0..10 {
        let (peer, sent) = sending("-", "stream");
        assert_eq!(sent, round * 10);
        peer.say(10);
        peer.expect("sent");
        peer.kill();
        for expected in 0..10 {
            assert_eq!(number(&receiver), Ok(round * 10 + expected));
        }
        assert_eq!(number(&receiver), Err(RecvError::PeerDied));
        assert_eq!(receiver.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    }
    Ok(())
}

fn a_dead_receiver_leaves_its_messages_to_the_next() -> Result<(), Skip> {
    let sender = sender(stream()).create("test").unwrap();
    for number in 0..20_u64 {
        sender.send(&number.to_le_bytes()).unwrap();
    }
    let peer = Peer::spawn("channel_attach::receives");
    peer.expect("here");
    peer.say(5);
    peer.expect("4");
    peer.say("borrow");
    peer.expect("5");
    // One receiver at a time.
    let second = receiver(stream()).open("test").unwrap_err();
    assert_eq!(second.kind(), ErrorKind::InUse, "{second}");
    peer.kill();
    let receiver = loop {
        match receiver(stream()).open("test") {
            Ok(receiver) => break receiver,
            // The death is not noticed yet.
            Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
        }
    };
    // What was copied is gone, what was borrowed is given again.
    let message = receiver.borrow_timeout(LONG).unwrap();
    assert_eq!((&message[..], message.delivery_count()), (&5_u64.to_le_bytes()[..], 2));
    drop(message);
    for expected in 6..20 {
        assert_eq!(number(&receiver), Ok(expected));
    }
    Ok(())
}

fn the_name_lives_on_when_its_holder_is_killed() -> Result<(), Skip> {
    let options = Options::fan_in(4).capacity(4096);
    let holder = Peer::spawn("channel_attach::waits");
    holder.say("create");
    holder.expect("here");
    let (first, _) = sending("-", "fan-in");
    let (second, _) = sending("-", "fan-in");
    holder.kill();
    // A receiver by the name that a sender took over; and so again.
    let receiver = receiver(options).awaited("test").open_timeout(LONG).unwrap();
    first.say(3);
    second.say(3);
    for _ in 0..6 {
        number(&receiver).unwrap();
    }
    first.expect("sent");
    first.kill();
    assert_eq!(number(&receiver), Err(RecvError::PeerDied));
    let (third, _) = sending("-", "fan-in");
    third.say(1);
    number(&receiver).unwrap();
    second.signal(Signal::KILL);
    third.expect("sent");
    end(third);
    drop(receiver);
    // Where the last ones went while the name was being taken over, its socket is left: a dead one.
    let _ = std::fs::remove_file(scratch().join("test"));
    Ok(())
}

/// Creates a channel as its receiver, or waits until one is there.
fn waits(link: &Link) {
    let options = Options::fan_in(4).capacity(4096);
    if link.hear() == "create" {
        let _receiver = receiver(options).create("test").unwrap();
        link.say("here");
        link.expect("never");
    }
    link.say("waiting");
    let sender = sender(options).awaited("test").open().unwrap();
    sender.send(b"at last!").unwrap();
    link.say("sent");
}

fn a_durable_sender_has_its_lane_again() -> Result<(), Skip> {
    let receiver = receiver(Options::fan_in(2).capacity(4096)).create("test").unwrap();
    let (one, _) = sending("one", "fan-in");
    one.say(7);
    one.expect("sent");
    one.kill();
    let (other, sent) = sending("-", "fan-in");
    assert_eq!(sent, 0);
    // The last lane is kept.
    let more = sender(Options::fan_in(2)).open("test").unwrap_err();
    assert_eq!(more.kind(), ErrorKind::InUse, "{more}");
    let (one, sent) = sending("one", "fan-in");
    assert_eq!(sent, 7);
    let twice = sender(Options::fan_in(2)).durable("one").unwrap().open("test").unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::InUse, "{twice}");
    assert!(twice.to_string().contains("\"one\" is there"), "{twice}");
    for expected in 0..7 {
        assert_eq!(number(&receiver), Ok(expected));
    }
    end(other);
    end(one);
    Ok(())
}

fn whoever_waits_for_a_name_gets_it() -> Result<(), Skip> {
    let peers: Vec<Peer> = (0..3).map(|_| Peer::spawn("channel_attach::waits")).collect();
    for peer in &peers {
        peer.say("wait");
        peer.expect("waiting");
        until_asleep(peer.pid());
    }
    let receiver = receiver(Options::fan_in(4).capacity(4096)).create("test").unwrap();
    receiver.outlast_senders(true);
    for _ in &peers {
        assert_eq!(receiver.recv_timeout(&mut [0; 8], LONG), Ok(8));
    }
    for peer in peers {
        peer.expect("sent");
        peer.join();
    }
    Ok(())
}

fn names_and_ends_are_refused_by_name() -> Result<(), Skip> {
    let none = receiver(stream()).open("none").unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound, "{none}");
    for name in ["", "a/b", ".hidden", &"x".repeat(201)] {
        let error = receiver(stream()).create(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
    }
    let first = receiver(stream()).create("test").unwrap();
    let second = receiver(stream()).create("test").unwrap_err();
    assert_eq!(second.kind(), ErrorKind::AlreadyExists, "{second}");
    assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
    let other = sender(Options::fan_in(2)).open("test").unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Mismatch, "{other}");
    assert!(receiver(stream()).durable("").is_err());
    // Descriptors that are no end of a channel.
    let fds = std::array::from_fn(|_| std::io::pipe().unwrap().0.into());
    let error = Unattached::<Sender>::from_fds(fds).attach().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    drop(first);
    Ok(())
}

fn is_readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::try_from(patience).unwrap())).unwrap() == 1
}

fn a_doorbell_is_readable_while_there_is_something_to_receive() -> Result<(), Skip> {
    let receiver = receiver(Options::fan_in(2).capacity(4096)).create("test").unwrap();
    let bell = receiver.doorbell().unwrap();
    assert!(is_readable(bell, Duration::ZERO));
    let empty = || assert_eq!(receiver.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    empty();
    assert!(!is_readable(bell, SHORT));
    for killed in [false, true] {
        let (peer, _) = sending("-", "fan-in");
        // Somebody came, who has sent nothing.
        empty();
        assert!(!is_readable(bell, SHORT));
        for count in [1, 3, 40] {
            peer.say(count);
            for taken in 0..count {
                assert!(is_readable(bell, LONG), "{taken} of {count}");
                number(&receiver).unwrap();
            }
            peer.expect("sent");
            empty();
            assert!(!is_readable(bell, SHORT));
        }
        let how = if killed {
            peer.kill();
            RecvError::PeerDied
        } else {
            end(peer);
            RecvError::Closed
        };
        assert!(is_readable(bell, LONG));
        assert_eq!(receiver.try_recv(&mut [0; 8]), Err(how));
        receiver.outlast_senders(true);
        empty();
        // The service rings too, when it sees what the sender's last words have told already.
        for rung in 0.. {
            if !is_readable(bell, SHORT) {
                break;
            }
            assert!(rung < 3, "rung for again and again");
            empty();
        }
        receiver.outlast_senders(false);
    }
    // A call that waits takes the place of the doorbell, and gives it back at rest.
    assert_eq!(receiver.recv_timeout(&mut [0; 8], SHORT), Err(RecvError::TimedOut));
    assert!(is_readable(bell, Duration::ZERO));
    Ok(())
}

fn a_doorbell_is_readable_while_there_is_room() -> Result<(), Skip> {
    let sender = sender(stream()).create("test").unwrap();
    let peer = Peer::spawn("channel_attach::receives");
    peer.expect("here");
    let bell = sender.doorbell().unwrap();
    for _ in 0..3 {
        let mut sent = 0;
        while sender.try_send(&[1; 8]).is_ok() {
            sent += 1;
            assert!(sent < 1000);
        }
        assert_eq!(sender.try_send(&[1; 8]), Err(SendError::Full));
        assert!(!is_readable(bell, SHORT));
        peer.say(1);
        let _ = peer.hear();
        assert!(is_readable(bell, LONG));
        sender.try_send(&[1; 8]).unwrap();
        assert_eq!(sender.try_send(&[1; 8]), Err(SendError::Full));
        assert!(!is_readable(bell, SHORT));
        peer.say(sent);
        let _ = peer.hear();
        assert!(is_readable(bell, LONG));
    }
    // In a fan-in a sender has none.
    let many = Options::fan_in(2).sender().folder(scratch()).create("many").unwrap();
    assert_eq!(many.doorbell().unwrap_err().kind(), ErrorKind::Unsupported);
    Ok(())
}
