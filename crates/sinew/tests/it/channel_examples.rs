//! The examples of channels, as a user runs them: a job queue, a log collector, and a producer that is started again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines, PipeReader, PipeWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

use crate::pipe::until_asleep;

#[path = "../../../../examples/log-collector/collector.rs"]
mod collector;
#[path = "../../../../examples/restart/consumer.rs"]
mod consumer;
#[path = "../../../../examples/log-collector/sender.rs"]
mod log_sender;
#[path = "../../../../examples/restart/producer.rs"]
mod producer;
#[path = "../../../../examples/job-queue/submit.rs"]
mod submit;
#[path = "../../../../examples/job-queue/worker.rs"]
mod worker;

pub(crate) const TESTS: &[Test] = tests![
    the_job_of_a_killed_worker_is_done_by_another,
    a_job_that_kills_three_workers_is_given_up,
    lines_arrive_whole_though_a_sender_is_killed_within_one,
    a_producer_goes_on_where_it_was_killed,
    a_consumer_goes_on_where_it_was_killed,
];
pub(crate) const ROLES: &[Role] =
    roles![job_submit, job_worker, log_collect, log_send, number_producer, number_consumer];

fn job_submit(_: &Link) {
    submit::main().unwrap();
}

fn job_worker(_: &Link) {
    worker::main().unwrap();
}

fn log_collect(_: &Link) {
    collector::main().unwrap();
}

fn log_send(_: &Link) {
    log_sender::main().unwrap();
}

fn number_producer(_: &Link) {
    producer::main().unwrap();
}

fn number_consumer(_: &Link) {
    consumer::main().unwrap();
}

/// A folder for the names, as that of a session.
struct Session(PathBuf);

impl Session {
    fn new() -> Self {
        let path = scratch().join("run");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn start(&self, role: &str, arguments: &[&str]) -> Program {
        let ((theirs, input), (out, their_out)) =
            (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let peer = Peer::spawn_with(&format!("channel_examples::{role}"), |c| {
            c.arg("test").args(arguments).stdin(theirs).stdout(their_out);
            c.env("XDG_RUNTIME_DIR", &self.0);
        });
        Program { peer, input, lines: BufReader::new(out).lines() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

struct Program {
    peer: Peer,
    input: PipeWriter,
    lines: Lines<BufReader<PipeReader>>,
}

impl Program {
    fn line(&mut self) -> String {
        self.lines.next().expect("it says more").unwrap()
    }

    fn write(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }

    /// Lets it end by itself. Gives what it still says.
    fn end(self) -> Vec<String> {
        drop(self.input);
        let said = self.lines.map(Result::unwrap).collect();
        self.peer.join();
        said
    }
}

/// How many primes are below what takes a worker long enough to be killed while it counts.
const LONG: (u64, u64) =
    if cfg!(debug_assertions) { (300_000, 25_997) } else { (3_000_000, 216_816) };

fn the_job_of_a_killed_worker_is_done_by_another() -> Result<(), Skip> {
    let session = Session::new();
    let mut victim = session.start("job_worker", &[]);
    assert_eq!(victim.line(), "here");
    let mut submit = session.start("job_submit", &[]);
    submit.write(&format!("{}\n", LONG.0));
    assert_eq!(victim.line(), format!("took {}, delivery 1", LONG.0));
    let mut workers: Vec<_> = (0..7).map(|_| session.start("job_worker", &[])).collect();
    workers.iter_mut().for_each(|worker| assert_eq!(worker.line(), "here"));
    victim.peer.kill();
    assert!(victim.lines.next().is_none(), "it was not done yet");
    for number in 100..200 {
        submit.write(&format!("{number}\n"));
    }
    submit.end();
    let mut done = BTreeMap::<String, u32>::new();
    let mut again = Vec::new();
    for line in workers.into_iter().flat_map(Program::end) {
        if line.starts_with("done") {
            *done.entry(line).or_default() += 1;
        } else if !line.ends_with("delivery 1") {
            again.push(line);
        }
    }
    assert_eq!(again, [format!("took {}, delivery 2", LONG.0)]);
    assert_eq!(done.len(), 101);
    assert!(done.values().all(|times| *times == 1), "{done:?}");
    assert!(done.contains_key(&format!("done {}: {} primes", LONG.0, LONG.1)), "{done:?}");
    assert!(done.contains_key("done 100: 25 primes"));
    Ok(())
}

fn a_job_that_kills_three_workers_is_given_up() -> Result<(), Skip> {
    let session = Session::new();
    let mut victim = session.start("job_worker", &[]);
    assert_eq!(victim.line(), "here");
    let mut submit = session.start("job_submit", &[]);
    submit.write(&format!("{}\n", LONG.0));
    for delivery in 1..=3 {
        assert_eq!(victim.line(), format!("took {}, delivery {delivery}", LONG.0));
        let next = session.start("job_worker", &[]);
        victim.peer.kill();
        victim = next;
        assert_eq!(victim.line(), "here");
    }
    submit.write("10\n");
    submit.end();
    assert_eq!(
        victim.end(),
        [
            "took 10, delivery 1".to_owned(),
            "done 10: 4 primes".to_owned(),
            format!("given up: {}", LONG.0)
        ]
    );
    Ok(())
}

fn lines_arrive_whole_though_a_sender_is_killed_within_one() -> Result<(), Skip> {
    let session = Session::new();
    let mut collector = session.start("log_collect", &[]);
    assert_eq!(collector.line(), "collecting");
    let mut senders: Vec<_> =
        (0..8).map(|number| session.start("log_send", &[&format!("sender {number}")])).collect();
    for (number, sender) in senders.iter_mut().enumerate() {
        sender.write("begin\n");
        assert_eq!(collector.line(), format!("sender {number}: begin"));
    }
    let mut victim = senders.remove(3);
    victim.write("whole\nthis line is not");
    assert_eq!(collector.line(), "sender 3: whole");
    // It has what there is of the line, and waits for the rest.
    until_asleep(victim.peer.pid());
    victim.peer.kill();
    assert_eq!(collector.line(), "(a sender was killed)");
    for sender in &mut senders {
        sender.write(&"x".repeat(10_000));
        sender.write("\nthe last one");
    }
    senders.into_iter().for_each(|sender| drop(sender.end()));
    let said = collector.end();
    let (last, lines) = said.split_last().unwrap();
    // The long ones in three pieces each.
    assert_eq!(last, &format!("{} lines", 8 + 1 + 7 * 4));
    assert_eq!(lines.iter().filter(|line| line.ends_with(": the last one")).count(), 7);
    let x = |line: &&String| line.ends_with('x');
    let bytes: usize = lines.iter().filter(x).map(|line| line.matches('x').count()).sum();
    assert_eq!(bytes, 70_000);
    assert!(!lines.iter().any(|line| line.contains("not")), "{lines:?}");
    Ok(())
}

/// How many numbers.
const COUNT: &str = if cfg!(debug_assertions) { "2000000" } else { "10000000" };

fn a_producer_goes_on_where_it_was_killed() -> Result<(), Skip> {
    let session = Session::new();
    let mut consumer = session.start("number_consumer", &[]);
    assert_eq!(consumer.line(), "here");
    for _ in 0..3 {
        let producer = session.start("number_producer", &[COUNT]);
        while !consumer.line().ends_with("so far") {}
        producer.peer.kill();
    }
    session.start("number_producer", &[COUNT]).end();
    let said = consumer.end();
    assert_eq!(said.last().unwrap(), &format!("0 to {COUNT}, each once"));
    Ok(())
}

fn a_consumer_goes_on_where_it_was_killed() -> Result<(), Skip> {
    let session = Session::new();
    let mut consumer = session.start("number_consumer", &[]);
    assert_eq!(consumer.line(), "here");
    let producer = session.start("number_producer", &[COUNT]);
    for _ in 0..3 {
        while !consumer.line().ends_with("so far") {}
        consumer.peer.kill();
        consumer = session.start("number_consumer", &[]);
        assert_eq!(consumer.line(), "here");
    }
    producer.end();
    let said = consumer.end();
    assert!(said.last().unwrap().ends_with(&format!(" to {COUNT}, each once")), "{said:?}");
    Ok(())
}
