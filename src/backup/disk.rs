//! What the disk answers, and what follows when it cannot do what was asked.

use super::stream::Stream;
use super::{Running, Stage};
use crate::clock::Now;
use crate::role::{DiskFault, DiskReply, DiskRequest, Effect, ExitCode, Level, Outbox};

impl Running {
    pub(super) fn on_disk(&mut self, now: Now, reply: DiskReply, out: &mut Outbox) {
        match reply {
            DiskReply::Durable { log, end } => self.on_durable(log, end, out),
            DiskReply::FileSaved { .. } => {
                self.disk.save_failed = false;
                self.on_authority_saved(now, out);
            }
            DiskReply::LogOpened { log, report, .. } => self.on_opened_log(now, log, report, out),
            DiskReply::LogCut { log, aside_size } => self.on_cut(now, log, aside_size, out),
            DiskReply::BlocksRead {
                ticket,
                offset,
                blocks,
                ..
            } => self.on_blocks_read(ticket, offset, &blocks, out),
            DiskReply::EntryRead { ticket, entry, .. } => self.on_entry_read(ticket, entry, out),
            DiskReply::SegmentReady { log } => self.on_segment_ready(log),
            DiskReply::CheckpointMade { log, info } => self.on_checkpoint(log, Some(info), out),
            DiskReply::Retired { log, first_offset } => self.on_retired(log, first_offset),
            DiskReply::CheckpointRead {
                ticket,
                size,
                offset,
                bytes,
                ..
            } => self.on_checkpoint_read(ticket, size, offset, &bytes, out),
            DiskReply::FreeSpace { size } => {
                self.disk.measuring = false;
                self.disk.free_size = Some(size);
                self.become_ready(now, out);
            }
            DiskReply::ReplicaAt {
                log,
                end,
                digest,
                memory_size,
                events,
            } => {
                self.on_move_events(now, log, &events, out);
                self.on_replica_at(log, end, digest, memory_size, out);
            }
            DiskReply::HandOverBuilt { log, block, end } => {
                self.on_hand_over_built(log, block, end, out);
            }
            DiskReply::ImagesDrafted { log } => self.on_images_drafted(log, None, out),
            DiskReply::MoveFileRead {
                ticket,
                size,
                offset,
                bytes,
                ..
            } => self.on_move_file_read(ticket, size, offset, &bytes, out),
            DiskReply::MoveFilesKept => self.on_images_kept(None, out),
            DiskReply::Audited { ticket, rows } => self.on_audited(now, ticket, &rows, out),
            DiskReply::Failed {
                request,
                fault,
                text,
            } => self.on_failed(now, &request, &fault, &text, out),
            DiskReply::FileLoaded { .. }
            | DiskReply::CheckpointLoaded { .. }
            | DiskReply::CheckpointWritten { .. }
            | DiskReply::MoveFileWritten { .. }
            | DiskReply::Surveyed { .. }
            | DiskReply::MoveFileLoaded { .. } => {
                let text = "the disk answers what was not asked".to_owned();
                self.alarm_and_exit(text, out);
            }
        }
    }

    fn on_opened_log(
        &mut self,
        now: Now,
        log: crate::model::LogNumber,
        report: Option<crate::role::LogReport>,
        out: &mut Outbox,
    ) {
        let opening = self.streams.get(&log).is_some_and(Stream::is_opening);
        if opening {
            self.on_recovered(now, log, report, out);
            return;
        }
        match (self.streams.get_mut(&log), report) {
            (Some(stream), Some(report)) if !stream.exists() => {
                stream.opened(report);
                self.on_created(log);
            }
            _ => {
                let text = format!("log {log} was to be made, and is not there");
                self.alarm_and_exit(text, out);
            }
        }
    }

    /// A request could not be carried out. A failed write or sync ends the process at once.
    fn on_failed(
        &mut self,
        now: Now,
        request: &DiskRequest,
        fault: &DiskFault,
        text: &str,
        out: &mut Outbox,
    ) {
        if *fault == DiskFault::Poisoned {
            self.poisoned(text, out);
            return;
        }
        let lacks_room = *fault == DiskFault::NoSpace;
        match request {
            DiskRequest::Append { log, end, .. } if lacks_room => {
                self.on_append_no_room(*log, end.seq, text, out);
            }
            DiskRequest::SaveFile { .. } if lacks_room => self.on_save_failed(now, text, out),
            DiskRequest::CreateLog { log, .. } if lacks_room => self.on_not_created(*log, out),
            DiskRequest::Append { .. }
            | DiskRequest::SaveFile { .. }
            | DiskRequest::CreateLog { .. }
            | DiskRequest::LoadFile { .. }
            | DiskRequest::OpenLog { .. }
            | DiskRequest::CutLog { .. }
            | DiskRequest::LoadCheckpoint { .. }
            | DiskRequest::WriteCheckpoint { .. }
            | DiskRequest::WriteMoveFile { .. }
            | DiskRequest::Survey { .. }
            | DiskRequest::LoadMoveFile { .. } => {
                self.alarm_and_exit(format!("the disk failed: {text}"), out);
            }
            DiskRequest::ReadBlocks { ticket, .. }
            | DiskRequest::Scrub { ticket, .. }
            | DiskRequest::ReadEntry { ticket, .. }
            | DiskRequest::ReadCheckpoint { ticket, .. }
            | DiskRequest::ReadMoveFile { ticket, .. } => {
                self.on_read_failed(*ticket, fault, text, out);
            }
            DiskRequest::PrepareSegment { log, .. } => {
                self.say(Level::Warn, format!("no spare segment: {text}"), out);
                self.on_segment_failed(*log, fault);
            }
            DiskRequest::MakeCheckpoint { log, .. } => {
                self.say(
                    background_level(fault),
                    format!("no checkpoint: {text}"),
                    out,
                );
                self.on_checkpoint(*log, None, out);
            }
            DiskRequest::RetireSegments { log, .. } => {
                self.say(background_level(fault), format!("not retired: {text}"), out);
                self.on_retire_failed(*log);
            }
            DiskRequest::MeasureFreeSpace => {
                self.say(Level::Warn, format!("free space is unknown: {text}"), out);
                self.disk.measuring = false;
                self.disk.free_size = Some(0);
                self.become_ready(now, out);
            }
            DiskRequest::AdvanceReplica { log, .. } => {
                self.on_replica_failed(*log, fault, text, out);
            }
            DiskRequest::BuildHandOver { log, .. } => self.on_hand_over_failed(*log, text, out),
            DiskRequest::DraftImages { log, .. } => self.on_images_drafted(*log, Some(text), out),
            DiskRequest::KeepMoveFiles { .. } => self.on_images_kept(Some(text), out),
            DiskRequest::Audit { ticket, .. } => self.on_audit_failed(*ticket, text, out),
        }
    }

    /// There was no room for the authority's file: nobody hears of the change until there is.
    fn on_save_failed(&mut self, now: Now, text: &str, out: &mut Outbox) {
        self.authority.save_failed();
        if !self.disk.save_failed {
            let text = format!("no room for the authority's file: {text}");
            self.say(Level::Alarm, text, out);
        }
        self.disk.save_failed = true;
        self.disk.exhausted = true;
        self.disk.save_due = now.tick.plus_ms(self.options.limits.free_space_ms);
    }

    /// Ends the process once everything that was accepted is durable and acknowledged.
    pub(super) fn try_to_end(&mut self, out: &mut Outbox) {
        assert!(self.stage == Stage::Stopping);
        let quiet = self.streams.values().all(Stream::is_quiet);
        let saved = self.authority.is_durable() || self.disk.save_failed;
        if !quiet || !saved || self.authority.is_saving() {
            return;
        }
        for (peer, state) in &self.peers {
            if !state.is_closing() {
                out.effect(Effect::Close {
                    peer: *peer,
                    reason: "the backup ends".to_owned(),
                });
            }
        }
        self.exit(ExitCode::Ok, "stopped".to_owned(), out);
    }
}

fn background_level(fault: &DiskFault) -> Level {
    match fault {
        DiskFault::Damage => Level::Alarm,
        DiskFault::Poisoned | DiskFault::NoSpace | DiskFault::NoMoveFile(_) | DiskFault::Other => {
            Level::Warn
        }
    }
}
