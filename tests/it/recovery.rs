//! Machines that die: every role in turn, empty and copied folders, blank and old backups.

use std::path::Path;
use std::time::Duration;

use counterfoil::client::Client;
use counterfoil::dev::Cluster;
use counterfoil::model::{Flags, Operation, ResultCode};

use crate::harness::{code, connect, currency, err, run, start, user};

const PATIENCE: Duration = Duration::from_secs(60);

/// Credits 1 to each of `count` users; all must be acknowledged.
fn credit_all(client: &mut Client, count: u32) {
    let batch: Vec<Operation> = (1..=count)
        .map(|number| {
            Operation::credit(client.new_id(), user(number.into()), currency(1), 1)
                .with_flags(Flags::OPEN_IF_MISSING)
        })
        .collect();
    for answer in client.batch(&batch).expect("answered") {
        assert_eq!(answer.receipt.code, ResultCode::Ok);
    }
}

fn assert_balances(client: &mut Client, count: u32, expected: i64) {
    let batch: Vec<Operation> = (1..=count)
        .map(|number| Operation::get(user(number.into()), currency(1)))
        .collect();
    for (number, answer) in (1..).zip(client.batch(&batch).expect("answered")) {
        assert_eq!(
            answer.receipt.available, expected,
            "user {number}: {:?}",
            answer.receipt
        );
    }
}

#[test]
fn every_role_dies_in_turn_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 3);
    let fronts = cluster.front_addresses();
    let mut client = connect(&fronts);
    let mut expected = 0;
    for round in 0..5 {
        credit_all(&mut client, 200);
        expected += 1;
        match round {
            1..=3 => {
                cluster.node(round).kill().unwrap();
                cluster.restart_node(round).unwrap();
                cluster.node(round).wait_ready(PATIENCE).unwrap();
            }
            0 => {
                cluster.backup().kill().unwrap();
                cluster.restart_backup().unwrap();
                cluster.backup().wait_ready(PATIENCE).unwrap();
            }
            _ => {
                cluster.front(1).kill().unwrap();
                cluster.restart_front(1).unwrap();
                cluster.front(1).wait_ready(PATIENCE).unwrap();
            }
        }
        assert_balances(&mut client, 200, expected);
    }
    assert!(
        client
            .audit()
            .unwrap()
            .iter()
            .all(|row| row.difference == 0)
    );
    cluster.stop().unwrap();
}

#[test]
fn a_second_start_finds_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path(), 2);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 50);
    cluster.stop().unwrap();
    let cluster = start(folder.path(), 2);
    assert_balances(&mut connect(&cluster.front_addresses()), 50, 1);
    cluster.stop().unwrap();
}

#[test]
fn a_node_with_an_empty_folder_is_filled_from_the_backup() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 2);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 300);
    for number in [1, 2] {
        cluster.node(number).kill().unwrap();
        cluster.wipe_node(number).unwrap();
        cluster.restart_node(number).unwrap();
        cluster.node(number).wait_ready(PATIENCE).unwrap();
        assert_balances(&mut client, 300, 1);
    }
    cluster.stop().unwrap();
    verify_all(folder.path(), 2);
}

fn verify_all(folder: &Path, nodes: u32) {
    let backup = folder.join("backup");
    let checked = run(&["verify", &backup.to_string_lossy()]);
    assert_eq!(code(&checked), 0, "{}", err(&checked));
    for number in 1..=nodes {
        let node = folder.join(format!("node-{number}"));
        let (node, backup) = (node.to_string_lossy(), backup.to_string_lossy());
        let checked = run(&["verify", &node, "--against", &backup]);
        assert_eq!(code(&checked), 0, "{}", err(&checked));
    }
}

#[test]
fn a_second_process_on_one_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 1);
    let backup = cluster.backup().address().to_string();
    let data = cluster.node_folder(1);
    let second = run(&[
        "node",
        "--id",
        "1",
        "--backup",
        &backup,
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data.to_string_lossy(),
    ]);
    assert_eq!(code(&second), 6, "{}", err(&second));
    assert!(err(&second).contains("in use"), "{}", err(&second));
    cluster.stop().unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Starts node 1 on `data`, which must be turned away for good.
fn refused_node(cluster: &mut Cluster, data: &Path) -> (i32, String) {
    let backup = cluster.backup().address().to_string();
    let output = run(&[
        "node",
        "--id",
        "1",
        "--backup",
        &backup,
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data.to_string_lossy(),
    ]);
    (code(&output), err(&output))
}

#[test]
fn a_copied_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 1);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 20);
    cluster.node(1).kill().unwrap();
    let copy = folder.path().join("copy");
    copy_folder(&cluster.node_folder(1), &copy);
    cluster.restart_node(1).unwrap();
    cluster.node(1).wait_ready(PATIENCE).unwrap();
    credit_all(&mut client, 20);
    let (status, words) = refused_node(&mut cluster, &copy);
    assert!(status == 6 || status == 8, "{status}: {words}");
    assert_balances(&mut client, 20, 2);
    cluster.stop().unwrap();
}

#[test]
fn a_blank_backup_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 1);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 20);
    cluster.backup().kill().unwrap();
    let data = cluster.backup_folder();
    std::fs::rename(&data, folder.path().join("backup-away")).unwrap();
    // Without --create a blank folder is not served at all.
    let blank = run(&[
        "backup",
        "--data-dir",
        &data.to_string_lossy(),
        "--listen",
        "127.0.0.1:0",
    ]);
    assert_ne!(code(&blank), 0);
    assert!(err(&blank).contains("--create"), "{}", err(&blank));
    // With it, it is another cluster: the node turns it down and acknowledges nothing.
    cluster.restart_backup().unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    let status = cluster.node(1).wait(PATIENCE).unwrap();
    assert_eq!(status, Some(6), "{}", cluster.node(1).last_words());
}

#[test]
fn an_older_backup_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 1);
    let mut client = connect(&cluster.front_addresses());
    credit_all(&mut client, 20);
    cluster.backup().kill().unwrap();
    let data = cluster.backup_folder();
    let old = folder.path().join("old");
    copy_folder(&data, &old);
    cluster.restart_backup().unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    credit_all(&mut client, 20);
    cluster.backup().kill().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&old, &data).unwrap();
    cluster.restart_backup().unwrap();
    cluster.backup().wait_ready(PATIENCE).unwrap();
    let status = cluster.node(1).wait(PATIENCE).unwrap();
    assert_eq!(status, Some(6), "{}", cluster.node(1).last_words());
    assert!(cluster.node(1).last_words().contains("backup"));
}
