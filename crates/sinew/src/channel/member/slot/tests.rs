//! The words of places, over every state and rubbish.

use super::*;
use crate::anonymous;

const KINDS: [Kind; 5] = [Kind::Free, Kind::Joining, Kind::Here, Kind::Left, Kind::Dead];

fn states() -> impl Iterator<Item = State> {
    KINDS.into_iter().flat_map(|kind| {
        [Role::Sender, Role::Receiver].into_iter().flat_map(move |role| {
            [0, 1, u32::MAX].into_iter().map(move |generation| State {
                kind,
                role: Some(role),
                lane: u16::MAX,
                generation,
            })
        })
    })
}

#[test]
fn a_word_is_read_as_it_was_written_and_rubbish_is_not() {
    assert!(State::parse(0).is_some_and(|state| state.kind == Kind::Free));
    for state in states() {
        assert_eq!(State::parse(state.word()), Some(state));
        assert_eq!(State::parse(state.word() | 0x08), None, "no such kind");
        assert_eq!(State::parse(state.word() & !0xff00), None, "no role");
        assert_eq!(State::parse(state.word() | 0x0400), None, "no such role");
    }
}

/// A step of the table in the documentation of the module.
type Step = fn(&Slot<'_, AtomicU64>, u32) -> bool;

#[test]
fn each_step_is_taken_from_where_it_may_be_and_by_its_generation() {
    let steps: [(Step, &[Kind], Kind); 5] = [
        (|slot, generation| slot.arrive(generation), &[Kind::Joining], Kind::Here),
        (|slot, generation| slot.cancel(generation), &[Kind::Joining], Kind::Free),
        (|slot, generation| slot.leave(generation), &[Kind::Joining, Kind::Here], Kind::Left),
        (|slot, generation| slot.bury(generation), &[Kind::Joining, Kind::Here], Kind::Dead),
        (|slot, generation| slot.free(generation), &[Kind::Left, Kind::Dead], Kind::Free),
    ];
    for (step, from, to) in steps {
        for state in states() {
            let word = AtomicU64::new(state.word());
            assert!(!step(&Slot(&word), state.generation.wrapping_sub(1)));
            assert_eq!(State::parse(word.load(Ordering::Relaxed)), Some(state));
            let taken = step(&Slot(&word), state.generation);
            assert_eq!(taken, from.contains(&state.kind), "{state:?} to {to:?}");
            let then = if taken { state.with(to) } else { state };
            assert_eq!(State::parse(word.load(Ordering::Relaxed)), Some(then));
        }
        let rubbish = AtomicU64::new(u64::MAX);
        assert!(!step(&Slot(&rubbish), u32::MAX));
    }
}

#[test]
fn a_place_that_somebody_has_is_not_given_away() {
    for state in states() {
        let word = AtomicU64::new(state.word());
        let generation = Slot(&word).allot(state, Role::Receiver, 7);
        assert_eq!(generation.is_some(), !state.is_taken());
        if generation.is_some() {
            let state = State {
                kind: Kind::Joining,
                role: Some(Role::Receiver),
                lane: 7,
                generation: state.generation.wrapping_add(1),
            };
            assert_eq!(Slot(&word).state(), Some(state));
        }
        // What was seen is not there any more.
        let word = AtomicU64::new(state.word() ^ 1 << 32);
        assert_eq!(Slot(&word).allot(state, Role::Sender, 0), None);
    }
}

#[test]
fn holders_follow_each_other_and_none_is_an_earlier_one() {
    assert_eq!(Holder::from_word(0).slot(), None);
    let first = Holder::first(MOST - 1);
    assert_eq!(first.slot(), Some(MOST - 1));
    let second = first.followed_by(0);
    let third = second.followed_by(MOST - 1);
    assert_eq!((second.slot(), third.slot()), (Some(0), Some(MOST - 1)));
    assert_ne!(first, third);
    assert_eq!(Holder::from_word(u32::MAX).followed_by(0), Holder::first(0));
}

#[test]
fn a_table_lies_inside_its_object() {
    let map = || Arc::new(anonymous::create(8192).unwrap());
    for (at, count, holder_at) in [
        (4096, 0, 0),
        (4096, MOST + 1, 0),
        (4096, 65, 0),
        (4097, 1, 0),
        (8192, 1, 0),
        (usize::MAX - 63, 1, 0),
        (4096, 1, 8192),
        (4096, 1, 2),
    ] {
        let error = Table::new(map(), at, count, holder_at).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{at} {count} {holder_at}");
    }
    let table = Table::new(map(), 4096, 64, 8).unwrap();
    let info = Info { pid: 1, uid: 2, namespace: 3, started: 4, name: [b'n'; NAME] };
    table.write_info(63, &info);
    assert_eq!(table.info(63), info);
    assert_eq!(table.info(62), Info::default());
    table.write_info(64, &info);
    assert_eq!(table.info(64), Info::default());
    assert!(table.state(64).is_none());
    table.set_first_holder(5);
    assert!(!table.pass(Holder::first(4), Holder::first(6)));
    assert!(table.pass(Holder::first(5), Holder::first(5).followed_by(6)));
    assert_eq!(table.holder().slot(), Some(6));
}
