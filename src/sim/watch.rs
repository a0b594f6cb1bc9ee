//! Looks over the shoulders of all: what becomes durable where, and what leaves a process.
//!
//! Keeps what the auditor needs (the blocks that the backup made durable, the audits it took), and
//! tests at once what can be told from the wire: that an acknowledgement names only what is
//! durable, that a receipt leaves a node only when its entry is durable on both sides, and that
//! two lives of a node that stand at the same committed block have the same digest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::auditor::{AuditSeen, LogSeen};
use super::clock::{At, MS};
use super::machine::Kind;
use super::marks::Marks;
use super::network::EndId;
use super::world::World;
use crate::disk::{DiskOptions, FolderKind, open_on};
use crate::limits::{FETCH_SIZE_MAX, LINK_FRAME_SIZE_MAX, LOG_TIME_AHEAD_MS_MAX};
use crate::log::{Fault, MemoryMedium, Verify, blocks};
use crate::model::{ClusterId, LogEnd, LogNumber, Seq};
use crate::protocol::{Beat, Frame, FrameKind, Message, split};
use crate::role::{DiskReply, DiskRequest, Lane, Lanes, Link};

/// How far log time may run ahead of the backup's clock: what is promised, and what a wrong rate
/// adds to what a node last heard of that clock.
const AHEAD_MS_MAX: u64 = LOG_TIME_AHEAD_MS_MAX + 500;

/// One log as it is durable at the backup.
#[derive(Debug)]
struct Witnessed {
    seen: LogSeen,
    end: LogEnd,
}

/// What is wrong with something that a disk did.
#[derive(Debug)]
pub(super) enum Wrong {
    /// The backup's disk lacks blocks that were durable on it: damage leads to that.
    Short(String),
    /// Nothing leads to that.
    Never(String),
}

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Self::Never(text)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    cluster: Option<ClusterId>,
    segment_size: u64,
    logs: BTreeMap<LogNumber, Witnessed>,
    /// Where each log ends on the disk that the backup has now.
    backup_ends: BTreeMap<LogNumber, LogEnd>,
    /// Logs that were damaged there.
    damaged: BTreeSet<LogNumber>,
    pub(super) audits: Vec<AuditSeen>,
    /// Where a node's own log is durable, by machine.
    node_ends: BTreeMap<usize, LogEnd>,
    /// Grants that a node has and that its identity file does not show yet, by machine.
    grants_unsaved: BTreeMap<usize, u32>,
    /// Digests that nodes told of committed blocks.
    digests: BTreeMap<(LogNumber, Seq), u128>,
    /// The log and the term that a node last worked under, by machine.
    pub(super) beats: BTreeMap<usize, Beat>,
    pub(super) log_of: BTreeMap<usize, LogNumber>,
    /// In its present life the backup found a log that ends before what was committed.
    pub(super) backup_found_damage: bool,
    /// The backup is being made again: its logs begin anew.
    pub(super) is_refilling: bool,
    /// Steps of moves that are durable at the backup.
    pub(super) marks: Marks,
    /// The latest date that the backup's clock has shown, Unix ms, or would have if it had not
    /// jumped back: a node that slept meanwhile goes by what it knew.
    backup_wall_ms: u64,
    /// When that was.
    backup_wall_at: At,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn backup_shows(&mut self, wall_ms: u64, at: At) {
        let passed_ms = (at - self.backup_wall_at).div_euclid(MS);
        self.backup_wall_ms = wall_ms.max(self.backup_wall_ms + passed_ms);
        self.backup_wall_at += passed_ms * MS;
    }

    /// What blocks are verified against.
    pub(super) const fn set_cluster(&mut self, cluster: ClusterId, segment_size: u64) {
        self.cluster = Some(cluster);
        self.segment_size = segment_size;
    }

    /// The logs, for the auditor.
    pub(super) fn logs(&self) -> BTreeMap<LogNumber, LogSeen> {
        let logs = self.logs.iter();
        logs.map(|(log, witnessed)| (*log, witnessed.seen.clone()))
            .collect()
    }

    /// Where each log is durable at the backup.
    pub(super) fn ends(&self) -> impl Iterator<Item = (LogNumber, LogEnd)> + '_ {
        self.logs.iter().map(|(log, seen)| (*log, seen.end))
    }

    /// Where a machine's own log is durable.
    pub(super) fn own_end(&self, machine: usize) -> LogEnd {
        self.node_ends.get(&machine).copied().unwrap_or_default()
    }

    /// The machine whose log this is, as far as one has shown it.
    pub(super) fn machine_of(&self, log: LogNumber, nodes: &[usize]) -> Option<usize> {
        let is_its = |machine: &&usize| self.log_of.get(machine) == Some(&log);
        nodes.iter().find(is_its).copied()
    }

    /// A request goes to a disk. The error says what is wrong with it.
    pub(super) fn sees_request(
        &mut self,
        machine: usize,
        request: &DiskRequest,
    ) -> Result<(), String> {
        if let DiskRequest::MakeCheckpoint { log, through, .. } = request {
            let there = self.witnessed(*log).end.seq;
            let own = self.node_ends.get(&machine).map(|end| end.seq);
            let committed = there.min(own.unwrap_or(there));
            if committed < through.seq {
                return Err(format!(
                    "a checkpoint of log {log} is to reach to block {}, {committed} is committed",
                    through.seq
                ));
            }
        }
        if let DiskRequest::CutLog { to, .. } = request
            && let Some(end) = self.node_ends.get_mut(&machine)
            && to.seq < end.seq
        {
            // A tail that contradicts the backup's is put aside, or begins to be.
            *end = *to;
        }
        Ok(())
    }

    /// A machine got an empty disk.
    pub(super) fn forget_disk(&mut self, machine: usize) {
        self.node_ends.remove(&machine);
    }

    /// A process is gone, and with it what it was granted.
    pub(super) fn forget_grants(&mut self, machine: usize) {
        self.grants_unsaved.remove(&machine);
    }

    /// Does the disk of each of these machines have just what the backup has of its log?
    pub(super) fn is_level(&self, machines: &[usize]) -> bool {
        machines.iter().all(|machine| {
            let own = self.node_ends.get(machine).map(|end| (end.seq, end.chain));
            let log = self.log_of.get(machine);
            let there = log.and_then(|log| self.logs.get(log));
            own == there.map(|there| (there.end.seq, there.end.chain))
        })
    }

    fn witnessed(&mut self, log: LogNumber) -> &mut Witnessed {
        let cluster = self.cluster.expect("the world names its cluster");
        let segment_size = self.segment_size;
        self.logs.entry(log).or_insert_with(|| Witnessed {
            seen: LogSeen {
                verify: Verify {
                    log,
                    cluster,
                    segment_size,
                },
                blocks: Vec::new(),
            },
            end: LogEnd::default(),
        })
    }

    /// Keeps what the replies will not repeat.
    pub(super) fn sees_requests(
        &self,
        _machine: usize,
        requests: &[DiskRequest],
    ) -> Vec<DiskRequest> {
        let matters = |request: &&DiskRequest| {
            matches!(
                request,
                DiskRequest::Append { .. } | DiskRequest::Audit { .. }
            )
        };
        requests.iter().filter(matters).cloned().collect()
    }

    /// Something became durable, or was found to be. The error says what was lost.
    pub(super) fn saw_replies(
        &mut self,
        machine: usize,
        kind: Kind,
        at: At,
        requests: Vec<DiskRequest>,
        replies: &[DiskReply],
        medium: Option<&MemoryMedium>,
    ) -> Result<(), Wrong> {
        for reply in replies {
            if matches!(reply, DiskReply::FileSaved { .. })
                && let Some(count) = self.grants_unsaved.get_mut(&machine)
            {
                *count = count.saturating_sub(1);
            }
            match (kind, reply) {
                (Kind::Backup, DiskReply::Durable { log, end }) => {
                    self.backup_durable(*log, *end, &requests, at)?;
                }
                (
                    Kind::Backup,
                    DiskReply::LogOpened {
                        log,
                        report: Some(report),
                        ..
                    },
                ) => {
                    self.backup_found_damage |=
                        report.damage.is_some() || report.end.seq < report.committed;
                    self.backup_opened(*log, &report.end, medium, at)?;
                }
                (Kind::Backup, DiskReply::Audited { ticket, rows }) => {
                    self.audited(*ticket, rows, &requests);
                }
                (Kind::Node(_), DiskReply::Durable { log, end }) => {
                    self.log_of.insert(machine, *log);
                    self.node_ends.insert(machine, *end);
                }
                (
                    Kind::Node(_),
                    DiskReply::LogOpened {
                        log,
                        report: Some(report),
                        ..
                    },
                ) => {
                    self.log_of.insert(machine, *log);
                    self.node_opened(machine, *log, &report.end)?;
                }
                _ => (),
            }
        }
        Ok(())
    }

    fn audited(
        &mut self,
        ticket: u64,
        rows: &[crate::protocol::AuditRow],
        requests: &[DiskRequest],
    ) {
        for request in requests {
            if let DiskRequest::Audit {
                ends,
                ticket: asked,
                ..
            } = request
                && *asked == ticket
            {
                self.audits.push(AuditSeen {
                    ends: ends.clone(),
                    rows: rows.to_vec(),
                });
            }
        }
    }

    fn backup_durable(
        &mut self,
        log: LogNumber,
        end: LogEnd,
        requests: &[DiskRequest],
        at: At,
    ) -> Result<(), Wrong> {
        self.backup_ends.insert(log, end);
        for request in requests {
            if let DiskRequest::Append {
                log: of,
                block,
                end: block_end,
            } = request
                && *of == log
                && block_end.seq <= end.seq
            {
                self.add(log, block.clone(), *block_end, at)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, log: LogNumber, block: Bytes, end: LogEnd, at: At) -> Result<(), String> {
        let witnessed = self.witnessed(log);
        if end.seq <= witnessed.end.seq {
            // Damage took it from the end, and the node that still has it sent it again.
            let index = crate::model::to_usize(end.seq.0 - 1);
            let known = witnessed.seen.blocks.get(index);
            return if known.is_some_and(|(known, _)| *known == block) {
                Ok(())
            } else {
                Err(format!(
                    "log {log}: another block {} is made durable at the backup",
                    end.seq
                ))
            };
        }
        if end.seq != witnessed.end.seq.next() {
            return Err(format!(
                "log {log}: block {} follows block {} at the backup",
                end.seq, witnessed.end.seq
            ));
        }
        let verify = witnessed.seen.verify;
        witnessed.seen.blocks.push((block.clone(), at));
        witnessed.end = end;
        let noted = self.marks.note(log, &block, &verify);
        let passed_ms = at.saturating_sub(self.backup_wall_at).div_euclid(MS);
        if self.backup_wall_ms + passed_ms + AHEAD_MS_MAX < end.time.ms() {
            return Err(format!(
                "log {log}: block {} has log time {} ms, the backup's clock was never beyond {} ms",
                end.seq,
                end.time.ms(),
                self.backup_wall_ms
            ));
        }
        noted
    }

    /// The backup opened a log: nothing that was durable may be missing, and what was written in
    /// its last moments counts from now on.
    fn backup_opened(
        &mut self,
        log: LogNumber,
        end: &LogEnd,
        medium: Option<&MemoryMedium>,
        at: At,
    ) -> Result<(), Wrong> {
        self.backup_ends.insert(log, *end);
        let witnessed = self.witnessed(log);
        let (known, verify) = (witnessed.end, witnessed.seen.verify);
        if end.seq < known.seq && self.is_refilling {
            return Ok(());
        }
        if end.seq < known.seq || (end.seq == known.seq && end.chain != known.chain) {
            return Err(Wrong::Short(format!(
                "log {log}: the backup made block {} durable and comes back with block {}",
                known.seq, end.seq
            )));
        }
        if end.seq == known.seq {
            return Ok(());
        }
        let medium = medium.ok_or_else(|| "a backup has a disk".to_owned())?;
        for bytes in read_on(medium, log, &verify, known.offset)? {
            let mut at_byte = 0;
            for block in blocks(&bytes, verify) {
                let block = block.map_err(|error| error.to_string())?;
                let size = crate::model::to_usize(u64::from(block.size()));
                let block_end = block.end();
                if known.seq < block_end.seq && block_end.seq <= end.seq {
                    self.add(log, bytes.slice(at_byte..at_byte + size), block_end, at)?;
                }
                at_byte += size;
            }
        }
        if self.witnessed(log).end == *end {
            Ok(())
        } else {
            let text = format!("log {log}: the backup's blocks cannot be read again");
            Err(Wrong::Never(text))
        }
    }

    /// A node opened its log: what was committed and durable there may not be missing.
    fn node_opened(&mut self, machine: usize, log: LogNumber, end: &LogEnd) -> Result<(), Wrong> {
        let known = self.node_ends.insert(machine, *end).unwrap_or_default();
        let witnessed = self.witnessed(log);
        let committed = known.seq.min(witnessed.end.seq);
        // What the backup never had, and has another block in the place of, was not committed.
        let is_other = witnessed
            .seen
            .blocks
            .get(crate::model::to_usize(known.seq.0.saturating_sub(1)))
            .and_then(|(bytes, _)| blocks(bytes, witnessed.seen.verify).next()?.ok())
            .is_some_and(|block| block.end().chain != known.chain);
        if end.seq < committed && !is_other {
            return Err(Wrong::Short(format!(
                "log {log}: a node made block {committed} durable and comes back with block {}",
                end.seq
            )));
        }
        Ok(())
    }

    /// The backup has the disk again that it had before it was damaged, so all that was ever
    /// durable on it; its next start is held to that. Acknowledgements may still be under way that
    /// left before.
    pub(super) fn backup_is_whole_again(&mut self) {
        let ends = self.logs.iter().map(|(log, seen)| (*log, seen.end));
        self.backup_ends.extend(ends);
    }

    /// Does this node's disk have all that is durable of its log at the backup? A block of the
    /// backup's own, of a later term than the node's, is not with it.
    pub(super) fn has_all(&self, machine: usize, log: LogNumber) -> bool {
        let there = self.backup_ends.get(&log).copied().unwrap_or_default();
        let own = self.own_end(machine);
        there.seq <= own.seq && there.term <= own.term
    }

    /// A log of the backup was damaged: where it ends is what the next start finds.
    pub(super) fn forget_backup_end(&mut self, log: LogNumber) {
        self.backup_ends.remove(&log);
        self.damaged.insert(log);
    }

    /// Does the disk of each node have all that the backup has of its log, and are there no logs
    /// of others? A block of the backup's own, of a later term than the node's, is not with it.
    pub(super) fn is_all_with(&self, machines: &[usize]) -> bool {
        self.logs.iter().all(|(log, seen)| {
            let own = self
                .machine_of(*log, machines)
                .map(|machine| self.own_end(machine));
            own.is_some_and(|own| seen.end.seq <= own.seq && seen.end.term <= own.term)
        })
    }

    /// The backup's disk is lost.
    pub(super) fn lose_backup(&mut self) {
        self.backup_ends.clear();
        self.is_refilling = true;
    }

    /// Does the backup's disk have all that was ever durable on it?
    pub(super) fn is_backup_whole(&self) -> bool {
        self.logs.iter().all(|(log, seen)| {
            let there = self.backup_ends.get(log).copied().unwrap_or_default();
            seen.end.seq <= there.seq
        })
    }
}

/// All whole blocks of a log from `offset` on, read by the shipped disk from a copy.
fn read_on(
    medium: &MemoryMedium,
    log: LogNumber,
    verify: &Verify,
    offset: u64,
) -> Result<Vec<Bytes>, String> {
    let options = DiskOptions {
        kind: FolderKind::Backup,
    };
    let copy = medium.fork();
    copy.fail(Fault::Sync(u64::MAX));
    copy.fail(Fault::Write(u64::MAX));
    copy.limit(None);
    let disk = open_on(Arc::new(copy), options).map_err(|error| error.to_string())?;
    let mut worker = disk.worker(Lane::Reader);
    let mut replies = Vec::new();
    worker.run(vec![DiskRequest::OpenLog { log }], &mut replies);
    let mut all = Vec::new();
    let mut offset = offset.max(crate::log::SEGMENT_HEADER_SIZE);
    loop {
        replies.clear();
        let request = DiskRequest::ReadBlocks {
            log,
            offset,
            below: u64::MAX,
            size_max: FETCH_SIZE_MAX,
            ticket: 0,
        };
        worker.run(vec![request], &mut replies);
        let Some(DiskReply::BlocksRead { blocks: read, .. }) = replies.first() else {
            return Err(format!("log {log}: {replies:?}"));
        };
        let last = blocks(read, *verify).last();
        let Some(last) = last else {
            return Ok(all);
        };
        let last = last.map_err(|error| error.to_string())?;
        offset = last.end().offset;
        all.push(read.clone());
    }
}

// ---- the wire ----

impl World {
    /// A frame is about to be handed to a process.
    pub(super) fn watch_incoming(&mut self, machine: usize, id: EndId, frame: &Frame<'_>) {
        let kind = self.machines[machine].kind;
        let told = match (kind, frame.header.kind) {
            (Kind::Node(_), FrameKind::Appended) => self.watch_ack(frame),
            (Kind::Node(_), FrameKind::Granted) => {
                *self.watch.grants_unsaved.entry(machine).or_default() += 1;
                Ok(())
            }
            (Kind::Backup, FrameKind::Beat) => {
                let node = self.network.end(id.other()).map(|end| end.machine);
                node.map_or(Ok(()), |node| self.watch_beat(node, frame))
            }
            _ => Ok(()),
        };
        if let Err(text) = told {
            self.blame(text);
        }
    }

    fn watch_ack(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let Ok(Message::Appended(appended)) = Message::read(frame) else {
            return Ok(());
        };
        if self.faults.is_stranger(self.backup()) {
            return Ok(());
        }
        let ends = &self.watch.backup_ends;
        let mut durable = ends.get(&appended.log).copied().unwrap_or_default().seq;
        let is_hurt = self.faults.is_hurt(self.backup());
        if self.watch.is_refilling || is_hurt || self.watch.damaged.contains(&appended.log) {
            // It may have left when what is lost was still there.
            durable = durable.max(self.watch.witnessed(appended.log).end.seq);
        }
        if appended.through <= durable {
            return Ok(());
        }
        Err(format!(
            "log {}: the backup acknowledges block {}, durable there is {durable}",
            appended.log, appended.through
        ))
    }

    fn watch_beat(&mut self, machine: usize, frame: &Frame<'_>) -> Result<(), String> {
        let Ok(Message::Beat(beat)) = Message::read(frame) else {
            return Ok(());
        };
        self.watch.beats.insert(machine, beat);
        let Some(log) = self.watch.log_of.get(&machine).copied() else {
            return Ok(());
        };
        if beat.phase == 0 || beat.applied != beat.committed {
            return Ok(());
        }
        let known = self.watch.digests.insert((log, beat.applied), beat.digest);
        if known.is_none_or(|known| known == beat.digest) {
            return Ok(());
        }
        Err(format!(
            "log {log}: two replays up to block {} have digests {known:032x?} and {:032x}",
            beat.applied, beat.digest
        ))
    }

    /// Bytes are about to leave a process: whole frames.
    pub(super) fn watch_outgoing(&mut self, machine: usize, id: EndId, bytes: &[u8]) {
        match self.machines[machine].kind {
            Kind::Node(_) => (),
            Kind::Backup => return self.watch_orders(id, bytes),
            Kind::Front | Kind::Client(_) => return,
        }
        let to_front = self
            .network
            .end(id)
            .is_some_and(|end| end.link == Link::Cluster);
        let mut rest = bytes;
        while let Ok(Some((frame, size))) = split(rest, LINK_FRAME_SIZE_MAX) {
            let unsaved = self.watch.grants_unsaved.get(&machine).copied();
            let is_work = matches!(frame.header.kind, FrameKind::Follow | FrameKind::Append);
            if !to_front && is_work && unsaved.unwrap_or(0) != 0 {
                let name = &self.machines[machine].name;
                let text = format!("{name} goes to work in a term that it has not saved");
                self.blame(text);
            }
            if to_front
                && frame.header.kind == FrameKind::Receipts
                && let Err(text) = self.watch_receipts(machine, &frame)
            {
                self.blame(text);
            }
            rest = &rest[size..];
        }
    }

    /// Orders about moves leave the backup when what they follow from is durable there.
    fn watch_orders(&mut self, id: EndId, bytes: &[u8]) {
        if self.faults.is_stranger(self.backup()) {
            return;
        }
        let node = self.network.end(id.other()).map(|end| end.machine);
        let log = node.and_then(|node| self.watch.log_of.get(&node).copied());
        let mut rest = bytes;
        while let Ok(Some((frame, size))) = split(rest, LINK_FRAME_SIZE_MAX) {
            if frame.header.kind == FrameKind::MoveOrder
                && let Ok(Message::MoveOrder(order)) = Message::read(&frame)
                && let Some(log) = log
                && let Err(text) = self.watch.marks.allow(log, &order)
            {
                self.blame(text);
            }
            rest = &rest[size..];
        }
    }

    /// Receipts leave a node when the entries that they show are durable on both sides.
    fn watch_receipts(&mut self, machine: usize, frame: &Frame<'_>) -> Result<(), String> {
        let Ok(Message::Receipts(receipts)) = Message::read(frame) else {
            return Err("a node sends receipts that cannot be read".to_owned());
        };
        let own = self.watch.node_ends.get(&machine).copied();
        let own = own.unwrap_or_default();
        let own_log = self.watch.log_of.get(&machine).copied();
        let name = &self.machines[machine].name;
        for receipt in receipts.iter().flatten() {
            let Some(log) = receipt.place.log() else {
                continue;
            };
            let there = self.watch.witnessed(log).end;
            let offset = receipt.place.offset();
            // What came with its slot was durable before it could come.
            let is_here = own_log != Some(log) || offset < own.offset;
            if !is_here || there.offset <= offset {
                return Err(format!(
                    "{name} answers {:?}, durable are {} here and {} at the backup",
                    receipt, own.offset, there.offset
                ));
            }
        }
        Ok(())
    }
}
