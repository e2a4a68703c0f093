//! Sets of signals, and the mask of a thread while a scope lasts.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;

use rustix::io::Errno;

use super::{HIGHEST, Signal, sys};
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// A set of signals. Plain data; [`block`](Self::block) makes it act.
///
/// ```
/// use sinew::signal::{Set, Signal};
///
/// let ends = Set::from([Signal::INT, Signal::TERM]).with(Signal::HUP);
/// assert!(ends.contains(Signal::HUP) && !ends.contains(Signal::CHLD));
/// assert_eq!(ends.iter().count(), 3);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Set(u64);

impl Set {
    /// The empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// All that [can be blocked](Signal::can_be_blocked).
    #[must_use]
    pub fn all() -> Self {
        Self(u64::MAX).iter().filter(|signal| signal.can_be_blocked()).collect()
    }

    /// What the calling thread has blocked now.
    ///
    /// # Errors
    /// None that the kernel gives; a sandbox may refuse the call.
    pub fn blocked() -> Result<Self> {
        sys::change_mask(libc::SIG_BLOCK, 0)
            .map(Self)
            .map_err(|errno| failure("read the mask of the thread", errno))
    }

    /// What is pending: sent to the calling thread or to the process, and blocked here.
    ///
    /// # Errors
    /// None that the kernel gives; a sandbox may refuse the call.
    pub fn pending() -> Result<Self> {
        sys::pending().map(Self).map_err(|errno| failure("read what is pending", errno))
    }

    /// This set and that signal.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | bit(signal))
    }

    /// This set without that signal.
    #[must_use]
    pub const fn without(self, signal: Signal) -> Self {
        Self(self.0 & !bit(signal))
    }

    /// What is in this set or in that.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in that.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the signal is in it.
    #[must_use]
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & bit(signal) != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its signals, lowest number first.
    #[must_use]
    pub const fn iter(self) -> Signals {
        Signals(self.0)
    }

    /// Blocks these signals in the calling thread until the scope is dropped: what is sent
    /// meanwhile stays pending, or is read from a [`signalfd`](crate::signalfd). Once unblocked, it
    /// does to the process what the signal does.
    ///
    /// Scopes nest, and may be dropped in any order: a signal goes back to what it was before when
    /// the last scope that names it goes. What a scope found as it wanted it, it leaves so.
    ///
    /// ```
    /// use sinew::signal::{Set, Signal};
    ///
    /// let blocked = Set::from([Signal::USR1, Signal::USR2]).block()?;
    /// {
    ///     let _open = Set::from(Signal::USR2).unblock()?;
    ///     assert!(!Set::blocked()?.contains(Signal::USR2));
    /// }
    /// assert!(Set::blocked()?.contains(Signal::USR2));
    /// drop(blocked);
    /// assert!(!Set::blocked()?.contains(Signal::USR1));
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of kind [`InvalidInput`](ErrorKind::InvalidInput) if one of them
    /// [cannot be blocked](Signal::can_be_blocked). Nothing was changed.
    pub fn block(self) -> Result<Scope> {
        self.refuse_unblockable("block")?;
        self.apply(libc::SIG_BLOCK, "block")
    }

    /// Lets these signals through to the calling thread until the scope is dropped. What is pending
    /// of them strikes before this returns.
    ///
    /// # Errors
    /// None that the kernel gives; a sandbox may refuse the call.
    pub fn unblock(self) -> Result<Scope> {
        self.apply(libc::SIG_UNBLOCK, "unblock")
    }

    pub(in crate::event) fn refuse_unblockable(self, operation: &'static str) -> Result<()> {
        match self.iter().find(|signal| !signal.can_be_blocked()) {
            None => Ok(()),
            Some(signal) => Err(Error::new(ErrorKind::InvalidInput, operation)
                .on(Mechanism::Signal)
                .object(signal)
                .because(if signal.is_rt() {
                    "the C library keeps this signal for itself"
                } else {
                    "this signal cannot be blocked"
                })
                .fix("leave it out; `Set::all` has only what can be blocked")),
        }
    }

    pub(in crate::event) const fn bits(self) -> u64 {
        self.0
    }

    pub(in crate::event) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn apply(self, how: i32, operation: &'static str) -> Result<Scope> {
        let wanted = how == libc::SIG_BLOCK;
        let before = sys::change_mask(how, self.0)
            .map_err(|errno| failure(operation, errno).object(format!("{self:?}")))?;
        let id = NEXT.replace(NEXT.get() + 1);
        let change = Change { id, signals: self.0, before: before & self.0, wanted };
        SCOPES.with_borrow_mut(|scopes| scopes.push(change));
        Ok(Scope { id, signals: self, of_thread: PhantomData })
    }
}

const fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

fn failure(operation: &'static str, errno: Errno) -> Error {
    Error::os(operation, errno).on(Mechanism::Signal)
}

/// What a living scope did to the mask of its thread.
struct Change {
    id: u64,
    signals: u64,
    /// Which of them were blocked before.
    before: u64,
    /// Whether it blocks them.
    wanted: bool,
}

thread_local! {
    /// The scopes of this thread, oldest first.
    static SCOPES: RefCell<Vec<Change>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Signals are blocked in this thread, or let through, until this is dropped. Made by
/// [`Set::block`] and [`Set::unblock`].
///
/// It cannot be sent to another thread, whose mask is another one:
///
/// ```compile_fail
/// let scope = sinew::signal::Set::all().block().unwrap();
/// std::thread::spawn(move || drop(scope));
/// ```
#[must_use = "it acts for as long as it lives"]
pub struct Scope {
    id: u64,
    signals: Set,
    of_thread: PhantomData<*const ()>,
}

impl Scope {
    /// The signals that it was made for.
    #[must_use]
    pub const fn signals(&self) -> Set {
        self.signals
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.signals).finish()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // A thread that ends may have dropped its list before this; its mask ends with it.
        let _ = SCOPES.try_with(|scopes| {
            let (block, unblock) = leave(&mut scopes.borrow_mut(), self.id);
            // Neither can fail: the same call with the same signals was made before. Unblocking
            // comes last, because what is pending strikes then.
            if block != 0 {
                let _ = sys::change_mask(libc::SIG_BLOCK, block);
            }
            if unblock != 0 {
                let _ = sys::change_mask(libc::SIG_UNBLOCK, unblock);
            }
        });
    }
}

/// Takes a scope out of the list. Gives what is to be blocked and unblocked again: what no later
/// scope names. A later one that names it inherits how it was before.
fn leave(scopes: &mut Vec<Change>, id: u64) -> (u64, u64) {
    let Some(at) = scopes.iter().position(|change| change.id == id) else { return (0, 0) };
    let gone = scopes.remove(at);
    let mut rest = gone.signals;
    for later in &mut scopes[at..] {
        let common = later.signals & rest;
        later.before = (later.before & !common) | (gone.before & common);
        rest &= !common;
    }
    if gone.wanted { (0, rest & !gone.before) } else { (rest & gone.before, 0) }
}

impl From<Signal> for Set {
    fn from(signal: Signal) -> Self {
        Self::new().with(signal)
    }
}

impl<const N: usize> From<[Signal; N]> for Set {
    fn from(signals: [Signal; N]) -> Self {
        signals.into_iter().collect()
    }
}

impl FromIterator<Signal> for Set {
    fn from_iter<I: IntoIterator<Item = Signal>>(signals: I) -> Self {
        signals.into_iter().fold(Self::new(), Self::with)
    }
}

impl Extend<Signal> for Set {
    fn extend<I: IntoIterator<Item = Signal>>(&mut self, signals: I) {
        *self = signals.into_iter().fold(*self, Self::with);
    }
}

impl IntoIterator for Set {
    type Item = Signal;
    type IntoIter = Signals;

    fn into_iter(self) -> Signals {
        self.iter()
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The signals of a [`Set`], lowest number first.
#[derive(Clone, Debug)]
pub struct Signals(u64);

impl Iterator for Signals {
    type Item = Signal;

    fn next(&mut self) -> Option<Signal> {
        let lowest = self.0.trailing_zeros();
        // The shift of an empty set would be by 64.
        self.0 &= self.0.wrapping_sub(1);
        i32::try_from(lowest).ok().filter(|n| *n < HIGHEST).and_then(|n| Signal::from_raw(n + 1))
    }
}
