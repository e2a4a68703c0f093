//! Descriptors of another process: duplicates, and whether two are the same.

use std::cmp::Ordering;
use std::io::PipeReader;
use std::os::fd::{AsRawFd, OwnedFd};

use sinew::ErrorKind;
use sinew::fd::{
    Process, Resource, compare, duplicate, same_description, same_descriptions, share,
};
use sinew::wait::{Receives, Sends};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    a_duplicate_is_the_same_pipe,
    a_duplicate_holds_the_end_open,
    what_is_not_there_is_not_found,
    no_room_names_the_limit,
    a_killed_process_has_ended,
    own_descriptors_are_told_apart,
    those_of_another_process_are_told_apart,
    many_can_be_sorted,
    a_kernel_without_kcmp_has_a_way_around,
    threads_share_and_processes_do_not,
    another_users_process_is_refused_with_the_reason,
];
pub(crate) const ROLES: &[Role] = roles![holder, without_kcmp, other_user];

fn number(peer: &Peer) -> u32 {
    peer.pid().as_raw_nonzero().get().unsigned_abs()
}

fn own() -> Process {
    Process::of_pid(std::process::id()).unwrap()
}

/// Holds what it is sent and a pipe of its own; says their numbers and does what it is told.
fn holder(link: &Link) {
    let sent = link.recv_fd();
    let (rx, tx) = std::io::pipe().unwrap();
    link.say(sent.as_raw_fd());
    link.say(rx.as_raw_fd());
    link.say(tx.as_raw_fd());
    let mut tx = Some(tx);
    while let Some((words, _)) = link.try_receive() {
        match &*words {
            b"send" => tx.as_ref().unwrap().send(b"from the peer").unwrap(),
            b"close" => drop(tx.take()),
            other => panic!("{other:?}"),
        }
        link.say("done");
    }
    drop((rx, sent));
}

/// A peer with a duplicate of one of ours, and the numbers of it and of the ends of its pipe.
fn peer(sent: impl std::os::fd::AsFd) -> (Peer, Process, [i32; 3]) {
    let peer = Peer::spawn("fd::holder");
    peer.send_fd(sent);
    let numbers = [(); 3].map(|()| peer.hear().parse().unwrap());
    let process = Process::of_pid(number(&peer)).unwrap();
    assert_eq!(process.pid(), number(&peer));
    (peer, process, numbers)
}

fn a_duplicate_is_the_same_pipe() -> Result<(), Skip> {
    let (a, _b) = std::io::pipe().unwrap();
    let (peer, process, [_, rx, _]) = peer(&a);
    let copy = duplicate(&process, rx).unwrap();
    assert!(rustix::io::fcntl_getfd(&copy).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let copy = PipeReader::from(copy);
    peer.say("send");
    peer.expect("done");
    let mut buf = [0; 32];
    let got = copy.recv(&mut buf).unwrap();
    assert_eq!(&buf[..got], b"from the peer");
    Ok(())
}

fn a_duplicate_holds_the_end_open() -> Result<(), Skip> {
    let (a, _b) = std::io::pipe().unwrap();
    let (peer, process, [_, rx, tx]) = peer(&a);
    let rx = PipeReader::from(duplicate(&process, rx).unwrap());
    let tx = duplicate(&process, tx).unwrap();
    peer.say("close");
    peer.expect("done");
    assert_eq!(rx.try_recv(&mut [0; 8]), Err(sinew::RecvError::Empty));
    drop(tx);
    assert_eq!(rx.try_recv(&mut [0; 8]), Err(sinew::RecvError::Closed));
    Ok(())
}

fn what_is_not_there_is_not_found() -> Result<(), Skip> {
    let (a, _b) = std::io::pipe().unwrap();
    let (_peer, process, _) = peer(&a);
    for number in [1000, -1, i32::MAX] {
        let error = duplicate(&process, number).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&format!("no descriptor {number}")), "{error}");
        let error = compare((&process, number), (&own(), 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert_eq!(Process::of_pid(0).unwrap_err().kind(), ErrorKind::NotFound);
    let error = Process::try_from(OwnedFd::from(a)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    Ok(())
}

fn no_room_names_the_limit() -> Result<(), Skip> {
    let (a, _b) = std::io::pipe().unwrap();
    let (_peer, process, [sent, ..]) = peer(&a);
    crate::pipe::leave_descriptors(0);
    let error = duplicate(&process, sent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    Ok(())
}

fn a_killed_process_has_ended() -> Result<(), Skip> {
    let (a, _b) = std::io::pipe().unwrap();
    let (peer, process, [sent, ..]) = peer(&a);
    peer.kill();
    for error in [
        duplicate(&process, sent).unwrap_err(),
        compare((&process, sent), (&own(), a.as_raw_fd())).unwrap_err(),
        share(&own(), &process, Resource::Memory).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("has ended"), "{error}");
    }
    Ok(())
}

fn own_descriptors_are_told_apart() -> Result<(), Skip> {
    let (a, b) = std::io::pipe().unwrap();
    assert!(same_description(&a, &a).unwrap());
    assert!(same_description(&a, a.try_clone().unwrap()).unwrap());
    assert!(!same_description(&a, &b).unwrap());
    // The same file, opened twice.
    let one = std::fs::File::open("/dev/null").unwrap();
    let two = std::fs::File::open("/dev/null").unwrap();
    assert!(!same_description(&one, &two).unwrap());
    Ok(())
}

fn those_of_another_process_are_told_apart() -> Result<(), Skip> {
    let (a, b) = std::io::pipe().unwrap();
    let (_peer, process, [sent, rx, _]) = peer(&a);
    let own = own();
    let a = a.as_raw_fd();
    assert!(same_descriptions((&own, a), (&process, sent)).unwrap());
    assert!(!same_descriptions((&own, a), (&process, rx)).unwrap());
    assert!(!same_descriptions((&own, b.as_raw_fd()), (&process, sent)).unwrap());
    let there = compare((&own, a), (&process, rx)).unwrap();
    let back = compare((&process, rx), (&own, a)).unwrap();
    assert_ne!(there, Ordering::Equal);
    assert_eq!(there, back.reverse());
    Ok(())
}

fn many_can_be_sorted() -> Result<(), Skip> {
    let pipes: Vec<_> = (0..20).map(|_| std::io::pipe().unwrap()).collect();
    let copies: Vec<_> = pipes.iter().map(|(rx, _)| rx.try_clone().unwrap()).collect();
    let own = own();
    let mut all: Vec<i32> = pipes.iter().map(|(rx, _)| rx.as_raw_fd()).collect();
    all.extend(copies.iter().map(AsRawFd::as_raw_fd));
    all.sort_by(|a, b| compare((&own, *a), (&own, *b)).unwrap());
    for pair in all.chunks(2) {
        assert!(same_descriptions((&own, pair[0]), (&own, pair[1])).unwrap(), "{all:?}");
    }
    Ok(())
}

/// Makes the kernel answer ENOSYS to kcmp, as one without CONFIG_KCMP does.
fn forbid_kcmp() {
    let statement =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let number = u32::try_from(libc::SYS_kcmp).unwrap();
    let enosys = u32::try_from(libc::ENOSYS).unwrap();
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | enosys),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: takes no memory.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its four instructions live on this stack; the kernel copies them.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }, 0);
}

fn without_kcmp(link: &Link) {
    let sent = link.recv_fd();
    let other: [i32; 2] = [(); 2].map(|()| link.hear().parse().unwrap());
    let process = Process::of_pid(link.hear().parse().unwrap()).unwrap();
    forbid_kcmp();
    let own = own();
    let error = compare((&own, 0), (&own, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("CONFIG_KCMP"), "{error}");
    let same = |number| same_descriptions((&own, sent.as_raw_fd()), (&process, number));
    let (a, b) = std::io::pipe().unwrap();
    let twice = [(); 2].map(|()| std::fs::File::open("/dev/null").unwrap());
    if std::env::var_os("SINEW_WITHOUT").is_some() {
        // What is of different files is told even so.
        assert_eq!(same(other[0]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(!same_description(&a, &twice[0]).unwrap());
        let error = same_description(&twice[0], &twice[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    } else {
        assert!(same(other[0]).unwrap());
        assert!(!same(other[1]).unwrap());
        assert!(same_description(&a, a.try_clone().unwrap()).unwrap());
        assert!(!same_description(&a, &b).unwrap());
        assert!(!same_description(&twice[0], &twice[1]).unwrap());
    }
}

fn a_kernel_without_kcmp_has_a_way_around() -> Result<(), Skip> {
    let (a, b) = std::io::pipe().unwrap();
    let without: &[&str] =
        if sinew_testkit::fallbacks_forced() { &["dupfd-query"] } else { &["", "dupfd-query"] };
    for without in without {
        // The second process of the comparison.
        let (holder, _process, [sent, rx, _]) = peer(&a);
        let judge = Peer::spawn_with("fd::without_kcmp", |c| {
            if !without.is_empty() {
                c.env("SINEW_WITHOUT", without);
            }
        });
        judge.send_fd(&a);
        judge.say(sent);
        judge.say(rx);
        judge.say(number(&holder));
        judge.join();
    }
    drop(b);
    Ok(())
}

fn threads_share_and_processes_do_not() -> Result<(), Skip> {
    let (a, _b) = std::io::pipe().unwrap();
    let (_peer, process, _) = peer(&a);
    let own = own();
    for what in [Resource::Memory, Resource::Descriptors, Resource::Directories, Resource::Handlers]
    {
        assert!(share(&own, &own, what).unwrap(), "{what:?}");
        assert!(!share(&own, &process, what).unwrap(), "{what:?}");
    }
    // None there is shared too: neither has a context of input and output yet, or has an undo list.
    assert!(share(&own, &own, Resource::Io).unwrap());
    assert!(share(&own, &own, Resource::SemaphoreUndo).unwrap());
    Ok(())
}

fn other_user(link: &Link) {
    let nobody = rustix::fs::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    let process = Process::of_pid(link.hear().parse().unwrap()).unwrap();
    for error in [
        duplicate(&process, 0).unwrap_err(),
        compare((&own(), 0), (&process, 0)).unwrap_err(),
        share(&process, &own(), Resource::Memory).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let error = error.to_string();
        assert!(error.contains("runs as uid 0, this process as uid 65534"), "{error}");
    }
}

fn another_users_process_is_refused_with_the_reason() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let peer = Peer::spawn("fd::other_user");
    peer.say(std::process::id());
    peer.join();
    Ok(())
}
