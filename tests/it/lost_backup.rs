//! The backup's disk is lost. The nodes refuse what is blank or old, and `backup recover` makes
//! the backup again from their logs: docs/decisions/0002-recover.md.

use std::path::Path;
use std::time::Duration;

use counterfoil::client::Client;
use counterfoil::dev::{Cluster, StartError};
use counterfoil::model::{Flags, Operation, OperationId, ResultCode};
use serde_json::Value;

use crate::harness::{code, connect, currency, err, out, run, start, user};

const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what a daemon said.
const LOOK: Duration = Duration::from_millis(50);

/// Credits `amount` to each of `count` users; all are acknowledged. The operations, as sent.
fn credit_all(client: &mut Client, count: u32, amount: u64) -> Vec<Operation> {
    let batch: Vec<Operation> = (1..=count)
        .map(|number| {
            let id: OperationId = client.new_id();
            Operation::credit(id, user(number.into()), currency(1), amount)
                .with_flags(Flags::OPEN_IF_MISSING)
        })
        .collect();
    for answer in client.batch(&batch).expect("answered") {
        assert_eq!(answer.receipt.code, ResultCode::Ok);
    }
    batch
}

fn assert_balances(client: &mut Client, count: u32, expected: i64) {
    let batch: Vec<Operation> = (1..=count)
        .map(|number| Operation::get(user(number.into()), currency(1)))
        .collect();
    for (number, answer) in (1..).zip(client.batch(&batch).expect("answered")) {
        let receipt = &answer.receipt;
        assert_eq!(receipt.available, expected, "user {number}: {receipt:?}");
    }
}

/// What `status` shows, once the front has its link to the backup again.
fn status_of(cluster: &mut Cluster) -> Value {
    let front = cluster.front_addresses()[0].to_string();
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        let shown = run(&["status", "--json", "--addr", &front]);
        if let Ok(status) = serde_json::from_slice(&shown.stdout) {
            return status;
        }
        if let Err(error) = cluster.backup().wait_ready(LOOK) {
            assert!(is_slow(&error));
        }
    }
    panic!("no status in a minute");
}

const fn is_slow(error: &StartError) -> bool {
    matches!(error, StartError::TooSlow { .. })
}

/// Every copy of a log is equal, and everything is whole.
fn verify_all(folder: &Path, nodes: &[u32]) {
    let backup = folder.join("backup");
    let backup = backup.to_string_lossy();
    let checked = run(&["verify", &backup]);
    assert_eq!(code(&checked), 0, "{}{}", out(&checked), err(&checked));
    for number in nodes {
        let node = folder.join(format!("node-{number}"));
        let checked = run(&["verify", &node.to_string_lossy(), "--against", &backup]);
        assert_eq!(code(&checked), 0, "{}{}", out(&checked), err(&checked));
    }
}

fn assert_conserved(client: &mut Client) {
    for row in client.audit().unwrap() {
        assert_eq!(row.difference, 0, "{row:?}");
        assert_eq!(row.adopted_in, row.adopted_out, "{row:?}");
    }
}

/// The nodes live, keep what they acknowledged, and serve again once the backup is made again; then
/// it is a backup: a node that loses its disk is filled from it.
#[test]
fn a_lost_backup_is_made_again_from_the_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 3);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 300, 5);
    let second = credit_all(&mut client, 300, 2);
    cluster.backup().kill().unwrap();
    std::fs::remove_dir_all(cluster.backup_folder()).unwrap();

    // A blank folder is not served: that would be another cluster.
    let listen = cluster.backup().address().to_string();
    let data = cluster.backup_folder();
    let plain = run(&[
        "backup",
        "--data-dir",
        &data.to_string_lossy(),
        "--listen",
        &listen,
    ]);
    assert_eq!(code(&plain), 2, "{}", err(&plain));
    assert!(err(&plain).contains("backup recover"), "{}", err(&plain));
    for number in 1..=3 {
        assert_eq!(cluster.node(number).ended().unwrap(), None);
    }

    cluster.recover_backup(&["--json"]).unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    assert_balances(&mut client, 300, 7);
    let shown = status_of(&mut cluster);
    assert_eq!(shown["generation"], 2);
    assert_eq!(shown["recovered"]["given_up"], serde_json::json!([]));
    // Ids are remembered too: what was acknowledged is not done again.
    for answer in client.batch(&second).expect("answered") {
        assert_eq!(answer.receipt.code, ResultCode::Ok);
    }
    assert_balances(&mut client, 300, 7);
    credit_all(&mut client, 300, 1);
    assert_balances(&mut client, 300, 8);
    assert_conserved(&mut client);

    cluster.node(2).kill().unwrap();
    cluster.wipe_node(2).unwrap();
    cluster.restart_node(2).unwrap();
    cluster.node(2).wait_ready(PATIENCE).unwrap();
    assert_balances(&mut client, 300, 8);
    assert_conserved(&mut client);
    // What is made again starts like any other.
    cluster.backup().kill().unwrap();
    cluster.restart_backup().unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    credit_all(&mut client, 300, 1);
    assert_balances(&mut client, 300, 9);
    cluster.stop().unwrap();
    verify_all(folder.path(), &[1, 2, 3]);
}

/// Waits until the backup has said something with `words`, long before it serves.
fn until_said(cluster: &mut Cluster, folder: &Path, words: &str) {
    let log = folder.join("logs").join("backup.log");
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        let said = std::fs::read_to_string(&log).unwrap();
        if said.contains(words) {
            return;
        }
        let waited = cluster.backup().wait_ready(LOOK).err();
        assert_eq!(waited.as_ref().map(is_slow), Some(true), "{said}");
    }
    panic!("the backup did not say: {words}");
}

/// A recovery waits for every node. Who has recorded its generation never follows the old backup
/// again, though that comes back; and a recovery that broke off is begun anew.
#[test]
fn who_recorded_the_generation_never_follows_the_old_backup() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 2);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 100, 5);
    cluster.backup().kill().unwrap();
    cluster.node(2).kill().unwrap();
    let (data, away) = (cluster.backup_folder(), folder.path().join("old"));
    std::fs::rename(&data, &away).unwrap();
    cluster.recover_backup(&[]).unwrap();
    until_said(
        &mut cluster,
        folder.path(),
        "node 1 has recorded generation 2",
    );
    until_said(&mut cluster, folder.path(), "node 2 is waited for");
    cluster.backup().kill().unwrap();

    let begun = folder.path().join("begun");
    std::fs::rename(&data, &begun).unwrap();
    std::fs::rename(&away, &data).unwrap();
    cluster.restart_backup().unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    let status = cluster.node(1).wait(PATIENCE).unwrap();
    assert_eq!(status, Some(6), "{}", cluster.node(1).last_words());
    cluster.backup().kill().unwrap();

    // Where it broke off no plain start is possible, and it is begun again with more than before.
    std::fs::rename(&data, &away).unwrap();
    std::fs::rename(&begun, &data).unwrap();
    let plain = run(&[
        "backup",
        "--data-dir",
        &data.to_string_lossy(),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(code(&plain), 2, "{}", err(&plain));
    cluster.recover_backup(&[]).unwrap();
    for number in [1, 2] {
        cluster.restart_node(number).unwrap();
    }
    for number in [1, 2] {
        cluster.node(number).wait_ready(PATIENCE).unwrap();
    }
    assert_balances(&mut client, 100, 5);
    assert_eq!(status_of(&mut cluster)["generation"], 3);
    // Nothing is recovered into a folder that has a cluster.
    cluster.backup().kill().unwrap();
    let again = run(&["backup", "recover", "--data-dir", &data.to_string_lossy()]);
    assert_eq!(code(&again), 2, "{}", err(&again));
    assert!(err(&again).contains("already holds"), "{}", err(&again));
    cluster.restart_backup().unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    credit_all(&mut client, 100, 1);
    assert_balances(&mut client, 100, 6);
    cluster.stop().unwrap();
    verify_all(folder.path(), &[1, 2]);
}

/// A node was taken over and did not come back before the backup was lost: its log does not know
/// that its users are others'. It is refused with the way out; given up, nothing acknowledged is
/// missing, and it may join again with an empty folder.
#[test]
fn who_was_taken_over_in_the_lost_backup_alone_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 3);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 300, 5);
    cluster.node(1).kill().unwrap();
    // Answered by the others, once they have taken over.
    credit_all(&mut client, 300, 2);
    cluster.backup().kill().unwrap();
    std::fs::remove_dir_all(cluster.backup_folder()).unwrap();

    cluster.recover_backup(&[]).unwrap();
    cluster.restart_node(1).unwrap();
    let status = cluster.backup().wait(PATIENCE).unwrap();
    let said = cluster.backup().last_words();
    assert_eq!(status, Some(6), "{said}");
    assert!(said.contains("--give-up 1"), "{said}");

    cluster.recover_backup(&["--give-up", "1"]).unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    assert_balances(&mut client, 300, 7);
    let status = cluster.node(1).wait(PATIENCE).unwrap();
    assert_eq!(status, Some(2), "{}", cluster.node(1).last_words());
    let shown = status_of(&mut cluster);
    assert_eq!(shown["recovered"]["given_up"], serde_json::json!([1]));
    let opening = &shown["recovered"]["openings"][0];
    let difference: i64 = opening["difference"].as_str().unwrap().parse().unwrap();
    // What came from the log of node 1, before the others' own changes.
    assert!(0 < difference && difference < 300 * 5, "{opening}");
    for row in client.audit().unwrap() {
        assert_eq!(row.difference, 0, "{row:?}");
        assert_eq!(row.available, 300 * 7, "{row:?}");
        assert_eq!(
            row.adopted_in - row.adopted_out,
            difference.into(),
            "{row:?}"
        );
    }
    cluster.wipe_node(1).unwrap();
    cluster.rejoin_node(1).unwrap();
    cluster.node(1).wait_ready(PATIENCE).unwrap();
    credit_all(&mut client, 300, 1);
    assert_balances(&mut client, 300, 8);
    cluster.stop().unwrap();
    verify_all(folder.path(), &[1, 2, 3]);
}
