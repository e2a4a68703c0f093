//! A worker: this program started again, for one side of one row in one round.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::ends::Ends;
use crate::job::{Found, Job, Outcome, Side, Work};
use crate::link::Link;
use crate::systems::{bare, iceoryx, inside, ipc_channel, kernel, shmem_ipc, sinew};
use crate::{Result, cpu, drive, fan, footprint, large, start};

/// Says to a new process that it is a worker, and of which supervisor.
pub(crate) const WORKER: &str = "SINEW_PEERS_WORKER";

pub(crate) fn main() -> Option<ExitCode> {
    let supervisor = env::var(WORKER).ok()?;
    // Dies with the supervisor, also if that is dead already.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err()
        || getppid().map(|p| p.as_raw_nonzero().to_string()).as_deref() != Some(&supervisor)
    {
        return Some(ExitCode::FAILURE);
    }
    #[cfg(feature = "aeron")]
    if let Some(code) = crate::systems::aeron::driver() {
        return Some(code);
    }
    Some(if work().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn work() -> Result<()> {
    let supervisor = Link::from(io::stdin().as_fd().try_clone_to_owned()?);
    let job: Job = supervisor.hear()?;
    let mut kept = None;
    let outcome = match row(&job, &supervisor, &mut kept) {
        Ok(found) => Outcome::Found(found),
        Err(e) => Outcome::Failed(e.to_string()),
    };
    supervisor.say(&outcome)?;
    // What was sent may be gone with its sender.
    let _ = supervisor.hear::<bool>();
    drop(kept);
    Ok(())
}

fn row(
    job: &Job,
    supervisor: &Link,
    kept: &mut Option<Box<dyn std::any::Any>>,
) -> Result<Option<Found>> {
    let cpus = cpu::usable();
    if let Some(cpu) = job.cpu {
        cpu::pin(cpu)?;
    }
    if job.work == Work::Start {
        let (found, keep) = start::run(job)?;
        *kept = keep;
        return Ok(found);
    }
    let links: Vec<Link> = supervisor.recv_fds()?.into_iter().map(Link::from).collect();
    match job.work {
        Work::Large | Work::FirstUse | Work::Overlapped => in_large(job, &links[0]),
        Work::FanIn => match job.system.as_str() {
            "sinew" => fan::run::<sinew::Fan<{ fan::SIZE }>>(job, &links),
            "iceoryx2" => fan::run::<iceoryx::Fan<{ fan::SIZE }>>(job, &links),
            "pipe" => fan::run::<kernel::PipeFan<{ fan::SIZE }>>(job, &links),
            "unix" => fan::run::<kernel::UnixFan<{ fan::SIZE }>>(job, &links),
            other => Err(format!("{other} has no such row").into()),
        },
        Work::Footprint => footprint_of(job, &links),
        _ if job.system == "rtrb" => match job.size {
            32 => inside::run::<32>(job, &cpus),
            64 => inside::run::<64>(job, &cpus),
            1024 => inside::run::<1024>(job, &cpus),
            65536 => inside::run::<65536>(job, &cpus),
            other => Err(no_size(other)),
        },
        _ => small(job, &links),
    }
}

fn no_size(size: usize) -> crate::Trouble {
    format!("there are no rows of {size} bytes").into()
}

/// One system in all sizes.
macro_rules! sized {
    ($job:expr, $links:expr, $($system:ident)::+) => {
        match $job.size {
            32 => pair::<$($system)::+<32>, 32>($job, $links),
            64 => pair::<$($system)::+<64>, 64>($job, $links),
            1024 => pair::<$($system)::+<1024>, 1024>($job, $links),
            65536 => pair::<$($system)::+<65536>, 65536>($job, $links),
            other => Err(no_size(other)),
        }
    };
}

fn small(job: &Job, links: &[Link]) -> Result<Option<Found>> {
    match job.system.as_str() {
        "sinew" if job.work == Work::InPlace => sized!(job, links, sinew::InPlace),
        "sinew" => sized!(job, links, sinew::Copied),
        "iceoryx2" => sized!(job, links, iceoryx::Samples),
        "ipc-channel" => sized!(job, links, ipc_channel::Bytes),
        "shmem-ipc" => match job.size {
            32 => pair::<shmem_ipc::Ring<32>, 32>(job, links),
            64 => pair::<shmem_ipc::Ring<64>, 64>(job, links),
            1024 => pair::<shmem_ipc::Ring<1024>, 1024>(job, links),
            other => Err(no_size(other)),
        },
        #[cfg(feature = "aeron")]
        "aeron" => pair::<crate::systems::aeron::Ipc<64>, 64>(job, links),
        "bare-ring" => sized!(job, links, bare::Ring),
        "bare-bounce-1" => pair::<bare::Bounce<32, 8>, 32>(job, links),
        "bare-bounce-2" => pair::<bare::Bounce<64, 64>, 64>(job, links),
        "futex" => sized!(job, links, kernel::Futex),
        "eventfd" => sized!(job, links, kernel::Eventfd),
        "pipe" => sized!(job, links, kernel::Pipe),
        "unix" => sized!(job, links, kernel::Unix),
        other => Err(format!("no system is called {other}").into()),
    }
}

fn pair<E: Ends<N>, const N: usize>(job: &Job, links: &[Link]) -> Result<Option<Found>> {
    let mut ends = match job.side {
        Side::Near => E::near(job, links)?,
        Side::Far => E::far(job, &links[0])?,
    };
    links[0].meet()?;
    let found = drive::run(job, &mut ends)?;
    // What was sent may be gone with its sender.
    links[0].meet()?;
    Ok(found)
}

fn in_large(job: &Job, link: &Link) -> Result<Option<Found>> {
    match job.system.as_str() {
        "sinew" => large::run::<sinew::Whole>(job, link),
        "iceoryx2" => large::run::<iceoryx::Slices>(job, link),
        "ipc-channel" => large::run::<ipc_channel::Regions>(job, link),
        "bare-mapping" => large::run::<bare::InTurn>(job, link),
        other => Err(format!("{other} has no such row").into()),
    }
}

fn footprint_of(job: &Job, links: &[Link]) -> Result<Option<Found>> {
    match job.system.as_str() {
        "sinew" => footprint::run::<sinew::Copied<64>>(job, links),
        "iceoryx2" => footprint::run::<iceoryx::Samples<64>>(job, links),
        "ipc-channel" => footprint::run::<ipc_channel::Bytes<64>>(job, links),
        "shmem-ipc" => footprint::run::<shmem_ipc::Ring<64>>(job, links),
        "bare-ring" => footprint::run::<bare::Ring<64>>(job, links),
        "pipe" => footprint::run::<kernel::Pipe<64>>(job, links),
        "unix" => footprint::run::<kernel::Unix<64>>(job, links),
        other => Err(format!("{other} has no such row").into()),
    }
}
