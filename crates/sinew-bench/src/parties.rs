//! What carries no data: how both sides come to it, and what they do with it.

use std::io;

use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::job::{Done, Side, Through};
use crate::messages::Row;
use crate::trouble::Trouble;

/// One process waits at it for another.
pub(crate) trait Turn {
    /// Lets the other side go on.
    fn post(&mut self) -> io::Result<()>;

    /// Waits for the post of the other side.
    fn wait(&mut self) -> io::Result<()>;

    /// What the waker does before it is waited for: it takes the lock that it will hand over.
    fn prepare(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What the woken does afterwards: it gives the lock back.
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One process at a time has it.
pub(crate) trait Lock {
    /// Does `inside` while it is locked.
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()>;
}

/// The near process does it alone; the far one is at most its object.
pub(crate) trait Solo {
    /// Does it once. Gives nanoseconds where the operation knows better than a clock around it.
    fn once(&mut self) -> io::Result<Option<u64>>;

    /// Does it once and says whether that did what it should.
    fn check(&mut self) -> io::Result<bool>;
}

/// Of a side that has it.
impl<S: Solo> Solo for Option<S> {
    #[inline]
    fn once(&mut self) -> io::Result<Option<u64>> {
        self.as_mut().ok_or_else(out_of_place)?.once()
    }

    fn check(&mut self) -> io::Result<bool> {
        self.as_mut().ok_or_else(out_of_place)?.check()
    }
}

/// A mechanism as both sides open it: once through the library, and once as the floor.
pub(crate) trait Parties {
    type Library;
    type Floor;

    /// The near side makes the objects, and the far one attaches to them.
    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble>;
}

/// What the near side tells the far one to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Wait and post, so often; look at the word that goes with each if asked.
    Turns { through: Through, count: u64, check: bool },
    /// Sleep and be woken, so often; the first sample has this number.
    Wakes { through: Through, count: u64, first: u32 },
    /// Lock and unlock, so often, while the near side does the same; the batch has this number.
    Sections { through: Through, count: u64, number: u32 },
    /// The same as [`Turns`](Self::Turns) or [`Sections`](Self::Sections) through the library,
    /// while the calls are counted.
    Count { count: u64 },
    /// That was all.
    End,
}

/// What both sides of a row share.
pub(crate) struct Opened<P: Parties> {
    pub(crate) board: &'static Board,
    pub(crate) library: P::Library,
    pub(crate) floor: P::Floor,
}

/// Opens a row. The board stays for the life of the worker: guards of locks in it borrow it.
pub(crate) fn open<P: Parties>(row: Row<'_>) -> Result<Opened<P>, Trouble> {
    let near = row.job.side == Side::Near;
    let board = if near { Board::near(row.job, row.link)? } else { Board::far(row.link)? };
    let board: &'static Board = Box::leak(Box::new(board));
    let (library, floor) = P::open(row, board)?;
    Ok(Opened { board, library, floor })
}

/// Makes the objects on the near side, and then attaches to them on the far one.
pub(crate) fn make_or_attach<T>(
    row: Row<'_>,
    make: impl FnOnce() -> Result<T, Trouble>,
    attach: impl FnOnce() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    if row.job.side == Side::Near {
        let made = make()?;
        row.link.nod()?;
        return Ok(made);
    }
    row.link.await_nod()?;
    attach()
}

/// Does what the near side tells, until that was all.
pub(crate) fn serve(
    row: Row<'_>,
    mut task: impl FnMut(Task) -> io::Result<Done>,
) -> Result<(), Trouble> {
    // The near side looks at whether this process sleeps.
    row.link.say(&std::process::id())?;
    loop {
        let order: Task = row.link.hear()?;
        if matches!(order, Task::End) {
            return Ok(());
        }
        let done = task(order)
            .unwrap_or_else(|e| Done { trouble: Some(e.to_string()), ..Done::default() });
        row.link.say(&done)?;
    }
}

/// A task of another work.
pub(crate) fn out_of_place() -> io::Error {
    io::Error::other("this task is of another work")
}
