//! An event loop: one thread that waits for everything a service has to do with, in one `poller`.
//!
//! ```text
//! mkdir /tmp/service && printf 'greeting = hello\nperiod_ms = 1000\n' > /tmp/service/settings
//! cargo run --example event-loop-server -- /tmp/service &
//! cargo run --example event-loop-client -- /tmp/service say world
//! cargo run --example event-loop-client -- /tmp/service run 'exit 3'
//! cargo run --example event-loop-client -- /tmp/service bell 1 2 3
//! echo a line > /tmp/service/lines
//! kill -HUP %1    # reads the settings again
//! kill -TERM %1   # finishes what it has, and ends
//! ```
//!
//! It waits for clients at a UNIX socket, their requests, lines in a FIFO, a timer, signals (those with
//! a value too), the end of children, and values in shared memory that a doorbell announces.
#![allow(clippy::print_stdout, reason = "a program of its own")]

mod connection;
mod doorbell;
mod receiver;
mod service;
mod settings;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(folder) = std::env::args_os().nth(1) else {
        return Err("usage: event-loop-server FOLDER".into());
    };
    let totals = service::run(folder.as_ref(), &mut |fact| println!("{fact}"))?;
    println!("{totals}");
    Ok(())
}
