//! What is counted in channels, as processes see it that take no part.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, fstat, memfd_create};
use sinew::ErrorKind;
use sinew::channel::queue::{self, Worker};
use sinew::channel::stats::{
    self, Channel, Memory, Pattern, Presence, Role as Does, State, Survey,
};
use sinew::channel::{Full, Options, Sender, Unattached};
use sinew::memfd::{self, Memfd};
use sinew::wait::{Borrows, Receives, Sends};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, tests};

use crate::pipe::{stop, until_asleep};
use crate::posix_mq::become_nobody;

pub(crate) const TESTS: &[Test] = tests![
    a_stream_counts_exactly,
    each_sender_of_many_is_counted_and_a_dead_one_stays,
    a_queue_counts_by_lane_and_by_worker,
    sleeps_and_rings_are_counted,
    the_fullest_that_a_lane_was_is_kept,
    what_is_dropped_is_counted,
    whoever_looks_at_traffic_sees_no_nonsense,
    a_name_is_that_of_its_folder,
    rubbish_is_told_and_harms_nobody,
    another_user_sees_nothing_and_root_sees_all,
    a_member_elsewhere_has_the_number_that_it_has_here,
];
pub(crate) const ROLES: &[Role] = roles![sender, receiver, works, another_user, elsewhere];

const CAPACITY: u64 = 4096;
const LONG: Duration = Duration::from_secs(60);

fn options(senders: u32) -> Options {
    let options = if senders == 1 { Options::stream() } else { Options::fan_in(senders) };
    options.capacity(CAPACITY)
}

fn look() -> Channel {
    stats::at(scratch().join("test")).unwrap()
}

fn memory_of(memfd: impl AsFd) -> Memory {
    let stat = fstat(memfd).unwrap();
    Memory { device: stat.st_dev, inode: stat.st_ino }
}

fn of_memory(memfd: impl AsFd) -> Channel {
    let memory = memory_of(memfd);
    let survey = stats::channels().unwrap();
    survey.channels.into_iter().find(|channel| channel.memory == memory).unwrap()
}

/// Sends what it is told: `COUNT LENGTH`.
fn sender(link: &Link) {
    let (senders, name) = (link.hear().parse().unwrap(), link.hear());
    let mut attach = options(senders).sender().folder(scratch());
    if name != "-" {
        attach = attach.durable(name).unwrap();
    }
    let sender = attach.open("test").unwrap();
    link.say("here");
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        let (count, len) = words.split_once(' ').unwrap();
        let message = vec![7; len.parse().unwrap()];
        for _ in 0..count.parse().unwrap() {
            sender.send_timeout(&message, LONG).unwrap();
        }
        link.say("sent");
    }
}

fn sends(senders: u32, name: &str) -> Peer {
    let peer = Peer::spawn("channel::stats::sender");
    peer.say(senders);
    peer.say(name);
    peer.expect("here");
    peer
}

fn tell(peer: &Peer, count: u64, len: usize) {
    peer.say(format!("{count} {len}"));
    peer.expect("sent");
}

/// Receives as many as it is told.
fn receiver(link: &Link) {
    let receiver = options(1).receiver().folder(scratch()).open("test").unwrap();
    link.say("here");
    while let Some((words, _)) = link.try_receive() {
        for _ in 0..String::from_utf8(words).unwrap().parse().unwrap() {
            receiver.recv_timeout(&mut [0; 4096], LONG).unwrap();
        }
        link.say("received");
    }
}

fn a_stream_counts_exactly() -> Result<(), Skip> {
    let receiver = options(1).receiver().folder(scratch()).create("test").unwrap();
    let peer = sends(1, "-");
    let channel = look();
    assert_eq!((channel.pattern, channel.full), (Pattern::Stream, Full::Block));
    assert_eq!((channel.label.as_str(), channel.capacity, channel.slots), ("test", CAPACITY, 0));
    assert_eq!((channel.sent(), channel.received(), channel.waiting()), (0, 0, 0));

    peer.say("5000 24");
    for _ in 0..5000 {
        receiver.recv_timeout(&mut [0; 24], LONG).unwrap();
    }
    peer.expect("sent");
    let borrowed = {
        tell(&peer, 3, 100);
        receiver.borrow().unwrap()
    };
    let channel = look();
    let [lane] = channel.lanes[..] else { panic!("{channel:?}") };
    assert_eq!((lane.sent, lane.sent_bytes), (5003, 5000 * 24 + 300));
    assert_eq!((lane.received, lane.received_bytes), (Some(5000), Some(5000 * 24)));
    // With the headers, and what they are rounded up to.
    assert!((3 * 112..=3 * 112 + 112).contains(&lane.in_use.unwrap()), "{lane:?}");
    assert_eq!((lane.presence, lane.turn, lane.dropped), (Presence::Here, 1, 0));
    assert!(lane.high_water > 0 && lane.high_water <= CAPACITY, "{lane:?}");
    let [own] = channel.receivers[..] else { panic!("{channel:?}") };
    assert_eq!((own.received, own.bytes, own.turn), (5000, 5000 * 24, 1));
    assert_eq!((channel.sent(), channel.received(), channel.waiting()), (5003, 5000, 3));
    // The end itself sees the same.
    assert_eq!(receiver.stats(), own);
    drop(borrowed);
    assert_eq!(look().waiting(), 2);

    // Who takes part.
    let [holder, other] = &channel.members[..] else { panic!("{channel:?}") };
    assert_eq!((channel.holder, holder.place), (Some(0), 0));
    assert_eq!((holder.role, other.role), (Does::Receiver, Does::Sender));
    assert_eq!((holder.state, other.state), (State::Here, State::Here));
    let (own, its) = (std::process::id(), peer.pid().as_raw_nonzero().get().unsigned_abs());
    assert_eq!((holder.pid, other.pid), (Some(own), Some(its)));
    assert_eq!((holder.own_pid, other.own_pid), (own, its));
    assert_eq!((other.lane, other.generation, &other.name), (0, 1, &None));
    assert_eq!(other.uid, rustix::process::getuid().as_raw());
    let namespace = std::fs::metadata("/proc/self/ns/pid").unwrap().ino();
    assert!(other.pid_namespace == namespace && other.started > 0);
    for process in [own, its] {
        assert_eq!(channel.processes.iter().filter(|pid| **pid == process).count(), 1);
    }
    // It is read though nobody answers.
    stop(&peer);
    assert_eq!(look().sent(), 5003);
    peer.signal(rustix::process::Signal::CONT);
    peer.kill();
    drop(receiver);
    assert_eq!(stats::at(scratch().join("test")).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn each_sender_of_many_is_counted_and_a_dead_one_stays() -> Result<(), Skip> {
    let receiver = options(3).receiver().folder(scratch()).create("test").unwrap();
    let peers = ["first", "second", "third"].map(|name| sends(3, name));
    for (peer, count) in peers.iter().zip([1, 20, 30]) {
        tell(peer, count, 8);
    }
    let [first, second, third] = peers;
    // Its successor goes on in its lane, and so do the counts.
    second.kill();
    let lane_of = |channel: &Channel, name: &str| {
        let member = channel.members.iter().find(|m| m.name.as_ref().is_some_and(|n| n == name));
        channel.lanes[member.unwrap().lane as usize]
    };
    let check = |sent: [u64; 3]| {
        let channel = look();
        let lanes = ["first", "second", "third"].map(|name| lane_of(&channel, name));
        assert_eq!(lanes.map(|lane| lane.sent), sent, "{channel:?}");
        assert_eq!(lanes.map(|lane| lane.sent_bytes), sent.map(|sent| sent * 8));
        assert_eq!(channel.pattern, Pattern::FanIn);
        channel
    };
    let channel = check([1, 20, 30]);
    assert_eq!(channel.waiting(), 51);
    let dead = channel.members.iter().find(|m| m.name.as_ref().is_some_and(|n| n == "second"));
    let dead = dead.unwrap();
    // Whether or not this has been noticed yet.
    assert!(dead.pid.is_none() && dead.own_pid != 0, "{dead:?}");
    let mut told = 0;
    while told == 0 || look().received() < 51 {
        match receiver.recv_timeout(&mut [0; 8], LONG) {
            Ok(len) => assert_eq!(len, 8),
            Err(sinew::RecvError::PeerDied) => told += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    let channel = check([1, 20, 30]);
    assert_eq!((channel.received(), channel.waiting()), (51, 0));
    assert!(channel.lanes.iter().all(|lane| lane.received == Some(lane.sent)));
    let second = sends(3, "second");
    tell(&second, 5, 8);
    let channel = check([1, 25, 30]);
    assert_eq!(lane_of(&channel, "second").turn, 2);
    drop((first, second, third));
    Ok(())
}

/// A queue, and what others attach to.
fn shared(options: queue::Options, label: &str) -> Memfd {
    let memfd = memfd::Options::new().create(label, options.bytes().unwrap()).unwrap();
    options.create_in(&Arc::new(memfd.map().unwrap())).unwrap();
    memfd
}

/// Works on as many messages as it is told.
fn works(link: &Link) {
    let memfd = Memfd::try_from(link.recv_fd()).unwrap();
    let map = Arc::new(memfd.map().unwrap());
    // SAFETY: the test gives each place to one.
    let worker = unsafe { Worker::open_in(&map, link.hear().parse().unwrap()) }.unwrap();
    link.say("here");
    while let Some((words, _)) = link.try_receive() {
        for index in 0..String::from_utf8(words).unwrap().parse().unwrap() {
            if index % 2 == 0 {
                drop(worker.borrow_timeout(LONG).unwrap());
            } else {
                worker.recv_timeout(&mut [0; 64], LONG).unwrap();
            }
        }
        link.say("done");
    }
}

fn a_queue_counts_by_lane_and_by_worker() -> Result<(), Skip> {
    let options = Options::queue(2, 3).capacity(1 << 16).slots(64);
    let memfd = shared(options, "sinew:a queue");
    let map = Arc::new(memfd.map().unwrap());
    // SAFETY: each lane has one.
    let senders = [0, 1].map(|lane| unsafe { queue::Sender::open_in(&map, lane) }.unwrap());
    let peers = [0, 1].map(|place| {
        let peer = Peer::spawn("channel::stats::works");
        peer.send_fd(&memfd);
        peer.say(place);
        peer.expect("here");
        peer
    });
    for (peer, count) in peers.iter().zip([7, 4]) {
        peer.say(count);
    }
    for number in 0..12_usize {
        senders[number % 2].send(&vec![1; 10 + number % 2]).unwrap();
    }
    peers.iter().for_each(|peer| peer.expect("done"));
    let channel = of_memory(&memfd);
    assert_eq!((channel.pattern, channel.label.as_str()), (Pattern::Queue, "a queue"));
    assert_eq!((channel.slots, channel.lanes.len(), channel.receivers.len()), (64, 2, 3));
    let sent: Vec<_> = channel.lanes.iter().map(|lane| (lane.sent, lane.sent_bytes)).collect();
    assert_eq!(sent, [(6, 60), (6, 66)]);
    assert!(channel.lanes.iter().all(|lane| lane.received.is_none() && lane.in_use.is_none()));
    let done: Vec<_> = channel.receivers.iter().map(|worker| worker.received).collect();
    assert_eq!(done, [7, 4, 0]);
    assert_eq!((channel.sent(), channel.received(), channel.waiting()), (12, 11, 1));
    let left = 126 - channel.receivers.iter().map(|worker| worker.bytes).sum::<u64>();
    assert!(left == 10 || left == 11, "{channel:?}");
    let [own, other] = [0, 1].map(|lane: usize| senders[lane].stats());
    assert_eq!([own, other], channel.lanes[..]);
    // What the dead did stays counted, and their successors go on.
    let [first, second] = peers;
    first.kill();
    drop(second);
    // SAFETY: its worker is dead.
    let worker = unsafe { Worker::open_in(&map, 0) }.unwrap();
    worker.recv(&mut [0; 64]).unwrap();
    let channel = of_memory(&memfd);
    assert_eq!((channel.received(), channel.waiting()), (12, 0));
    assert_eq!((channel.receivers[0].received, channel.receivers[0].turn), (8, 2));
    assert_eq!(worker.stats(), channel.receivers[0]);
    // It is given back, and not done.
    senders[0].send(b"again").unwrap();
    worker.borrow().unwrap().give_back();
    assert_eq!(of_memory(&memfd).waiting(), 1);
    Ok(())
}

fn sleeps_and_rings_are_counted() -> Result<(), Skip> {
    let sender = options(1).sender().folder(scratch()).create("test").unwrap();
    let peer = Peer::spawn("channel::stats::receiver");
    peer.expect("here");
    for _ in 0..5 {
        let before = look();
        peer.say(1);
        until_asleep(peer.pid());
        let asleep = loop {
            // It may have been the link that it slept on.
            let now = look();
            if now.receivers[0].asleep {
                break now;
            }
        };
        until_asleep(peer.pid());
        let sleeps = |channel: &Channel| channel.receivers[0].sleeps;
        assert_eq!(sleeps(&asleep), sleeps(&before) + 1);
        sender.send(&[0; 8]).unwrap();
        peer.expect("received");
        let after = look();
        assert!(!after.receivers[0].asleep);
        assert_eq!(sleeps(&after), sleeps(&asleep));
        assert_eq!(after.lanes[0].rings, before.lanes[0].rings + 1);
        assert_eq!(after.receivers[0].rings, before.receivers[0].rings);
    }
    // The other way: who waits for room.
    peer.kill();
    drop(sender);
    let receiver = options(1).receiver().folder(scratch()).create("test").unwrap();
    let peer = sends(1, "-");
    peer.say("100 56");
    let full = loop {
        let now = look();
        if now.lanes[0].asleep {
            break now;
        }
    };
    assert_eq!((full.lanes[0].sent, full.lanes[0].sleeps), (63, 1));
    assert_eq!((full.lanes[0].high_water, full.lanes[0].in_use), (63 * 64, Some(63 * 64)));
    for _ in 0..100 {
        receiver.recv_timeout(&mut [0; 56], LONG).unwrap();
    }
    peer.expect("sent");
    let after = look();
    let (lane, own) = (after.lanes[0], after.receivers[0]);
    assert!(own.rings >= 1 && own.rings <= lane.sleeps, "{after:?}");
    assert_eq!((lane.asleep, after.waiting()), (false, 0));
    Ok(())
}

fn the_fullest_that_a_lane_was_is_kept() -> Result<(), Skip> {
    let (sender, receiver) = options(1).pair().unwrap();
    for _ in 0..3 {
        sender.send(&[0; 56]).unwrap();
    }
    assert_eq!(sender.stats().high_water, 0);
    // Again and again around, with three messages in the lane.
    for _ in 0..1000 {
        receiver.recv(&mut [0; 56]).unwrap();
        sender.send(&[0; 56]).unwrap();
    }
    assert_eq!(sender.stats().high_water, 2 * 64);
    while sender.try_send(&[0; 56]).is_ok() {}
    assert_eq!(sender.stats().high_water, 63 * 64);
    while receiver.try_recv(&mut [0; 56]).is_ok() {}
    (0..100).for_each(|_| {
        sender.send(&[0; 56]).unwrap();
        receiver.recv(&mut [0; 56]).unwrap();
    });
    let lane = sender.stats();
    assert_eq!((lane.high_water, lane.in_use), (63 * 64, Some(0)));
    assert_eq!((lane.received, receiver.stats().received), (Some(lane.sent), lane.sent));
    // Of a queue, in steps of 64 bytes.
    let (senders, workers) = Options::queue(1, 1).capacity(CAPACITY).local().unwrap();
    while senders[0].try_send(&[0; 64]).is_ok() {}
    assert_eq!(senders[0].stats().high_water, CAPACITY);
    assert_eq!(workers[0].stats().received, 0);
    Ok(())
}

fn what_is_dropped_is_counted() -> Result<(), Skip> {
    let options = options(1).full(Full::DropNewest);
    let receiver = options.receiver().folder(scratch()).create("test").unwrap();
    let peer = sends(1, "-");
    tell(&peer, 100, 56);
    for _ in 0..10 {
        receiver.recv(&mut [0; 56]).unwrap();
    }
    let channel = look();
    assert_eq!(channel.full, Full::DropNewest);
    assert_eq!((channel.sent(), channel.dropped(), channel.received()), (100, 37, 10));
    assert_eq!(channel.waiting(), 53);
    let lane = channel.lanes[0];
    assert_eq!((lane.sent_bytes, lane.dropped, lane.dropped_bytes), (5600, 37, 37 * 56));
    assert_eq!(receiver.counts(0).unwrap().waiting(), channel.waiting());
    Ok(())
}

fn whoever_looks_at_traffic_sees_no_nonsense() -> Result<(), Skip> {
    const COUNT: u64 = 300_000;
    let holder = options(1).sender().folder(scratch()).create("test").unwrap();
    let receiver = Peer::spawn("channel::stats::receiver");
    receiver.expect("here");
    drop(holder);
    let sender = sends(1, "-");
    receiver.say(COUNT);
    sender.say(format!("{COUNT} 24"));
    let mut last = look();
    let mut moved = 0;
    while last.received() < COUNT {
        let now = look();
        let ([before], [lane]) = (&last.lanes[..], &now.lanes[..]) else { panic!("{now:?}") };
        assert!(lane.sent <= COUNT && lane.received <= Some(lane.sent), "{now:?}");
        assert!(lane.in_use.unwrap() <= CAPACITY && lane.high_water <= CAPACITY, "{now:?}");
        // Whole messages only.
        let bytes = [lane.sent_bytes, lane.received_bytes.unwrap(), now.receivers[0].bytes];
        assert!(bytes.iter().all(|bytes| bytes % 24 == 0 && *bytes <= COUNT * 24), "{now:?}");
        assert!(lane.received_bytes <= Some(lane.sent_bytes), "{now:?}");
        let counts = |c: &Channel| {
            let (lane, own) = (c.lanes[0], c.receivers[0]);
            [lane.sent, lane.sent_bytes, own.received, own.bytes, lane.high_water]
                .into_iter()
                .chain([lane.sleeps, lane.rings, own.sleeps, own.rings])
                .collect::<Vec<_>>()
        };
        assert!(counts(&last).iter().zip(counts(&now)).all(|(a, b)| *a <= b), "{last:?} {now:?}");
        moved += u32::from(lane.sent > before.sent);
        last = now;
    }
    sender.expect("sent");
    receiver.expect("received");
    assert!(moved > 2, "it looked {moved} times while they were at work");
    let end = look();
    assert_eq!((end.sent(), end.received()), (COUNT, COUNT));
    assert_eq!((end.lanes[0].sent_bytes, end.receivers[0].bytes), (COUNT * 24, COUNT * 24));
    assert_eq!(end.lanes[0].in_use, Some(0));
    drop((sender, receiver));
    // Nobody is left to remove it.
    let _ = std::fs::remove_file(scratch().join("test"));
    Ok(())
}

fn a_name_is_that_of_its_folder() -> Result<(), Skip> {
    let (one, other) = (scratch().join("one"), scratch().join("other"));
    let senders = [(&one, 1), (&other, 2)].map(|(folder, count)| {
        std::fs::create_dir(folder).unwrap();
        let sender: Sender = options(1).sender().folder(folder).create("same").unwrap();
        (0..count).for_each(|_| sender.send(b"").unwrap());
        sender
    });
    assert_eq!(stats::at(one.join("same")).unwrap().sent(), 1);
    assert_eq!(stats::at(other.join("same")).unwrap().sent(), 2);
    std::fs::write(one.join("file"), "").unwrap();
    for nothing in ["file", "nothing"] {
        let error = stats::at(one.join(nothing)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    drop(senders);
    std::fs::remove_dir_all(one).unwrap();
    std::fs::remove_dir_all(other).unwrap();
    Ok(())
}

/// Memory with a channel's name and these contents.
fn memory(contents: &[u8]) -> std::fs::File {
    let fd = memfd_create("sinew:rubbish", MemfdFlags::CLOEXEC).unwrap();
    let file = std::fs::File::from(fd);
    file.write_all_at(contents, 0).unwrap();
    file
}

fn rubbish_is_told_and_harms_nobody() -> Result<(), Skip> {
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = |len: usize| {
        let mut bytes = vec![0; len];
        for byte in &mut bytes {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            *byte = seed as u8;
        }
        bytes
    };
    let (stream, _other) = options(1).ends().unwrap();
    let [stream, ..] = stream.into_fds();
    let queue = shared(Options::queue(3, 5).capacity(CAPACITY).slots(16), "unnamed");
    for honest in [stream, queue.into()] {
        let honest = std::fs::File::from(honest);
        let mut contents = vec![0; honest.metadata().unwrap().len() as usize];
        honest.read_exact_at(&mut contents, 0).unwrap();
        let damaged = |at: usize, byte: u8| {
            let mut contents = contents.clone();
            contents[at] ^= byte;
            memory(&contents)
        };
        let rubbish = [
            memory(&[]),
            memory(&[7]),
            memory(&random(1 << 20)),
            memory(&contents[..512]),
            memory(&contents[..contents.len() - 4096]),
            damaged(0, 1),
            damaged(24, 8),
            damaged(56, 255),
            damaged(64, 1),
        ];
        let survey = stats::channels().unwrap();
        for file in &rubbish {
            let memory = memory_of(file);
            let told = survey.unknown.iter().find(|unknown| unknown.memory == memory).unwrap();
            assert_eq!(told.label, "rubbish");
            assert!(told.processes.contains(&std::process::id()), "{told:?}");
            assert_eq!(told.error.kind(), ErrorKind::Mismatch, "{}", told.error);
            assert!(survey.channels.iter().all(|channel| channel.memory != memory));
        }
        // A header that is true, and nothing else.
        for round in 0..50 {
            let len = contents.len() - 4096;
            let rest = if round == 0 { vec![255; len] } else { random(len) };
            contents[4096..].copy_from_slice(&rest);
            contents[128..512].copy_from_slice(&random(384));
            let file = memory(&contents);
            let channel = of_memory(&file);
            assert!(channel.members.len() <= channel.most_members as usize);
            assert!(channel.holder.is_none_or(|holder| (holder as u64) < channel.most_members));
            assert!(channel.lanes.iter().all(|lane| lane.in_use <= Some(CAPACITY)));
            let told = channel.received().saturating_add(channel.dropped());
            assert!(channel.sent() >= channel.received(), "{told} {}", channel.waiting());
            assert!(!format!("{channel:?}").is_empty());
        }
    }
    Ok(())
}

/// What this process has of its own, which has one channel.
fn own(survey: &Survey, process: u32) -> Option<&Channel> {
    survey.channels.iter().find(|channel| channel.processes.contains(&process))
}

fn another_user(link: &Link) {
    become_nobody();
    let (inode, process): (u64, u32) = (link.hear().parse().unwrap(), link.hear().parse().unwrap());
    let survey = stats::channels().unwrap();
    assert!(survey.unreadable > 0);
    assert!(survey.channels.iter().all(|channel| channel.memory.inode != inode));
    assert!(survey.unknown.iter().all(|unknown| unknown.memory.inode != inode));
    assert!(own(&survey, process).is_none());
    // And the root's own name.
    let path = std::path::PathBuf::from(link.hear());
    let kind = stats::at(path).unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::PermissionDenied | ErrorKind::NotFound), "{kind:?}");
    let (sender, receiver) = options(1).ends().unwrap();
    let (sender, _receiver) = (sender.attach().unwrap(), receiver.attach().unwrap());
    sender.send(b"of another").unwrap();
    let survey = stats::channels().unwrap();
    assert_eq!(own(&survey, std::process::id()).unwrap().sent(), 1);
    link.say("here");
    link.expect("end");
}

fn another_user_sees_nothing_and_root_sees_all() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let receiver = options(1).receiver().folder(scratch()).create("test").unwrap();
    let peer = Peer::spawn("channel::stats::another_user");
    peer.say(look().memory.inode);
    peer.say(std::process::id());
    peer.say(scratch().join("test").display());
    peer.expect("here");
    let survey = stats::channels().unwrap();
    match own(&survey, peer.pid().as_raw_nonzero().get().unsigned_abs()) {
        Some(channel) => {
            assert_eq!((channel.sent(), channel.label.as_str()), (1, "pair"));
            let uids: Vec<_> = channel.members.iter().map(|member| member.uid).collect();
            assert_eq!(uids, [65534; 2]);
        }
        // A root that may not trace.
        None => assert!(survey.unreadable > 0 && !may_trace()),
    }
    peer.say("end");
    peer.join();
    drop(receiver);
    Ok(())
}

fn may_trace() -> bool {
    const SYS_PTRACE: u64 = 19;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() >> SYS_PTRACE & 1 == 1
}

/// Attaches in a pid namespace of its own.
fn elsewhere(link: &Link) {
    let fds = std::array::from_fn(|_| link.recv_fd());
    // SAFETY: numbers only; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        return link.say("may not");
    }
    // SAFETY: one thread.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        link.expect("go");
        let sender = Unattached::<Sender>::from_fds(fds).attach().unwrap();
        sender.send(b"from elsewhere").unwrap();
        link.say(std::process::id());
        link.expect("end");
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    drop(fds);
    link.say(child);
    let mut status = 0;
    // SAFETY: a child of this process.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}

fn a_member_elsewhere_has_the_number_that_it_has_here() -> Result<(), Skip> {
    let (sender, receiver) = options(1).ends().unwrap();
    let receiver = receiver.attach().unwrap();
    let peer = Peer::spawn("channel::stats::elsewhere");
    for fd in sender.into_fds() {
        peer.send_fd(fd);
    }
    let Ok(pid) = peer.hear().parse::<u32>() else {
        return skip("no pid namespace of one's own here");
    };
    peer.say("go");
    peer.expect("1");
    assert_eq!(receiver.recv_timeout(&mut [0; 64], LONG), Ok(14));
    let survey = stats::channels().unwrap();
    let channel = own(&survey, std::process::id()).unwrap();
    let member = channel.members.iter().find(|member| member.role == Does::Sender).unwrap();
    assert_eq!((member.pid, member.own_pid, member.state), (Some(pid), 1, State::Here));
    let namespace = std::fs::metadata("/proc/self/ns/pid").unwrap().ino();
    assert_ne!(member.pid_namespace, namespace);
    let here = channel.members.iter().find(|member| member.role == Does::Receiver).unwrap();
    assert_eq!((here.pid, here.pid_namespace), (Some(std::process::id()), namespace));
    peer.say("end");
    peer.join();
    Ok(())
}
