//! Copies the image of a move from the backup to this disk, a few pieces ahead of what is written.
//!
//! A lost link loses no more than the pieces that were asked for.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::limits;
use crate::log::{CHECKPOINT_HEADER_SIZE, CHECKPOINT_PAGE_SIZE};
use crate::model::{MoveNumber, to_u64};
use crate::protocol::{Message, MoveFileAsk, MoveFilePart};
use crate::role::{DiskRequest, Effect, Outbox, PeerId};

/// An image on its way.
#[derive(Debug)]
pub(super) struct ImageCopy {
    image: MoveNumber,
    /// Bytes of the whole file, once the backup said so.
    size: Option<u64>,
    /// What is written, or being written.
    offset: u64,
    /// Offsets that were asked for on the present link and not answered, in their order. After a
    /// piece that was shorter than it could be there are some among them that fit no more.
    asked: VecDeque<u64>,
    /// What is asked for next.
    ask_at: u64,
    /// Pieces that are being written.
    writing_count: u32,
}

/// What a piece from the backup was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// It is being written, or was not asked for.
    Fine,
    /// The backup does not have the image.
    Missing,
    /// It is not what was asked for.
    Wrong,
}

impl ImageCopy {
    pub(super) const fn new(image: MoveNumber) -> Self {
        Self {
            image,
            size: None,
            offset: 0,
            asked: VecDeque::new(),
            ask_at: 0,
            writing_count: 0,
        }
    }

    /// Asks for the next pieces: for the first one alone, since with it comes the size, then for
    /// as many as may be under way.
    pub(super) fn ask(&mut self, backup: Option<PeerId>, out: &mut Outbox) {
        let Some(peer) = backup else {
            return;
        };
        let end = self.size.unwrap_or(1);
        let max = u64::from(limits::MOVE_COPY_PIECE_COUNT_MAX);
        while self.ask_at < end && to_u64(self.asked.len()) + u64::from(self.writing_count) < max {
            self.asked.push_back(self.ask_at);
            out.send(
                peer,
                &Message::MoveFileAsk(MoveFileAsk {
                    image: self.image,
                    offset: self.ask_at,
                    size_max: limits::MOVE_COPY_PIECE_SIZE,
                }),
            );
            self.ask_at += u64::from(limits::MOVE_COPY_PIECE_SIZE);
        }
    }

    pub(super) fn link_lost(&mut self) {
        self.asked.clear();
        self.ask_at = self.offset;
    }

    pub(super) fn arrived(&mut self, part: &MoveFilePart<'_>, out: &mut Outbox) -> Arrived {
        if part.image != self.image {
            return Arrived::Fine;
        }
        let Some(asked) = self.asked.pop_front() else {
            return Arrived::Fine;
        };
        if part.size == 0 {
            return Arrived::Missing;
        }
        let size = *self.size.get_or_insert(part.size);
        let end = part.offset.saturating_add(to_u64(part.bytes.len()));
        let is_asked = part.offset == asked && part.offset < end && end <= size;
        if part.size != size || !is_asked {
            return Arrived::Wrong;
        }
        if asked != self.offset {
            return Arrived::Fine;
        }
        self.writing_count += 1;
        self.offset = end;
        if self.asked.front().copied().unwrap_or(self.ask_at) != end {
            self.ask_at = end;
        }
        out.effect(Effect::Disk(DiskRequest::WriteMoveFile {
            number: self.image,
            offset: part.offset,
            bytes: Bytes::copy_from_slice(part.bytes),
            size,
        }));
        Arrived::Fine
    }

    /// A piece is written; the next one may be asked for.
    pub(super) fn written(&mut self) {
        self.writing_count = self.writing_count.saturating_sub(1);
    }

    pub(super) fn is_of(&self, image: MoveNumber) -> bool {
        self.image == image
    }

    /// Whole pages of it that are written or will be before whatever the disk is asked next.
    #[expect(clippy::integer_division, reason = "whole pages")]
    pub(super) const fn page_count(&self) -> u64 {
        let pages_size = self.offset.saturating_sub(to_u64(CHECKPOINT_HEADER_SIZE));
        pages_size / to_u64(CHECKPOINT_PAGE_SIZE)
    }

    /// Is a piece being written, so that a reply of the disk is due?
    pub(super) const fn is_writing(&self) -> bool {
        self.writing_count != 0
    }
}
