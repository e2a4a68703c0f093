//! Pipes in packet mode.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use sinew::pipe::{self, ATOMIC, Options, PacketReader, PacketWriter, PipeExt};
use sinew::wait::{Receives, Sends};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, skip, tests};

use super::{KERNELS, SHORT, assert_one_call, flags, kernel_is_at_least, pretend};

pub(crate) const TESTS: &[Test] = tests![
    packets_keep_their_boundaries_between_processes,
    a_packet_is_one_to_4096_bytes,
    a_packet_longer_than_the_buffer_says_so,
    a_pipe_holds_sixteen_packets,
    bounded_calls_on_packets_hold_on_every_kernel,
    only_a_packet_pipe_becomes_a_packet_writer,
    a_packet_is_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![counter, tester_of_packets];

fn counter(link: &Link) {
    let rx = PacketReader::from(link.recv_fd());
    let mut buf = [0; ATOMIC];
    loop {
        match rx.recv(&mut buf) {
            Ok(length) => {
                assert!(buf[..length].iter().all(|b| usize::from(*b) == length % 256));
                link.say(length);
            }
            Err(error) => {
                assert_eq!(error, RecvError::Closed);
                return;
            }
        }
    }
}

fn packets_keep_their_boundaries_between_processes() -> Result<(), Skip> {
    for without in KERNELS {
        let (rx, tx) = Options::new().create_packets().unwrap();
        let peer = Peer::spawn_with("pipe::packet::counter", |c| {
            c.env("SINEW_WITHOUT", without);
        });
        let lengths = [1, 4096, 2, 3, 4095, 100];
        for length in lengths {
            tx.send(&vec![length as u8; length]).unwrap();
        }
        peer.send_fd(&rx);
        drop((rx, tx));
        for length in lengths {
            peer.expect(&length.to_string());
        }
        peer.join();
    }
    Ok(())
}

fn a_packet_is_one_to_4096_bytes() -> Result<(), Skip> {
    let (rx, tx) = Options::new().create_packets().unwrap();
    assert_eq!(tx.send(b""), Err(SendError::Empty));
    assert_eq!(tx.send(&[0; ATOMIC + 1]), Err(SendError::TooBig { limit: 4096 }));
    assert_eq!(rx.filled().unwrap(), 0);
    tx.send(&[1; ATOMIC]).unwrap();
    assert_eq!(rx.recv(&mut [0; 2 * ATOMIC]), Ok(ATOMIC));
    Ok(())
}

/// A buffer of every kind of length against one packet of 4.
fn short_buffers(rx: &PacketReader, tx: &PacketWriter) {
    let lost = RecvError::TooSmall { needed: None, lost: true };
    let mut buf = [0; 8];
    for (room, expected) in [(0, Err(lost)), (3, Err(lost)), (4, Ok(4)), (5, Ok(4))] {
        for bounded in [false, true] {
            tx.send(b"four").unwrap();
            tx.send(b"next").unwrap();
            let recv = |buf: &mut [u8]| if bounded { rx.try_recv(buf) } else { rx.recv(buf) };
            buf.fill(0);
            assert_eq!(recv(&mut buf[..room]), expected, "a buffer of {room}");
            assert_eq!(buf[..room.min(4)], b"four"[..room.min(4)]);
            assert_eq!(buf[room..], [0; 8][room..], "no byte behind it was touched");
            assert_eq!(recv(&mut buf), Ok(4));
            assert_eq!(&buf[..4], b"next", "the rest is gone, and nothing more");
        }
    }
}

fn a_packet_longer_than_the_buffer_says_so() -> Result<(), Skip> {
    let (rx, tx) = Options::new().create_packets().unwrap();
    short_buffers(&rx, &tx);
    Ok(())
}

fn a_pipe_holds_sixteen_packets() -> Result<(), Skip> {
    let (rx, tx) = Options::new().capacity(65536).create_packets().unwrap();
    for _ in 0..16 {
        tx.try_send(b"x").unwrap();
    }
    assert_eq!(tx.try_send(b"x"), Err(SendError::Full));
    assert_eq!(rx.filled().unwrap(), 16);
    Ok(())
}

fn tester_of_packets(_: &Link) {
    let (rx, tx) = Options::new().create_packets().unwrap();
    let before = (flags(&rx), flags(&tx), census::descriptors());
    let mut buf = [0; ATOMIC];
    assert_eq!(rx.try_recv(&mut buf), Err(RecvError::Empty));
    assert_eq!(rx.try_recv(&mut buf[..5]), Err(RecvError::Empty));
    let begin = Instant::now();
    assert_eq!(rx.recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    short_buffers(&rx, &tx);

    let mut count = 0;
    while tx.try_send(b"ab").is_ok() {
        count += 1;
    }
    assert_eq!(count * ATOMIC, tx.capacity().unwrap());
    assert_eq!(tx.send_timeout(b"ab", SHORT), Err(SendError::TimedOut));
    // The whole page of a long packet comes by the bounded way as well.
    assert_eq!(rx.recv(&mut buf), Ok(2));
    tx.try_send(&[9; ATOMIC]).unwrap();
    for _ in 1..count {
        assert_eq!(rx.try_recv(&mut buf), Ok(2), "one at a time");
    }
    assert_eq!(rx.try_recv(&mut buf), Ok(ATOMIC));
    assert_eq!(buf, [9; ATOMIC]);
    assert_eq!(before, (flags(&rx), flags(&tx), census::descriptors()));

    // By way of a private pipe, boundaries are kept too.
    rustix::fs::fchmod(&tx, rustix::fs::Mode::empty()).unwrap();
    if rustix::process::geteuid().is_root() {
        let nobody = rustix::fs::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    }
    tx.try_send(b"one").unwrap();
    tx.try_send(b"three").unwrap();
    assert_eq!(rx.try_recv(&mut buf), Ok(3));
    assert_eq!(rx.recv(&mut buf), Ok(5));

    tx.send(b"last").unwrap();
    drop(tx);
    assert_eq!(rx.try_recv(&mut buf), Ok(4));
    assert_eq!(rx.try_recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(rx.try_recv(&mut buf[..3]), Err(RecvError::Closed));
    let (rx, tx) = Options::new().create_packets().unwrap();
    drop(rx);
    assert_eq!(tx.try_send(b"x"), Err(SendError::Closed));
}

fn bounded_calls_on_packets_hold_on_every_kernel() -> Result<(), Skip> {
    for without in KERNELS {
        Peer::spawn_with("pipe::packet::tester_of_packets", |c| {
            c.env("SINEW_WITHOUT", without);
        })
        .join();
    }
    Ok(())
}

fn only_a_packet_pipe_becomes_a_packet_writer() -> Result<(), Skip> {
    let refused = |fd: OwnedFd| PacketWriter::try_from(fd).unwrap_err().kind();
    let (rx, tx) = pipe::pipe().unwrap();
    assert_eq!(refused(tx.into()), ErrorKind::Mismatch);
    assert_eq!(refused(rx.into()), ErrorKind::Mismatch);
    assert_eq!(refused(tempfile::tempfile().unwrap().into()), ErrorKind::Mismatch);
    let (rx, tx) = Options::new().create_packets().unwrap();
    let tx = PacketWriter::try_from(OwnedFd::from(tx)).unwrap();
    let rx = PacketReader::from(OwnedFd::from(rx));
    tx.send(b"x").unwrap();
    assert_eq!(rx.recv(&mut [0; 9]), Ok(1));
    // The plain types take the ends as well, and see bytes.
    let (rx, tx) = (PipeReader::from(OwnedFd::from(rx)), PipeWriter::from(OwnedFd::from(tx)));
    tx.send(b"x").unwrap();
    assert_eq!(rx.recv(&mut [0; 9]), Ok(1));
    assert_ne!(rx.as_fd().capacity().unwrap(), 0);
    Ok(())
}

fn a_packet_is_one_system_call() -> Result<(), Skip> {
    if !kernel_is_at_least(6, 18) {
        return skip("the kernel has no RWF_NOSIGNAL");
    }
    pretend("");
    let (rx, tx) = Options::new().create_packets().unwrap();
    let mut buf = [0; ATOMIC];
    assert_one_call(libc::SYS_pwritev2, || tx.send(b"12345678").unwrap())?;
    // The packets of a forked child are this process's as well.
    assert_one_call(libc::SYS_read, || assert_eq!(rx.recv(&mut buf), Ok(8)))?;
    assert_one_call(libc::SYS_pwritev2, || tx.try_send(b"12345678").unwrap())?;
    assert_one_call(libc::SYS_readv, || assert_eq!(rx.recv(&mut buf[..8]), Ok(8)))?;
    assert_one_call(libc::SYS_pwritev2, || tx.try_send(b"12345678").unwrap())?;
    assert_one_call(libc::SYS_preadv2, || assert_eq!(rx.try_recv(&mut buf[..8]), Ok(8)))
}
