//! Queues under a name: workers and senders that come, are killed, stopped or forked, and go.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sinew::channel::queue::{Options, Sender, Worker};
use sinew::channel::{self, Attach};
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::wait::{Borrows, Loans, Opens, Receives, Sends};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

use crate::anonymous::in_child;
use crate::pipe::{stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    of_eight_workers_one_is_killed_in_the_middle_of_a_job,
    workers_are_killed_and_started_again_under_traffic,
    senders_are_killed_and_started_again_under_traffic,
    a_sender_is_killed_in_the_middle_of_a_message,
    the_name_and_the_jobs_of_a_killed_holder_live_on,
    a_stopped_worker_keeps_its_job_and_holds_up_nobody,
    all_are_killed_at_once_and_nothing_is_left,
    workers_drain_what_is_left_and_are_told_of_the_end,
    a_job_that_kills_its_workers_is_set_aside,
    a_forked_child_keeps_no_job,
];
pub(crate) const ROLES: &[Role] = roles![works, sends];

pub(crate) const LONG: Duration = Duration::from_secs(20);
pub(crate) const SHORT: Duration = Duration::from_millis(20);
const WORKERS: u32 = 8;

fn options() -> Options {
    channel::Options::queue(2, WORKERS).capacity(1 << 16).deliveries(3)
}

pub(crate) fn worker() -> Attach<Worker> {
    options().receiver().folder(scratch())
}

pub(crate) fn sender() -> Attach<Sender> {
    options().sender().folder(scratch())
}

/// Attaches, once the death of one whose place it may be is noticed.
pub(crate) fn attach<E: channel::End>(attach: &Attach<E>) -> E {
    let deadline = Instant::now() + LONG;
    loop {
        match attach.awaited("test").open_timeout(LONG) {
            Ok(end) => return end,
            Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
        }
        assert!(Instant::now() < deadline, "no place is given back");
    }
}

/// The work that was done: a word for each job, in memory that outlives who did it.
struct Work(Arc<Mapping>);

impl Work {
    fn new(jobs: usize) -> (Self, Memfd) {
        let memfd = memfd::Options::new().create("work", jobs as u64 * 8).unwrap();
        (Self(Arc::new(memfd.map().unwrap())), memfd)
    }

    fn received(link: &Link) -> Self {
        Self(Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap()))
    }

    /// It is given out: for the first time, or again.
    fn begin(&self, job: usize, delivery: u64) {
        let one = if delivery == 1 { 1 } else { 1 << 16 };
        self.0.atomic_u64_at(job * 8).unwrap().fetch_add(one, Relaxed);
    }

    fn end(&self, job: usize) {
        self.0.atomic_u64_at(job * 8).unwrap().fetch_add(1 << 32, Relaxed);
    }

    /// How often it was given out first, again, and done.
    fn of(&self, job: usize) -> [u64; 3] {
        let word = self.0.atomic_u64_at(job * 8).unwrap().load(Relaxed);
        [word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32]
    }
}

pub(crate) fn number(job: &[u8]) -> usize {
    usize::from_le_bytes(job.try_into().unwrap())
}

/// A worker that does as it is told: `borrow` takes a job and keeps it, `all` does jobs until the end, and notes them in
/// the memory that it is given first.
fn works(link: &Link) {
    let mut own = None;
    let mut kept = Vec::new();
    while let Some((words, _)) = link.try_receive() {
        match String::from_utf8(words).unwrap().as_str() {
            "create" => {
                own = Some(worker().create("test").unwrap());
                link.say("here");
            }
            "open" => {
                own = Some(attach(&worker()));
                link.say("here");
            }
            "borrow" => {
                // It is told only when it is let go, and that is with the process.
                let own: &'static Worker = Box::leak(Box::new(own.take().unwrap()));
                let job = own.borrow_timeout(LONG).unwrap();
                link.say(number(&job));
                kept.push(job);
            }
            "done" => {
                kept.clear();
                link.say("done");
            }
            "fork" => {
                // SAFETY: the child only sleeps, until it is killed.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: as above.
                    unsafe { libc::pause() };
                }
                link.say(child);
            }
            "recv" => {
                let mut buf = [0; 8];
                own.as_ref().unwrap().recv_timeout(&mut buf, LONG).unwrap();
                link.say(number(&buf));
            }
            "all" => {
                let work = Work::received(link);
                all(own.as_ref().unwrap(), &work);
                link.say("end");
            }
            _ => return,
        }
    }
}

/// Does jobs until the end. Some of them take long.
fn all(worker: &Worker, work: &Work) {
    loop {
        match worker.borrow_timeout(LONG) {
            Ok(job) => {
                let number = number(&job);
                work.begin(number, job.delivery_count());
                if number.is_multiple_of(7) {
                    std::thread::yield_now();
                }
                work.end(number);
            }
            Err(RecvError::PeerDied) => {}
            Err(RecvError::Closed) => return,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Sends numbers: `FIRST COUNT`; `half` writes one and does not send it.
fn sends(link: &Link) {
    let mut attached = match link.hear().as_str() {
        "create" => sender().create("test").unwrap(),
        "open" => attach(&sender()),
        name => attach(&sender().durable(name).unwrap()),
    };
    link.say(attached.sent());
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        if words == "half" {
            let mut loan = attached.loan(8).unwrap();
            loan.copy_from_slice(&u64::MAX.to_le_bytes());
            link.say("written");
            link.expect("never");
        }
        let Some((first, count)) = words.split_once(' ') else { return };
        let first: u64 = first.parse().unwrap();
        for number in (first..).take(count.parse().unwrap()) {
            attached.send_timeout(&number.to_le_bytes(), LONG).unwrap();
        }
        link.say("sent");
    }
}

pub(crate) fn working(how: &str) -> Peer {
    let peer = Peer::spawn("channel_queue::named::works");
    peer.say(how);
    peer.expect("here");
    peer
}

pub(crate) fn sending(how: &str) -> (Peer, u64) {
    let peer = Peer::spawn("channel_queue::named::sends");
    peer.say(how);
    let sent = peer.hear().parse().unwrap();
    (peer, sent)
}

/// Where the last ones went, or were killed, while the name was being taken over, a dead socket is left.
fn clean_up() {
    for left in fs::read_dir(scratch()).unwrap() {
        fs::remove_file(left.unwrap().path()).unwrap();
    }
}

fn works_on(peer: &Peer, work: &Memfd) {
    peer.say("all");
    peer.send_fd(work);
}

fn of_eight_workers_one_is_killed_in_the_middle_of_a_job() -> Result<(), Skip> {
    const JOBS: u64 = 1000;
    let (work, memfd) = Work::new(JOBS as usize);
    let sender = sender().create("test").unwrap();
    let mut workers: Vec<Peer> = (0..WORKERS).map(|_| working("open")).collect();
    let victim = workers.remove(3);
    sender.send(&0_u64.to_le_bytes()).unwrap();
    victim.say("borrow");
    victim.expect("0");
    workers.iter().for_each(|worker| works_on(worker, &memfd));
    for job in 1..JOBS {
        sender.send_timeout(&job.to_le_bytes(), LONG).unwrap();
        if job == JOBS / 2 {
            victim.signal(Signal::KILL);
        }
    }
    drop(sender);
    for worker in workers {
        worker.expect("end");
        worker.say("leave");
        worker.join();
    }
    victim.kill();
    assert_eq!(work.of(0), [0, 1, 1], "handed on");
    for job in 1..JOBS as usize {
        assert_eq!(work.of(job), [1, 0, 1], "job {job}");
    }
    clean_up();
    Ok(())
}

fn workers_are_killed_and_started_again_under_traffic() -> Result<(), Skip> {
    const KILLS: u64 = 50;
    const JOBS: u64 = 200;
    let (work, memfd) = Work::new((KILLS * JOBS) as usize);
    let sender = sender().create("test").unwrap();
    let start = || {
        let worker = working("open");
        works_on(&worker, &memfd);
        worker
    };
    let mut workers: Vec<Peer> = (0..WORKERS).map(|_| start()).collect();
    let mut job = 0_u64;
    for round in 0..KILLS {
        for _ in 0..JOBS {
            if job % JOBS == round * 3 {
                // In the middle of whatever it does.
                workers.remove(0).kill();
            }
            sender.send_timeout(&job.to_le_bytes(), LONG).unwrap();
            job += 1;
        }
        // There is no place but those of the dead.
        workers.push(start());
    }
    drop(sender);
    for worker in workers {
        worker.expect("end");
        worker.say("leave");
        worker.join();
    }
    let mut again = 0;
    for job in 0..job as usize {
        let [first, others, done] = work.of(job);
        assert!(first <= 1 && done >= 1 && done <= first + others, "job {job}: {:?}", work.of(job));
        // Who died may have said nothing yet, or everything.
        again += others;
    }
    assert!(again <= KILLS, "{again} of {KILLS}");
    clean_up();
    Ok(())
}

fn senders_are_killed_and_started_again_under_traffic() -> Result<(), Skip> {
    const ROUNDS: u64 = 20;
    const JOBS: u64 = 20_000;
    let worker = worker().create("test").unwrap();
    worker.outlast_senders(true);
    let mut received = 0;
    let mut buf = [0; 8];
    for _ in 0..ROUNDS {
        let (peer, sent) = sending("open");
        peer.say(format!("{sent} {JOBS}"));
        let mut expected = sent;
        let mut killed = Some(peer);
        // Whatever it has sent until then is there, in order, and nothing else.
        loop {
            match worker.recv_timeout(&mut buf, LONG) {
                Ok(_) => assert_eq!(number(&buf) as u64, expected),
                Err(RecvError::PeerDied) => break,
                Err(other) => panic!("{other:?}"),
            }
            expected += 1;
            if expected == sent + 100
                && let Some(peer) = killed.take()
            {
                peer.kill();
            }
        }
        received = expected;
    }
    let (peer, sent) = sending("open");
    assert_eq!(sent, received);
    peer.say("leave");
    peer.join();
    Ok(())
}

fn a_sender_is_killed_in_the_middle_of_a_message() -> Result<(), Skip> {
    let worker = worker().create("test").unwrap();
    let mut buf = [0; 8];
    for round in 0..10 {
        let (peer, sent) = sending("open");
        assert_eq!(sent, round * 3);
        peer.say("5 3");
        peer.expect("sent");
        peer.say("half");
        peer.expect("written");
        peer.kill();
        for expected in 5..8 {
            assert_eq!(worker.recv_timeout(&mut buf, LONG), Ok(8));
            assert_eq!(number(&buf), expected);
        }
        assert_eq!(worker.recv_timeout(&mut buf, LONG), Err(RecvError::PeerDied));
        assert_eq!(worker.try_recv(&mut buf), Err(RecvError::Empty));
    }
    Ok(())
}

fn the_name_and_the_jobs_of_a_killed_holder_live_on() -> Result<(), Skip> {
    let mut holder = working("create");
    let sender = attach(&sender());
    for round in 0..10_u64 {
        sender.send(&round.to_le_bytes()).unwrap();
        holder.say("borrow");
        holder.expect(&round.to_string());
        // The next one: it comes while the holder lives, or after.
        let before = (round % 2 == 0).then(|| working("open"));
        holder.kill();
        let next = before.unwrap_or_else(|| working("open"));
        let own = attach(&worker());
        let job = own.borrow_timeout(LONG).unwrap();
        assert_eq!((number(&job) as u64, job.delivery_count()), (round, 2));
        drop(job);
        drop(own);
        holder = next;
    }
    holder.say("leave");
    holder.join();
    drop(sender);
    clean_up();
    Ok(())
}

fn a_stopped_worker_keeps_its_job_and_holds_up_nobody() -> Result<(), Skip> {
    let options = channel::Options::queue(1, 2).capacity(4096).slots(16);
    let sender = options.sender().folder(scratch()).create("test").unwrap();
    let peer = working("open");
    let own = attach(&options.receiver().folder(scratch()));
    sender.send(&7_u64.to_le_bytes()).unwrap();
    peer.say("borrow");
    peer.expect("7");
    stop(&peer);
    // Many times the slots and the bytes.
    let mut buf = [0; 400];
    for job in 0..1000_u64 {
        sender.send_timeout(&job.to_le_bytes().repeat(50), LONG).unwrap();
        assert_eq!(own.recv_timeout(&mut buf, LONG), Ok(400));
        assert_eq!(number(&buf[..8]) as u64, job);
    }
    drop(sender);
    // It may still die.
    assert_eq!(own.recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    peer.signal(Signal::CONT);
    peer.say("done");
    peer.expect("done");
    assert_eq!(own.recv_timeout(&mut buf, LONG), Err(RecvError::Closed));
    peer.kill();
    drop(own);
    clean_up();
    Ok(())
}

fn all_are_killed_at_once_and_nothing_is_left() -> Result<(), Skip> {
    for round in 0..3 {
        let (_, memfd) = Work::new(1_000_000);
        let mut peers = vec![working("create")];
        peers.extend((1..WORKERS).map(|_| working("open")));
        peers.iter().for_each(|peer| works_on(peer, &memfd));
        for lane in 0..2 {
            let (peer, sent) = sending("open");
            assert_eq!(sent, 0);
            peer.say(format!("{} 500000", lane * 500_000));
            peers.push(peer);
        }
        if round > 0 {
            until_asleep(peers[round].pid());
        }
        peers.iter().for_each(|peer| peer.signal(Signal::KILL));
        for peer in peers {
            peer.kill();
        }
        let gone = worker().open("test").unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
        // What is left is a dead socket, which the next one takes over.
        let own = worker().create("test").unwrap();
        assert_eq!(own.try_recv(&mut []), Err(RecvError::Empty));
        drop(own);
        let left: Vec<_> = fs::read_dir(scratch()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

fn workers_drain_what_is_left_and_are_told_of_the_end() -> Result<(), Skip> {
    const JOBS: u64 = 500;
    let (work, memfd) = Work::new(JOBS as usize);
    let workers: Vec<Peer> = ["create", "open", "open"].map(working).into();
    let (sender, _) = sending("open");
    sender.say(format!("0 {JOBS}"));
    sender.expect("sent");
    sender.say("leave");
    sender.join();
    let own = attach(&worker());
    own.outlast_senders(true);
    workers.iter().for_each(|worker| works_on(worker, &memfd));
    for worker in workers {
        worker.expect("end");
        worker.say("leave");
        worker.join();
    }
    for job in 0..JOBS as usize {
        assert_eq!(work.of(job), [1, 0, 1], "job {job}");
    }
    assert_eq!(own.recv_timeout(&mut [], SHORT), Err(RecvError::TimedOut));
    let (sender, _) = sending("open");
    sender.say("7 1");
    assert_eq!(own.recv_timeout(&mut [0; 8], LONG), Ok(8));
    own.outlast_senders(false);
    sender.expect("sent");
    sender.say("leave");
    sender.join();
    assert_eq!(own.recv_timeout(&mut [], LONG), Err(RecvError::Closed));
    // And senders wait for a worker that comes.
    let sender = attach(&self::sender());
    drop(own);
    let mut sent = 0_u32;
    let full = loop {
        match sender.send_timeout(&[0; 8], SHORT) {
            Ok(()) => sent += 1,
            Err(other) => break other,
        }
    };
    assert_eq!(full, SendError::TimedOut);
    let own = attach(&worker());
    for _ in 0..sent {
        assert_eq!(own.recv_timeout(&mut [0; 8], LONG), Ok(8));
    }
    Ok(())
}

fn a_job_that_kills_its_workers_is_set_aside() -> Result<(), Skip> {
    let sender = sender().create("test").unwrap();
    let own = attach(&worker());
    sender.send(&3_u64.to_le_bytes()).unwrap();
    for _ in 0..3 {
        let peer = working("open");
        peer.say("borrow");
        peer.expect("3");
        peer.kill();
    }
    let job = own.aside().borrow_timeout(LONG).unwrap();
    assert_eq!((number(&job), job.delivery_count()), (3, 4));
    assert_eq!(own.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    Ok(())
}

fn a_forked_child_keeps_no_job() -> Result<(), Skip> {
    let mut sender = Some(sender().create("test").unwrap());
    let mut own = Some(attach(&worker()));
    sender.as_ref().unwrap().send(&1_u64.to_le_bytes()).unwrap();
    let job = own.as_ref().unwrap().borrow().unwrap();
    in_child(|| {
        let refused = own.as_ref().unwrap().try_recv(&mut []);
        assert_eq!(refused, Err(RecvError::Forked));
        assert_eq!(sender.as_ref().unwrap().send(b""), Err(SendError::Forked));
        drop(sender.take());
    });
    assert_eq!(own.as_ref().unwrap().try_recv(&mut []), Err(RecvError::Empty));
    drop(job);
    in_child(|| drop(own.take()));
    let (sender, own) = (sender.unwrap(), own.unwrap());
    sender.send(&2_u64.to_le_bytes()).unwrap();
    assert_eq!(own.recv(&mut [0; 8]), Ok(8));
    // A child lives on with everything that its killed parent had.
    let peer = working("open");
    sender.send(&3_u64.to_le_bytes()).unwrap();
    peer.say("borrow");
    peer.expect("3");
    peer.say("fork");
    let child: i32 = peer.hear().parse().unwrap();
    peer.kill();
    assert_eq!(own.borrow_timeout(LONG).unwrap().delivery_count(), 2);
    // SAFETY: the peer's child, which only sleeps.
    assert_eq!(unsafe { libc::kill(child, libc::SIGKILL) }, 0);
    // Whoever inherited it takes it away.
    let stat = || fs::read_to_string(format!("/proc/{child}/stat"));
    while stat().is_ok_and(|stat| !stat.contains(") Z")) {
        std::thread::yield_now();
    }
    Ok(())
}
