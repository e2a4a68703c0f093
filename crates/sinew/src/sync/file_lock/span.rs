//! Ranges of bytes, as fcntl counts them.

use std::ops::{Bound, RangeBounds};

use rustix::io::Errno;

/// Bytes from `start` on: `len` of them, or with 0 all to the end, however long the file becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: i64,
    pub(super) len: i64,
}

impl Span {
    pub(super) const WHOLE: Self = Self { start: 0, len: 0 };

    /// EINVAL for no bytes, EOVERFLOW for what no file reaches.
    pub(super) fn of(range: &impl RangeBounds<u64>) -> Result<Self, Errno> {
        let start = match range.start_bound() {
            Bound::Unbounded => 0,
            Bound::Included(&first) => first,
            Bound::Excluded(&before) => before.checked_add(1).ok_or(Errno::OVERFLOW)?,
        };
        let end = match range.end_bound() {
            Bound::Unbounded => None,
            Bound::Included(&last) => Some(last.checked_add(1).ok_or(Errno::OVERFLOW)?),
            Bound::Excluded(&end) => Some(end),
        };
        let len = match end {
            None => 0,
            Some(end) if end <= start => return Err(Errno::INVAL),
            // The last byte of a file is at i64::MAX - 1, so its end is still a number.
            Some(end) if i64::try_from(end).is_err() => return Err(Errno::OVERFLOW),
            Some(end) => i64::try_from(end - start).map_err(|_| Errno::OVERFLOW)?,
        };
        Ok(Self { start: i64::try_from(start).map_err(|_| Errno::OVERFLOW)?, len })
    }

    /// The byte after the last one, or none.
    #[inline]
    pub(super) const fn end(self) -> Option<i64> {
        if self.len == 0 { None } else { Some(self.start.saturating_add(self.len)) }
    }

    #[inline]
    pub(super) const fn overlaps(self, other: Self) -> bool {
        const fn begins_before(one: Span, other: Span) -> bool {
            match other.end() {
                None => true,
                Some(end) => one.start < end,
            }
        }
        begins_before(self, other) && begins_before(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_start_and_length() {
        assert_eq!(Span::of(&..), Ok(Span::WHOLE));
        assert_eq!(Span::of(&(5..)), Ok(Span { start: 5, len: 0 }));
        assert_eq!(Span::of(&(5..8)), Ok(Span { start: 5, len: 3 }));
        assert_eq!(Span::of(&(5..=8)), Ok(Span { start: 5, len: 4 }));
        assert_eq!(Span::of(&..=0), Ok(Span { start: 0, len: 1 }));
        assert_eq!(Span::of(&(5..5)), Err(Errno::INVAL));
        #[expect(clippy::reversed_empty_ranges, reason = "that is the bad input")]
        let reversed = 8..5;
        assert_eq!(Span::of(&reversed), Err(Errno::INVAL));
        let most = i64::MAX.unsigned_abs();
        assert_eq!(Span::of(&(0..most)), Ok(Span { start: 0, len: i64::MAX }));
        assert_eq!(Span::of(&(0..=most)), Err(Errno::OVERFLOW));
        assert_eq!(Span::of(&(most + 1..)), Err(Errno::OVERFLOW));
        assert_eq!(Span::of(&..=u64::MAX), Err(Errno::OVERFLOW));
    }

    #[test]
    fn overlaps_are_seen() {
        let span = |range: std::ops::Range<u64>| Span::of(&range).unwrap();
        assert!(span(0..5).overlaps(span(4..6)));
        assert!(!span(0..5).overlaps(span(5..6)));
        assert!(Span::WHOLE.overlaps(span(5..6)));
        assert!(span(5..6).overlaps(Span::WHOLE));
        let rest = Span::of(&(6..)).unwrap();
        assert!(!rest.overlaps(span(5..6)));
        assert!(rest.overlaps(Span::WHOLE) && rest.overlaps(rest));
    }
}
