//! Memory of another process: all of it, a part of it, none of it.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{PidfdFlags, pidfd_open};
use sinew::ErrorKind;
use sinew::process_vm::{Memory, Segment, VmError, Why};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    bytes_go_both_ways,
    pieces_need_not_agree,
    more_pieces_than_one_call_takes,
    empty_pieces_do_not_stop_it,
    a_hole_stops_it_there,
    what_is_read_only_is_not_written,
    a_killed_process_has_ended,
    a_reaped_process_has_ended,
    an_exec_leaves_the_new_memory,
    nobody_and_a_thread_are_not_found,
    what_is_no_pidfd_is_refused,
    this_process_is_not_written,
    another_users_process_is_refused_with_the_reason,
    a_process_that_may_not_be_dumped_is_refused_with_the_reason,
];
pub(crate) const ROLES: &[Role] = roles![holder, other_user, undumpable];

const PAGE: usize = 4096;

/// Three pages: one that can be written, one that can only be read, and a hole. Says where they are, and then
/// what they hold when asked.
fn holder(link: &Link) {
    let flags = MapFlags::PRIVATE;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new map at an address of the kernel's choice.
    let map = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), 3 * PAGE, protection, flags).unwrap()
    };
    // SAFETY: the first two pages of the map, which nothing else in this process knows.
    let pages = unsafe { std::slice::from_raw_parts_mut(map.cast::<u8>(), 2 * PAGE) };
    for (index, byte) in pages.iter_mut().enumerate() {
        *byte = pattern(index);
    }
    // SAFETY: only read from here on.
    unsafe {
        rustix::mm::mprotect(map.wrapping_byte_add(PAGE), PAGE, MprotectFlags::READ).unwrap()
    };
    // SAFETY: nothing was ever stored there.
    unsafe { rustix::mm::munmap(map.wrapping_byte_add(2 * PAGE), PAGE).unwrap() };
    link.say(map.addr());
    while let Some((words, _)) = link.try_receive() {
        match &*words {
            b"show" => {
                // SAFETY: as above; another process writes there, but not while it waits for this.
                let page = unsafe { std::slice::from_raw_parts(map.cast::<u8>(), PAGE) };
                link.send(page, &[]);
            }
            b"exec" => {
                use std::os::unix::process::CommandExt;
                let error = std::process::Command::new("/bin/sleep").arg("1000").exec();
                panic!("{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn pattern(index: usize) -> u8 {
    u8::try_from(index % 251).unwrap()
}

fn patterns(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(pattern).collect()
}

fn number(peer: &Peer) -> u32 {
    peer.pid().as_raw_nonzero().get().unsigned_abs()
}

struct Holder {
    peer: Peer,
    memory: Memory,
    at: usize,
}

impl Holder {
    fn new() -> Self {
        let peer = Peer::spawn("process_vm::holder");
        let at = peer.hear().parse().unwrap();
        let memory = Memory::of_pid(number(&peer)).unwrap();
        Self { peer, memory, at }
    }

    fn shown(&self) -> Vec<u8> {
        self.peer.say("show");
        self.peer.receive().0
    }
}

fn bytes_go_both_ways() -> Result<(), Skip> {
    let other = Holder::new();
    let mut page = vec![0; PAGE];
    other.memory.read(other.at, &mut page).unwrap();
    assert_eq!(page, patterns(0, PAGE));
    other.memory.write(other.at + 10, b"from the test").unwrap();
    assert_eq!(&other.shown()[10..23], b"from the test");
    other.memory.read(other.at, &mut []).unwrap();
    other.memory.write(other.at, &[]).unwrap();
    Ok(())
}

fn pieces_need_not_agree() -> Result<(), Skip> {
    let other = Holder::new();
    let (mut a, mut b) = ([0; 3], [0; 7]);
    let from = [
        Segment { address: other.at + 100, len: 5 },
        Segment { address: other.at + 20, len: 4 },
        Segment { address: other.at + 7, len: 100 },
    ];
    let mut into = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
    assert_eq!(other.memory.read_vectored(&mut into, &from), Ok(10));
    let expected = [patterns(100, 5), patterns(20, 4), patterns(7, 1)].concat();
    assert_eq!([&a[..], &b].concat(), expected);

    let data = [IoSlice::new(b"abc"), IoSlice::new(b"defg")];
    let to = [
        Segment { address: other.at, len: 2 },
        Segment { address: other.at + 50, len: 3 },
        Segment { address: other.at + 60, len: 1 },
    ];
    assert_eq!(other.memory.write_vectored(&data, &to), Ok(6));
    let page = other.shown();
    assert_eq!(
        (&page[..2], &page[50..53], &page[60..62]),
        (&b"ab"[..], &b"cde"[..], &[b'f', 61][..])
    );
    Ok(())
}

fn more_pieces_than_one_call_takes() -> Result<(), Skip> {
    let other = Holder::new();
    let count = 2500;
    // Two local bytes for each remote one, so that both sides end inside pieces of the other.
    let from: Vec<_> =
        (0..count).map(|i| Segment { address: other.at + i % PAGE, len: 1 }).collect();
    let mut bytes = vec![0; count];
    let mut into: Vec<_> = bytes.chunks_mut(2).map(IoSliceMut::new).collect();
    assert_eq!(other.memory.read_vectored(&mut into, &from), Ok(count));
    assert_eq!(bytes, (0..count).map(|i| pattern(i % PAGE)).collect::<Vec<_>>());

    let data: Vec<u8> = (0..count).map(|i| pattern(i * 7)).collect();
    let pieces: Vec<_> = data.chunks(1).map(IoSlice::new).collect();
    let to: Vec<_> =
        (0..count / 2).map(|i| Segment { address: other.at + 2 * i, len: 2 }).collect();
    assert_eq!(other.memory.write_vectored(&pieces, &to), Ok(count));
    assert_eq!(other.shown()[..count], data);

    // A hole in a later call is counted over all.
    let mut from = from;
    from[2222] = Segment { address: other.at + 2 * PAGE, len: 1 };
    let mut into: Vec<_> = bytes.chunks_mut(1).map(IoSliceMut::new).collect();
    let error = other.memory.read_vectored(&mut into, &from).unwrap_err();
    let address = other.at + 2 * PAGE;
    assert_eq!(error, VmError { done: 2222, segment: 2222, address, why: Why::NotMapped });
    Ok(())
}

fn empty_pieces_do_not_stop_it() -> Result<(), Skip> {
    let other = Holder::new();
    let mut from = vec![Segment { address: 0, len: 0 }; 1500];
    from.push(Segment { address: other.at, len: 2 });
    let mut byte = [0; 3];
    let (a, b) = byte.split_at_mut(1);
    let mut into = [IoSliceMut::new(&mut []), IoSliceMut::new(a), IoSliceMut::new(b)];
    assert_eq!(other.memory.read_vectored(&mut into, &from), Ok(2));
    assert_eq!(byte, [pattern(0), pattern(1), 0]);
    Ok(())
}

fn a_hole_stops_it_there() -> Result<(), Skip> {
    let other = Holder::new();
    let mut bytes = vec![0; 3 * PAGE];
    let error = other.memory.read(other.at + 5, &mut bytes).unwrap_err();
    let address = other.at + 2 * PAGE;
    let done = 2 * PAGE - 5;
    assert_eq!(error, VmError { done, segment: 0, address, why: Why::NotMapped });
    assert_eq!(bytes[..done], patterns(5, done));
    assert!(error.to_string().contains("nothing is mapped"), "{error}");

    let from = [
        Segment { address: other.at, len: 8 },
        Segment { address, len: 8 },
        Segment { address: 0, len: 8 },
    ];
    let error = other.memory.read_vectored(&mut [IoSliceMut::new(&mut bytes)], &from).unwrap_err();
    assert_eq!(error, VmError { done: 8, segment: 1, address, why: Why::NotMapped });

    // An address that no process can have.
    let error = other.memory.read(usize::MAX - 3, &mut bytes[..8]).unwrap_err();
    assert_eq!((error.done, error.why), (0, Why::NotMapped));
    Ok(())
}

fn what_is_read_only_is_not_written() -> Result<(), Skip> {
    let other = Holder::new();
    let error = other.memory.write(other.at + PAGE - 4, &[9; 8]).unwrap_err();
    let address = other.at + PAGE;
    assert_eq!(error, VmError { done: 4, segment: 0, address, why: Why::NotMapped });
    assert_eq!(other.shown()[PAGE - 4..], [9; 4]);
    Ok(())
}

fn a_killed_process_has_ended() -> Result<(), Skip> {
    let other = Holder::new();
    other.peer.signal(rustix::process::Signal::KILL);
    let mut peer = other.peer;
    // Not reaped yet while its end is waited for, then it is: both must be told.
    let pidfd = pidfd_open(peer.pid(), PidfdFlags::empty()).unwrap();
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    let ended = VmError { done: 0, segment: 0, address: other.at, why: Why::Ended };
    assert_eq!(other.memory.read(other.at, &mut [0; 8]), Err(ended));
    assert_eq!(other.memory.write(other.at, &[0; 8]), Err(ended));
    let error = Memory::of_pid(number(&peer)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("has ended"), "{error}");
    peer.wait();
    assert_eq!(other.memory.read(other.at, &mut [0; 8]), Err(ended));
    Ok(())
}

fn a_reaped_process_has_ended() -> Result<(), Skip> {
    let other = Holder::new();
    let pidfd = other.memory.as_fd().try_clone_to_owned().unwrap();
    let pid = other.memory.pid();
    other.peer.kill();
    let ended = VmError { done: 0, segment: 0, address: other.at, why: Why::Ended };
    assert_eq!(other.memory.write(other.at, &[0; 8]), Err(ended));
    assert_eq!(Memory::of_pidfd(pidfd).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Memory::of_pid(pid).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn an_exec_leaves_the_new_memory() -> Result<(), Skip> {
    let other = Holder::new();
    other.peer.say("exec");
    // The link closes on exec.
    assert!(other.peer.try_receive().is_none());
    let gone = loop {
        // The old memory is there for a moment longer than the link.
        if let Err(error) = other.memory.read(other.at, &mut [0; 8]) {
            break error;
        }
    };
    assert_eq!(gone.why, Why::NotMapped);
    Ok(())
}

fn nobody_and_a_thread_are_not_found() -> Result<(), Skip> {
    for pid in [0, u32::MAX, 1 << 30] {
        let error = Memory::of_pid(pid).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&format!("process {pid}")), "{error}");
    }
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        s.spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
            let _ = stopped.recv();
        });
        let error = Memory::of_pid(told.recv().unwrap()).unwrap_err();
        assert!(error.to_string().contains("thread") || error.kind() == ErrorKind::NotFound);
        drop(stop);
    });
    Ok(())
}

fn what_is_no_pidfd_is_refused() -> Result<(), Skip> {
    let (rx, _tx) = std::io::pipe().unwrap();
    let error = Memory::try_from(OwnedFd::from(rx)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);

    let other = Holder::new();
    let pidfd = pidfd_open(other.peer.pid(), PidfdFlags::empty()).unwrap();
    let memory = Memory::try_from(pidfd).unwrap();
    assert_eq!(memory.pid(), number(&other.peer));
    let mut byte = [0; 2];
    memory.read(other.at + 3, &mut byte).unwrap();
    assert_eq!(byte, [3, 4]);
    Ok(())
}

fn this_process_is_not_written() -> Result<(), Skip> {
    let own = Memory::of_pid(std::process::id()).unwrap();
    let value = [7_u8; 4];
    let error = own.write(value.as_ptr().addr(), &[8; 4]).unwrap_err();
    assert_eq!((error.done, error.why), (0, Why::Os(22)));
    assert_eq!(value, [7; 4]);
    Ok(())
}

fn other_user(link: &Link) {
    let nobody = rustix::fs::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    let error = Memory::of_pid(link.hear().parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    link.say(error);
}

fn another_users_process_is_refused_with_the_reason() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let peer = Peer::spawn("process_vm::other_user");
    peer.say(std::process::id());
    let error = peer.hear();
    assert!(error.contains("runs as uid 0, this process as uid 65534"), "{error}");
    assert!(error.contains("CAP_SYS_PTRACE"), "{error}");
    peer.join();
    Ok(())
}

fn undumpable(link: &Link) {
    if rustix::process::geteuid().is_root() {
        let nobody = rustix::fs::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).unwrap();
    // SAFETY: this process has one thread; the child only waits to be killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: takes no memory.
            unsafe { libc::pause() };
        }
    }
    let error = Memory::of_pid(child.unsigned_abs()).unwrap_err();
    link.say(error);
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty()).unwrap();
}

fn a_process_that_may_not_be_dumped_is_refused_with_the_reason() -> Result<(), Skip> {
    let peer = Peer::spawn("process_vm::undumpable");
    let error = peer.hear();
    assert!(error.contains("PR_SET_DUMPABLE"), "{error}");
    peer.join();
    Ok(())
}
