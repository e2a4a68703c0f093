//! The table of facts against the kernel, and the limits against where they are read.

use std::ffi::CString;
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat};
use rustix::io::Errno;
use rustix::net::sockopt::socket_send_buffer_size;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    bind, connect, getsockname, send, sendmsg, socket, socketpair,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use sinew::limits::{Limit, Value};
use sinew::mechanism::{Boundaries, Carries, Credentials, Largest, Lifetime};
use sinew::{ErrorKind, Mechanism};
use sinew_testkit::{Role, Skip, Test, roles, scratch, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    names_are_unique_and_parse_back,
    an_unknown_name_is_an_error_that_says_so,
    the_table_has_the_order_of_the_enumeration,
    each_variant_is_documented_by_its_fact,
    the_facts_of_one_mechanism_agree_with_each_other,
    pollable_is_what_epoll_takes,
    the_largest_unix_message_is_the_send_buffer_less_32,
    the_largest_netlink_message_is_the_send_buffer_less_32,
    the_largest_udp_datagram_has_65507_bytes,
    the_largest_posix_mq_message_is_its_limit,
    the_largest_sysv_message_is_its_limit,
    descriptors_pass_through_unix_sockets_and_not_through_netlink,
    packet_mode_keeps_boundaries_in_pipe_and_fifo,
    the_queue_length_bounds_datagrams_to_a_stranger_and_no_connection,
    every_limit_is_read_or_says_why_not,
    limits_agree_with_what_the_kernel_shows,
    a_changed_limit_is_seen_at_once,
    a_masked_limit_is_an_error_and_not_a_guess,
];
pub(crate) const ROLES: &[Role] = roles![];

fn names_are_unique_and_parse_back() -> Result<(), Skip> {
    let mut names: Vec<_> = Mechanism::ALL.iter().map(|m| m.name()).collect();
    for (mechanism, name) in Mechanism::ALL.iter().zip(&names) {
        assert_eq!(name.parse::<Mechanism>().unwrap(), *mechanism);
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Mechanism::ALL.len());
    Ok(())
}

fn an_unknown_name_is_an_error_that_says_so() -> Result<(), Skip> {
    let error = "pipes".parse::<Mechanism>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("\"pipes\""), "{error}");
    Ok(())
}

fn the_table_has_the_order_of_the_enumeration() -> Result<(), Skip> {
    for mechanism in Mechanism::ALL {
        assert_eq!(mechanism.facts().mechanism, mechanism);
    }
    Ok(())
}

fn each_variant_is_documented_by_its_fact() -> Result<(), Skip> {
    let source = include_str!("../../src/mechanism.rs");
    for mechanism in Mechanism::ALL {
        let variant = format!("    {mechanism:?},\n");
        let (before, _) = source.split_once(&variant).unwrap();
        let doc: Vec<_> = before
            .lines()
            .rev()
            .map_while(|line| line.trim().strip_prefix("/// "))
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        assert_eq!(doc.join(" "), mechanism.facts().about, "{mechanism}");
    }
    Ok(())
}

fn the_facts_of_one_mechanism_agree_with_each_other() -> Result<(), Skip> {
    for mechanism in Mechanism::ALL {
        let facts = mechanism.facts();
        assert!(facts.about.ends_with('.') && facts.about.len() < 110, "{mechanism}");
        assert!(!facts.naming.is_empty(), "{mechanism}");
        assert!(!facts.atomicity.is_empty(), "{mechanism}");
        assert!(!facts.after_crash.is_empty(), "{mechanism}");
        assert!(!facts.sources.is_empty(), "{mechanism}");
        if facts.carries == Carries::Messages {
            assert_eq!(facts.boundaries, Boundaries::Kept, "{mechanism}");
            assert_ne!(facts.largest, Largest::NoMessages, "{mechanism}");
        }
        if facts.carries == Carries::Bytes {
            assert_ne!(facts.boundaries, Boundaries::Kept, "{mechanism}");
            assert_eq!(facts.largest, Largest::Unbounded, "{mechanism}");
        }
        if facts.carries == Carries::Memory && facts.lifetime != Lifetime::Process {
            // Memory has no one who sends.
            assert_eq!(facts.credentials, Credentials::None, "{mechanism}");
            assert!(!facts.pollable, "{mechanism}");
        }
        if let Largest::Limit(limit) = facts.largest {
            assert!(facts.limits.contains(&limit), "{mechanism}");
        }
        if matches!(facts.largest, Largest::SendBufferLess(_)) {
            assert!(facts.limits.contains(&Limit::WmemDefault), "{mechanism}");
        }
        if facts.roles.endpoint {
            assert!(facts.roles.listed, "{mechanism}");
        }
    }
    Ok(())
}

/// Whether epoll takes a descriptor: it refuses those that cannot be waited for with EPERM.
fn epoll_takes(fd: impl AsFd) -> bool {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(0);
    match epoll::add(&set, fd, data, epoll::EventFlags::IN) {
        Ok(()) => true,
        Err(Errno::PERM) => false,
        Err(e) => panic!("epoll_ctl: {e}"),
    }
}

/// A new POSIX queue, open and already without a name.
fn queue(messages: i64, size: i64) -> Result<OwnedFd, Errno> {
    let name = CString::new(format!("/sinew-facts-{}", std::process::id())).unwrap();
    // SAFETY: an all-zero mq_attr is valid.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    attributes.mq_maxmsg = messages;
    attributes.mq_msgsize = size;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the name ends in NUL, and the attributes outlive the call.
    let fd = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, &raw mut attributes) };
    if fd < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap());
    }
    // SAFETY: the name ends in NUL.
    assert_eq!(unsafe { libc::mq_unlink(name.as_ptr()) }, 0);
    // SAFETY: on Linux a queue descriptor is a file descriptor, and nobody else owns this one.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

fn netlink() -> OwnedFd {
    // Protocol 2 is NETLINK_USERSOCK: for user processes among themselves.
    let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(2).unwrap());
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(protocol),
    );
    socket.unwrap()
}

fn unix_pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, kind, flags, None).unwrap()
}

fn pollable_is_what_epoll_takes() -> Result<(), Skip> {
    let check = |mechanism: Mechanism, fd: BorrowedFd<'_>| {
        assert_eq!(epoll_takes(fd), mechanism.facts().pollable, "{mechanism}");
    };
    let (reader, writer) = std::io::pipe().unwrap();
    check(Mechanism::Pipe, reader.as_fd());
    check(Mechanism::Splice, writer.as_fd());

    let path = scratch().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let fifo = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    check(Mechanism::Fifo, fifo.as_fd());

    check(Mechanism::UnixStream, unix_pair(SocketType::STREAM).0.as_fd());
    check(Mechanism::UnixDgram, unix_pair(SocketType::DGRAM).0.as_fd());
    check(Mechanism::UnixSeqpacket, unix_pair(SocketType::SEQPACKET).0.as_fd());
    let tcp = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    check(Mechanism::Tcp, tcp.as_fd());
    let udp = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    check(Mechanism::Udp, udp.as_fd());
    check(Mechanism::Netlink, netlink().as_fd());
    check(Mechanism::PosixMq, queue(1, 128).unwrap().as_fd());

    let memfd = rustix::fs::memfd_create("facts", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    check(Mechanism::Memfd, memfd.as_fd());
    // A descriptor of /dev/shm is that of a tmpfs file, as a memfd is.
    check(Mechanism::PosixShm, memfd.as_fd());
    let path = scratch().join("file");
    let file = fs::File::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    check(Mechanism::MmapFile, file.as_fd());
    check(Mechanism::FileLock, file.as_fd());

    let counter = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    check(Mechanism::Eventfd, counter.as_fd());
    let clock = rustix::time::TimerfdClockId::Monotonic;
    let timer = rustix::time::timerfd_create(clock, rustix::time::TimerfdFlags::CLOEXEC).unwrap();
    check(Mechanism::Timerfd, timer.as_fd());
    let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    check(Mechanism::Inotify, watch.as_fd());
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    check(Mechanism::Epoll, set.as_fd());
    let own = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap();
    check(Mechanism::Pidfd, pidfd.as_fd());
    // SAFETY: an all-zero signal set is the empty set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set outlives the call.
    let signals = unsafe { libc::signalfd(-1, &raw const none, libc::SFD_CLOEXEC) };
    assert!(signals >= 0);
    // SAFETY: new, and nobody else owns it.
    let signals: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(signals) };
    check(Mechanism::Signalfd, signals.as_fd());
    Ok(())
}

/// Bytes that a `SendBufferLess` mechanism takes on this socket.
fn bound(mechanism: Mechanism, socket: &OwnedFd) -> usize {
    let Largest::SendBufferLess(less) = mechanism.facts().largest else { panic!("{mechanism}") };
    socket_send_buffer_size(socket).unwrap() - usize::try_from(less).unwrap()
}

fn the_largest_unix_message_is_the_send_buffer_less_32() -> Result<(), Skip> {
    for (mechanism, kind) in [
        (Mechanism::UnixDgram, SocketType::DGRAM),
        (Mechanism::UnixSeqpacket, SocketType::SEQPACKET),
    ] {
        let (one, _other) = unix_pair(kind);
        let largest = bound(mechanism, &one);
        assert_eq!(mechanism.facts().largest.now(), Some(largest as u64));
        let bytes = vec![1; largest + 1];
        let flags = SendFlags::NOSIGNAL;
        assert_eq!(send(&one, &bytes, flags), Err(Errno::MSGSIZE), "{mechanism}");
        assert_eq!(send(&one, &bytes[1..], flags), Ok(largest), "{mechanism}");
    }
    Ok(())
}

fn the_largest_netlink_message_is_the_send_buffer_less_32() -> Result<(), Skip> {
    let sender = netlink();
    let receiver = netlink();
    for socket in [&sender, &receiver] {
        bind(socket, &rustix::net::netlink::SocketAddrNetlink::new(0, 0)).unwrap();
    }
    let address =
        rustix::net::netlink::SocketAddrNetlink::try_from(getsockname(&receiver).unwrap());
    connect(&sender, &address.unwrap()).unwrap();
    let largest = bound(Mechanism::Netlink, &sender);
    let bytes = vec![1; largest + 1];
    let flags = SendFlags::DONTWAIT;
    assert_eq!(send(&sender, &bytes, flags), Err(Errno::MSGSIZE));
    // It fits the sender; whether it then fits the receiver's buffer is another matter.
    assert_ne!(send(&sender, &bytes[1..], flags), Err(Errno::MSGSIZE));
    Ok(())
}

fn the_largest_udp_datagram_has_65507_bytes() -> Result<(), Skip> {
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let largest = usize::try_from(Mechanism::Udp.facts().largest.now().unwrap()).unwrap();
    let bytes = vec![1; largest + 1];
    let error = sender.send_to(&bytes, to).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::MSGSIZE));
    assert_eq!(sender.send_to(&bytes[1..], to).unwrap(), largest);
    Ok(())
}

fn the_largest_posix_mq_message_is_its_limit() -> Result<(), Skip> {
    let Some(largest) = Mechanism::PosixMq.facts().largest.now() else {
        return skip("fs.mqueue.msgsize_max cannot be read here");
    };
    let size = i64::try_from(largest).unwrap();
    let open = queue(1, size).unwrap();
    let bytes = vec![1_u8; usize::try_from(largest).unwrap()];
    // SAFETY: the bytes outlive the call.
    let sent = unsafe { libc::mq_send(open.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    assert_eq!(sent, 0);
    let privileged = fs::read_to_string("/proc/self/status").unwrap();
    let effective = privileged.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    // CAP_SYS_RESOURCE, to which this limit does not apply.
    if effective & (1 << 24) == 0 {
        assert_eq!(queue(1, size + 1).unwrap_err(), Errno::INVAL);
    }
    Ok(())
}

fn the_largest_sysv_message_is_its_limit() -> Result<(), Skip> {
    let (Some(largest), Some(room)) = (Limit::MsgMax.value(), Limit::MsgMnb.value()) else {
        return skip("kernel.msgmax or kernel.msgmnb cannot be read here");
    };
    // SAFETY: takes no pointers.
    let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
    assert!(id >= 0);
    let length = usize::try_from(largest).unwrap();
    let message = vec![1_i64; length / 8 + 3];
    let send = |length: usize| {
        // SAFETY: the type and `length` bytes of text lie within the message.
        let sent = unsafe { libc::msgsnd(id, message.as_ptr().cast(), length, libc::IPC_NOWAIT) };
        if sent == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error()) }
    };
    let (over, fits) = (send(length + 1), send(length));
    // SAFETY: IPC_RMID takes no pointer.
    assert_eq!(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }, 0);
    assert_eq!(over, Err(Some(libc::EINVAL)));
    let expected = if largest <= room { Ok(()) } else { Err(Some(libc::EAGAIN)) };
    assert_eq!(fits, expected);
    Ok(())
}

fn descriptors_pass_through_unix_sockets_and_not_through_netlink() -> Result<(), Skip> {
    let (passenger, _other) = std::io::pipe().unwrap();
    let try_send = |socket: &OwnedFd| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [passenger.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [IoSlice::new(b"x")];
        sendmsg(socket, &bytes, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    };
    for (mechanism, kind) in [
        (Mechanism::UnixStream, SocketType::STREAM),
        (Mechanism::UnixDgram, SocketType::DGRAM),
        (Mechanism::UnixSeqpacket, SocketType::SEQPACKET),
    ] {
        let (one, _other) = unix_pair(kind);
        assert_eq!(try_send(&one), Ok(1), "{mechanism}");
        assert!(mechanism.facts().passes_fds, "{mechanism}");
    }
    assert_eq!(try_send(&netlink()), Err(Errno::INVAL));
    assert!(!Mechanism::Netlink.facts().passes_fds);
    Ok(())
}

fn packet_mode_keeps_boundaries_in_pipe_and_fifo() -> Result<(), Skip> {
    let path = scratch().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let fifo = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = (fs::File::from(OwnedFd::from(reader)), fs::File::from(OwnedFd::from(writer)));
    let fifo = (fifo.try_clone().unwrap(), fifo);
    for (mechanism, (mut reader, mut writer)) in [(Mechanism::Pipe, pipe), (Mechanism::Fifo, fifo)]
    {
        assert_eq!(mechanism.facts().boundaries, Boundaries::InPacketMode);
        let mut buffer = [0; 16];
        writer.write_all(b"abc").unwrap();
        writer.write_all(b"de").unwrap();
        assert_eq!(reader.read(&mut buffer).unwrap(), 5, "{mechanism} without packet mode");
        let flags = fcntl_getfl(&writer).unwrap();
        fcntl_setfl(&writer, flags | OFlags::DIRECT).unwrap();
        writer.write_all(b"abc").unwrap();
        writer.write_all(b"de").unwrap();
        assert_eq!(reader.read(&mut buffer).unwrap(), 3, "{mechanism} in packet mode");
        assert_eq!(reader.read(&mut buffer).unwrap(), 2, "{mechanism} in packet mode");
    }
    Ok(())
}

fn the_queue_length_bounds_datagrams_to_a_stranger_and_no_connection() -> Result<(), Skip> {
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(limit) = Limit::UnixMaxDgramQlen.value() else {
        return skip("net.unix.max_dgram_qlen cannot be read here");
    };
    let path = scratch().join("socket");
    let receiver = UnixDatagram::bind(&path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    let address = SocketAddr::from_pathname(&path).unwrap();
    let count = |send: &dyn Fn() -> std::io::Result<usize>| {
        // The send buffer ends it where the queue does not.
        (0..100_000).take_while(|_| send().is_ok()).count() as u64
    };
    // The kernel lets one more in than the limit says.
    assert_eq!(count(&|| sender.send_to_addr(b"x", &address)), limit + 1);
    drop(receiver);
    fs::remove_file(path).unwrap();
    for kind in [SocketType::DGRAM, SocketType::SEQPACKET] {
        let (one, _other) = unix_pair(kind);
        let went = count(&|| Ok(send(&one, b"x", SendFlags::NOSIGNAL)?));
        assert!(went > limit + 1, "{went} of a connected {kind:?}");
    }
    assert!(Mechanism::UnixDgram.facts().limits.contains(&Limit::UnixMaxDgramQlen));
    assert!(!Mechanism::UnixSeqpacket.facts().limits.contains(&Limit::UnixMaxDgramQlen));
    Ok(())
}

fn every_limit_is_read_or_says_why_not() -> Result<(), Skip> {
    let mut names = Vec::new();
    for limit in Limit::ALL {
        names.push(limit.name());
        assert!(!limit.about().is_empty() && !limit.raise().is_empty(), "{limit}");
        match limit.read() {
            Ok(Value::Finite(value)) => {
                assert!(limit.stated().starts_with(&format!("{limit} ({value}")), "{limit}");
            }
            Ok(_) => assert_eq!(limit.value(), None),
            Err(why) => {
                assert_eq!(limit.value(), None);
                assert!(why.to_string().contains(": read a limit: "), "{why}");
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Limit::ALL.len());
    Ok(())
}

fn limits_agree_with_what_the_kernel_shows() -> Result<(), Skip> {
    for limit in Limit::ALL {
        let location = limit.location();
        if !location.starts_with("/proc/") {
            continue;
        }
        let shown = fs::read_to_string(location).unwrap_or_default();
        let name = location.strip_prefix("/proc/sys/").unwrap().replace('/', ".");
        let field = match limit {
            Limit::SemMns => 1,
            Limit::SemOpm => 2,
            Limit::SemMni => 3,
            _ => 0,
        };
        if name == "kernel.sem" {
            assert!(limit.name().starts_with("SEM"), "{limit}");
        } else {
            assert_eq!(limit.name(), name);
        }
        match shown.split_whitespace().nth(field) {
            Some("0") => assert!(matches!(limit.read(), Ok(Value::Unlimited | Value::Finite(0)))),
            Some(shown) => assert_eq!(limit.value().unwrap().to_string(), shown, "{limit}"),
            None => assert!(limit.read().is_err(), "{limit}"),
        }
    }
    Ok(())
}

fn a_changed_limit_is_seen_at_once() -> Result<(), Skip> {
    let set = |current| {
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: Some(64) }).unwrap();
    };
    set(32);
    assert_eq!(Limit::Nofile.read().unwrap(), Value::Finite(32));
    assert_eq!(Limit::NofileHard.read().unwrap(), Value::Finite(64));
    set(48);
    assert_eq!(Limit::Nofile.stated(), "RLIMIT_NOFILE (48)");
    Ok(())
}

fn a_masked_limit_is_an_error_and_not_a_guess() -> Result<(), Skip> {
    use rustix::mount::{MountFlags, mount_bind};
    if !sinew_testkit::census::can_be_private() {
        return skip("needs a mount namespace");
    }
    // This test process has its own mount namespace already.
    mount_bind("/dev/null", Limit::PipeMaxSize.location()).unwrap();
    let error = Limit::PipeMaxSize.read().unwrap_err();
    assert!(error.to_string().contains("masked"), "{error}");
    assert_eq!(Limit::PipeMaxSize.value(), None);
    assert_eq!(Limit::PipeMaxSize.stated(), "fs.pipe-max-size");

    rustix::mount::mount("tmpfs", "/proc/sys/fs/mqueue", "tmpfs", MountFlags::empty(), None)
        .unwrap();
    let error = Limit::MqMsgMax.read().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(Mechanism::PosixMq.facts().largest.now(), None);
    let words = Mechanism::PosixMq.facts().largest.to_string();
    assert_eq!(words, "fs.mqueue.msgsize_max, which cannot be read here");
    Ok(())
}
