//! The rows that share pages: how both sides come to the same memory.

use std::os::fd::AsFd;

use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::{Mechanism, file, posix_shm, sysv_mq, sysv_shm};

use crate::job::Job;
use crate::link::Link;
use crate::trouble::Trouble;

fn unfit(mechanism: Mechanism) -> Trouble {
    Trouble::Fail(format!("{mechanism} shares no pages"))
}

fn shm_name(job: &Job) -> String {
    format!("/{}-there", job.prefix)
}

/// Makes `bytes` of shared memory, zeroed, and gives it to the far side. Its name is gone when
/// both have it: what is left needs no cleaning up.
pub(crate) fn create(job: &Job, link: &Link, bytes: usize) -> Result<Mapping, Trouble> {
    let len = bytes as u64;
    match job.mechanism {
        Mechanism::Memfd => {
            let memfd = memfd::Options::new().create(&job.prefix, len)?;
            link.send_fds(&[memfd.as_fd()])?;
            link.await_nod()?;
            Ok(memfd.map()?)
        }
        Mechanism::PosixShm => {
            let name = shm_name(job);
            let segment = posix_shm::Options::new().create(&name, len)?;
            link.nod()?;
            let attached = link.await_nod();
            posix_shm::unlink(&name)?;
            attached?;
            Ok(segment.map()?)
        }
        Mechanism::SysvShm => {
            let key = sysv_mq::Key::new(job.keys[0]);
            let segment = sysv_shm::Options::new().create(key, len)?;
            link.nod()?;
            let attached = link.await_nod();
            let mapping = segment.attach();
            segment.remove()?;
            attached?;
            Ok(mapping?)
        }
        Mechanism::MmapFile => {
            let path = job.folder.join(&job.prefix);
            let file = file::Options::new().create(&path, len)?;
            link.nod()?;
            let attached = link.await_nod();
            std::fs::remove_file(&path)?;
            attached?;
            // SAFETY-free: the file is in a folder of this run alone, and nobody truncates it.
            Ok(file.map()?)
        }
        other => Err(unfit(other)),
    }
}

/// Attaches to what [`create`] made.
pub(crate) fn attach(job: &Job, link: &Link) -> Result<Mapping, Trouble> {
    let mapping = match job.mechanism {
        Mechanism::Memfd => {
            let [fd] = link.recv_fds()?;
            Memfd::try_from(fd)?.map()?
        }
        Mechanism::PosixShm => {
            link.await_nod()?;
            posix_shm::Options::new().open(shm_name(job))?.map()?
        }
        Mechanism::SysvShm => {
            link.await_nod()?;
            let key = sysv_mq::Key::new(job.keys[0]);
            sysv_shm::Options::new().open(key)?.attach()?
        }
        Mechanism::MmapFile => {
            link.await_nod()?;
            file::Options::new().open(job.folder.join(&job.prefix))?.map()?
        }
        other => return Err(unfit(other)),
    };
    link.nod()?;
    Ok(mapping)
}
