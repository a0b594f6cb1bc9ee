//! The backup's disk is lost. The nodes refuse what is blank or old, and `backup recover` makes
//! the backup again from their logs: docs/decisions/0002-recover.md.

use std::path::Path;
use std::time::Duration;

use counterfoil::client::Client;
use counterfoil::dev::Cluster;
use counterfoil::model::{Flags, Operation, OperationId, ResultCode};
use serde_json::Value;

use crate::harness::{code, connect, currency, err, out, run, start, user};

const PATIENCE: Duration = Duration::from_secs(60);

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

fn status(cluster: &Cluster) -> Value {
    let front = cluster.front_addresses()[0].to_string();
    let shown = run(&["status", "--json", "--addr", &front]);
    serde_json::from_str(&out(&shown)).expect("status is JSON")
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
    let shown = status(&cluster);
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
