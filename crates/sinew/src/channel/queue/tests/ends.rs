//! The ends, over a map, by threads of one process.

use std::fs;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;

use rustix::thread::{Pid, gettid};

use crate::channel::queue::{Job, Sender, Worker};
use crate::channel::{Full, Options};
use crate::error::{ErrorKind, RecvError, SendError};
use crate::wait::{Borrows, Interrupt, Loans, Receives, Sends, Wait};

fn queue(senders: u32, workers: u32) -> (Vec<Sender>, Vec<Worker>) {
    Options::queue(senders, workers).capacity(4096).slots(16).local().unwrap()
}

fn text(worker: &Worker) -> String {
    let mut buf = [0; 64];
    let len = worker.try_recv(&mut buf).unwrap();
    String::from_utf8(buf[..len].to_vec()).unwrap()
}

#[test]
fn options_that_cannot_be_are_refused() {
    for options in [
        Options::queue(0, 1),
        Options::queue(1, 0),
        Options::queue(65, 1),
        Options::queue(1, 65),
        Options::queue(1, 1).deliveries(0),
        Options::queue(1, 1).deliveries(16),
        Options::queue(1, 1).slots(65_537),
    ] {
        assert_eq!(options.local().unwrap_err().kind(), ErrorKind::InvalidInput, "{options:?}");
    }
    for options in [Options::queue(2, 1), Options::queue(1, 2)] {
        assert_eq!(options.ends().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    Options::queue(64, 64).capacity(0).slots(0).local().unwrap();
}

#[test]
fn messages_are_borrowed_copied_and_lent() {
    let (mut senders, workers) = queue(1, 2);
    senders[0].send(b"first").unwrap();
    let mut loan = senders[0].loan(10).unwrap();
    loan[..6].copy_from_slice(b"second");
    loan.send_first(6);
    drop(senders[0].loan(3).unwrap());
    let first = workers[0].borrow().unwrap();
    assert_eq!((&*first, first.number(), first.delivery_count()), (&b"first"[..], 0, 1));
    assert_eq!(text(&workers[1]), "second");
    assert_eq!(workers[1].try_recv(&mut []), Err(RecvError::Empty));
    drop(first);
    assert_eq!(senders[0].sent(), 2);
}

#[test]
fn a_message_too_long_for_a_buffer_is_left_to_others() {
    let (senders, workers) = queue(1, 2);
    senders[0].send(b"12345").unwrap();
    let too_small = RecvError::TooSmall { needed: Some(5), lost: false };
    assert_eq!(workers[0].recv(&mut [0; 4]), Err(too_small));
    assert_eq!(text(&workers[1]), "12345");
    let limit = senders[0].max_message();
    assert_eq!(senders[0].send(&[0; 4096]), Err(SendError::TooBig { limit }));
}

/// A worker that is rung for, and cannot take the message, rings for the next.
#[test]
fn a_message_too_long_for_a_sleeper_wakes_another() {
    let asleep = |tid: Pid| {
        let stat = fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().starts_with(" S")
    };
    for _ in 0..20 {
        let (senders, workers) = queue(1, 2);
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            for (worker, room) in workers.into_iter().zip([4, 5]) {
                let tell = tell.clone();
                scope.spawn(move || {
                    tell.send(gettid()).unwrap();
                    let got = worker.recv(&mut vec![0; room]);
                    assert_eq!(got.is_ok(), room == 5, "{got:?}");
                    worker
                });
            }
            let tids = [told.recv().unwrap(), told.recv().unwrap()];
            while !tids.iter().all(|tid| asleep(*tid)) {
                thread::yield_now();
            }
            senders[0].send(b"12345").unwrap();
        });
    }
}

#[test]
fn a_job_given_back_or_forgotten_or_dropped_in_a_panic_is_given_again() {
    let (senders, mut workers) = queue(1, 2);
    senders[0].send(b"job").unwrap();
    workers[0].borrow().unwrap().give_back();
    assert_eq!(workers[1].borrow().unwrap().delivery_count(), 2);

    senders[0].send(b"job").unwrap();
    let _forgotten = ManuallyDrop::new(workers[0].borrow().unwrap());
    drop(workers.remove(0));
    assert_eq!(workers[0].borrow().unwrap().delivery_count(), 2);

    senders[0].send(b"job").unwrap();
    let worker = workers.remove(0);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _job = worker.borrow().unwrap();
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(worker.borrow().unwrap().delivery_count(), 2);
}

#[test]
fn the_dead_are_followed_and_a_job_that_kills_is_set_aside() {
    let (senders, workers) =
        Options::queue(1, 3).capacity(4096).slots(16).deliveries(2).local().unwrap();
    senders[0].send(b"poison").unwrap();
    senders[0].send(b"bread").unwrap();
    for count in 1..=2 {
        let job = workers[count as usize].borrow().unwrap();
        assert_eq!((&*job, job.delivery_count()), (&b"poison"[..], count));
        let _forgotten = ManuallyDrop::new(job);
        workers[0].worker_died(count as u32);
    }
    assert_eq!(workers[0].aside().count(), 1);
    assert_eq!(text(&workers[0]), "bread");
    assert_eq!(workers[0].try_recv(&mut []), Err(RecvError::Empty));
    // Its bytes stay, whatever is sent.
    for _ in 0..100 {
        senders[0].send(&[7; 1000]).unwrap();
        workers[0].recv(&mut [0; 1000]).unwrap();
    }
    let job = workers[0].aside().borrow().unwrap();
    assert_eq!((&*job, job.delivery_count()), (&b"poison"[..], 3));
    drop(job);
    assert_eq!(workers[0].aside().try_borrow().unwrap_err(), RecvError::Empty);
}

#[test]
fn an_end_is_told_when_all_is_done() {
    let (mut senders, workers) = queue(2, 3);
    senders[0].send(b"one").unwrap();
    senders[1].send(b"two").unwrap();
    drop(senders.remove(0));
    let (a, b) = (workers[0].borrow().unwrap(), workers[1].borrow().unwrap());
    assert_eq!(workers[2].try_recv(&mut []), Err(RecvError::Empty));
    drop(senders);
    // Who has something itself waits for nobody; who has nothing may still be given what these have.
    assert_eq!(workers[0].recv(&mut []), Err(RecvError::Closed));
    assert_eq!(workers[2].try_recv(&mut []), Err(RecvError::Empty));
    drop(a);
    b.give_back();
    assert_eq!(text(&workers[2]), "two");
    assert_eq!(workers[2].recv(&mut []), Err(RecvError::Closed));
}

#[test]
fn the_death_of_a_sender_is_told_once_to_each() {
    let (senders, workers) = queue(1, 2);
    senders[0].send(b"last").unwrap();
    workers[1].sender_died(0);
    assert_eq!(text(&workers[0]), "last");
    for worker in &workers {
        assert_eq!(worker.recv(&mut []), Err(RecvError::PeerDied));
        assert_eq!(worker.try_recv(&mut []), Err(RecvError::Empty));
    }
}

#[test]
fn who_sends_is_told_when_the_workers_are_gone() {
    let (senders, workers) = queue(1, 2);
    drop(workers);
    for _ in 0..16 {
        senders[0].send(b"into the blue").unwrap();
    }
    assert_eq!(senders[0].send(b""), Err(SendError::Closed));

    let options = Options::queue(1, 1).capacity(4096).slots(16).full(Full::Fail);
    let (senders, _workers) = options.local().unwrap();
    for _ in 0..16 {
        senders[0].send(b"").unwrap();
    }
    assert_eq!(senders[0].send(b""), Err(SendError::Full));
}

#[test]
fn waits_end_in_time_and_are_interrupted() {
    let (_senders, workers) = queue(1, 1);
    let worker = &workers[0];
    let short = Duration::from_millis(2);
    assert_eq!(worker.recv_timeout(&mut [], short), Err(RecvError::TimedOut));
    assert_eq!(worker.aside().recv_timeout(&mut [], short), Err(RecvError::TimedOut));
    let stop = Interrupt::new().unwrap();
    stop.trigger();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    assert_eq!(worker.recv_wait(&mut [], wait), Err(RecvError::Interrupted));
}

/// Every message once, of two senders by four workers that sleep and wake, in a queue that is often full.
#[test]
fn threads_share_the_work() {
    const EACH: u64 = 5_000;
    let (senders, workers) = queue(2, 4);
    let begin = Barrier::new(6);
    let counts: Vec<u64> = thread::scope(|scope| {
        for sender in senders {
            let begin = &begin;
            scope.spawn(move || {
                begin.wait();
                for number in 0..EACH {
                    sender.send(&number.to_le_bytes()).unwrap();
                    if number % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
        }
        let work = |worker: Worker| {
            let begin = &begin;
            move || {
                begin.wait();
                let mut done = vec![0_u64; EACH as usize];
                loop {
                    match worker.borrow() {
                        Ok(job) => {
                            let bytes: &[u8] = &job;
                            let number = u64::from_le_bytes(bytes.try_into().unwrap());
                            assert_eq!(number, Job::number(&job));
                            done[number as usize] += 1;
                        }
                        Err(RecvError::Closed) => return done,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        };
        let threads: Vec<_> = workers.into_iter().map(|worker| scope.spawn(work(worker))).collect();
        let all = threads.into_iter().map(|thread| thread.join().unwrap());
        all.reduce(|a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect()).unwrap()
    });
    assert!(counts.iter().all(|count| *count == 2));
}
