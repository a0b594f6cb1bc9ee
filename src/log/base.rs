//! The base of a log: whose it is, and what lies before the first segment that is kept.

use super::block::Verify;
use super::error::LogError;
use super::medium::Medium;
use super::small_file::{self, SmallFile};
use crate::limits::{SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};
use crate::model::{ClusterId, LogEnd, LogNumber, LogTime, Seq, Term, TermStart};

const CLUSTER_AT: usize = 0;
const LOG_AT: usize = CLUSTER_AT + size_of::<u128>();
const RESERVED_AT: usize = LOG_AT + size_of::<u16>();
const RESERVED_SIZE: usize = 6;
const SEGMENT_SIZE_AT: usize = RESERVED_AT + RESERVED_SIZE;
const AFTER_AT: usize = SEGMENT_SIZE_AT + size_of::<u64>();
const COUNT_AT: usize = AFTER_AT + 5 * size_of::<u64>();
const TERMS_AT: usize = COUNT_AT + size_of::<u64>();
const TERM_START_SIZE: usize = 16;
const _: () = assert!(TERMS_AT == 80);

/// See docs/log-format.md, "base".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) verify: Verify,
    /// The end of what is not kept; its offset is the first byte of a segment.
    pub(super) after: LogEnd,
    /// Beginnings of terms up to there, oldest first.
    pub(super) terms: Vec<TermStart>,
}

impl Base {
    /// Number of the first segment that is kept.
    #[expect(clippy::integer_division, reason = "a multiple, tested when read")]
    pub(super) const fn first_segment(&self) -> u64 {
        self.after.offset / self.verify.segment_size
    }

    pub(super) fn save(&self, medium: &dyn Medium, dir: &str) -> Result<(), LogError> {
        small_file::save(medium, dir, SmallFile::Base, &self.to_bytes())
    }

    /// `None`: there is no log in `dir`.
    pub(super) fn load(
        medium: &dyn Medium,
        dir: &str,
        log: LogNumber,
    ) -> Result<Option<Self>, LogError> {
        let Some(bytes) = small_file::load(medium, dir, SmallFile::Base)? else {
            return Ok(None);
        };
        let base = Self::read(&bytes)
            .ok_or_else(|| LogError::Damage(format!("{dir}/base has fields out of range")))?;
        if base.verify.log != log {
            let found = base.verify.log;
            return Err(LogError::Damage(format!("{dir}/base is of log {found}")));
        }
        Ok(Some(base))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TERMS_AT + self.terms.len() * TERM_START_SIZE);
        bytes.extend_from_slice(&self.verify.cluster.get().to_le_bytes());
        bytes.extend_from_slice(&self.verify.log.get().to_le_bytes());
        bytes.extend_from_slice(&[0; RESERVED_SIZE]);
        let after = &self.after;
        let count = crate::model::to_u64(self.terms.len());
        for number in [
            self.verify.segment_size,
            after.offset,
            after.seq.0,
            after.term.0,
            after.chain,
            after.time.0,
            count,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for start in &self.terms {
            bytes.extend_from_slice(&term_bytes(start));
        }
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (fixed, terms) = bytes.split_first_chunk::<TERMS_AT>()?;
        let number = |at: usize| Some(u64::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
        let cluster = u128::from_le_bytes(*fixed.first_chunk()?);
        let log = u16::from_le_bytes(*fixed.get(LOG_AT..)?.first_chunk()?);
        let segment_size = number(SEGMENT_SIZE_AT)?;
        let after = LogEnd {
            offset: number(AFTER_AT)?,
            seq: Seq(number(AFTER_AT + 8)?),
            term: Term(number(AFTER_AT + 16)?),
            chain: number(AFTER_AT + 24)?,
            time: LogTime(number(AFTER_AT + 32)?),
        };
        let reserved = fixed.get(RESERVED_AT..SEGMENT_SIZE_AT)?;
        let sized = (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&segment_size)
            && segment_size.is_power_of_two()
            && after.offset.is_multiple_of(segment_size);
        let terms = read_terms(terms)?;
        let counted = number(COUNT_AT)? == crate::model::to_u64(terms.len());
        if !sized || !counted || *reserved != [0; RESERVED_SIZE] {
            return None;
        }
        Some(Self {
            verify: Verify {
                log: LogNumber::new(log)?,
                cluster: ClusterId::new(cluster)?,
                segment_size,
            },
            after,
            terms,
        })
    }
}

/// 16 bytes: term, seq.
pub(super) fn term_bytes(start: &TermStart) -> [u8; TERM_START_SIZE] {
    let mut bytes = [0; TERM_START_SIZE];
    let (term, seq) = bytes.split_at_mut(8);
    term.copy_from_slice(&start.term.0.to_le_bytes());
    seq.copy_from_slice(&start.seq.0.to_le_bytes());
    bytes
}

/// Terms must rise, and so must their first blocks.
pub(super) fn read_terms(bytes: &[u8]) -> Option<Vec<TermStart>> {
    let (records, rest) = bytes.as_chunks::<TERM_START_SIZE>();
    let terms: Vec<_> = records
        .iter()
        .map(|record| {
            let (term, seq) = record.split_at(8);
            TermStart {
                term: Term(u64::from_le_bytes(*term.first_chunk().unwrap_or(&[0; 8]))),
                seq: Seq(u64::from_le_bytes(*seq.first_chunk().unwrap_or(&[0; 8]))),
            }
        })
        .collect();
    let rising = terms.is_sorted_by(|a, b| a.term < b.term && a.seq < b.seq);
    (rest.is_empty() && rising).then_some(terms)
}

/// Adds the beginning of a term unless it is known.
pub(super) fn note_term(terms: &mut Vec<TermStart>, start: TermStart) {
    if terms.last().is_none_or(|last| last.term < start.term) {
        terms.push(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_read_back_and_foreign_bytes_do_not() {
        let base = Base {
            verify: Verify {
                log: LogNumber::new(2).unwrap(),
                cluster: ClusterId::new(5).unwrap(),
                segment_size: SEGMENT_SIZE_MIN,
            },
            after: LogEnd {
                seq: Seq(9),
                term: Term(2),
                chain: 3,
                offset: 4 * SEGMENT_SIZE_MIN,
                time: LogTime(8),
            },
            terms: [(1, 1), (2, 7)]
                .map(|(term, seq)| TermStart {
                    term: Term(term),
                    seq: Seq(seq),
                })
                .to_vec(),
        };
        let bytes = base.to_bytes();
        assert_eq!(Base::read(&bytes), Some(base.clone()));
        assert_eq!(base.first_segment(), 4);
        for size in 0..bytes.len() {
            assert_eq!(Base::read(&bytes[..size]), None);
        }
        for (at, value) in [(16, 0), (18, 1), (24, 1), (32, 1), (72, 3), (80, 9)] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            damaged[at + 1] = 0;
            assert_eq!(Base::read(&damaged), None, "byte {at}");
        }
    }
}
