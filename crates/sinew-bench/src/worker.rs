//! A worker process: takes its job over the descriptor it was started with as standard input, does
//! it, says how it went, and ends.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use sinew::Mechanism;

use crate::channels::Channel;
use crate::floor;
use crate::job::{Job, Measured, Outcome, Side};
use crate::kernel::{self, Ends};
use crate::link::Link;
use crate::memory;
use crate::messages::{self, Row};
use crate::parties::{Lock, Parties, Turn};
use crate::payload::Payload;
use crate::settings::Work;
use crate::shared::{self, Rings};
use crate::trouble::Trouble;
use crate::{alone, bulk, cpu, events, locks, policy, process, sections, turns};

/// Says to a new process that it is a worker, and of which supervisor.
pub(crate) const WORKER: &str = "SINEW_BENCH_WORKER";

/// Runs this process as a worker, if a supervisor started it as one.
pub(crate) fn main() -> Option<ExitCode> {
    let supervisor = env::var(WORKER).ok()?;
    // Dies with the supervisor, also if that is dead already.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err()
        || getppid().map(|p| p.as_raw_nonzero().to_string()).as_deref() != Some(&supervisor)
    {
        return Some(ExitCode::FAILURE);
    }
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is there to be told.
        Err(_) => ExitCode::FAILURE,
    })
}

fn run() -> io::Result<()> {
    let supervisor = Link::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let job: Job = supervisor.hear()?;
    if job.side == Side::Spinner {
        spin(&job);
    }
    let [peer] = supervisor.recv_fds()?;
    let peer = Link::from_fd(peer);
    let outcome = match work(&job, &peer, &supervisor) {
        Ok(None) => Outcome::Served,
        Ok(Some(measured)) => Outcome::Measured(measured),
        Err(trouble) => trouble.into(),
    };
    supervisor.say(&outcome)
}

/// Keeps a CPU awake and gives it to whoever wants it.
fn spin(job: &Job) -> ! {
    let _ = cpu::pin(job.cpu);
    let _ = rustix::process::setpriority_process(None, 19);
    loop {
        std::hint::spin_loop();
    }
}

fn work(job: &Job, link: &Link, supervisor: &Link) -> Result<Option<Vec<Measured>>, Trouble> {
    let mut pinned = cpu::pin(job.cpu).map_err(io::Error::from);
    if job.same_cpu && job.work == Work::Stream {
        pinned = pinned.and_then(|()| policy::wake_without_preempting());
    }
    let payload = Payload::new(&job.source, payload_bytes(job), job.verifies_whole_source())?;
    let row = Row { job, link, supervisor, payload: &payload };
    let mut measured = match job.mechanism {
        Mechanism::Pipe => copies::<kernel::Pipe>(row),
        Mechanism::Fifo => copies::<kernel::NamedPipe>(row),
        Mechanism::UnixStream => copies::<kernel::Unix>(row),
        Mechanism::UnixDgram => copies::<kernel::Datagram>(row),
        Mechanism::UnixSeqpacket => copies::<kernel::Seqpacket>(row),
        Mechanism::Tcp => copies::<kernel::Tcp>(row),
        Mechanism::Udp => copies::<kernel::Udp>(row),
        Mechanism::PosixMq => copies::<kernel::PosixMq>(row),
        Mechanism::SysvMq => copies::<kernel::SysvMq>(row),
        Mechanism::Splice => copies::<kernel::Splice>(row),
        Mechanism::PosixShm | Mechanism::SysvShm | Mechanism::Memfd | Mechanism::MmapFile => {
            shares(row)
        }
        Mechanism::Channel => copies::<Channel>(row),
        Mechanism::Futex => turns::run::<locks::Futex>(row),
        Mechanism::Eventfd => turns::run::<events::Eventfd>(row),
        Mechanism::Epoll => turns::run::<events::Epoll>(row),
        Mechanism::Signal => turns::run::<events::Signal>(row),
        Mechanism::Signalfd => turns::run::<events::OnSignalfd>(row),
        Mechanism::Timerfd => alone::run::<events::Timerfd>(row, true),
        Mechanism::PosixSem => match job.work {
            Work::Uncontended => alone::run_lock::<locks::PosixLock>(row),
            Work::Contended => sections::run::<locks::PosixLock>(row),
            _ => turns::run::<locks::PosixSem>(row),
        },
        Mechanism::SysvSem => match job.work {
            Work::Uncontended => alone::run_lock::<locks::SysvLock>(row),
            Work::Contended => sections::run::<locks::SysvLock>(row),
            _ => turns::run::<locks::SysvSem>(row),
        },
        Mechanism::Mutex => lock::<locks::InMutex>(row),
        Mechanism::Rwlock => lock::<locks::InRwLock>(row),
        Mechanism::Condvar => turns::run::<locks::OnCondvar>(row),
        Mechanism::Barrier => turns::run::<locks::AtBarrier>(row),
        Mechanism::FileLock => lock::<locks::OnFile>(row),
        Mechanism::Inotify => turns::run::<events::OnInotify>(row),
        Mechanism::Pidfd => alone::run::<process::OnPidfd>(row, false),
        Mechanism::Ptrace => alone::run::<process::Ptrace>(row, false),
        Mechanism::ProcessVm => alone::run::<process::ProcessVm>(row, true),
        other => Err(Trouble::Fail(format!("{other} has no row"))),
    }?;
    if let Err(e) = pinned {
        for row in measured.iter_mut().flatten() {
            row.doubts.push(format!("could not stay on CPU {}: {e}", job.cpu));
        }
    }
    Ok(measured)
}

/// What a verification sends, if it is not a whole file: several messages, and not only one page.
fn payload_bytes(job: &Job) -> usize {
    match job.work {
        Work::Bulk => job.size,
        _ => job.size.max((4 * job.size).clamp(64 << 10, 4 << 20)),
    }
}

fn copies<E: Ends>(row: Row<'_>) -> Result<Option<Vec<Measured>>, Trouble> {
    match (row.job.work, row.job.side) {
        (Work::Bulk, Side::Near) => bulk::drive_copies::<E>(row).map(Some),
        (Work::Bulk, _) => bulk::serve_copies::<E>(row).map(|()| None),
        (_, Side::Near) => {
            let (mut library, mut floor) = E::near(row.job, row.link)?;
            messages::drive(row, &mut library, Some(&mut floor)).map(|m| Some(vec![m]))
        }
        (_, _) => {
            let (mut library, mut floor) = E::far(row.job, row.link)?;
            messages::serve(row, &mut library, Some(&mut floor)).map(|()| None)
        }
    }
}

/// What is locked: alone, by both, or handed over.
fn lock<P: Parties>(row: Row<'_>) -> Result<Option<Vec<Measured>>, Trouble>
where
    P::Library: Lock + Turn,
    P::Floor: Lock + Turn,
{
    match row.job.work {
        Work::Uncontended => alone::run_lock::<P>(row),
        Work::Contended => sections::run::<P>(row),
        _ => turns::run::<P>(row),
    }
}

fn shares(row: Row<'_>) -> Result<Option<Vec<Measured>>, Trouble> {
    let Job { mechanism, size, wait, .. } = *row.job;
    // Shared memory in use makes no system calls, so there is no floor of them.
    let none: Option<&mut floor::ReadWrite> = None;
    match (row.job.work, row.job.side) {
        (Work::Bulk, Side::Near) => {
            bulk::drive_shared(row, mechanism == Mechanism::Memfd).map(Some)
        }
        (Work::Bulk, _) => bulk::serve_shared(row).map(|()| None),
        (_, Side::Near) => {
            let mapping = memory::create(row.job, row.link, shared::rings_bytes(size))?;
            let mut rings = Rings::new(mapping, size, wait, true)?;
            messages::drive(row, &mut rings, none).map(|m| Some(vec![m]))
        }
        (_, _) => {
            let mapping = memory::attach(row.job, row.link)?;
            let mut rings = Rings::new(mapping, size, wait, false)?;
            messages::serve(row, &mut rings, none).map(|()| None)
        }
    }
}
