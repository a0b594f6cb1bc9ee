//! The state of the cluster as JSON text, for operators and scripts.
//!
//! One object. Names are stable; a later version may add some. Byte counts end in `_size`, Unix
//! times and durations in `_ms`, digests are 32 hexadecimal digits.
//!
//! ```text
//! version             of this build
//! cluster             its id, as a UUID
//! generation, ring_epoch
//! recovered           null | { at_ms, given_up, openings }: when the backup was made again from
//!                     the nodes, nodes that were given up then, and by currency what came with
//!                     slots from logs that are no more
//! stage               opening | serving | stopping
//! healthy             every node that owns slots serves them, no take-over is open, nothing is
//!                     wrong here
//! uptime_ms, clock_ms, address, incarnation
//! disk_free_size      0 while something does not fit
//! disk_exhausted      something did not fit
//! memory              { size_max, parts, for_each }: the most memory that the backup may use
//! alarms, digest_matches, digest_mismatches, damaged_reads      counted since the start
//! followers, connections
//! last_audit          null | { time_ms, currencies, differing }
//! moves               { paused, slots_to_move, images, stuck, moves, moves_left_out, take_overs }:
//!   slots_to_move     by the rule, and not under way
//!   images            that are kept for a replay
//!   stuck             null | why lost nodes are not taken over
//!   moves             one object each, by number: number, image (the move it was cut for),
//!                     source, target, cause (planned | take-over), state (ordered | handed |
//!                     flipped), since_ms, slots, accounts, waits_for
//!   take_overs        the newest: node, log, detected_ms, silent_ms, slots, accounts, and from
//!                     the detection on handed_after_ms, first_serving_after_ms,
//!                     last_serving_after_ms (null until then)
//! retired_logs        logs of nodes that were removed
//! nodes               one object each, by number:
//!   node, log, weight, term, address
//!   state             present | away
//!   phase             null | starting | serving | draining
//!   diverged          two histories of its log differ: an operator must decide
//!   slots             owned
//!   draining          it gives its slots to the others
//!   emptied           its slots were taken over: it gets some again after a quiet time
//!   end_seq, end_size durable here: last block, bytes of log since its beginning
//!   first_size        bytes of log since its beginning that are no longer kept
//!   lag               blocks that the node applied and that are not durable here
//!   accounts, ids, horizon_ms, node_free_size, node_memory_size      the node's figures; null:
//!                not known
//!   beat_age_ms       how old they are
//!   checkpoint        null | { seq, end_size, size }
//!   replica           { seq, digest, memory_size, proved_seq, fault }: how far the running
//!                     replica is, and at which block its digest was last equal to the node's
//!   scrub             { offset, laps, found, last_found }: the check of its old segments here
//! nodes_left_out      nodes for which there was no room in the text
//! ```

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::authority::Recovered;
use super::connections::Asker;
use super::stream::Stream;
use super::{Running, Stage};
use crate::clock::Now;
use crate::limits;
use crate::model::{NodeId, to_usize};
use crate::protocol::{Beat, MemberState, Message};
use crate::role::{MemoryPlan, Outbox};

/// The most memory that this backup may use.
fn memory_of(plan: &MemoryPlan) -> Value {
    let map = |parts: &[(&'static str, u64)]| {
        let pairs = parts
            .iter()
            .map(|(name, size)| ((*name).to_owned(), json!(size)));
        Value::Object(pairs.collect())
    };
    json!({
        "size_max": plan.total(),
        "parts": map(plan.parts()),
        "for_each": map(plan.growing()),
    })
}

/// Of the newest recovery.
fn recovered_of(recovered: Option<&Recovered>) -> Value {
    let Some(recovered) = recovered else {
        return Value::Null;
    };
    let given_up: Vec<u32> = recovered.given_up.iter().map(|node| node.get()).collect();
    let openings = recovered.openings.iter().take(limits::OPENING_COUNT_MAX);
    let openings: Vec<Value> = openings
        .map(|(currency, difference)| {
            json!({ "currency": currency, "difference": difference.to_string() })
        })
        .collect();
    json!({ "at_ms": recovered.at_ms, "given_up": given_up, "openings": openings })
}

impl Running {
    pub(super) fn tell_status(&mut self, now: Now, asker: Asker, out: &mut Outbox) {
        let text = self.status_text(now);
        let told = Message::StatusTold { json: &text };
        told.write_for(out.buffer(asker.peer), asker.request);
    }

    /// The text, with as many nodes as fit.
    fn status_text(&self, now: Now) -> String {
        let mut status = self.status_head(now);
        let members = &self.authority.record().members;
        let room = to_usize(u64::from(limits::STATUS_SIZE_MAX));
        // Room for the names of the last two fields.
        let mut size = Value::Object(status.clone()).to_string().len() + 128;
        let mut slot_counts: BTreeMap<NodeId, u64> = BTreeMap::new();
        for run in self.authority.record().table.runs() {
            if let Some(node) = run.node {
                let count = u64::from(run.slots.last.0 - run.slots.first.0) + 1;
                *slot_counts.entry(node).or_default() += count;
            }
        }
        let mut nodes = Vec::new();
        for node in members.keys() {
            let slot_count = slot_counts.get(node).copied().unwrap_or(0);
            let line = self.status_of(now, *node, slot_count);
            size += line.to_string().len() + 1;
            if room < size {
                break;
            }
            nodes.push(line);
        }
        let left_out = members.len() - nodes.len();
        status.insert("nodes".to_owned(), Value::Array(nodes));
        status.insert("nodes_left_out".to_owned(), json!(left_out));
        Value::Object(status).to_string()
    }

    fn status_head(&self, now: Now) -> Map<String, Value> {
        let record = self.authority.record();
        let followers = self.peers.values().filter(|peer| peer.follows.is_some());
        let last_audit = self.audit.last.map(|note| {
            json!({
                "time_ms": note.time_ms,
                "currencies": note.currency_count,
                "differing": note.differing_count,
            })
        });
        let head = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": record.cluster.to_string(),
            "generation": record.generation.0,
            "ring_epoch": record.ring_epoch().0,
            "recovered": recovered_of(record.recovered.as_ref()),
            "stage": match self.stage {
                Stage::Opening => "opening",
                Stage::Serving => "serving",
                Stage::Stopping | Stage::Ended => "stopping",
            },
            "healthy": self.is_healthy(),
            "uptime_ms": now.tick.since(self.started) / 1_000_000,
            "clock_ms": now.wall_ms,
            "address": self.options.address.to_string(),
            "incarnation": self.options.incarnation.to_string(),
            "disk_free_size": self.free_size(),
            "memory": memory_of(&self.options.limits.memory_plan()),
            "disk_exhausted": self.disk.exhausted,
            "alarms": self.counters.alarms,
            "digest_matches": self.counters.digest_matches,
            "digest_mismatches": self.counters.digest_mismatches,
            "damaged_reads": self.counters.damaged_reads,
            "followers": followers.count(),
            "connections": self.peers.len(),
            "last_audit": last_audit,
            "moves": self.moves_json(now),
            "retired_logs": record.retired.keys().map(|log| log.get()).collect::<Vec<_>>(),
        });
        head.as_object().cloned().unwrap_or_default()
    }

    /// Every node that owns slots serves them, and nothing is wrong here.
    fn is_healthy(&self) -> bool {
        let record = self.authority.latest();
        let fine = |stream: &Stream| {
            let owns = !stream.retired && record.table.ranges_of(stream.node).next().is_some();
            let serves = stream.state == MemberState::Present
                && stream.beat.is_some_and(|(beat, _)| beat.phase == 1);
            let diverged = record.log(stream.log).is_some_and(|member| member.diverged);
            (serves || !owns) && stream.replica.fault.is_none() && !diverged
        };
        let audited = self.audit.last.is_none_or(|note| note.differing_count == 0);
        self.stage == Stage::Serving
            && !self.disk.exhausted
            && audited
            && self.counters.digest_mismatches == 0
            && self.counters.damaged_reads == 0
            && self.moves_are_healthy()
            && self.streams.values().all(fine)
    }

    fn status_of(&self, now: Now, node: NodeId, slot_count: u64) -> Value {
        let record = self.authority.record();
        let member = &record.members[&node];
        let stream = &self.streams[&member.log];
        let beat = stream.beat.map(|(beat, _)| beat);
        let checkpoint = stream.checkpoint.map(|checkpoint| {
            json!({
                "seq": checkpoint.end.seq.0,
                "end_size": checkpoint.end.offset,
                "size": checkpoint.size,
            })
        });
        let replica = &stream.replica;
        let (found_count, last_found) = stream.scrub.found();
        json!({
            "node": node.get(),
            "log": member.log.get(),
            "weight": member.weight,
            "term": member.term.0,
            "address": member.address.map(|address| address.to_string()),
            "state": match stream.state {
                MemberState::Present => "present",
                MemberState::Away => "away",
            },
            "phase": beat.map(|beat| match beat.phase {
                0 => "starting",
                1 => "serving",
                _ => "draining",
            }),
            "diverged": self.authority.latest().members.get(&node).map(|member| member.diverged),
            "slots": slot_count,
            "draining": member.draining,
            "emptied": member.emptied,
            "end_seq": stream.durable.seq.0,
            "end_size": stream.durable.offset,
            "first_size": stream.first_offset,
            "lag": beat.map(|beat| beat.applied.0.saturating_sub(stream.durable.seq.0)),
            "accounts": beat.map(|beat| beat.account_count),
            "ids": beat.map(|beat| beat.id_count),
            "horizon_ms": beat.map(|beat| beat.horizon_ms),
            "node_free_size": beat
                .map(|beat| beat.free_size)
                .filter(|size| *size != Beat::FREE_SIZE_UNKNOWN),
            "node_memory_size": beat.map(|beat| beat.memory_size),
            "beat_age_ms": stream.beat.map(|(_, at)| now.tick.since(at) / 1_000_000),
            "checkpoint": checkpoint,
            "replica": {
                "seq": replica.end.seq.0,
                "digest": format!("{:032x}", replica.digest),
                "memory_size": replica.memory_size,
                "proved_seq": replica.proved.0,
                "fault": replica.fault,
            },
            "scrub": {
                "offset": stream.scrub.offset().min(stream.durable.offset),
                "laps": stream.scrub.lap_count(),
                "found": found_count,
                "last_found": last_found,
            },
        })
    }
}
