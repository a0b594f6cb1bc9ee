//! Blank, used, foreign, damaged and unfinished folders.

use super::bench::{cluster, options, options_to_create};
use super::{Bench, FakeNode, life, log};
use crate::backup::authority::Record;
use crate::model::{ClusterId, NodeId, Seq, Slot, Term};
use crate::protocol::{Hello, Message, PeerRole};
use crate::role::{ExitCode, Level};

#[test]
fn a_blank_folder_is_refused() {
    let mut bench = Bench::blank(options(1));
    bench.settle();
    let (code, text) = bench.exit.clone().unwrap();
    assert_eq!(code, ExitCode::Usage);
    assert!(
        text.contains("--create") && text.contains("backup recover"),
        "{text}"
    );
    assert!(!bench.ready);
    assert_eq!(bench.disk.done, ["load_file"]);
    assert!(bench.disk.authority.is_none());
}

#[test]
fn a_new_cluster_is_durable_before_anybody_is_answered() {
    let mut bench = Bench::blank(options_to_create(1));
    bench.settle();
    assert!(bench.ready);
    let saved = bench.disk.done.iter().position(|name| *name == "save_file");
    assert_eq!(
        bench.disk.done[..5],
        ["load_file", "open_log", "open_log", "open_log", "save_file"]
    );
    assert_eq!(saved, Some(4));
    let record = Record::decode(&bench.disk.authority.clone().unwrap()).unwrap();
    assert_eq!(record.generation.0, 1);
    assert_eq!(record.ring_epoch().0, 1);
    let logs: Vec<u16> = record
        .members
        .values()
        .map(|member| member.log.get())
        .collect();
    assert_eq!(logs, [1, 2, 3]);
    let count_of = |number| record.table.slot_count_of(NodeId::new(number).unwrap());
    assert_eq!(count_of(1) + count_of(2) + count_of(3), 65_536);
    assert!(count_of(1) < count_of(3), "node 3 has twice the weight");
    assert!((0..=u16::MAX).all(|slot| record.table.owner(Slot(slot)).is_some()));
}

#[test]
fn before_the_record_is_saved_a_crash_leaves_a_blank_folder() {
    let mut bench = Bench::blank(options_to_create(1));
    bench.input(crate::role::Input::Elapsed);
    for _ in 0..4 {
        assert!(bench.disk_step());
    }
    assert!(!bench.ready);
    bench.crash();
    bench.settle();
    assert_eq!(bench.exit_code(), Some(ExitCode::Usage));
}

#[test]
fn a_folder_in_use_is_opened_again_and_not_made_anew() {
    let mut bench = Bench::serving();
    bench.crash_and_settle();
    assert_eq!(bench.status()["cluster"], cluster().to_string());

    let disk = std::mem::take(&mut bench.disk);
    let mut bench = Bench::blank(options_to_create(2));
    let authority = disk.authority.clone();
    bench.disk = disk;
    bench.settle();
    assert_eq!(bench.exit_code(), Some(ExitCode::Usage));
    assert!(bench.exit.clone().unwrap().1.contains("already"));
    assert_eq!(bench.disk.authority, authority);
}

#[test]
fn no_cluster_is_made_over_logs() {
    let mut bench = Bench::serving();
    FakeNode::new(1, 10).join(&mut bench);
    let disk = std::mem::take(&mut bench.disk);
    let mut bench = Bench::blank(options_to_create(2));
    bench.disk = disk;
    bench.disk.authority = None;
    bench.settle();
    assert_eq!(bench.exit_code(), Some(ExitCode::Damage));
    assert!(bench.disk.authority.is_none());
}

#[test]
fn a_damaged_authority_file_is_not_served() {
    let mut bench = Bench::serving();
    let bytes = bench.disk.authority.clone().unwrap();
    bench.disk.authority = Some(bytes.slice(..bytes.len() - 1));
    bench.crash();
    bench.settle();
    assert_eq!(bench.exit_code(), Some(ExitCode::Damage));
}

/// A cluster with one log of three blocks, changed on the disk by `change`, and started again.
fn restarted(change: impl FnOnce(&mut Bench)) -> Bench {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    for _ in 0..3 {
        node.commit(&mut bench, 2);
    }
    let mut again = node.restarted(11);
    bench.drop_peer(node.peer.unwrap());
    again.join(&mut bench);
    bench.crash();
    change(&mut bench);
    bench.settle();
    bench
}

#[test]
fn damage_is_named_and_not_served() {
    let bench = restarted(|bench| {
        let log = bench.disk.logs.get_mut(&log(1)).unwrap();
        log.damage = Some("block 2 at offset 4480 does not verify".to_owned());
    });
    assert!(!bench.ready);
    assert_eq!(bench.exit_code(), Some(ExitCode::Damage));
    assert!(bench.exit.clone().unwrap().1.contains("offset 4480"));
    assert_eq!(bench.alarms(), 1);
}

type Change = fn(&mut Bench);

#[test]
fn a_log_below_what_was_committed_or_granted_is_not_served() {
    let cases: [(Change, &str); 6] = [
        (
            |bench| {
                bench.disk.logs.get_mut(&log(1)).unwrap().blocks.pop();
            },
            "was granted behind block 3",
        ),
        (
            |bench| bench.disk.logs.get_mut(&log(1)).unwrap().committed = Seq(9),
            "block 9 was committed",
        ),
        (
            |bench| {
                bench.disk.logs.remove(&log(1));
            },
            "log 1 is gone",
        ),
        (
            |bench| {
                let last = bench.disk.logs.get_mut(&log(1)).unwrap().blocks.last_mut();
                last.unwrap().0.term = Term(7);
            },
            "older than the log",
        ),
        (
            |bench| {
                let last = bench.disk.logs.get_mut(&log(1)).unwrap().blocks.last_mut();
                last.unwrap().0.chain ^= 1;
            },
            "chain value",
        ),
        (
            |bench| {
                let foreign = ClusterId::new(5).unwrap();
                bench.disk.logs.get_mut(&log(1)).unwrap().cluster = foreign;
            },
            "belongs to cluster",
        ),
    ];
    for (change, expected) in cases {
        let bench = restarted(change);
        assert_eq!(bench.exit_code(), Some(ExitCode::Damage), "{expected}");
        let text = bench.exit.clone().unwrap().1;
        assert!(text.contains(expected), "{text} / {expected}");
    }
}

#[test]
fn an_unfinished_write_is_put_aside_before_serving() {
    let mut bench = Bench::serving();
    let mut node = FakeNode::new(1, 10);
    node.join(&mut bench);
    node.commit(&mut bench, 2);
    bench.crash();
    bench.disk.logs.get_mut(&log(1)).unwrap().torn = Some("at offset 4480".to_owned());
    bench.input(crate::role::Input::Elapsed);
    while bench.disk_do("load_file") + bench.disk_do("open_log") > 0 {}
    bench.disk_do("measure_free_space");
    assert!(!bench.ready);
    // It may have been damage: that it was there is recorded first.
    assert_eq!(bench.disk_do("cut_log"), 0);
    assert_eq!(bench.disk_do("save_file"), 1);
    assert_eq!(bench.disk_do("cut_log"), 1);
    assert!(bench.ready);
    let warned =
        |(level, text): &(Level, String)| *level == Level::Warn && text.contains("at offset 4480");
    assert!(bench.said.iter().any(warned));
}

#[test]
fn strangers_are_told_that_it_starts() {
    let mut bench = Bench::blank(options_to_create(1));
    let peer = bench.open();
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        role: PeerRole::Client,
        cluster: None,
        node: None,
        incarnation: life(3),
    };
    bench.say_to(peer, &Message::Hello(hello));
    assert_eq!(bench.heard(peer), ["refused not_ready"]);
    bench.settle();
    assert!(bench.ready);
    bench.connect(PeerRole::Client, None, life(3));
}

#[test]
fn a_peer_that_comes_while_logs_are_opened_comes_too_early() {
    let mut bench = Bench::serving();
    bench.crash();
    bench.input(crate::role::Input::Elapsed);
    bench.disk_do("load_file");
    let early = bench.open();
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        role: PeerRole::Front,
        cluster: None,
        node: None,
        incarnation: life(3),
    };
    bench.say_to(early, &Message::Hello(hello));
    assert_eq!(bench.heard(early), ["refused not_ready"]);
    // An orderly end waits for the disk even then.
    bench.input(crate::role::Input::Stop);
    assert!(bench.exit.is_none());
    bench.settle();
    assert_eq!(bench.exit_code(), Some(ExitCode::Ok));
    assert!(!bench.ready);
}

#[test]
fn a_poisoned_start_ends() {
    let mut bench = Bench::blank(options_to_create(1));
    bench
        .disk
        .faults
        .insert("save_file", crate::role::DiskFault::Poisoned);
    bench.settle();
    assert_eq!(bench.exit_code(), Some(ExitCode::Damage));
    assert!(!bench.ready);
}
