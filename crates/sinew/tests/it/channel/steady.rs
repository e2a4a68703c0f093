//! What a message costs while it flows: nothing of the kernel, and no memory.
//!
//! Both ends are in processes that the kernel kills at their first system call (seccomp(2), strict mode), and
//! that count what they allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sinew::RecvError;
use sinew::channel::{Full, Options};
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, skip, tests};

use super::{mapped, receives, sends};

pub(crate) const TESTS: &[Test] =
    tests![messages_cost_no_system_call_and_no_allocation, nor_do_those_that_are_dropped,];
pub(crate) const ROLES: &[Role] = roles![sender, receiver, kills_itself, overtakes, overtaken];

/// How many messages.
const COUNT: u64 = 1_000_000;
/// Where the processes report, behind the channel.
const SENDER: usize = 0;
const RECEIVER: usize = 64;
const NEVER: u64 = u64::MAX;

struct Counting;

pub(crate) static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn options() -> Options {
    // They take turns seldom where they share a CPU, and neither can give it up.
    Options::stream().capacity(1 << 22)
}

/// A channel, and a page behind it.
fn place(options: Options) -> (Memfd, Arc<Mapping>) {
    let bytes = options.bytes().unwrap() + 4096;
    let memfd = memfd::Options::new().create("steady", bytes).unwrap();
    let map = Arc::new(memfd.map().unwrap());
    options.create_in(&map).unwrap();
    for place in [SENDER, RECEIVER] {
        report(&map, place).store(NEVER, Ordering::Release);
    }
    (memfd, map)
}

fn report(map: &Mapping, place: usize) -> &AtomicU64 {
    map.atomic_u64_at(map.len() - 4096 + place).unwrap()
}

/// From here on the kernel kills this process for any system call but read, write and exit.
fn forswear() -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) == 0 }
}

/// Ends by the one call that is left.
fn end(report: &AtomicU64, allocations: u64) -> ! {
    let more = ALLOCATIONS.load(Ordering::Relaxed).wrapping_sub(allocations);
    report.store(more, Ordering::Release);
    // SAFETY: ends the only thread.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("it ended")
}

/// What a message is: three words of its number, one short of a line with its header.
fn words(number: u64) -> [u8; 24] {
    let mut words = [0; 24];
    words[..8].copy_from_slice(&number.to_le_bytes());
    words[16..].copy_from_slice(&(!number).to_le_bytes());
    words
}

fn sender(link: &Link) {
    let map: Arc<Mapping> = mapped(link);
    let mut sender = sends(&map, 0);
    let report = report(&map, SENDER);
    link.say("attached");
    link.expect("go");
    if !forswear() {
        return;
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    for number in 0..COUNT {
        if number % 2 == 0 {
            while sender.try_send(&words(number)).is_err() {
                std::hint::spin_loop();
            }
        } else {
            loop {
                if let Ok(mut loan) = sender.try_loan(24) {
                    loan.copy_from_slice(&words(number));
                    loan.send();
                    break;
                }
                std::hint::spin_loop();
            }
        }
    }
    end(report, allocations);
}

fn receiver(link: &Link) {
    let map: Arc<Mapping> = mapped(link);
    let receiver = receives(&map);
    let report = report(&map, RECEIVER);
    link.say("attached");
    link.expect("go");
    if !forswear() {
        return;
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let mut buf = [0; 24];
    let mut wrong = 0;
    for number in 0..COUNT {
        if number % 2 == 0 {
            while receiver.try_recv(&mut buf).is_err() {
                std::hint::spin_loop();
            }
            wrong += u64::from(buf != words(number));
        } else {
            loop {
                if let Ok(message) = receiver.try_borrow() {
                    wrong += u64::from(*message != words(number));
                    break;
                }
                std::hint::spin_loop();
            }
        }
    }
    end(report, allocations.wrapping_sub(wrong));
}

/// Sends whatever becomes of the receiver.
fn overtakes(link: &Link) {
    let map: Arc<Mapping> = mapped(link);
    let mut sender = sends(&map, 0);
    let report = report(&map, SENDER);
    link.say("attached");
    link.expect("go");
    if !forswear() {
        return;
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let mut failed = 0;
    for number in 0..COUNT {
        if number % 2 == 0 {
            failed += u64::from(sender.send(&words(number)).is_err());
        } else if let Ok(mut loan) = sender.loan(24) {
            loan.copy_from_slice(&words(number));
            loan.send();
        } else {
            failed += 1;
        }
    }
    end(report, allocations.wrapping_sub(failed));
}

/// Receives what is not dropped, up to the last, which is not.
fn overtaken(link: &Link) {
    let map: Arc<Mapping> = mapped(link);
    let receiver = receives(&map);
    let report = report(&map, RECEIVER);
    link.say("attached");
    link.expect("go");
    if !forswear() {
        return;
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let (mut number, mut wrong) = (0, 0);
    while number < COUNT {
        match receiver.try_borrow() {
            Ok(message) => {
                wrong += u64::from(*message != words(number));
                number += 1;
            }
            Err(RecvError::Lagged(missed)) => number += missed,
            Err(_) => std::hint::spin_loop(),
        }
        let mut buf = [0; 24];
        match receiver.try_recv(&mut buf) {
            Ok(_) => {
                wrong += u64::from(buf != words(number));
                number += 1;
            }
            Err(RecvError::Lagged(missed)) => number += missed,
            Err(_) => std::hint::spin_loop(),
        }
    }
    end(report, allocations.wrapping_sub(wrong));
}

/// That it can fail: a message to one that sleeps is a system call.
fn kills_itself(link: &Link) {
    let map: Arc<Mapping> = mapped(link);
    let sender = sends(&map, 0);
    let report = report(&map, SENDER);
    link.say("attached");
    link.expect("go");
    if !forswear() {
        return;
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    sender.send(&words(0)).unwrap();
    end(report, allocations);
}

fn start(role: &str, memfd: &Memfd) -> Peer {
    let peer = Peer::spawn(role);
    peer.send_fd(memfd);
    peer.expect("attached");
    peer
}

/// Two processes that may do nothing but that.
fn flow(options: Options, roles: [&str; 2]) -> Result<(), Skip> {
    let (memfd, map) = place(options);
    let mut peers = roles.map(|role| start(role, &memfd));
    peers.iter().for_each(|peer| peer.say("go"));
    for peer in &mut peers {
        let status = peer.wait();
        assert!(status.success(), "a system call: {status}");
    }
    let [sent, received] = [SENDER, RECEIVER].map(|at| report(&map, at).load(Ordering::Acquire));
    if [sent, received] == [NEVER; 2] {
        return skip("no seccomp here");
    }
    assert_eq!([sent, received], [0; 2], "allocations, or messages that were wrong");
    Ok(())
}

fn nor_do_those_that_are_dropped() -> Result<(), Skip> {
    if fallbacks_forced() {
        return skip("where no page is wiped at a fork, each call asks for the process id");
    }
    let options = Options::stream().capacity(1 << 14).full(Full::DropOldest);
    flow(options, ["channel::steady::overtaken", "channel::steady::overtakes"])
}

fn messages_cost_no_system_call_and_no_allocation() -> Result<(), Skip> {
    if fallbacks_forced() {
        return skip("where no page is wiped at a fork, each call asks for the process id");
    }
    flow(options(), ["channel::steady::receiver", "channel::steady::sender"])?;

    // One that has to wake its receiver is killed.
    let (memfd, map) = place(options());
    let peer = start("channel::steady::kills_itself", &memfd);
    let receiver = receives(&map);
    let own = rustix::thread::gettid();
    std::thread::scope(|s| {
        let mut peer = peer;
        s.spawn(move || {
            crate::futex::until_on_futex(own);
            peer.say("go");
            assert!(!peer.wait().success());
        });
        // The commit comes before the call that is its end.
        let got = receiver.recv_timeout(&mut [0; 24], std::time::Duration::from_millis(200));
        assert!(got.is_ok() || got == Err(RecvError::TimedOut), "{got:?}");
    });
    Ok(())
}
