//! Copies the image of a move from the backup to this disk, one piece after the other.
//!
//! A lost link loses no more than the piece that was asked for.

use bytes::Bytes;

use crate::limits;
use crate::model::{MoveNumber, to_u64};
use crate::protocol::{Message, MoveFileAsk, MoveFilePart};
use crate::role::{DiskRequest, Effect, Outbox, PeerId};

/// What is under way of the next piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// Nothing.
    Due,
    /// It was asked for.
    Asked,
    /// It is being written.
    Writing,
}

/// An image on its way.
#[derive(Debug)]
pub(super) struct ImageCopy {
    image: MoveNumber,
    /// Bytes of the whole file, once the backup said so.
    size: Option<u64>,
    /// What is written, or being written.
    offset: u64,
    piece: Piece,
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
            piece: Piece::Due,
        }
    }

    /// Asks for the next piece, if none is under way.
    pub(super) fn ask(&mut self, backup: Option<PeerId>, out: &mut Outbox) {
        let Some(peer) = backup.filter(|_| self.piece == Piece::Due) else {
            return;
        };
        self.piece = Piece::Asked;
        out.send(
            peer,
            &Message::MoveFileAsk(MoveFileAsk {
                image: self.image,
                offset: self.offset,
                size_max: limits::FETCH_SIZE_MAX,
            }),
        );
    }

    pub(super) fn link_lost(&mut self) {
        if self.piece == Piece::Asked {
            self.piece = Piece::Due;
        }
    }

    pub(super) fn arrived(&mut self, part: &MoveFilePart<'_>, out: &mut Outbox) -> Arrived {
        if self.piece != Piece::Asked || part.image != self.image {
            return Arrived::Fine;
        }
        if part.size == 0 {
            return Arrived::Missing;
        }
        let size = *self.size.get_or_insert(part.size);
        let end = part.offset.saturating_add(to_u64(part.bytes.len()));
        let is_next = part.offset == self.offset && part.offset < end && end <= size;
        if part.size != size || !is_next {
            return Arrived::Wrong;
        }
        self.piece = Piece::Writing;
        self.offset = end;
        out.effect(Effect::Disk(DiskRequest::WriteMoveFile {
            number: self.image,
            offset: part.offset,
            bytes: Bytes::copy_from_slice(part.bytes),
            size,
        }));
        Arrived::Fine
    }

    /// The piece is written; the next one may be asked for.
    pub(super) fn written(&mut self) {
        self.piece = Piece::Due;
    }

    pub(super) fn is_of(&self, image: MoveNumber) -> bool {
        self.image == image
    }

    /// Is a piece being written, so that a reply of the disk is due?
    pub(super) fn is_writing(&self) -> bool {
        self.piece == Piece::Writing
    }
}
