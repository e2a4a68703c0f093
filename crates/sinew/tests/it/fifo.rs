//! FIFOs: names, ends that wait for each other, and ends that do not.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, umask};
use sinew::fifo::{self, Fifo, Options};
use sinew::wait::{ByteStream, Interrupt, Opens, Receives, Sends, Wait};
use sinew::{ErrorKind, RecvError, SendError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, scratch, tests};

use crate::pipe::{KERNELS, bounded_calls, bounded_sends_to_nobody, flags, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    create_wants_a_new_name_and_open_an_old_one,
    open_or_create_keeps_what_exists,
    the_mode_is_0600_or_what_is_asked_whatever_the_umask,
    what_is_no_fifo_is_refused_and_stays,
    a_link_that_leads_nowhere_is_not_waited_for,
    a_folder_without_room_for_it_says_why,
    each_end_waits_for_the_other,
    a_writer_without_reader_would_block,
    a_reader_needs_no_writer_to_try,
    bounded_opens_time_out,
    a_bounded_reader_meets_a_writer_that_waits,
    a_bounded_reader_meets_a_writer_that_comes_later,
    a_bounded_reader_sees_that_a_writer_came_and_went,
    a_bounded_reader_does_without_inotify,
    a_bounded_reader_takes_no_byte,
    a_bounded_writer_meets_a_reader_that_waits,
    a_bounded_writer_meets_a_reader_that_comes_later,
    an_interrupt_ends_an_open,
    an_opened_end_blocks_and_is_close_on_exec,
    bounded_calls_hold_on_every_kernel,
    an_unlinked_fifo_goes_on,
    a_killed_writer_ends_and_the_next_one_begins,
    a_device_is_not_opened,
    opens_without_descriptors_name_the_limit,
];
pub(crate) const ROLES: &[Role] = roles![opener, tester_of_bounded_calls];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

fn path() -> PathBuf {
    scratch().join("fifo")
}

/// A new FIFO that is gone at the end of the test.
struct Named(Fifo);

impl Named {
    fn new() -> Self {
        Self(Options::new().create(path()).unwrap())
    }
}

impl std::ops::Deref for Named {
    type Target = Fifo;

    fn deref(&self) -> &Fifo {
        &self.0
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.0.unlink();
    }
}

/// Opens one end as it is told, says so, and uses it.
fn opener(link: &Link) {
    let fifo = Options::new().open(path()).unwrap();
    loop {
        let Some((words, _)) = link.try_receive() else { return };
        match String::from_utf8(words).unwrap().as_str() {
            "write" => {
                let tx = fifo.writer().open().unwrap();
                tx.send(b"from the peer").unwrap();
                link.say("wrote");
            }
            "open to write" => {
                let tx = fifo.writer().open().unwrap();
                link.say("open");
                link.expect("go on");
                tx.send(b"later").unwrap();
            }
            "open shortly" => {
                // Without waiting, so that it may be gone before the reader looks.
                let tx = loop {
                    if let Ok(tx) = fifo.writer().try_open() {
                        break tx;
                    }
                };
                drop(tx);
                link.say("gone");
            }
            "read" => {
                let rx = fifo.reader().open().unwrap();
                let mut buf = [0; 64];
                let length = rx.recv(&mut buf).unwrap();
                link.say(String::from_utf8_lossy(&buf[..length]));
            }
            other => panic!("{other}"),
        }
    }
}

fn create_wants_a_new_name_and_open_an_old_one() -> Result<(), Skip> {
    assert_eq!(Options::new().open(path()).unwrap_err().kind(), ErrorKind::NotFound);
    let made = Options::new().create(path()).unwrap();
    assert_eq!(made.path(), path());
    let error = Options::new().create(path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().starts_with("fifo \"/"), "{error}");
    assert_eq!(Options::new().open(path()).unwrap(), made);
    made.unlink().unwrap();
    assert_eq!(made.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(made.reader().try_open().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(made.writer().try_open().unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn open_or_create_keeps_what_exists() -> Result<(), Skip> {
    let made = Options::new().open_or_create(path()).unwrap();
    let inode = std::fs::metadata(path()).unwrap().ino();
    Options::new().open_or_create(path()).unwrap();
    assert_eq!(std::fs::metadata(path()).unwrap().ino(), inode);
    made.unlink().unwrap();
    Ok(())
}

fn the_mode_is_0600_or_what_is_asked_whatever_the_umask() -> Result<(), Skip> {
    for mask in [0, 0o777] {
        umask(Mode::from_raw_mode(mask));
        for (options, mode) in [(Options::new(), 0o600), (Options::new().mode(0o622), 0o622)] {
            let made = options.create(path()).unwrap();
            let found = std::fs::metadata(path()).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "under umask {mask:o}");
            made.unlink().unwrap();
        }
    }
    Ok(())
}

fn what_is_no_fifo_is_refused_and_stays() -> Result<(), Skip> {
    std::fs::write(path(), "content").unwrap();
    let mismatch = |error: sinew::Error| assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    mismatch(Options::new().open(path()).unwrap_err());
    mismatch(Options::new().open_or_create(path()).unwrap_err());
    mismatch(fifo::unlink(path()).unwrap_err());
    assert_eq!(std::fs::read(path()).unwrap(), b"content");
    std::fs::remove_file(path()).unwrap();

    // What takes the name later is neither opened nor removed.
    let fifo = Options::new().create(path()).unwrap();
    std::fs::remove_file(path()).unwrap();
    std::fs::create_dir(path()).unwrap();
    mismatch(fifo.reader().open().unwrap_err());
    mismatch(fifo.writer().open_timeout(SHORT).unwrap_err());
    mismatch(fifo.unlink().unwrap_err());
    std::fs::remove_dir(path()).unwrap();
    // A socket fails to open with the same number as a FIFO without reader.
    let socket = std::os::unix::net::UnixListener::bind(path()).unwrap();
    mismatch(fifo.writer().open_timeout(SHORT).unwrap_err());
    std::fs::remove_file(path()).unwrap();
    drop(socket);
    Ok(())
}

fn a_link_that_leads_nowhere_is_not_waited_for() -> Result<(), Skip> {
    let link = scratch().join("link");
    symlink(path(), &link).unwrap();
    assert_eq!(Options::new().create(&link).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(Options::new().open_or_create(&link).unwrap_err().kind(), ErrorKind::NotFound);
    // A link to a FIFO is as good as the FIFO, but is not removed as one.
    let named = Named::new();
    assert!(Options::new().open_or_create(&link).unwrap().reader().try_open().is_ok());
    assert_eq!(fifo::unlink(&link).unwrap_err().kind(), ErrorKind::Mismatch);
    std::fs::remove_file(link).unwrap();
    drop(named);
    Ok(())
}

fn a_folder_without_room_for_it_says_why() -> Result<(), Skip> {
    let error = Options::new().create(scratch().join("none").join("fifo")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = Options::new().create(scratch().join("x".repeat(256))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = Options::new().create(scratch().join("nul\0")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    if !rustix::process::geteuid().is_root() {
        let error = Options::new().create("/proc/fifo").unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Other, "{error}");
    }
    Ok(())
}

fn each_end_waits_for_the_other() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    // It sleeps in open(2) until this side comes, and the other way round.
    peer.say("write");
    until_asleep(peer.pid());
    let rx = fifo.reader().open().unwrap();
    let mut buf = [0; 64];
    rx.exact().recv(&mut buf[..13]).unwrap();
    assert_eq!(&buf[..13], b"from the peer");
    peer.expect("wrote");
    assert_eq!(rx.recv(&mut buf), Err(RecvError::Closed));
    drop(rx);

    peer.say("read");
    until_asleep(peer.pid());
    let tx = fifo.writer().open().unwrap();
    tx.send(b"to the peer").unwrap();
    peer.expect("to the peer");
    drop(fifo);
    Ok(())
}

fn a_writer_without_reader_would_block() -> Result<(), Skip> {
    let fifo = Named::new();
    let error = fifo.writer().try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(error.to_string().contains("no process has it open for reading"), "{error}");
    let _rx = fifo.reader().try_open().unwrap();
    fifo.writer().try_open().unwrap().send(b"x").unwrap();
    Ok(())
}

fn a_reader_needs_no_writer_to_try() -> Result<(), Skip> {
    let fifo = Named::new();
    let rx = fifo.reader().try_open().unwrap();
    // The kernel has one answer for "not yet" and "no more".
    assert_eq!(rx.recv(&mut [0; 8]), Err(RecvError::Closed));
    assert_eq!(rx.try_recv(&mut [0; 8]), Err(RecvError::Closed));
    let tx = fifo.writer().try_open().unwrap();
    assert_eq!(rx.try_recv(&mut [0; 8]), Err(RecvError::Empty));
    tx.send(b"x").unwrap();
    assert_eq!(rx.recv(&mut [0; 8]), Ok(1));
    Ok(())
}

fn bounded_opens_time_out() -> Result<(), Skip> {
    let fifo = Named::new();
    let before = census::descriptors();
    let begin = Instant::now();
    assert_eq!(fifo.reader().open_timeout(SHORT).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(begin.elapsed() >= SHORT);
    let begin = Instant::now();
    assert_eq!(fifo.writer().open_timeout(SHORT).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(begin.elapsed() >= SHORT);
    let past = Instant::now();
    assert_eq!(fifo.reader().open_until(past).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(fifo.writer().open_until(past).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(before, census::descriptors());
    // What gave up left no reader behind.
    assert_eq!(fifo.writer().try_open().unwrap_err().kind(), ErrorKind::WouldBlock);
    // A deadline in the past still looks.
    let rx = fifo.reader().try_open().unwrap();
    let tx = fifo.writer().open_until(past).unwrap();
    fifo.reader().open_until(past).unwrap();
    drop((rx, tx));
    Ok(())
}

fn a_bounded_reader_meets_a_writer_that_waits() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    for _ in 0..20 {
        peer.say("open to write");
        until_asleep(peer.pid());
        let rx = fifo.reader().open_timeout(LONG).unwrap();
        peer.expect("open");
        // It is open, and has said nothing: not the end.
        assert_eq!(rx.try_recv(&mut [0; 8]), Err(RecvError::Empty));
        peer.say("go on");
        assert_eq!(rx.recv(&mut [0; 8]), Ok(5));
    }
    Ok(())
}

fn a_bounded_reader_meets_a_writer_that_comes_later() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    for round in 0..20 {
        let own = rustix::process::getpid();
        std::thread::scope(|s| {
            let peer = &peer;
            s.spawn(move || {
                // Every other time the writer comes while the reader sleeps.
                if round % 2 == 0 {
                    until_asleep(own);
                }
                peer.say("open to write");
            });
            let rx = fifo.reader().open_timeout(LONG).unwrap();
            peer.expect("open");
            assert_eq!(rx.try_recv(&mut [0; 8]), Err(RecvError::Empty));
            peer.say("go on");
            assert_eq!(rx.recv(&mut [0; 8]), Ok(5));
        });
    }
    Ok(())
}

fn a_bounded_reader_sees_that_a_writer_came_and_went() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    for _ in 0..20 {
        peer.say("open shortly");
        let rx = fifo.reader().open_timeout(LONG).unwrap();
        peer.expect("gone");
        assert_eq!(rx.recv(&mut [0; 8]), Err(RecvError::Closed));
    }
    Ok(())
}

fn a_bounded_reader_does_without_inotify() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    // The end and the pipe to look with, and none for inotify.
    crate::pipe::leave_descriptors(3);
    let begin = Instant::now();
    assert_eq!(fifo.reader().open_timeout(SHORT).unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(begin.elapsed() >= SHORT);
    for _ in 0..10 {
        peer.say("open to write");
        let rx = fifo.reader().open_timeout(LONG).unwrap();
        peer.expect("open");
        peer.say("go on");
        assert_eq!(rx.recv(&mut [0; 8]), Ok(5));
    }
    Ok(())
}

fn a_bounded_reader_takes_no_byte() -> Result<(), Skip> {
    let fifo = Named::new();
    let keep = fifo.reader().try_open().unwrap();
    let tx = fifo.writer().try_open().unwrap();
    tx.send(b"abc").unwrap();
    let rx = fifo.reader().open_timeout(LONG).unwrap();
    drop(keep);
    let mut buf = [0; 8];
    assert_eq!(rx.recv(&mut buf), Ok(3));
    assert_eq!(&buf[..3], b"abc");
    Ok(())
}

fn a_bounded_writer_meets_a_reader_that_waits() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    for _ in 0..20 {
        peer.say("read");
        until_asleep(peer.pid());
        fifo.writer().open_timeout(LONG).unwrap().send(b"bounded").unwrap();
        peer.expect("bounded");
    }
    Ok(())
}

fn a_bounded_writer_meets_a_reader_that_comes_later() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    let own = rustix::process::getpid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(own);
            peer.say("read");
        });
        fifo.writer().open_timeout(LONG).unwrap().send(b"later").unwrap();
        peer.expect("later");
    });
    Ok(())
}

fn an_interrupt_ends_an_open() -> Result<(), Skip> {
    let fifo = Named::new();
    let stop = Interrupt::new().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    let own = rustix::process::getpid();
    for _ in 0..2 {
        std::thread::scope(|s| {
            s.spawn(|| {
                until_asleep(own);
                stop.trigger();
            });
            assert_eq!(fifo.reader().open_wait(wait).unwrap_err().kind(), ErrorKind::Interrupted);
        });
        assert_eq!(fifo.reader().open_wait(wait).unwrap_err().kind(), ErrorKind::Interrupted);
        stop.clear();
        std::thread::scope(|s| {
            s.spawn(|| {
                until_asleep(own);
                stop.trigger();
            });
            assert_eq!(fifo.writer().open_wait(wait).unwrap_err().kind(), ErrorKind::Interrupted);
        });
        stop.clear();
    }
    Ok(())
}

fn an_opened_end_blocks_and_is_close_on_exec() -> Result<(), Skip> {
    let fifo = Named::new();
    let rx = fifo.reader().try_open().unwrap();
    let tx = fifo.writer().try_open().unwrap();
    let more =
        (fifo.reader().open_timeout(LONG).unwrap(), fifo.writer().open_timeout(LONG).unwrap());
    let most = (fifo.reader().open().unwrap(), fifo.writer().open().unwrap());
    for end in
        [rx.as_fd(), tx.as_fd(), more.0.as_fd(), more.1.as_fd(), most.0.as_fd(), most.1.as_fd()]
    {
        assert!(!flags(end).contains(OFlags::NONBLOCK));
        let kept = rustix::io::fcntl_getfd(end).unwrap();
        assert!(kept.contains(rustix::io::FdFlags::CLOEXEC));
    }
    Ok(())
}

/// Both ends, newly opened.
fn both(fifo: &Fifo) -> (PipeReader, PipeWriter) {
    let rx = fifo.reader().try_open().unwrap();
    let tx = fifo.writer().try_open().unwrap();
    (rx, tx)
}

fn tester_of_bounded_calls(_: &Link) {
    let fifo = Options::new().open(path()).unwrap();
    let (rx, tx) = both(&fifo);
    bounded_calls(rx, tx);
    let (rx, tx) = both(&fifo);
    bounded_sends_to_nobody(rx, &tx);
    drop(tx);
    let (rx, tx) = both(&fifo);
    rustix::fs::fchmod(&rx, Mode::empty()).unwrap();
    // Root may open all the same, until it is root no more.
    if rustix::process::geteuid().is_root() {
        let nobody = rustix::fs::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    }
    bounded_calls(rx, tx);
}

fn bounded_calls_hold_on_every_kernel() -> Result<(), Skip> {
    for without in KERNELS {
        let _fifo = Named::new();
        Peer::spawn_with("fifo::tester_of_bounded_calls", |c| {
            c.env("SINEW_WITHOUT", without);
        })
        .join();
    }
    Ok(())
}

fn an_unlinked_fifo_goes_on() -> Result<(), Skip> {
    let fifo = Named::new();
    let (rx, tx) = both(&fifo);
    fifo.unlink().unwrap();
    tx.try_send(b"still").unwrap();
    assert_eq!(rx.try_recv(&mut [0; 8]), Ok(5));
    // The next one of that name is another.
    let _next = Named::new();
    assert_eq!(fifo.writer().try_open().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop((rx, tx));
    Ok(())
}

fn a_killed_writer_ends_and_the_next_one_begins() -> Result<(), Skip> {
    let fifo = Named::new();
    let peer = Peer::spawn("fifo::opener");
    peer.say("open to write");
    let rx = fifo.reader().open().unwrap();
    peer.expect("open");
    peer.signal(Signal::KILL);
    assert_eq!(rx.recv(&mut [0; 8]), Err(RecvError::Closed));
    peer.kill();
    let tx = fifo.writer().try_open().unwrap();
    tx.send(b"next").unwrap();
    assert_eq!(rx.recv(&mut [0; 8]), Ok(4));
    drop(rx);
    assert_eq!(tx.send(b"x"), Err(SendError::Closed));
    Ok(())
}

fn a_device_is_not_opened() -> Result<(), Skip> {
    // Opening the master of a terminal makes a terminal; it must not come to that.
    let before = std::fs::read_dir("/dev/pts").map(Iterator::count).unwrap_or(0);
    assert_eq!(Options::new().open("/dev/ptmx").unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(Options::new().open("/dev/null").unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(std::fs::read_dir("/dev/pts").map(Iterator::count).unwrap_or(0), before);
    Ok(())
}

fn opens_without_descriptors_name_the_limit() -> Result<(), Skip> {
    let fifo = Named::new();
    crate::pipe::leave_descriptors(0);
    for error in [
        fifo.reader().try_open().unwrap_err(),
        fifo.reader().open().unwrap_err(),
        fifo.writer().open_timeout(SHORT).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    }
    Ok(())
}
