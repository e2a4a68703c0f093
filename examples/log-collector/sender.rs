//! Sends each line of its standard input to the log collector.
//!
//! `cargo run --release --example log-sender -- NAME LABEL`
//!
//! A line is written where the collector will read it, piece by piece as it comes in: there is no copy of it anywhere
//! else, and nobody sees any of it before it is sent.

use std::error::Error;
use std::io::{self, BufRead};

use sinew::channel::{Loan, Options};
use sinew::wait::{Loans, Opens};

/// A longer line is sent in pieces of this size.
const LONGEST: usize = 4096;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(label)) = (arguments.next(), arguments.next()) else {
        return Err("usage: log-sender NAME LABEL < LINES".into());
    };
    let label = format!("{label:.32}: ");
    let mut logs = Options::fan_in(64).sender().awaited(name).open()?;
    let mut input = io::stdin().lock();
    loop {
        let mut line = logs.loan(LONGEST)?;
        line[..label.len()].copy_from_slice(label.as_bytes());
        let len = fill(&mut line, label.len(), &mut input)?;
        if len == label.len() && input.fill_buf()?.is_empty() {
            return Ok(());
        }
        line.send_first(len);
    }
}

/// Writes up to the end of the line, or of the room. Gives how much is there then.
fn fill(line: &mut Loan<'_>, mut at: usize, input: &mut impl BufRead) -> io::Result<usize> {
    loop {
        let bytes = input.fill_buf()?;
        let room = bytes.len().min(line.len() - at);
        let end = bytes[..room].iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(room);
        line[at..at + taken].copy_from_slice(&bytes[..taken]);
        at += taken;
        input.consume(taken + usize::from(end.is_some()));
        if end.is_some() || taken == 0 || at == line.len() {
            return Ok(at);
        }
    }
}
