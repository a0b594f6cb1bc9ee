//! The house rules that a machine can check, with file, line and rule.
//!
//! The table of arrows is the one in ARCHITECTURE.md: a new arrow is a change to both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folder (or file) under `src/` -> folders of this crate that it may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("canary", &[]),
    ("model", &["limits"]),
    ("clock", &["model"]),
    ("protocol", &["limits", "model"]),
    ("ring", &["limits", "model"]),
    ("ledger", &["canary", "limits", "model"]),
    ("log", &["canary", "limits", "model"]),
    ("role", &["clock", "limits", "model", "protocol"]),
    (
        "front",
        &[
            "canary", "clock", "limits", "model", "protocol", "ring", "role",
        ],
    ),
    (
        "node",
        &[
            "canary", "clock", "ledger", "limits", "log", "model", "protocol", "ring", "role",
        ],
    ),
    (
        "backup",
        &[
            "canary", "clock", "limits", "log", "model", "protocol", "ring", "role",
        ],
    ),
    (
        "disk",
        &[
            "canary", "ledger", "limits", "log", "model", "protocol", "role",
        ],
    ),
    ("net", &["clock", "limits", "model", "protocol", "role"]),
    (
        "client",
        &["canary", "clock", "limits", "model", "protocol"],
    ),
    (
        "sim",
        &[
            "backup", "client", "clock", "disk", "front", "limits", "log", "model", "node",
            "protocol", "role",
        ],
    ),
    (
        "bench",
        &[
            "client", "clock", "limits", "model", "net", "protocol", "role",
        ],
    ),
    (
        "dev",
        &["client", "clock", "limits", "model", "protocol", "role"],
    ),
];

/// Words that may appear in one place only.
const CONFINED: &[(&str, &[&str])] = &[
    ("mio::", &["src/net/"]),
    ("memmap2", &["src/log/mmap.rs"]),
    ("unsafe", &["src/log/mmap.rs"]),
    ("Instant::now", &["src/clock.rs"]),
    ("SystemTime::now", &["src/clock.rs"]),
    ("ahash", &["src/model/map.rs", "src/ledger/table.rs"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that belongs to the project: what git tracks, or all files where there is no git.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output();
    let names = match listed {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        _ => walk(&root()).join("\n"),
    };
    names
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect()
}

fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(walk(&path));
        } else if path.is_file() {
            found.push(
                path.strip_prefix(root())
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    found
}

fn rust_files() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).unwrap();
            (path.to_string_lossy().into_owned(), text)
        })
        .collect()
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| {
            let line = line.trim_start();
            !line.starts_with("//")
        })
}

fn report(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn arrows_go_down_only() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let Some(inside) = path.strip_prefix("src/") else {
            continue;
        };
        let part = inside.split(['/', '.']).next().unwrap();
        let Some(allowed) = arrows.get(part) else {
            continue;
        };
        for (line, code) in code_lines(&text) {
            for target in code.split("crate::").skip(1) {
                let name: String = target
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if name.is_empty() || name == part || allowed.contains(&name.as_str()) {
                    continue;
                }
                faults.push(format!("{path}:{line}: `{part}` may not name `{name}`"));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_folder_has_its_arrows() {
    let mut faults = Vec::new();
    for (path, _) in rust_files() {
        let Some(inside) = path.strip_prefix("src/") else {
            continue;
        };
        let part = inside.split(['/', '.']).next().unwrap();
        let free = matches!(part, "lib" | "main" | "cli" | "bench");
        if !free && !ARROWS.iter().any(|(name, _)| *name == part) {
            faults.push(format!(
                "{path}: `{part}` is missing in the table of arrows"
            ));
        }
    }
    report(&faults);
}

#[test]
fn words_stay_where_they_belong() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        if !path.starts_with("src/") {
            continue;
        }
        for (line, code) in code_lines(&text) {
            for (word, places) in CONFINED {
                let home = places.iter().any(|place| path.starts_with(place));
                if !home && code.contains(word) && !code.contains("unsafe_code") {
                    faults.push(format!("{path}:{line}: `{word}` belongs to {places:?}"));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn files_have_their_shape() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        if !text.starts_with("//!") && !text.starts_with("#!") {
            faults.push(format!("{path}:1: starts without `//!`"));
        }
        if text.lines().count() > 800 {
            faults.push(format!(
                "{path}: {} lines, at most 800",
                text.lines().count()
            ));
        }
        for (index, line) in text.lines().enumerate() {
            let at = index + 1;
            if line.chars().count() > 100 {
                faults.push(format!("{path}:{at}: longer than 100 columns"));
            }
            if !line.is_ascii() {
                faults.push(format!("{path}:{at}: not ASCII"));
            }
            let ignored = line.trim() == concat!("#[ig", "nore]");
            if ignored || line.contains(concat!("FIX", "ME")) || line.contains(concat!("TO", "DO"))
            {
                faults.push(format!(
                    "{path}:{at}: unfinished or ignored without a reason"
                ));
            }
        }
    }
    report(&faults);
}

#[test]
fn no_answer_depends_on_the_order_of_a_map() {
    // `for` loops over maps are a lint; this looks for iterators over fields declared as maps.
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        if !path.starts_with("src/") {
            continue;
        }
        let fields: Vec<String> = text
            .lines()
            .filter(|line| line.contains(": Map<") || line.contains(": Set<"))
            .filter_map(|line| line.trim().trim_start_matches("pub ").split(':').next())
            .map(|name| name.trim().trim_start_matches("pub(super) ").to_owned())
            .filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
            .collect();
        for (line, code) in code_lines(&text) {
            for field in &fields {
                for walk in [
                    ".iter()",
                    ".keys()",
                    ".values()",
                    ".drain()",
                    ".values_mut()",
                ] {
                    let named = format!("self.{field}{walk}");
                    if code.contains(&named) && !code.contains("order does not matter") {
                        faults.push(format!("{path}:{line}: walks the map `{field}`"));
                    }
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn every_limit_is_documented() {
    let limits = std::fs::read_to_string(root().join("src/limits.rs")).unwrap();
    let mut pages = String::new();
    for path in files() {
        let name = path.to_string_lossy().into_owned();
        if name == "protocol.md"
            || (name.starts_with("docs/") && path.extension().is_some_and(|kind| kind == "md"))
        {
            pages.push_str(&std::fs::read_to_string(root().join(&path)).unwrap());
        }
    }
    let faults: Vec<String> = limits
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "))
        .filter_map(|rest| rest.split(':').next())
        .filter(|name| !pages.contains(*name))
        .map(|name| format!("limits::{name} is in neither protocol.md nor docs/"))
        .collect();
    report(&faults);
}
