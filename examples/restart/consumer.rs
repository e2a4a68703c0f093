//! Takes the numbers of a producer that may be killed and started again, and checks that none is lost or doubled.
//!
//! `cargo run --release --example restart-consumer -- NAME`. It ends when the producer has left; where that is killed, it waits
//! for the next. It may be killed and started again itself, as long as the producer lives: the number that it had is given
//! to it again.
#![allow(clippy::print_stdout, reason = "a program of its own")]

use std::error::Error;

use sinew::RecvError;
use sinew::channel::Options;
use sinew::wait::Borrows;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: restart-consumer NAME")?;
    let numbers = Options::stream().receiver().durable("consumer")?.open_or_create(name)?;
    println!("here");
    let (mut first, mut next) = (None, 0);
    loop {
        match numbers.borrow() {
            Ok(message) => {
                // The channel counts too, whoever sends and receives.
                let number = u64::from_le_bytes(message[..].try_into()?);
                let begin = *first.get_or_insert(message.number());
                if number != message.number() || number != next.max(begin) {
                    return Err(format!("{number} after {next} numbers").into());
                }
                next = number + 1;
                if next % 100_000 == 0 {
                    println!("{next} so far");
                }
            }
            Err(RecvError::PeerDied) => println!("the producer was killed after {next}"),
            Err(RecvError::Closed) => break,
            Err(other) => return Err(other.into()),
        }
    }
    println!("{} to {next}, each once", first.unwrap_or(0));
    Ok(())
}
