//! The counting in every interleaving that the memory model allows: `cargo xtask loom`.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::*;

/// The word, and the kernel's futex at its low half as a lock and a bell: comparing the value and
/// going to sleep are one step to whoever wakes. No sleep ends by itself.
struct Word {
    word: AtomicU64,
    queue: Mutex<()>,
    bell: Condvar,
}

impl Word {
    fn new(value: u32) -> Self {
        Self { word: AtomicU64::new(u64::from(value)), queue: Mutex::new(()), bell: Condvar::new() }
    }

    fn sleep(&self) {
        let queue = self.queue.lock().unwrap();
        if value_of(self.word.load(Ordering::SeqCst)) == 0 {
            drop(self.bell.wait(queue).unwrap());
        }
    }

    fn wait(&self) {
        if !try_take(self).unwrap() {
            take(self, |_| {
                self.sleep();
                Ok(())
            })
            .unwrap();
        }
    }
}

impl Count for Word {
    fn load(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    fn exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.word.compare_exchange(old, new, order, Ordering::Relaxed)
    }

    fn add(&self, n: u64) -> u64 {
        self.word.fetch_add(n, Ordering::Relaxed)
    }

    fn sub(&self, n: u64) -> u64 {
        self.word.fetch_sub(n, Ordering::Relaxed)
    }

    fn wake(&self, count: u32) {
        let queue = self.queue.lock().unwrap();
        for _ in 0..count {
            self.bell.notify_one();
        }
        drop(queue);
    }
}

/// A word, and a number that only who has a token may touch.
struct Guarded {
    tokens: Word,
    data: AtomicU32,
}

impl Guarded {
    fn new(tokens: u32) -> Arc<Self> {
        Arc::new(Self { tokens: Word::new(tokens), data: AtomicU32::new(0) })
    }

    /// Adds one to what is guarded, in two steps and without any order of its own: a step of another
    /// in between, or one before that is not seen, loses an addition.
    fn touch(&self) -> u32 {
        let before = self.data.load(Ordering::Relaxed);
        self.data.store(before + 1, Ordering::Relaxed);
        before + 1
    }
}

/// At most so often a thread is made to pause where it could go on: two are said to find nearly all,
/// and more take minutes.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(run);
}

#[test]
fn a_post_is_never_slept_through_and_shows_what_came_before() {
    model(|| {
        let shared = Guarded::new(0);
        let poster = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.touch();
                post(&shared.tokens, 1).unwrap();
            }
        });
        shared.tokens.wait();
        assert_eq!(shared.touch(), 2);
        poster.join().unwrap();
        assert_eq!(shared.tokens.word.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn two_take_turns_with_one_token() {
    model(|| {
        let shared = Guarded::new(1);
        let turn = |shared: &Guarded| {
            shared.tokens.wait();
            shared.touch();
            post(&shared.tokens, 1).unwrap();
        };
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || turn(&shared)
        });
        turn(&shared);
        other.join().unwrap();
        shared.tokens.wait();
        assert_eq!(shared.touch(), 3);
        assert_eq!(shared.tokens.word.load(Ordering::Relaxed), 0);
    });
}

/// Two sleepers, two posts: the second finds the value above zero and has to wake all the same.
#[test]
fn two_posts_wake_two() {
    model(|| {
        let shared = Guarded::new(0);
        let takers = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.tokens.wait())
        });
        post(&shared.tokens, 1).unwrap();
        post(&shared.tokens, 1).unwrap();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(shared.tokens.word.load(Ordering::Relaxed), 0);
    });
}

/// Two sleepers, and one post of two.
#[test]
fn a_post_of_two_wakes_two() {
    model(|| {
        let shared = Guarded::new(0);
        let takers = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.tokens.wait())
        });
        post(&shared.tokens, 2).unwrap();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(shared.tokens.word.load(Ordering::Relaxed), 0);
    });
}

/// One gives up when it likes: its token, if one was meant for it, is the other's.
#[test]
fn who_gives_up_keeps_no_token_from_others() {
    model(|| {
        let shared = Guarded::new(0);
        let fickle = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let gave_up = take(&shared.tokens, |_| Err(WaitError::TimedOut)).is_err();
                if !gave_up {
                    post(&shared.tokens, 1).unwrap();
                }
            }
        });
        let poster = thread::spawn({
            let shared = Arc::clone(&shared);
            move || post(&shared.tokens, 1).unwrap()
        });
        shared.tokens.wait();
        fickle.join().unwrap();
        poster.join().unwrap();
        assert_eq!(shared.tokens.word.load(Ordering::Relaxed), 0);
    });
}
