//! Messages of members that mean no good: see [`crate::channel::fuzz`].

use std::fs::File;
use std::os::fd::OwnedFd;

use super::message::{Message, is_hello_of_another_version};

/// Reads the input as a message, with as many descriptors as it says, or others.
pub(in crate::channel) fn message(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else { return };
    is_hello_of_another_version(bytes);
    let said = bytes.get(6..8).map_or(0, |count| u16::from_le_bytes([count[0], count[1]]));
    let count = if how & 0x80 == 0 { said.min(12) } else { u16::from(how & 7) };
    // So that inputs need not find out how long they are.
    let mut bytes = bytes.to_vec();
    if let Ok(length) = u32::try_from(bytes.len())
        && how & 0x40 == 0
        && bytes.len() >= 16
    {
        bytes[..4].copy_from_slice(b"SNW1");
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..16].fill(0);
    }
    let null = || File::open("/dev/null").map(OwnedFd::from);
    let Ok(fds) = (0..count).map(|_| null()).collect::<Result<Vec<_>, _>>() else { return };
    if let Ok(message) = Message::parse(&bytes, fds) {
        check(&message);
    }
}

fn check(message: &Message) {
    let slots = match message {
        Message::Welcome { welcome, pidfds, .. } => {
            assert_eq!(welcome.places.len(), pidfds.len());
            vec![welcome.slot]
        }
        Message::Back { places, pidfds, .. } => {
            assert_eq!(places.len(), pidfds.len());
            places.iter().map(|place| place.slot).collect()
        }
        Message::Joined { place, .. }
        | Message::Gone { place, .. }
        | Message::Present { place, .. }
        | Message::Again { place, .. } => vec![place.slot],
        Message::Hello { .. }
        | Message::Refused { .. }
        | Message::Take { .. }
        | Message::Unknown => {
            vec![]
        }
    };
    assert!(slots.into_iter().all(|slot| slot < super::MOST), "{message:?}");
}
