//! Images of moves: read for the nodes that adopt them, and kept as long as a log may have to be
//! replayed from before the block that took one in.

use super::super::Running;
use super::super::connections::Asker;
use super::super::serve::ReadFor;
use crate::limits;
use crate::model::{LogNumber, MoveNumber, Seq};
use crate::protocol::{Message, MoveFileAsk, MoveFilePart};
use crate::role::{DiskRequest, Effect, Level, Outbox};

use bytes::Bytes;

impl Running {
    /// A node wants a piece of an image.
    pub(in super::super) fn on_move_file_ask(
        &mut self,
        asker: Asker,
        ask: &MoveFileAsk,
        out: &mut Outbox,
    ) {
        let image = ask.image;
        let purpose = ReadFor::MoveFile { asker, image };
        let Some(ticket) = self.begin_read(asker, purpose, out) else {
            return;
        };
        out.effect(Effect::Disk(DiskRequest::ReadMoveFile {
            number: image,
            offset: ask.offset,
            size_max: ask.size_max.clamp(1, limits::FETCH_SIZE_MAX),
            ticket,
        }));
    }

    /// A piece of an image was read.
    pub(in super::super) fn on_move_file_read(
        &mut self,
        ticket: u64,
        size: u64,
        offset: u64,
        bytes: &Bytes,
        out: &mut Outbox,
    ) {
        let Some(ReadFor::MoveFile { asker, image }) = self.reads.end(ticket) else {
            return;
        };
        if self.end_read(asker) {
            let part = MoveFilePart {
                image,
                size,
                offset,
                bytes,
            };
            Message::MoveFilePart(part).write_for(out.buffer(asker.peer), asker.request);
        }
    }

    /// A checkpoint of a log was made: what it stands for needs no image any more.
    pub(in super::super) fn note_checkpoint(&mut self, log: LogNumber, seq: Seq) {
        let mut ended = self.authority.latest().moves.ended.iter();
        let passed =
            ended.any(|ended| ended.log == log && ended.gone.is_some_and(|gone| gone <= seq));
        if passed {
            self.authority
                .change(|record| record.forget_ended(log, seq));
        }
        self.moves.due = true;
    }

    /// Has the disk remove the images that nobody wants any more.
    pub(super) fn keep_images(&mut self, out: &mut Outbox) {
        let below = self.authority.record().moves.next;
        if self.moves.keeping || below == MoveNumber(1) {
            return;
        }
        // What either record lists may still be read.
        let mut images = self.authority.record().moves.images();
        images.extend(self.authority.latest().moves.images());
        let numbers: Vec<MoveNumber> = images.into_iter().collect();
        let wanted = (numbers, below);
        if self.moves.kept.as_ref() == Some(&wanted) {
            return;
        }
        let (numbers, below) = wanted.clone();
        self.moves.kept = Some(wanted);
        self.moves.keeping = true;
        out.effect(Effect::Disk(DiskRequest::KeepMoveFiles { numbers, below }));
    }

    /// They are removed, or could not be.
    pub(in super::super) fn on_images_kept(&mut self, failed: Option<&str>, out: &mut Outbox) {
        self.moves.keeping = false;
        if let Some(text) = failed {
            // The next change of the list tries again.
            self.say(Level::Warn, format!("images stay: {text}"), out);
        }
    }
}
