//! From an unknown folder to a log that agrees with the backup and is replayed.
//!
//! ```text
//! Identity -> Opening -> Registering -+-> (Searching -> Cutting) -+-> Fetching -> Loading -> done
//!                                     +-> (Checkpoint -> Anchoring) -> Creating -+
//! ```
//!
//! The first line reconciles a log that is there (restore.rs), the second one refills a folder
//! that is empty or damaged. A lost link stops nothing but what waits for the backup: that is
//! asked again once the same incarnation is registered again.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::{Now, Tick};
use crate::ledger::{Ledger, LedgerOptions};
use crate::log::Verify;
use crate::model::{LogEnd, LogTime};
use crate::protocol::{CheckpointPart, Fetched};
use crate::role::{
    CheckpointInfo, DiskFault, DiskReply, DiskRequest, Effect, FileName, Level, LogReport, LogView,
    Outbox, PeerId,
};

use super::identity::Identity;
use super::moves::Kept;
use super::replay::Replay;
use super::restore::{CheckpointCopy, Fetching, Search};
use super::shared::{Failure, Grant, Halt, LocalLog, Shared, Standing, say};

/// How far a start is.
#[derive(Debug)]
pub(super) enum Step {
    /// The identity file is being read.
    Identity,
    /// The log is being opened.
    Opening,
    /// The first grant is waited for.
    Registering,
    /// Own blocks are read to find where the common history ends.
    Searching(Search),
    /// What does not belong to the common history is being put aside.
    Cutting {
        /// What stays.
        to: LogEnd,
    },
    /// The backup's checkpoint is being copied.
    Checkpoint(CheckpointCopy),
    /// The first blocks behind the checkpoint's segment are asked for, to learn what they follow.
    Anchoring {
        /// The checkpoint.
        checkpoint: CheckpointInfo,
    },
    /// An empty log is being made.
    Creating {
        /// Where it begins.
        after: LogEnd,
        /// The checkpoint that was copied for it.
        checkpoint: Option<CheckpointInfo>,
    },
    /// Blocks are being copied from the backup.
    Fetching(Fetching),
    /// Checkpoint and log are read into the ledger.
    Replaying(Box<Replay>),
}

/// A node that does not serve yet.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) step: Step,
    pub(super) local: Option<LocalLog>,
    pub(super) grant: Option<Grant>,
    /// Reads for a backup that is made again, in their order: for which of its connections.
    pub(super) gives: VecDeque<PeerId>,
}

/// What a finished start hands over.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) ledger: Ledger,
    pub(super) local: LocalLog,
    pub(super) grant: Grant,
    pub(super) verify: Verify,
    /// First log time of the segments that were replayed, by segment.
    pub(super) segment_times: Vec<(u64, LogTime)>,
    /// What the log needs to be kept for its moves.
    pub(super) kept: Kept,
}

impl Start {
    pub(super) fn begin(out: &mut Outbox) -> Self {
        out.effect(Effect::Disk(DiskRequest::LoadFile {
            name: FileName::Identity,
        }));
        Self {
            step: Step::Identity,
            local: None,
            grant: None,
            gives: VecDeque::new(),
        }
    }

    /// What a registration says.
    pub(super) fn standing(&self) -> Standing<'_> {
        match &self.local {
            Some(local) => Standing {
                log: Some(local.log),
                end: local.end,
                committed: local.committed,
                terms: &local.terms,
            },
            None => Standing::EMPTY,
        }
    }

    /// The first grant of this life is kept; a later one must fit it.
    pub(super) fn granted(&mut self, grant: Grant) -> Result<(), Halt> {
        match &self.grant {
            Some(first) if !matches!(self.step, Step::Registering) => {
                if first.end != grant.end {
                    return Err(Halt::damage(format!(
                        "the backup's copy of log {} moved from block {} to block {} while this \
                         node was starting: another process has this log",
                        grant.log, first.end.seq, grant.end.seq
                    )));
                }
            }
            Some(_) | None => self.grant = Some(grant),
        }
        Ok(())
    }

    /// The link is registered, and the identity is saved.
    pub(super) fn link_up(&mut self, shared: &mut Shared, out: &mut Outbox) -> Result<(), Halt> {
        match &mut self.step {
            Step::Registering => self.reconcile(shared, out),
            Step::Checkpoint(_) | Step::Anchoring { .. } | Step::Fetching(_) => {
                self.ask_again(shared, out);
                Ok(())
            }
            Step::Identity
            | Step::Opening
            | Step::Searching(_)
            | Step::Cutting { .. }
            | Step::Creating { .. }
            | Step::Replaying(_) => Ok(()),
        }
    }

    /// Takes a reply of the disk.
    pub(super) fn disk(
        &mut self,
        reply: DiskReply,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        match reply {
            DiskReply::FileLoaded { bytes, .. } => {
                return self.identity_loaded(bytes.as_deref(), shared, now, out);
            }
            DiskReply::LogOpened { report, view, .. } => {
                let found = report.zip(view);
                return if matches!(self.step, Step::Opening) {
                    self.log_opened(found, shared, now, out)
                } else {
                    self.log_created(found, shared, out)
                };
            }
            DiskReply::LogCut { aside_size, .. } => {
                return self.log_cut(aside_size, shared, out);
            }
            DiskReply::Durable { end, .. } => return self.durable(end, shared, out),
            DiskReply::BlocksRead { blocks, .. } => {
                return self.blocks_read(&blocks, shared, out);
            }
            DiskReply::CheckpointWritten { info, .. } => {
                self.checkpoint_written(info, shared, out);
            }
            DiskReply::CheckpointLoaded { records, .. } => {
                return self.checkpoint_loaded(records, out);
            }
            reply @ (DiskReply::MoveFileLoaded { .. } | DiskReply::MoveFileWritten { .. }) => {
                self.image_reply(reply, now, out);
            }
            DiskReply::FreeSpace { size } => shared.free_size = Some(size),
            DiskReply::Failed {
                request,
                fault,
                text,
            } => {
                return self.failed(
                    &Failure {
                        request: &request,
                        fault: &fault,
                        text: &text,
                    },
                    shared,
                    now,
                    out,
                );
            }
            DiskReply::FileSaved { .. }
            | DiskReply::EntryRead { .. }
            | DiskReply::SegmentReady { .. }
            | DiskReply::CheckpointMade { .. }
            | DiskReply::Retired { .. }
            | DiskReply::CheckpointRead { .. }
            | DiskReply::ReplicaAt { .. }
            | DiskReply::Audited { .. }
            | DiskReply::Surveyed { .. }
            | DiskReply::HandOverBuilt { .. }
            | DiskReply::ImagesDrafted { .. }
            | DiskReply::MoveFileRead { .. }
            | DiskReply::MoveFilesKept => (),
        }
        Ok(())
    }

    fn identity_loaded(
        &mut self,
        bytes: Option<&[u8]>,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Some(bytes) = bytes else {
            self.register_when_dialled(shared, now);
            return Ok(());
        };
        let identity = match Identity::read(bytes) {
            Ok((identity, known)) => {
                shared.known = known;
                identity
            }
            Err(error) => {
                self.lose_folder(
                    &format!("the identity file is damaged: {error}"),
                    shared,
                    now,
                    out,
                );
                return Ok(());
            }
        };
        if identity.node != shared.options.id {
            return Err(Halt::damage(format!(
                "this folder belongs to node {}, not to node {}",
                identity.node, shared.options.id
            )));
        }
        if let Some(cluster) = shared.cluster
            && cluster != identity.cluster
        {
            return Err(Halt::damage(format!(
                "this folder belongs to cluster {}, not to cluster {cluster}",
                identity.cluster
            )));
        }
        shared.cluster = Some(identity.cluster);
        shared.identity = Some(identity);
        self.step = Step::Opening;
        out.effect(Effect::Disk(DiskRequest::OpenLog { log: identity.log }));
        Ok(())
    }

    fn log_opened(
        &mut self,
        found: Option<(LogReport, Arc<dyn LogView>)>,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Some((report, view)) = found else {
            let text = "this folder knows who it is, but its log is gone, or was never begun";
            self.lose_folder(text, shared, now, out);
            return Ok(());
        };
        let identity = shared.identity.expect("it said which log to open");
        if report.cluster != identity.cluster {
            return Err(Halt::damage(format!(
                "log {} in this folder belongs to cluster {}, the folder itself to cluster {}",
                identity.log, report.cluster, identity.cluster
            )));
        }
        if let Some(torn) = &report.torn {
            say(out, Level::Warn, format!("log {}: {torn}", identity.log));
        }
        if let Some(damage) = &report.damage {
            let text = format!(
                "log {} is damaged: {damage}; what follows block {} is put aside and comes \
                 from the backup",
                identity.log, report.end.seq
            );
            say(out, Level::Alarm, text);
        }
        let begins_late = report.segment_size <= report.first_offset;
        if begins_late && report.checkpoint.is_none() {
            let text = "the log does not begin at its beginning, and no checkpoint verifies";
            self.lose_folder(text, shared, now, out);
            return Ok(());
        }
        self.local = Some(LocalLog {
            log: identity.log,
            segment_size: report.segment_size,
            first_offset: report.first_offset,
            end: report.end,
            committed: report.committed,
            terms: report.terms,
            checkpoint: report.checkpoint,
            dirty: report.torn.is_some() || report.damage.is_some(),
            damaged: report.damage.is_some(),
            view,
        });
        self.register_when_dialled(shared, now);
        Ok(())
    }

    /// Gives up what is in the folder: nothing of it is used, the backup has it all.
    fn lose_folder(&mut self, text: &str, shared: &mut Shared, now: Now, out: &mut Outbox) {
        let text = format!("{text}; the folder is refilled from the backup");
        say(out, Level::Alarm, text);
        self.local = None;
        self.register_when_dialled(shared, now);
    }

    fn register_when_dialled(&mut self, shared: &mut Shared, now: Now) {
        self.step = Step::Registering;
        shared.link.want(now);
    }

    fn failed(
        &mut self,
        failure: &Failure<'_>,
        shared: &mut Shared,
        now: Now,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        let Failure {
            request,
            fault,
            text,
        } = *failure;
        let opening = matches!(self.step, Step::Identity | Step::Opening);
        if opening && *fault == DiskFault::Damage {
            self.lose_folder(text, shared, now, out);
            return Ok(());
        }
        if self.move_file_failed(failure, now, out) {
            return Ok(());
        }
        let copying = matches!(request, DiskRequest::WriteCheckpoint { .. });
        if copying && *fault == DiskFault::Damage {
            return self.checkpoint_refused(text, shared, out);
        }
        if matches!(request, DiskRequest::PrepareSegment { .. }) && *fault != DiskFault::Poisoned {
            say(
                out,
                Level::Warn,
                format!("no spare segment could be made: {text}"),
            );
            return Ok(());
        }
        Err(Halt::damage(format!("the disk failed: {text}")))
    }

    pub(super) fn deadline(&self) -> Option<Tick> {
        match &self.step {
            Step::Replaying(replay) => replay.deadline(),
            Step::Identity
            | Step::Opening
            | Step::Registering
            | Step::Searching(_)
            | Step::Cutting { .. }
            | Step::Checkpoint(_)
            | Step::Anchoring { .. }
            | Step::Creating { .. }
            | Step::Fetching(_) => None,
        }
    }

    // ---- messages ----

    pub(super) fn fetched(
        &mut self,
        fetched: &Fetched<'_>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        match &self.step {
            Step::Anchoring { checkpoint } => {
                let checkpoint = *checkpoint;
                self.anchor(checkpoint, fetched, shared, out)
            }
            Step::Fetching(_) => self.take_blocks(fetched, shared, out),
            Step::Identity
            | Step::Opening
            | Step::Registering
            | Step::Searching(_)
            | Step::Cutting { .. }
            | Step::Checkpoint(_)
            | Step::Creating { .. }
            | Step::Replaying(_) => Ok(()),
        }
    }

    pub(super) fn checkpoint_part(
        &mut self,
        part: &CheckpointPart<'_>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Result<(), Halt> {
        match self.step {
            Step::Checkpoint(_) => self.take_checkpoint_part(part, shared, out),
            Step::Identity
            | Step::Opening
            | Step::Registering
            | Step::Searching(_)
            | Step::Cutting { .. }
            | Step::Anchoring { .. }
            | Step::Creating { .. }
            | Step::Fetching(_)
            | Step::Replaying(_) => Ok(()),
        }
    }

    /// The log agrees with the backup as far as that goes: reads it into the ledger.
    pub(super) fn replay(&mut self, shared: &Shared, out: &mut Outbox) -> Result<(), Halt> {
        let grant = self.grant.as_ref().expect("granted before reconciled");
        let local = self.local.as_ref().expect("there is a log by now");
        let ledger = Ledger::new(LedgerOptions {
            ring_key: grant.ring_key,
            id_count_max: shared.options.id_count_max,
            keep_ids: true,
        });
        if let Some(checkpoint) = &local.checkpoint
            && local.end.seq < checkpoint.end.seq
        {
            return Err(Halt::damage(format!(
                "the checkpoint of log {} stands for block {}, the agreed history ends at block {}",
                local.log, checkpoint.end.seq, local.end.seq
            )));
        }
        let replay = Replay::begin(ledger, local, self.verify(shared), out);
        self.step = Step::Replaying(Box::new(replay));
        Ok(())
    }

    /// What blocks of the log are verified against.
    pub(super) fn verify(&self, shared: &Shared) -> Verify {
        let grant = self.grant.as_ref().expect("granted");
        Verify {
            log: grant.log,
            cluster: shared
                .cluster
                .expect("the backup said it before it granted"),
            segment_size: grant.segment_size,
        }
    }

    /// Hands over once the ledger stands at the log's end. Asked after every input.
    pub(super) fn finished(&mut self) -> Result<Option<Started>, Halt> {
        let Step::Replaying(replay) = &self.step else {
            return Ok(None);
        };
        let local = self.local.as_ref().expect("it is being replayed");
        if !replay.is_done(local)? {
            return Ok(None);
        }
        let Step::Replaying(replay) = std::mem::replace(&mut self.step, Step::Registering) else {
            return Ok(None);
        };
        let local = self.local.take().expect("it was replayed");
        let grant = self.grant.take().expect("it was granted");
        Ok(Some(replay.finish(local, grant)))
    }
}
