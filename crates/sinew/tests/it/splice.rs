//! splice, tee and vmsplice: what moves, what waits, and what is refused.

#![allow(unsafe_code, reason = "lending memory to the kernel is unsafe")]

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::Signal;
use sinew::pipe::{self, HeldSigpipe, PipeExt};
use sinew::splice::{self, TransferError, TransferStop, Transfers};
use sinew::wait::{ByteStream, Interrupt, Receives, Sends, Wait};
use sinew::{RecvError, SendError, Stop};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, tests};

use crate::pipe::{assert_one_call, flags, stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    bytes_move_between_pipes_of_two_processes,
    a_file_goes_into_a_pipe_and_out_of_it,
    offsets_leave_the_position_alone,
    exact_and_to_end_finish_partial_transfers,
    an_early_end_says_how_far_it_came,
    without_a_pipe_the_bytes_go_through_one,
    without_a_pipe_there_is_no_bounded_form,
    sockets_are_spliced_both_ways,
    nothing_is_moved_and_nothing_waited_for,
    full_empty_and_ended_are_told_apart,
    a_bounded_transfer_holds_against_blocking_sockets,
    a_deadline_ends_a_transfer_to_a_stopped_process,
    an_interrupt_ends_a_transfer,
    a_tee_leaves_what_it_copies,
    lent_pages_arrive_in_another_process,
    lent_pages_are_the_ones_of_the_lender,
    lending_ends_where_the_pipe_is_full,
    a_read_end_is_lent_nothing,
    a_file_opened_for_appending_is_refused,
    a_peer_that_leaves_a_socket_kills_nobody,
    each_transfer_is_one_system_call_while_sigpipe_is_held,
];
pub(crate) const ROLES: &[Role] = roles![relay, summer, leaver];

const SHORT: Duration = Duration::from_millis(5);

fn stopped(stop: TransferStop) -> TransferError {
    TransferError { moved: 0, stop }
}

fn sum(data: &[u8]) -> u64 {
    data.iter().fold(0, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(*b)))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

fn file_of(data: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(data).unwrap();
    file.rewind().unwrap();
    file
}

fn content_of(mut file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Moves everything from one pipe to the next.
fn relay(link: &Link) {
    let from = PipeReader::from(link.recv_fd());
    let to = PipeWriter::from(link.recv_fd());
    let moved = splice::splice(&from, &to).to_end(Wait::FOREVER).unwrap();
    link.say(moved);
}

fn bytes_move_between_pipes_of_two_processes() -> Result<(), Skip> {
    let (from, tx) = pipe::pipe().unwrap();
    let (rx, to) = pipe::pipe().unwrap();
    let peer = Peer::spawn("splice::relay");
    peer.send_fd(&from);
    peer.send_fd(&to);
    drop((from, to));
    let data = pattern(1_000_000);
    let mut got = vec![0; data.len()];
    std::thread::scope(|s| {
        s.spawn(|| {
            tx.send(&data).unwrap();
            drop(tx);
        });
        rx.exact().recv(&mut got).unwrap();
    });
    assert_eq!(got, data);
    assert_eq!(rx.recv(&mut got), Err(RecvError::Closed));
    peer.expect("1000000");
    peer.join();
    Ok(())
}

fn a_file_goes_into_a_pipe_and_out_of_it() -> Result<(), Skip> {
    let data = pattern(10_000);
    let (from, to) = (file_of(&data), tempfile::tempfile().unwrap());
    let (rx, tx) = pipe::pipe().unwrap();
    splice::splice(&from, &tx).exact(10_000, Wait::FOREVER).unwrap();
    assert_eq!(rx.filled().unwrap(), 10_000);
    assert_eq!(splice::splice(&from, &tx).transfer(1), Err(stopped(TransferStop::Ended)));
    splice::splice(&rx, &to).exact(10_000, Wait::FOREVER).unwrap();
    assert_eq!(content_of(&to), data);
    Ok(())
}

fn offsets_leave_the_position_alone() -> Result<(), Skip> {
    let data = pattern(20_000);
    let (mut from, mut to) = (file_of(&data), file_of(&[0; 30_000]));
    let (rx, tx) = pipe::pipe().unwrap();
    let wait = Wait::FOREVER;
    splice::splice(&from, &tx).from_offset(5000).exact(15_000, wait).unwrap();
    splice::splice(&rx, &to).to_offset(10_000).exact(15_000, wait).unwrap();
    assert_eq!(from.stream_position().unwrap(), 0);
    assert_eq!(to.stream_position().unwrap(), 0);
    assert_eq!(content_of(&to)[10_000..25_000], data[5000..]);
    assert_eq!(content_of(&to)[..10_000], [0; 10_000]);
    // A pipe has no offsets.
    tx.send(b"x").unwrap();
    let error = splice::splice(&rx, &to).from_offset(1).transfer(1).unwrap_err();
    assert_eq!(error, stopped(TransferStop::Os(libc::ESPIPE)));
    Ok(())
}

fn exact_and_to_end_finish_partial_transfers() -> Result<(), Skip> {
    let data = pattern(300_000);
    let from = file_of(&data);
    let (rx, tx) = pipe::pipe().unwrap();
    let mut got = vec![0; data.len()];
    std::thread::scope(|s| {
        s.spawn(|| {
            // Far more than the pipe holds, and not a multiple of anything.
            splice::splice(&from, &tx).exact(123_457, Wait::FOREVER).unwrap();
            let rest = splice::splice(&from, &tx).to_end(Wait::timeout(Duration::from_secs(60)));
            assert_eq!(rest, Ok(300_000 - 123_457));
        });
        rx.exact().recv(&mut got).unwrap();
    });
    assert_eq!(got, data);
    Ok(())
}

fn an_early_end_says_how_far_it_came() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let to = tempfile::tempfile().unwrap();
    tx.send(b"five!").unwrap();
    let wait = Wait::timeout(SHORT);
    assert_eq!(
        splice::splice(&rx, &to).exact(9, wait),
        Err(TransferError { moved: 5, stop: TransferStop::TimedOut })
    );
    tx.send(b"four").unwrap();
    drop(tx);
    assert_eq!(
        splice::splice(&rx, &to).exact(9, Wait::FOREVER),
        Err(TransferError { moved: 4, stop: TransferStop::Ended })
    );
    assert_eq!(content_of(&to), b"five!four");
    let (rx, tx) = pipe::pipe().unwrap();
    drop(rx);
    assert_eq!(
        splice::splice(&to, &tx).from_offset(0).to_end(Wait::FOREVER),
        Err(stopped(TransferStop::Closed))
    );
    Ok(())
}

fn without_a_pipe_the_bytes_go_through_one() -> Result<(), Skip> {
    let data = pattern(2_500_000);
    let from = file_of(&data);
    let to = tempfile::tempfile().unwrap();
    let before = census::descriptors();
    assert_eq!(splice::splice(&from, &to).to_end(Wait::FOREVER), Ok(2_500_000));
    assert_eq!(content_of(&to), data);

    let part = tempfile::tempfile().unwrap();
    splice::splice(&from, &part).from_offset(1000).exact(7777, Wait::FOREVER).unwrap();
    assert_eq!(content_of(&part), data[1000..8777]);
    drop(part);

    let (mut near, far) = UnixStream::pair().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            splice::splice(&from, &far).from_offset(0).exact(2_500_000, Wait::FOREVER).unwrap();
            drop(far);
        });
        let mut got = Vec::new();
        near.read_to_end(&mut got).unwrap();
        assert!(got == data);
    });
    drop(near);
    assert_eq!(census::descriptors(), before);
    Ok(())
}

fn without_a_pipe_there_is_no_bounded_form() -> Result<(), Skip> {
    let (from, to) = (file_of(b"abc"), tempfile::tempfile().unwrap());
    let refused = stopped(TransferStop::Os(libc::EINVAL));
    assert_eq!(splice::splice(&from, &to).transfer(3), Err(refused));
    assert_eq!(splice::splice(&from, &to).exact(3, Wait::timeout(SHORT)), Err(refused));
    assert_eq!(splice::splice(&from, &to).to_end(Wait::NEVER), Err(refused));
    assert_eq!(splice::tee(&from, &to).transfer(3), Err(refused));
    Ok(())
}

fn sockets_are_spliced_both_ways() -> Result<(), Skip> {
    fn there_and_back<S: AsFd + Read + Write>(mut near: S, far: S) {
        let (rx, tx) = pipe::pipe().unwrap();
        near.write_all(b"to a pipe").unwrap();
        assert_eq!(splice::splice(&far, &tx).transfer(100), Ok(9));
        assert_eq!(splice::splice(&rx, &far).transfer_timeout(100, SHORT), Ok(9));
        let mut got = [0; 9];
        near.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"to a pipe");
        drop(near);
        assert_eq!(splice::splice(&far, &tx).transfer(100), Err(stopped(TransferStop::Ended)));
    }
    let (near, far) = UnixStream::pair().unwrap();
    there_and_back(near, far);
    let (near, far) = tcp();
    there_and_back(near, far);
    Ok(())
}

fn nothing_is_moved_and_nothing_waited_for() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let (next, to) = pipe::pipe().unwrap();
    assert_eq!(splice::splice(&rx, &to).transfer(0), Ok(0));
    assert_eq!(splice::tee(&rx, &to).transfer(0), Ok(0));
    assert_eq!(splice::splice(&rx, &to).exact(0, Wait::FOREVER), Ok(()));
    splice::vmsplice_static(&tx, b"", Wait::FOREVER).unwrap();
    assert_eq!(next.filled().unwrap(), 0);
    Ok(())
}

fn full_empty_and_ended_are_told_apart() -> Result<(), Skip> {
    let (from, tx) = pipe::pipe().unwrap();
    let (rx, to) = pipe::pipe().unwrap();
    let before = [flags(&from), flags(&to)];
    type Call = fn(&PipeReader, &PipeWriter, Wait<'_>) -> Result<usize, TransferError>;
    let calls: [Call; 2] = [
        |from, to, wait| splice::splice(from, to).transfer_wait(9, wait),
        |from, to, wait| splice::tee(from, to).transfer_wait(9, wait),
    ];
    for call in calls {
        let never = Err(stopped(TransferStop::WouldBlock));
        let late = Err(stopped(TransferStop::TimedOut));
        // Nothing to take.
        assert_eq!(call(&from, &to, Wait::NEVER), never);
        let begin = Instant::now();
        assert_eq!(call(&from, &to, Wait::timeout(SHORT)), late);
        assert!(begin.elapsed() >= SHORT);
        // No room to put it.
        let full = to.capacity().unwrap();
        to.send(&vec![0; full]).unwrap();
        tx.send(b"x").unwrap();
        assert_eq!(call(&from, &to, Wait::NEVER), never);
        let begin = Instant::now();
        assert_eq!(call(&from, &to, Wait::timeout(SHORT)), late);
        assert!(begin.elapsed() >= SHORT);
        rx.exact().recv(&mut vec![0; full]).unwrap();
        assert_eq!(call(&from, &to, Wait::timeout(SHORT)), Ok(1));
        rx.recv(&mut [0]).unwrap();
        let _ = from.try_recv(&mut [0]);
    }
    assert_eq!(before, [flags(&from), flags(&to)]);
    drop(tx);
    for call in calls {
        assert_eq!(call(&from, &to, Wait::FOREVER), Err(stopped(TransferStop::Ended)));
        assert_eq!(call(&from, &to, Wait::NEVER), Err(stopped(TransferStop::Ended)));
    }
    Ok(())
}

/// The kernel would sleep in these, whatever SPLICE_F_NONBLOCK says.
fn a_bounded_transfer_holds_against_blocking_sockets() -> Result<(), Skip> {
    fn check<S: AsFd + Read + Write>(near: S, mut far: S) {
        let before = flags(&near);
        let (rx, tx) = pipe::pipe().unwrap();
        assert_eq!(
            splice::splice(&near, &tx).try_transfer(9),
            Err(stopped(TransferStop::WouldBlock))
        );
        let begin = Instant::now();
        assert_eq!(
            splice::splice(&near, &tx).transfer_timeout(9, SHORT),
            Err(stopped(TransferStop::TimedOut))
        );
        assert!(begin.elapsed() >= SHORT);

        // Until the socket takes no more, with far more waiting than it takes at once; every byte
        // that it took arrives.
        tx.set_capacity(1 << 20).unwrap();
        let (mut given, mut moved) = (0, 0);
        let stop = loop {
            while tx.try_send(&[7; 4096]).is_ok() {
                given += 4096;
            }
            match splice::splice(&rx, &near).try_transfer(1 << 20) {
                Ok(count) => moved += count,
                Err(error) => break error,
            }
        };
        assert_eq!(stop, stopped(TransferStop::WouldBlock));
        assert_eq!(
            splice::splice(&rx, &near).transfer_timeout(1 << 20, SHORT),
            Err(stopped(TransferStop::TimedOut))
        );
        assert!(moved > 0);
        assert_eq!(before, flags(&near));
        assert_eq!(rx.filled().unwrap(), given - moved);
        drop((near, tx));
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), moved);
    }
    let (near, far) = UnixStream::pair().unwrap();
    check(near, far);
    let (near, far) = tcp();
    check(near, far);
    Ok(())
}

fn summer(link: &Link) {
    let rx = PipeReader::from(link.recv_fd());
    link.say("ready");
    let mut all = Vec::new();
    let mut buf = vec![0; 1 << 16];
    while let Ok(length) = rx.recv(&mut buf) {
        all.extend_from_slice(&buf[..length]);
    }
    link.say(format!("{} {}", all.len(), sum(&all)));
}

fn a_deadline_ends_a_transfer_to_a_stopped_process() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let peer = Peer::spawn("splice::summer");
    peer.send_fd(&rx);
    drop(rx);
    peer.expect("ready");
    stop(&peer);
    let data = pattern(500_000);
    let from = file_of(&data);
    let begin = Instant::now();
    let error = splice::splice(&from, &tx).exact(500_000, Wait::timeout(SHORT)).unwrap_err();
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(error.stop, TransferStop::TimedOut);
    assert_eq!(error.moved, 65536);
    peer.signal(Signal::CONT);
    assert_eq!(splice::splice(&from, &tx).to_end(Wait::FOREVER), Ok(500_000 - error.moved));
    drop(tx);
    peer.expect(&format!("500000 {}", sum(&data)));
    peer.join();
    Ok(())
}

fn an_interrupt_ends_a_transfer() -> Result<(), Skip> {
    let (from, tx) = pipe::pipe().unwrap();
    let (_rx, to) = pipe::pipe().unwrap();
    let stop = Interrupt::new().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    let own = rustix::process::getpid();
    let interrupted = Err(stopped(TransferStop::Interrupted));
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(own);
            stop.trigger();
        });
        assert_eq!(splice::splice(&from, &to).transfer_wait(9, wait), interrupted);
    });
    tx.send(b"x").unwrap();
    assert_eq!(splice::tee(&from, &to).transfer_wait(9, wait), interrupted, "triggered it stays");
    Ok(())
}

fn a_tee_leaves_what_it_copies() -> Result<(), Skip> {
    let (from, tx) = pipe::pipe().unwrap();
    let (rx, to) = pipe::pipe().unwrap();
    tx.send(b"twice").unwrap();
    assert_eq!(splice::tee(&from, &to).transfer(3), Ok(3));
    assert_eq!(splice::tee(&from, &to).transfer(9), Ok(5), "from the beginning again");
    let mut got = [0; 8];
    rx.exact().recv(&mut got).unwrap();
    assert_eq!(&got, b"twitwice");
    assert_eq!(from.filled().unwrap(), 5);
    Ok(())
}

static PAGES: [u8; 100_000] = {
    let mut pages = [0; 100_000];
    let mut i = 0;
    while i < pages.len() {
        pages[i] = (i % 247) as u8;
        i += 1;
    }
    pages
};

fn lent_pages_arrive_in_another_process() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let peer = Peer::spawn("splice::summer");
    peer.send_fd(&rx);
    drop(rx);
    peer.expect("ready");
    let long = Wait::timeout(Duration::from_secs(60));
    splice::vmsplice_static(&tx, &PAGES, Wait::FOREVER).unwrap();
    splice::vmsplice_static(&tx, &PAGES, long).unwrap();
    drop(tx);
    let twice = [PAGES, PAGES].concat();
    peer.expect(&format!("200000 {}", sum(&twice)));
    peer.join();
    Ok(())
}

fn lent_pages_are_the_ones_of_the_lender() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let mut data = vec![1; 4096];
    // SAFETY: the memory outlives the pipe, and `tx` can write. That it changes while it is lent is
    // the point here: the one reader is this thread, and knows.
    unsafe { splice::vmsplice(&tx, &data, Wait::FOREVER) }.unwrap();
    data[7] = 9;
    let mut got = [0; 4096];
    rx.exact().recv(&mut got).unwrap();
    assert_eq!((got[6], got[7]), (1, 9), "no copy was made");
    Ok(())
}

fn lending_ends_where_the_pipe_is_full() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let ended = splice::vmsplice_static(&tx, &PAGES, Wait::NEVER);
    let Err(SendError::Partial { sent, stop: Stop::WouldBlock }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(rx.filled().unwrap(), sent);
    assert_eq!(splice::vmsplice_static(&tx, &PAGES, Wait::NEVER), Err(SendError::Full));
    let begin = Instant::now();
    let ended = splice::vmsplice_static(&tx, &PAGES, Wait::timeout(SHORT));
    assert_eq!(ended, Err(SendError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    let mut got = vec![0; sent];
    rx.exact().recv(&mut got).unwrap();
    assert_eq!(got, PAGES[..sent]);
    Ok(())
}

fn a_read_end_is_lent_nothing() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(&[255; 4096]).unwrap();
    let disguised = PipeWriter::from(OwnedFd::from(rx.try_clone().unwrap()));
    let refused = Err(SendError::Os(libc::EBADF));
    assert_eq!(splice::vmsplice_static(&disguised, &PAGES, Wait::FOREVER), refused);
    assert_eq!(rx.filled().unwrap(), 4096, "nothing was read into the pages");
    let file = PipeWriter::from(OwnedFd::from(tempfile::tempfile().unwrap()));
    assert_eq!(splice::vmsplice_static(&file, &PAGES, Wait::FOREVER), refused);
    Ok(())
}

fn a_file_opened_for_appending_is_refused() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(b"x").unwrap();
    let to = tempfile::tempfile().unwrap();
    rustix::fs::fcntl_setfl(&to, OFlags::APPEND).unwrap();
    let refused = Err(stopped(TransferStop::Os(libc::EINVAL)));
    assert_eq!(splice::splice(&rx, &to).transfer(1), refused);
    assert_eq!(rx.filled().unwrap(), 1, "it is still there");
    Ok(())
}

/// Moves into a socket whose other side leaves meanwhile, as a host that would die of SIGPIPE.
fn leaver(link: &Link) {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let socket = link.recv_fd();
    let how = link.hear();
    let held = how.starts_with("held").then(HeldSigpipe::new);
    let (rx, tx) = pipe::pipe().unwrap();
    tx.set_capacity(1 << 20).unwrap();
    if how.ends_with("once") {
        // It sleeps half-way, and gives how much went, whatever signal the kernel raised.
        tx.send(&vec![0; 1 << 20]).unwrap();
        let moved = splice::splice(&rx, &socket).transfer(1 << 20);
        assert!(moved.is_ok_and(|moved| moved < 1 << 20), "{moved:?}");
        drop(held);
        link.say("alive");
        return;
    }
    let error = loop {
        tx.try_send(&vec![0; (1 << 20) - rx.filled().unwrap()]).unwrap_or(());
        if let Err(error) = splice::splice(&rx, &socket).transfer(1 << 20) {
            break error;
        }
    };
    assert!(
        matches!(error.stop, TransferStop::Closed | TransferStop::Os(libc::ECONNRESET)),
        "{error}"
    );
    drop(held);
    link.say("alive");
}

fn a_peer_that_leaves_a_socket_kills_nobody() -> Result<(), Skip> {
    for how in ["held", "not held", "held, once", "once"] {
        for _ in 0..3 {
            let (near, far) = UnixStream::pair().unwrap();
            let mut sockets: Vec<(OwnedFd, OwnedFd)> = vec![(near.into(), far.into())];
            if !how.ends_with("once") {
                // One transfer may fit whole into a connection, and then it does not sleep.
                let (near, far) = tcp();
                sockets.push((near.into(), far.into()));
            }
            for (near, far) in sockets {
                let peer = Peer::spawn("splice::leaver");
                peer.send_fd(&near);
                drop(near);
                peer.say(how);
                let mut some = [0; 100];
                rustix::io::read(&far, &mut some).unwrap();
                until_asleep(peer.pid());
                drop(far);
                peer.expect("alive");
                peer.join();
            }
        }
    }
    Ok(())
}

fn each_transfer_is_one_system_call_while_sigpipe_is_held() -> Result<(), Skip> {
    let (from, tx) = pipe::pipe().unwrap();
    let (_rx, to) = pipe::pipe().unwrap();
    let _held = HeldSigpipe::new();
    // SAFETY: static memory, and `tx` can write.
    let lend = || unsafe { splice::vmsplice(&tx, &PAGES[..8], Wait::FOREVER) }.unwrap();
    assert_one_call(libc::SYS_vmsplice, lend)?;
    assert_one_call(libc::SYS_tee, || assert_eq!(splice::tee(&from, &to).transfer(8), Ok(8)))?;
    assert_one_call(libc::SYS_splice, || assert_eq!(splice::splice(&from, &to).transfer(8), Ok(8)))
}
