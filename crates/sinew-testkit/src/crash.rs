//! The crash driver: kills a process at every instruction of an operation, and looks whether the
//! others can go on.
//!
//! A victim, a fork of the driver, is stepped through the operation of a [`Subject`] on one CPU. A first run records
//! what there is: instructions, distinct states of the shared memory, system calls. Then one victim
//! after the other, each with a fresh object, is stepped to a point and killed with SIGKILL; what
//! slept on the object at that moment must go on, and what comes later must find it usable. Who hangs, or is inside
//! together with another, is a [`Finding`], not the end of the run.
//!
//! Points are all instructions where there are fewer than 1,000; else every change of the shared state, every
//! entry and exit of a system call, and an even choice of the rest. A system call in which the victim sleeps is
//! a point of its own.

mod process;
mod report;
mod stage;
mod stepper;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use process::{Child, fork, now, state_of, yield_now};
pub use report::{Finding, Report};
pub use stage::Stage;
use stage::{Page, SLOTS};
use stepper::{Ahead, Code, Mark, Stepped, Victim, mark, offer};

/// What a participant found: in a word, or what is wrong.
pub type Outcome = Result<String, String>;

/// An object and the operation on it in which a process is killed. Every method runs in a process of its
/// own with one thread, which forks of the driver are; panics are outcomes too.
pub trait Subject {
    /// What a process has of the object.
    type Handle;

    /// Object and operation: `mutex: lock, unlock`.
    fn name(&self) -> String;

    /// How many bytes of shared memory there are to be.
    fn bytes(&self) -> usize {
        4096
    }

    /// Makes the object in fresh memory, or under a name that it takes away first.
    fn make(&self, memory: &Memory);

    /// What every participant does before: the victim unstepped, the others after the kill or before it.
    fn open(&self, memory: &Memory) -> Self::Handle;

    /// What the victim does beside, unstepped.
    fn prepare(&self, _handle: &mut Self::Handle) {}

    /// The operation. [`Stage::pause`] in it is where others fall asleep, [`Stage::enter`] and
    /// [`Stage::leave`] enclose what only one may be in.
    fn operate(&self, handle: &mut Self::Handle, stage: &Stage<'_>);

    /// What one does who is there when the victim dies. It may sleep until then.
    fn sleep(&self, handle: &mut Self::Handle, stage: &Stage<'_>) -> Outcome {
        self.check(handle, stage)
    }

    /// What one does who comes after it.
    fn check(&self, handle: &mut Self::Handle, stage: &Stage<'_>) -> Outcome;

    /// Lets a victim go on that sleeps in its operation. None: it is only killed there.
    fn release(&self) -> Option<fn(&Self, &mut Self::Handle)> {
        None
    }

    /// What is shared, for telling states apart.
    fn state(&self, memory: &Memory) -> Vec<u8> {
        memory.contents()
    }
}

/// The shared memory of one run: a memfd of sealed size. Map it as often as you like.
#[derive(Debug)]
pub struct Memory {
    file: File,
    bytes: usize,
}

impl Memory {
    fn new(bytes: usize) -> io::Result<Self> {
        let file = memfd_create("crash", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, u64::try_from(bytes).unwrap_or(u64::MAX))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(Self { file: File::from(file), bytes })
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A descriptor of one's own.
    ///
    /// # Panics
    /// If there is no descriptor left.
    #[must_use]
    pub fn descriptor(&self) -> OwnedFd {
        self.file.as_fd().try_clone_to_owned().expect("a descriptor")
    }

    /// What it holds now.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        let _ = self.file.read_exact_at(&mut bytes, 0);
        bytes
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// At least so many kills, by rounds over all points; 1 is one round.
    pub kills: usize,
    /// At most so many points; those that matter most are kept.
    pub points: usize,
    /// How long the victim stands still before it is killed, with the others there: who takes slow for
    /// dead shows it then.
    pub linger: Duration,
    /// How long a survivor may take until that is a hang.
    pub patience: Duration,
    /// How long it may take in all. What is left is not done, and the report says so.
    pub limit: Duration,
    /// After so many findings it ends.
    pub findings: usize,
}

impl Default for Plan {
    /// One round over all points.
    fn default() -> Self {
        Self {
            kills: 1,
            points: usize::MAX,
            linger: Duration::ZERO,
            patience: Duration::from_secs(5),
            limit: Duration::from_secs(600),
            findings: 20,
        }
    }
}

/// Where a victim is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    /// After so many instructions.
    steps: usize,
    /// In the system call that comes next, in which it sleeps.
    asleep: bool,
}

/// One instruction of the recorded run.
#[derive(Clone, Copy, Debug)]
struct Step {
    pc: u64,
    ahead: Ahead,
    /// Of the shared state before it.
    state: usize,
    /// It slept in it.
    sleeps: bool,
}

/// Kills victims at the points of `subject`, with so many others asleep.
///
/// # Errors
/// Where this process may not trace its own child (a sandbox), or the architecture has no stepper; and if the
/// operation fails when nobody is killed.
///
/// # Panics
/// If this process has more than one thread.
pub fn run<S: Subject>(subject: &S, sleepers: usize, plan: &Plan) -> io::Result<Report> {
    assert!(sleepers + 2 <= SLOTS, "too many sleepers");
    driven(|| Driver::new(subject, sleepers, plan)?.run())
}

/// What a victim of `subject` leaves in the shared memory when it is killed: each different state once, in their
/// order. A second subject can begin with one, and be killed too.
///
/// # Errors
/// As for [`run`].
///
/// # Panics
/// If this process has more than one thread.
pub fn images<S: Subject>(subject: &S) -> io::Result<Vec<Vec<u8>>> {
    driven(|| Driver::new(subject, 0, &Plan::default())?.record())
}

/// Does it on one CPU, where it can be done at all.
fn driven<T>(part: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if !cfg!(target_arch = "x86_64") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "no stepper for this architecture"));
    }
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "only a process with one thread can fork and go on in the child");
    let allowed = sched_getaffinity(None)?;
    pin(&allowed)?;
    let done = part();
    sched_setaffinity(None, &allowed)?;
    done
}

/// Keeps to one of the allowed CPUs, not the same for every driver that runs now.
fn pin(allowed: &CpuSet) -> io::Result<()> {
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let own = usize::try_from(std::process::id()).unwrap_or(0);
    let mut one = CpuSet::new();
    one.set(cpus.get(own % cpus.len().max(1)).copied().unwrap_or(0));
    Ok(sched_setaffinity(None, &one)?)
}

struct Driver<'a, S> {
    subject: &'a S,
    sleepers: usize,
    plan: &'a Plan,
    page: Page,
    code: Code,
    steps: Vec<Step>,
    report: Report,
}

impl<'a, S: Subject> Driver<'a, S> {
    fn new(subject: &'a S, sleepers: usize, plan: &'a Plan) -> io::Result<Self> {
        let report = Report::new(subject.name(), sleepers);
        let page = Page::new()?;
        Ok(Self { subject, sleepers, plan, page, code: Code::new(), steps: Vec::new(), report })
    }

    fn run(&mut self) -> io::Result<Report> {
        let begin = Instant::now();
        self.record()?;
        let points = self.points();
        self.report.points = points.len();
        'rounds: loop {
            for point in &points {
                // On a busy machine the record alone can take that long: one kill is always had.
                if self.report.kills > 0 && begin.elapsed() > self.plan.limit {
                    self.report.cut_short = true;
                    break 'rounds;
                }
                self.crash(*point)?;
                if self.report.findings.len() >= self.plan.findings {
                    self.report.cut_short = true;
                    break 'rounds;
                }
            }
            if self.report.kills >= self.plan.kills {
                break;
            }
        }
        self.report.took = begin.elapsed();
        Ok(std::mem::take(&mut self.report))
    }

    /// Fresh memory with the object in it, and a clean page.
    fn fresh(&self) -> io::Result<Memory> {
        self.page.clear();
        let memory = Memory::new(self.subject.bytes())?;
        let slot = SLOTS - 1;
        let mut maker = fork(|| {
            self.tell(slot, || {
                self.subject.make(&memory);
                Ok(String::new())
            });
        })?;
        maker.ended(u64::MAX / 4)?;
        match self.page.control().outcome(slot) {
            Some(Ok(_)) => Ok(memory),
            other => Err(io::Error::other(format!("{}: make: {other:?}", self.subject.name()))),
        }
    }

    /// In a child: does its part and reports, whatever happens.
    fn tell(&self, slot: usize, part: impl FnOnce() -> Outcome) {
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = catch_unwind(AssertUnwindSafe(part)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", text.unwrap_or("")))
        });
        self.page.control().report(slot, &outcome);
    }

    fn victim(&self, memory: &Memory) -> io::Result<Child> {
        fork(|| {
            std::panic::set_hook(Box::new(|_| {}));
            let mut handle = self.subject.open(memory);
            self.subject.prepare(&mut handle);
            let stage = Stage { control: self.page.control(), slot: None };
            if offer() {
                mark(Mark::Begin);
                self.subject.operate(&mut handle, &stage);
                mark(Mark::End);
            }
        })
    }

    /// Starts the sleepers, and waits until each sleeps or is done.
    fn fall_asleep(&self, memory: &Memory) -> io::Result<Vec<Child>> {
        let mut sleepers = Vec::new();
        for slot in 0..self.sleepers {
            let sleeper = fork(|| {
                self.tell(slot, || {
                    let control = self.page.control();
                    let mut handle = self.subject.open(memory);
                    control.start(slot);
                    self.subject.sleep(&mut handle, &Stage { control, slot: Some(slot) })
                });
            })?;
            let begin = now();
            // One that neither sleeps nor ends has its chance after the kill.
            while now() - begin < nanoseconds(self.plan.patience) {
                let state = state_of(sleeper.raw());
                let asleep = state == Some('S') && self.page.control().started(slot);
                if asleep || state == Some('Z') {
                    break;
                }
                yield_now();
            }
            sleepers.push(sleeper);
        }
        Ok(sleepers)
    }

    /// The run in which nobody is killed. Gives what was in the shared memory, once for each state.
    fn record(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let memory = self.fresh()?;
        let mut child = self.victim(&memory)?;
        let (mut states, mut images) = (Vec::<Vec<u8>>::new(), Vec::new());
        let mut sleepers = Vec::new();
        let mut code = std::mem::take(&mut self.code);
        let mut victim = Victim::begin(&child, &mut code)?;
        loop {
            let (pc, ahead) = victim.look()?;
            let now = self.subject.state(&memory);
            let state = states.iter().rposition(|state| *state == now).unwrap_or_else(|| {
                states.push(now);
                images.push(memory.contents());
                states.len() - 1
            });
            let mut step = Step { pc, ahead, state, sleeps: false };
            match ahead {
                Ahead::Mark(Mark::End) => {
                    self.steps.push(step);
                    break;
                }
                Ahead::Mark(Mark::Pause) => {
                    sleepers.extend(self.fall_asleep(&memory)?);
                    victim.step()?;
                }
                Ahead::Mark(Mark::Begin) | Ahead::Plain => victim.step()?,
                Ahead::Call(_) => {
                    self.report.calls += 1;
                    if victim.step_call()? == Stepped::Asleep {
                        step.sleeps = true;
                        self.steps.push(step);
                        if !self.let_go_on(&memory, &victim)? {
                            break;
                        }
                        continue;
                    }
                }
            }
            self.steps.push(step);
        }
        child.kill()?;
        drop(sleepers);
        self.code = code;
        self.report.instructions = self.steps.len() - 1;
        self.report.states = states.len();
        Ok(images)
    }

    /// Releases a victim that sleeps. False if nothing does that.
    fn let_go_on(&self, memory: &Memory, victim: &Victim<'_>) -> io::Result<bool> {
        let Some(release) = self.subject.release() else { return Ok(false) };
        let mut helper = fork(|| {
            self.tell(SLOTS - 1, || {
                release(self.subject, &mut self.subject.open(memory));
                Ok(String::new())
            });
        })?;
        let patience = nanoseconds(self.plan.patience);
        if !helper.ended(patience)? || !victim.woken(patience)? {
            let text = format!("{}: the victim is not released", self.subject.name());
            return Err(io::Error::other(text));
        }
        Ok(true)
    }

    /// The points, in order; as many as the plan allows, and of those the ones that matter.
    fn points(&self) -> Vec<Point> {
        let steps = &self.steps;
        let all = |steps: std::ops::Range<usize>| steps.map(|steps| Point { steps, asleep: false });
        let mut points: Vec<Point> = steps
            .iter()
            .enumerate()
            .filter(|(_, step)| step.sleeps)
            .map(|(steps, _)| Point { steps, asleep: true })
            .collect();
        let matters = |at: usize| {
            let step = &steps[at];
            let before = at.checked_sub(1).map(|before| &steps[before]);
            at + 1 == steps.len()
                || step.ahead != Ahead::Plain
                || before.is_none_or(|b| b.state != step.state || b.ahead != Ahead::Plain)
                || steps.get(at + 1).is_some_and(|after| after.state != step.state)
        };
        points.extend(all(0..steps.len()).filter(|point| matters(point.steps)));
        let most = if steps.len() < 1000 { usize::MAX } else { 1000 }.min(self.plan.points);
        thin(&mut points, most);
        let mut rest: Vec<Point> =
            all(0..steps.len()).filter(|point| !matters(point.steps)).collect();
        thin(&mut rest, most - points.len());
        points.extend(rest);
        points.sort_unstable();
        points
    }

    /// Kills one victim at `point`, and watches the others.
    fn crash(&mut self, point: Point) -> io::Result<()> {
        let memory = self.fresh()?;
        let mut child = self.victim(&memory)?;
        let mut sleepers = None;
        let mut code = std::mem::take(&mut self.code);
        {
            let mut victim = Victim::begin(&child, &mut code)?;
            let mut drifted = false;
            // Whole system calls first, and what lies between them: single steps are slow.
            let calls = |step: &Step| step.ahead != Ahead::Plain;
            let before = &self.steps[..point.steps];
            let stepped = before.iter().rev().take_while(|step| !calls(step)).count();
            for _ in 0..before.iter().filter(|step| calls(step)).count() {
                match victim.enter_call()? {
                    Ahead::Mark(Mark::End) => drifted = true,
                    Ahead::Mark(Mark::Pause) => sleepers = Some(self.fall_asleep(&memory)?),
                    _ => {}
                }
                if drifted {
                    break;
                }
                if victim.finish_call()? == Stepped::Asleep && !self.let_go_on(&memory, &victim)? {
                    drifted = true;
                    break;
                }
            }
            for _ in 0..if drifted { 0 } else { stepped } {
                // It may come by another way than the recorded one, where it looks at a clock or at
                // what others do.
                if victim.look()?.1 != Ahead::Plain {
                    drifted = true;
                    break;
                }
                victim.step()?;
            }
            let (pc, ahead) = victim.look()?;
            if point.asleep {
                drifted |=
                    !matches!(ahead, Ahead::Call(_)) || victim.step_call()? != Stepped::Asleep;
            }
            if drifted || pc != self.steps[point.steps].pc {
                self.report.drifted += 1;
            }
        }
        self.code = code;
        let mut sleepers = match sleepers {
            Some(sleepers) => sleepers,
            None => self.fall_asleep(&memory)?,
        };

        let lingering = now();
        while now() - lingering < nanoseconds(self.plan.linger) {
            yield_now();
        }
        let control = self.page.control();
        control.killed.store(1, std::sync::atomic::Ordering::SeqCst);
        let killed = now();
        child.kill()?;
        self.report.kills += 1;

        let patience = nanoseconds(self.plan.patience);
        let mut outcomes = Vec::new();
        let mut first = None;
        for (slot, sleeper) in sleepers.iter_mut().enumerate() {
            let left = patience.saturating_sub(now() - killed).max(1_000_000);
            let outcome = match sleeper.ended(left)? {
                true => control.outcome(slot).unwrap_or_else(|| Err("died".to_owned())),
                false => Err(format!("hangs: asleep {:?} after the kill", self.plan.patience)),
            };
            outcomes.push(outcome);
            let entered = control.entered(slot).and_then(|time| time.checked_sub(killed));
            first = first.into_iter().chain(entered).min();
        }
        drop(sleepers);
        outcomes.push(self.check(&memory)?);
        if control.doubles() > 0 {
            outcomes.push(Err("two were inside at once".to_owned()));
        }
        let first = first.map(|time| (Duration::from_nanos(time), point.steps));
        self.report.latencies.extend(first);
        self.report.note(point.steps, point.asleep, outcomes);
        Ok(())
    }

    /// One who comes after the crash.
    fn check(&self, memory: &Memory) -> io::Result<Outcome> {
        let slot = SLOTS - 1;
        let control = self.page.control();
        let mut checker = fork(|| {
            self.tell(slot, || {
                let mut handle = self.subject.open(memory);
                self.subject.check(&mut handle, &Stage { control, slot: Some(slot) })
            });
        })?;
        Ok(match checker.ended(nanoseconds(self.plan.patience))? {
            true => control.outcome(slot).unwrap_or_else(|| Err("a later one died".to_owned())),
            false => Err("hangs: one who came later".to_owned()),
        })
    }
}

/// Keeps `most` of them, evenly chosen.
fn thin(points: &mut Vec<Point>, most: usize) {
    let count = points.len();
    if count > most {
        *points = (0..most).map(|i| points[i * count / most]).collect();
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
