//! The bytes that rows move: a pattern, or the file of `--input`. Written once before the first
//! message and never changed again, because vmsplice shares its pages with the reader.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

const PAGE: usize = 4096;
/// Timed messages are cut from so many bytes, or from one message if that is longer, so that what
/// is measured is the mechanism and not the memory that the payload comes from.
const HOT: usize = 64 << 10;

/// Where the payload comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    /// Pseudo-random bytes, the same in every process.
    Pattern,
    /// This file.
    File(std::path::PathBuf),
}

/// A page-aligned, constant buffer.
#[derive(Debug)]
pub(crate) struct Payload {
    buffer: Vec<u8>,
    start: usize,
    /// How many bytes of the source there are; the buffer goes on with the source from its start.
    source_len: usize,
}

impl Payload {
    /// At least `at_least` bytes; the `whole` file if that is wanted.
    pub(crate) fn new(source: &Source, at_least: usize, whole: bool) -> io::Result<Self> {
        match source {
            Source::Pattern => Ok(Self::build(at_least, |bytes| {
                fill_pattern(bytes);
                bytes.len()
            })),
            Source::File(path) => Self::from_file(path, at_least, whole),
        }
    }

    fn from_file(path: &Path, at_least: usize, whole: bool) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let len = if whole { len } else { len.min(at_least) };
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is empty"));
        }
        let mut result = Ok(());
        let payload = Self::build(len.max(at_least), |bytes| {
            result = file.read_exact(&mut bytes[..len]);
            len
        });
        result.map(|()| payload)
    }

    fn build(len: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> Self {
        let mut buffer = vec![0; len + PAGE];
        let start = buffer.as_ptr().align_offset(PAGE);
        let bytes = &mut buffer[start..start + len];
        let mut filled = fill(bytes);
        let source_len = filled;
        while filled < len {
            let more = filled.min(len - filled);
            bytes.copy_within(..more, filled);
            filled += more;
        }
        buffer.truncate(start + len);
        Self { buffer, start, source_len }
    }

    /// Everything.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// The bytes of the source that were taken, once: what a verification sends.
    pub(crate) fn source(&self) -> &[u8] {
        &self.bytes()[..self.source_len]
    }

    /// The messages of a timed batch, over and over from the hot part.
    #[inline]
    pub(crate) fn hot(&self, size: usize) -> Hot<'_> {
        let len = self.bytes().len().min(HOT.max(size)) / size * size;
        Hot { bytes: &self.bytes()[..len], size, at: 0 }
    }
}

/// Gives one message after the other.
pub(crate) struct Hot<'a> {
    bytes: &'a [u8],
    size: usize,
    at: usize,
}

impl<'a> Hot<'a> {
    #[inline]
    pub(crate) fn message(&mut self) -> &'a [u8] {
        if self.at == self.bytes.len() {
            self.at = 0;
        }
        let message = &self.bytes[self.at..self.at + self.size];
        self.at += self.size;
        message
    }
}

/// xorshift64* (Vigna, 2016): no two pages are alike, and no byte is constant.
fn fill_pattern(bytes: &mut [u8]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for chunk in bytes.chunks_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// The sum that a receiver makes so that it has read every byte.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_aligned_and_the_same_everywhere() {
        let one = Payload::new(&Source::Pattern, 10_000, false).expect("memory");
        let two = Payload::new(&Source::Pattern, 20_000, true).expect("memory");
        assert_eq!(one.bytes().as_ptr() as usize % PAGE, 0);
        assert_eq!(one.bytes(), &two.bytes()[..10_000]);
        assert_eq!(one.source().len(), 10_000);
    }

    #[test]
    fn hot_messages_go_round() {
        let payload = Payload::new(&Source::Pattern, 200, false).expect("memory");
        let mut hot = payload.hot(64);
        let first = hot.message().to_vec();
        assert_eq!(first, payload.bytes()[..64]);
        hot.message();
        hot.message();
        assert_eq!(hot.message(), first);
    }
}
