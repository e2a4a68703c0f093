//! What a channel is like after a crash, when nobody is left: the one who comes then is both ends.

use std::sync::Arc;

use sinew::RecvError;
use sinew::channel::{Message, Receiver, Sender};
use sinew::wait::{Borrows, Receives, Sends};
use sinew::{SendError, memfd};
use sinew_testkit::crash::Outcome;

use super::{Flow, Handle, Ledger, MOST, Word};

/// Nothing is lost and nothing is new; then it is filled, and emptied, and left.
pub(super) fn check(flow: &Flow, handle: &Handle) -> Outcome {
    let ledger = handle.ledger();
    if ledger.get(Word::Bad) != 0 {
        return Err("the victim received what nobody had sent".to_owned());
    }
    let receiver = handle.open_receiver();
    let senders: Vec<Sender> = (0..flow.lanes).map(|lane| handle.open_sender(lane)).collect();
    let first = ledger.get(Word::Taken);
    let mut left = 0;
    loop {
        match receiver.try_borrow() {
            Ok(message) => {
                deliveries(&ledger, &message, first)?;
                accept(flow, &ledger, message)?;
                left += 1;
            }
            Err(RecvError::Empty) => break,
            Err(other) => return Err(format!("the last one: {other:?}")),
        }
    }
    for (lane, sender) in senders.iter().enumerate() {
        let sent = sender.sent();
        let (begun, accepted) = (ledger.of(Word::Begun, lane), ledger.of(Word::Accepted, lane));
        if !(accepted..=begun).contains(&sent) {
            return Err(format!("sent {sent}, of which {accepted} were accepted of {begun}"));
        }
        let taken = ledger.of(Word::Taken, lane);
        // What was in the dead hand may have been the last one.
        if taken > sent || sent - taken > slack(flow, &ledger) {
            return Err(format!("{sent} sent, {taken} received"));
        }
        ledger.put(Word::Taken, lane, sent);
    }
    for (lane, sender) in senders.iter().enumerate() {
        let (room, usual) = (fill(flow, lane, sender), twin(flow, lane, sender.sent())?);
        if room < usual {
            return Err(format!("room for {room}, and it was for {usual}"));
        }
        let mut buf = [0; MOST];
        for number in sender.sent() - room..sender.sent() {
            let len = receiver.try_recv(&mut buf).map_err(|e| format!("after filling: {e:?}"))?;
            if flow.read(&buf[..len], number) != Some(lane) {
                return Err(format!("number {number} is another after filling"));
            }
        }
    }
    drop(senders);
    match receiver.recv(&mut [0; MOST]) {
        Err(RecvError::Closed) => Ok(format!("{left} left")),
        other => Err(format!("after the end: {other:?}")),
    }
}

/// How many messages may be taken that nobody counted.
pub(super) fn slack(flow: &Flow, ledger: &Ledger<'_>) -> u64 {
    let taken: u64 = (0..flow.lanes).map(|lane| ledger.of(Word::Taken, lane)).sum();
    ledger.get(Word::Taking).saturating_sub(taken)
}

/// A message that somebody took: the next one of its lane, as it was sent. Gives the lane.
pub(super) fn accept(
    flow: &Flow,
    ledger: &Ledger<'_>,
    message: Message<'_>,
) -> Result<usize, String> {
    let number = message.number();
    let Some(lane) = flow.read(&message, number) else {
        return Err(format!("number {number} has {} bytes, and not its own", message.len()));
    };
    let next = ledger.of(Word::Taken, lane);
    let slack = slack(flow, ledger);
    if !(next..=next + slack).contains(&number) {
        return Err(format!("number {number} where {next} comes, and {slack} may be missing"));
    }
    let all: u64 = (0..flow.lanes).map(|lane| ledger.of(Word::Taken, lane)).sum();
    ledger.set(Word::Taking, all.max(all - next + number) + 1);
    drop(message);
    ledger.put(Word::Taken, lane, number + 1);
    Ok(lane)
}

/// Messages that a victim had borrowed are given again, and say so. Of that which is the first for its receiver
/// the count is exact; others may have been given more often than they say.
pub(super) fn deliveries(
    ledger: &Ledger<'_>,
    message: &Message<'_>,
    first: u64,
) -> Result<(), String> {
    let (number, count) = (message.number(), message.delivery_count());
    let [sure, most] = [Word::Borrowed, Word::Borrowing]
        .map(|word| if number < 32 { ledger.of(word, number as usize) } else { 0 });
    let sure = if number == first { sure } else { sure.min(1) };
    if (1 + sure..=1 + most).contains(&count) {
        return Ok(());
    }
    Err(format!("number {number} says {count}, and {sure} or {most} times it was given before"))
}

fn fill(flow: &Flow, lane: usize, sender: &Sender) -> u64 {
    let before = sender.sent();
    loop {
        match sender.try_send(&flow.message(lane, sender.sent())) {
            Ok(()) => {}
            Err(SendError::Full) => return sender.sent() - before,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// For how many there is room in a channel in which nobody died, after as many.
fn twin(flow: &Flow, lane: usize, sent: u64) -> Result<u64, String> {
    let options = Flow { lanes: 1, ..*flow }.options();
    let said = |error: sinew::Error| error.to_string();
    let memfd = memfd::Options::new().create("twin", options.bytes().map_err(said)?);
    let map = Arc::new(memfd.map_err(said)?.map().map_err(said)?);
    options.create_in(&map).map_err(said)?;
    // SAFETY: nobody else has it.
    let sender = unsafe { Sender::open_in(&map, 0) }.map_err(said)?;
    // SAFETY: as above.
    let receiver = unsafe { Receiver::open_in(&map) }.map_err(said)?;
    for number in 0..sent {
        let message = flow.message(lane, number);
        while sender.try_send(&message).is_err() {
            // Padding was in the way.
            let _ = receiver.try_borrow();
        }
        drop(receiver.try_borrow().map_err(|e| format!("twin: {e:?}"))?);
    }
    Ok(fill(flow, lane, &sender))
}
