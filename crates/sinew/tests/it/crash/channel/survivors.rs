//! Who is there when the victim dies, and who takes its place then.
//!
//! A survivor sleeps for as long as it takes; it is told of the death by an interrupt, as by a service with a
//! pidfd. That is withheld as long as the victim has done what has to wake it.

use std::sync::atomic::{AtomicBool, Ordering};

use sinew::channel::{Receiver, Sender};
use sinew::wait::{Borrows, Interrupt, Sends, Wait};
use sinew::{RecvError, SendError};
use sinew_testkit::crash::{Outcome, Stage};

use super::audit::{accept, deliveries, slack};
use super::{Case, Handle, Ledger, MOST, Stock, Word, until};

/// How many messages go through after the death.
const MORE: u64 = 4;

/// Runs `part` with an interrupt that comes when the victim is dead and `owed` says that nothing else will wake.
fn told_of_death(
    stage: &Stage<'_>,
    owed: impl Fn() -> bool + Sync,
    part: impl FnOnce(&Interrupt) -> Outcome,
) -> Outcome {
    let interrupt = Interrupt::new().map_err(|e| e.to_string())?;
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let ended = || over.load(Ordering::SeqCst);
            until(|| stage.killed() || ended());
            until(|| !owed() || ended());
            if !ended() {
                interrupt.trigger();
            }
        });
        let outcome = part(&interrupt);
        over.store(true, Ordering::SeqCst);
        outcome
    })
}

/// The receiver, of a sender that dies and of one that comes after it.
pub(super) fn receive(case: &Case, handle: &Handle, stage: &Stage<'_>) -> Outcome {
    let ledger = handle.ledger();
    let first = ledger.get(Word::Taken);
    let receiver = handle.open_receiver();
    if case.held {
        until(|| ledger.get(Word::Go) == 1 || stage.killed());
    }
    let lanes = case.flow.lanes;
    // What was sent has to arrive, and the end of one that left.
    let owed = || {
        let missing = |lane| {
            let taken = ledger.of(Word::Taken, lane) + slack(&case.flow, &ledger);
            taken < ledger.of(Word::Accepted, lane)
        };
        ledger.get(Word::Left) == 1 || (0..lanes).any(missing)
    };
    told_of_death(stage, owed, |interrupt| {
        let mut wait = Wait::FOREVER.interrupted_by(interrupt);
        let mut words = "nothing";
        loop {
            match next(case, &ledger, &receiver, first, wait) {
                Ok(()) => {}
                Err(Ok(RecvError::Interrupted)) => {
                    receiver.sender_died(0);
                    wait = Wait::NEVER;
                }
                Err(Ok(RecvError::PeerDied)) if ledger.get(Word::Told) == 0 => {
                    words = "a death";
                    stage.note();
                    ledger.set(Word::Told, 1);
                    wait = Wait::FOREVER;
                }
                Err(Ok(RecvError::Empty)) if ledger.get(Word::Here) == 0 => {
                    ledger.set(Word::Told, 1);
                    wait = Wait::FOREVER;
                }
                Err(Ok(RecvError::Closed)) if ledger.get(Word::New) == 0 => {
                    words = "an end";
                    stage.note();
                    ledger.set(Word::Told, 1);
                    wait = Wait::FOREVER;
                    until(|| ledger.get(Word::New) == 1);
                }
                Err(Ok(RecvError::Closed)) => break,
                Err(Ok(other)) => return Err(format!("the receiver: {other:?}")),
                Err(Err(wrong)) => return Err(wrong),
            }
        }
        for lane in 0..lanes {
            let (sent, taken) = (ledger.of(Word::Accepted, lane), ledger.of(Word::Taken, lane));
            if sent != taken {
                return Err(format!("{taken} of {sent} received"));
            }
        }
        Ok(format!("saw {words}"))
    })
}

/// The next message, if it is right.
fn next(
    case: &Case,
    ledger: &Ledger<'_>,
    receiver: &Receiver,
    first: u64,
    wait: Wait<'_>,
) -> Result<(), Result<RecvError, String>> {
    let message = receiver.borrow_wait(wait).map_err(Ok)?;
    deliveries(ledger, &message, first).map_err(Err)?;
    accept(&case.flow, ledger, message).map_err(Err)?;
    Ok(())
}

/// One who comes when the sender is dead, and sends in its place. In a fan-in it is the other sender too.
pub(super) fn come_to_send(case: &Case, handle: &Handle, stage: &Stage<'_>) -> Outcome {
    let ledger = handle.ledger();
    let other = (case.flow.lanes == 2).then(|| handle.open_sender(1));
    if let Some(other) = &other {
        send_more(case, &ledger, other, 1)?;
    }
    until(|| stage.killed() && (ledger.get(Word::Told) == 1 || other.is_some()));
    if let Some(other) = &other {
        send_more(case, &ledger, other, 1)?;
        until(|| ledger.get(Word::Told) == 1);
    }
    let sender = take_over(handle)?;
    ledger.set(Word::New, 1);
    send_more(case, &ledger, &sender, 0)?;
    Ok("sent more".to_owned())
}

/// The sender's end, with what is known of the one before it.
fn take_over(handle: &Handle) -> Result<Sender, String> {
    let (ledger, sender) = (handle.ledger(), handle.open_sender(0));
    let sent = sender.sent();
    let (begun, accepted) = (ledger.get(Word::Begun), ledger.get(Word::Accepted));
    if !(accepted..=begun).contains(&sent) {
        return Err(format!("{sent} were sent, {accepted} accepted, {begun} begun"));
    }
    ledger.set(Word::Begun, sent);
    ledger.set(Word::Accepted, sent);
    Ok(sender)
}

/// Some, the receiver of which falls asleep between them.
fn send_more(case: &Case, ledger: &Ledger<'_>, sender: &Sender, lane: usize) -> Result<(), String> {
    for _ in 0..MORE {
        let number = sender.sent();
        ledger
            .send(lane, number, || sender.send(&case.flow.message(lane, number)))
            .map_err(|e| format!("the other sender: {e:?}"))?;
        until(|| ledger.of(Word::Taken, lane) > number);
    }
    Ok(())
}

/// The sender, to a receiver that dies and to one that comes after it.
pub(super) fn send(case: &Case, handle: &Handle, stage: &Stage<'_>) -> Outcome {
    let ledger = handle.ledger();
    let sender = take_over(handle)?;
    let full = matches!(case.stock, Stock::Some(u64::MAX));
    if !full {
        // It has nothing to wait for.
        until(|| ledger.get(Word::Go) == 1 || stage.killed());
        if case.sleeps {
            push(case, &ledger, &sender, Wait::FOREVER).map_err(|e| format!("to wake: {e:?}"))?;
        }
    }
    let first = sender.sent();
    let taken = ledger.get(Word::Taken);
    // Each that was received made room for one, but where only who skips the padding does.
    let owed = || {
        let room = ledger.get(Word::Accepted) - first < ledger.get(Word::Taken) - taken;
        full && room && case.flow.len < MOST
    };
    told_of_death(stage, owed, |interrupt| {
        let mut wait = Wait::FOREVER.interrupted_by(interrupt);
        let mut words = "nothing";
        let mut to_go = MORE;
        while to_go > 0 {
            match push(case, &ledger, &sender, wait) {
                Ok(()) => {
                    if ledger.get(Word::New) == 1 {
                        to_go -= 1;
                        // It falls asleep.
                        until(|| ledger.get(Word::Taken) == sender.sent());
                    } else if !full {
                        until(|| stage.killed());
                    }
                }
                Err(SendError::Interrupted) => {
                    words = "a death";
                    sender.receiver_died();
                    wait = Wait::FOREVER;
                    stage.note();
                    ledger.set(Word::Told, 1);
                }
                Err(other) => return Err(format!("the sender: {other:?}")),
            }
        }
        drop(sender);
        Ok(format!("saw {words}"))
    })
}

fn push(
    case: &Case,
    ledger: &Ledger<'_>,
    sender: &Sender,
    wait: Wait<'_>,
) -> Result<(), SendError> {
    let number = sender.sent();
    ledger.set(Word::Begun, number + 1);
    sender.send_wait(&case.flow.message(0, number), wait)?;
    ledger.set(Word::Accepted, number + 1);
    Ok(())
}

/// One who comes when the receiver is dead, and receives in its place.
pub(super) fn come_to_receive(case: &Case, handle: &Handle, stage: &Stage<'_>) -> Outcome {
    let ledger = handle.ledger();
    until(|| stage.killed() && ledger.get(Word::Told) == 1);
    let first = ledger.get(Word::Taken);
    let receiver = handle.open_receiver();
    ledger.set(Word::New, 1);
    loop {
        match next(case, &ledger, &receiver, first, Wait::FOREVER) {
            Ok(()) => {}
            Err(Ok(RecvError::Closed)) => break,
            Err(Ok(other)) => return Err(format!("the next receiver: {other:?}")),
            Err(Err(wrong)) => return Err(wrong),
        }
    }
    let (sent, taken) = (ledger.get(Word::Accepted), ledger.get(Word::Taken));
    if sent == taken { Ok("received more".to_owned()) } else { Err(format!("{taken} of {sent}")) }
}
