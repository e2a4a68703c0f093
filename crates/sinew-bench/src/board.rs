//! A page that both workers of a row share, for what they tell each other in between: the words by
//! which a sample begins and ends, and where the locks and semaphores of the row live.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::thread::futex;
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};

use crate::job::Job;
use crate::link::Link;
use crate::trouble::Trouble;

/// Where the objects of the library begin.
pub(crate) const LIBRARY: usize = 4096;
/// Where those of the floor begin.
pub(crate) const FLOOR: usize = 8192;
const BYTES: u64 = 12_288;

/// The words, each on cache lines of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    /// The waker is ready for this sample.
    Go = 0,
    /// The other side is about to wait.
    Entered = 128,
    /// It was woken, and has said when.
    Done = 256,
    /// What is written before a post and has to be seen after it.
    Turn = 384,
    /// What only the owner of a lock changes.
    Guarded = 512,
}
/// When the other side ran again.
const STAMP: usize = 640;

#[derive(Debug)]
pub(crate) struct Board(Arc<Mapping>);

impl Board {
    /// Makes it, and gives it to the far side.
    pub(crate) fn near(job: &Job, link: &Link) -> Result<Self, Trouble> {
        let memfd = memfd::Options::new().create(&job.prefix, BYTES)?;
        link.send_fds(&[memfd.as_fd()])?;
        link.await_nod()?;
        Ok(Self(Arc::new(memfd.map()?)))
    }

    /// Takes it from the near side.
    pub(crate) fn far(link: &Link) -> Result<Self, Trouble> {
        let [fd] = link.recv_fds()?;
        let mapping = Memfd::try_from(fd)?.map()?;
        link.nod()?;
        Ok(Self(Arc::new(mapping)))
    }

    /// The memory itself.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.0
    }

    /// The address of what the floor puts there.
    pub(crate) fn floor(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut().wrapping_add(FLOOR)
    }

    #[inline]
    pub(crate) fn word(&self, word: Word) -> &AtomicU32 {
        self.0.atomic_u32_at(word as usize).expect("the board has room for its words")
    }

    #[inline]
    pub(crate) fn stamp(&self) -> &AtomicU64 {
        self.0.atomic_u64_at(STAMP).expect("the board has room for its words")
    }

    /// Says `value` to whoever sleeps for it.
    pub(crate) fn say(&self, word: Word, value: u32) -> io::Result<()> {
        let word = self.word(word);
        word.store(value, Ordering::Release);
        futex::wake(word, futex::Flags::empty(), 1)?;
        Ok(())
    }

    /// Sleeps until the word has that value.
    pub(crate) fn hear(&self, word: Word, value: u32) -> io::Result<()> {
        let word = self.word(word);
        loop {
            let seen = word.load(Ordering::Acquire);
            if seen == value {
                return Ok(());
            }
            match futex::wait(word, futex::Flags::empty(), seen, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
