//! What members tell each other over their connections: messages of fixed little-endian layouts, each
//! with the number of the descriptors that go along.
//!
//! ```text
//!  0  u32  "SNW1"
//!  4  u16  the kind
//!  6  u16  how many descriptors
//!  8  u32  how many bytes, these 16 included
//! 12  u32  zero
//! 16       what the kind has
//! ```
//!
//! | kind | from, to | has | descriptors |
//! |---|---|---|---|
//! | hello | newcomer, holder | abi u32, pattern u16, role u8, 0 u8, lane u16 (0xffff: any), 0 u16, pid u32, pid namespace u64, started u64, name 32, types 8 x u64, facts 64 | its pidfd |
//! | welcome | holder, newcomer | channel 16, abi u32, slot u16, lane u16, generation u32, holder u32, role u8, more u8, count u16, facts 64, places | the memory, what else the pattern has, pidfds of the places |
//! | refused | holder, anybody | why u16, length u16, text | |
//! | joined | holder, members | place | its pidfd |
//! | gone | holder, members | place, how u32 | |
//! | again | member, new holder | channel 16, slot u16, count u16, generation u32, places that it knows | its pidfd |
//! | back | new holder, member | holder u32, count u16, 0 u16, places that it lacked | their pidfds |
//! | take | leaving holder, its heir | holder u32 | the listening socket |
//! | present | one end of a pair, the other | place, role u8, 0 u8, 0 u16 | its pidfd |
//!
//! A place is slot u16, 0 u16, generation u32. Whatever arrives is checked in full before any of it is
//! used; the descriptors of a message that is not as it has to be are closed.

use std::os::fd::OwnedFd;

use super::slot::{MOST, NAME, Role};
use crate::error::ErrorKind;

#[cfg(test)]
mod tests;

/// The version of these messages.
pub(crate) const ABI: u32 = 1;
/// How many bytes of its own a pattern has in a hello and in a welcome.
pub(crate) const FACTS: usize = 64;
/// How many hashes of types a newcomer can accept.
pub(crate) const TYPES: usize = 8;
/// No message is longer, and none has more descriptors: the kernel takes 253.
pub(super) const LONGEST: usize = 2048;
pub(super) const MOST_FDS: usize = MOST + 1 + MOST_MORE;
/// The most descriptors that a pattern hands to newcomers beside the memory.
pub(crate) const MOST_MORE: usize = 124;

const MAGIC: u32 = u32::from_le_bytes(*b"SNW1");
const HEAD: usize = 16;
/// The longest text of a refusal.
const TEXT: usize = 512;

/// What a newcomer says to the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The number of the pattern.
    pub(crate) pattern: u16,
    pub(crate) role: Role,
    /// Which lane it wants, if it does not take any.
    pub(crate) lane: Option<u16>,
    /// Its name, if it is durable; else zeros.
    pub(crate) name: [u8; NAME],
    /// The hashes of the types of messages that it accepts; zeros are none.
    pub(crate) types: [u64; TYPES],
    /// What else the pattern wants to tell.
    pub(crate) facts: [u8; FACTS],
    /// Who it is, for people; filled in when it is sent.
    pub(crate) pid: u32,
    pub(crate) namespace: u64,
    pub(crate) started: u64,
}

/// What the holder answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// A random number: which channel it is, whatever name it has.
    pub(super) channel: [u8; 16],
    pub(crate) slot: usize,
    pub(crate) generation: u32,
    pub(crate) role: Role,
    pub(crate) lane: u16,
    /// The word of the holder.
    pub(super) holder: u32,
    pub(crate) facts: [u8; FACTS],
    /// The other members.
    pub(super) places: Vec<Place>,
}

/// A place, and which of its members is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: usize,
    pub(crate) generation: u32,
}

/// How a member went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Left = 1,
    Died = 2,
    /// It was welcomed, and did not arrive.
    NeverCame = 3,
}

#[derive(Debug)]
pub(super) enum Message {
    Hello {
        hello: Hello,
        pidfd: OwnedFd,
    },
    Welcome {
        welcome: Welcome,
        memory: OwnedFd,
        /// What else the pattern hands to newcomers.
        more: Vec<OwnedFd>,
        pidfds: Vec<OwnedFd>,
    },
    Refused {
        kind: ErrorKind,
        text: String,
    },
    Joined {
        place: Place,
        pidfd: OwnedFd,
    },
    Gone {
        place: Place,
        how: How,
    },
    Again {
        channel: [u8; 16],
        place: Place,
        known: Vec<Place>,
        pidfd: OwnedFd,
    },
    Back {
        holder: u32,
        places: Vec<Place>,
        pidfds: Vec<OwnedFd>,
    },
    Take {
        holder: u32,
        listener: OwnedFd,
    },
    Present {
        place: Place,
        role: Role,
        pidfd: OwnedFd,
    },
    /// Of a later version of these messages. It and its descriptors are dropped.
    Unknown,
}

/// It is not what an honest member sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad;

/// The numbers of the kinds.
#[derive(Clone, Copy)]
enum Tag {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    Joined = 4,
    Gone = 5,
    Again = 6,
    Back = 7,
    Take = 8,
    Present = 9,
}

impl Tag {
    const ALL: [Self; 9] = [
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::Joined,
        Self::Gone,
        Self::Again,
        Self::Back,
        Self::Take,
        Self::Present,
    ];
}

/// Which error a refusal becomes; others are `Other`.
const KINDS: [ErrorKind; 8] = [
    ErrorKind::Other,
    ErrorKind::PermissionDenied,
    ErrorKind::Mismatch,
    ErrorKind::LimitReached,
    ErrorKind::InUse,
    ErrorKind::InvalidInput,
    ErrorKind::Unsupported,
    ErrorKind::NotFound,
];

/// A message to send: its bytes. The descriptors are the sender's, and go beside them.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn new(tag: Tag, fds: usize) -> Self {
        let mut writer = Self(Vec::with_capacity(256));
        writer.u32(MAGIC).u16(tag as u16).u16(short(fds)).u32(0).u32(0);
        writer
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn place(&mut self, place: Place) -> &mut Self {
        self.u16(short(place.slot)).u16(0).u32(place.generation)
    }

    fn places(&mut self, places: &[Place]) -> &mut Self {
        for place in places {
            self.place(*place);
        }
        self
    }

    fn done(mut self) -> Vec<u8> {
        assert!(self.0.len() <= LONGEST, "every message fits");
        let length = self.0.len() as u32;
        self.0[8..12].copy_from_slice(&length.to_le_bytes());
        self.0
    }

    pub(super) fn hello(hello: &Hello) -> Vec<u8> {
        let mut writer = Self::new(Tag::Hello, 1);
        writer.u32(ABI).u16(hello.pattern).u8(hello.role as u8).u8(0);
        writer.u16(hello.lane.unwrap_or(u16::MAX)).u16(0).u32(hello.pid);
        writer.u64(hello.namespace).u64(hello.started).bytes(&hello.name);
        for hash in hello.types {
            writer.u64(hash);
        }
        writer.bytes(&hello.facts);
        writer.done()
    }

    pub(super) fn welcome(welcome: &Welcome, more: usize) -> Vec<u8> {
        let mut writer = Self::new(Tag::Welcome, 1 + more + welcome.places.len());
        writer.bytes(&welcome.channel).u32(ABI).u16(short(welcome.slot)).u16(welcome.lane);
        writer.u32(welcome.generation).u32(welcome.holder).u8(welcome.role as u8).u8(more as u8);
        writer.u16(short(welcome.places.len())).bytes(&welcome.facts).places(&welcome.places);
        writer.done()
    }

    pub(super) fn refused(kind: ErrorKind, text: &str) -> Vec<u8> {
        let why = KINDS.iter().position(|known| *known == kind).unwrap_or(0);
        let mut end = text.len().min(TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut writer = Self::new(Tag::Refused, 0);
        writer.u16(short(why)).u16(short(end)).bytes(&text.as_bytes()[..end]);
        writer.done()
    }

    pub(super) fn joined(place: Place) -> Vec<u8> {
        let mut writer = Self::new(Tag::Joined, 1);
        writer.place(place);
        writer.done()
    }

    pub(super) fn gone(place: Place, how: How) -> Vec<u8> {
        let mut writer = Self::new(Tag::Gone, 0);
        writer.place(place).u32(how as u32);
        writer.done()
    }

    pub(super) fn again(channel: [u8; 16], place: Place, known: &[Place]) -> Vec<u8> {
        let mut writer = Self::new(Tag::Again, 1);
        writer.bytes(&channel).u16(short(place.slot)).u16(short(known.len()));
        writer.u32(place.generation).places(known);
        writer.done()
    }

    pub(super) fn back(holder: u32, places: &[Place]) -> Vec<u8> {
        let mut writer = Self::new(Tag::Back, places.len());
        writer.u32(holder).u16(short(places.len())).u16(0).places(places);
        writer.done()
    }

    pub(super) fn take(holder: u32) -> Vec<u8> {
        let mut writer = Self::new(Tag::Take, 1);
        writer.u32(holder);
        writer.done()
    }

    pub(super) fn present(place: Place, role: Role) -> Vec<u8> {
        let mut writer = Self::new(Tag::Present, 1);
        writer.place(place).u8(role as u8).u8(0).u16(0);
        writer.done()
    }
}

fn short(number: usize) -> u16 {
    u16::try_from(number).expect("slots, lengths and counts of messages are small")
}

/// Takes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Bad)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        self.bytes(N)?.try_into().map_err(|_| Bad)
    }

    fn u8(&mut self) -> Result<u8, Bad> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Bad> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Bad> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Bad> {
        self.array().map(u64::from_le_bytes)
    }

    fn zeros(&mut self, count: usize) -> Result<(), Bad> {
        if self.bytes(count)?.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(Bad) }
    }

    fn slot(&mut self) -> Result<usize, Bad> {
        let slot = usize::from(self.u16()?);
        if slot < MOST { Ok(slot) } else { Err(Bad) }
    }

    fn role(&mut self) -> Result<Role, Bad> {
        Role::parse(self.u8()?).ok_or(Bad)
    }

    fn place(&mut self) -> Result<Place, Bad> {
        let slot = self.slot()?;
        self.zeros(2)?;
        Ok(Place { slot, generation: self.u32()? })
    }

    fn places(&mut self, count: usize) -> Result<Vec<Place>, Bad> {
        if count > MOST {
            return Err(Bad);
        }
        (0..count).map(|_| self.place()).collect()
    }
}

/// The one descriptor of a message.
fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd, Bad> {
    <[OwnedFd; 1]>::try_from(fds).map(|[fd]| fd).map_err(|_| Bad)
}

impl Message {
    /// Reads a message that arrived with these descriptors.
    pub(super) fn parse(bytes: &[u8], mut fds: Vec<OwnedFd>) -> Result<Self, Bad> {
        let mut reader = Reader(bytes);
        let magic = reader.u32()?;
        let (tag, count, length) = (reader.u16()?, reader.u16()?, reader.u32()?);
        reader.zeros(4)?;
        if magic != MAGIC || length as usize != bytes.len() || usize::from(count) != fds.len() {
            return Err(Bad);
        }
        let Some(tag) = Tag::ALL.into_iter().find(|known| *known as u16 == tag) else {
            return Ok(Self::Unknown);
        };
        let message = match tag {
            Tag::Hello => Self::Hello { hello: hello(&mut reader)?, pidfd: one(fds)? },
            Tag::Welcome => {
                let (welcome, more) = welcome(&mut reader)?;
                if fds.len() != 1 + more + welcome.places.len() {
                    return Err(Bad);
                }
                let pidfds = fds.split_off(1 + more);
                let more = fds.split_off(1);
                Self::Welcome { welcome, memory: one(fds)?, more, pidfds }
            }
            Tag::Refused => {
                let why = KINDS.get(usize::from(reader.u16()?)).copied();
                let length = usize::from(reader.u16()?);
                if length > TEXT {
                    return Err(Bad);
                }
                let text = String::from_utf8_lossy(reader.bytes(length)?).into_owned();
                none(&fds)?;
                Self::Refused { kind: why.unwrap_or(ErrorKind::Other), text }
            }
            Tag::Joined => Self::Joined { place: reader.place()?, pidfd: one(fds)? },
            Tag::Gone => {
                let place = reader.place()?;
                let how = match reader.u32()? {
                    1 => How::Left,
                    2 => How::Died,
                    3 => How::NeverCame,
                    _ => return Err(Bad),
                };
                none(&fds)?;
                Self::Gone { place, how }
            }
            Tag::Again => {
                let channel = reader.array()?;
                let (slot, count) = (reader.slot()?, usize::from(reader.u16()?));
                let place = Place { slot, generation: reader.u32()? };
                let known = reader.places(count)?;
                Self::Again { channel, place, known, pidfd: one(fds)? }
            }
            Tag::Back => {
                let (holder, count) = (reader.u32()?, usize::from(reader.u16()?));
                reader.zeros(2)?;
                let places = reader.places(count)?;
                if fds.len() != places.len() {
                    return Err(Bad);
                }
                Self::Back { holder, places, pidfds: fds }
            }
            Tag::Take => Self::Take { holder: reader.u32()?, listener: one(fds)? },
            Tag::Present => {
                let (place, role) = (reader.place()?, reader.role()?);
                reader.zeros(3)?;
                Self::Present { place, role, pidfd: one(fds)? }
            }
        };
        if reader.0.is_empty() { Ok(message) } else { Err(Bad) }
    }
}

fn none(fds: &[OwnedFd]) -> Result<(), Bad> {
    if fds.is_empty() { Ok(()) } else { Err(Bad) }
}

fn hello(reader: &mut Reader<'_>) -> Result<Hello, Bad> {
    // Whoever has another version is told so by the holder, which looks for it before the rest.
    if reader.u32()? != ABI {
        return Err(Bad);
    }
    let (pattern, role) = (reader.u16()?, reader.role()?);
    reader.zeros(1)?;
    let lane = reader.u16()?;
    reader.zeros(2)?;
    let (pid, namespace, started) = (reader.u32()?, reader.u64()?, reader.u64()?);
    let name = reader.array()?;
    let mut types = [0; TYPES];
    for hash in &mut types {
        *hash = reader.u64()?;
    }
    let lane = (lane != u16::MAX).then_some(lane);
    let facts = reader.array()?;
    Ok(Hello { pattern, role, lane, name, types, facts, pid, namespace, started })
}

/// Whether it is a hello of another version of these messages.
pub(super) fn is_hello_of_another_version(bytes: &[u8]) -> bool {
    let mut reader = Reader(bytes);
    let mut read = || {
        let magic = reader.u32()?;
        let tag = reader.u16()?;
        reader.bytes(10)?;
        Ok::<_, Bad>((magic, tag, reader.u32()?))
    };
    read().is_ok_and(|(magic, tag, abi)| magic == MAGIC && tag == Tag::Hello as u16 && abi != ABI)
}

/// With the number of descriptors that the pattern hands to newcomers.
fn welcome(reader: &mut Reader<'_>) -> Result<(Welcome, usize), Bad> {
    let channel = reader.array()?;
    if reader.u32()? != ABI {
        return Err(Bad);
    }
    let (slot, lane) = (reader.slot()?, reader.u16()?);
    let (generation, holder, role) = (reader.u32()?, reader.u32()?, reader.role()?);
    let more = usize::from(reader.array::<1>()?[0]);
    let count = usize::from(reader.u16()?);
    let facts = reader.array()?;
    let places = reader.places(count)?;
    Ok((Welcome { channel, slot, generation, role, lane, holder, facts, places }, more))
}
