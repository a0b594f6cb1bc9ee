//! The record of a cluster whose backup was lost, made again from what the logs of its nodes say
//! (docs/decisions/0002-recover.md).
//!
//! Pure: what was read of the logs goes in, a record or the reason why there can be none comes
//! out. Nothing in it is hearsay but weights and the members that nothing is known of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::moves::{Cause, Ended, Handed, MoveBook, MoveRecord, MoveState, ranges_of, slots_of};
use super::{MemberRecord, Record, Recovered, table};
use crate::limits::SLOT_COUNT;
use crate::model::{
    ClusterId, Generation, Incarnation, LogNumber, MoveNumber, NodeId, RingEpoch, Slot, Term,
    to_u64, to_usize,
};
use crate::ring::SlotTable;
use crate::role::{Holding, MoveEvent, Survey};

/// Terms and moves of a generation are numbered from the generation times two to this power on:
/// above all of older ones, those included that only a lost backup knew.
const GENERATION_SHIFT: u32 = 32;

/// One log that is here, to its end.
#[derive(Clone, Debug)]
pub(crate) struct FoundLog {
    /// Whose.
    pub(crate) node: NodeId,
    /// Its number.
    pub(crate) log: LogNumber,
    /// Share of the node.
    pub(crate) weight: u32,
    /// Identity of the node's copy.
    pub(crate) copy: u128,
    /// Where fronts reach the node.
    pub(crate) address: SocketAddr,
    /// What it has of the slots.
    pub(crate) survey: Survey,
    /// What lies in it above its checkpoint.
    pub(crate) events: Vec<MoveEvent>,
}

/// All that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// Key of its hash.
    pub(crate) ring_key: u128,
    /// The new generation.
    pub(crate) generation: Generation,
    /// Bytes of a segment.
    pub(crate) segment_size: u64,
    /// Now, Unix milliseconds.
    pub(crate) at_ms: u64,
    /// Who has the first term of the generation until each node gets its own: this backup.
    pub(crate) holder: Incarnation,
    /// The highest version of the slot table that a node worked under.
    pub(crate) ring_epoch: RingEpoch,
    /// The highest log number that a node heard of.
    pub(crate) log_max: u16,
    /// The logs.
    pub(crate) logs: Vec<FoundLog>,
    /// Nodes that were given up.
    pub(crate) given_up: BTreeSet<NodeId>,
}

/// What the logs say of each slot.
struct Claims {
    /// Version of the table of the newest activation, and in which log.
    owned: Vec<Option<(RingEpoch, usize)>>,
    /// The newest move that it left a log by, and which log.
    gone: Vec<Option<(MoveNumber, usize)>>,
}

/// A log that has the state of an image staged.
#[derive(Clone, Copy, Debug)]
struct Staged {
    number: MoveNumber,
    image: MoveNumber,
    index: usize,
    handed: Handed,
}

impl Claims {
    /// Notes what a log says of a slot. The log that another one outdoes, if two have it.
    fn note(&mut self, slot: Slot, holding: Holding, index: usize) -> Option<usize> {
        match holding {
            Holding::Owned(epoch) => {
                let owned = &mut self.owned[slot.index()];
                let before = owned.replace((epoch, index));
                let (epoch_before, other) = before?;
                if epoch_before < epoch {
                    return Some(other);
                }
                *owned = before;
                Some(index)
            }
            Holding::Gone(number) => {
                let gone = &mut self.gone[slot.index()];
                *gone = (*gone).max(Some((number, index)));
                None
            }
        }
    }
}

impl Found {
    /// The record, or why there can be none.
    pub(crate) fn rebuild(&self) -> Result<Record, String> {
        let claims = self.claims()?;
        let epochs = self.logs.iter().map(|found| found.survey.ring_epoch);
        let epoch = epochs.fold(self.ring_epoch, RingEpoch::max).next();
        let members: BTreeMap<NodeId, MemberRecord> = self
            .logs
            .iter()
            .map(|found| (found.node, self.member(found)))
            .collect();
        let wanted = table::plan(self.ring_key, epoch, &members);
        let staged = self.staged();
        let mut owners = SlotTable::nobody(epoch);
        let mut pending: BTreeMap<MoveNumber, (usize, Vec<Slot>)> = BTreeMap::new();
        let mut orphans = Vec::new();
        for slot in (0..=u16::MAX).map(Slot) {
            if let Some((_, index)) = claims.owned[slot.index()] {
                owners.set(slot, self.logs[index].node);
                continue;
            }
            let gone = claims.gone[slot.index()];
            let Some((number, index)) = gone.filter(|(number, index)| {
                self.handed(*number, *index).is_some()
                    || staged.iter().any(|staged| staged.image == *number)
            }) else {
                orphans.push(slot);
                continue;
            };
            owners.set(slot, self.logs[index].node);
            let (_, slots) = pending.entry(number).or_insert((index, Vec::new()));
            slots.push(slot);
        }
        pending.retain(|number, (index, slots)| {
            // An image is of all slots of its hand-over: where some went on, all had arrived.
            let count = self.handed(*number, *index).map(|(_, count)| count);
            let is_whole = count.is_none_or(|count| to_u64(slots.len()) == u64::from(count));
            if !is_whole {
                orphans.append(slots);
            }
            is_whole
        });
        self.adopt_orphans(&orphans, &claims, &wanted, &mut owners)?;
        self.check_sources(&staged)?;
        let moves = self.moves(pending, &staged, &wanted);
        let log_max = self.logs.iter().map(|found| found.log.get()).max();
        Ok(Record {
            cluster: self.cluster,
            ring_key: self.ring_key,
            generation: self.generation,
            segment_size: self.segment_size,
            created_ms: self.at_ms,
            log_next: u32::from(log_max.unwrap_or(0).max(self.log_max)) + 1,
            members,
            retired: BTreeMap::new(),
            table: Arc::new(owners),
            moves,
            recovered: Some(Recovered {
                at_ms: self.at_ms,
                given_up: self.given_up.clone(),
                openings: BTreeMap::new(),
            }),
            kept: Vec::new(),
        })
    }

    const fn first_number(&self) -> u64 {
        self.generation.0 << GENERATION_SHIFT
    }

    fn member(&self, found: &FoundLog) -> MemberRecord {
        let mut member = MemberRecord::new(found.log, found.weight, Vec::new());
        member.term = Term(self.first_number());
        member.incarnation = Some(self.holder);
        member.copy = found.copy;
        member.address = Some(found.address);
        member
    }

    fn claims(&self) -> Result<Claims, String> {
        let slot_count = to_usize(u64::from(SLOT_COUNT));
        let mut claims = Claims {
            owned: vec![None; slot_count],
            gone: vec![None; slot_count],
        };
        let mut outdone = BTreeSet::new();
        for (index, found) in self.logs.iter().enumerate() {
            let runs = found.survey.runs.iter();
            let slots = runs
                .flat_map(|(range, holding)| slots_of(*range).map(move |slot| (slot, *holding)));
            for (slot, holding) in slots {
                outdone.extend(claims.note(slot, holding, index));
            }
        }
        match outdone.first() {
            None => Ok(claims),
            Some(index) => Err(self.why_outdone(*index, &claims)),
        }
    }

    /// A log has slots as its own that another one activated later.
    fn why_outdone(&self, index: usize, claims: &Claims) -> String {
        let FoundLog { node, log, .. } = self.logs[index];
        let has = |owned: &&Option<(RingEpoch, usize)>| owned.is_some_and(|(_, at)| at == index);
        let rest = claims.owned.iter().filter(has).count();
        let text = format!(
            "log {log} of node {node} does not know that it handed over slots, which another log \
             activated later"
        );
        if rest == 0 {
            format!(
                "{text}: the node was taken over, and did not come back before the backup was \
                 lost. All its slots have other owners, who have all that was acknowledged. Give \
                 it up: --give-up {node}"
            )
        } else {
            format!(
                "{text}, but {rest} slots are its own: it lost the end of its log. Recovering \
                 that is not there yet; --give-up {node} would lose these slots"
            )
        }
    }

    /// The hand-over in this log under this number, if its image can be cut from it, and of how
    /// many slots it was.
    fn handed(&self, wanted: MoveNumber, index: usize) -> Option<(Handed, u32)> {
        let mut events = self.logs[index].events.iter();
        events.find_map(|event| match event {
            MoveEvent::HandedOver {
                number,
                place,
                image,
                slot_count,
                ..
            } if *number == wanted => {
                let handed = Handed {
                    place: *place,
                    image: *image,
                };
                Some((handed, *slot_count))
            }
            MoveEvent::HandedOver { .. }
            | MoveEvent::Adopted { .. }
            | MoveEvent::Activated { .. }
            | MoveEvent::Dropped { .. } => None,
        })
    }

    /// What is staged in the logs: adopted, and neither activated nor dropped.
    fn staged(&self) -> Vec<Staged> {
        let mut staged: Vec<Staged> = Vec::new();
        for (index, found) in self.logs.iter().enumerate() {
            for event in &found.events {
                match event {
                    MoveEvent::HandedOver { .. } => (),
                    MoveEvent::Adopted {
                        number,
                        image,
                        place,
                        info,
                        ..
                    } => staged.push(Staged {
                        number: *number,
                        image: *image,
                        index,
                        handed: Handed {
                            place: *place,
                            image: *info,
                        },
                    }),
                    MoveEvent::Activated { number, .. } | MoveEvent::Dropped { number, .. } => {
                        staged.retain(|staged| staged.index != index || staged.number != *number);
                    }
                }
            }
        }
        staged
    }

    /// What is staged came from a log that is here: else nobody can tell whether it is the newest.
    fn check_sources(&self, staged: &[Staged]) -> Result<(), String> {
        for stage in staged {
            let source = stage.handed.place.log();
            if !self.logs.iter().any(|found| Some(found.log) == source) {
                return Err(format!(
                    "move {} brings slots to node {} out of a log that is given up, at {}: \
                     recovering without it is not there yet; bring the node back",
                    stage.number, self.logs[stage.index].node, stage.handed.place
                ));
            }
        }
        Ok(())
    }

    /// Slots that no log that is here has: they begin empty, where they never were.
    fn adopt_orphans(
        &self,
        orphans: &[Slot],
        claims: &Claims,
        wanted: &SlotTable,
        owners: &mut SlotTable,
    ) -> Result<(), String> {
        let Some(first) = orphans.first() else {
            return Ok(());
        };
        if self.given_up.is_empty() {
            return Err(format!(
                "{} slots, the first is {}, belong to no log that is here: a node is missing that \
                 no other one knows of. Name all nodes with --nodes",
                orphans.len(),
                first.0
            ));
        }
        let mut never = vec![BTreeSet::new(); orphans.len()];
        for found in &self.logs {
            let mut known = vec![false; claims.owned.len()];
            for (range, _) in &found.survey.runs {
                known[range.first.index()..=range.last.index()].fill(true);
            }
            for (slot, nodes) in orphans.iter().zip(&mut never) {
                if !known[slot.index()] {
                    nodes.insert(found.node);
                }
            }
        }
        for (slot, nodes) in orphans.iter().zip(&never) {
            let wanted = wanted.owner(*slot).filter(|node| nodes.contains(node));
            let Some(node) = wanted.or_else(|| nodes.first().copied()) else {
                return Err(format!(
                    "slot {} was with a node that is given up, and every other node had it before: \
                     none of them can begin it anew. That is not there yet: bring the node back",
                    slot.0
                ));
            };
            owners.set(*slot, node);
        }
        Ok(())
    }

    fn moves(
        &self,
        pending: BTreeMap<MoveNumber, (usize, Vec<Slot>)>,
        staged: &[Staged],
        wanted: &SlotTable,
    ) -> MoveBook {
        let mut book = MoveBook {
            next: MoveNumber(self.first_number()).next(),
            ..MoveBook::default()
        };
        let mut used = BTreeSet::new();
        for (image, (source, slots)) in pending {
            let stages = staged.iter().filter(|staged| staged.image == image);
            let stage = stages.max_by_key(|staged| staged.number);
            let handed = self.handed(image, source).map(|(handed, _)| handed);
            let handed = handed.or_else(|| stage.map(|stage| stage.handed));
            let handed = handed.expect("it is pending because one of them is there");
            let (number, target) = if let Some(stage) = stage {
                (stage.number, self.logs[stage.index].node)
            } else {
                let number = book.next;
                book.next = number.next();
                let target = wanted.owner(slots[0]);
                (number, target.unwrap_or(self.logs[source].node))
            };
            used.insert(number);
            let target_log = self.logs.iter().find(|found| found.node == target);
            let moving = MoveRecord {
                image,
                source: self.logs[source].node,
                source_log: self.logs[source].log,
                target,
                target_log: target_log.expect("only who has a log is wanted").log,
                cause: Cause::Planned,
                since_ms: self.at_ms,
                ranges: ranges_of(slots).into(),
                state: MoveState::Handed(handed),
            };
            book.active.insert(number, moving);
        }
        for stage in staged.iter().filter(|stage| !used.contains(&stage.number)) {
            book.ended.push(Ended {
                number: stage.number,
                image: stage.image,
                log: self.logs[stage.index].log,
                gone: None,
            });
        }
        self.note_ended(&mut book);
        book
    }

    /// Adoptions that ended above a log's checkpoint: a replay still wants their images.
    fn note_ended(&self, book: &mut MoveBook) {
        for found in &self.logs {
            let mut images = BTreeMap::new();
            for event in &found.events {
                match event {
                    MoveEvent::HandedOver { .. } => (),
                    MoveEvent::Adopted { number, image, .. } => {
                        images.insert(*number, *image);
                    }
                    MoveEvent::Activated { number, end } | MoveEvent::Dropped { number, end } => {
                        if let Some(image) = images.remove(number) {
                            book.ended.push(Ended {
                                number: *number,
                                image,
                                log: found.log,
                                gone: Some(end.seq),
                            });
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LogEnd, LogTime, Place, Seq, SlotRange};
    use crate::role::ImageInfo;

    fn node(number: u32) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn log(number: u16) -> LogNumber {
        LogNumber::new(number).unwrap()
    }

    fn range(first: u16, last: u16) -> SlotRange {
        SlotRange {
            first: Slot(first),
            last: Slot(last),
        }
    }

    fn image() -> ImageInfo {
        ImageInfo {
            size: 1,
            digest: 2,
            offset: 3,
            slot_digest: 4,
            account_count: 5,
            horizon_ms: 6,
            time: LogTime(7),
        }
    }

    fn end(seq: u64) -> LogEnd {
        LogEnd {
            seq: Seq(seq),
            ..LogEnd::default()
        }
    }

    /// One log in words: `own 0-9 @1`, `gone 10-19 #7`, then what lies above its checkpoint:
    /// `handed #7 10`, `adopted #8 of #7`, `activated #8`, `dropped #8`.
    fn found(number: u16, text: &str) -> FoundLog {
        let mut found = FoundLog {
            node: node(number.into()),
            log: log(number),
            weight: 1,
            copy: 70 + u128::from(number),
            address: "127.0.0.1:9".parse().unwrap(),
            survey: Survey::default(),
            events: Vec::new(),
        };
        let mut seq = 10;
        for part in text.split(", ").filter(|part| !part.is_empty()) {
            let words: Vec<&str> = part.split(' ').collect();
            let number = |word: &str| MoveNumber(word.trim_start_matches('#').parse().unwrap());
            let slots = |word: &str| {
                let (first, last) = word.split_once('-').unwrap();
                range(first.parse().unwrap(), last.parse().unwrap())
            };
            seq += 1;
            let end = end(seq);
            match words[..] {
                ["own", range, epoch] => {
                    let epoch = RingEpoch(epoch.trim_start_matches('@').parse().unwrap());
                    found.survey.ring_epoch = found.survey.ring_epoch.max(epoch);
                    found
                        .survey
                        .runs
                        .push((slots(range), Holding::Owned(epoch)));
                }
                ["gone", range, by] => {
                    found
                        .survey
                        .runs
                        .push((slots(range), Holding::Gone(number(by))));
                }
                ["handed", by, count] => found.events.push(MoveEvent::HandedOver {
                    number: number(by),
                    place: Place(9),
                    end,
                    image: image(),
                    slot_count: count.parse().unwrap(),
                }),
                ["adopted", by, "of", image_of] => found.events.push(MoveEvent::Adopted {
                    number: number(by),
                    end,
                    image: number(image_of),
                    place: Place::new(log(1), 9),
                    info: image(),
                }),
                ["activated", by] => found.events.push(MoveEvent::Activated {
                    number: number(by),
                    end,
                }),
                ["dropped", by] => found.events.push(MoveEvent::Dropped {
                    number: number(by),
                    end,
                }),
                _ => panic!("{part}"),
            }
        }
        found
    }

    fn all(logs: &[&str], given_up: &[u32]) -> Found {
        Found {
            cluster: ClusterId::new(77).unwrap(),
            ring_key: 5,
            generation: Generation(2),
            segment_size: crate::limits::SEGMENT_SIZE_MIN,
            at_ms: 1_000,
            holder: Incarnation::new(1).unwrap(),
            ring_epoch: RingEpoch(4),
            log_max: 9,
            logs: (1..)
                .zip(logs)
                .map(|(number, text)| found(number, text))
                .collect(),
            given_up: given_up.iter().map(|number| node(*number)).collect(),
        }
    }

    /// Owners of the first slots of the runs named, moves as `number/image source>target`, ended
    /// ones as `number/image log`.
    fn check(logs: &[&str], given_up: &[u32], slots: &[u16], expected: &str) {
        let record = all(logs, given_up).rebuild().unwrap();
        assert_eq!(
            Record::decode(&record.encode()).as_ref(),
            Ok(&record),
            "it is a record"
        );
        let owner = |slot: &u16| record.table.owner(Slot(*slot)).unwrap().to_string();
        let owners: Vec<String> = slots.iter().map(owner).collect();
        let base = 2 << GENERATION_SHIFT;
        let short = |number: MoveNumber| match number.0.checked_sub(base) {
            Some(fresh) => format!("new{fresh}"),
            None => number.to_string(),
        };
        let active = record.moves.active.iter().map(|(number, moving)| {
            let MoveRecord {
                image,
                source,
                target,
                ..
            } = moving;
            format!("{}/{image} {source}>{target}", short(*number))
        });
        let ended = record.moves.ended.iter().map(|ended| {
            let gone = if ended.gone.is_some() { "" } else { "?" };
            format!("{}/{} in {}{gone}", ended.number, ended.image, ended.log)
        });
        let moves: Vec<String> = active.chain(ended).collect();
        assert_eq!(
            format!("{} | {}", owners.join(" "), moves.join(", ")),
            expected
        );
    }

    fn refused(logs: &[&str], given_up: &[u32]) -> String {
        all(logs, given_up).rebuild().unwrap_err()
    }

    #[test]
    fn slots_belong_to_the_log_that_has_them() {
        check(
            &["own 0-99 @1", "own 100-65535 @1"],
            &[],
            &[0, 99, 100, 65_535],
            "1 1 2 2 | ",
        );
        // Moved there and back, long ago.
        check(
            &[
                "own 0-99 @5, gone 100-65535 #3",
                "gone 0-99 #4, own 100-65535 @3",
            ],
            &[],
            &[0, 100],
            "1 2 | ",
        );
    }

    #[test]
    fn numbers_are_above_all_that_only_the_lost_backup_knew() {
        let record = all(&["own 0-65535 @6"], &[]).rebuild().unwrap();
        assert_eq!(record.ring_epoch(), RingEpoch(7));
        assert_eq!(record.log_next, 10);
        let member = &record.members[&node(1)];
        assert_eq!(member.term, Term(2 << 32));
        assert!(member.takes(super::super::Shown::Copy {
            log: log(1),
            copy: 71
        }));
        assert!(MoveNumber(2 << 32) < record.moves.next);
    }

    #[test]
    fn a_move_under_way_goes_on() {
        // Nobody has taken it in: under a new number.
        let mut logs = ["gone 0-9 #7, own 10-65535 @1, handed #7 10", ""];
        let record = all(&logs, &[]).rebuild().unwrap();
        let (number, moving) = record.moves.active.first_key_value().unwrap();
        assert_eq!(*number, MoveNumber((2 << 32) + 1));
        assert_eq!((moving.image, moving.slot_count()), (MoveNumber(7), 10));
        // Adopted: it goes on where it was, also if the source's checkpoint is above it.
        logs[1] = "adopted #7 of #7";
        check(&logs, &[], &[0, 10], "1 1 | 7/7 1>2");
        logs[0] = "gone 0-9 #7, own 10-65535 @1";
        check(&logs, &[], &[0, 10], "1 1 | 7/7 1>2");
        // Activated: done, but its image is wanted until a checkpoint.
        logs[1] = "own 0-9 @5, adopted #7 of #7, activated #7";
        check(&logs, &[], &[0, 10], "2 1 | 7/7 in 2");
    }

    #[test]
    fn a_move_that_went_on_elsewhere_is_dropped_by_its_first_target() {
        let source = "gone 0-9 #7, own 10-65535 @1, handed #7 10";
        let first = "adopted #7 of #7";
        check(
            &[source, first, "adopted #8 of #7"],
            &[],
            &[0],
            "1 | 8/7 1>3, 7/7 in 2?",
        );
        let third = "own 0-9 @6, adopted #8 of #7, activated #8";
        check(
            &[source, first, third],
            &[],
            &[0],
            "3 | 7/7 in 2?, 8/7 in 3",
        );
        let first = "adopted #7 of #7, dropped #7";
        check(&[source, first, third], &[], &[0], "3 | 7/7 in 2, 8/7 in 3");
    }

    #[test]
    fn who_was_taken_over_and_did_not_come_back_is_given_up() {
        let logs = ["own 0-9 @1", "own 0-4 @2, own 10-65535 @1", "own 5-9 @3"];
        let text = refused(&logs, &[]);
        assert!(
            text.contains("node 1") && text.contains("--give-up 1"),
            "{text}"
        );
        // It has more than others took: the end of its log is lost.
        let logs = ["own 0-20 @1", "own 0-4 @2, own 21-65535 @1", "own 5-9 @3"];
        let text = refused(&logs, &[]);
        assert!(text.contains("11 slots are its own"), "{text}");
    }

    #[test]
    fn slots_of_nobody_begin_anew_only_where_somebody_was_given_up() {
        let logs = ["own 0-99 @1", "own 100-199 @1"];
        let text = refused(&logs, &[]);
        assert!(text.contains("65336 slots, the first is 200"), "{text}");
        let record = all(&logs, &[3]).rebuild().unwrap();
        assert!((0..=u16::MAX).all(|slot| record.table.owner(Slot(slot)).is_some()));
        // A log that had them cannot begin them anew; the state that it gave away is gone.
        let logs = ["own 0-9 @1, gone 10-65535 #3", "own 10-99 @4"];
        check(&logs, &[3], &[0, 10, 100, 65_535], "1 2 2 2 | ");
        let logs = [
            "own 0-9 @1, gone 10-65535 #3",
            "own 10-99 @4, gone 100-65535 #5",
        ];
        let text = refused(&logs, &[3]);
        assert!(text.contains("slot 100"), "{text}");
    }

    #[test]
    fn what_is_staged_out_of_a_lost_log_is_not_begun_anew() {
        let mut found = all(&["", "own 10-65535 @1, adopted #7 of #7"], &[1]);
        found.logs.remove(0);
        let text = found.rebuild().unwrap_err();
        assert!(text.contains("move 7 brings slots to node 2"), "{text}");
    }

    /// A given up node had slots of a hand-over, and others went on from it: the image is of more
    /// slots than are left, so it is of no use.
    #[test]
    fn a_part_of_an_image_is_not_taken_for_the_whole() {
        let logs = [
            "own 20-65535 @1, gone 0-19 #3, handed #3 20",
            "own 10-19 @4",
        ];
        check(&logs, &[3], &[0, 10, 20], "2 2 1 | ");
        let logs = ["own 20-65535 @1, gone 0-19 #3, handed #3 20", ""];
        let record = all(&logs, &[3]).rebuild().unwrap();
        assert_eq!(
            record.moves.active.len(),
            1,
            "all of it may still be under way"
        );
    }
}
