//! The loop.
//!
//! Everything is watched by level: what is left over after a bounded piece of work is told again, so
//! nobody starves and nothing is forgotten. Tokens are never used twice: an event for what
//! is gone by now finds nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{PipeReader, PipeWriter};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use sinew::command::CommandExt;
use sinew::pidfd::{self, Child, Exit};
use sinew::poller::{Event, Events, Interest, Poller, Registered, Token};
use sinew::signal::{Set, Signal};
use sinew::signalfd::{Kind, SignalFd};
use sinew::timerfd::{Clock, Fired, Schedule, Timer};
use sinew::unix::{Address, SeqpacketListener, Socket};
use sinew::wait::{Accepts, Opens, Receives, Sends, Wait, Waits};
use sinew::{ErrorKind, RecvError, Result, WaitError, fifo};

use super::connection::Connection;
use super::receiver::Receiver;
use super::settings::Settings;

/// What happened, for whoever wants to know.
#[derive(Debug)]
pub(crate) enum Fact {
    /// Clients can connect now.
    Open,
    Request(String),
    Line(String),
    Ticks(u64),
    /// A signal with its value.
    Counted(i32),
    Bell(u64),
    Ended(Exit),
    Reloaded,
    /// The settings are wrong, and the old ones stay.
    Kept(String),
    Draining,
    /// Time ran out for a client that does not take its answers, or a child.
    GaveUp {
        answers: usize,
        children: usize,
    },
}

/// How much of everything there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) lines: u64,
    pub(crate) ticks: u64,
    pub(crate) signals: u64,
    pub(crate) bells: u64,
    pub(crate) children: u64,
}

/// What an event is about. The numbers of clients and children are used once.
#[derive(Clone, Copy)]
enum Source {
    Door,
    Lines,
    Timer,
    Signals,
    Client(u64),
    Bell(u64),
    Child(u64),
}

impl Source {
    fn token(self) -> Token {
        let (kind, number) = match self {
            Self::Door => (0, 0),
            Self::Lines => (1, 0),
            Self::Timer => (2, 0),
            Self::Signals => (3, 0),
            Self::Client(number) => (4, number),
            Self::Bell(number) => (5, number),
            Self::Child(number) => (6, number),
        };
        Token(number << 3 | kind)
    }

    fn of(token: Token) -> Self {
        let number = token.0 >> 3;
        match token.0 & 7 {
            0 => Self::Door,
            1 => Self::Lines,
            2 => Self::Timer,
            3 => Self::Signals,
            4 => Self::Client(number),
            5 => Self::Bell(number),
            _ => Self::Child(number),
        }
    }
}

/// How many messages of one client, or connections, are taken before the others have their turn.
const TURN: usize = 32;
/// The most children at a time.
const CHILDREN: usize = 64;
/// The longest line, and the longest request.
const LONGEST: usize = 4096;

/// Runs the service in `folder` until SIGTERM or SIGINT.
pub(crate) fn run(folder: &Path, report: &mut dyn FnMut(Fact)) -> Result<Totals> {
    let asked = Set::from([Signal::HUP, Signal::INT, Signal::TERM]);
    let signals = Signal::rt(1).map_or(asked, |counted| asked.with(counted));
    // Before anything can be sent to this process, and before there is any other thread.
    let _held = signals.block()?;
    let mut service = Service::open(folder, signals, report)?;
    (service.report)(Fact::Open);
    let mut events = Events::with_capacity(64);
    loop {
        let wait = service.deadline.map_or(Wait::FOREVER, Wait::until);
        match service.poller.fill(&mut events).wait_for(wait) {
            Ok(_) => {}
            Err(WaitError::TimedOut) => {
                let answers = service.clients.values().map(Connection::owed).sum();
                (service.report)(Fact::GaveUp { answers, children: service.children.len() });
                return Ok(service.totals);
            }
            Err(error) => {
                let failed = sinew::Error::new(ErrorKind::Other, "wait for events");
                return Err(failed.because(error.to_string()));
            }
        }
        for event in &events {
            service.handle(event)?;
        }
        if service.deadline.is_some() && service.clients.is_empty() && service.children.is_empty() {
            return Ok(service.totals);
        }
    }
}

struct Service<'a> {
    poller: Poller,
    path: PathBuf,
    settings: Settings,
    signals: Registered<SignalFd>,
    timer: Registered<Timer>,
    /// None once the service ends.
    door: Option<Registered<SeqpacketListener>>,
    /// No descriptor was left for a client: nobody is let in until somebody leaves.
    crowded: bool,
    /// With a writing end of our own, so that the pipe has no end while nobody writes.
    lines: Option<(Registered<PipeReader>, PipeWriter)>,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    clients: BTreeMap<u64, Connection>,
    /// Each with the client that is to hear of its end.
    children: BTreeMap<u64, (Registered<Child>, u64)>,
    /// The number of the next client or child.
    next: u64,
    /// When the service ends, whatever is left to do: only once it was asked to end.
    deadline: Option<Instant>,
    totals: Totals,
    report: &'a mut dyn FnMut(Fact),
}

impl<'a> Service<'a> {
    fn open(folder: &Path, signals: Set, report: &'a mut dyn FnMut(Fact)) -> Result<Self> {
        let poller = Poller::new()?;
        let path = folder.join("settings");
        let settings = Settings::read(&path).map_err(|wrong| {
            sinew::Error::new(ErrorKind::InvalidInput, "read the settings").because(wrong)
        })?;
        let read = Interest::READABLE;
        let signals = poller.add(SignalFd::new(signals)?, Source::Signals.token(), read)?;
        let timer = Timer::new(Clock::Monotonic)?;
        if let Some(period) = settings.period {
            timer.arm(Schedule::every(period))?;
        }
        let timer = poller.add(timer, Source::Timer.token(), read)?;
        let fifo = fifo::Options::new().open_or_create(folder.join("lines"))?;
        let reader = poller.add(fifo.reader().try_open()?, Source::Lines.token(), read)?;
        let lines = Some((reader, fifo.writer().try_open()?));
        let door = SeqpacketListener::bind(&Address::path(folder.join("socket"))?)?;
        let door = Some(poller.add(door, Source::Door.token(), read)?);
        Ok(Self {
            poller,
            path,
            settings,
            signals,
            timer,
            door,
            crowded: false,
            lines,
            line: Vec::new(),
            clients: BTreeMap::new(),
            children: BTreeMap::new(),
            next: 0,
            deadline: None,
            totals: Totals::default(),
            report,
        })
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match Source::of(event.token()) {
            Source::Door => self.accept(TURN).map(drop),
            Source::Lines => {
                self.read_lines(TURN);
                Ok(())
            }
            Source::Timer => {
                self.tick();
                Ok(())
            }
            Source::Signals => self.take_signals(),
            Source::Client(number) => self.serve(number, event),
            Source::Bell(number) => {
                self.take_values(number);
                Ok(())
            }
            Source::Child(number) => self.reap(number),
        }
    }

    /// Lets in at most so many clients. Whether that were all.
    fn accept(&mut self, most: usize) -> Result<bool> {
        for _ in 0..most {
            let Some(door) = &self.door else { return Ok(true) };
            let accepted = door.try_accept().and_then(|socket| {
                let number = self.next;
                let token = Source::Client(number).token();
                Ok((number, self.poller.add(socket, token, Interest::READABLE)?))
            });
            match accepted {
                Ok((number, socket)) => {
                    self.next += 1;
                    self.clients.insert(number, Connection::new(socket));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::LimitReached => {
                    // The client still waits at the door, which would tell so without end.
                    door.modify(Source::Door.token(), Interest::NONE)?;
                    self.crowded = true;
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Somebody left: there is a descriptor for the next one.
    fn open_door(&mut self) -> Result<()> {
        if let (true, Some(door)) = (self.crowded, &self.door) {
            door.modify(Source::Door.token(), Interest::READABLE)?;
            self.crowded = false;
        }
        Ok(())
    }

    fn read_lines(&mut self, most: usize) {
        let mut buf = [0; LONGEST];
        for _ in 0..most {
            let Some((reader, _)) = &self.lines else { return };
            let Ok(length) = reader.try_recv(&mut buf) else { return };
            for byte in &buf[..length] {
                if *byte == b'\n' {
                    let line = String::from_utf8_lossy(&self.line).into_owned();
                    self.line.clear();
                    self.totals.lines += 1;
                    (self.report)(Fact::Line(line));
                } else if self.line.len() < LONGEST {
                    self.line.push(*byte);
                }
            }
        }
    }

    fn tick(&mut self) {
        // All of them, if this service was late.
        if let Ok(Fired::Ticks(ticks)) = self.timer.try_wait() {
            self.totals.ticks += ticks;
            (self.report)(Fact::Ticks(ticks));
        }
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Ok(infos) = self.signals.many::<32>().try_wait() {
            for info in infos {
                match (info.signal(), info.kind()) {
                    (Signal::HUP, _) => self.reload()?,
                    (Signal::TERM | Signal::INT, _) => self.end()?,
                    (_, Kind::Queued(value)) => {
                        self.totals.signals += 1;
                        (self.report)(Fact::Counted(value.as_int()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn reload(&mut self) -> Result<()> {
        match Settings::read(&self.path) {
            Ok(new) => {
                if new.period != self.settings.period {
                    match new.period {
                        Some(period) => self.timer.arm(Schedule::every(period))?,
                        None => self.timer.disarm()?,
                    }
                }
                self.settings = new;
                (self.report)(Fact::Reloaded);
            }
            Err(wrong) => (self.report)(Fact::Kept(wrong)),
        }
        Ok(())
    }

    /// Lets nothing more in. What came before that is finished, and then the loop ends.
    fn end(&mut self) -> Result<()> {
        if self.deadline.is_some() {
            // Asked twice: the children have had their time.
            for (child, _) in self.children.values() {
                let _ = child.signal(Signal::KILL);
            }
            return Ok(());
        }
        self.deadline = Some(Instant::now() + self.settings.patience);
        (self.report)(Fact::Draining);
        // Those who wait at the door have been told that they are connected.
        while !self.accept(TURN)? {}
        self.door = None;
        for client in self.clients.values() {
            // What the kernel took before is read to its end; who sends now is told that it is too
            // late.
            let _ = client.socket.shutdown(Shutdown::Read);
        }
        self.read_lines(usize::MAX);
        self.lines = None;
        self.tick();
        self.timer.disarm()
    }

    fn serve(&mut self, number: u64, event: Event) -> Result<()> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        if event.is_closed() {
            client.hung_up();
        }
        client.flush();
        let mut buf = [0; LONGEST];
        for _ in 0..TURN {
            let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
            if client.owed() > 0 || client.ended {
                break;
            }
            match client.socket.try_recv(&mut buf) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buf[..length]).into_owned();
                    self.request(number, &text);
                    self.totals.requests += 1;
                    (self.report)(Fact::Request(text));
                }
                Err(RecvError::Empty) => break,
                Err(RecvError::TooSmall { .. }) => client.answer("error: too long".into()),
                Err(_) => client.ended = true,
            }
        }
        self.look_after(number)
    }

    /// Watches a client for what can go on, or lets it go.
    fn look_after(&mut self, number: u64) -> Result<()> {
        if self.clients.get(&number).is_some_and(|client| client.ended) {
            // What it rang for before it ended.
            self.take_values(number);
        }
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        if !client.is_done() {
            return client.watch(Source::Client(number).token());
        }
        self.clients.remove(&number);
        self.open_door()
    }

    fn request(&mut self, number: u64, text: &str) {
        let answer = match text.split_once(' ').unwrap_or((text, "")) {
            ("say", words) => Some(format!("{} {words}", self.settings.greeting)),
            ("run", script) => Some(self.start(number, script)),
            ("bell", _) => self.hang_bell(number).err().map(|error| format!("error: {error}")),
            ("stats", _) => Some(self.totals.to_string()),
            _ => Some("error: say WORDS, run SCRIPT, bell, or stats".into()),
        };
        if let (Some(client), Some(answer)) = (self.clients.get_mut(&number), answer) {
            client.answer(answer);
        }
    }

    fn start(&mut self, number: u64, script: &str) -> String {
        if self.children.len() >= CHILDREN {
            return format!("error: {CHILDREN} children run already");
        }
        let mut command = Command::new("sh");
        // The program is to find its signals as usual.
        command.args(["-c", script]).stdin(Stdio::null()).unblock_signals();
        let token = Source::Child(self.next).token();
        let started = pidfd::spawn(&mut command)
            .and_then(|child| self.poller.add(child, token, Interest::READABLE));
        match started {
            Ok(child) => {
                self.children.insert(self.next, (child, number));
                self.next += 1;
                if let Some(client) = self.clients.get_mut(&number) {
                    client.children += 1;
                }
                format!("started {}", self.next - 1)
            }
            Err(error) => format!("error: {error}"),
        }
    }

    fn reap(&mut self, number: u64) -> Result<()> {
        let Some((child, client)) = self.children.get(&number) else { return Ok(()) };
        let Ok(exit) = child.try_wait() else { return Ok(()) };
        let client = *client;
        self.children.remove(&number);
        self.totals.children += 1;
        (self.report)(Fact::Ended(exit));
        if let Some(client) = self.clients.get_mut(&client) {
            client.children -= 1;
            client.answer(format!("ended {number}: {exit}"));
        }
        self.open_door()?;
        self.look_after(client)
    }

    /// Sends a client what it needs to put values into memory and ring.
    fn hang_bell(&mut self, number: u64) -> Result<()> {
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        let receiver = Receiver::new()?;
        if client.socket.with_fds(&receiver.fds()).try_send(b"bell").is_err() {
            // It does not take its answers, and would not find these in their place among them.
            client.answer("error: take the answers first".into());
            return Ok(());
        }
        let bell = self.poller.add(receiver, Source::Bell(number).token(), Interest::READABLE)?;
        client.bell = Some(bell);
        Ok(())
    }

    fn take_values(&mut self, number: u64) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let Some(bell) = &mut client.bell else { return };
        let taken = bell.get_mut().take(|value| {
            self.totals.bells += 1;
            (self.report)(Fact::Bell(value));
        });
        // Whoever writes nonsense is not listened to any more.
        if taken.is_err() || client.ended {
            client.bell = None;
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, lines, ticks, signals, bells, children } = self;
        write!(f, "requests {requests}, lines {lines}, ticks {ticks}, signals {signals}, ")?;
        write!(f, "bells {bells}, children {children}")
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Request(text) => write!(f, "request: {text}"),
            Self::Line(text) => write!(f, "line: {text}"),
            Self::Ticks(ticks) => write!(f, "ticks: {ticks}"),
            Self::Counted(value) => write!(f, "signal with {value}"),
            Self::Bell(value) => write!(f, "value in memory: {value}"),
            Self::Ended(exit) => write!(f, "a child ended: {exit}"),
            Self::Reloaded => f.write_str("new settings"),
            Self::Kept(wrong) => write!(f, "the old settings stay: {wrong}"),
            Self::Draining => f.write_str("finishing"),
            Self::GaveUp { answers, children } => {
                write!(f, "gave up: {answers} answers not taken, {children} children still run")
            }
        }
    }
}
