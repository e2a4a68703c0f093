//! The crash driver on locks that are right and locks that are wrong: it must find out which.

#![allow(clippy::print_stdout, reason = "the matrix is what `cargo xtask crash` prints")]

mod barrier;
mod channel;
mod condvar;
mod file_lock;
mod mutex;
mod once;
mod pidfile;
mod posix_sem;
mod queue;
mod rwlock;

use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;
use sinew::mapping::Mapping;
use sinew::memfd::Memfd;
use sinew_testkit::crash::{Memory, Outcome, Plan, Report, Stage, Subject, images, run};
use sinew_testkit::{Role, Skip, Test, roles, skip, tests};

pub(crate) const TESTS: &[Test] = tests![
    a_robust_lock_of_glibc_survives_every_point,
    a_lock_that_nobody_frees_hangs_where_it_is_held,
    a_lock_that_takes_slow_for_dead_lets_two_in,
    a_victim_can_be_killed_in_its_sleep,
    a_count_that_is_written_in_two_steps_is_found_half,
    a_sample_of_barriers,
    a_sample_of_channels,
    a_sample_of_condvars,
    a_sample_of_file_locks,
    a_sample_of_mutexes,
    a_sample_of_once,
    a_sample_of_overtaking,
    a_sample_of_pidfiles,
    a_sample_of_queues,
    a_sample_of_rwlocks,
    a_sample_of_semaphores,
];
pub(crate) const ROLES: &[Role] = roles![];

/// Runs the driver, where this host allows it.
pub(crate) fn crash<S: Subject>(subject: &S, sleepers: usize, plan: &Plan) -> Result<Report, Skip> {
    let report = here(run(subject, sleepers, plan))?;
    println!("{report}");
    Ok(report)
}

/// What the driver did, where this host allows it.
fn here<T>(done: std::io::Result<T>) -> Result<T, Skip> {
    match done {
        Ok(done) => Ok(done),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::Unsupported
            ) =>
        {
            skip(error.to_string()).map(|()| unreachable!("skip is an error"))
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the tests do of it: enough to see that it works, in a few seconds.
pub(crate) const SAMPLE: Plan = Plan {
    kills: 1,
    points: 30,
    linger: Duration::ZERO,
    patience: Duration::from_secs(10),
    limit: Duration::from_secs(20),
    findings: 20,
};

/// The areas whose types are crashed: `cargo xtask crash --area NAME`.
const AREAS: &[(&str, Area)] = &[
    ("barrier", barrier::matrix),
    ("channel", channel::matrix),
    ("condvar", condvar::matrix),
    ("file_lock", file_lock::matrix),
    ("mutex", mutex::matrix),
    ("once", once::matrix),
    ("overtake", channel::overtake::matrix),
    ("pidfile", pidfile::matrix),
    ("posix_sem", posix_sem::matrix),
    ("queue", queue::matrix),
    ("rwlock", rwlock::matrix),
];

/// Runs the subjects of an area.
type Area = fn(&mut Matrix) -> Result<(), Skip>;

/// Reports of one area after the other.
pub(crate) struct Matrix {
    /// None: the full one.
    plan: Option<Plan>,
    reports: Vec<Report>,
}

impl Matrix {
    /// One subject; in the full matrix with at least so many kills.
    pub(crate) fn run<S: Subject>(
        &mut self,
        subject: &S,
        sleepers: usize,
        kills: usize,
    ) -> Result<(), Skip> {
        let full = Plan { kills, ..Plan::default() };
        self.reports.push(crash(subject, sleepers, self.plan.as_ref().unwrap_or(&full))?);
        Ok(())
    }

    /// One subject at a few points, each of which takes long.
    pub(crate) fn few<S: Subject>(
        &mut self,
        subject: &S,
        sleepers: usize,
        points: usize,
    ) -> Result<(), Skip> {
        let points = if self.plan.is_some() { points.min(4) } else { points };
        let plan = Plan { points, ..self.plan.unwrap_or_default() };
        self.reports.push(crash(subject, sleepers, &plan)?);
        Ok(())
    }

    /// One of many subjects, at all its points; in a sample at few.
    pub(crate) fn one<S: Subject>(&mut self, subject: &S, sleepers: usize) -> Result<(), Skip> {
        let mut plan = self.plan.unwrap_or_default();
        if plan.points <= SAMPLE.points {
            plan.points = 5;
        }
        self.reports.push(crash(subject, sleepers, &plan)?);
        Ok(())
    }

    /// Whether only a few are wanted, in a short time.
    pub(crate) fn is_sample(&self) -> bool {
        self.plan.is_some()
    }

    /// What a victim of a subject leaves, for another that is killed too.
    pub(crate) fn images<S: Subject>(&self, subject: &S) -> Result<Vec<Vec<u8>>, Skip> {
        here(images(subject))
    }

    /// What a lock has to stand: 10,000 kills of its owner with one that waits for it, and as many with four.
    pub(crate) fn locks<S: Subject>(&mut self, subject: &S) -> Result<(), Skip> {
        self.run(subject, 1, 10_000)?;
        self.run(subject, 4, 10_000)
    }
}

/// Whether the first of the sleepers usually goes on too late: a wake-up that is lost and made good by a
/// later look. What is promised is 10 ms; other work on the CPU costs less in the middle of many.
fn late(report: &Report) -> bool {
    report.latencies.len() >= 10
        && report.latency().is_some_and(|(median, _)| median > Duration::from_millis(10))
}

/// One area as a test: a sample of its points, and nothing wrong at any.
pub(crate) fn sample(area: Area) -> Result<(), Skip> {
    let mut matrix = Matrix { plan: Some(SAMPLE), reports: Vec::new() };
    area(&mut matrix)?;
    for report in matrix.reports {
        assert!(report.findings.is_empty() && report.kills > 0 && !late(&report), "{report}");
    }
    Ok(())
}

/// What `cargo xtask crash` and `cargo xtask sabotage` start this binary for: `SINEW_CRASH` is `full`,
/// `sample`, `first` (a sample up to the first finding) or `list`; `SINEW_CRASH_AREA` is the area, or
/// nothing for all.
pub(crate) fn command() -> Option<ExitCode> {
    let mode = std::env::var("SINEW_CRASH").ok()?;
    let wanted = std::env::var("SINEW_CRASH_AREA").unwrap_or_default();
    let areas = || AREAS.iter().filter(|(area, _)| wanted.is_empty() || *area == wanted);
    if mode == "list" || areas().count() == 0 {
        println!("no such area; there are:");
        AREAS.iter().for_each(|(area, _)| println!("{area}"));
        return Some(ExitCode::from(u8::from(mode != "list")));
    }
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: one thread.
    unsafe { std::env::set_var("SINEW_TEST_SCRATCH", folder.path()) };
    let begin = Instant::now();
    let plan = match mode.as_str() {
        "full" => None,
        "first" => Some(Plan { findings: 1, points: 60, ..SAMPLE }),
        _ => Some(Plan { points: 60, ..SAMPLE }),
    };
    let mut matrix = Matrix { plan, reports: Vec::new() };
    for (area, run) in areas() {
        println!("=== {area}");
        if let Err(why) = run(&mut matrix) {
            println!("{area} does not run here: {why:?}");
            return Some(ExitCode::from(77));
        }
    }
    let kills: usize = matrix.reports.iter().map(|report| report.kills).sum();
    let wrong: usize = matrix.reports.iter().map(|report| report.findings.len()).sum();
    let late = matrix.reports.iter().filter(|report| late(report)).count();
    let cut = matrix.reports.iter().filter(|report| report.cut_short).count();
    println!(
        "crash: {} operations, {kills} kills, {wrong} wrong, {late} late, {cut} cut short, {:.0} s",
        matrix.reports.len(),
        begin.elapsed().as_secs_f64()
    );
    // A sample may be cut by its time.
    let good = wrong == 0 && late == 0 && kills > 0 && (cut == 0 || mode != "full");
    Some(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Maps the shared memory by the library.
pub(crate) fn mapped(memory: &Memory) -> Mapping {
    Memfd::try_from(memory.descriptor()).unwrap().map().unwrap()
}

/// Maps the shared memory for as long as this process lives.
pub(crate) fn map<T>(memory: &Memory) -> &'static T {
    assert!(memory.bytes() >= size_of::<T>());
    let flags = MapFlags::SHARED;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new map at an address of the kernel's choice, which is never unmapped.
    let map = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), memory.bytes(), protection, flags, memory, 0)
    };
    // SAFETY: mapped, long enough, and the types used here are atomics, or C's own locks behind a raw pointer.
    unsafe { &*map.unwrap().cast::<T>() }
}

/// glibc's mutex: robust, shared between processes.
struct Glibc;

fn robust(memory: &Memory) -> *mut libc::pthread_mutex_t {
    map::<MaybeUninit<libc::pthread_mutex_t>>(memory).as_ptr().cast_mut()
}

impl Glibc {
    fn lock(lock: *mut libc::pthread_mutex_t, stage: &Stage<'_>) -> Outcome {
        // SAFETY: a mutex that was initialised before.
        let word = match unsafe { libc::pthread_mutex_lock(lock) } {
            0 => "locked",
            libc::EOWNERDEAD => {
                // SAFETY: locked, with a dead owner.
                unsafe { libc::pthread_mutex_consistent(lock) };
                "owner died"
            }
            error => return Err(format!("error {error}")),
        };
        stage.enter();
        stage.leave();
        // SAFETY: locked by this thread.
        unsafe { libc::pthread_mutex_unlock(lock) };
        Ok(word.to_owned())
    }
}

impl Subject for Glibc {
    type Handle = *mut libc::pthread_mutex_t;

    fn name(&self) -> String {
        "glibc's robust mutex: lock, unlock".to_owned()
    }

    fn make(&self, memory: &Memory) {
        let lock = robust(memory);
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises them.
        unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        let shared = libc::PTHREAD_PROCESS_SHARED;
        // SAFETY: initialised.
        unsafe { libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), shared) };
        let robust = libc::PTHREAD_MUTEX_ROBUST;
        // SAFETY: initialised.
        unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), robust) };
        // SAFETY: memory for a mutex that nobody uses yet.
        assert_eq!(unsafe { libc::pthread_mutex_init(lock, attributes.as_ptr()) }, 0);
    }

    fn open(&self, memory: &Memory) -> Self::Handle {
        robust(memory)
    }

    fn operate(&self, lock: &mut Self::Handle, stage: &Stage<'_>) {
        // SAFETY: an initialised mutex.
        unsafe { libc::pthread_mutex_lock(*lock) };
        stage.enter();
        stage.pause();
        stage.leave();
        // SAFETY: locked by this thread.
        unsafe { libc::pthread_mutex_unlock(*lock) };
    }

    fn check(&self, lock: &mut Self::Handle, stage: &Stage<'_>) -> Outcome {
        Self::lock(*lock, stage)
    }
}

fn a_robust_lock_of_glibc_survives_every_point() -> Result<(), Skip> {
    for sleepers in [1, 4] {
        let report = crash(&Glibc, sleepers, &SAMPLE)?;
        assert_eq!(report.findings, []);
        assert!(report.kills >= 20 && report.states >= 3, "{report}");
        assert_eq!(report.drifted, 0, "{report}");
        // With one there that slept while it was held.
        let died = format!("{} locked, 1 owner died", sleepers);
        assert!(report.count(&died) >= 1, "{report}");
        assert!(!report.latencies.is_empty());
    }
    Ok(())
}

/// A word and a futex, and nothing for the case that the owner dies.
struct Plain {
    /// After which a sleeper takes the lock all the same.
    steals: Option<Duration>,
}

impl Plain {
    fn lock(&self, word: &AtomicU32) {
        let begin = Instant::now();
        loop {
            if word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            if self.steals.is_some_and(|after| begin.elapsed() >= after) {
                return;
            }
            let nap = self.steals.map(|after| futex::Timespec {
                tv_sec: 0,
                tv_nsec: i64::try_from(after.as_nanos()).unwrap(),
            });
            let _ = futex::wait(word, futex::Flags::empty(), 1, nap.as_ref());
        }
    }

    fn unlock(word: &AtomicU32) {
        word.store(0, Ordering::Release);
        let _ = futex::wake(word, futex::Flags::empty(), 1);
    }
}

impl Subject for Plain {
    type Handle = &'static AtomicU32;

    fn name(&self) -> String {
        "a word: lock, unlock".to_owned()
    }

    fn make(&self, _: &Memory) {}

    fn open(&self, memory: &Memory) -> Self::Handle {
        map(memory)
    }

    fn operate(&self, word: &mut Self::Handle, stage: &Stage<'_>) {
        self.lock(word);
        stage.enter();
        stage.pause();
        stage.leave();
        Self::unlock(word);
    }

    fn check(&self, word: &mut Self::Handle, stage: &Stage<'_>) -> Outcome {
        self.lock(word);
        stage.enter();
        stage.leave();
        Self::unlock(word);
        Ok("locked".to_owned())
    }
}

const QUICK: Plan = Plan {
    kills: 1,
    points: 40,
    linger: Duration::ZERO,
    patience: Duration::from_millis(100),
    limit: Duration::from_secs(30),
    findings: 1000,
};

fn a_lock_that_nobody_frees_hangs_where_it_is_held() -> Result<(), Skip> {
    let report = crash(&Plain { steals: None }, 1, &QUICK)?;
    assert!(report.findings.iter().all(|f| f.what.starts_with("hangs")), "{report}");
    let held: Vec<usize> = report.findings.iter().map(|f| f.steps).collect();
    let (first, last) = (held.first().unwrap(), held.last().unwrap());
    // Neither before it has it nor after it gave it back.
    assert!(*first > 0 && *last < report.instructions, "{report}");
    assert!(report.count("2 locked") >= 2, "{report}");
    Ok(())
}

fn a_lock_that_takes_slow_for_dead_lets_two_in() -> Result<(), Skip> {
    let plan = Plan { linger: Duration::from_millis(20), points: 25, ..QUICK };
    let report = crash(&Plain { steals: Some(Duration::from_millis(1)) }, 1, &plan)?;
    assert!(report.findings.iter().all(|f| f.what.contains("two were inside")), "{report}");
    assert!(!report.findings.is_empty(), "{report}");
    Ok(())
}

/// A victim that waits for a word which somebody else writes.
struct Waiter;

impl Subject for Waiter {
    type Handle = &'static AtomicU32;

    fn name(&self) -> String {
        "a word: wait".to_owned()
    }

    fn make(&self, _: &Memory) {}

    fn open(&self, memory: &Memory) -> Self::Handle {
        map(memory)
    }

    fn operate(&self, word: &mut Self::Handle, _: &Stage<'_>) {
        while word.load(Ordering::Acquire) == 0 {
            let _ = futex::wait(word, futex::Flags::empty(), 0, None);
        }
        word.store(2, Ordering::Release);
    }

    fn release(&self) -> Option<fn(&Self, &mut Self::Handle)> {
        Some(|_, word| {
            word.store(1, Ordering::Release);
            futex::wake(word, futex::Flags::empty(), 1).unwrap();
        })
    }

    fn check(&self, word: &mut Self::Handle, _: &Stage<'_>) -> Outcome {
        Ok(word.load(Ordering::Acquire).to_string())
    }
}

fn a_victim_can_be_killed_in_its_sleep() -> Result<(), Skip> {
    let report = crash(&Waiter, 0, &QUICK)?;
    assert_eq!(report.findings, []);
    // Before it was released and after it, and after its own write.
    for state in ["1 0", "1 1", "1 2"] {
        assert!(report.count(state) >= 1, "{state}: {report}");
    }
    assert!(report.to_string().contains("asleep"), "{report}");
    assert_eq!((report.calls, report.states), (1, 3));
    Ok(())
}

/// Two words that should be equal.
struct Twin;

impl Subject for Twin {
    type Handle = &'static [AtomicU32; 2];

    fn name(&self) -> String {
        "two words: write".to_owned()
    }

    fn make(&self, _: &Memory) {}

    fn open(&self, memory: &Memory) -> Self::Handle {
        map(memory)
    }

    fn operate(&self, words: &mut Self::Handle, _: &Stage<'_>) {
        words[0].store(7, Ordering::Release);
        words[1].store(7, Ordering::Release);
    }

    fn check(&self, words: &mut Self::Handle, _: &Stage<'_>) -> Outcome {
        match [0, 1].map(|i| words[i].load(Ordering::Acquire)) {
            [a, b] if a == b => Ok(format!("both {a}")),
            both => Err(format!("{both:?}")),
        }
    }
}

fn a_count_that_is_written_in_two_steps_is_found_half() -> Result<(), Skip> {
    let report = crash(&Twin, 0, &QUICK)?;
    assert_eq!(report.states, 3);
    assert!(report.findings.iter().all(|f| f.what == "[7, 0]"), "{report}");
    assert!(!report.findings.is_empty());
    assert!(report.count("1 both 0") >= 1 && report.count("1 both 7") >= 1, "{report}");
    Ok(())
}

fn a_sample_of_barriers() -> Result<(), Skip> {
    sample(barrier::matrix)
}

fn a_sample_of_channels() -> Result<(), Skip> {
    sample(channel::matrix)
}

fn a_sample_of_mutexes() -> Result<(), Skip> {
    sample(mutex::matrix)
}

fn a_sample_of_once() -> Result<(), Skip> {
    sample(once::matrix)
}

fn a_sample_of_overtaking() -> Result<(), Skip> {
    sample(channel::overtake::matrix)
}

fn a_sample_of_condvars() -> Result<(), Skip> {
    sample(condvar::matrix)
}

fn a_sample_of_file_locks() -> Result<(), Skip> {
    sample(file_lock::matrix)
}

fn a_sample_of_pidfiles() -> Result<(), Skip> {
    sample(pidfile::matrix)
}

fn a_sample_of_queues() -> Result<(), Skip> {
    sample(queue::matrix)
}

fn a_sample_of_rwlocks() -> Result<(), Skip> {
    sample(rwlock::matrix)
}

fn a_sample_of_semaphores() -> Result<(), Skip> {
    sample(posix_sem::matrix)
}
