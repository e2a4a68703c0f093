//! A client of the event loop: see `server.rs`.
//!
//! `event-loop-client FOLDER say WORDS | run SCRIPT | bell NUMBERS | stats`
#![allow(clippy::print_stdout, reason = "a program of its own")]

mod doorbell;
mod sender;

use std::error::Error;
use std::path::Path;

use sinew::unix::{Address, Socket};
use sinew::wait::{Connects, Receives, Sends};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, request @ ..] = words.as_slice() else {
        return Err("usage: event-loop-client FOLDER REQUEST".into());
    };
    let server = Address::path(Path::new(folder).join("socket"))?.seqpacket().connect()?;
    let mut buf = [0; 4096];
    if let [bell, numbers @ ..] = request
        && bell == "bell"
    {
        let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<u64>, _>>()?;
        server.send(b"bell")?;
        let message = server.fds(3).recv(&mut buf)?;
        let fds = message.fds.try_into().map_err(|_| "the server sent no doorbell")?;
        let mut values = sender::Sender::new(fds, server)?;
        println!("{} of {} went", values.send(&numbers), numbers.len());
        return Ok(());
    }
    server.send(request.join(" ").as_bytes())?;
    loop {
        let length = server.recv(&mut buf)?;
        let answer = String::from_utf8_lossy(&buf[..length]);
        println!("{answer}");
        // The answer to `run` comes in two parts.
        if !answer.starts_with("started ") {
            return Ok(());
        }
    }
}
