//! A job queue: programs that submit jobs, and any number of workers, each job done by one of them.
//!
//! ```text
//! for i in 1 2 3 4 5 6 7 8; do cargo run --release --example job-queue-worker -- primes & done
//! seq 1000 1100 | cargo run --release --example job-queue-submit -- primes
//! ```
//!
//! `job-queue-submit NAME` submits a job for each line of its standard input: to count the primes below that number. It waits
//! for the first worker, which makes the queue; the workers end when what was submitted is done and the last of those who
//! submit is gone.
//!
//! # What is promised
//! Both kinds of programs come and go as they like, and may be killed with `kill -9` at any instruction:
//!
//! - A job is submitted when `send` returns, and then it is done as long as one worker lives: at least once. It is done twice
//!   only if its worker was killed after its last step and before it let go of the job.
//! - The job of a worker that dies goes to another at once; one that had three workers die is set aside.
//! - A worker that is stopped is slow, not dead: it keeps its job, and no time-out takes it away.
//! - There is no server: a name whose holder is killed passes to another of them.

use std::error::Error;
use std::io;

use sinew::channel::Options;
use sinew::wait::{Opens, Sends};

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: job-queue-submit NAME < JOBS")?;
    let jobs = Options::queue(4, 8).sender().awaited(name).open()?;
    for line in io::stdin().lines() {
        let end: u64 = line?.trim().parse()?;
        jobs.send(&end.to_le_bytes())?;
    }
    Ok(())
}
