//! Replays the committed corpus of the fuzz targets with the functions that the targets call.

use std::path::{Path, PathBuf};

use counterfoil::{backup, cli, client, front, ledger, log, node, protocol};

/// Files of one target at most: the corpus stays a few seconds of replay.
const FILE_COUNT_MAX: usize = 400;

/// Bytes of the whole corpus at most: everybody who clones the project has it.
const CORPUS_SIZE_MAX: usize = 3 << 20;

/// Returns if all is well with some bytes and panics otherwise.
type Check = fn(&[u8]);

/// Every target, with what it calls.
const TARGETS: &[(&str, &[Check])] = &[
    ("frame", &[protocol::fuzzing::check_stream]),
    (
        "message",
        &[
            protocol::fuzzing::check_body,
            protocol::fuzzing::check_choices,
        ],
    ),
    ("pieces", &[protocol::fuzzing::check_pieces]),
    ("recovery", &[log::fuzzing::check_recovery]),
    ("checkpoint", &[log::fuzzing::check_checkpoint]),
    (
        "small_file",
        &[
            log::fuzzing::check_small_file,
            backup::fuzzing::check_authority,
            node::fuzzing::check_identity,
        ],
    ),
    ("ledger", &[ledger::fuzzing::check_operations]),
    ("records", &[ledger::fuzzing::check_records]),
    ("front", &[front::fuzzing::check_events]),
    ("node", &[node::fuzzing::check_events]),
    ("backup", &[backup::fuzzing::check_events]),
    ("session", &[client::session::fuzzing::check_events]),
    ("values", &[cli::fuzzing::check_values]),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = names(&folder().join("corpus").join(target));
    assert!(
        10 < files.len(),
        "the corpus of {target} has {} files only",
        files.len()
    );
    assert!(
        files.len() <= FILE_COUNT_MAX,
        "{target}: minimise the corpus"
    );
    files
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// Runs what the target calls on each input and names the file of the first that fails.
fn replay(target: &str) {
    let known = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, checks) = known.unwrap_or_else(|| panic!("{target} is no target"));
    for (path, bytes) in inputs(target) {
        let outcome = std::panic::catch_unwind(|| {
            for check in *checks {
                check(&bytes);
            }
        });
        assert!(outcome.is_ok(), "{} fails", path.display());
    }
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        const REPLAYED: &[&str] = &[$(stringify!($target),)*];
    };
}

replays! {
    frame message pieces recovery checkpoint small_file ledger records front node backup session
    values
}

#[test]
fn every_target_has_a_corpus_that_is_replayed() {
    let stems = |folder: &str| -> Vec<String> {
        let paths = names(&self::folder().join(folder));
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        paths.iter().map(stem).collect()
    };
    let mut replayed: Vec<String> = REPLAYED.iter().map(|name| (*name).to_owned()).collect();
    replayed.sort();
    assert_eq!(stems("fuzz_targets"), replayed);
    assert_eq!(stems("corpus"), replayed);
    assert_eq!(TARGETS.len(), replayed.len());
    let sizes = REPLAYED.iter().flat_map(|target| inputs(target));
    let size: usize = sizes.map(|(_, bytes)| bytes.len()).sum();
    assert!(size <= CORPUS_SIZE_MAX, "{size} bytes: minimise the corpus");
}
