//! Folders that are not what they seem: older, blank, copied, opened twice. Nothing may be
//! acknowledged on them, and the right folder goes on as if nothing had been.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use counterfoil::model::ResultCode;

use crate::host;
use crate::mutation::copy_folder;
use crate::world::{PATIENCE, Role, Shape, World};

const SHAPE: Shape = Shape {
    node_count: 1,
    front_count: 1,
    has_proxies: false,
};

const NODE: Role = Role::Node(1);

/// Exit codes of a node that is turned away for good.
const REFUSED: [i32; 2] = [6, 8];

/// Puts a folder in the place of the backup's, sees the node turn it down, puts the right one
/// back.
fn with_wrong_backup(name: &'static str, seed: u64, wrong: impl Fn(&mut World) -> Option<String>) {
    host::say(&format!("{name}: seed {seed}"));
    let mut world = World::start(name, SHAPE);
    let load = world.load(seed);
    let work = world.work(&load);
    work.until_answered(300, Duration::from_secs(30));
    let data = world.data(Role::Backup);
    let right = world.path().join("right");
    let wrong = wrong(&mut world);
    work.until_answered(300, Duration::from_secs(60));
    world.kill(Role::Backup);
    std::fs::rename(&data, &right).unwrap();
    if let Some(wrong) = wrong {
        std::fs::rename(wrong, &data).unwrap();
    }
    world.revive(Role::Backup);
    let code = world.wait_end(NODE, PATIENCE);
    let words = world.words(NODE);
    assert_eq!(code, Some(6), "{name}: {words}");
    // For as long as the wrong one is there, so is nobody who acknowledges anything. What was
    // asked before may still be on its way back.
    let from = world.record.note("nobody is there");
    work.go_on(Duration::from_millis(500));
    let events = world.record.read();
    let late = events.iter().filter(|event| from < event.intent.number);
    let mut codes = late.filter_map(|event| event.told.map(|told| told.receipt.code));
    let answer = codes.find(|code| *code != ResultCode::Unknown && !code.may_retry());
    assert_eq!(answer, None, "{name}: answered without a node");
    world.kill(Role::Backup);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&right, &data).unwrap();
    world.revive(Role::Backup);
    world.revive(NODE);
    work.until_answered(300, Duration::from_secs(60));
    work.stop();
    world.finish(&load);
}

#[test]
fn an_older_backup_is_turned_down() {
    with_wrong_backup("older backup", host::seed(18), |world| {
        world.kill(Role::Backup);
        let old = world.path().join("old");
        copy_folder(&world.data(Role::Backup), &old);
        world.revive(Role::Backup);
        Some(host::text(&old))
    });
}

#[test]
fn a_blank_backup_is_turned_down() {
    // Without a folder the backup makes a new cluster: another one.
    with_wrong_backup("blank backup", host::seed(19), |_| None);
}

/// Starts one more process as node 1 on `folder`, and waits for its end.
fn second_node(world: &World, folder: &Path) -> Output {
    let backup = world.address(Role::Backup).to_string();
    let folder = host::text(folder);
    let arguments = [
        "node",
        "--id",
        "1",
        "--data-dir",
        &folder,
        "--backup",
        &backup,
    ];
    host::run(&[&arguments[..], &["--listen", "127.0.0.1:0"]].concat())
}

fn assert_refused(name: &str, output: &Output) {
    let words = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| REFUSED.contains(&code)),
        "{name}: {code:?} {words}"
    );
}

#[test]
fn a_copied_folder_is_turned_down() {
    let seed = host::seed(20);
    host::say(&format!("copied folder: seed {seed}"));
    let mut world = World::start("copied folder", SHAPE);
    let load = world.load(seed);
    let work = world.work(&load);
    work.until_answered(300, Duration::from_secs(30));

    // A second process on the very folder.
    let second = second_node(&world, &world.data(NODE));
    assert_refused("the folder itself", &second);
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"));

    // A copy that was taken under load, beside the original.
    let copy = world.path().join("copy");
    copy_folder(&world.data(NODE), &copy);
    assert_refused("a copy beside the original", &second_node(&world, &copy));
    work.until_answered(300, Duration::from_secs(30));

    // A copy of an earlier life, while nobody is there.
    let older = world.path().join("older");
    world.kill(NODE);
    copy_folder(&world.data(NODE), &older);
    world.revive(NODE);
    work.until_answered(300, Duration::from_secs(30));
    world.kill(NODE);
    assert_refused("a copy of an earlier life", &second_node(&world, &older));

    // A copy of this life goes on in the original's place; then the original is the old one.
    let data = world.data(NODE);
    let newer = world.path().join("newer");
    copy_folder(&data, &newer);
    world.place(NODE, newer);
    world.revive(NODE);
    work.until_answered(300, Duration::from_secs(30));
    assert_refused("the original", &second_node(&world, &data));
    work.until_answered(300, Duration::from_secs(30));
    work.stop();
    world.finish(&load);
}
