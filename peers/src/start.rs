//! From two programs' starts to the first message, by name. The supervisor starts both at once; neither knows more of
//! the other than the name.

use std::any::Any;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::Result;
use crate::clock;
use crate::job::{Found, Job, Side};
use crate::systems::iceoryx;

/// What a sender keeps until the message was read.
type Kept = Box<dyn Any>;

/// Gives when the message was there; beside it what has to live until the other side has it.
pub(crate) fn run(job: &Job) -> Result<(Option<Found>, Option<Kept>)> {
    let sends = job.side == Side::Far;
    let kept = match (job.system.as_str(), sends) {
        ("iceoryx2", true) => Some(iceoryx::start_sending(&job.name)?),
        ("iceoryx2", false) => {
            iceoryx::start_receiving(&job.name)?;
            None
        }
        ("unix", true) => Some(Box::new(unix_sending(job)?) as Kept),
        ("unix", false) => {
            unix_receiving(job)?;
            None
        }
        (other, _) => return Err(format!("{other} has no names").into()),
    };
    let found = Found { at_ns: Some(clock::nanoseconds()), ..Found::default() };
    Ok(if sends { (None, kept) } else { (Some(found), kept) })
}

fn path(job: &Job) -> PathBuf {
    std::env::temp_dir().join(&job.name)
}

fn unix_sending(job: &Job) -> Result<UnixStream> {
    let mut socket = loop {
        match UnixStream::connect(path(job)) {
            Ok(socket) => break socket,
            Err(_) => std::thread::yield_now(),
        }
    };
    socket.write_all(&[7; 64])?;
    Ok(socket)
}

fn unix_receiving(job: &Job) -> Result<()> {
    let listener = UnixListener::bind(path(job))?;
    let (mut socket, _) = listener.accept()?;
    fs::remove_file(path(job))?;
    Ok(socket.read_exact(&mut [0; 64])?)
}
