//! SIGPIPE never reaches a host, and what is the host's stays as it was.

use std::io::PipeWriter;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use rustix::pipe::IoSliceRaw;
use sinew::pipe::{self, HeldSigpipe, Options};
use sinew::splice::{self, TransferStop, Transfers};
use sinew::wait::{Sends, Wait};
use sinew::{SendError, Stop};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use super::KERNELS;

pub(crate) const TESTS: &[Test] = tests![
    no_send_to_nobody_kills_a_host_with_the_default,
    a_reader_that_leaves_during_a_send_kills_nobody,
    a_sigpipe_of_somebody_else_stays_pending,
    no_sigpipe_is_left_where_it_is_blocked,
    held_sigpipes_nest_and_give_the_mask_back,
    a_bare_write_to_nobody_would_kill,
];
pub(crate) const ROLES: &[Role] = roles![
    host_with_the_default,
    host_that_blocks_it,
    host_with_one_pending,
    host_that_holds_it,
    sender_to_who_leaves,
    victim
];

static PAGE: [u8; 4096] = [1; 4096];

/// A write end that nobody reads.
fn to_nobody() -> PipeWriter {
    pipe::pipe().unwrap().1
}

/// Everything that can raise it.
fn send_in_every_way() {
    let tx = to_nobody();
    let forever = Wait::FOREVER;
    assert_eq!(tx.send(b"x"), Err(SendError::Closed));
    assert_eq!(tx.send(&vec![0; 200_000]), Err(SendError::Closed));
    assert_eq!(tx.try_send(b"x"), Err(SendError::Closed));
    assert_eq!(tx.send_timeout(b"x", Duration::from_secs(9)), Err(SendError::Closed));
    assert_eq!(splice::vmsplice_static(&tx, &PAGE, forever), Err(SendError::Closed));
    assert_eq!(splice::vmsplice_static(&tx, &PAGE, Wait::NEVER), Err(SendError::Closed));

    let (rx, packets) = Options::new().create_packets().unwrap();
    drop(rx);
    assert_eq!(packets.send(b"x"), Err(SendError::Closed));
    assert_eq!(packets.try_send(b"x"), Err(SendError::Closed));

    let (from, full) = pipe::pipe().unwrap();
    full.send(b"moved").unwrap();
    let closed = |done: Result<usize, splice::TransferError>| {
        assert_eq!(done.unwrap_err().stop, TransferStop::Closed);
    };
    closed(splice::splice(&from, &tx).transfer(5));
    closed(splice::splice(&from, &tx).try_transfer(5));
    closed(splice::tee(&from, &tx).transfer(5));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(theirs);
    closed(splice::splice(&from, &ours).transfer(5));
}

fn set_disposition(to: libc::sighandler_t) {
    // SAFETY: no handler is installed, only the default or nothing.
    unsafe { libc::signal(libc::SIGPIPE, to) };
}

fn set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: it fills the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was filled above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: as above.
    unsafe { set.assume_init() }
}

fn block(how: i32) {
    let set = set();
    // SAFETY: it reads the set of this frame.
    unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
}

fn is_blocked() -> bool {
    let mut old = set();
    // SAFETY: it writes the set of this frame.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut old) };
    // SAFETY: it reads the same set.
    unsafe { libc::sigismember(&raw const old, libc::SIGPIPE) == 1 }
}

fn is_pending() -> bool {
    let mut pending = set();
    // SAFETY: it writes the set of this frame.
    unsafe { libc::sigpending(&raw mut pending) };
    // SAFETY: it reads the same set.
    unsafe { libc::sigismember(&raw const pending, libc::SIGPIPE) == 1 }
}

fn on_every_kernel(role: &str, words: &str) {
    for without in KERNELS {
        let mut peer = Peer::spawn_with(role, |c| {
            c.env("SINEW_WITHOUT", without);
        });
        peer.say(words);
        let status = peer.wait();
        assert!(status.success(), "without {without}: {status}");
    }
}

fn host_with_the_default(link: &Link) {
    link.expect("go");
    for disposition in [libc::SIG_DFL, libc::SIG_IGN] {
        set_disposition(disposition);
        send_in_every_way();
        assert!(!is_pending());
        assert!(!is_blocked());
    }
}

fn no_send_to_nobody_kills_a_host_with_the_default() -> Result<(), Skip> {
    on_every_kernel("pipe::sigpipe::host_with_the_default", "go");
    Ok(())
}

/// Sends for as long as somebody reads, in the form that it is told.
fn sender_to_who_leaves(link: &Link) {
    set_disposition(libc::SIG_DFL);
    let tx = PipeWriter::from(link.recv_fd());
    let long = Duration::from_secs(60);
    let data = vec![0; 1 << 20];
    let done = match link.hear().as_str() {
        "send" => tx.send(&data),
        "bounded" => tx.send_timeout(&data, long),
        "held" => {
            let _held = HeldSigpipe::new();
            tx.send(&data)
        }
        "lend" => {
            // SAFETY: the data is not changed, and outlives the pipe, which ends with this process.
            unsafe { splice::vmsplice(&tx, &data, Wait::FOREVER) }
        }
        other => panic!("{other}"),
    };
    assert!(matches!(done, Err(SendError::Partial { stop: Stop::Closed, .. })), "{done:?}");
    assert!(!is_pending() && !is_blocked());
    link.say("alive");
}

fn a_reader_that_leaves_during_a_send_kills_nobody() -> Result<(), Skip> {
    use sinew::pipe::PipeExt;
    for without in KERNELS {
        for form in ["send", "bounded", "held", "lend"] {
            let (rx, tx) = pipe::pipe().unwrap();
            let peer = Peer::spawn_with("pipe::sigpipe::sender_to_who_leaves", |c| {
                c.env("SINEW_WITHOUT", without);
            });
            peer.send_fd(&tx);
            drop(tx);
            peer.say(form);
            // Lent pages may fill it with fewer bytes, where they begin inside a page.
            while rx.filled().unwrap() <= 61440 {
                std::thread::yield_now();
            }
            super::until_asleep(peer.pid());
            drop(rx);
            peer.expect("alive");
            peer.join();
        }
    }
    Ok(())
}

fn host_that_blocks_it(link: &Link) {
    link.expect("go");
    for disposition in [libc::SIG_DFL, libc::SIG_IGN] {
        set_disposition(disposition);
        block(libc::SIG_BLOCK);
        send_in_every_way();
        assert!(!is_pending(), "what a send caused was taken again");
        assert!(is_blocked(), "the mask is the host's");
        block(libc::SIG_UNBLOCK);
    }
}

fn no_sigpipe_is_left_where_it_is_blocked() -> Result<(), Skip> {
    on_every_kernel("pipe::sigpipe::host_that_blocks_it", "go");
    Ok(())
}

fn host_with_one_pending(link: &Link) {
    set_disposition(libc::SIG_DFL);
    block(libc::SIG_BLOCK);
    match link.hear().as_str() {
        "thread" => {
            // SAFETY: raising a blocked signal touches no memory.
            unsafe { libc::raise(libc::SIGPIPE) };
        }
        _ => {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::PIPE)
                .unwrap()
        }
    }
    assert!(is_pending());
    send_in_every_way();
    assert!(is_pending(), "it was not ours to take");
    {
        let _held = HeldSigpipe::new();
        send_in_every_way();
    }
    assert!(is_pending(), "nor while held");
    assert!(is_blocked());
}

fn a_sigpipe_of_somebody_else_stays_pending() -> Result<(), Skip> {
    on_every_kernel("pipe::sigpipe::host_with_one_pending", "thread");
    on_every_kernel("pipe::sigpipe::host_with_one_pending", "process");
    Ok(())
}

fn host_that_holds_it(link: &Link) {
    link.expect("go");
    set_disposition(libc::SIG_DFL);
    let outer = HeldSigpipe::new();
    assert!(is_blocked());
    send_in_every_way();
    assert!(!is_pending());
    let inner = HeldSigpipe::new();
    // In whatever order they go, the last one gives the mask back.
    drop(outer);
    assert!(is_blocked());
    send_in_every_way();
    drop(inner);
    assert!(!is_blocked());
    send_in_every_way();

    block(libc::SIG_BLOCK);
    drop(HeldSigpipe::new());
    assert!(is_blocked(), "it was blocked before");
    block(libc::SIG_UNBLOCK);
    // Another thread is none of its business.
    let _held = HeldSigpipe::new();
    let other = std::thread::spawn(|| {
        block(libc::SIG_UNBLOCK);
        send_in_every_way();
        is_blocked()
    });
    assert!(!other.join().unwrap());
    assert!(is_blocked());
}

fn held_sigpipes_nest_and_give_the_mask_back() -> Result<(), Skip> {
    on_every_kernel("pipe::sigpipe::host_that_holds_it", "go");
    Ok(())
}

fn victim(link: &Link) {
    set_disposition(libc::SIG_DFL);
    let tx = to_nobody();
    if link.hear() == "write" {
        let _ = rustix::io::write(&tx, b"x");
    } else {
        let lent = [IoSliceRaw::from_slice(&PAGE)];
        // SAFETY: the page is static, and `tx` can write.
        let _ = unsafe { rustix::pipe::vmsplice(&tx, &lent, rustix::pipe::SpliceFlags::empty()) };
    }
}

/// The other tests prove something only because this is so.
fn a_bare_write_to_nobody_would_kill() -> Result<(), Skip> {
    use std::os::unix::process::ExitStatusExt;
    for how in ["write", "vmsplice"] {
        let mut peer = Peer::spawn("pipe::sigpipe::victim");
        peer.say(how);
        assert_eq!(peer.wait().signal(), Some(libc::SIGPIPE));
    }
    Ok(())
}
