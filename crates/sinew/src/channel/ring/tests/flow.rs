//! A long flow in any order of steps, with messages borrowed and released out of order, and with a death of either
//! side at any store, against a queue.

use std::collections::VecDeque;

use super::*;

/// Marsaglia's xorshift: the same steps for the same seed.
pub(in crate::channel::ring) struct Random(pub(in crate::channel::ring) u64);

impl Random {
    pub(in crate::channel::ring) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(in crate::channel::ring) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    pub(in crate::channel::ring) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// A message that was borrowed.
struct Loan {
    end: u64,
    len: u64,
    released: bool,
}

/// Both sides, and what has to come of them.
struct Flow {
    seed: u64,
    random: Random,
    lane: Lane,
    sending: Sending,
    receiving: Receiving,
    /// Sent, and not released.
    queue: VecDeque<Vec<u8>>,
    /// Of these, from the first on: borrowed by this receiver.
    loans: VecDeque<Loan>,
    sent: u64,
    released: u64,
    given: u64,
    /// How often there was padding, and no room.
    padded: u64,
    full: u64,
}

impl Flow {
    fn new(seed: u64, new: &dyn Fn(u64) -> Lane) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let lane = new(128 << random.below(6));
        let sending = Sending::resume(&lane).unwrap();
        let (receiving, _) = Receiving::resume(&lane).unwrap();
        let (queue, loans) = Default::default();
        let (sent, released, given, padded, full) = (0, 0, 0, 0, 0);
        Self {
            seed,
            random,
            lane,
            sending,
            receiving,
            queue,
            loans,
            sent,
            released,
            given,
            padded,
            full,
        }
    }

    fn some_len(&mut self) -> u64 {
        let most = self.sending.most();
        match self.random.below(8) {
            0 => self.random.below(most + 1),
            1 => most,
            2 => self.random.below(most / 4 + 1),
            _ => self.random.below(most.min(64) + 1),
        }
    }

    /// Sends, or gives up before the commit, or finds no room.
    fn send(&mut self) {
        let len = self.some_len();
        let before = (self.sending.tail(), self.noted());
        let room = match self.sending.reserve(&self.lane, len) {
            Ok(room) => room,
            Err(NoRoom::Until(head)) => {
                assert!(self.receiving.head() < head, "there is room");
                self.full += 1;
                // Killed between the commit of the padding and its note.
                if self.sending.tail() != before.0 {
                    self.padded += 1;
                    if self.random.one_in(4) {
                        self.note_only(before.1, 0);
                        self.succeed_sender();
                    }
                }
                return;
            }
            Err(why) => panic!("{why:?}"),
        };
        self.padded += u64::from(self.sending.tail() != before.0);
        // Copied in; or lent, and then not all of it is sent, or nothing.
        let mut message = message(self.random.below(1 << 20), len as usize);
        if self.random.one_in(4) {
            self.sending.lend(&room);
            self.lane.write(room.at, &message);
            message.truncate(self.random.below(len + 1) as usize);
            if self.random.one_in(2) {
                return;
            }
        } else {
            self.lane.write(room.at, &message);
        }
        let len = message.len() as u64;
        let before = self.noted();
        self.sending.commit(&self.lane, len, 0);
        self.queue.push_back(message);
        self.sent += 1;
        if self.random.one_in(16) {
            let stores = self.random.below(4);
            self.note_only(before, stores);
            self.succeed_sender();
        }
    }

    /// What the sender notes, in the order of its stores.
    fn noted(&self) -> [u64; 3] {
        [SenderField::Bytes, SenderField::Sent, SenderField::Tail]
            .map(|field| self.lane.sender(field).load(Relaxed))
    }

    /// Takes all but the first stores of a note back: death came between.
    fn note_only(&self, before: [u64; 3], stores: u64) {
        let fields = [SenderField::Bytes, SenderField::Sent, SenderField::Tail];
        for (field, value) in fields.into_iter().zip(before).skip(stores as usize) {
            self.lane.sender(field).store(value, Relaxed);
        }
    }

    fn succeed_sender(&mut self) {
        self.sending = Sending::resume(&self.lane).unwrap();
        assert_eq!(self.sending.sent(), self.sent);
        assert!(self.sending.fill() <= self.lane.capacity());
        assert_eq!(self.noted()[1..], [self.sent, self.sending.tail()]);
    }

    /// Looks at the next message, and perhaps borrows it.
    fn receive(&mut self) {
        let found = self.receiving.peek(&self.lane, || ()).unwrap();
        let Some(expected) = self.queue.get(self.loans.len()) else {
            assert_eq!(found, None);
            return;
        };
        let record = found.expect("it was sent");
        assert_eq!(self.receiving.next(), self.released + self.loans.len() as u64);
        let mut message = vec![0; record.len as usize];
        self.lane.read(record.at, &mut message);
        assert_eq!(message, *expected);
        if self.random.one_in(4) {
            return;
        }
        self.receiving.step(&record);
        self.receiving.give(&self.lane);
        self.given = self.given.max(record.end);
        self.loans.push_back(Loan { end: record.end, len: record.len, released: false });
    }

    /// Releases one of those that are borrowed, and with it those that waited for it.
    fn release(&mut self) {
        if self.loans.is_empty() {
            return;
        }
        let any = self.random.below(self.loans.len() as u64) as usize;
        self.loans[any].released = true;
        let (mut end, mut count, mut bytes) = (0, 0, 0);
        while self.loans.front().is_some_and(|loan| loan.released) {
            let Some(loan) = self.loans.pop_front() else { break };
            (end, count, bytes) = (loan.end, count + 1, bytes + loan.len);
            self.queue.pop_front();
        }
        if count == 0 {
            return;
        }
        let end = if self.loans.is_empty() { self.receiving.position() } else { end };
        let received = self.lane.receiver(ReceiverField::Received);
        let before = received.load(Relaxed);
        self.receiving.release(&self.lane, end, count, bytes);
        self.released += count;
        assert_eq!(received.load(Relaxed), self.released);
        if self.random.one_in(16) {
            // Killed between the head and the count.
            received.store(before, Relaxed);
            self.succeed_receiver();
        }
    }

    /// What was borrowed is there again.
    fn succeed_receiver(&mut self) {
        self.loans.clear();
        let (receiving, given) = Receiving::resume(&self.lane).unwrap();
        assert_eq!((receiving.head(), given), (self.receiving.head(), self.given));
        self.receiving = receiving;
    }

    fn step(&mut self) {
        match self.random.below(32) {
            0 => self.succeed_sender(),
            1 => self.succeed_receiver(),
            2..12 => self.send(),
            12..22 => self.receive(),
            _ => self.release(),
        }
    }

    /// Receives everything that is left, with room for the longest message after that.
    fn drain(&mut self) {
        while !self.queue.is_empty() {
            self.receive();
            self.release();
        }
        self.receive();
        let most = self.sending.most();
        // The first may commit padding, which is to be passed.
        if self.sending.reserve(&self.lane, most).is_err() {
            self.receive();
            self.sending.reserve(&self.lane, most).unwrap();
        }
    }
}

impl Drop for Flow {
    #[expect(clippy::print_stderr, reason = "to run it again")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.seed);
        }
    }
}

#[test]
fn any_order_of_steps_is_that_of_a_queue() {
    let (flows, steps) = if cfg!(miri) { (5, 250) } else { (200, 1500) };
    over_each(|new| {
        let (mut sent, mut padded, mut full) = (0, 0, 0);
        for seed in 1..=flows {
            let mut flow = Flow::new(seed, new);
            (0..steps).for_each(|_| flow.step());
            flow.drain();
            (sent, padded, full) = (sent + flow.sent, padded + flow.padded, full + flow.full);
        }
        assert!(sent > flows * steps / 10, "{sent} sent");
        assert!(padded > flows && full > flows, "{padded} with padding, {full} without room");
    });
}
