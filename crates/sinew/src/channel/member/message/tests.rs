//! Messages of every kind, of every length, with every number of descriptors, and rubbish.

use std::os::fd::{AsFd, AsRawFd};

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use super::*;

const PLACE: Place = Place { slot: 7, generation: 0x0102_0304 };

fn fds(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect()
}

fn a_hello() -> Hello {
    Hello {
        pattern: 2,
        role: Role::Receiver,
        lane: Some(3),
        name: [b'd'; NAME],
        types: [1, 2, 3, 4, 5, 6, 7, u64::MAX],
        facts: [9; FACTS],
        pid: 77,
        namespace: 78,
        started: 79,
    }
}

fn a_welcome(places: usize) -> Welcome {
    let places = (0..places).map(|slot| Place { slot, generation: u32::MAX }).collect();
    Welcome {
        channel: [5; 16],
        slot: MOST - 1,
        generation: 9,
        role: Role::Sender,
        lane: 1,
        holder: 0x0102_0301,
        facts: [8; FACTS],
        places,
    }
}

/// One of each kind, and how many descriptors it has.
fn each() -> Vec<(Vec<u8>, usize)> {
    let places: Vec<_> = (0..3).map(|slot| Place { slot, generation: 1 }).collect();
    vec![
        (Writer::hello(&a_hello()), 1),
        (Writer::welcome(&a_welcome(0), 0), 1),
        (Writer::welcome(&a_welcome(3), 0), 4),
        (Writer::refused(ErrorKind::InUse, "no room"), 0),
        (Writer::joined(PLACE), 1),
        (Writer::gone(PLACE, How::Died), 0),
        (Writer::again([1; 16], PLACE, &places), 1),
        (Writer::back(1, &places), 3),
        (Writer::take(5), 1),
        (Writer::present(PLACE, Role::Sender), 1),
    ]
}

#[test]
fn each_is_read_as_it_was_written() {
    let read = |bytes: Vec<u8>, count| Message::parse(&bytes, fds(count)).unwrap();
    let hello = Hello { lane: None, ..a_hello() };
    for hello in [a_hello(), hello] {
        let Message::Hello { hello: found, .. } = read(Writer::hello(&hello), 1) else { panic!() };
        assert_eq!(found, hello);
    }
    let sent = fds(MOST);
    let numbers: Vec<_> = sent.iter().map(AsRawFd::as_raw_fd).collect();
    let bytes = Writer::welcome(&a_welcome(MOST - 1), 0);
    assert!(bytes.len() <= LONGEST && sent.len() < MOST_FDS);
    let Ok(Message::Welcome { welcome, memory, pidfds, .. }) = Message::parse(&bytes, sent) else {
        panic!("a welcome to a full channel");
    };
    assert_eq!(welcome, a_welcome(MOST - 1));
    assert_eq!(memory.as_raw_fd(), numbers[0]);
    assert!(pidfds.iter().map(AsRawFd::as_raw_fd).eq(numbers[1..].iter().copied()));

    let text = "\u{e4}".repeat(TEXT);
    for kind in KINDS {
        let Message::Refused { kind: found, text: told } = read(Writer::refused(kind, &text), 0)
        else {
            panic!()
        };
        assert_eq!((found, told.len()), (kind, TEXT));
    }
    let Message::Joined { place: PLACE, .. } = read(Writer::joined(PLACE), 1) else { panic!() };
    for how in [How::Left, How::Died, How::NeverCame] {
        let Message::Gone { place: PLACE, how: found } = read(Writer::gone(PLACE, how), 0) else {
            panic!()
        };
        assert_eq!(found, how);
    }
    let again = Writer::again([3; 16], PLACE, &[PLACE; MOST]);
    let Message::Again { channel, place: PLACE, known, .. } = read(again, 1) else { panic!() };
    assert_eq!((channel, known), ([3; 16], vec![PLACE; MOST]));
    let Message::Back { holder: 6, places, pidfds } = read(Writer::back(6, &[PLACE; 2]), 2) else {
        panic!()
    };
    assert_eq!((places, pidfds.len()), (vec![PLACE; 2], 2));
    let Message::Take { holder: 4, .. } = read(Writer::take(4), 1) else { panic!() };
    let present = read(Writer::present(PLACE, Role::Receiver), 1);
    let Message::Present { place: PLACE, role: Role::Receiver, .. } = present else { panic!() };
}

#[test]
fn no_length_but_the_right_one_is_taken() {
    for (bytes, count) in each() {
        for end in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..end], fds(count)).err(), Some(Bad));
            // With the length that it has.
            let mut cut = bytes[..end].to_vec();
            if let Some(length) = cut.get_mut(8..12) {
                length.copy_from_slice(&(end as u32).to_le_bytes());
            }
            assert_eq!(Message::parse(&cut, fds(count)).err(), Some(Bad), "{bytes:?} to {end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        let length = longer.len() as u32;
        longer[8..12].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Message::parse(&longer, fds(count)).err(), Some(Bad));
    }
}

#[test]
fn no_number_of_descriptors_but_the_right_one_is_taken() {
    for (bytes, count) in each() {
        for wrong in [0, 1, 2, 5].into_iter().filter(|wrong| *wrong != count) {
            assert_eq!(Message::parse(&bytes, fds(wrong)).err(), Some(Bad));
            let mut told = bytes.clone();
            told[6..8].copy_from_slice(&(wrong as u16).to_le_bytes());
            assert_eq!(
                Message::parse(&told, fds(wrong)).err(),
                Some(Bad),
                "{bytes:?} with {wrong}"
            );
        }
    }
}

#[test]
fn a_kind_of_a_later_version_is_dropped_with_its_descriptors() {
    let mut bytes = Writer::joined(PLACE);
    bytes[4..6].copy_from_slice(&999_u16.to_le_bytes());
    let (rx, tx) = std::io::pipe().unwrap();
    assert!(matches!(Message::parse(&bytes, vec![tx.into()]), Ok(Message::Unknown)));
    // Its end is closed.
    let mut buf = [0; 1];
    assert_eq!(rustix::io::read(rx.as_fd(), &mut buf), Ok(0));
}

#[test]
fn a_hello_of_another_version_is_known_for_one() {
    let mut bytes = Writer::hello(&a_hello());
    assert!(!is_hello_of_another_version(&bytes));
    bytes[16] ^= 2;
    assert!(Message::parse(&bytes, fds(1)).is_err());
    assert!(is_hello_of_another_version(&bytes));
    assert!(!is_hello_of_another_version(&bytes[..19]));
    assert!(!is_hello_of_another_version(&Writer::joined(PLACE)));
}

proptest! {
    #[test]
    fn rubbish_is_refused_or_read_and_never_more(
        which in 0..each().len(),
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..8),
    ) {
        let (mut bytes, count) = each().swap_remove(which);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(message) = Message::parse(&bytes, fds(count)) {
            let in_range = match message {
                Message::Welcome { welcome, .. } => {
                    welcome.slot < MOST && welcome.places.iter().all(|place| place.slot < MOST)
                }
                Message::Joined { place, .. } | Message::Gone { place, .. }
                | Message::Again { place, .. } | Message::Present { place, .. } => {
                    place.slot < MOST
                }
                _ => true,
            };
            prop_assert!(in_range);
        }
    }
}
