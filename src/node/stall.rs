//! Appends that found no room for the next segment: they are made again once there is some.
//!
//! Nothing of such a block is on the disk, and those behind it do not fit either. They stay applied
//! and uncommitted; no new change is taken meanwhile.

use crate::clock::Now;
use crate::model::{LogEnd, Seq};
use crate::role::{DiskFault, DiskRequest, Effect, Level, Outbox};

use super::running::Running;
use super::shared::say;

/// Appends wait for room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    /// Last block that the disk was given.
    issued: Seq,
    /// Last block of which the disk said that it could not be appended.
    failed: Seq,
    /// There is a segment to go on with.
    has_room: bool,
}

impl Running {
    /// Gives a block to the disk, unless those before it wait.
    pub(super) fn append(&self, block: &bytes::Bytes, end: LogEnd, out: &mut Outbox) {
        if self.stall.is_none() {
            out.effect(Effect::Disk(DiskRequest::Append {
                log: self.verify.log,
                block: block.clone(),
                end,
            }));
        }
    }

    /// An append failed and changed nothing. False: that is not for lack of room.
    pub(super) fn append_failed(
        &mut self,
        end: &LogEnd,
        fault: &DiskFault,
        text: &str,
        now: Now,
        out: &mut Outbox,
    ) -> bool {
        if let Some(stall) = &mut self.stall {
            // Behind the first one none fits.
            stall.failed = stall.failed.max(end.seq);
        } else if *fault == DiskFault::NoSpace {
            let (log, seq) = (self.verify.log, end.seq);
            let text = format!("log {log}: block {seq} waits for room: {text}");
            say(out, Level::Alarm, text);
            self.stall = Some(Stall {
                issued: self.applied.seq,
                failed: seq,
                has_room: false,
            });
            self.upkeep.needs_segment(now);
        } else {
            return false;
        }
        self.append_again(out);
        true
    }

    /// There is a segment behind the last one.
    pub(super) fn segment_ready(&mut self, out: &mut Outbox) {
        self.upkeep.segment_ready();
        if let Some(stall) = &mut self.stall {
            stall.has_room = true;
            self.append_again(out);
        }
    }

    /// Once there is room, and the disk has said of all that it was given that it cannot be
    /// appended, it is given that anew, and what was made since.
    fn append_again(&mut self, out: &mut Outbox) {
        let may_go_on = |stall: &Stall| stall.has_room && stall.issued <= stall.failed;
        if self.stall.take_if(|stall| may_go_on(stall)).is_none() {
            return;
        }
        for block in self.commit.not_durable() {
            self.append(&block.bytes, block.end, out);
        }
    }
}
