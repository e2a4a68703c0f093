//! The two workers of a row: started, watched, and ended whatever happens.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::calls;
use crate::job::{Job, Measured, Outcome, Side};
use crate::link::Link;
use crate::signals::EndSignals;
use crate::trouble::Trouble;
use crate::worker::WORKER;

/// How long the second worker may take to end after the first did.
const GRACE: Duration = Duration::from_secs(5);

/// A started process. Killed and reaped when dropped.
#[derive(Debug)]
struct Worker {
    child: Child,
    link: Link,
    name: &'static str,
    outcome: Option<Result<Outcome, String>>,
    /// How many messages it waits to have its calls counted for.
    counting: Option<u64>,
}

impl Worker {
    fn start(job: &Job, peer: Option<Link>, group: i32, errors: &File) -> Result<Self, Trouble> {
        let (link, theirs) = Link::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("sinew-bench-worker")
            .env(WORKER, std::process::id().to_string())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(errors.try_clone()?)
            // Ctrl-C on the terminal reaches the supervisor alone, which ends the workers.
            .process_group(group)
            .spawn()
            .map_err(|e| Trouble::Skip(format!("cannot start a second process: {e}")))?;
        let name = match job.side {
            Side::Near => "sending",
            Side::Far => "receiving",
            Side::Spinner => "spinning",
        };
        let worker = Self { child, link, name, outcome: None, counting: None };
        worker.link.say(job)?;
        if let Some(peer) = peer {
            worker.link.send_fds(&[peer.as_fd()])?;
        }
        Ok(worker)
    }

    /// Takes what it has to say, or how it died.
    fn listen(&mut self) {
        match self.link.hear() {
            Ok(Outcome::Counting(count)) => self.counting = Some(count),
            Ok(outcome) => self.outcome = Some(Ok(outcome)),
            Err(_) => self.outcome = Some(Err(self.end())),
        }
    }

    /// Its end in words.
    fn end(&mut self) -> String {
        let name = self.name;
        // The line is closed, so it is dying; and if it is not, it is to.
        let deadline = Instant::now() + GRACE;
        let ended = self.wait_until(deadline);
        if !ended {
            let _ = self.child.kill();
        }
        match self.child.wait() {
            Ok(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("the {name} process was killed by signal {signal}"),
                (_, Some(code)) => format!("the {name} process ended with status {code}"),
                _ => format!("the {name} process ended"),
            },
            Err(e) => format!("the {name} process is gone: {e}"),
        }
    }

    fn wait_until(&self, deadline: Instant) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        else {
            return false;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Timespec::try_from(left).ok().as_ref()), Ok(n) if n > 0)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid_of(child: &Child) -> i32 {
    rustix::process::Pid::from_child(child).as_raw_nonzero().get()
}

/// How a row in one round ended.
pub(crate) enum RowEnd {
    /// The measurements, and the system calls for each message if they were counted.
    Measured(Vec<Measured>, Option<f64>),
    Trouble(Trouble),
    /// A signal asked the whole run to end.
    Interrupted,
}

/// Runs one row: `near` and `far` are the same job for each side, `awake` the CPUs to keep from
/// sleeping meanwhile.
pub(crate) fn run(
    near: &Job,
    far: &Job,
    awake: &[usize],
    patience: Duration,
    signals: &EndSignals,
    errors: &mut File,
) -> Result<RowEnd, Trouble> {
    let mut spinners = Vec::new();
    for &cpu in awake {
        let job = Job { side: Side::Spinner, cpu, ..near.clone() };
        spinners.push(Worker::start(&job, None, 0, errors)?);
    }
    let (one, two) = Link::pair()?;
    let far = Worker::start(far, Some(two), 0, errors)?;
    let group = pid_of(&far.child);
    let mut workers = [far, Worker::start(near, Some(one), group, errors)?];
    let mut calls = None;

    let mut deadline = Instant::now() + patience;
    while workers.iter().any(|w| w.outcome.is_none()) {
        match wait_for_word(&workers, signals, deadline)? {
            Word::Interrupted => return Ok(RowEnd::Interrupted),
            // One has said how it went, and the other does not come to an end: it is killed.
            Word::None if workers.iter().any(|w| w.outcome.is_some()) => break,
            Word::None => {
                let silence = format!("neither process came to an end within {patience:?}");
                return Ok(RowEnd::Trouble(Trouble::Fail(silence)));
            }
            Word::From(which) => {
                workers[which].listen();
                if matches!(workers[which].outcome, Some(Err(_))) {
                    // It died; what the other one, which may wait for it for ever, would say is
                    // only a consequence.
                    break;
                }
                if workers[which].outcome.is_some() {
                    // The other one has nothing to wait for any more.
                    deadline = deadline.min(Instant::now() + GRACE);
                } else if let [Some(count), Some(_)] = workers.each_ref().map(|w| w.counting) {
                    let pids = workers.each_ref().map(|w| pid_of(&w.child));
                    let counted = calls::count(pids, group, || {
                        workers.iter().try_for_each(|w| w.link.nod())
                    })?;
                    calls = counted.map(|calls| calls as f64 / count as f64);
                    for worker in &mut workers {
                        worker.counting = None;
                    }
                }
            }
        }
    }
    drop(spinners);
    let [far, near] = workers.each_mut().map(|w| w.outcome.take());
    Ok(judge(near, far, calls, &last_words(errors)))
}

enum Word {
    From(usize),
    Interrupted,
    None,
}

fn wait_for_word(
    workers: &[Worker; 2],
    signals: &EndSignals,
    deadline: Instant,
) -> io::Result<Word> {
    let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
    let waited: Vec<usize> = (0..2).filter(|i| workers[*i].outcome.is_none()).collect();
    fds.extend(
        waited.iter().map(|i| PollFd::from_borrowed_fd(workers[*i].link.as_fd(), PollFlags::IN)),
    );
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Ok(Word::None),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => {
                if !fds[0].revents().is_empty() && signals.came() {
                    return Ok(Word::Interrupted);
                }
                let spoke = fds[1..].iter().position(|fd| !fd.revents().is_empty());
                if let Some(spoke) = spoke {
                    return Ok(Word::From(waited[spoke]));
                }
            }
        }
    }
}

/// What the two ends of a row say together: a death explains a failure of the other side, and a
/// limit that one side hit explains that the other found nobody.
fn judge(
    near: Option<Result<Outcome, String>>,
    far: Option<Result<Outcome, String>>,
    calls: Option<f64>,
    words: &str,
) -> RowEnd {
    let mut failures = Vec::new();
    let mut measured = None;
    for outcome in [near, far].into_iter().flatten() {
        match outcome {
            Err(death) if words.is_empty() => return RowEnd::Trouble(Trouble::Fail(death)),
            Err(death) => return RowEnd::Trouble(Trouble::Fail(format!("{death}: {words}"))),
            Ok(Outcome::Skipped(reason)) => return RowEnd::Trouble(Trouble::Skip(reason)),
            Ok(Outcome::Failed(reason)) => failures.push(reason),
            Ok(Outcome::Measured(rows)) => measured = Some(rows),
            Ok(Outcome::Served | Outcome::Counting(_)) => {}
        }
    }
    // Of two failures the one that is not merely "the other end is closed" is the cause.
    let closed = sinew::RecvError::Closed.to_string();
    failures.sort_by_key(|reason| reason.contains(&closed));
    match (failures.into_iter().next(), measured) {
        (Some(reason), _) => RowEnd::Trouble(Trouble::Fail(reason)),
        (None, Some(rows)) => RowEnd::Measured(rows, calls),
        (None, None) => {
            RowEnd::Trouble(Trouble::Fail("no worker has measured anything".to_owned()))
        }
    }
}

/// The last line that a worker wrote to its standard error, such as a panic.
fn last_words(errors: &mut File) -> String {
    let mut text = String::new();
    let _ = errors.rewind();
    let _ = errors.read_to_string(&mut text);
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned()
}
