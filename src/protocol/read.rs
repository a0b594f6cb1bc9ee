//! Reads the fields of a body one after the other, each checked to be there.

use super::MessageError;
use super::frame::HEADER_SIZE;
use crate::model::to_usize;

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    /// Offset in the frame of what is read next.
    pub(super) const fn offset(&self) -> usize {
        HEADER_SIZE + self.at
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
                at: HEADER_SIZE + self.body.len(),
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

    /// A count of records of `size` bytes, at most `max`, and the records themselves.
    pub(super) fn records(&mut self, size: usize, max: u32) -> Result<&'a [u8], MessageError> {
        let at = self.offset();
        let count = self.u32()?;
        if max < count {
            return Err(MessageError::TooMany { at, count, max });
        }
        self.reserved(4)?;
        self.bytes(to_usize(u64::from(count)) * size)
    }

    /// A text of at most `max` bytes.
    pub(super) fn text(&mut self, max: u32) -> Result<&'a str, MessageError> {
        let at = self.offset();
        let length = self.u32()?;
        if max < length {
            return Err(MessageError::TooMany {
                at,
                count: length,
                max,
            });
        }
        let bytes = self.bytes(to_usize(u64::from(length)))?;
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
