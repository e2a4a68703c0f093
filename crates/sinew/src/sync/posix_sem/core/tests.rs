//! The counting, one step after the other.

use std::cell::Cell;

use super::*;

#[derive(Default)]
struct Word {
    word: Cell<u64>,
    woken: Cell<u32>,
}

impl Word {
    fn new(value: u32, waiters: u32) -> Self {
        Self { word: Cell::new(u64::from(waiters) << 32 | u64::from(value)), ..Self::default() }
    }

    fn now(&self) -> (u32, u32) {
        (value_of(self.word.get()), waiters_of(self.word.get()))
    }
}

impl Count for Word {
    fn load(&self) -> u64 {
        self.word.get()
    }

    fn exchange(&self, old: u64, new: u64, _: Ordering) -> Result<u64, u64> {
        if self.word.get() == old { Ok(self.word.replace(new)) } else { Err(self.word.get()) }
    }

    fn add(&self, n: u64) -> u64 {
        self.word.replace(self.word.get().wrapping_add(n))
    }

    fn sub(&self, n: u64) -> u64 {
        self.word.replace(self.word.get().wrapping_sub(n))
    }

    fn wake(&self, count: u32) {
        self.woken.set(self.woken.get() + count);
    }
}

#[test]
fn a_post_wakes_as_many_as_it_has_tokens_for() {
    for (value, waiters, n, woken) in
        [(0, 0, 1, 0), (0, 1, 1, 1), (0, 5, 3, 3), (2, 2, 9, 2), (1, 3, 0, 0), (0, u32::MAX, 7, 7)]
    {
        let word = Word::new(value, waiters);
        post(&word, n).unwrap();
        assert_eq!((word.now(), word.woken.get()), ((value + n, waiters), woken));
    }
}

#[test]
fn who_takes_one_and_sees_more_wakes_the_next() {
    // How many say that they sleep, without the caller; what is there; whether one more is woken.
    for (others, value, woken) in [(0, 1, 0), (0, 2, 0), (2, 1, 0), (2, 2, 1), (1, 9, 1)] {
        let word = Word::new(0, others);
        take(&word, |alone| {
            assert_eq!(alone, others == 0);
            word.add(value);
            Ok(())
        })
        .unwrap();
        assert_eq!(word.now(), (value_of(value) - 1, others));
        assert_eq!(word.woken.get(), woken, "{others} {value}");
    }
}

#[test]
fn who_gives_up_is_not_counted() {
    let word = Word::new(0, 3);
    assert_eq!(take(&word, |_| Err(WaitError::TimedOut)), Err(WaitError::TimedOut));
    assert_eq!(word.now(), (0, 3));
    // Somebody has set everything to zero meanwhile: the number of sleepers stays there.
    let end = take(&word, |_| {
        word.word.set(0);
        Err(WaitError::TimedOut)
    });
    assert_eq!((end, word.now()), (Err(WaitError::TimedOut), (0, 0)));
    let end = take(&word, |_| {
        word.word.set(1);
        Ok(())
    });
    assert_eq!((end, word.now()), (Ok(()), (0, 0)));
}

#[test]
fn a_value_beyond_the_largest_is_nobodys() {
    for value in [MAX + 1, u32::MAX] {
        let word = Word::new(value, 1);
        assert_eq!(try_take(&word), Err(Refused::Corrupt));
        assert_eq!(take(&word, |_| Ok(())), Err(WaitError::Corrupt));
        assert_eq!(post(&word, 1), Err(Refused::Corrupt));
        assert_eq!(word.now(), (value, 1));
    }
    let word = Word::new(MAX, 0);
    assert_eq!(post(&word, 1), Err(Refused::Overflow));
    assert_eq!((post(&word, 0), try_take(&word)), (Ok(()), Ok(true)));
    assert_eq!(post(&word, 2), Err(Refused::Overflow));
    assert_eq!(post(&word, 1), Ok(()));
}
