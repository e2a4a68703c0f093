//! Typed messages between real processes: values, slices, versions, and types that do not fit.

#![allow(unsafe_code, reason = "attaches to channels in memory that nobody else has")]

use std::sync::Arc;

use sinew::channel::{
    Attach, Options, Receiver, Sender, TypedReceiver, TypedSender, Unattached, WaitSet,
};
use sinew::poller::Token;
use sinew::wait::{Borrows, Loans, LoansValues, ReceivesValues, Sends, SendsValues, Waits};
use sinew::{ErrorKind, RecvError, SendError, WaitError, memfd};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, steps, tests};

pub(crate) const TESTS: &[Test] = tests![
    values_go_from_process_to_process,
    slices_go_from_process_to_process,
    an_end_of_a_type_is_handed_over,
    a_type_is_checked_in_memory_that_is_shared_otherwise,
    another_type_is_refused_and_both_are_named,
    programs_are_upgraded_one_by_one,
    a_message_of_another_length_is_an_error,
    a_queue_carries_values,
    a_typed_message_takes_no_system_call,
];
pub(crate) const ROLES: &[Role] = roles![sends, sends_slices, given, sends_versions];

sinew::plain! {
    #[derive(Debug, PartialEq)]
    struct Pose { x: f64, at: [f32; 2], number: u32, flags: u32 }
}

// The same size, and another layout.
sinew::plain! {
    #[derive(Debug, PartialEq)]
    struct Swapped { x: f64, at: [f32; 2], flags: u32, number: u32 }
}

sinew::plain! {
    #[derive(Debug, PartialEq)]
    struct Long { pose: Pose, time: u64 }
}

sinew::versions! {
    #[derive(Debug, PartialEq)]
    enum Any { Old(Pose), New(Long) }
}

const COUNT: u32 = 1000;

fn stream() -> Options {
    Options::stream().capacity(4096)
}

fn at<E: sinew::channel::End>(attach: Attach<E>) -> Attach<E> {
    attach.folder(scratch())
}

fn pose(number: u32) -> Pose {
    let x = f64::from(number);
    Pose { x, at: [-1.0, number as f32], number, flags: !number }
}

/// Sends by value and in place, in turns.
fn sends(link: &Link) {
    let mut sender = at(stream().typed::<Pose>().sender()).open("test").unwrap();
    for number in 0..COUNT {
        if number % 2 == 0 {
            sender.send(&pose(number)).unwrap();
        } else {
            let mut loan = sender.loan().unwrap();
            *loan = pose(number);
            assert_eq!(loan.number, number);
            loan.send();
        }
    }
    link.expect("end");
}

fn values_go_from_process_to_process() -> Result<(), Skip> {
    let receiver = at(stream().typed::<Pose>().receiver()).create("test").unwrap();
    let mut set = WaitSet::new().unwrap();
    set.add(&receiver, Token(1)).unwrap();
    let peer = Peer::spawn("channel_typed::sends");
    for number in 0..COUNT {
        assert_eq!(set.wait(), Ok(Token(1)));
        if number % 3 == 0 {
            let message = receiver.borrow().unwrap();
            assert_eq!((&*message, message.message().number()), (&pose(number), number.into()));
        } else {
            assert_eq!(receiver.recv(), Ok(pose(number)));
        }
    }
    assert_eq!(set.try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(receiver.try_recv(), Err(RecvError::Empty));
    peer.say("end");
    peer.join();
    assert_eq!(receiver.recv(), Err(RecvError::Closed));
    Ok(())
}

/// Sends slices of every length, by copy and in place.
fn sends_slices(link: &Link) {
    let mut sender = at(stream().typed::<[u32]>().sender()).open("test").unwrap();
    for len in 0..100 {
        let values: Vec<u32> = (0..len).collect();
        sender.send(&values).unwrap();
        let mut loan = sender.loan(len as usize).unwrap();
        loan.copy_from_slice(&values);
        loan.send();
    }
    assert_eq!(sender.try_loan(usize::MAX).err(), Some(SendError::TooBig { limit: 4080 }));
    link.expect("end");
}

fn slices_go_from_process_to_process() -> Result<(), Skip> {
    let receiver = at(stream().typed::<[u32]>().receiver()).create("test").unwrap();
    let peer = Peer::spawn("channel_typed::sends_slices");
    for len in 0..100 {
        for _ in 0..2 {
            let message = receiver.borrow().unwrap();
            assert_eq!(*message, *(0..len).collect::<Vec<u32>>());
        }
    }
    peer.say("end");
    peer.join();
    // An element is another type than a slice of one.
    drop(receiver);
    let _sender = at(stream().typed::<[u32]>().sender()).create("test").unwrap();
    let error = at(stream().typed::<u32>().receiver()).open("test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    Ok(())
}

/// Attaches an end that it is handed.
fn given(link: &Link) {
    let fds = std::array::from_fn(|_| link.recv_fd());
    let sender = Unattached::<TypedSender<Pose>>::from_fds(fds).attach().unwrap();
    sender.send(&pose(7)).unwrap();
    link.expect("end");
}

fn an_end_of_a_type_is_handed_over() -> Result<(), Skip> {
    let (sender, receiver) = stream().typed::<Pose>().ends().unwrap();
    let receiver = receiver.attach().unwrap();
    let peer = Peer::spawn("channel_typed::given");
    sender.into_fds().iter().for_each(|fd| peer.send_fd(fd));
    assert_eq!(receiver.recv(), Ok(pose(7)));
    peer.say("end");
    peer.join();
    let (sender, _receiver) = stream().typed::<Pose>().ends().unwrap();
    let as_bytes = Unattached::<Sender>::from_fds(sender.into_fds()).attach().unwrap_err();
    assert_eq!(as_bytes.kind(), ErrorKind::Mismatch, "{as_bytes}");
    Ok(())
}

fn a_type_is_checked_in_memory_that_is_shared_otherwise() -> Result<(), Skip> {
    let options = stream().typed::<Pose>();
    let memfd = memfd::Options::new().create("test", options.bytes().unwrap()).unwrap();
    let map = Arc::new(memfd.map().unwrap());
    options.create_in(&map).unwrap();
    // SAFETY: nobody else has the memory.
    let sender = unsafe { TypedSender::<Pose>::open_in(&map, 0) }.unwrap();
    // SAFETY: as above.
    let receiver = unsafe { TypedReceiver::<Any>::open_in(&map) }.unwrap();
    sender.send(&pose(3)).unwrap();
    assert_eq!(receiver.recv(), Ok(Any::Old(pose(3))));
    drop((sender, receiver));
    // SAFETY: as above.
    let swapped = unsafe { TypedSender::<Swapped>::open_in(&map, 0) }.unwrap_err();
    // SAFETY: as above.
    let bytes = unsafe { Receiver::open_in(&map) }.unwrap_err();
    assert_eq!([swapped.kind(), bytes.kind()], [ErrorKind::Mismatch; 2], "{swapped}; {bytes}");
    Ok(())
}

fn another_type_is_refused_and_both_are_named() -> Result<(), Skip> {
    let receiver = at(stream().typed::<Pose>().receiver()).create("test").unwrap();
    let hash = |text: &str| {
        let at = text.find("0x").unwrap();
        text[at..at + 18].to_owned()
    };
    let swapped = at(stream().typed::<Swapped>().sender()).open("test").unwrap_err();
    assert_eq!(swapped.kind(), ErrorKind::Mismatch);
    let text = swapped.to_string();
    assert!(text.contains("this end takes it::channel_typed::Swapped (0x"), "{text}");
    let carried = hash(&text);
    assert_eq!(text.matches(&carried).count(), 1, "{text}");
    let bytes = at(stream().sender()).open("test").unwrap_err();
    assert_eq!(bytes.kind(), ErrorKind::Mismatch);
    assert!(bytes.to_string().contains(&carried) && bytes.to_string().contains("bytes"), "{bytes}");
    // Nobody's place is taken by that.
    let peer = Peer::spawn("channel_typed::sends");
    assert_eq!(receiver.recv(), Ok(pose(0)));
    peer.kill();
    drop(receiver);

    let _bytes = at(stream().receiver()).create("bytes").unwrap();
    let typed = at(stream().typed::<Pose>().sender()).open("bytes").unwrap_err();
    assert_eq!(typed.kind(), ErrorKind::Mismatch);
    assert!(typed.to_string().contains("it carries bytes"), "{typed}");
    assert!(typed.to_string().contains(&carried), "{typed}");
    Ok(())
}

/// A sender of a version, which makes the channel or finds it.
fn sends_versions(link: &Link) {
    let options = Options::fan_in(2).capacity(4096);
    if link.hear() == "old" {
        let sender = at(options.typed::<Pose>().sender()).open_or_create("test").unwrap();
        sender.send(&pose(1)).unwrap();
        link.say("sent");
        link.expect("end");
    } else {
        match at(options.typed::<Long>().sender()).open_or_create("test") {
            Ok(sender) => {
                sender.send(&Long { pose: pose(2), time: 5 }).unwrap();
                link.say("sent");
                link.expect("end");
            }
            Err(error) => {
                link.say(format!("{:?}", error.kind()));
                link.expect("end");
            }
        }
    }
}

fn version(which: &str, says: &str) -> Peer {
    let peer = Peer::spawn("channel_typed::sends_versions");
    peer.say(which);
    peer.expect(says);
    peer
}

fn end(peer: Peer) {
    peer.say("end");
    peer.join();
}

fn programs_are_upgraded_one_by_one() -> Result<(), Skip> {
    let any = || at(Options::fan_in(2).capacity(4096).typed::<Any>().receiver());
    for (which, message) in
        [("old", Any::Old(pose(1))), ("new", Any::New(Long { pose: pose(2), time: 5 }))]
    {
        let sender = version(which, "sent");
        let receiver = any().open("test").unwrap();
        assert_eq!(receiver.recv(), Ok(message));
        // A channel is of one type.
        if which == "old" {
            end(version("new", "Mismatch"));
        }
        end(sender);
        assert_eq!(receiver.recv(), Err(RecvError::Closed));
    }
    // What it makes is of the first.
    let receiver = any().create("test").unwrap();
    end(version("new", "Mismatch"));
    let sender = version("old", "sent");
    assert_eq!(receiver.recv(), Ok(Any::Old(pose(1))));
    end(sender);
    Ok(())
}

fn a_message_of_another_length_is_an_error() -> Result<(), Skip> {
    let (sender, receiver) = stream().typed::<Pose>().pair().unwrap();
    for wrong in [0, 1, 23, 25, 48] {
        sender.end().send(&vec![1; wrong]).unwrap();
        sender.end().send(&vec![1; wrong]).unwrap();
        sender.send(&pose(5)).unwrap();
        assert_eq!(receiver.recv(), Err(RecvError::Corrupt));
        assert_eq!(receiver.borrow().err(), Some(RecvError::Corrupt));
        assert_eq!(receiver.recv(), Ok(pose(5)));
    }
    let (sender, receiver) = stream().typed::<[u64]>().pair().unwrap();
    sender.end().send(&[1; 12]).unwrap();
    assert_eq!(receiver.borrow().err(), Some(RecvError::Corrupt));
    assert_eq!(receiver.try_borrow().err(), Some(RecvError::Empty));
    Ok(())
}

fn a_queue_carries_values() -> Result<(), Skip> {
    let options = Options::queue(1, 2).capacity(4096).typed::<Pose>();
    let worker = at(options.receiver()).create("test").unwrap();
    let mut sender = at(options.sender()).open("test").unwrap();
    sender.send(&pose(1)).unwrap();
    let mut loan = sender.loan().unwrap();
    *loan = pose(2);
    loan.send();
    assert_eq!(worker.recv(), Ok(pose(1)));
    assert_eq!(*worker.borrow().unwrap(), pose(2));
    assert_eq!(worker.try_recv(), Err(RecvError::Empty));
    let bytes = at(Options::queue(1, 2).capacity(4096).receiver()).open("test").unwrap_err();
    assert_eq!(bytes.kind(), ErrorKind::Mismatch, "{bytes}");
    Ok(())
}

fn a_typed_message_takes_no_system_call() -> Result<(), Skip> {
    let mut pair = None;
    let measured = steps::measure(100, || {
        let (sender, receiver) =
            pair.get_or_insert_with(|| stream().typed::<Pose>().pair().unwrap());
        sender.send(&pose(1)).unwrap();
        receiver.recv().unwrap();
    });
    let Ok(measured) = measured else { return skip("there is no single-stepper here") };
    // Where no page is wiped in a child, a handle asks for the process.
    let calls = measured.calls.iter().filter(|call| call.number != libc::SYS_getpid);
    assert_eq!(calls.count(), 0, "{measured:?}");
    Ok(())
}
