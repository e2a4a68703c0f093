//! Keeping SIGPIPE away from the host where the kernel cannot be told not to raise it.
//!
//! The kernel directs the SIGPIPE of a write at the writing thread, so a mask of that thread is
//! enough: the signal is blocked, the call made, and the signal that it left pending is taken
//! again before the mask is put back. Dispositions and other threads are never touched.

#![allow(unsafe_code, reason = "signal masks and dispositions are libc's")]

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::io::Errno;

thread_local! {
    /// How many [`HeldSigpipe`] this thread has.
    static HELD: Cell<u32> = const { Cell::new(0) };
    /// Whether a SIGPIPE that is pending now is ours to take, while one is held.
    static OURS: Cell<bool> = const { Cell::new(false) };
    /// Whether a call that did not do all may have left one pending, while one is held.
    static LEFT: Cell<bool> = const { Cell::new(false) };
    /// Whether the signal was blocked before the first was made, so that the last leaves it so.
    static WAS_BLOCKED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps SIGPIPE blocked in this thread, so that calls that may raise it need not do so each.
///
/// Nothing here *needs* it: every call of this library keeps the signal away by itself. Where the
/// kernel has no way to say so per call ([`splice`](crate::splice) and its relatives on every
/// kernel, plain writes to pipes before Linux 6.18), that costs one to three more system calls;
/// while the thread holds one of these, none. From Linux 6.18 on a send to a pipe costs about 25 ns
/// more than a bare write(2), because the flag against the signal takes a vectored call; while the
/// thread holds one of these, it is the bare write(2): worth it around a loop of small messages.
///
/// Dropping the last one puts the mask of the thread back as it was. A SIGPIPE that was pending
/// before stays pending; one that a call of this library caused is taken away, at the latest then.
///
/// ```
/// use sinew::SendError;
/// use sinew::pipe::{self, HeldSigpipe};
/// use sinew::wait::Sends;
///
/// let (rx, tx) = pipe::pipe()?;
/// drop(rx);
/// let _quiet = HeldSigpipe::new();
/// // One system call, on any kernel, whatever the process does with SIGPIPE.
/// assert_eq!(tx.send(b"nobody"), Err(SendError::Closed));
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "it acts for as long as it lives"]
pub struct HeldSigpipe {
    // The mask is the thread's: it must be dropped where it was made.
    of_thread: PhantomData<*const ()>,
}

impl HeldSigpipe {
    /// Blocks SIGPIPE in this thread until it is dropped.
    #[expect(clippy::new_without_default, reason = "making one acts on the thread")]
    pub fn new() -> Self {
        if HELD.get() == 0 {
            let was_blocked = change_mask(libc::SIG_BLOCK);
            WAS_BLOCKED.set(was_blocked);
            // What is not blocked cannot stay pending, so only one that was can have been pending
            // before. A pending one is not ours, and ours would be merged with it.
            OURS.set(!was_blocked || !is_pending());
        }
        HELD.set(HELD.get() + 1);
        Self { of_thread: PhantomData }
    }
}

impl Drop for HeldSigpipe {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() > 0 {
            return;
        }
        if LEFT.replace(false) && OURS.get() {
            take();
        }
        if !WAS_BLOCKED.get() {
            change_mask(libc::SIG_UNBLOCK);
        }
    }
}

/// Whether this thread has a [`HeldSigpipe`].
#[inline]
pub(crate) fn is_held() -> bool {
    HELD.get() > 0
}

/// Makes a call of `wanted` bytes that may raise SIGPIPE, which is held.
#[inline]
pub(crate) fn while_held(
    wanted: usize,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let done = call();
    match done {
        Err(Errno::PIPE) => taken(),
        // A write that sleeps half-way when the last reader leaves gives what went, and still
        // raises the signal. The next call says EPIPE, or the end of holding takes it.
        Ok(count) if count < wanted => LEFT.set(true),
        _ => {}
    }
    done
}

#[cold]
fn taken() {
    LEFT.set(false);
    if OURS.get() {
        take();
    }
}

/// Makes a call of `wanted` bytes that may raise SIGPIPE, and lets no SIGPIPE of it reach this
/// process.
#[inline]
pub(crate) fn without_sigpipe(
    wanted: usize,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    if is_held() { while_held(wanted, call) } else { keeping_it_away(wanted, call) }
}

#[inline(never)]
fn keeping_it_away(
    wanted: usize,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    if is_ignored() {
        let done = call();
        // A signal that is both ignored and blocked does become pending, and would strike if the
        // host went back to the default later. An ignored one that was there before is not missed.
        let raised = match done {
            Err(errno) => errno == Errno::PIPE,
            Ok(count) => count < wanted,
        };
        if raised && is_pending() {
            take();
        }
        return done;
    }
    let _held = HeldSigpipe::new();
    while_held(wanted, call)
}

/// Adds SIGPIPE to the mask of this thread or takes it out; tells whether it was in.
fn change_mask(how: libc::c_int) -> bool {
    let set = only_sigpipe();
    let mut old = MaybeUninit::uninit();
    // SAFETY: both point to sets of this frame, and the second is only written.
    unsafe { libc::pthread_sigmask(how, &raw const set, old.as_mut_ptr()) };
    // SAFETY: the call fails only for an unknown `how`, so it filled the set.
    let old = unsafe { old.assume_init() };
    holds_sigpipe(&old)
}

fn is_pending() -> bool {
    let mut pending = MaybeUninit::uninit();
    // SAFETY: it points to a set of this frame, which the call only writes.
    unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: the call fails only for a bad address.
    let pending = unsafe { pending.assume_init() };
    holds_sigpipe(&pending)
}

fn is_ignored() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: it changes nothing (no new action) and writes one struct of this frame.
    unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call fails only for a bad signal or address.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}

/// Takes the pending SIGPIPE of this thread. The kernel looks at those directed at the thread
/// before those directed at the process, so it takes the one that a write caused.
#[cold]
fn take() {
    let set = only_sigpipe();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        // SAFETY: it reads the set and the time of this frame; no information is asked for.
        let got = unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const now) };
        // Another, handled signal may come in between.
        if got >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

fn only_sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: it points to a set of this frame, which the call fills.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was made by the call above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: as above.
    unsafe { set.assume_init() }
}

fn holds_sigpipe(set: &libc::sigset_t) -> bool {
    // SAFETY: a reference to a set is a valid pointer to one.
    unsafe { libc::sigismember(set, libc::SIGPIPE) == 1 }
}
