//! One client: its socket, the answers that it has not taken yet, and its doorbell.

use std::collections::VecDeque;

use sinew::poller::{Interest, Registered, Token};
use sinew::unix::Seqpacket;
use sinew::wait::Sends;
use sinew::{Result, SendError};

use super::receiver::Receiver;

pub(crate) struct Connection {
    pub(crate) socket: Registered<Seqpacket>,
    pub(crate) bell: Option<Registered<Receiver>>,
    /// Children that were started for it.
    pub(crate) children: usize,
    /// Nothing more comes from it.
    pub(crate) ended: bool,
    /// Nothing reaches it any more.
    deaf: bool,
    answers: VecDeque<String>,
    interest: Interest,
}

impl Connection {
    pub(crate) fn new(socket: Registered<Seqpacket>) -> Self {
        Self {
            socket,
            bell: None,
            children: 0,
            ended: false,
            deaf: false,
            answers: VecDeque::new(),
            interest: Interest::READABLE,
        }
    }

    /// Answers it, now or as soon as it takes answers again. Never waits.
    pub(crate) fn answer(&mut self, text: String) {
        if !self.deaf {
            self.answers.push_back(text);
            self.flush();
        }
    }

    /// Sends what it takes.
    pub(crate) fn flush(&mut self) {
        while let Some(text) = self.answers.front() {
            match self.socket.try_send(text.as_bytes()) {
                Ok(()) => drop(self.answers.pop_front()),
                Err(SendError::Full) => return,
                Err(_) => return self.hung_up(),
            }
        }
    }

    /// It is gone. What it has sent before still counts.
    pub(crate) fn hung_up(&mut self) {
        self.deaf = true;
        self.answers.clear();
    }

    /// How many answers it has not taken.
    pub(crate) fn owed(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is nothing left to do for it.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && (self.deaf || self.answers.is_empty() && self.children == 0)
    }

    /// Watches for what can go on. Who does not take its answers is not asked for more requests, so
    /// that it cannot fill the memory of the service.
    pub(crate) fn watch(&mut self, token: Token) -> Result<()> {
        let interest = match (self.answers.is_empty(), self.ended) {
            (false, _) => Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            // Only the hang-up.
            (true, true) => Interest::NONE,
        };
        if interest != self.interest {
            self.socket.modify(token, interest)?;
            self.interest = interest;
        }
        Ok(())
    }
}
