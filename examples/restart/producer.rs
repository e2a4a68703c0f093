//! A producer that is killed and started again while its consumer runs: the numbers go on where they ended.
//!
//! ```text
//! cargo run --release --example restart-consumer -- numbers &
//! cargo run --release --example restart-producer -- numbers 10000000
//! ```
//!
//! `restart-producer NAME COUNT` sends the numbers below COUNT. Killed with `kill -9` at whatever instruction and started again, it
//! learns from its end of the channel how many it had sent: so no number is lost and none is sent twice. Both are durable
//! members: the consumer's place waits for it too, with the numbers that it had not taken.

use std::error::Error;

use sinew::channel::Options;
use sinew::wait::{Opens, Sends};

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("usage: restart-producer NAME COUNT".into());
    };
    let numbers = Options::stream().sender().durable("producer")?.awaited(name).open()?;
    // What the one before this had sent, all of which has arrived or will.
    for number in numbers.sent()..count.parse()? {
        numbers.send(&number.to_le_bytes())?;
    }
    Ok(())
}
