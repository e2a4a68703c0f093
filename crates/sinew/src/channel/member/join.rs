//! How a newcomer joins a channel by its name.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::access::{self, is_same_user};
use super::link::Link;
use super::message::{
    Hello, LONGEST, MOST_FDS, Message, Welcome, Writer, is_hello_of_another_version,
};
use super::slot::{Holder, Table};
use super::{Inner, LINK, Member, Pattern, Shared, Who};
use crate::channel::name::{Connection, Name, held_by};
use crate::channel::service::Handle;
use crate::error::{Error, ErrorKind, RecvError, Result, SendError};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::pidfd::PidFd;
use crate::unix::Socket;
use crate::wait::{Receives, Sends, Wait};

/// How often the holder may go while a newcomer is on its way.
const TURNS: usize = 1000;
const JOIN: &str = "join";

/// What a newcomer makes of a welcome: the members in the memory that it mapped and checked, and what is
/// told of them, and what newcomers are handed if this one holds the name.
pub(crate) type Attached = (Table, Arc<dyn Pattern>, Vec<Shared>);

/// Maps the memory that came with a welcome, and takes what else the pattern hands to newcomers.
pub(crate) type Maps<'a> = &'a mut dyn FnMut(&Welcome, &OwnedFd, Vec<OwnedFd>) -> Result<Attached>;

impl Member {
    /// Joins the channel of this name: by `first`, if the name was found to be held, else by a connection
    /// of its own, for which it waits as `exist` allows.
    ///
    /// `answer` bounds the wait for the holder's answer, which comes at once unless it is stopped.
    /// `attach` maps the memory and checks it; it can be called again, when the holder died before this
    /// process had arrived.
    ///
    /// # Errors
    /// As [`Name::connect_wait`]; what `attach` or the holder says; `TimedOut` and `Interrupted`,
    /// and `WouldBlock` for an `answer` of [`Wait::NEVER`], naming the holder; `PermissionDenied` if that is another
    /// user's; `LimitReached` where this process has not as many descriptors left as the channel has
    /// members.
    pub(crate) fn join(
        name: &Name,
        first: Option<Connection>,
        hello: &Hello,
        exist: Wait<'_>,
        answer: Wait<'_>,
        attach: Maps<'_>,
    ) -> Result<Self> {
        let info = access::info();
        let (pid, namespace, started) = (info.pid, info.namespace, info.started);
        let hello = Writer::hello(&Hello { pid, namespace, started, ..*hello });
        let mut first = first;
        for _ in 0..TURNS {
            let connection = match first.take() {
                Some(connection) => connection,
                None => name.connect_wait(exist)?,
            };
            if !is_same_user(&connection.socket) {
                return Err(failed(name, ErrorKind::PermissionDenied)
                    .because("the channel is another user's"));
            }
            let asked = ask(name, &connection, &hello, answer)?;
            let Some(mut answer) = asked else { continue };
            let more = std::mem::take(&mut answer.more);
            let attached = attach(&answer.welcome, &answer.memory, more)?;
            if let Some(member) = enter(name, connection, answer, attached)? {
                return Ok(member);
            }
        }
        Err(failed(name, ErrorKind::InUse).because("its holder keeps going"))
    }
}

/// What a holder answers.
struct Answer {
    welcome: Welcome,
    memory: OwnedFd,
    more: Vec<OwnedFd>,
    pidfds: Vec<OwnedFd>,
}

/// Says hello, and takes the answer. None if the holder went before it answered.
fn ask(
    name: &Name,
    connection: &Connection,
    hello: &[u8],
    answer: Wait<'_>,
) -> Result<Option<Answer>> {
    let own = PidFd::own()?;
    match connection.socket.with_fds(&[own.as_fd()]).send_wait(hello, answer) {
        Ok(()) => {}
        Err(SendError::Closed) => return Ok(None),
        Err(SendError::TooManyInFlight) => {
            return Err(failed(name, ErrorKind::LimitReached)
                .because("too many descriptors of this user are on their way"));
        }
        Err(SendError::Full) => return Err(no_answer(name, connection, ErrorKind::WouldBlock)),
        Err(SendError::TimedOut) => return Err(no_answer(name, connection, ErrorKind::TimedOut)),
        Err(SendError::Interrupted) => {
            return Err(no_answer(name, connection, ErrorKind::Interrupted));
        }
        Err(error) => return Err(failed(name, ErrorKind::Other).because(error.to_string())),
    }
    drop(own);
    let mut buf = [0; LONGEST];
    let message = match connection.socket.fds(MOST_FDS).recv_wait(&mut buf, answer) {
        Ok(message) => message,
        Err(RecvError::Closed) => return Ok(None),
        Err(RecvError::Empty) => return Err(no_answer(name, connection, ErrorKind::WouldBlock)),
        Err(RecvError::TimedOut) => return Err(no_answer(name, connection, ErrorKind::TimedOut)),
        Err(RecvError::Interrupted) => {
            return Err(no_answer(name, connection, ErrorKind::Interrupted));
        }
        Err(RecvError::Truncated) => {
            let limit = Limit::Nofile;
            return Err(failed(name, ErrorKind::LimitReached)
                .because(format!(
                    "this process has not a descriptor left for each member, of {}",
                    limit.stated()
                ))
                .fix(format!("close descriptors, or {}", limit.raise())));
        }
        Err(error) => return Err(failed(name, ErrorKind::Mismatch).because(error.to_string())),
    };
    let bytes = &buf[..message.length];
    match Message::parse(bytes, message.fds) {
        Ok(Message::Welcome { welcome, memory, more, pidfds }) => {
            Ok(Some(Answer { welcome, memory, more, pidfds }))
        }
        Ok(Message::Refused { kind, text }) => {
            Err(failed(name, kind).because(format!("the holder refuses: {text}")))
        }
        _ if is_hello_of_another_version(bytes) => Ok(None),
        _ => Err(failed(name, ErrorKind::Mismatch)
            .because("the holder answers what no channel of this version does")),
    }
}

/// Takes the place that was given. None if it was taken back: the holder went, and its heir did not know
/// how far this newcomer was.
fn enter(
    name: &Name,
    connection: Connection,
    Answer { welcome, memory, pidfds, .. }: Answer,
    (table, pattern, more): Attached,
) -> Result<Option<Member>> {
    let Welcome { slot, generation, role, lane, .. } = welcome;
    let me = Who { slot, generation, role, lane };
    if slot >= table.count() {
        return Err(failed(name, ErrorKind::Mismatch).because("there is no such place in it"));
    }
    let service = Handle::get()?;
    let named = Some(name.clone());
    let inner = Inner::new((memory, more), welcome.facts, welcome.channel, named, table.count());
    let member = Member::new(me, table, pattern, service, inner);
    let core = &member.core;
    let mut inner = super::lock(&core.inner);
    core.start_timer(&mut inner)?;
    for (place, pidfd) in welcome.places.into_iter().zip(pidfds) {
        core.meet(&mut inner, place, pidfd);
    }
    inner.serial += 1;
    let number = inner.serial;
    let socket = core.attend(connection.socket, LINK | number)?;
    let holder = Some(Holder::from_word(welcome.holder));
    inner.link = Some(Link { socket, holder, number, answered: true });
    let here = core.table.slot(slot).is_some_and(|word| word.arrive(generation));
    // What happened on the way, and whether there still is a holder.
    inner.soon();
    drop(inner);
    Ok(here.then_some(member))
}

fn failed(name: &Name, kind: ErrorKind) -> Error {
    Error::new(kind, JOIN).on(Mechanism::Channel).object(format!("{:?}", name.path()))
}

#[cold]
fn no_answer(name: &Name, connection: &Connection, kind: ErrorKind) -> Error {
    failed(name, kind)
        .because(held_by(connection))
        .fix("continue that process (SIGCONT), or end it")
}
