//! timerfd: a timer behind a descriptor, for a loop that waits for other things too.
//!
//! [`arm`](Timer::arm) sets it, once or periodically, from now on or at a time of its [`Clock`]; the verb
//! `wait` of [`Waits`] takes what it did since the last look. It is readable for poll(2) and
//! epoll(7) while there is something to take.
//!
//! ```
//! use std::time::Duration;
//! use sinew::timerfd::{Clock, Fired, Schedule, Timer};
//! use sinew::wait::Waits;
//!
//! let timer = Timer::new(Clock::Monotonic)?;
//! timer.arm(Schedule::every(Duration::from_millis(2)))?;
//! for _ in 0..3 {
//!     let fired = timer.wait().unwrap();
//!     // More than one if this program was late: they are counted, not queued.
//!     assert!(matches!(fired, Fired::Ticks(1..)));
//! }
//! timer.disarm()?;
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Periods do not drift
//! A period is counted by the kernel from the first expiration, not from when it was taken:
//! tick *n* of a timer first due at *t* is due at *t* + (*n* - 1) periods, however late each was
//! taken. [`Fired::missed`] says how many of them nobody looked at in time.
//!
//! # When somebody sets the clock
//! Timers of [`Clock::Monotonic`] and [`Clock::Boottime`] do not notice. An absolute one of
//! [`Clock::Realtime`] moves with it: it is due when the clock shows its time. Who computed
//! that time from a calendar has to compute it anew: [`arm_watching_clock`](Timer::arm_watching_clock)
//! makes each setting of the clock wake the waiter with [`Fired::ClockSet`].
//!
//! # Exactness
//! Every form is one system call where there is something to take, with any number of processes: what
//! one takes no other does, and none sleeps past its deadline because another was faster. Bounded
//! forms ask per call (`preadv2` with `RWF_NOWAIT`, Linux 6.10). On older kernels a timer is made with
//! O_NONBLOCK instead, which a program that reads the descriptor by itself sees as EAGAIN; and a timer
//! that somebody else made without O_NONBLOCK has only `wait` without an
//! [`Interrupt`](crate::wait::Interrupt) there: the other forms give [`Os(EOPNOTSUPP)`](crate::WaitError::Os),
//! because nothing could end their read.
//!
//! A timer is never early. How late it is, is the host's: its load, and that a sleeping CPU has to wake.
//!
//! # Crashes
//! It goes on for whoever else holds the descriptor, and ends with the last of them. Any holder can set
//! it anew. From timerfd_create(2), preadv2(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_gettime, timerfd_settime,
};

use super::descriptor::{check_kind, fdinfo, field, not_made};
use super::nowait;
use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::kernel::Feature;
use crate::mechanism::Mechanism;
use crate::wait::{Wait, Waits, drive};

const MECHANISM: Mechanism = Mechanism::Timerfd;

/// What a timer counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clock {
    /// Time since the host started, without the time that it was suspended; nobody sets it. What
    /// [`Instant`](std::time::Instant) counts by.
    Monotonic,
    /// The same with the time that it was suspended.
    Boottime,
    /// The time of day, as [`SystemTime`](std::time::SystemTime): from 1970 on, and settable.
    Realtime,
    /// As `Boottime`, and wakes a suspended host. Needs CAP_WAKE_ALARM.
    BoottimeAlarm,
    /// As `Realtime`, and wakes a suspended host. Needs CAP_WAKE_ALARM.
    RealtimeAlarm,
}

impl Clock {
    /// Every clock, with its number in the kernel.
    const ALL: [(Self, &'static str); 5] = [
        (Self::Realtime, "0"),
        (Self::Monotonic, "1"),
        (Self::Boottime, "7"),
        (Self::RealtimeAlarm, "8"),
        (Self::BoottimeAlarm, "9"),
    ];

    /// What it shows: the time since its beginning.
    #[must_use]
    pub fn now(self) -> Duration {
        let now = clock_gettime(match self {
            Self::Monotonic => ClockId::Monotonic,
            Self::Boottime | Self::BoottimeAlarm => ClockId::Boottime,
            Self::Realtime | Self::RealtimeAlarm => ClockId::Realtime,
        });
        duration(now)
    }

    const fn of_kernel(self) -> TimerfdClockId {
        match self {
            Self::Monotonic => TimerfdClockId::Monotonic,
            Self::Boottime => TimerfdClockId::Boottime,
            Self::Realtime => TimerfdClockId::Realtime,
            Self::BoottimeAlarm => TimerfdClockId::BoottimeAlarm,
            Self::RealtimeAlarm => TimerfdClockId::RealtimeAlarm,
        }
    }

    const fn can_be_set(self) -> bool {
        matches!(self, Self::Realtime | Self::RealtimeAlarm)
    }
}

/// When a timer is due.
///
/// ```
/// use std::time::Duration;
/// use sinew::timerfd::{Clock, Schedule};
///
/// let second = Duration::from_secs(1);
/// let once = Schedule::after(second);
/// let each_second_from_the_next_full_one =
///     Schedule::at(Duration::from_secs(Clock::Realtime.now().as_secs() + 1)).then_every(second);
/// # let _ = (once, each_second_from_the_next_full_one);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it sets nothing until `arm`"]
pub struct Schedule {
    first: Duration,
    absolute: bool,
    period: Option<Duration>,
}

impl Schedule {
    /// Once, so long after it is armed. Zero is at once.
    pub const fn after(delay: Duration) -> Self {
        Self { first: delay, absolute: false, period: None }
    }

    /// Once, when the timer's clock shows `time`, which is counted from the clock's beginning as
    /// [`Clock::now`] is. A time in the past is at once.
    pub const fn at(time: Duration) -> Self {
        Self { first: time, absolute: true, period: None }
    }

    /// Every `period`, first one period after it is armed.
    pub const fn every(period: Duration) -> Self {
        Self::after(period).then_every(period)
    }

    /// Again every `period` after the first time.
    pub const fn then_every(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }
}

/// What a timer did since somebody last took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// It was due so many times, at least once.
    Ticks(u64),
    /// Somebody set the clock, and the timer is one that watches for it
    /// ([`arm_watching_clock`](Timer::arm_watching_clock)). How often it was due meanwhile is not told.
    ClockSet,
}

impl Fired {
    /// How many ticks nobody looked at in time: all but the last.
    #[must_use]
    pub const fn missed(self) -> u64 {
        match self {
            Self::Ticks(count) => count.saturating_sub(1),
            Self::ClockSet => 0,
        }
    }
}

/// What [`arm_watching_clock`](Timer::arm_watching_clock) found. The timer is armed in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a time that was computed before the clock was set is another time now"]
pub enum Armed {
    /// Nothing.
    AsAsked,
    /// Since it was armed before, the clock was set, and nobody was told yet.
    AfterClockSet,
}

/// What is left of an armed timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Until it is due next.
    pub left: Duration,
    /// And then every so often.
    pub period: Option<Duration>,
}

/// A timer. Disarmed when it is made: nothing is due, and `wait` waits.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
    clock: Clock,
}

impl Timer {
    /// A new timer, disarmed.
    ///
    /// # Errors
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) for a clock that wakes the host, without
    /// CAP_WAKE_ALARM; or when no descriptor or no memory is left.
    pub fn new(clock: Clock) -> Result<Self> {
        static ASKED: AtomicBool = AtomicBool::new(false);
        let make = |nonblocking| {
            let more = if nonblocking { TimerfdFlags::NONBLOCK } else { TimerfdFlags::empty() };
            timerfd_create(clock.of_kernel(), TimerfdFlags::CLOEXEC | more)
        };
        let fd = nowait::create(Feature::TimerfdNowait, &ASKED, make).map_err(|errno| {
            let error = not_made(MECHANISM, errno);
            match errno {
                Errno::PERM => error
                    .because("a timer that wakes a suspended host needs CAP_WAKE_ALARM")
                    .fix("give the service AmbientCapabilities=CAP_WAKE_ALARM, or take Boottime"),
                _ => error,
            }
        })?;
        Ok(Self { fd, clock })
    }

    /// What it counts by.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// Sets it anew. What was due and not taken is forgotten.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a period of zero.
    pub fn arm(&self, schedule: Schedule) -> Result<()> {
        let flags =
            if schedule.absolute { TimerfdTimerFlags::ABSTIME } else { TimerfdTimerFlags::empty() };
        self.set(schedule, flags).map(drop)
    }

    /// Sets it anew, to an absolute time of a clock that can be set, and lets every setting of that
    /// clock wake the waiter with [`Fired::ClockSet`]. After that it goes on as armed, and watches on.
    ///
    /// To learn of nothing but settings: `Schedule::at(Duration::MAX)`.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a schedule that is not [`at`](Schedule::at) a time,
    /// for a clock that nobody can set, and for a period of zero.
    pub fn arm_watching_clock(&self, schedule: Schedule) -> Result<Armed> {
        if !schedule.absolute || !self.clock.can_be_set() {
            return Err(Error::new(ErrorKind::InvalidInput, "arm")
                .on(MECHANISM)
                .because("only a time of day, of Clock::Realtime, moves when the clock is set"));
        }
        self.set(schedule, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET)
    }

    fn set(&self, schedule: Schedule, flags: TimerfdTimerFlags) -> Result<Armed> {
        if schedule.period.is_some_and(|period| period.is_zero()) {
            return Err(Error::new(ErrorKind::InvalidInput, "arm")
                .on(MECHANISM)
                .because("a period of zero has no ticks to count"));
        }
        // Zero would disarm it. One nanosecond is as much in the past.
        let first = schedule.first.max(Duration::from_nanos(1));
        let times = Itimerspec {
            it_value: timespec(first),
            it_interval: timespec(schedule.period.unwrap_or_default()),
        };
        match timerfd_settime(&self.fd, flags, &times) {
            Ok(_) => Ok(Armed::AsAsked),
            Err(Errno::CANCELED) => Ok(Armed::AfterClockSet),
            Err(errno) => Err(Error::os("arm", errno).on(MECHANISM)),
        }
    }

    /// Stops it. What was due and not taken is forgotten.
    ///
    /// # Errors
    /// None is known.
    pub fn disarm(&self) -> Result<()> {
        let none = Timespec::default();
        let times = Itimerspec { it_value: none, it_interval: none };
        match timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &times) {
            Ok(_) => Ok(()),
            Err(errno) => Err(Error::os("disarm", errno).on(MECHANISM)),
        }
    }

    /// How long until it is due next; nothing if it is disarmed, or was due once and is not periodic.
    /// Takes nothing.
    ///
    /// # Errors
    /// None is known.
    pub fn remaining(&self) -> Result<Option<Remaining>> {
        let times = timerfd_gettime(&self.fd)
            .map_err(|errno| Error::os("read what remains", errno).on(MECHANISM))?;
        let some = |time: Timespec| Some(duration(time)).filter(|time| !time.is_zero());
        Ok(some(times.it_value).map(|left| Remaining { left, period: some(times.it_interval) }))
    }

    /// Another descriptor of the same timer.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0);
        let fd = fd.map_err(|errno| not_made(MECHANISM, errno))?;
        Ok(Self { fd, clock: self.clock })
    }
}

/// Taking what it did.
impl Waits for Timer {
    type Waited = Fired;

    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<Fired, WaitError> {
        let fd = self.fd.as_fd();
        let attempt = |mode| match nowait::take(fd, Feature::TimerfdNowait, mode) {
            Ok(count) => Ok(Fired::Ticks(count)),
            Err(Errno::CANCELED) => Ok(Fired::ClockSet),
            Err(errno) => Err(errno),
        };
        Ok(drive(fd, PollFlags::IN, wait, attempt)?)
    }
}

impl TryFrom<OwnedFd> for Timer {
    type Error = Error;

    /// Takes a descriptor that came from elsewhere, if it is a timerfd. A refused descriptor is closed.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        check_kind(fd.as_fd(), MECHANISM, "[timerfd]")?;
        let failed = |errno| {
            Error::os("take a descriptor", errno)
                .on(MECHANISM)
                .object(format!("descriptor {}", fd.as_raw_fd()))
                .because("/proc/self/fdinfo does not tell its clock")
        };
        let text = fdinfo(fd.as_fd()).map_err(failed)?;
        let number = field(&text, "clockid");
        let known = Clock::ALL.iter().find(|(_, known)| Some(*known) == number);
        let (clock, _) = *known.ok_or_else(|| failed(Errno::NOTSUP))?;
        Ok(Self { fd, clock })
    }
}

impl From<Timer> for OwnedFd {
    fn from(timer: Timer) -> Self {
        timer.fd
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is beyond the kernel's clock is as far as that goes: 292 years, which the kernel sees to.
fn timespec(time: Duration) -> Timespec {
    let tv_sec = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: time.subsec_nanos().into() }
}

fn duration(time: Timespec) -> Duration {
    // The kernel gives no other values; a clock set to before 1970 would be zero.
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    u64::try_from(time.tv_sec).map_or(Duration::ZERO, |secs| Duration::new(secs, nanos))
}
