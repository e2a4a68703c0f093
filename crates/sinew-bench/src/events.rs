//! The rows of events: both sides post and wait, through the library and through the floor, on the
//! same descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sinew::eventfd::{self, Counter, EventFd};
use sinew::inotify::{self, Inotify};
use sinew::poller::{Events, Interest, Poller, Registered, Token};
use sinew::signal::{self, Scope, Set, Target};
use sinew::signalfd::SignalFd;
use sinew::timerfd::{self, Clock, Fired, Schedule};
use sinew::wait::Waits;

use crate::board::Board;
use crate::cpu;
use crate::floor;
use crate::job::Side;
use crate::messages::Row;
use crate::parties::{Parties, Solo, Turn};
use crate::trouble::Trouble;

/// An eventfd for each side: the near one makes both.
fn eventfds(row: Row<'_>) -> Result<[EventFd<Counter>; 2], Trouble> {
    if row.job.side == Side::Near {
        let [own, other] = [eventfd::counter()?, eventfd::counter()?];
        row.link.send_fds(&[other.as_fd(), own.as_fd()])?;
        return Ok([own, other]);
    }
    let [own, other] = row.link.recv_fds()?;
    Ok([EventFd::try_from(own)?, EventFd::try_from(other)?])
}

/// Each side waits at an eventfd of its own.
pub(crate) struct Eventfds {
    own: EventFd<Counter>,
    other: EventFd<Counter>,
}

impl Turn for Eventfds {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        Ok(self.other.notify()?)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        Ok(self.own.wait().map(drop)?)
    }
}

pub(crate) enum Eventfd {}

impl Parties for Eventfd {
    type Library = Eventfds;
    type Floor = floor::events::Events;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let [own, other] = eventfds(row)?;
        let floor = floor::events::Events {
            own: own.as_fd().as_raw_fd(),
            other: other.as_fd().as_raw_fd(),
        };
        Ok((Eventfds { own, other }, floor))
    }
}

/// Each side waits for its eventfd in a poller of its own, and then takes the count.
pub(crate) struct Pollers {
    own: Registered<EventFd<Counter>>,
    other: EventFd<Counter>,
    poller: Poller,
    events: Events,
}

impl Turn for Pollers {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        Ok(self.other.notify()?)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        self.poller.fill(&mut self.events).wait()?;
        // Nobody else takes what the poller has seen.
        Ok(self.own.wait().map(drop)?)
    }
}

pub(crate) enum Epoll {}

impl Parties for Epoll {
    type Library = Pollers;
    type Floor = floor::events::Polled;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let [own, other] = eventfds(row)?;
        let poller = Poller::new()?;
        let (own_fd, other_fd) = (own.as_fd().as_raw_fd(), other.as_fd().as_raw_fd());
        let own = poller.add(own, Token(1), Interest::READABLE)?;
        let floor = floor::events::Polled {
            events: floor::events::Events { own: own_fd, other: other_fd },
            epoll: poller.as_fd().as_raw_fd(),
        };
        Ok((Pollers { own, other, poller, events: Events::with_capacity(1) }, floor))
    }
}

/// How the other process is told.
#[derive(Clone, Copy)]
enum Way {
    /// By its number, with a value.
    Queued,
    /// By its pidfd.
    Sent,
}

/// Each side has its signals read from a signalfd, and sends to the other process.
pub(crate) struct Signals {
    events: SignalFd,
    way: Way,
    pid: u32,
    pidfd: OwnedFd,
    signal: signal::Signal,
    _blocked: Scope,
}

impl Turn for Signals {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        match self.way {
            Way::Queued => Target::process(self.pid).queue(self.signal, 0)?,
            Way::Sent => Target::from(&self.pidfd).send(self.signal)?,
        }
        Ok(())
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        Ok(self.events.wait().map(drop)?)
    }
}

fn signals(
    row: Row<'_>,
    way: Way,
    signal: signal::Signal,
) -> Result<(Signals, floor::events::Signals), Trouble> {
    let blocked = Set::from(signal).block()?;
    let events = SignalFd::new(signal)?;
    // Both say who they are when they have blocked it: from then on it can come.
    row.link.say(&std::process::id())?;
    let pid: u32 = row.link.hear()?;
    let other = Pid::from_raw(pid.cast_signed());
    let other = other.ok_or_else(|| Trouble::Fail("the other side has no number".into()))?;
    let pidfd = pidfd_open(other, PidfdFlags::empty()).map_err(io::Error::from)?;
    let floor = floor::events::Signals {
        pid: pid.cast_signed(),
        pidfd: matches!(way, Way::Sent).then(|| pidfd.as_raw_fd()),
        signal: signal.as_raw(),
        signalfd: events.as_fd().as_raw_fd(),
    };
    Ok((Signals { events, way, pid, pidfd, signal, _blocked: blocked }, floor))
}

pub(crate) enum Signal {}

impl Parties for Signal {
    type Library = Signals;
    type Floor = floor::events::Signals;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let real_time = signal::Signal::rt(0);
        let real_time =
            real_time.ok_or_else(|| Trouble::Skip("there are no real-time signals".into()))?;
        signals(row, Way::Queued, real_time)
    }
}

pub(crate) enum OnSignalfd {}

impl Parties for OnSignalfd {
    type Library = Signals;
    type Floor = floor::events::Signals;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        signals(row, Way::Sent, signal::Signal::USR1)
    }
}

/// How far ahead a timer is armed: long enough for the process to be asleep by then.
const AHEAD: Duration = Duration::from_micros(200);

/// A timer of the near side, armed for a moment of the monotonic clock.
pub(crate) struct Timer(timerfd::Timer);

impl Solo for Timer {
    fn once(&mut self) -> io::Result<Option<u64>> {
        let at = Duration::from_nanos(cpu::now_ns()) + AHEAD;
        self.0.arm(Schedule::at(at))?;
        self.0.wait()?;
        let late = Duration::from_nanos(cpu::now_ns()).saturating_sub(at);
        Ok(Some(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX)))
    }

    fn check(&mut self) -> io::Result<bool> {
        let at = Duration::from_nanos(cpu::now_ns()) + AHEAD;
        self.0.arm(Schedule::at(at))?;
        let fired = self.0.wait()?;
        Ok(fired == Fired::Ticks(1) && Duration::from_nanos(cpu::now_ns()) >= at)
    }
}

pub(crate) enum Timerfd {}

impl Parties for Timerfd {
    type Library = Timer;
    type Floor = floor::events::Timer;

    fn open(_: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let timer = timerfd::Timer::new(Clock::Monotonic)?;
        let floor = floor::events::Timer {
            timerfd: timer.as_fd().as_raw_fd(),
            ahead_ns: AHEAD.as_nanos() as u64,
        };
        Ok((Timer(timer), floor))
    }
}

/// Each side watches a file of its own, and writes to the one that the other watches.
pub(crate) struct Files {
    events: Inotify,
    touched: File,
}

impl Turn for Files {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.touched.write_at(b"1", 0).map(drop)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        Ok(self.events.wait().map(drop)?)
    }
}

pub(crate) enum OnInotify {}

impl Parties for OnInotify {
    type Library = Files;
    type Floor = floor::events::Watches;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let path = |way| row.job.folder.join(format!("{}-{way}", row.job.prefix));
        let (own, other) = if row.job.side == Side::Near {
            (path("there"), path("back"))
        } else {
            (path("back"), path("there"))
        };
        // Each side makes what it watches, and writes to what the other has made by then.
        File::create_new(&own)?;
        let events = Inotify::new()?;
        events.watch(&own, inotify::Interest::MODIFIED)?;
        row.link.nod()?;
        row.link.await_nod()?;
        let touched = File::options().write(true).open(&other)?;
        std::fs::remove_file(&other)?;
        let floor = floor::events::Watches {
            touched: touched.as_raw_fd(),
            inotify: events.as_fd().as_raw_fd(),
        };
        Ok((Files { events, touched }, floor))
    }
}
