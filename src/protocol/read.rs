//! Reads the fields of a body one after the other, each checked to be there.
#![deny(clippy::indexing_slicing)]

use super::MessageError;
use super::frame::HEADER_SIZE;
use crate::model::to_usize;

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    /// Offset of the body's first byte in what errors count from.
    base: usize,
}

impl<'a> Reader<'a> {
    /// The body of a frame.
    pub(super) const fn of_body(body: &'a [u8]) -> Self {
        Self {
            body,
            at: 0,
            base: HEADER_SIZE,
        }
    }

    /// A record that begins at byte `base` of its list.
    pub(super) const fn of_record(body: &'a [u8], base: usize) -> Self {
        Self { body, at: 0, base }
    }

    /// Offset of what is read next.
    pub(super) const fn offset(&self) -> usize {
        self.base + self.at
    }

    /// The field of `size` bytes that was read last is impossible.
    pub(super) const fn wrong(&self, size: usize) -> MessageError {
        MessageError::Field {
            at: self.offset().saturating_sub(size),
        }
    }

    pub(super) fn bytes(&mut self, size: usize) -> Result<&'a [u8], MessageError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let Some((field, _)) = rest.split_at_checked(size) else {
            let needed = size.saturating_sub(rest.len());
            return Err(MessageError::Ends {
                at: self.base + self.body.len(),
                needed,
            });
        };
        self.at += size;
        Ok(field)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let mut field = [0; N];
        field.copy_from_slice(self.bytes(N)?);
        Ok(field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, MessageError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MessageError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, MessageError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, MessageError> {
        self.array().map(u128::from_le_bytes)
    }

    /// Bytes that must be zero.
    pub(super) fn reserved(&mut self, size: usize) -> Result<(), MessageError> {
        let at = self.offset();
        let zero = self.bytes(size)?.iter().all(|byte| *byte == 0);
        if zero {
            Ok(())
        } else {
            Err(MessageError::Field { at })
        }
    }

    /// A count or a length of at most `max`.
    pub(super) fn count(&mut self, max: u32) -> Result<usize, MessageError> {
        let at = self.offset();
        let count = self.u32()?;
        if max < count {
            return Err(MessageError::TooMany { at, count, max });
        }
        Ok(to_usize(u64::from(count)))
    }

    /// A count of records of `size` bytes, at most `max`, four bytes of zero, and the records.
    pub(super) fn records(&mut self, size: usize, max: u32) -> Result<&'a [u8], MessageError> {
        let count = self.count(max)?;
        self.reserved(4)?;
        self.bytes(count * size)
    }

    /// A text of at most `max` bytes.
    pub(super) fn text(&mut self, max: u32) -> Result<&'a str, MessageError> {
        let at = self.offset();
        let length = self.count(max)?;
        let bytes = self.bytes(length)?;
        std::str::from_utf8(bytes).map_err(|_invalid| MessageError::Field { at })
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = self.body.get(self.at..).unwrap_or_default();
        self.at = self.body.len();
        rest
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), MessageError> {
        let count = self.body.len().saturating_sub(self.at);
        if count == 0 {
            Ok(())
        } else {
            Err(MessageError::Trailing {
                at: self.offset(),
                count,
            })
        }
    }
}
