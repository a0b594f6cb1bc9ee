//! Brings the state of moved slots into the ledger, beside what it serves: what is left of earlier
//! slots is swept out, the image is copied from the backup unless it is here, and read in.
//!
//! Everything in bounded steps, so that a node goes on serving. The same steps at a replay, where
//! the log says what to load.

use std::fmt;

use crate::clock::{Now, Tick};
use crate::ledger::Ledger;
use crate::limits;
use crate::model::{Adoption, MoveNumber, SlotRange};
use crate::protocol::MoveFilePart;
use crate::role::{
    CheckpointRecords, DiskFault, DiskReply, DiskRequest, Effect, Level, Outbox, PeerId,
};

use super::copy::{Arrived, ImageCopy};
use super::order::Order;
use crate::node::shared::{Failure, say};

/// How often an image may turn out wrong before there is a pause.
const ATTEMPT_COUNT_MAX: u32 = 3;

/// That pause: the backup may cut the image anew meanwhile.
const PAUSE_MS: u64 = 1_000;

/// What is to be staged, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Wanted {
    pub(super) number: MoveNumber,
    pub(super) image: MoveNumber,
    pub(super) ranges: Vec<SlotRange>,
    pub(super) digest: u128,
    pub(super) account_count: u64,
}

impl From<&Order> for Wanted {
    fn from(order: &Order) -> Self {
        Self {
            number: order.number,
            image: order.image,
            ranges: order.ranges.clone(),
            digest: order.slot_digest,
            account_count: order.account_count,
        }
    }
}

impl From<&Adoption> for Wanted {
    fn from(adoption: &Adoption) -> Self {
        Self {
            number: adoption.adopt.number,
            image: adoption.file.image,
            ranges: adoption.ranges.clone(),
            digest: adoption.adopt.digest,
            account_count: adoption.file.account_count,
        }
    }
}

/// What the disk did for an image.
#[derive(Debug)]
pub(in crate::node) enum ImageReply {
    /// It has none that verifies.
    Missing,
    /// It read records.
    Records(Pages),
    /// A piece is written.
    Written,
    /// All pieces are, and the image is durable and verified.
    Complete,
}

impl ImageReply {
    /// The reply, and which image it is about; `None`: it is about something else.
    pub(in crate::node) fn read(reply: DiskReply) -> Option<(MoveNumber, Self)> {
        if let DiskReply::MoveFileLoaded {
            number,
            found,
            cursor,
            records,
            next,
            end,
        } = reply
        {
            let loaded = if found {
                Self::Records(Pages {
                    cursor,
                    records,
                    next,
                    end,
                })
            } else {
                Self::Missing
            };
            return Some((number, loaded));
        }
        let DiskReply::MoveFileWritten {
            number,
            is_complete,
        } = reply
        else {
            return None;
        };
        let written = if is_complete {
            Self::Complete
        } else {
            Self::Written
        };
        Some((number, written))
    }
}

/// Pages of an image.
#[derive(Debug)]
pub(in crate::node) struct Pages {
    /// The first one.
    cursor: u64,
    records: Vec<CheckpointRecords>,
    /// Behind the last one.
    next: u64,
    /// Behind the last one of the image.
    end: u64,
}

/// How far the pages of an image are. The disk reads some ahead of what is taken in: a turn of a
/// busy node may last longer than one piece is worth.
#[derive(Clone, Copy, Debug)]
struct PagesRead {
    taken: u64,
    asked: u64,
    /// What may be asked for.
    there: u64,
    /// Known with the first piece.
    end: Option<u64>,
}

impl PagesRead {
    const PIECE: u64 = limits::MOVE_LOAD_PAGE_COUNT as u64;
    const WINDOW: u64 = limits::MOVE_LOAD_PIECE_COUNT_MAX as u64 * Self::PIECE;

    const fn new(there: u64) -> Self {
        Self {
            taken: 0,
            asked: 0,
            there,
            end: None,
        }
    }

    fn ask(&mut self, number: MoveNumber, out: &mut Outbox) {
        let end = self.there.min(self.taken + Self::WINDOW);
        while self.asked < end {
            let count = (end - self.asked).min(Self::PIECE);
            out.effect(Effect::Disk(DiskRequest::LoadMoveFile {
                number,
                cursor: self.asked,
                page_count_max: u32::try_from(count).expect("at most a piece"),
            }));
            self.asked += count;
        }
    }

    /// The whole image is here.
    fn all_there(&mut self) {
        self.there = self.end.unwrap_or(self.asked + Self::PIECE);
    }

    const fn awaits(&self, pages: &Pages) -> bool {
        self.taken < self.asked && self.taken == pages.cursor
    }
}

/// How far it is.
#[derive(Debug)]
enum Step {
    /// What is left of earlier slots goes.
    Sweeping,
    /// The image is read into the ledger; the disk was asked for the next records.
    Loading(PagesRead),
    /// The image is not here: it is copied, and read in as far as it came.
    Copying(ImageCopy, PagesRead),
    /// There was trouble: all begins anew at this tick.
    Pausing(Tick),
    /// The ledger has it, and it is what it must be.
    Staged,
}

/// The staging of one move.
#[derive(Debug)]
pub(in crate::node) struct Staging {
    wanted: Wanted,
    step: Step,
    /// Images that turned out wrong since the last pause.
    attempt_count: u32,
    /// The image that is here is not to be used.
    is_copy_due: bool,
    /// The backup did not have the image.
    is_missing: bool,
}

impl Staging {
    pub(in crate::node) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            step: Step::Sweeping,
            attempt_count: 0,
            is_copy_due: false,
            is_missing: false,
        }
    }

    pub(super) const fn image(&self) -> MoveNumber {
        self.wanted.image
    }

    pub(in crate::node) const fn is_staged(&self) -> bool {
        matches!(self.step, Step::Staged)
    }

    /// Neither this disk nor the backup has the image.
    pub(in crate::node) const fn is_missing(&self) -> bool {
        self.is_missing
    }

    /// Has it work left that waits for nobody?
    pub(in crate::node) const fn is_due(&self) -> bool {
        matches!(self.step, Step::Sweeping)
    }

    /// When it goes on after a pause.
    pub(in crate::node) const fn deadline(&self) -> Option<Tick> {
        match self.step {
            Step::Pausing(until) => Some(until),
            Step::Sweeping | Step::Loading(_) | Step::Copying(..) | Step::Staged => None,
        }
    }

    /// Takes the next step, if it waits for nobody.
    pub(in crate::node) fn turn(
        &mut self,
        ledger: &mut Ledger,
        backup: Option<PeerId>,
        now: Now,
        out: &mut Outbox,
    ) {
        match &mut self.step {
            Step::Sweeping => {
                if ledger.sweep_step(limits::MOVE_STEP_ACCOUNT_COUNT_MAX) {
                    match ledger.stage_begin(self.wanted.number, &self.wanted.ranges) {
                        Ok(()) => self.begin(out),
                        Err(error) => {
                            let number = self.wanted.number;
                            say(out, Level::Alarm, format!("move {number}: {error}"));
                            self.pause(now);
                        }
                    }
                }
            }
            Step::Pausing(until) if *until <= now.tick => self.step = Step::Sweeping,
            Step::Copying(..) | Step::Loading(_) | Step::Pausing(_) | Step::Staged => (),
        }
        if let Step::Copying(copy, _) = &mut self.step {
            copy.ask(backup, out);
        }
    }

    fn begin(&mut self, out: &mut Outbox) {
        if self.is_copy_due {
            let copy = ImageCopy::new(self.wanted.image);
            self.step = Step::Copying(copy, PagesRead::new(0));
        } else {
            let mut read = PagesRead::new(PagesRead::PIECE);
            read.ask(self.wanted.image, out);
            self.step = Step::Loading(read);
        }
    }

    /// Gives up what was staged so far.
    pub(super) fn abort(&mut self, ledger: &mut Ledger) {
        match self.step {
            Step::Loading(_) | Step::Copying(..) | Step::Staged => {
                ledger.stage_abort(self.wanted.number);
            }
            Step::Sweeping | Step::Pausing(_) => (),
        }
        self.step = Step::Sweeping;
    }

    pub(in crate::node) fn link_lost(&mut self) {
        if let Step::Copying(copy, _) = &mut self.step {
            copy.link_lost();
        }
    }

    // ---- what comes back ----

    /// The disk did something for an image.
    pub(in crate::node) fn reply(
        &mut self,
        image: MoveNumber,
        reply: ImageReply,
        ledger: &mut Ledger,
        now: Now,
        out: &mut Outbox,
    ) {
        if image != self.wanted.image {
            return;
        }
        match (&mut self.step, reply) {
            (Step::Loading(_) | Step::Copying(..), ImageReply::Missing) => {
                // It may have gone while it was being read in: all begins anew behind the copy.
                self.abort(ledger);
                self.is_copy_due = true;
            }
            (Step::Loading(read) | Step::Copying(_, read), ImageReply::Records(pages))
                if read.awaits(&pages) =>
            {
                self.take(&pages, ledger, now, out);
            }
            (Step::Copying(copy, _), ImageReply::Written) if copy.is_writing() => copy.written(),
            (Step::Copying(copy, read), ImageReply::Complete) if copy.is_writing() => {
                self.is_copy_due = false;
                let read = *read;
                self.step = Step::Loading(read);
                self.go_on(ledger, now, out);
            }
            // What was asked for before all began anew.
            (
                Step::Sweeping
                | Step::Loading(_)
                | Step::Copying(..)
                | Step::Pausing(_)
                | Step::Staged,
                _,
            ) => (),
        }
    }

    /// Takes in the next pages, and asks for more.
    fn take(&mut self, pages: &Pages, ledger: &mut Ledger, now: Now, out: &mut Outbox) {
        for CheckpointRecords { section, records } in &pages.records {
            if let Err(error) = ledger.stage_load(*section, records) {
                self.refuse(&error, ledger, now, out);
                return;
            }
        }
        let (Step::Loading(read) | Step::Copying(_, read)) = &mut self.step else {
            return;
        };
        read.taken = pages.next;
        read.end = Some(pages.end);
        self.go_on(ledger, now, out);
    }

    /// Asks for more pages, or ends if all of them are taken in and the image is whole.
    fn go_on(&mut self, ledger: &mut Ledger, now: Now, out: &mut Outbox) {
        let image = self.wanted.image;
        match &mut self.step {
            Step::Loading(read) if read.end == Some(read.taken) => self.check(ledger, now, out),
            Step::Loading(read) => {
                read.all_there();
                read.ask(image, out);
            }
            Step::Copying(copy, read) => {
                read.there = copy.page_count();
                read.ask(image, out);
            }
            Step::Sweeping | Step::Pausing(_) | Step::Staged => (),
        }
    }

    /// All is read in: is it what the source handed over?
    fn check(&mut self, ledger: &mut Ledger, now: Now, out: &mut Outbox) {
        match ledger.stage_end() {
            Ok(stage) if stage.digest != self.wanted.digest => {
                self.refuse(&"its digest differs", ledger, now, out);
            }
            Ok(stage) if stage.account_count != self.wanted.account_count => {
                let text = format!(
                    "it has {} accounts, handed over were {}",
                    stage.account_count, self.wanted.account_count
                );
                self.refuse(&text, ledger, now, out);
            }
            Ok(_) => self.step = Step::Staged,
            Err(error) => self.refuse(&error, ledger, now, out),
        }
    }

    /// The image is not what it must be: it goes, and is copied anew.
    fn refuse(&mut self, why: &dyn fmt::Display, ledger: &mut Ledger, now: Now, out: &mut Outbox) {
        let Wanted { number, image, .. } = self.wanted;
        let text = format!("the image {image} is not taken for move {number}: {why}");
        say(out, Level::Alarm, text);
        self.abort(ledger);
        self.is_copy_due = true;
        self.attempt_count += 1;
        if ATTEMPT_COUNT_MAX <= self.attempt_count {
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Now) {
        self.attempt_count = 0;
        self.step = Step::Pausing(now.tick.plus_ms(PAUSE_MS));
    }

    /// A piece came from the backup.
    pub(in crate::node) fn part(
        &mut self,
        part: &MoveFilePart<'_>,
        ledger: &mut Ledger,
        now: Now,
        out: &mut Outbox,
    ) {
        let Step::Copying(copy, _) = &mut self.step else {
            return;
        };
        match copy.arrived(part, out) {
            Arrived::Fine => self.go_on(ledger, now, out),
            Arrived::Missing => {
                self.is_missing = true;
                let Wanted { number, image, .. } = self.wanted;
                let text = format!("the backup has no image {image} for move {number}");
                say(out, Level::Alarm, text);
                self.abort(ledger);
                self.pause(now);
            }
            Arrived::Wrong => {
                let why = "the backup sent another piece than was asked for";
                self.refuse(&why, ledger, now, out);
            }
        }
    }

    /// The disk could not do its part of it. False: it was none.
    pub(in crate::node) fn failed(
        &mut self,
        failure: &Failure<'_>,
        ledger: &mut Ledger,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        let Failure {
            request,
            fault,
            text,
        } = *failure;
        let (DiskRequest::LoadMoveFile { number: image, .. }
        | DiskRequest::WriteMoveFile { number: image, .. }) = request
        else {
            return false;
        };
        if *image != self.wanted.image {
            return true;
        }
        match fault {
            DiskFault::Damage => self.refuse(&text, ledger, now, out),
            DiskFault::NoSpace
            | DiskFault::Poisoned
            | DiskFault::NoMoveFile(_)
            | DiskFault::Other => {
                let text = format!("image {image} cannot be taken in now: {text}");
                say(out, Level::Warn, text);
                self.abort(ledger);
                self.pause(now);
            }
        }
        true
    }
}
