//! The example `event-loop`: everything a service waits for, in one poller and one thread.

#[path = "../../../../examples/event-loop/connection.rs"]
mod connection;
#[path = "../../../../examples/event-loop/doorbell.rs"]
mod doorbell;
#[path = "../../../../examples/event-loop/receiver.rs"]
mod receiver;
#[path = "../../../../examples/event-loop/sender.rs"]
mod sender;
#[path = "../../../../examples/event-loop/service.rs"]
mod service;
#[path = "../../../../examples/event-loop/settings.rs"]
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, wait};
use sinew::pidfd::{Exit, PidFd};
use sinew::signal::{Signal, Target};
use sinew::timerfd::{Clock, Schedule, Timer};
use sinew::unix::{Address, Seqpacket, Socket};
use sinew::wait::{Connects, Opens, Receives, Sends, Waits};
use sinew::{ErrorKind, RecvError, SendError, fifo};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

use crate::pipe::{stop, until_asleep};
use sender::Sender;
use service::{Fact, Totals};

pub(crate) const TESTS: &[Test] = tests![
    every_signal_tick_message_and_child_is_handled,
    what_came_before_sigterm_is_finished,
    sighup_reads_the_settings_and_keeps_the_old_ones_if_they_are_wrong,
    an_idle_loop_makes_no_wake_up,
    a_client_that_takes_no_answers_stops_nobody,
    a_client_that_is_killed_takes_nothing_along,
    a_client_that_writes_nonsense_is_not_listened_to,
    a_client_that_stays_does_not_keep_the_service,
    a_second_sigterm_kills_the_children,
    a_crowd_waits_at_the_door_without_a_spin,
];
pub(crate) const ROLES: &[Role] = roles![server, client];

const MANY: u64 = 1000;

/// Runs the service, and tells what it saw.
fn server(link: &Link) {
    if let Some(left) = link.hear().strip_prefix("descriptors ") {
        crate::pipe::leave_descriptors(left.parse().unwrap());
    }
    let (mut values, mut requests, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bells, mut exits) = (Vec::new(), BTreeMap::<String, usize>::new());
    let totals = service::run(&scratch(), &mut |fact| match fact {
        Fact::Counted(value) => values.push(value),
        Fact::Request(text) => requests.push(text),
        Fact::Line(text) => lines.push(text),
        Fact::Bell(value) => bells.push(value),
        Fact::Ended(exit) => *exits.entry(exit.to_string()).or_default() += 1,
        Fact::Ticks(ticks) => assert!(ticks > 0),
        Fact::Open | Fact::Reloaded | Fact::Kept(_) | Fact::Draining | Fact::GaveUp { .. } => {
            link.say(fact);
        }
    })
    .unwrap();
    // No child is left unless the service gave up.
    if totals.children > 0 {
        assert_eq!(wait(WaitOptions::NOHANG).err(), Some(rustix::io::Errno::CHILD));
    }
    link.say(format!("{totals:?}"));
    link.say(format!("{values:?}"));
    link.say(format!("{bells:?}"));
    link.say(format!("{requests:?}"));
    link.say(format!("{lines:?}"));
    link.say(format!("{exits:?}"));
}

/// A service that runs.
struct Service(Peer);

fn settings(text: &str) {
    fs::write(scratch().join("settings"), text).unwrap();
}

fn start(text: &str) -> Service {
    start_with(text, "go")
}

fn start_with(text: &str, order: &str) -> Service {
    settings(text);
    let peer = Peer::spawn("event_loop::server");
    peer.say(order);
    peer.expect("open");
    Service(peer)
}

impl Service {
    fn pidfd(&self) -> PidFd {
        PidFd::open(self.0.pid().as_raw_nonzero().get().unsigned_abs()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        self.pidfd().signal(signal).unwrap();
    }

    /// Sends a value, as soon as the queue has room.
    fn count(&self, value: i32) {
        let pidfd = self.pidfd();
        while let Err(error) = Target::from(&pidfd).queue(Signal::rt(1).unwrap(), value) {
            assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
            std::thread::yield_now();
        }
    }

    /// What it saw; it has been asked to end.
    fn end(self) -> Seen {
        let peer = self.0;
        let [totals, values, bells, requests, lines, exits] = [(); 6].map(|()| peer.hear());
        peer.join();
        fs::remove_file(scratch().join("settings")).unwrap();
        fs::remove_file(scratch().join("lines")).unwrap();
        assert!(!scratch().join("socket").exists());
        Seen { totals, values, bells, requests, lines, exits }
    }
}

struct Seen {
    totals: String,
    values: String,
    bells: String,
    requests: String,
    lines: String,
    exits: String,
}

fn connect() -> Seqpacket {
    Address::path(scratch().join("socket")).unwrap().seqpacket().connect().unwrap()
}

fn hear(socket: &Seqpacket) -> String {
    let mut buf = [0; 4096];
    let length = socket.recv_timeout(&mut buf, Duration::from_secs(60)).unwrap();
    String::from_utf8_lossy(&buf[..length]).into_owned()
}

fn ask(socket: &Seqpacket, request: &str) -> String {
    socket.send(request.as_bytes()).unwrap();
    hear(socket)
}

fn bell(socket: &Seqpacket) -> Sender<&Seqpacket> {
    socket.send(b"bell").unwrap();
    let message = socket.fds(3).recv(&mut [0; 16]).unwrap();
    Sender::new(message.fds.try_into().unwrap(), socket).unwrap()
}

fn lines() -> std::io::PipeWriter {
    fifo::Options::new().open(scratch().join("lines")).unwrap().writer().try_open().unwrap()
}

fn range(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.collect()
}

fn every_signal_tick_message_and_child_is_handled() -> Result<(), Skip> {
    let service = start("greeting = hello\nperiod_ms = 1\n");
    std::thread::scope(|s| {
        s.spawn(|| (0..MANY).for_each(|i| service.count(i32::try_from(i).unwrap())));
        s.spawn(|| {
            let client = connect();
            for i in 0..MANY {
                assert_eq!(ask(&client, &format!("say {i}")), format!("hello {i}"));
            }
        });
        s.spawn(|| {
            let connection = connect();
            let mut bell = bell(&connection);
            // More at once than the memory holds, too.
            for part in [range(0..1), range(1..700), range(700..MANY)] {
                assert_eq!(bell.send(&part), part.len());
            }
        });
        s.spawn(|| {
            let tx = lines();
            (0..MANY).for_each(|i| tx.send(format!("line {i}\n").as_bytes()).unwrap());
        });
        let client = connect();
        let mut told = Vec::new();
        for i in 0..40 {
            let program = if i % 4 == 0 { "kill -9 $$".into() } else { format!("exit {i}") };
            told.push(ask(&client, &format!("run {program}")));
        }
        while told.iter().filter(|text| text.starts_with("ended ")).count() < 40 {
            told.push(hear(&client));
        }
        assert_eq!(told.len(), 80, "{told:?}");
        assert_eq!(told.iter().filter(|text| text.starts_with("started ")).count(), 40);
        // The timer counts on, whatever else there is to do.
        let pace = Timer::new(Clock::Monotonic).unwrap();
        pace.arm(Schedule::every(Duration::from_millis(20))).unwrap();
        while ticks(&ask(&client, "stats")) < MANY {
            pace.wait().unwrap();
        }
    });
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    let seen = service.end();
    assert_eq!(seen.values, format!("{:?}", range(0..MANY)), "each once, in order");
    assert_eq!(seen.bells, format!("{:?}", range(0..MANY)));
    let expected: Vec<_> = (0..MANY).map(|i| format!("line {i}")).collect();
    assert_eq!(seen.lines, format!("{expected:?}"));
    for i in 0..MANY {
        assert_eq!(seen.requests.matches(&format!("\"say {i}\"")).count(), 1);
    }
    assert!(seen.totals.contains("children: 40 "), "{}", seen.totals);
    Ok(())
}

/// Of "requests 1, lines 2, ticks 3, ...".
fn ticks(stats: &str) -> u64 {
    let (_, rest) = stats.split_once("ticks ").unwrap();
    rest.split_once(',').unwrap().0.parse().unwrap()
}

fn what_came_before_sigterm_is_finished() -> Result<(), Skip> {
    let service = start("greeting = hello\n");
    let client = connect();
    assert_eq!(ask(&client, "say 0"), "hello 0");
    let ringing = connect();
    let mut bell = bell(&ringing);
    // Everything is on its way before the service can look.
    stop(&service.0);
    // More than it lets in at once.
    let late: Vec<_> = (0..40).map(|_| connect()).collect();
    for i in 0..100 {
        service.count(i);
        client.send(format!("say {i}").as_bytes()).unwrap();
    }
    client.send(b"run exec sleep 0.05").unwrap();
    client.send(b"run false").unwrap();
    late.iter().for_each(|client| client.send(b"say late").unwrap());
    let values = range(0..doorbell::CAPACITY);
    assert_eq!(bell.send(&values), values.len());
    let tx = lines();
    tx.send(b"one\ntwo\nthr").unwrap();
    tx.send(b"ee\n").unwrap();
    service.signal(Signal::TERM);
    service.signal(Signal::CONT);
    service.0.expect("finishing");

    for i in 0..100 {
        assert_eq!(hear(&client), format!("hello {i}"));
    }
    late.iter().for_each(|client| assert_eq!(hear(client), "hello late"));
    let rest = [(); 4].map(|()| hear(&client));
    for end in ["exit code 0", "exit code 1"] {
        let ended = rest.iter().filter(|text| text.starts_with("ended ") && text.ends_with(end));
        assert_eq!(ended.count(), 1, "{rest:?}");
    }
    for socket in late.iter().chain([&client, &ringing]) {
        assert_eq!(socket.recv(&mut [0; 16]), Err(RecvError::Closed));
        assert_eq!(socket.try_send(b"too late"), Err(SendError::Closed));
    }
    let seen = service.end();
    assert_eq!(seen.values, format!("{:?}", range(0..100)));
    assert_eq!(seen.bells, format!("{values:?}"));
    assert_eq!(seen.lines, "[\"one\", \"two\", \"three\"]");
    assert_eq!(seen.exits, "{\"exit code 0\": 1, \"exit code 1\": 1}");
    assert!(seen.totals.contains("requests: 144,"), "{}", seen.totals);
    assert_eq!(bell.send(&[1]), 1, "there is room, and nobody takes it");
    assert_eq!(bell.send(&range(0..1000)), 255, "then it learns that nobody does");
    Ok(())
}

fn sighup_reads_the_settings_and_keeps_the_old_ones_if_they_are_wrong() -> Result<(), Skip> {
    let service = start("greeting = hello\n");
    let client = connect();
    assert_eq!(ask(&client, "say x"), "hello x");
    settings("greeting = good day\nperiod_ms = 1\n");
    assert_eq!(ask(&client, "say x"), "hello x", "not before the signal");
    service.signal(Signal::HUP);
    service.0.expect("new settings");
    assert_eq!(ask(&client, "say x"), "good day x");
    while ticks(&ask(&client, "stats")) < 2 {}
    settings("greeting = never\nperiod_ms = soon\n");
    service.signal(Signal::HUP);
    let kept = service.0.hear();
    assert!(
        kept.starts_with("the old settings stay: /") && kept.contains(":2: period_ms"),
        "{kept}"
    );
    assert_eq!(ask(&client, "say x"), "good day x");
    fs::remove_file(scratch().join("settings")).unwrap();
    service.signal(Signal::HUP);
    assert!(service.0.hear().starts_with("the old settings stay: /"));
    settings("");
    service.signal(Signal::HUP);
    service.0.expect("new settings");
    let stood = ticks(&ask(&client, "stats"));
    assert_eq!(ticks(&ask(&client, "stats")), stood, "the timer is off again");
    service.signal(Signal::INT);
    service.0.expect("finishing");
    service.end();
    Ok(())
}

/// How often it went to sleep by itself, and was woken since.
pub(crate) fn sleeps(pid: Pid) -> u64 {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let text = fs::read_to_string(path).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

/// Waits until it has nothing to do: what has happened before is handled then.
fn until_idle(service: &Service) {
    let path = format!("/proc/{}/syscall", service.0.pid().as_raw_nonzero());
    let calls = [libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2].map(|number| number.to_string());
    loop {
        // Who has been woken and has not run yet is in its call still, and not asleep.
        until_asleep(service.0.pid());
        let text = fs::read_to_string(&path).unwrap();
        if text.split(' ').next().is_some_and(|call| calls.iter().any(|number| number == call)) {
            return;
        }
        std::thread::yield_now();
    }
}

/// Lets it lie for a while: how often it was woken.
fn wakes_while_idle(service: &Service) -> u64 {
    until_idle(service);
    let before = sleeps(service.0.pid());
    let while_ = Timer::new(Clock::Monotonic).unwrap();
    while_.arm(Schedule::after(Duration::from_millis(300))).unwrap();
    while_.wait().unwrap();
    until_idle(service);
    sleeps(service.0.pid()) - before
}

fn an_idle_loop_makes_no_wake_up() -> Result<(), Skip> {
    let service = start("period_ms = 50\n");
    let client = connect();
    let ringing = connect();
    let mut bell = bell(&ringing);
    assert_eq!(bell.send(&[1, 2]), 2);
    assert!(ask(&client, "run exec sleep 1000").starts_with("started "));
    // That the measure sees a wake-up at all.
    assert!(wakes_while_idle(&service) > 0, "the timer ticks");
    settings("period_ms = 0\n");
    service.signal(Signal::HUP);
    service.0.expect("new settings");
    ask(&client, "stats");
    assert_eq!(wakes_while_idle(&service), 0);
    // A child that it looks after, a client that has hung up on it, and the drain change nothing.
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    assert_eq!(wakes_while_idle(&service), 0);
    service.signal(Signal::TERM);
    assert!(hear(&client).ends_with("killed by SIGKILL"));
    service.end();
    Ok(())
}

/// Sends requests and takes no answer, until the service takes no more. How many.
fn fill(service: &Service, client: &Seqpacket) -> usize {
    let mut sent = 0;
    loop {
        // If it still is full while the service sleeps, the service has left it so.
        until_idle(service);
        match client.try_send(b"say something") {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error, SendError::Full);
                until_idle(service);
                if client.try_send(b"say something") == Err(SendError::Full) {
                    return sent;
                }
                sent += 1;
            }
        }
    }
}

fn a_client_that_takes_no_answers_stops_nobody() -> Result<(), Skip> {
    let service = start("greeting = hello\n");
    let (rude, other) = (connect(), connect());
    let sent = fill(&service, &rude);
    assert!(sent > 10);
    assert_eq!(ask(&other, "say x"), "hello x");
    assert_eq!(wakes_while_idle(&service), 0, "it does not spin on what it cannot send");
    for _ in 0..sent {
        assert_eq!(hear(&rude), "hello something");
    }
    assert_eq!(ask(&rude, "say y"), "hello y");
    drop(rude);
    assert_eq!(ask(&other, "say x"), "hello x");
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    service.end();
    Ok(())
}

/// Sends requests and values, and is killed.
fn client(link: &Link) {
    let socket = connect();
    (0..50).for_each(|i| socket.send(format!("say {i}").as_bytes()).unwrap());
    socket.send(b"run true").unwrap();
    let other = connect();
    let mut bell = bell(&other);
    assert_eq!(bell.send(&range(0..200)), 200);
    link.say("sent");
    link.expect("never");
}

fn a_client_that_is_killed_takes_nothing_along() -> Result<(), Skip> {
    let service = start("greeting = hello\n");
    let peer = Peer::spawn("event_loop::client");
    peer.expect("sent");
    stop(&service.0);
    peer.kill();
    service.signal(Signal::CONT);
    let other = connect();
    assert_eq!(ask(&other, "say x"), "hello x");
    while !ask(&other, "stats").contains("children 1") {}
    drop(other);
    assert_eq!(wakes_while_idle(&service), 0, "it does not spin on a hang-up");
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    let seen = service.end();
    let requests = seen.requests.matches("\"say ").count();
    assert_eq!(requests, 51, "{}", seen.requests);
    assert_eq!(seen.bells, format!("{:?}", range(0..200)));
    assert_eq!(seen.exits, format!("{{{:?}: 1}}", Exit::Code(0).to_string()));
    Ok(())
}

fn a_client_that_writes_nonsense_is_not_listened_to() -> Result<(), Skip> {
    let service = start("greeting = hello\n");
    let client = connect();
    client.send(b"bell").unwrap();
    let message = client.fds(3).recv(&mut [0; 16]).unwrap();
    let [memory, bell, _room]: [_; 3] = message.fds.try_into().unwrap();
    let memory = sinew::memfd::Memfd::try_from(memory).unwrap();
    let bell = sinew::eventfd::EventFd::<sinew::eventfd::Counter>::try_from(bell).unwrap();
    // More values than there is room for.
    memory.write_at(0, &u64::MAX.to_ne_bytes()).unwrap();
    bell.notify().unwrap();
    // It sleeps only once it has seen that.
    until_idle(&service);
    assert_eq!(ask(&client, "say x"), "hello x");
    memory.write_at(0, &1_u64.to_ne_bytes()).unwrap();
    bell.notify().unwrap();
    assert_eq!(ask(&client, "say x"), "hello x");
    assert_eq!(ask(&client, "sing"), "error: say WORDS, run SCRIPT, bell, or stats");
    client.send(&[b'x'; 5000]).unwrap();
    assert_eq!(hear(&client), "error: too long");
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    let seen = service.end();
    assert_eq!(seen.bells, "[]");
    Ok(())
}

fn a_client_that_stays_does_not_keep_the_service() -> Result<(), Skip> {
    let service = start("patience_ms = 50\n");
    let client = connect();
    fill(&service, &client);
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    let gave_up = service.0.hear();
    assert!(gave_up.starts_with("gave up: "), "{gave_up}");
    assert!(gave_up.ends_with(" answers not taken, 0 children still run"), "{gave_up}");
    service.end();
    Ok(())
}

fn a_second_sigterm_kills_the_children() -> Result<(), Skip> {
    let service = start("");
    let client = connect();
    assert!(ask(&client, "run exec sleep 1000").starts_with("started "));
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    service.signal(Signal::TERM);
    let ended = hear(&client);
    assert!(ended.ends_with("killed by SIGKILL"), "{ended}");
    assert_eq!(client.recv(&mut [0; 16]), Err(RecvError::Closed));
    let seen = service.end();
    let expected = Totals { requests: 1, children: 1, ..Totals::default() };
    assert_eq!(seen.totals, format!("{expected:?}"));
    Ok(())
}

fn a_crowd_waits_at_the_door_without_a_spin() -> Result<(), Skip> {
    // Room for the service's own and for two clients.
    let service = start_with("greeting = hello\n", "descriptors 9");
    let mut inside = Vec::new();
    let mut outside = Vec::new();
    for _ in 0..8 {
        let client = connect();
        client.send(b"say x").unwrap();
        until_idle(&service);
        match client.try_recv(&mut [0; 64]) {
            Ok(_) => inside.push(client),
            Err(error) => {
                assert_eq!(error, RecvError::Empty);
                outside.push(client);
            }
        }
    }
    assert!(!inside.is_empty() && !outside.is_empty(), "{} are in", inside.len());
    assert_eq!(wakes_while_idle(&service), 0);
    while let Some(first) = inside.pop() {
        drop(first);
        if outside.is_empty() {
            continue;
        }
        let next = outside.remove(0);
        assert_eq!(hear(&next), "hello x");
        inside.insert(0, next);
    }
    service.signal(Signal::TERM);
    service.0.expect("finishing");
    service.end();
    Ok(())
}
