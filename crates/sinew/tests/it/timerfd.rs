//! timerfd: clocks, schedules, ticks that were missed, many takers, and clocks that are set.

#![allow(unsafe_code, reason = "adjtimex sets the clock by a nanosecond")]

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use sinew::memfd::Memfd;
use sinew::timerfd::{Armed, Clock, Fired, Schedule, Timer};
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError, eventfd};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, skip, tests};

use crate::pipe::{assert_one_call, flags, kernel_is_at_least, pretend, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    the_four_forms_take,
    nothing_is_due_early_on_any_clock,
    an_absolute_time_is_one_of_its_clock,
    at_once_is_at_once,
    a_period_neither_drifts_nor_loses_a_tick,
    what_remains_is_told_and_disarming_forgets,
    times_beyond_the_clock_are_never,
    a_period_of_zero_is_refused,
    an_interrupt_ends_a_wait,
    each_tick_is_taken_once_by_many_processes,
    one_of_others_that_blocks_is_not_read_where_nothing_could_end_it,
    setting_the_clock_is_a_result_of_its_own,
    only_times_of_day_watch_the_clock,
    clocks_that_wake_the_host_are_for_who_may,
    only_a_timerfd_becomes_one,
    it_is_close_on_exec_and_blocks_where_the_kernel_lets_it,
    it_goes_on_when_a_holder_is_killed,
    without_descriptors_the_limit_is_named,
    taking_is_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![office, taker, holder];

/// The two ways in which the library asks the kernel.
const KERNELS: [&str; 2] = ["none", "timerfd-nowait"];
const CLOCKS: [Clock; 3] = [Clock::Monotonic, Clock::Boottime, Clock::Realtime];
const SHORT: Duration = Duration::from_millis(3);
const LONG: Duration = Duration::from_secs(60);

fn timer() -> Timer {
    Timer::new(Clock::Monotonic).unwrap()
}

fn the_four_forms_take() -> Result<(), Skip> {
    let timer = timer();
    for form in 0..4 {
        // Disarmed, nothing is due.
        assert_eq!(timer.try_wait(), Err(WaitError::WouldBlock));
        assert_eq!(timer.wait_timeout(SHORT), Err(WaitError::TimedOut));
        assert_eq!(timer.wait_until(Instant::now()), Err(WaitError::TimedOut));
        timer.arm(Schedule::after(SHORT)).unwrap();
        let got = match form {
            0 => timer.wait(),
            1 => timer.wait_timeout(LONG),
            2 => timer.wait_until(Instant::now() + LONG),
            _ => loop {
                match timer.try_wait() {
                    Err(WaitError::WouldBlock) => {}
                    done => break done,
                }
            },
        };
        assert_eq!(got, Ok(Fired::Ticks(1)));
    }
    Ok(())
}

fn nothing_is_due_early_on_any_clock() -> Result<(), Skip> {
    for clock in CLOCKS {
        let timer = Timer::new(clock).unwrap();
        assert_eq!(timer.clock(), clock);
        for delay in [Duration::from_nanos(1), Duration::from_micros(999), SHORT] {
            let begin = Instant::now();
            timer.arm(Schedule::after(delay)).unwrap();
            assert_eq!(timer.wait(), Ok(Fired::Ticks(1)));
            assert!(begin.elapsed() >= delay);
        }
    }
    Ok(())
}

fn an_absolute_time_is_one_of_its_clock() -> Result<(), Skip> {
    for clock in CLOCKS {
        let timer = Timer::new(clock).unwrap();
        let due = clock.now() + SHORT;
        timer.arm(Schedule::at(due)).unwrap();
        assert_eq!(timer.wait(), Ok(Fired::Ticks(1)));
        assert!(clock.now() >= due, "{clock:?}");
    }
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = Clock::Realtime.now();
    // Somebody may set the clock during the test, but not by a day.
    assert!(now.abs_diff(before) < Duration::from_secs(86_400));
    Ok(())
}

fn at_once_is_at_once() -> Result<(), Skip> {
    let timer = timer();
    let past = Clock::Monotonic.now().saturating_sub(Duration::from_secs(1));
    for schedule in [
        Schedule::after(Duration::ZERO),
        Schedule::at(Duration::ZERO),
        Schedule::at(past),
        Schedule::after(Duration::ZERO).then_every(LONG),
    ] {
        timer.arm(schedule).unwrap();
        assert_eq!(timer.wait_timeout(LONG / 2), Ok(Fired::Ticks(1)), "{schedule:?}");
    }
    // Due every 10 ms since a second ago: all that was missed is counted.
    timer.arm(Schedule::at(past).then_every(Duration::from_millis(10))).unwrap();
    let fired = timer.wait().unwrap();
    assert!(matches!(fired, Fired::Ticks(100..)), "{fired:?}");
    assert!(fired.missed() >= 99);
    Ok(())
}

fn a_period_neither_drifts_nor_loses_a_tick() -> Result<(), Skip> {
    let pause = eventfd::counter().unwrap();
    for clock in [Clock::Monotonic, Clock::Boottime] {
        let timer = Timer::new(clock).unwrap();
        let period = Duration::from_micros(700);
        let first = clock.now() + SHORT;
        timer.arm(Schedule::at(first).then_every(period)).unwrap();
        // Ticks that are due until a time: a whole number of periods after the first.
        let due = |time: Duration| match time.checked_sub(first) {
            Some(after) => after.as_nanos() / period.as_nanos() + 1,
            None => 0,
        };
        let mut taken = 0;
        for round in 0_u64..60 {
            if round % 3 == 0 {
                // Late by some ticks, and by a part of one.
                let late = Duration::from_micros(350 * (round % 7));
                assert_eq!(pause.wait_timeout(late), Err(WaitError::TimedOut));
            }
            let before = clock.now();
            let Fired::Ticks(count) = timer.wait().unwrap() else { panic!("nobody sets it") };
            let after = clock.now();
            assert!(count >= 1);
            taken += u128::from(count);
            assert!(taken >= due(before), "tick {} of {} was lost", taken, due(before));
            assert!(taken <= due(after), "tick {} of {} was early", taken, due(after));
        }
    }
    Ok(())
}

fn what_remains_is_told_and_disarming_forgets() -> Result<(), Skip> {
    let timer = timer();
    assert_eq!(timer.remaining().unwrap(), None);
    timer.arm(Schedule::after(LONG)).unwrap();
    let remaining = timer.remaining().unwrap().unwrap();
    assert!(remaining.left <= LONG && remaining.period.is_none(), "{remaining:?}");
    timer.arm(Schedule::after(LONG).then_every(SHORT)).unwrap();
    assert_eq!(timer.remaining().unwrap().unwrap().period, Some(SHORT));
    timer.disarm().unwrap();
    assert_eq!(timer.remaining().unwrap(), None);

    // What was due is gone when it is armed anew or disarmed.
    for again in [true, false] {
        timer.arm(Schedule::after(Duration::ZERO)).unwrap();
        until_readable(&timer);
        // Looking takes nothing.
        assert_eq!(timer.remaining().unwrap(), None);
        until_readable(&timer);
        if again {
            timer.arm(Schedule::after(LONG)).unwrap();
        } else {
            timer.disarm().unwrap();
        }
        assert_eq!(timer.try_wait(), Err(WaitError::WouldBlock));
    }
    Ok(())
}

fn until_readable(fd: impl AsFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut one = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut one, Some(&patience)), Ok(1), "it never becomes readable");
}

fn times_beyond_the_clock_are_never() -> Result<(), Skip> {
    for clock in CLOCKS {
        let timer = Timer::new(clock).unwrap();
        for schedule in [
            Schedule::after(Duration::MAX),
            Schedule::at(Duration::MAX),
            Schedule::every(Duration::MAX),
        ] {
            timer.arm(schedule).unwrap();
            assert_eq!(timer.wait_timeout(SHORT), Err(WaitError::TimedOut));
            assert!(timer.remaining().unwrap().unwrap().left > Duration::from_secs(1 << 30));
        }
    }
    Ok(())
}

fn a_period_of_zero_is_refused() -> Result<(), Skip> {
    let timer = timer();
    let error = timer.arm(Schedule::every(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().starts_with("timerfd: arm"), "{error}");
    assert_eq!(timer.remaining().unwrap(), None);
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let own = rustix::process::getpid();
    let timer = timer();
    let stop = Interrupt::new().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(own);
            stop.trigger();
        });
        assert_eq!(timer.wait_for(wait), Err(WaitError::Interrupted));
    });
    stop.clear();
    timer.arm(Schedule::after(SHORT)).unwrap();
    assert_eq!(timer.wait_for(wait), Ok(Fired::Ticks(1)));
    Ok(())
}

const TAKERS: usize = 3;
const ROUNDS: u64 = 1_000;

/// Takes ticks in the bounded forms until it is told to stop. Each attempt that ends is counted in a
/// word of its own, the ticks in another.
fn taker(link: &Link) {
    let timer = Timer::try_from(link.recv_fd()).unwrap();
    let board = Memfd::try_from(link.recv_fd()).unwrap().map().unwrap();
    let own: usize = link.hear().parse().unwrap();
    let stop = board.atomic_u64_at(0).unwrap();
    let attempts = board.atomic_u64_at(8 + 16 * own).unwrap();
    let taken = board.atomic_u64_at(16 + 16 * own).unwrap();
    let mut form = 0;
    while stop.load(Ordering::Acquire) == 0 {
        form = (form + 1) % 3;
        let got = match form {
            0 => timer.try_wait(),
            1 => timer.wait_timeout(Duration::from_micros(20)),
            _ => timer.wait_until(Instant::now() + Duration::from_micros(20)),
        };
        match got {
            Ok(Fired::Ticks(count)) => drop(taken.fetch_add(count, Ordering::AcqRel)),
            Err(WaitError::TimedOut | WaitError::WouldBlock) => {}
            other => panic!("{other:?}"),
        }
        attempts.fetch_add(1, Ordering::AcqRel);
    }
}

/// Lets a timer be due once a round, for processes that all want it.
fn office(_: &Link) {
    let timer = timer();
    let memfd = sinew::memfd::Options::new().create("board", 4096).unwrap();
    let board = memfd.map().unwrap();
    let word = |at| board.atomic_u64_at(at).unwrap();
    let peers: Vec<_> = (0..TAKERS).map(|_| Peer::spawn("timerfd::taker")).collect();
    for (own, peer) in peers.iter().enumerate() {
        peer.send_fd(&timer);
        peer.send_fd(&memfd);
        peer.say(own);
    }
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(20), "never {what}");
            std::thread::yield_now();
        }
    };
    for round in 1..=ROUNDS {
        timer.arm(Schedule::after(Duration::from_micros(round % 40))).unwrap();
        let taken = || (0..TAKERS).map(|t| word(16 + 16 * t).load(Ordering::Acquire)).sum::<u64>();
        until("taken", &|| taken() == round);
        // Whoever was too late has to come out without it: it is not due again until then.
        for taker in 0..TAKERS {
            let attempts = word(8 + 16 * taker);
            let before = attempts.load(Ordering::Acquire);
            until("without", &|| attempts.load(Ordering::Acquire) > before);
        }
        assert_eq!(taken(), round);
    }
    word(0).store(1, Ordering::Release);
    peers.into_iter().for_each(Peer::join);
}

fn each_tick_is_taken_once_by_many_processes() -> Result<(), Skip> {
    for without in KERNELS {
        Peer::spawn_with("timerfd::office", |c| {
            c.env("SINEW_WITHOUT", without);
        })
        .join();
    }
    Ok(())
}

fn one_of_others_that_blocks_is_not_read_where_nothing_could_end_it() -> Result<(), Skip> {
    pretend("timerfd-nowait");
    let foreign = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let timer = Timer::try_from(foreign).unwrap();
    let refused = Err(WaitError::Os(Errno::OPNOTSUPP.raw_os_error()));
    let stop = Interrupt::new().unwrap();
    for due in [false, true] {
        if due {
            timer.arm(Schedule::after(Duration::ZERO)).unwrap();
            until_readable(&timer);
        }
        assert_eq!(timer.try_wait(), refused);
        assert_eq!(timer.wait_timeout(SHORT), refused);
        assert_eq!(timer.wait_for(Wait::FOREVER.interrupted_by(&stop)), refused);
    }
    assert_eq!(timer.wait(), Ok(Fired::Ticks(1)));
    // One that became blocking under our hands neither.
    let own = self::timer();
    assert_eq!(own.try_wait(), Err(WaitError::WouldBlock));
    fcntl_setfl(&own, OFlags::empty()).unwrap();
    assert_eq!(own.try_wait(), refused);
    Ok(())
}

/// Sets the clock of the host by this many nanoseconds. `None` if this process may not.
fn set_clock_by(nanoseconds: i64) -> Option<()> {
    // SAFETY: timex is made of numbers, for which zero is a value.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    change.time.tv_sec = nanoseconds.div_euclid(1_000_000_000);
    change.time.tv_usec = nanoseconds.rem_euclid(1_000_000_000);
    // SAFETY: `change` is a timex, borrowed for the call.
    let done = unsafe { libc::adjtimex(&raw mut change) };
    (done >= 0).then_some(())
}

/// The clock, put back when this is dropped.
struct Setter(Cell<i64>);

impl Setter {
    /// Sets it on by a nanosecond: back at once would be no change to the kernel.
    fn set(&self) {
        set_clock_by(1).unwrap();
        self.0.set(self.0.get() + 1);
    }
}

impl Drop for Setter {
    fn drop(&mut self) {
        let _ = set_clock_by(-self.0.get());
    }
}

fn setting_the_clock_is_a_result_of_its_own() -> Result<(), Skip> {
    let Some(()) = set_clock_by(0) else {
        return skip("this process may not set the clock");
    };
    let clock = Setter(Cell::new(0));
    let timer = Timer::new(Clock::Realtime).unwrap();
    let tomorrow = Clock::Realtime.now() + Duration::from_secs(86_400);
    let watch = || timer.arm_watching_clock(Schedule::at(tomorrow)).unwrap();
    assert_eq!(watch(), Armed::AsAsked);
    assert_eq!(timer.try_wait(), Err(WaitError::WouldBlock));
    clock.set();
    assert_eq!(timer.try_wait(), Ok(Fired::ClockSet));
    assert_eq!(Fired::ClockSet.missed(), 0);
    assert_eq!(timer.try_wait(), Err(WaitError::WouldBlock));
    // It goes on, and watches on, for those who sleep too.
    assert!(timer.remaining().unwrap().is_some());
    let own = rustix::process::getpid();
    for form in 0..2 {
        std::thread::scope(|s| {
            let waiter =
                s.spawn(|| if form == 0 { timer.wait() } else { timer.wait_timeout(LONG) });
            until_a_thread_sleeps(own);
            clock.set();
            assert_eq!(waiter.join().unwrap(), Ok(Fired::ClockSet));
        });
    }
    // Who arms it anew without having looked is told, and it is armed.
    clock.set();
    assert_eq!(watch(), Armed::AfterClockSet);
    assert!(timer.remaining().unwrap().is_some());
    assert_eq!(watch(), Armed::AsAsked);
    // One that does not watch is told nothing.
    timer.arm(Schedule::at(tomorrow)).unwrap();
    clock.set();
    assert_eq!(timer.try_wait(), Err(WaitError::WouldBlock));
    Ok(())
}

/// Waits until another thread of this process than its first sleeps.
fn until_a_thread_sleeps(own: Pid) {
    let tasks = format!("/proc/{}/task", own.as_raw_nonzero());
    let asleep = |task: &str| {
        let stat = std::fs::read_to_string(format!("{tasks}/{task}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
    };
    let first = own.as_raw_nonzero().to_string();
    loop {
        let names = std::fs::read_dir(&tasks).unwrap().map(|t| t.unwrap().file_name());
        if names.map(|t| t.into_string().unwrap()).any(|t| t != first && asleep(&t)) {
            return;
        }
        std::thread::yield_now();
    }
}

fn only_times_of_day_watch_the_clock() -> Result<(), Skip> {
    for (clock, schedule) in [
        (Clock::Monotonic, Schedule::at(LONG)),
        (Clock::Boottime, Schedule::at(LONG)),
        (Clock::Realtime, Schedule::after(LONG)),
        (Clock::Realtime, Schedule::at(LONG).then_every(Duration::ZERO)),
    ] {
        let timer = Timer::new(clock).unwrap();
        let error = timer.arm_watching_clock(schedule).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(timer.remaining().unwrap(), None);
    }
    Ok(())
}

fn clocks_that_wake_the_host_are_for_who_may() -> Result<(), Skip> {
    for clock in [Clock::BoottimeAlarm, Clock::RealtimeAlarm] {
        match Timer::new(clock) {
            Ok(timer) => {
                timer.arm(Schedule::at(clock.now() + SHORT)).unwrap();
                assert_eq!(timer.wait(), Ok(Fired::Ticks(1)));
                let again = Timer::try_from(OwnedFd::from(timer)).unwrap();
                assert_eq!(again.clock(), clock);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                assert!(error.to_string().contains("CAP_WAKE_ALARM"), "{error}");
            }
        }
    }
    if rustix::process::geteuid().is_root() {
        let nobody = rustix::fs::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let error = Timer::new(Clock::BoottimeAlarm).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
    Ok(())
}

fn only_a_timerfd_becomes_one() -> Result<(), Skip> {
    for other in
        [OwnedFd::from(eventfd::counter().unwrap()), OwnedFd::from(tempfile::tempfile().unwrap())]
    {
        let error = Timer::try_from(other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("not of kind timerfd"), "{error}");
    }
    for clock in CLOCKS {
        let fd = OwnedFd::from(Timer::new(clock).unwrap());
        assert_eq!(Timer::try_from(fd).unwrap().clock(), clock);
    }
    Ok(())
}

fn it_is_close_on_exec_and_blocks_where_the_kernel_lets_it() -> Result<(), Skip> {
    let timer = timer();
    let clone = timer.try_clone().unwrap();
    let per_call = !fallbacks_forced() && kernel_is_at_least(6, 10);
    for fd in [timer.as_fd(), clone.as_fd()] {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(flags(fd).contains(OFlags::NONBLOCK), !per_call);
    }
    clone.arm(Schedule::after(Duration::ZERO)).unwrap();
    assert_eq!(timer.wait(), Ok(Fired::Ticks(1)));
    Ok(())
}

/// Arms a timer, and waits for it for ever.
fn holder(link: &Link) {
    let timer = Timer::try_from(link.recv_fd()).unwrap();
    timer.arm(Schedule::after(Duration::from_millis(50)).then_every(LONG)).unwrap();
    link.say("armed");
    let _ = link.hear();
}

fn it_goes_on_when_a_holder_is_killed() -> Result<(), Skip> {
    let timer = timer();
    let peer = Peer::spawn("timerfd::holder");
    peer.send_fd(&timer);
    peer.expect("armed");
    peer.signal(Signal::KILL);
    peer.kill();
    assert_eq!(timer.wait(), Ok(Fired::Ticks(1)));
    assert_eq!(timer.remaining().unwrap().unwrap().period, Some(LONG));
    Ok(())
}

fn without_descriptors_the_limit_is_named() -> Result<(), Skip> {
    crate::pipe::leave_descriptors(1);
    let timer = timer();
    for error in [Timer::new(Clock::Realtime).unwrap_err(), timer.try_clone().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    }
    Ok(())
}

fn taking_is_one_system_call() -> Result<(), Skip> {
    if !kernel_is_at_least(6, 10) {
        return skip("the kernel has no RWF_NOWAIT on a timerfd");
    }
    pretend("");
    let timer = timer();
    // Due again at each look.
    timer.arm(Schedule::every(Duration::from_nanos(1))).unwrap();
    until_readable(&timer);
    let later = Instant::now() + LONG;
    assert_one_call(libc::SYS_read, || assert!(timer.wait().is_ok()))?;
    assert_one_call(libc::SYS_preadv2, || assert!(timer.wait_until(later).is_ok()))?;
    Ok(())
}
