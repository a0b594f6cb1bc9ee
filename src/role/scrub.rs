//! The endless check of what a log keeps: how far it is, when the next piece is due, what it found.
//!
//! Bytes that nobody reads rot unseen, until the other copy is lost and they are needed. So every
//! sealed segment is read from the device and verified, piece by piece, for as long as a daemon
//! runs: never faster than a set rate, and once around within a day.

use crate::clock::Tick;
use crate::limits;

/// See the module. It decides what to read and when; the role asks the disk and tells the outcome.
#[derive(Clone, Debug)]
pub struct Scrub {
    segment_size: u64,
    /// Where the next piece begins.
    offset: u64,
    due: Tick,
    is_reading: bool,
    lap_count: u64,
    found_count: u64,
    last_found: Option<String>,
}

/// A piece to verify: the blocks from `offset` on, nothing at or behind `below`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPiece {
    /// The start of a block, the end of one, or the first byte of a segment.
    pub offset: u64,
    /// The first byte that is not sealed.
    pub below: u64,
}

impl Scrub {
    /// A check that begins at the log's first segment. `segment_size` may not be 0.
    #[must_use]
    pub const fn new(segment_size: u64) -> Self {
        assert!(segment_size != 0);
        Self {
            segment_size,
            offset: 0,
            due: Tick(0),
            is_reading: false,
            lap_count: 0,
            found_count: 0,
            last_found: None,
        }
    }

    /// The next piece, if one is due: its outcome is to be told. The log is kept from `first` on
    /// and ends at `end`; segments before the one that it ends in are sealed.
    pub fn next_piece(&mut self, now: Tick, first: u64, end: u64) -> Option<ScrubPiece> {
        if self.is_reading || now < self.due {
            return None;
        }
        let below = end / self.segment_size * self.segment_size;
        if below <= first {
            self.due = now.plus_ms(limits::SCRUB_MS_MAX);
            return None;
        }
        if below <= self.offset {
            self.lap_count += 1;
            self.offset = first;
        }
        self.offset = self.offset.max(first);
        let piece_count = (below - first)
            .div_ceil(u64::from(limits::SCRUB_SIZE))
            .max(1);
        let pause_ms = limits::SCRUB_LAP_MS / piece_count;
        self.due = now.plus_ms(pause_ms.clamp(limits::SCRUB_MS_MIN, limits::SCRUB_MS_MAX));
        self.is_reading = true;
        Some(ScrubPiece {
            offset: self.offset,
            below,
        })
    }

    /// Blocks of `size` bytes from `offset` on were read and verify. None at all: the rest of what
    /// is sealed has none.
    pub const fn verified(&mut self, offset: u64, size: u64) {
        self.is_reading = false;
        self.offset = if size == 0 { u64::MAX } else { offset + size };
    }

    /// The piece could not be read now, for lack of room for an open file: it is due again.
    pub const fn put_off(&mut self) {
        self.is_reading = false;
    }

    /// The piece from `offset` on could not be verified: the check goes on with the next segment.
    /// Tells whether this is news.
    pub fn failed(&mut self, offset: u64, text: &str) -> bool {
        self.is_reading = false;
        self.offset = (offset / self.segment_size + 1) * self.segment_size;
        let is_news = self.last_found.as_deref() != Some(text);
        if is_news {
            self.found_count += 1;
            self.last_found = Some(text.to_owned());
        }
        is_news
    }

    /// When the next piece is due.
    #[must_use]
    pub const fn due(&self) -> Tick {
        self.due
    }

    /// Where the next piece begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How often all was verified.
    #[must_use]
    pub const fn lap_count(&self) -> u64 {
        self.lap_count
    }

    /// How many pieces did not verify, and what the last one was.
    #[must_use]
    pub fn found(&self) -> (u64, Option<&str>) {
        (self.found_count, self.last_found.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 64 << 20;
    const PIECE: u64 = limits::SCRUB_SIZE as u64;

    /// Runs one lap over `kept` bytes; returns how many pieces and milliseconds it took.
    fn lap(kept: u64) -> (u64, u64) {
        let mut scrub = Scrub::new(SEGMENT);
        let (mut now, mut count) = (Tick(0), 0);
        let (first, end) = (3 * SEGMENT, 3 * SEGMENT + kept + 5);
        let laps = scrub.lap_count();
        loop {
            let Some(piece) = scrub.next_piece(now, first, end) else {
                assert!(now < scrub.due());
                now = scrub.due();
                continue;
            };
            if laps < scrub.lap_count() {
                return (count, now.since(Tick(0)) / 1_000_000);
            }
            assert_eq!(piece.below, 3 * SEGMENT + kept);
            assert_eq!(scrub.next_piece(now, first, end), None, "one at a time");
            scrub.verified(piece.offset, PIECE.min(piece.below - piece.offset));
            count += 1;
        }
    }

    #[test]
    fn a_lap_takes_no_more_than_a_day_and_keeps_its_rate() {
        let (count, ms) = lap(2 * SEGMENT);
        assert_eq!(count, 2 * SEGMENT / PIECE);
        assert_eq!(ms, count * limits::SCRUB_MS_MAX);
        let large = 256 << 30;
        let (count, ms) = lap(large);
        assert_eq!(count, large / PIECE);
        assert!(ms <= limits::SCRUB_LAP_MS, "{ms} ms");
        assert!(limits::SCRUB_LAP_MS / 2 < ms, "{ms} ms");
    }

    /// For lack of an open file a piece is neither verified nor found bad: it comes again.
    #[test]
    fn a_piece_that_was_put_off_comes_again() {
        let mut scrub = Scrub::new(SEGMENT);
        let piece = scrub.next_piece(Tick(0), 0, 2 * SEGMENT).unwrap();
        assert_eq!(scrub.next_piece(scrub.due(), 0, 2 * SEGMENT), None);
        scrub.put_off();
        assert_eq!(scrub.next_piece(Tick(0), 0, 2 * SEGMENT), None, "not due");
        assert_eq!(scrub.next_piece(scrub.due(), 0, 2 * SEGMENT), Some(piece));
        assert_eq!((scrub.lap_count(), scrub.found()), (0, (0, None)));
    }

    #[test]
    fn nothing_is_sealed_at_first_and_what_is_retired_is_left_out() {
        let mut scrub = Scrub::new(SEGMENT);
        assert_eq!(scrub.next_piece(Tick(0), 0, SEGMENT - 128), None);
        let now = scrub.due();
        let piece = scrub.next_piece(now, 0, SEGMENT + 128).unwrap();
        assert_eq!((piece.offset, piece.below), (0, SEGMENT));
        scrub.verified(4_096, PIECE);
        let now = scrub.due();
        let piece = scrub.next_piece(now, 2 * SEGMENT, 4 * SEGMENT).unwrap();
        assert_eq!((piece.offset, piece.below), (2 * SEGMENT, 4 * SEGMENT));
    }

    #[test]
    fn damage_is_news_once_and_the_next_segment_is_read() {
        let mut scrub = Scrub::new(SEGMENT);
        for round in 0..3 {
            let now = scrub.due();
            let piece = scrub.next_piece(now, 0, 2 * SEGMENT).unwrap();
            assert_eq!(piece.offset, 0);
            assert_eq!(scrub.failed(piece.offset, "damage at 4096"), round == 0);
            let now = scrub.due();
            let piece = scrub.next_piece(now, 0, 2 * SEGMENT).unwrap();
            assert_eq!(piece.offset, SEGMENT);
            scrub.verified(piece.offset, 0);
            assert_eq!(scrub.lap_count(), round);
        }
        assert_eq!(scrub.found(), (1, Some("damage at 4096")));
    }
}
