//! Logs that are damaged at rest: every change is found, and repaired from the other copy, or the
//! daemon stops and names the place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use counterfoil::disk::look;
use counterfoil::log::{
    Checkpoint, FileMedium, Log, LogError, Opening, Recovered, SmallFile, load,
};
use counterfoil::model::{LogEnd, LogNumber, Random, to_u64, to_usize};

use crate::host;
use crate::logs::for_each_block;
use crate::mutation::{Mutation, copy_folder, draw};
use crate::workload::{Load, Workload};
use crate::world::{Role, SEGMENT_SIZE, Shape, World};

const SHAPE: Shape = Shape {
    node_count: 1,
    front_count: 1,
    has_proxies: false,
};

/// What became of a change in a copy that was opened by the recovery code alone.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// No block was touched, and the log is whole.
    harmless: u64,
    /// Opening says what is damaged, and where.
    refused: u64,
    /// Recovery names a damaged block or segment.
    damage: u64,
    /// Something lies behind a shorter end.
    torn: u64,
    /// A shorter log, and nothing behind it: seen by the comparison with the other copy.
    short: u64,
    /// Made whole again from the other copy, byte for byte.
    repaired: u64,
}

/// A log of both copies, as it was before it was damaged.
struct Original {
    folder: PathBuf,
    number: LogNumber,
    end: LogEnd,
    /// Every block: where it lies, its bytes.
    blocks: Vec<(u64, Vec<u8>)>,
}

impl Original {
    fn read(folder: &Path, number: LogNumber) -> Self {
        let (log, _) = open(folder, number, Opening::Look)
            .expect("sound")
            .expect("there");
        let mut all = Vec::new();
        for_each_block(&log, |block, bytes| {
            all.push((block.first_offset(), bytes.to_vec()));
        });
        Self {
            folder: folder.to_owned(),
            number,
            end: log.end(),
            blocks: all,
        }
    }

    /// Does one of these offsets in a file lie in a block?
    fn touches_block(&self, path: &Path, changed: &[u64]) -> bool {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(segment) = name.strip_prefix("segment-") else {
            return false;
        };
        let start = u64::from_str_radix(segment, 16).expect("a segment's number") * SEGMENT_SIZE;
        changed.iter().any(|at| {
            let at = start + at;
            let behind = self.blocks.partition_point(|(offset, _)| *offset <= at);
            let Some((offset, bytes)) = behind.checked_sub(1).map(|index| &self.blocks[index])
            else {
                return false;
            };
            at < offset + to_u64(bytes.len())
        })
    }
}

fn open(
    folder: &Path,
    number: LogNumber,
    opening: Opening,
) -> Result<Option<(Log, Recovered)>, LogError> {
    Log::open(Arc::new(FileMedium::existing(folder)), number, &[], opening)
}

/// Opens a damaged copy and makes it whole from the original, as a node does.
fn try_copy(copy: &Path, original: &Original, mutation: &Mutation, tally: &mut Tally) {
    let changed = mutation.apply();
    let touches = original.touches_block(&mutation.path, &changed);
    let opened = open(copy, original.number, Opening::Use);
    let (log, found) = match opened {
        Err(error) => {
            assert!(
                matches!(error, LogError::Damage(_)),
                "{mutation:?}: {error}"
            );
            let text = error.to_string();
            assert!(
                text.contains("logs/"),
                "{mutation:?}: names no place: {text}"
            );
            tally.refused += 1;
            return;
        }
        Ok(None) => {
            tally.refused += 1;
            return;
        }
        Ok(Some(opened)) => opened,
    };
    assert_prefix(&log, original, mutation);
    let is_whole = found.end == original.end;
    match (&found.damage, &found.torn) {
        (Some(text), _) => {
            let names = text.contains("segment") || text.contains("offset");
            assert!(names, "{mutation:?}: names no place: {text}");
            tally.damage += 1;
        }
        (None, Some(_)) => tally.torn += 1,
        (None, None) if is_whole => {
            assert!(
                !touches,
                "{mutation:?}: a block was changed and nothing was found"
            );
            tally.harmless += 1;
            return;
        }
        (None, None) => tally.short += 1,
    }
    repair(&log, original, mutation);
    drop(log);
    let reopened = open(copy, original.number, Opening::Use).expect("it was repaired");
    let (log, again) = reopened.expect("it was repaired");
    assert!(
        again.damage.is_none() && again.torn.is_none(),
        "{mutation:?}: {again:?}"
    );
    assert_eq!(log.end(), original.end, "{mutation:?}");
    assert_prefix(&log, original, mutation);
    tally.repaired += 1;
}

/// Nothing is read that was not written.
fn assert_prefix(log: &Log, original: &Original, mutation: &Mutation) {
    let mut left = original.blocks.iter();
    for_each_block(log, |block, found| {
        let (offset, bytes) = left.next().expect("no more blocks than were written");
        let same = block.first_offset() == *offset && found == bytes;
        assert!(same, "{mutation:?}: block at {offset} is another one");
    });
}

fn repair(log: &Log, original: &Original, mutation: &Mutation) {
    let cut = log.cut(&log.end());
    cut.unwrap_or_else(|error| panic!("{mutation:?}: {error}"));
    let from = log.end().offset;
    let missing = original.blocks.iter().filter(|(offset, _)| from <= *offset);
    let missing: Vec<&[u8]> = missing.map(|(_, bytes)| &bytes[..]).collect();
    let appended = log.append(&missing);
    if let Some(error) = appended.error {
        panic!("{mutation:?}: {error}");
    }
}

/// A small file either says what it said, or that it is damaged.
fn try_small_file(copy: &Path, mutation: &Mutation, tally: &mut Tally) {
    let kinds = [SmallFile::Kind, SmallFile::Identity, SmallFile::Authority];
    let name = mutation
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let file = kinds.into_iter().find(|kind| kind.name() == name);
    let file = file.unwrap_or_else(|| panic!("what is {name}?"));
    let medium = FileMedium::existing(copy);
    let before = load(&medium, "", file).expect("sound");
    mutation.apply();
    match load(&medium, "", file) {
        Ok(after) => {
            assert_eq!(before, after, "{mutation:?}");
            tally.harmless += 1;
        }
        Err(error) => {
            assert!(error.to_string().contains(&name), "{mutation:?}: {error}");
            tally.refused += 1;
        }
    }
}

/// A checkpoint that is not what it was is not used.
fn try_checkpoint(copy: &Path, number: LogNumber, mutation: &Mutation, tally: &mut Tally) {
    let changed = mutation.apply();
    let found = look(copy)
        .expect("readable")
        .checkpoints(number)
        .expect("readable");
    let verified = |checkpoint: Result<Checkpoint, LogError>| {
        checkpoint.and_then(|checkpoint| checkpoint.verify(number))
    };
    let is_found = found
        .into_iter()
        .map(verified)
        .any(|result| result.is_err());
    assert_eq!(is_found, !changed.is_empty(), "{mutation:?}");
    if is_found {
        tally.refused += 1;
    } else {
        tally.harmless += 1;
    }
}

/// A cluster that has worked for a while, and whose daemons are stopped: in order, or killed.
fn used_folders(name: &'static str, seed: u64) -> (World, PathBuf, PathBuf) {
    let mut world = World::start(name, SHAPE);
    let load = Load {
        pace_ms: 0,
        batch_count: 200,
        ..world.load(seed)
    };
    let work = world.work(&load);
    // Three segments and some of the fourth.
    work.until_answered(60_000, Duration::from_secs(120));
    for role in world.roles() {
        world.kill(role);
    }
    work.stop();
    let (node, backup) = (world.data(Role::Node(1)), world.data(Role::Backup));
    (world, node, backup)
}

fn mutate_in_process(name: &'static str, count: u64, seed: u64) {
    let (world, node, backup) = used_folders(name, seed);
    let number = LogNumber::new(1).expect("not 0");
    let mut random = Random::new(seed);
    let copy = world.path().join("copy");
    for (folder, share) in [(node, count / 2), (backup, count - count / 2)] {
        // What a kill leaves behind the end is not the matter here.
        let (log, _) = open(&folder, number, Opening::Use)
            .expect("sound")
            .expect("there");
        log.cut(&log.end()).expect("it can be cut");
        drop(log);
        let original = Original::read(&folder, number);
        let mut tally = Tally::default();
        for _ in 0..share {
            copy_folder(&original.folder, &copy);
            let mutation = draw(&folder, &mut random).within(&folder, &copy);
            let name = mutation
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            if mutation.path.parent() == Some(&copy) {
                try_small_file(&copy, &mutation, &mut tally);
            } else if name.starts_with("checkpoint-") {
                try_checkpoint(&copy, number, &mutation, &mut tally);
            } else {
                try_copy(&copy, &original, &mutation, &mut tally);
            }
        }
        let blocks = original.blocks.len();
        host::say(&format!(
            "{name}: {share} of {blocks} blocks, seed {seed}: {tally:?}"
        ));
    }
}

#[test]
fn damage_is_found_and_repaired() {
    mutate_in_process(
        "damage",
        host::count("CHAOS_MUTATIONS_SHORT", 60),
        host::seed(15),
    );
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn damage_is_found_and_repaired_10000_times() {
    let count = host::count("CHAOS_MUTATIONS", 10_000);
    mutate_in_process("damage, all", count, host::seed(16));
}

/// Damages the folder of a killed daemon, starts it, and sees that it either serves what it
/// served before or stops with the place.
fn mutate_processes(name: &'static str, count: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut world = World::start(name, SHAPE);
    let load = world.load(random.u64());
    let work = world.work(&load);
    work.until_answered(2_000, Duration::from_secs(60));
    let (mut repaired, mut stopped) = (0, 0);
    for _ in 0..count {
        work.until_answered(30, Duration::from_secs(60));
        let role = [Role::Node(1), Role::Backup][to_usize(random.below(2))];
        world.kill(role);
        let saved = world.path().join("saved");
        copy_folder(&world.data(role), &saved);
        let mutation = draw(&world.data(role), &mut random);
        world.record.note(&format!("{mutation:?}"));
        mutation.apply();
        if let Err(why) = goes_on(&mut world, &work, role) {
            world.record.note(&why);
            stopped += 1;
            // An operator brings the folder back. Nothing was acknowledged since.
            for role in [role, Role::Node(1)] {
                world.kill(role);
            }
            copy_folder(&saved, &world.data(role));
            if role == Role::Backup {
                world.revive(Role::Backup);
            }
            world.revive(Role::Node(1));
        } else {
            repaired += 1;
        }
    }
    host::say(&format!(
        "{name}: {repaired} went on, {stopped} stopped, seed {seed}"
    ));
    work.stop();
    world.finish(&load);
}

/// Starts the daemon; is the cluster whole then? Else who stopped, and its words.
fn goes_on(world: &mut World, work: &Workload, role: Role) -> Result<(), String> {
    let said = world.words(role).len();
    let node_said = world.words(Role::Node(1)).len();
    world.launch(role);
    let names_place = |world: &World, role: Role, from: usize, code: i32| {
        let words = world.words(role)[from..].to_owned();
        assert_eq!(code, 6, "{role:?}: {words}");
        let last = words.lines().next_back().unwrap_or_default().to_owned();
        let places = [
            "block ",
            "offset ",
            "segment ",
            "logs/",
            "kind",
            "authority",
            "log 1",
        ];
        let has_place = places.iter().any(|place| last.contains(place));
        assert!(has_place, "{role:?} names no place: {words}");
        format!("{role:?} stopped: {last}")
    };
    if let Err(code) = world.try_wait_ready(role) {
        return Err(names_place(world, role, said, code));
    }
    if role == Role::Node(1) {
        return Ok(());
    }
    // The node finds the backup again, or finds that it lacks something. Not even a look-up is
    // answered before that.
    let goal = work.answered() + 50;
    for _ in 0..3_000 {
        if goal <= work.answered() {
            return Ok(());
        }
        let node = Role::Node(1);
        if let Some(code) = world.process(node).ended().expect("it can be asked") {
            return Err(names_place(world, node, node_said, code));
        }
        work.go_on(Duration::from_millis(10));
    }
    panic!("neither serves nor stops: {}", world.words(Role::Node(1)));
}

#[test]
#[ignore = "takes minutes: just chaos"]
fn damage_under_real_processes() {
    let count = host::count("CHAOS_MUTATED_PROCESSES", 300);
    mutate_processes("damaged processes", count, host::seed(17));
}
