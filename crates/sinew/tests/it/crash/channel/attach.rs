//! Attaching, also to what one left who was killed: pairs of kills.

use sinew_testkit::Skip;

use super::{Case, FULL, MOST, Operation, Stock};
use crate::crash::Matrix;

pub(super) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    use Operation::{Borrow, Borrows, DropReceiver, Loan, OpenReceiver, OpenSender, Recv, Send};
    let two = Stock::Some(2);
    for (name, operation, stock) in [
        ("attach the first sender", OpenSender, Stock::Fresh),
        ("attach the first receiver", OpenReceiver, Stock::Fresh),
        ("attach a sender after a death", OpenSender, two),
        ("attach a receiver after a death", OpenReceiver, FULL),
    ] {
        matrix.few(&Case::new(name, operation, 56, stock), 2, 300)?;
    }
    let mut firsts = vec![
        (Case::new("send", Send, 56, two), OpenSender),
        (Case::new("borrow three, release", Borrows, 8, Stock::Some(4)), OpenReceiver),
    ];
    if !matrix.is_sample() {
        firsts.extend([
            (Case::new("send behind padding", Send, 100, Stock::Some(0)).after(63), OpenSender),
            (Case::new("loan, write, send", Loan, 64, two), OpenSender),
            (Case::new("send", Send, MOST, Stock::Some(0)), OpenSender),
            (Case::new("one of two sends", Send, 24, two).lanes(2), OpenSender),
            (Case::new("recv", Recv, 56, two), OpenReceiver),
            (Case::new("recv behind padding", Recv, 100, two).after(63), OpenReceiver),
            (Case::new("borrow, release", Borrow, 56, FULL), OpenReceiver),
            (Case::new("leave", DropReceiver, 56, two), OpenReceiver),
            // Who borrows the same again.
            (Case::new("borrow three, release", Borrows, 8, Stock::Some(4)), Borrow),
            (Case::new("borrow, release", Borrow, 56, FULL), Borrow),
            (Case::new("send", Send, 64, two), Send),
            // What the other end left, for one who has nothing to do with it.
            (Case::new("send", Send, 8, two), OpenReceiver),
            (Case::new("recv", Recv, 8, two), OpenSender),
        ]);
    }
    for (first, then) in firsts {
        let name = match then {
            OpenSender => "attach a sender to what one left",
            OpenReceiver => "attach a receiver to what one left",
            Send => "send after one killed in it",
            _ => "borrow, release after one killed in it",
        };
        let images = matrix.images(&first)?;
        // Of a sample some from the middle: there the message is half out.
        let keep = if matrix.is_sample() { 2 } else { usize::MAX };
        let skipped = images.len().saturating_sub(keep);
        for left in images.into_iter().skip(skipped / 2).take(keep) {
            let case = Case { name, operation: then, sleeps: false, left: Some(left), ..first };
            matrix.few(&case, if case.flow.lanes == 1 { 2 } else { 0 }, 60)?;
        }
    }
    Ok(())
}
