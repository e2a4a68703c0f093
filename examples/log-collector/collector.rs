//! A log collector: one program takes the lines of many.
//!
//! ```text
//! cargo run --release --example log-collector -- logs &
//! some-program | cargo run --release --example log-sender -- logs some-program
//! ```
//!
//! `log-collector NAME` prints each line that a sender wrote, whole or not at all: a sender that is killed in the middle
//! of one leaves nothing of it, and everything it wrote before. It ends when all senders have left.
//!
//! Senders do not wait for each other, and for the collector only when a megabyte of a sender's lines lies there unread. One
//! that is killed is told of, once, and its place is for the next.
#![allow(clippy::print_stdout, reason = "a program of its own")]

use std::error::Error;

use sinew::RecvError;
use sinew::channel::Options;
use sinew::wait::Borrows;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: log-collector NAME")?;
    let lines = Options::fan_in(64).receiver().create(name)?;
    println!("collecting");
    let mut count = 0;
    loop {
        match lines.borrow() {
            Ok(line) => {
                println!("{}", String::from_utf8_lossy(&line));
                count += 1;
            }
            Err(RecvError::PeerDied) => println!("(a sender was killed)"),
            Err(RecvError::Closed) => break,
            Err(other) => return Err(other.into()),
        }
    }
    println!("{count} lines");
    Ok(())
}
