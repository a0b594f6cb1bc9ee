//! Starts: the node's log against the backup's copy, in every relation the two can have.

use std::mem::take;

use super::backup::{RING_KEY, TestBackup};
use super::disk::{Checkpoint, TestDisk};
use super::world::{World, cluster, credit, get, log_number, options};
use super::worth_a_block;
use crate::ledger::{Ledger, LedgerOptions};
use crate::limits;
use crate::log::{BlockBuilder, BlockSpec, Verify, blocks};
use crate::model::{
    Entry, EpochMark, Generation, LogEnd, LogTime, Operation, ReceiptFlags, ResultCode, RingEpoch,
    Seq, Term,
};
use crate::protocol::RefusalCode;
use crate::role::{DiskFault, DiskRequest, ExitCode};

/// A node that served `count` credits of 1 to user 7, each in its own block.
fn served(count: u128) -> World {
    let mut world = World::serving();
    for number in 1..=count {
        assert_eq!(world.one(credit(number, 7, 1)).code, ResultCode::Ok);
    }
    world
}

/// It serves again, and user 7 has this.
fn check_serves(world: World, available: i64) -> World {
    check_knows(world, available, 1)
}

fn check_knows(mut world: World, available: i64, known: u128) -> World {
    world.serve();
    assert_eq!(world.one(get(7)).available, available);
    // What was acknowledged is known again.
    let replay = world.one(credit(known, 7, 1));
    assert!(replay.flags.has(ReceiptFlags::REPLAYED), "{replay:?}");
    assert_eq!(world.one(get(7)).available, available);
    let (here, there) = (world.disk.files(|files| files.end()), world.backup.end());
    assert_eq!(here, there);
    world
}

#[test]
fn a_plain_restart_takes_a_new_term() {
    let world = served(3).restart();
    let world = check_serves(world, 3);
    assert_eq!(world.backup.term, Term(2));
    let registered = *world.backup.registered.last().unwrap();
    assert!(registered.has_log);
    assert_eq!(registered.copy, 1, "the copy that came with the last grant");
    assert_eq!(world.disk.files(|files| files.terms().len()), 2);
    assert!(world.disk.aside.is_empty());
}

#[test]
fn requests_before_the_end_of_the_start_are_not_ready() {
    let mut world = World::new();
    world.backup.drops_appends = true;
    world.run();
    assert!(!world.is_ready);
    world.connect_front();
    let answer = world.ask(&[credit(1, 7, 5), get(7)]);
    assert_eq!(answer.receipts[0].code, ResultCode::NotReady);
    assert_eq!(answer.receipts[1].code, ResultCode::NotReady);
    world.backup.drops_appends = false;
    world.cut_link();
    world.mend_link();
    assert!(world.is_ready);
    assert_eq!(world.one(credit(1, 7, 5)).code, ResultCode::Ok);
}

#[test]
fn the_backup_has_more() {
    let mut world = served(3);
    // The disk of the node loses its last two blocks; the backup has them.
    world.disk.holds_appends = true;
    let request = world.send(&[credit(4, 7, 1)]);
    world.run();
    assert!(world.codes(request).is_empty());
    let world = check_serves(world.restart(), 4);
    assert!(world.has_said("come from the backup"));
    assert!(world.disk.aside.is_empty());
}

#[test]
fn a_tail_that_the_backup_never_saw_is_sent_on() {
    let mut world = served(3);
    world.backup.drops_appends = true;
    world.send(&[credit(4, 7, 1)]);
    world.run();
    let more = worth_a_block(5, 7);
    world.send(&more);
    world.run();
    let end = world.backup.end().seq;
    let mut world = world.restart();
    world.backup.drops_appends = false;
    world.backup.appends.clear();
    let world = check_serves(world, 4 + i64::try_from(more.len()).unwrap());
    let tail = &world.backup.appends[..2];
    // The messages carry the present term, the blocks keep theirs.
    let sent = |seq| (Term(2), Term(1), seq);
    assert_eq!(tail, [sent(end.next()), sent(end.next().next())]);
}

#[test]
fn a_tail_that_contradicts_the_backup_is_put_aside() {
    let mut world = served(3);
    world.backup.drops_appends = true;
    world.send(&[credit(4, 7, 100)]);
    world.run();
    // Meanwhile another owner went on from the same block.
    let common = world.backup.end();
    append(&mut world.backup, Term(5));
    let mut world = world.restart();
    world.backup.drops_appends = false;
    let mut world = check_serves(world, 3);
    assert_eq!(world.disk.aside, [common]);
    assert!(world.has_said("contradict the backup's copy"));
    assert_eq!(world.backup.term, Term(6));
    assert_eq!(world.one(credit(4, 7, 100)).available, 103);
}

/// Another owner appends a block of its own.
fn append(backup: &mut TestBackup, term: Term) {
    let after = backup.end();
    backup.term = term;
    let mut builder = BlockBuilder::new();
    builder.begin(&BlockSpec {
        log: log_number(),
        cluster: cluster(),
        segment_size: super::SEGMENT_SIZE,
        after: &after,
        term,
        time: LogTime(after.time.0 + 1),
        committed: Seq(0),
        entry_count_max: 1,
    });
    let mark = EpochMark {
        generation: Generation(1),
        ring_epoch: RingEpoch(1),
        term,
    };
    builder.push(&Entry::Epoch(mark).to_bytes());
    let (bytes, end) = builder.finish();
    backup.files.blocks.push((end, bytes));
}

#[test]
fn histories_that_part_below_what_is_committed_stop_the_node() {
    let mut world = served(3);
    for _ in 0..2 {
        world.backup.files.blocks.pop();
    }
    append(&mut world.backup, Term(5));
    append(&mut world.backup, Term(5));
    append(&mut world.backup, Term(5));
    let mut world = world.restart();
    world.run();
    world.assert_exit(ExitCode::Damage, "part behind block");
    assert!(world.disk.aside.is_empty(), "nothing was touched");
}

#[test]
fn one_block_with_two_contents_stops_the_node() {
    let mut world = served(1);
    world.backup.drops_appends = true;
    world.send(&[credit(2, 7, 1)]);
    world.run();
    // The same term and number, but not the same block: the folder was copied.
    append(&mut world.backup, Term(1));
    let mut world = world.restart();
    world.run();
    world.assert_exit(ExitCode::Damage, "another content");
}

#[test]
fn a_torn_tail_is_put_aside_before_the_first_append() {
    let world = served(3);
    let end = world.disk.files(|files| files.end());
    let mut world = world.restart();
    world
        .disk
        .files(|files| files.torn = Some("an unfinished block at 5000".to_owned()));
    world = check_serves(world, 3);
    assert_eq!(world.disk.aside, [end]);
    assert!(world.has_said("an unfinished block at 5000"));
}

#[test]
fn damage_is_repaired_from_the_backup() {
    let world = served(5);
    let mut world = world.restart();
    let end = world.disk.files(|files| {
        // Two committed blocks do not verify any more.
        files.committed_floor = files.end().seq;
        files.blocks.truncate(files.blocks.len() - 2);
        files.damage = Some("block at 7000 does not verify".to_owned());
        files.end()
    });
    world = check_serves(world, 5);
    assert_eq!(world.disk.aside, [end]);
    assert!(world.has_said("block at 7000"));
    assert!(world.has_said("come from the backup"));
}

#[test]
fn an_older_backup_is_refused() {
    let check = |change: &dyn Fn(&mut TestBackup), text: &str| {
        let mut world = served(3).restart();
        change(&mut world.backup);
        world.run();
        world.assert_exit(ExitCode::Damage, text);
        assert!(!world.is_ready);
    };
    check(&|backup| backup.generation = Generation(0), "generation");
    check(&|backup| backup.ring_epoch = RingEpoch(0), "epoch");
    check(&|backup| backup.term = Term(0), "term");
    let lose = |backup: &mut TestBackup| backup.files.blocks.truncate(1);
    check(&lose, "the backup is older");
    check(&|backup| backup.files.blocks.clear(), "the backup is older");
}

/// What is damaged here, an older backup cannot repair: nothing is cut and nothing served.
#[test]
fn damage_is_not_repaired_from_a_backup_that_has_not_got_it() {
    let mut world = served(5).restart();
    world.disk.files(|files| {
        files.committed_floor = files.end().seq;
        files.blocks.truncate(files.blocks.len() - 3);
        files.damage = Some("block at 7000 does not verify".to_owned());
    });
    world.backup.files.blocks.pop();
    world.run();
    world.assert_exit(ExitCode::Damage, "the backup is older");
    assert!(world.disk.aside.is_empty());
}

#[test]
fn refusals_of_the_backup_end_the_node_or_are_waited_for() {
    let check = |refusal, code: Option<ExitCode>| {
        let mut world = served(1).restart();
        world.backup.refusal = Some(refusal);
        world.run();
        world.pass(1_000);
        assert_eq!(world.exit.as_ref().map(|exit| exit.0), code, "{refusal:?}");
    };
    check(RefusalCode::Fenced, Some(ExitCode::Fenced));
    check(RefusalCode::WrongLog, Some(ExitCode::Damage));
    check(RefusalCode::Diverged, Some(ExitCode::Damage));
    check(RefusalCode::BackupOlder, Some(ExitCode::Damage));
    check(RefusalCode::WrongCluster, Some(ExitCode::Damage));
    check(RefusalCode::NotAMember, Some(ExitCode::Usage));
    check(RefusalCode::InUse, None);
    check(RefusalCode::NotReady, None);
}

#[test]
fn an_id_in_use_is_tried_for_a_while() {
    let mut world = served(1).restart();
    world.backup.refusal = Some(RefusalCode::InUse);
    world.run();
    world.pass(3_000);
    assert!(world.exit.is_none());
    assert!(world.has_said("in_use"));
    world.backup.refusal = None;
    world.pass(200);
    assert!(world.is_ready);
    let mut world = world.restart();
    world.backup.refusal = Some(RefusalCode::InUse);
    world.run();
    world.pass(limits::IN_USE_MS_MAX + 200);
    world.assert_exit(ExitCode::Fenced, "in_use");
}

#[test]
fn an_empty_folder_is_refilled() {
    let mut world = served(40).restart();
    world.disk = TestDisk::new();
    let world = check_serves(world, 40);
    let registered = *world.backup.registered.last().unwrap();
    assert!(!registered.has_log);
    assert_eq!(registered.copy, 0);
    let (here, there) = (
        world.disk.files(|files| take(&mut files.blocks)),
        &world.backup.files.blocks,
    );
    assert_eq!(here, *there, "byte for byte");
}

#[test]
fn a_folder_without_its_log_or_with_a_damaged_identity_is_refilled() {
    let world = served(3).restart();
    world.disk.files(|files| files.begin = None);
    let world = check_serves(world, 3);
    assert!(world.has_said("its log is gone"));
    let world = world.restart();
    world
        .disk
        .files(|files| files.identity = Some(bytes::Bytes::from_static(b"nonsense")));
    let world = check_serves(world, 3);
    assert!(world.has_said("identity file is damaged"));
}

#[test]
fn a_folder_of_another_node_or_cluster_is_refused() {
    let world = served(1);
    let mut disk = world.disk;
    disk.crash();
    let mut of_node_2 = options(200);
    of_node_2.id = crate::model::NodeId::new(2).unwrap();
    let mut world = World::with(of_node_2, disk, world.backup);
    world.run();
    world.assert_exit(ExitCode::Damage, "belongs to node 1, not to node 2");
    let mut elsewhere = options(201);
    elsewhere.cluster = crate::model::ClusterId::new(5);
    let mut world = World::with(elsewhere, world.disk, TestBackup::new());
    world.run();
    world.assert_exit(ExitCode::Damage, "belongs to cluster");
}

/// Gives the backup a checkpoint at its block `seq`, and forgets the segments below.
fn make_checkpoint(backup: &mut TestBackup, seq: Seq) -> LogEnd {
    let mut ledger = Ledger::new(LedgerOptions {
        ring_key: RING_KEY,
        id_count_max: 1 << 20,
        keep_ids: true,
    });
    let verify = Verify {
        log: log_number(),
        cluster: cluster(),
        segment_size: super::SEGMENT_SIZE,
    };
    let mut end = LogEnd::default();
    for (_, bytes) in backup
        .files
        .blocks
        .iter()
        .take_while(|(end, _)| end.seq <= seq)
    {
        let block = blocks(bytes, verify).next().unwrap().unwrap();
        for (place, time, bytes) in block.entries() {
            ledger
                .absorb(&Entry::read(bytes).unwrap(), place, time)
                .unwrap();
        }
        end = block.end();
    }
    backup.checkpoint = Some(Checkpoint::of(&ledger, end));
    let first_offset = end.offset - end.offset % super::SEGMENT_SIZE;
    backup.first_offset = first_offset;
    backup
        .files
        .blocks
        .retain(|(end, _)| first_offset < end.offset);
    end
}

/// The last id of `served_much`; those far below have left the test backup with its segments.
const MUCH_LAST: u128 = 100_009;

/// A node whose log has three segments, about 8,000 entries in each block.
fn served_much() -> World {
    let mut options = options(100);
    options.id_count_max = 1 << 20;
    let mut world = World::with(options, TestDisk::new(), TestBackup::new());
    world.serve();
    for batch in 0..5_u128 {
        let operations: Vec<Operation> = (0..8_000)
            .map(|number| credit(1 + batch * 8_000 + number, 7, 1))
            .collect();
        world.ask(&operations);
    }
    for number in 0..10 {
        world.one(credit(100_000 + number, 7, 1));
    }
    world
}

fn empty_restart(world: World) -> World {
    let backup = world.backup;
    let mut options = options(300);
    options.id_count_max = 1 << 20;
    let now = world.now;
    let mut world = World::with(options, TestDisk::new(), backup);
    world.now = now;
    world
}

#[test]
fn an_empty_folder_begins_with_the_checkpoint() {
    let mut world = World::new();
    for behind in [3, 0] {
        world = served_much();
        let seq = Seq(world.backup.end().seq.0 - behind);
        let end = make_checkpoint(&mut world.backup, seq);
        assert_eq!(end.seq, seq);
        world = check_knows(empty_restart(world), 40_010, MUCH_LAST);
        let begin = world.disk.files(|files| files.begin.unwrap());
        assert_eq!(begin.offset, world.backup.first_offset);
        assert!(0 < begin.offset);
        assert!(world.has_said("a checkpoint of"));
    }
    // Once refilled, it starts from its own folder.
    let mut backup = take_backup(&mut world);
    backup.checkpoint = None;
    world.backup = backup;
    let mut options = options(400);
    options.id_count_max = 1 << 20;
    let mut disk = std::mem::replace(&mut world.disk, TestDisk::new());
    disk.crash();
    check_knows(World::with(options, disk, world.backup), 40_010, MUCH_LAST);
}

/// What damage took from the end here, the backup keeps in its checkpoint alone.
#[test]
fn damage_below_what_the_backup_keeps_is_repaired_from_its_checkpoint() {
    let mut world = served_much();
    let last = world.backup.end().seq;
    make_checkpoint(&mut world.backup, last);
    let mut disk = std::mem::replace(&mut world.disk, TestDisk::new());
    disk.crash();
    disk.files(|files| {
        files.committed_floor = files.end().seq;
        files.blocks.truncate(2);
        files.damage = Some("block at 7000 does not verify".to_owned());
    });
    let mut options = options(300);
    options.id_count_max = 1 << 20;
    let now = world.now;
    let mut world = World::with(options, disk, world.backup);
    world.now = now;
    let world = check_knows(world, 40_010, MUCH_LAST);
    assert!(world.has_said("keeps nothing below"));
    assert!(world.has_said("a checkpoint of"));
}

fn take_backup(world: &mut World) -> TestBackup {
    std::mem::replace(&mut world.backup, TestBackup::new())
}

#[test]
fn a_refill_survives_lost_links() {
    let mut world = served_much();
    let last = world.backup.end().seq;
    make_checkpoint(&mut world.backup, Seq(last.0 - 8));
    let mut world = empty_restart(world);
    // Cut in the middle of each step, again and again.
    for turns in 1..60 {
        world.run_turns(turns);
        world.cut_link();
        world.mend_link_without_running();
        if world.is_ready {
            break;
        }
    }
    check_knows(world, 40_010, MUCH_LAST);
}

#[test]
fn a_checkpoint_that_changes_meanwhile_is_copied_anew() {
    let mut world = served_much();
    let last = world.backup.end().seq;
    make_checkpoint(&mut world.backup, Seq(last.0 - 8));
    let mut world = empty_restart(world);
    while !world.has_said("a checkpoint of") {
        world.run_turns(1);
    }
    world.run_turns(2);
    let sections = &mut world.backup.checkpoint.as_mut().unwrap().sections;
    let account = sections[2].1.clone();
    assert!(!account.is_empty());
    // Another size: of a cluster with one account more (its content is not looked at: the copy
    // that is begun anew takes the right one again).
    let right = world.backup.checkpoint.clone();
    world.backup.checkpoint.as_mut().unwrap().sections[3].1 = bytes::Bytes::from(vec![0; 24]);
    world.run_turns(2);
    world.backup.checkpoint = right;
    let world = check_knows(world, 40_010, MUCH_LAST);
    assert!(world.has_said("another checkpoint"));
}

#[test]
fn a_backup_with_neither_beginning_nor_checkpoint_cannot_refill() {
    let mut world = served_much();
    let last = world.backup.end().seq;
    make_checkpoint(&mut world.backup, last);
    world.backup.checkpoint = None;
    let mut world = empty_restart(world);
    world.run();
    world.assert_exit(ExitCode::Damage, "neither the beginning");
}

#[test]
fn a_long_tail_is_searched_and_cut_across_segments() {
    let mut world = served_much();
    // Another owner has gone on from a block in an earlier segment; nothing behind it was heard
    // to be committed here.
    let common = world.backup.files.blocks[2].0;
    world.backup.files.blocks.truncate(3);
    append(&mut world.backup, Term(7));
    let verify = Verify {
        log: log_number(),
        cluster: cluster(),
        segment_size: super::SEGMENT_SIZE,
    };
    let mut disk = std::mem::replace(&mut world.disk, TestDisk::new());
    // The node's own blocks, as if it had never heard of a commit.
    disk.files(|files| {
        let mut after = common;
        for (end, bytes) in files.blocks.iter_mut().skip(3) {
            let block = blocks(bytes, verify).next().unwrap().unwrap();
            let mut builder = BlockBuilder::new();
            builder.begin(&BlockSpec {
                log: log_number(),
                cluster: cluster(),
                segment_size: super::SEGMENT_SIZE,
                after: &after,
                term: Term(1),
                time: block.head().time,
                committed: Seq(0),
                entry_count_max: block.head().entry_count,
            });
            for (_, _, entry) in block.entries() {
                builder.push(entry);
            }
            (*bytes, *end) = builder.finish();
            after = *end;
        }
    });
    disk.crash();
    let mut options = options(500);
    options.id_count_max = 1 << 20;
    let mut world = World::with(options, disk, world.backup);
    world.serve();
    assert_eq!(world.disk.aside, [common]);
    let shown = world.one(get(7));
    assert_eq!(shown.available, 8_000, "{shown:?}");
}

#[test]
fn a_disk_that_fails_at_the_start_ends_the_node() {
    let mut world = served(2);
    world.disk.holds_appends = true;
    world.send(&[credit(9, 7, 1)]);
    world.run();
    let mut world = world.restart();
    world.disk.append_fault = Some(DiskFault::Poisoned);
    world.run();
    world.assert_exit(ExitCode::Damage, "the disk failed");
    assert!(!world.is_ready);
}

#[test]
fn the_identity_is_durable_before_the_term_is_used() {
    let world = served(2);
    let is_save = |request: &DiskRequest| matches!(request, DiskRequest::SaveFile { .. });
    let is_append = |request: &DiskRequest| matches!(request, DiskRequest::Append { .. });
    let saved = world.disk.requests.iter().position(is_save);
    let appended = world.disk.requests.iter().position(is_append);
    assert!(saved.unwrap() < appended.unwrap());
}
