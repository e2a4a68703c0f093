//! Queues between real processes: who dies, is stopped or forked, and what becomes of the work.

pub(crate) mod ends;
pub(crate) mod named;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use sinew::channel::Options;
use sinew::channel::queue::{Sender, Worker};
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew::{RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, steps, tests};

use crate::pipe::{stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    a_killed_workers_jobs_go_to_another,
    a_worker_killed_while_it_works_loses_nothing,
    a_sleeper_that_is_stopped_or_dead_is_passed_over,
    a_stopped_worker_with_a_job_holds_up_nobody,
    a_killed_senders_successor_goes_on,
    a_blocked_sender_is_woken_and_told_of_the_end,
    a_fork_leaves_the_ends_to_the_parent,
    a_message_takes_no_system_call,
];
pub(crate) const ROLES: &[Role] = roles![works, sends];

const LONG: Duration = Duration::from_secs(20);
const WORKERS: u32 = 4;

/// The memory of a queue, to be handed to others.
struct Queue {
    memfd: Memfd,
    map: Arc<Mapping>,
}

impl Queue {
    fn new() -> Self {
        let options = Options::queue(2, WORKERS).capacity(4096).slots(16).deliveries(3);
        let bytes = options.bytes().unwrap();
        let memfd = memfd::Options::new().create("queue", bytes).unwrap();
        let map = Arc::new(memfd.map().unwrap());
        options.create_in(&map).unwrap();
        Self { memfd, map }
    }

    fn received(link: &Link) -> Self {
        let memfd = Memfd::try_from(link.recv_fd()).unwrap();
        let map = Arc::new(memfd.map().unwrap());
        Self { memfd, map }
    }

    fn worker(&self, place: u32) -> Worker {
        // SAFETY: the tests use the memory as a queue, and each place once at a time.
        unsafe { Worker::open_in(&self.map, place) }.unwrap()
    }

    fn sender(&self, lane: u32) -> Sender {
        // SAFETY: as above.
        unsafe { Sender::open_in(&self.map, lane) }.unwrap()
    }

    fn spawn(&self, role: &str, place: u32) -> Peer {
        let peer = Peer::spawn(role);
        peer.send_fd(&self.memfd);
        peer.say(place);
        peer.expect("here");
        peer
    }
}

/// Works as it is told: `borrow` takes a message and keeps it, `recv` takes one and says what it is, `all` says each
/// that it has done until the end.
fn works(link: &Link) {
    let queue = Queue::received(link);
    let worker = queue.worker(link.hear().parse().unwrap());
    link.say("here");
    let mut kept = Vec::new();
    while let Some((words, _)) = link.try_receive() {
        match &words[..] {
            b"borrow" => {
                let job = worker.borrow_timeout(LONG).unwrap();
                link.say(String::from_utf8_lossy(&job));
                kept.push(job);
            }
            b"recv" => {
                let mut buf = [0; 64];
                let len = worker.recv_timeout(&mut buf, LONG).unwrap();
                link.say(String::from_utf8_lossy(&buf[..len]));
            }
            b"all" => loop {
                match worker.borrow_timeout(LONG) {
                    Ok(job) => link.say(String::from_utf8_lossy(&job)),
                    Err(RecvError::Closed) => break link.say("end"),
                    Err(other) => panic!("{other:?}"),
                }
            },
            _ => return,
        }
    }
}

/// Sends what it is told; `half` writes a message and does not send it.
fn sends(link: &Link) {
    let queue = Queue::received(link);
    let mut sender = queue.sender(link.hear().parse().unwrap());
    link.say("here");
    while let Some((words, _)) = link.try_receive() {
        if words == b"half" {
            let mut loan = sender.loan(10).unwrap();
            loan.copy_from_slice(b"half of it");
            link.say("written");
            link.expect("never");
        }
        sender.send_timeout(&words, LONG).unwrap();
        link.say(sender.sent());
    }
}

fn a_killed_workers_jobs_go_to_another() -> Result<(), Skip> {
    let queue = Queue::new();
    let (sender, worker) = (queue.sender(0), queue.worker(0));
    let other = queue.spawn("channel_queue::works", 1);
    for text in ["one", "two", "three"] {
        sender.send(text.as_bytes()).unwrap();
    }
    for text in ["one", "two"] {
        other.say("borrow");
        other.expect(text);
    }
    other.kill();
    worker.worker_died(1);
    for (text, count) in [("one", 2), ("two", 2), ("three", 1)] {
        let job = worker.try_borrow().unwrap();
        assert_eq!((&*job, job.delivery_count()), (text.as_bytes(), count));
    }
    assert_eq!(worker.try_recv(&mut []), Err(RecvError::Empty));
    // What was copied out is done, whoever dies.
    let other = queue.spawn("channel_queue::works", 1);
    sender.send(b"copied").unwrap();
    other.say("recv");
    other.expect("copied");
    other.kill();
    worker.worker_died(1);
    assert_eq!(worker.try_recv(&mut []), Err(RecvError::Empty));
    // A successor does by itself what nobody did for the dead.
    let other = queue.spawn("channel_queue::works", 1);
    sender.send(b"again").unwrap();
    other.say("borrow");
    other.expect("again");
    other.kill();
    let successor = queue.worker(1);
    assert_eq!(successor.try_borrow().unwrap().delivery_count(), 2);
    Ok(())
}

fn a_worker_killed_while_it_works_loses_nothing() -> Result<(), Skip> {
    // No more than a link holds: a worker says each, and nobody listens before the end.
    const JOBS: u32 = 200;
    let queue = Queue::new();
    let sender = queue.sender(0);
    let mut workers: Vec<Peer> =
        (1..WORKERS).map(|place| queue.spawn("channel_queue::works", place)).collect();
    workers.iter().for_each(|worker| worker.say("all"));
    let mut done = BTreeMap::<u32, u32>::new();
    let mut note = |text: &str| *done.entry(text.parse().unwrap()).or_default() += 1;
    let survivor = queue.worker(0);
    for job in 0..JOBS {
        sender.send_timeout(job.to_string().as_bytes(), LONG).unwrap();
        if job == JOBS / 2 {
            // In the middle of whatever it does; what it said before is done, or will be done again.
            let victim = workers.remove(0);
            victim.signal(Signal::KILL);
            while let Some((words, _)) = victim.try_receive() {
                note(std::str::from_utf8(&words).unwrap());
            }
            victim.kill();
            survivor.worker_died(1);
        }
    }
    drop(sender);
    drop(survivor);
    for worker in workers {
        loop {
            let words = worker.hear();
            if words == "end" {
                break;
            }
            note(&words);
        }
        worker.say("leave");
        worker.join();
    }
    assert_eq!(done.len(), JOBS as usize);
    let twice = done.values().filter(|count| **count > 1).count();
    assert!(twice <= 1 && done.values().all(|count| *count <= 2), "{done:?}");
    Ok(())
}

fn a_sleeper_that_is_stopped_or_dead_is_passed_over() -> Result<(), Skip> {
    let queue = Queue::new();
    let sender = queue.sender(0);
    // The lowest is rung for first.
    let [first, second] = [0, 1].map(|place| queue.spawn("channel_queue::works", place));
    let sleep = |worker: &Peer| {
        worker.say("recv");
        until_asleep(worker.pid());
    };
    for round in 0..10 {
        sleep(&first);
        sleep(&second);
        stop(&first);
        sender.send(format!("first {round}").as_bytes()).unwrap();
        second.expect(&format!("first {round}"));
        first.signal(Signal::CONT);
        sender.send(format!("second {round}").as_bytes()).unwrap();
        first.expect(&format!("second {round}"));
    }
    sleep(&first);
    sleep(&second);
    first.kill();
    // Before anybody has noticed.
    sender.send(b"third").unwrap();
    second.expect("third");
    second.say("leave");
    second.join();
    Ok(())
}

fn a_stopped_worker_with_a_job_holds_up_nobody() -> Result<(), Skip> {
    let queue = Queue::new();
    let (sender, worker) = (queue.sender(0), queue.worker(0));
    let other = queue.spawn("channel_queue::works", 1);
    sender.send(b"kept").unwrap();
    other.say("borrow");
    other.expect("kept");
    stop(&other);
    // Many times the slots and the bytes.
    for number in 0..1000_u32 {
        sender.try_send(&number.to_le_bytes().repeat(100)).unwrap();
        let job = worker.try_borrow().unwrap();
        assert_eq!(job[..4], number.to_le_bytes());
    }
    other.signal(Signal::CONT);
    other.kill();
    worker.worker_died(1);
    assert_eq!(&*worker.try_borrow().unwrap(), b"kept");
    Ok(())
}

fn a_killed_senders_successor_goes_on() -> Result<(), Skip> {
    let queue = Queue::new();
    let worker = queue.worker(0);
    let mut buf = [0; 64];
    for round in 0..5_u64 {
        let sender = queue.spawn("channel_queue::sends", 1);
        for number in 1..=3 {
            sender.say(format!("{round}"));
            sender.expect(&(round * 3 + number).to_string());
        }
        sender.say("half");
        sender.expect("written");
        sender.kill();
        worker.sender_died(1);
        for _ in 0..3 {
            assert_eq!(worker.try_recv(&mut buf), Ok(1));
            assert_eq!(buf[..1], round.to_string().as_bytes()[..]);
        }
        assert_eq!(worker.try_recv(&mut buf), Err(RecvError::PeerDied));
        assert_eq!(worker.try_recv(&mut buf), Err(RecvError::Empty));
    }
    Ok(())
}

fn a_blocked_sender_is_woken_and_told_of_the_end() -> Result<(), Skip> {
    let queue = Queue::new();
    let worker = queue.worker(0);
    let sender = queue.spawn("channel_queue::sends", 0);
    for number in 1..=16 {
        sender.say("x");
        sender.expect(&number.to_string());
    }
    for number in 17..=20 {
        sender.say("x");
        until_asleep(sender.pid());
        worker.try_recv(&mut [0; 8]).unwrap();
        sender.expect(&number.to_string());
    }
    drop(worker);
    let own = queue.sender(1);
    for _ in 0..16 {
        own.try_send(b"").unwrap();
    }
    assert_eq!(own.send(b""), Err(SendError::Closed));
    sender.kill();
    Ok(())
}

fn a_fork_leaves_the_ends_to_the_parent() -> Result<(), Skip> {
    let queue = Queue::new();
    let (sender, worker) = (queue.sender(0), queue.worker(0));
    sender.send(b"job").unwrap();
    let job = worker.borrow().unwrap();
    // SAFETY: the child calls nothing but the library, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let refused = sender.send(b"") == Err(SendError::Forked)
            && worker.try_recv(&mut []) == Err(RecvError::Forked);
        drop(job);
        drop(worker);
        drop(sender);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = 0;
    // SAFETY: a child of this process.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    // It is still this one's, and so are the ends.
    assert_eq!(worker.try_recv(&mut []), Err(RecvError::Empty));
    drop(job);
    sender.send(b"next").unwrap();
    assert_eq!(worker.recv(&mut [0; 8]), Ok(4));
    Ok(())
}

fn a_message_takes_no_system_call() -> Result<(), Skip> {
    for copied in [true, false] {
        let queue = Queue::new();
        // What is counted runs in a child, which attaches by itself.
        let mut ends = None;
        let mut buf = [0; 64];
        // More often than there are slots, and than the bytes go around.
        let measured = steps::measure(100, || {
            let (sender, worker) = ends.get_or_insert_with(|| (queue.sender(0), queue.worker(0)));
            sender.send(&[1; 64]).unwrap();
            if copied {
                worker.recv(&mut buf).unwrap();
            } else {
                drop(worker.borrow().unwrap());
            }
        });
        let Ok(measured) = measured else { return skip("there is no single-stepper here") };
        // Where no page is wiped in a child, a handle asks for the process.
        let calls = measured.calls.iter().filter(|call| call.number != libc::SYS_getpid);
        assert_eq!(calls.count(), 0, "{measured:?}");
        if !cfg!(debug_assertions) {
            assert!(measured.instructions_after <= 550, "{measured:?}");
        }
    }
    Ok(())
}
