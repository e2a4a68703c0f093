//! Both ends at work while a third process writes rubbish over everything that they share.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sinew::channel::{Full, Options, Receiver, Sender};
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use super::{CAPACITY, made, mapped};

pub(crate) const TESTS: &[Test] =
    tests![rubbish_ends_in_an_error, rubbish_ends_in_an_error_where_the_sender_overtakes,];
pub(crate) const ROLES: &[Role] = roles![sender, receiver, mutator];

/// How long, where the environment asks for no other time.
const SECONDS: u64 = 5;
const MOMENT: Duration = Duration::from_micros(200);
/// After so long a call that may take a moment hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Numbers that look like chance.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn until_end(link: &Link) -> Instant {
    let seconds = link.hear().parse::<f64>().unwrap();
    Instant::now() + Duration::from_secs_f64(seconds)
}

/// How often calls ended how.
#[derive(Default)]
struct Counts {
    well: u64,
    corrupt: u64,
    refused: u64,
}

impl Counts {
    fn say(&self, link: &Link) {
        link.say(format!("{} {} {}", self.well, self.corrupt, self.refused));
    }

    /// Attaches, or counts that the memory is damaged.
    fn attach<T>(&mut self, attached: sinew::Result<T>) -> Option<T> {
        match attached {
            Ok(end) => Some(end),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Mismatch, "{e}");
                self.refused += 1;
                None
            }
        }
    }
}

fn sender(link: &Link) {
    let map = mapped(link);
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut counts = Counts::default();
    let end = until_end(link);
    while Instant::now() < end {
        // SAFETY: all that is done with the memory is atomic, and what is read in it is not believed.
        let Some(mut sender) = counts.attach(unsafe { Sender::open_in(&map, 0) }) else { continue };
        for _ in 0..1000 {
            let begin = Instant::now();
            let len = if random.below(4) == 0 { random.below(CAPACITY) } else { random.below(100) };
            let done = match random.below(4) {
                0 => sender.try_send(&[7; CAPACITY as usize][..len as usize]),
                1 => sender.send_timeout(&[7; CAPACITY as usize][..len as usize], MOMENT),
                2 => sender.loan_timeout(len as usize, MOMENT).map(|mut loan| {
                    loan.fill(9);
                    loan.send();
                }),
                _ => {
                    sender.receiver_died();
                    Ok(())
                }
            };
            assert!(begin.elapsed() < PATIENCE, "hangs: {done:?}");
            match done {
                Ok(()) => counts.well += 1,
                Err(SendError::Corrupt) => {
                    counts.corrupt += 1;
                    break;
                }
                Err(SendError::Full | SendError::TimedOut | SendError::Closed) => {}
                Err(SendError::TooBig { limit }) => assert!(len as usize > limit),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    counts.say(link);
}

fn receiver(link: &Link) {
    let map = mapped(link);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut counts = Counts::default();
    let end = until_end(link);
    let mut buf = vec![0; CAPACITY as usize];
    while Instant::now() < end {
        // SAFETY: as for the sender. Borrowed bytes are looked at by nobody.
        let Some(receiver) = counts.attach(unsafe { Receiver::open_in(&map) }) else { continue };
        let mut borrowed = Vec::new();
        for _ in 0..1000 {
            let begin = Instant::now();
            let done = match random.below(4) {
                0 => receiver.try_recv(&mut buf).map(drop),
                1 => receiver.recv_timeout(&mut buf, MOMENT).map(drop),
                2 => receiver.borrow_timeout(MOMENT).map(|message| borrowed.push(message)),
                _ => {
                    let count = borrowed.len();
                    if count > 0 {
                        drop(borrowed.swap_remove(random.below(count as u64) as usize));
                    }
                    receiver.sender_died(random.below(2) as u32);
                    Ok(())
                }
            };
            assert!(begin.elapsed() < PATIENCE, "hangs: {done:?}");
            match done {
                Ok(()) => counts.well += 1,
                Err(RecvError::Corrupt) => {
                    counts.corrupt += 1;
                    break;
                }
                Err(
                    RecvError::Empty
                    | RecvError::TimedOut
                    | RecvError::Closed
                    | RecvError::PeerDied
                    | RecvError::Lagged(_)
                    | RecvError::TooManyBorrowed,
                ) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    counts.say(link);
}

/// Writes over one word after the other, and gives some back as they were. The header is whole most of the
/// time: else nobody would get as far as to the rest.
fn mutator(link: &Link) {
    let map = mapped(link);
    let full = if link.hear() == "true" { Full::DropOldest } else { Full::Block };
    let mut random = Random(0x0F0F_1234_4321_F0F1);
    let end = until_end(link);
    let words = map.len() as u64 / 8;
    let mut header = [0; 256];
    map.read_at(0, &mut header).unwrap();
    let mut writes = 0_u64;
    while Instant::now() < end {
        for _ in 0..100 {
            // The header; members and what else is in pages of words; the first words of records, or any.
            let at = match random.below(8) {
                0 => random.below(17),
                1..=5 => 1024 + random.below(128),
                6 => words - CAPACITY / 8 + random.below(16),
                _ => random.below(words),
            };
            let Some(word) = map.atomic_u64_at(at as usize * 8) else { continue };
            let before = word.load(Ordering::Relaxed);
            let value = match random.below(10) {
                0 => 0,
                1 => u64::MAX,
                2 => random.next(),
                3 => before.wrapping_add(8),
                4 => before.wrapping_sub(8),
                5 => before ^ 1 << random.below(64),
                6 => before.wrapping_add(CAPACITY),
                7 => random.below(8),
                8 => 1 << 32 | random.below(CAPACITY),
                _ => map.load_u64_at(random.below(words) as usize * 8).unwrap_or(1),
            };
            word.store(value, Ordering::Relaxed);
            writes += 1;
            if at < 17 || random.below(4) > 0 {
                (0..random.below(200)).for_each(|_| std::hint::spin_loop());
                word.store(before, Ordering::Relaxed);
            }
        }
        map.write_at(0, &header).unwrap();
        if random.below(50) == 0 {
            // As new, that they come far again.
            options(full).create_in(&map).unwrap();
        }
    }
    link.say(writes);
}

fn options(full: Full) -> Options {
    Options::stream().capacity(CAPACITY).full(full)
}

fn rubbish_ends_in_an_error() -> Result<(), Skip> {
    rubbish(Full::Block)
}

fn rubbish_ends_in_an_error_where_the_sender_overtakes() -> Result<(), Skip> {
    rubbish(Full::DropOldest)
}

fn rubbish(full: Full) -> Result<(), Skip> {
    let seconds = std::env::var("SINEW_HOSTILE").map_or(SECONDS, |n| n.parse().unwrap());
    let (memfd, _) = made(options(full));
    let roles = ["channel::hostile::sender", "channel::hostile::receiver"];
    let mut ends = Vec::new();
    for role in roles.into_iter().chain(["channel::hostile::mutator"]) {
        let peer = Peer::spawn(role);
        peer.send_fd(&memfd);
        if role.ends_with("mutator") {
            peer.say(full == Full::DropOldest);
        }
        peer.say(seconds);
        ends.push(peer);
    }
    let mutator = ends.pop().unwrap();
    for peer in ends {
        let words = peer.hear();
        let counts: Vec<u64> = words.split(' ').map(|count| count.parse().unwrap()).collect();
        // Some went well, some did not, and some could not attach: each of the ways was gone.
        assert!(counts.iter().all(|count| *count > 0), "{words}");
        peer.join();
    }
    assert!(mutator.hear().parse::<u64>().unwrap() > 1000);
    mutator.join();
    Ok(())
}
