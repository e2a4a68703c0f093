//! Pipes: bytes and packets, room, ends, and no SIGPIPE.

use std::io::{PipeReader, PipeWriter};

use sinew::RecvError;
use sinew::pipe;
use sinew::wait::{ByteStream, Receives, Sends};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, steps, tests};

pub(crate) const TESTS: &[Test] =
    tests![what_is_sent_is_received_in_another_process, a_recv_and_a_send_are_one_system_call,];
pub(crate) const ROLES: &[Role] = roles![echo];

fn echo(link: &Link) {
    let rx = PipeReader::from(link.recv_fd());
    let tx = PipeWriter::from(link.recv_fd());
    let mut buf = vec![0; 1 << 16];
    while let Ok(length) = rx.recv(&mut buf) {
        tx.send(&buf[..length]).unwrap();
    }
}

fn what_is_sent_is_received_in_another_process() -> Result<(), Skip> {
    let (there, tx) = pipe::pipe().unwrap();
    let (rx, back) = pipe::pipe().unwrap();
    let peer = Peer::spawn("pipe::echo");
    peer.send_fd(&there);
    peer.send_fd(&back);
    drop((there, back));
    let mut got = [0; 5];
    tx.send(b"hello").unwrap();
    rx.exact().recv(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    drop(tx);
    assert_eq!(rx.recv(&mut got), Err(RecvError::Closed));
    peer.join();
    Ok(())
}

fn a_recv_and_a_send_are_one_system_call() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let mut buf = [0; 64];
    let done = steps::measure(2, || {
        tx.send(b"12345678").unwrap();
        assert_eq!(rx.recv(&mut buf), Ok(8));
        tx.try_send(b"12345678").unwrap();
        assert_eq!(rx.try_recv(&mut buf), Ok(8));
    });
    let done = match done {
        Ok(done) => done,
        Err(e) => return sinew_testkit::skip(format!("no stepper here: {e}")),
    };
    if sinew_testkit::fallbacks_forced() {
        return sinew_testkit::skip("one system call takes what newer kernels have");
    }
    let numbers: Vec<_> = done.calls.iter().map(|c| c.number).collect();
    assert_eq!(
        numbers,
        [libc::SYS_pwritev2, libc::SYS_read, libc::SYS_pwritev2, libc::SYS_preadv2]
    );
    if cfg!(not(debug_assertions)) {
        for call in done.calls {
            assert!(call.instructions_before <= 100, "{call:?}");
        }
    }
    Ok(())
}
