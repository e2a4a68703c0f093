//! Pipes: bytes and packets, room, ends, and no SIGPIPE.

#![allow(unsafe_code, reason = "tests change their own environment and user")]

pub(crate) mod packet;
pub(crate) mod sigpipe;

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Resource, Rlimit, Signal, setrlimit};
use rustix::thread::set_thread_res_uid;
use sinew::pipe::{self, ATOMIC, HeldSigpipe, Options, PipeExt};
use sinew::wait::{ByteStream, Interrupt, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError, Stop};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, skip, steps, tests};

pub(crate) const TESTS: &[Test] = tests![
    what_is_sent_is_received_in_another_process,
    a_send_and_a_recv_are_one_system_call,
    the_usual_capacity_is_65536_bytes,
    a_capacity_is_rounded_up_to_pages,
    a_capacity_above_the_limit_names_it,
    a_capacity_below_the_fill_is_in_use,
    what_is_no_pipe_has_no_capacity,
    without_descriptors_the_limit_is_named,
    nothing_is_sent_and_nothing_received,
    more_than_fits_goes_in_part,
    bounded_calls_hold_on_every_kernel,
    bounded_calls_hold_without_permission_to_reopen,
    a_send_without_a_descriptor_to_spare_fails_and_never_sleeps,
    a_non_blocking_description_waits_all_the_same,
    a_reader_that_can_write_is_read,
    a_killed_writer_leaves_what_it_sent_and_then_the_end,
    a_killed_reader_closes_the_pipe,
    a_stopped_reader_makes_the_sender_time_out_and_loses_nothing,
    concurrent_atomic_sends_never_mix,
    many_writers_of_long_data_lose_nothing,
    an_interrupt_ends_a_send_half_way,
    a_started_program_inherits_no_end,
    std_calls_stay_usable,
];
pub(crate) const ROLES: &[Role] = roles![
    echo,
    tester_of_bounded_calls,
    unprivileged_grower,
    writer_of_records,
    swallower,
    lister
];

/// Every way in which the library may find the kernel.
pub(crate) const KERNELS: [&str; 4] = ["none", "rwf-nosignal", "pipe-nowait", "all"];

const SHORT: Duration = Duration::from_millis(5);

/// Whether this kernel has everything for one call each (and nothing pretends otherwise).
pub(crate) fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
}

/// Makes the library look at the kernel as `without` says. Before its first look.
pub(crate) fn pretend(without: &str) {
    // SAFETY: the process has one thread.
    unsafe { std::env::set_var("SINEW_WITHOUT", without) };
}

/// Waits until a process sleeps in the kernel.
pub(crate) fn until_asleep(pid: Pid) {
    until_state(pid, 'S');
}

/// Stops a process, and waits until it is: the signal alone lets it run on for a moment.
pub(crate) fn stop(peer: &Peer) {
    peer.signal(Signal::STOP);
    until_state(peer.pid(), 'T');
}

fn until_state(pid: Pid, state: char) {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    loop {
        let stat = std::fs::read_to_string(&path).unwrap();
        if stat.rsplit_once(") ").unwrap().1.starts_with(state) {
            return;
        }
        std::thread::yield_now();
    }
}

pub(crate) fn flags(fd: impl AsFd) -> OFlags {
    fcntl_getfl(fd).unwrap()
}

fn echo(link: &Link) {
    let rx = PipeReader::from(link.recv_fd());
    let tx = PipeWriter::from(link.recv_fd());
    let mut buf = vec![0; 1 << 16];
    while let Ok(length) = rx.recv(&mut buf) {
        tx.send(&buf[..length]).unwrap();
    }
}

fn what_is_sent_is_received_in_another_process() -> Result<(), Skip> {
    for without in KERNELS {
        let (there, tx) = pipe::pipe().unwrap();
        let (rx, back) = pipe::pipe().unwrap();
        let peer = Peer::spawn_with("pipe::echo", |c| {
            c.env("SINEW_WITHOUT", without);
        });
        peer.send_fd(&there);
        peer.send_fd(&back);
        drop((there, back));
        for size in [1, 5, ATOMIC, ATOMIC + 1, 65536] {
            let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let mut got = vec![0; size];
            tx.send(&data).unwrap();
            rx.exact().recv(&mut got).unwrap();
            assert_eq!(got, data);
        }
        drop(tx);
        assert_eq!(rx.recv(&mut [0]), Err(RecvError::Closed));
        peer.join();
    }
    Ok(())
}

/// That `operation` is one system call, soon after it is entered. It is repeated: what it takes
/// must be there three times.
pub(crate) fn assert_one_call(number: libc::c_long, operation: impl FnMut()) -> Result<(), Skip> {
    let Ok(done) = steps::measure(2, operation) else {
        return skip("this process may not trace its own child");
    };
    assert_eq!(done.calls.iter().map(|c| c.number).collect::<Vec<_>>(), [number]);
    if cfg!(not(debug_assertions)) {
        assert!(done.calls[0].instructions_before <= 100, "{done:?}");
    }
    Ok(())
}

fn a_send_and_a_recv_are_one_system_call() -> Result<(), Skip> {
    if !kernel_is_at_least(6, 18) {
        return skip("the kernel has no RWF_NOSIGNAL");
    }
    pretend("");
    let (rx, tx) = pipe::pipe().unwrap();
    let later = Instant::now() + Duration::from_secs(60);
    assert_one_call(libc::SYS_pwritev2, || tx.send(b"12345678").unwrap())?;
    assert_one_call(libc::SYS_pwritev2, || tx.try_send(b"12345678").unwrap())?;
    assert_one_call(libc::SYS_pwritev2, || tx.send_until(b"12345678", later).unwrap())?;
    let mut buf = [0; 8];
    assert_one_call(libc::SYS_read, || assert_eq!(rx.recv(&mut buf), Ok(8)))?;
    tx.send(&[0; 24]).unwrap();
    assert_one_call(libc::SYS_preadv2, || assert_eq!(rx.try_recv(&mut buf), Ok(8)))?;
    tx.send(&[0; 24]).unwrap();
    assert_one_call(libc::SYS_preadv2, || assert_eq!(rx.recv_until(&mut buf, later), Ok(8)))?;
    tx.send(&[0; 24]).unwrap();
    assert_one_call(libc::SYS_read, || rx.exact().recv(&mut buf).unwrap())?;
    let _held = HeldSigpipe::new();
    assert_one_call(libc::SYS_write, || tx.send(b"12345678").unwrap())
}

fn the_usual_capacity_is_65536_bytes() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    if tx.capacity().unwrap() < 65536 {
        return skip("this user has too many pipes: fs.pipe-user-pages-soft");
    }
    assert_eq!((rx.capacity().unwrap(), tx.capacity().unwrap()), (65536, 65536));
    tx.try_send(&[1; 65536]).unwrap();
    assert_eq!(tx.try_send(&[1]), Err(SendError::Full));
    assert_eq!((rx.filled().unwrap(), tx.filled().unwrap()), (65536, 65536));
    Ok(())
}

fn a_capacity_is_rounded_up_to_pages() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    assert_eq!(tx.set_capacity(1).unwrap(), 4096);
    assert_eq!(rx.set_capacity(4097).unwrap(), 8192);
    assert_eq!(tx.capacity().unwrap(), 8192);
    let (rx, _tx) = Options::new().capacity(12_289).create().unwrap();
    assert_eq!(rx.capacity().unwrap(), 16384);
    Ok(())
}

/// Without CAP_SYS_RESOURCE, by which root is above the limits.
fn unprivileged_grower(_: &Link) {
    if rustix::process::geteuid().is_root() {
        let nobody = rustix::fs::Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody).unwrap();
    }
    let max: usize =
        std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap().trim().parse().unwrap();
    let (_rx, tx) = pipe::pipe().unwrap();
    let error = tx.set_capacity(max + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    let text = error.to_string();
    assert!(text.contains("fs.pipe-max-size"), "{text}");
    assert!(text.contains(&max.to_string()), "{text}");
    let error = Options::new().capacity(max + 1).create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);

    // The pages of this user, which every pipe counts against: 16384 by default.
    let mut pipes = Vec::new();
    let error = loop {
        match Options::new().capacity(max).create() {
            Ok(pipe) => pipes.push(pipe),
            Err(error) => break error,
        }
        assert!(pipes.len() < 2000, "a limit is reached");
    };
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    let text = error.to_string();
    let limit = if error.raw_os_error() == Some(libc::EPERM) {
        "fs.pipe-user-pages"
    } else {
        "RLIMIT_NOFILE"
    };
    assert!(text.contains(limit), "{text}");
}

fn a_capacity_above_the_limit_names_it() -> Result<(), Skip> {
    Peer::spawn("pipe::unprivileged_grower").join();
    Ok(())
}

fn a_capacity_below_the_fill_is_in_use() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(&[0; 10_000]).unwrap();
    assert_eq!(tx.set_capacity(4096).unwrap_err().kind(), ErrorKind::InUse);
    rx.exact().recv(&mut [0; 10_000]).unwrap();
    assert_eq!(tx.set_capacity(4096).unwrap(), 4096);
    Ok(())
}

fn what_is_no_pipe_has_no_capacity() -> Result<(), Skip> {
    let file = tempfile::tempfile().unwrap();
    let end = PipeWriter::from(OwnedFd::from(file));
    assert_eq!(end.capacity().unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(end.set_capacity(4096).unwrap_err().kind(), ErrorKind::Mismatch);
    Ok(())
}

/// Takes every descriptor number but `left`.
pub(crate) fn leave_descriptors(left: u64) {
    let next = std::os::fd::AsRawFd::as_raw_fd(&tempfile::tempfile().unwrap()) as u64;
    let limit = Rlimit { current: Some(next + left), maximum: None };
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { maximum, ..limit }).unwrap();
}

fn without_descriptors_the_limit_is_named() -> Result<(), Skip> {
    leave_descriptors(1);
    let error = pipe::pipe().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    Ok(())
}

fn nothing_is_sent_and_nothing_received() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(b"").unwrap();
    tx.try_send(b"").unwrap();
    assert_eq!(rx.filled().unwrap(), 0);
    assert_eq!(rx.recv(&mut []), Ok(0), "without waiting");
    tx.send(b"x").unwrap();
    assert_eq!(rx.recv(&mut []), Ok(0));
    assert_eq!(rx.recv(&mut [0; 2]), Ok(1));
    drop(rx);
    tx.send(b"").unwrap();
    Ok(())
}

fn more_than_fits_goes_in_part() -> Result<(), Skip> {
    let (rx, tx) = Options::new().capacity(65536).create().unwrap();
    let data: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
    let partial = SendError::Partial { sent: 65536, stop: Stop::WouldBlock };
    assert_eq!(tx.try_send(&data), Err(partial));
    assert_eq!(tx.try_send(&data), Err(SendError::Full));
    let mut got = vec![0; 65536];
    rx.exact().recv(&mut got).unwrap();
    assert_eq!(got, data[..65536]);
    assert_eq!(rx.try_recv(&mut got), Err(RecvError::Empty));

    let begin = Instant::now();
    let partial = SendError::Partial { sent: 65536, stop: Stop::TimedOut };
    assert_eq!(tx.send_timeout(&data, SHORT), Err(partial));
    assert!(begin.elapsed() >= SHORT);
    drop(rx);
    assert_eq!(tx.try_send(&data), Err(SendError::Closed));
    Ok(())
}

/// What every bounded call does, on both ends of one pipe or FIFO.
pub(crate) fn bounded_calls(rx: PipeReader, tx: PipeWriter) {
    let before = (flags(&rx), flags(&tx), census::descriptors());
    let mut buf = vec![0; 1 << 17];
    assert_eq!(rx.try_recv(&mut buf), Err(RecvError::Empty));
    let begin = Instant::now();
    assert_eq!(rx.recv_timeout(&mut buf, SHORT), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= SHORT);

    tx.try_send(b"abc").unwrap();
    tx.send_timeout(b"def", SHORT).unwrap();
    assert_eq!(rx.try_recv(&mut buf[..4]), Ok(4));
    assert_eq!(rx.recv_timeout(&mut buf[4..], SHORT), Ok(2));
    assert_eq!(&buf[..6], b"abcdef");

    // Whole or not at all, up to the last page.
    let page = [7; ATOMIC];
    let mut pages = 0;
    while tx.try_send(&page).is_ok() {
        pages += 1;
    }
    assert_eq!(pages * ATOMIC, tx.capacity().unwrap());
    assert_eq!(tx.try_send(&page), Err(SendError::Full));
    assert_eq!(rx.recv(&mut buf[..ATOMIC - 1]), Ok(ATOMIC - 1));
    assert_eq!(tx.try_send(&page), Err(SendError::Full), "a part of it would fit");
    let begin = Instant::now();
    assert_eq!(tx.send_timeout(&page, SHORT), Err(SendError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(rx.try_recv(&mut buf[..1]), Ok(1));
    tx.try_send(&page).unwrap();
    rx.exact().recv(&mut buf[..pages * ATOMIC]).unwrap();
    assert_eq!(rx.try_recv(&mut buf), Err(RecvError::Empty), "nothing came twice");

    // More goes in part.
    let data: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
    let Err(SendError::Partial { sent, stop }) = tx.send_timeout(&data, SHORT) else {
        panic!("100,000 bytes do not fit")
    };
    assert_eq!(stop, Stop::TimedOut);
    assert_eq!(rx.filled().unwrap(), sent);
    rx.exact().recv(&mut buf[..sent]).unwrap();
    assert_eq!(buf[..sent], data[..sent]);

    let interrupt = Interrupt::new().unwrap();
    interrupt.trigger();
    let wait = Wait::FOREVER.interrupted_by(&interrupt);
    assert_eq!(rx.recv_wait(&mut buf, wait), Err(RecvError::Interrupted));
    assert_eq!(tx.send_wait(b"x", wait), Err(SendError::Interrupted));
    drop(interrupt);

    assert_eq!(before, (flags(&rx), flags(&tx), census::descriptors()));

    // The ends.
    let again = rx.try_clone().unwrap();
    drop(rx);
    tx.try_send(b"rest").unwrap();
    drop(tx);
    assert_eq!(again.try_recv(&mut buf), Ok(4));
    assert_eq!(again.try_recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(again.recv_timeout(&mut buf, SHORT), Err(RecvError::Closed));
}

/// The other end of `bounded_calls`: nobody reads.
pub(crate) fn bounded_sends_to_nobody(rx: PipeReader, tx: &PipeWriter) {
    drop(rx);
    assert_eq!(tx.try_send(b"x"), Err(SendError::Closed));
    assert_eq!(tx.send_timeout(b"x", SHORT), Err(SendError::Closed));
    assert_eq!(tx.send(b"x"), Err(SendError::Closed));
}

fn tester_of_bounded_calls(link: &Link) {
    match link.hear().as_str() {
        "usual" => {
            let (rx, tx) = pipe::pipe().unwrap();
            bounded_calls(rx, tx);
            let (rx, tx) = pipe::pipe().unwrap();
            bounded_sends_to_nobody(rx, &tx);
        }
        "closed to others" => {
            let pipes = [pipe::pipe().unwrap(), pipe::pipe().unwrap()];
            for (rx, _) in &pipes {
                rustix::fs::fchmod(rx, rustix::fs::Mode::empty()).unwrap();
            }
            // Root may open all the same, until it is root no more.
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::fs::Uid::from_raw(65534);
                set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipes[0].1));
            assert!(std::fs::OpenOptions::new().write(true).open(path).is_err());
            let [(rx, tx), (gone, alone)] = pipes;
            bounded_calls(rx, tx);
            bounded_sends_to_nobody(gone, &alone);
        }
        other => panic!("{other}"),
    }
    link.say("done");
}

fn bounded_calls_hold_on_every_kernel() -> Result<(), Skip> {
    for without in KERNELS {
        let peer = Peer::spawn_with("pipe::tester_of_bounded_calls", |c| {
            c.env("SINEW_WITHOUT", without);
        });
        peer.say("usual");
        peer.expect("done");
        peer.join();
    }
    Ok(())
}

fn bounded_calls_hold_without_permission_to_reopen() -> Result<(), Skip> {
    for without in KERNELS {
        let peer = Peer::spawn_with("pipe::tester_of_bounded_calls", |c| {
            c.env("SINEW_WITHOUT", without);
        });
        peer.say("closed to others");
        peer.expect("done");
        peer.join();
    }
    Ok(())
}

fn a_send_without_a_descriptor_to_spare_fails_and_never_sleeps() -> Result<(), Skip> {
    pretend("all");
    let (rx, tx) = pipe::pipe().unwrap();
    leave_descriptors(0);
    assert_eq!(tx.try_send(b"x"), Err(SendError::Os(libc::EMFILE)));
    tx.send(b"x").unwrap();
    // Receiving needs none.
    assert_eq!(rx.try_recv(&mut [0; 2]), Ok(1));
    assert_eq!(rx.try_recv(&mut [0; 2]), Err(RecvError::Empty));
    Ok(())
}

fn a_non_blocking_description_waits_all_the_same() -> Result<(), Skip> {
    for without in KERNELS {
        let (there, tx) = pipe::pipe().unwrap();
        let (rx, back) = pipe::pipe().unwrap();
        for end in [rx.as_fd(), tx.as_fd(), there.as_fd(), back.as_fd()] {
            fcntl_setfl(end, OFlags::NONBLOCK).unwrap();
        }
        let peer = Peer::spawn_with("pipe::echo", |c| {
            c.env("SINEW_WITHOUT", without);
        });
        peer.send_fd(&there);
        peer.send_fd(&back);
        drop((there, back));
        // It sleeps in its `recv`, whatever the flag says; and both sides fill and drain.
        let data: Vec<u8> = (0..300_000).map(|i| (i % 249) as u8).collect();
        until_asleep(peer.pid());
        let mut got = vec![0; data.len()];
        std::thread::scope(|s| {
            s.spawn(|| tx.send(&data).unwrap());
            rx.exact().recv(&mut got).unwrap();
        });
        assert_eq!(got, data);
        assert_eq!(rx.try_recv(&mut got), Err(RecvError::Empty));
        drop(tx);
        assert_eq!(rx.recv(&mut got), Err(RecvError::Closed));
        peer.join();
    }
    Ok(())
}

fn a_reader_that_can_write_is_read() -> Result<(), Skip> {
    // The kernel would take the buffer into the pipe if it were given to vmsplice here.
    pretend("all");
    let path = sinew_testkit::scratch().join("both");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let both = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let rx = PipeReader::from(OwnedFd::from(both));
    assert_eq!(rx.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    assert_eq!(rx.filled().unwrap(), 0);
    rustix::io::write(&rx, b"seen").unwrap();
    let mut buf = [0; 8];
    assert_eq!(rx.try_recv(&mut buf), Ok(4));
    assert_eq!(&buf[..4], b"seen");
    Ok(())
}

fn a_killed_writer_leaves_what_it_sent_and_then_the_end() -> Result<(), Skip> {
    let (there, tx) = pipe::pipe().unwrap();
    let (rx, back) = pipe::pipe().unwrap();
    let peer = Peer::spawn("pipe::echo");
    peer.send_fd(&there);
    peer.send_fd(&back);
    drop((there, back));
    tx.send(&[5; 1000]).unwrap();
    while rx.filled().unwrap() < 1000 {
        std::thread::yield_now();
    }
    peer.kill();
    assert_eq!(rx.exact().recv(&mut [0; 600]), Ok(()));
    let partial = RecvError::Partial { received: 400, stop: Stop::Closed };
    assert_eq!(rx.exact().recv(&mut [0; 600]), Err(partial));
    assert_eq!(rx.recv(&mut [0; 1]), Err(RecvError::Closed));
    assert_eq!(rx.recv_timeout(&mut [0; 1], SHORT), Err(RecvError::Closed));
    Ok(())
}

fn a_killed_reader_closes_the_pipe() -> Result<(), Skip> {
    let (there, tx) = pipe::pipe().unwrap();
    let (_rx, back) = pipe::pipe().unwrap();
    let peer = Peer::spawn("pipe::echo");
    peer.send_fd(&there);
    peer.send_fd(&back);
    drop((there, back));
    stop(&peer);
    std::thread::scope(|s| {
        let sender = s.spawn(|| tx.send(&vec![0; 1 << 20]));
        while tx.filled().unwrap() == 0 {
            std::thread::yield_now();
        }
        peer.kill();
        let ended = sender.join().unwrap();
        assert!(
            matches!(ended, Err(SendError::Partial { sent, stop: Stop::Closed }) if sent >= 4096),
            "{ended:?}"
        );
    });
    assert_eq!(tx.send(b"x"), Err(SendError::Closed));
    Ok(())
}

/// Takes everything and says how much and what it was.
fn swallower(link: &Link) {
    let rx = PipeReader::from(link.recv_fd());
    link.say("ready");
    let (mut count, mut sum) = (0_u64, 0_u64);
    let mut buf = vec![0; 1 << 16];
    while let Ok(length) = rx.recv(&mut buf) {
        for byte in &buf[..length] {
            count += 1;
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        }
    }
    link.say(format!("{count} {sum}"));
}

fn a_stopped_reader_makes_the_sender_time_out_and_loses_nothing() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let peer = Peer::spawn("pipe::swallower");
    peer.send_fd(&rx);
    drop(rx);
    peer.expect("ready");
    stop(&peer);
    let data: Vec<u8> = (0..1_000_000).map(|i| (i % 253) as u8).collect();
    let begin = Instant::now();
    let ended = tx.send_timeout(&data, SHORT);
    let Err(SendError::Partial { sent, stop: Stop::TimedOut }) = ended else { panic!("{ended:?}") };
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(tx.send_timeout(&[0; ATOMIC], SHORT), Err(SendError::TimedOut));
    peer.signal(Signal::CONT);
    tx.send(&data[sent..]).unwrap();
    drop(tx);
    let sum = data.iter().fold(0_u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(*b)));
    peer.expect(&format!("{} {sum}", data.len()));
    peer.join();
    Ok(())
}

fn writer_of_records(link: &Link) {
    let tx = PipeWriter::from(link.recv_fd());
    let told = link.hear();
    let (letter, size) = told.split_once(' ').unwrap();
    let record = vec![letter.as_bytes()[0]; size.parse().unwrap()];
    for round in 0..200 {
        match round % 3 {
            0 => tx.send(&record).unwrap(),
            1 => tx.send_timeout(&record, Duration::from_secs(60)).unwrap(),
            _ => while tx.try_send(&record) == Err(SendError::Full) {},
        }
    }
}

/// What several processes write at once, and the ends of it.
fn written_by_three(size: usize, without: &str) -> (PipeReader, Vec<Peer>) {
    let (rx, tx) = pipe::pipe().unwrap();
    let writers: Vec<Peer> = ["a", "b", "c"]
        .into_iter()
        .map(|letter| {
            let peer = Peer::spawn_with("pipe::writer_of_records", |c| {
                c.env("SINEW_WITHOUT", without);
            });
            peer.send_fd(&tx);
            peer.say(format!("{letter} {size}"));
            peer
        })
        .collect();
    (rx, writers)
}

fn concurrent_atomic_sends_never_mix() -> Result<(), Skip> {
    for without in ["none", "all"] {
        for size in [ATOMIC, 1000] {
            let (rx, writers) = written_by_three(size, without);
            let mut record = vec![0; size];
            let mut counts = [0; 3];
            while let Ok(()) = rx.exact().recv(&mut record) {
                assert!(record.iter().all(|b| *b == record[0]), "two records in one");
                counts[usize::from(record[0] - b'a')] += 1;
            }
            assert_eq!(counts, [200; 3]);
            writers.into_iter().for_each(Peer::join);
        }
    }
    Ok(())
}

fn many_writers_of_long_data_lose_nothing() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let mut counts = [0_usize; 256];
    std::thread::scope(|s| {
        for letter in [1_u8, 2, 3] {
            let tx = tx.try_clone().unwrap();
            s.spawn(move || tx.send(&vec![letter; 500_000]).unwrap());
        }
        drop(tx);
        let mut buf = vec![0; 9999];
        while let Ok(length) = rx.recv(&mut buf) {
            buf[..length].iter().for_each(|b| counts[usize::from(*b)] += 1);
        }
    });
    assert_eq!(counts[..4], [0, 500_000, 500_000, 500_000]);
    Ok(())
}

fn an_interrupt_ends_a_send_half_way() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let wait = Wait::FOREVER.interrupted_by(&stop);
        let sender = s.spawn(move || tx.send_wait(&[1; 100_000], wait));
        while rx.filled().unwrap() < 65536 {
            std::thread::yield_now();
        }
        stop.trigger();
        let partial = SendError::Partial { sent: 65536, stop: Stop::Interrupted };
        assert_eq!(sender.join().unwrap(), Err(partial));
    });
    Ok(())
}

fn lister(link: &Link) {
    link.say(census::descriptors().into_iter().collect::<Vec<_>>().join("\n"));
}

fn a_started_program_inherits_no_end() -> Result<(), Skip> {
    let before = census::descriptors();
    let ends = (pipe::pipe().unwrap(), Options::new().create_packets().unwrap());
    let peer = Peer::spawn("pipe::lister");
    let theirs = peer.hear();
    assert!(theirs.contains("socket:"), "the link to its test: {theirs}");
    let ours = census::descriptors();
    let targets = |list: Vec<&str>| -> Vec<String> {
        list.iter().filter_map(|l| Some(l.split_once(" -> ")?.1.to_owned())).collect()
    };
    // Who runs the tests may have left pipes to every process.
    let theirs = targets(theirs.lines().collect());
    let ours: Vec<_> = ours.iter().filter(|d| !before.contains(*d)).map(String::as_str).collect();
    let pipes: Vec<_> = targets(ours).into_iter().filter(|t| t.starts_with("pipe:")).collect();
    assert_eq!(pipes.len(), 4);
    assert!(pipes.iter().all(|pipe| !theirs.contains(pipe)), "{theirs:?} has one of {pipes:?}");
    peer.join();
    drop(ends);
    Ok(())
}

fn std_calls_stay_usable() -> Result<(), Skip> {
    let (mut rx, mut tx) = pipe::pipe().unwrap();
    tx.write_all(b"by std").unwrap();
    let mut buf = [0; 16];
    assert_eq!(rx.recv(&mut buf), Ok(6));
    tx.send(b"by the verb").unwrap();
    assert_eq!(rx.read(&mut buf).unwrap(), 11);
    drop(tx);
    assert_eq!(rx.read(&mut buf).unwrap(), 0);
    assert_eq!(rx.recv(&mut buf), Err(RecvError::Closed));
    let _: BorrowedFd<'_> = rx.as_fd();
    Ok(())
}
