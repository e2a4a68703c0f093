//! A worker of the job queue: does jobs until there are no more, and nobody is there to submit one.
//!
//! `cargo run --release --example job-queue-worker -- NAME`; up to eight, at any time.
#![allow(clippy::print_stdout, reason = "a program of its own")]

use std::error::Error;

use sinew::RecvError;
use sinew::channel::Options;
use sinew::wait::{Borrows, Receives};

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: job-queue-worker NAME")?;
    let queue = Options::queue(4, 8).deliveries(3);
    let worker = queue.receiver().open_or_create(name)?;
    println!("here");
    loop {
        // Ours until it is dropped, below. If this process is killed before that, it is another's.
        let job = match worker.borrow() {
            Ok(job) => job,
            // A program that submits was killed: what it had submitted is here all the same.
            Err(RecvError::PeerDied) => continue,
            Err(RecvError::Closed) => break,
            Err(other) => return Err(other.into()),
        };
        let end = u64::from_le_bytes(job[..].try_into()?);
        println!("took {end}, delivery {}", job.delivery_count());
        println!("done {end}: {} primes", count_primes(end));
    }
    // Whatever killed three workers, for people to look at.
    let mut aside = [0; 8];
    while let Ok(8) = worker.aside().try_recv(&mut aside) {
        println!("given up: {}", u64::from_le_bytes(aside));
    }
    Ok(())
}

/// What there is to do: how many primes are below `end`.
fn count_primes(end: u64) -> u64 {
    let is_prime = |n: &u64| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..end).filter(is_prime).count() as u64
}
