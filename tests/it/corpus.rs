//! Replays the committed corpus of the fuzz targets with the functions that the targets call.

use std::path::{Path, PathBuf};

use counterfoil::protocol::fuzzing;

/// Files of one target at most: the corpus stays a few seconds of replay.
const FILE_COUNT_MAX: usize = 300;

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
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

/// Runs `check` on each input and names the file of the first that fails.
fn replay(target: &str, check: fn(&[u8])) {
    for (path, bytes) in inputs(target) {
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{} fails", path.display());
    }
}

#[test]
fn frame() {
    replay("frame", fuzzing::check_stream);
}

#[test]
fn message() {
    replay("message", |bytes| {
        fuzzing::check_body(bytes);
        fuzzing::check_choices(bytes);
    });
}
