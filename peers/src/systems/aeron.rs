//! Aeron over `aeron:ipc`: its C driver in a process of its own on no CPU in particular, exclusive publications.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use rusteron_client::{
    Aeron, AeronContext, AeronExclusivePublication, AeronSubscription, Handlers, IntoCString,
};
use rusteron_media_driver::{AeronDriver, AeronDriverContext};

use crate::Result;
use crate::cpu;
use crate::ends::Ends;
use crate::job::{Job, Side};
use crate::link::Link;
use crate::worker::WORKER;

/// Says to a new process that it is the driver, and where its folder is.
const DRIVER: &str = "SINEW_PEERS_AERON";
const PATIENCE: Duration = Duration::from_secs(10);
const THERE: i32 = 1001;
const BACK: i32 = 1002;
/// How many messages are taken at once where that is asked for.
const MANY: usize = 256;

/// Runs this process as the driver, if it was started as one. It ends with who started it.
pub(crate) fn driver() -> Option<ExitCode> {
    let folder = env::var(DRIVER).ok()?;
    let run = || -> Result<()> {
        cpu::unpin()?;
        let context = AeronDriverContext::new()?;
        context.set_dir(&folder.into_c_string())?;
        context.set_dir_delete_on_start(true)?;
        context.set_threading_mode(
            rusteron_media_driver::bindings::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED,
        )?;
        let (_stop, thread) = AeronDriver::launch_embedded(context, false);
        thread.join().map_err(|_| "the driver panicked")??;
        Ok(())
    };
    Some(if run().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The driver's process and its folder.
struct Driver(Child, PathBuf);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir_all(&self.1);
    }
}

fn folder(job: &Job) -> PathBuf {
    PathBuf::from("/dev/shm").join(format!("{}-aeron", job.name))
}

/// Messages of up to the MTU.
pub(crate) struct Ipc<const N: usize> {
    output: AeronExclusivePublication,
    input: AeronSubscription,
    _aeron: Aeron,
    _driver: Option<Driver>,
}

impl<const N: usize> Ipc<N> {
    fn new(job: &Job, driver: Option<Driver>) -> Result<Self> {
        let context = AeronContext::new()?;
        context.set_dir(&folder(job).to_string_lossy().into_owned().into_c_string())?;
        let aeron = Aeron::new(&context)?;
        aeron.start()?;
        let (output, input) = if job.side == Side::Near { (THERE, BACK) } else { (BACK, THERE) };
        let channel = "aeron:ipc".into_c_string();
        let output =
            aeron.async_add_exclusive_publication(&channel, output)?.poll_blocking(PATIENCE)?;
        let input = aeron
            .async_add_subscription(
                &channel,
                input,
                Handlers::no_available_image_handler(),
                Handlers::no_unavailable_image_handler(),
            )?
            .poll_blocking(PATIENCE)?;
        Ok(Self { output, input, _aeron: aeron, _driver: driver })
    }
}

impl<const N: usize> Ends<N> for Ipc<N> {
    fn near(job: &Job, links: &[Link]) -> Result<Self> {
        let folder = folder(job);
        let child = Command::new("/proc/self/exe")
            .arg0("sinew-peers-aeron")
            .env(DRIVER, &folder)
            .env(WORKER, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let driver = Driver(child, folder.clone());
        // The client waits for the driver's file.
        while !folder.join("cnc.dat").exists() {
            thread::yield_now();
        }
        links[0].meet()?;
        Self::new(job, Some(driver))
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        link.meet()?;
        Self::new(job, None)
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        // Negative where the other side is not there yet or is behind.
        while self.output.offer(message, Handlers::no_reserved_value_supplier_handler()) < 0 {
            std::hint::spin_loop();
        }
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        let mut received = false;
        while !received {
            self.input.poll_once(
                |message, _| {
                    room.copy_from_slice(message);
                    received = true;
                },
                1,
            )?;
        }
        Ok(())
    }

    fn recv_many(&mut self, each: &mut impl FnMut(&[u8; N])) -> Result<()> {
        let mut room = [0; N];
        while self.input.poll_once(
            |message, _| {
                room.copy_from_slice(message);
                each(&room);
            },
            MANY,
        )? == 0
        {}
        Ok(())
    }
}
