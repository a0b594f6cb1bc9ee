//! Small drills of real processes: what went wrong is over, and every account is what it must be.

use serde_json::Value;

use crate::harness::{code, err, json, run};

/// Runs a scenario and tests what holds for all of them.
fn drill(scenario: &str, more: &[&str]) -> Value {
    let mut arguments = vec![
        "drill",
        "--scenario",
        scenario,
        "--users",
        "300",
        "--operations",
        "20000",
        "--connections",
        "4",
        "--batch",
        "50",
        "--segment-size",
        "2097152",
        "--json",
    ];
    arguments.extend(more);
    let output = run(&arguments);
    assert_eq!(code(&output), 0, "{scenario}: {}", err(&output));
    let report = json(&output);
    assert_eq!(report["scenario"], scenario);
    for (name, expected) in [("lost", 0), ("doubled", 0), ("mismatched", 0)] {
        assert_eq!(report[name], expected, "{report}");
    }
    assert_eq!(report["conserved"], true, "{report}");
    assert_eq!(report["accounts"], 900, "{report}");
    assert!(number(&report["acknowledged"]) > 15_000, "{report}");
    assert!(number(&report["replayed"]) > 10, "{report}");
    assert!(number(&report["latency_us"]["p99"]) > 0, "{report}");
    report
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_dead_node_is_taken_over_by_the_others() {
    let report = drill("take-over", &[]);
    assert_eq!(report["client_errors"], 0, "{report}");
    assert_eq!(report["kills"], 1, "{report}");
    let detected_ms = number(&report["detected_after_ms"]);
    let first_ms = number(&report["serving_again_after_ms"]["first"]);
    let last_ms = number(&report["serving_again_after_ms"]["last"]);
    assert!(1_000 < detected_ms, "{report}");
    assert!(detected_ms <= first_ms && first_ms <= last_ms, "{report}");
    let moved = number(&report["moved_accounts"]);
    assert!((100..=600).contains(&moved), "{report}");
    assert!(detected_ms <= number(&report["longest_gap_ms"]), "{report}");
}

#[test]
fn a_node_that_joins_gets_its_share_under_load() {
    let report = drill("add-node", &[]);
    assert_eq!(report["client_errors"], 0, "{report}");
    assert_eq!(report["kills"], 0, "{report}");
    let moved = number(&report["moved_accounts"]);
    assert!((50..=500).contains(&moved), "{report}");
    assert!(
        0 < number(&report["serving_again_after_ms"]["last"]),
        "{report}"
    );
}

#[test]
fn a_node_that_comes_back_with_an_empty_disk_restores_itself() {
    let report = drill("node-returns", &[]);
    assert_eq!(report["kills"], 1, "{report}");
    assert!(0 < number(&report["node_back_after_ms"]), "{report}");
}

#[test]
fn a_drained_node_gives_everything_to_the_others_under_load() {
    let report = drill("drain-node", &[]);
    assert_eq!(report["client_errors"], 0, "{report}");
    assert!(0 < number(&report["moved_accounts"]), "{report}");
}

#[test]
fn a_backup_that_is_killed_comes_back_under_load() {
    let report = drill("backup-restart", &[]);
    assert_eq!(report["client_errors"], 0, "{report}");
}

#[test]
fn one_front_of_two_is_killed_under_load() {
    let report = drill("front-killed", &[]);
    assert_eq!(report["client_errors"], 0, "{report}");
}

#[test]
fn a_stopped_node_that_wakes_after_its_take_over_changes_nothing() {
    let report = drill("stopped-node-wakes", &[]);
    assert_eq!(report["client_errors"], 0, "{report}");
    assert!(0 < number(&report["moved_accounts"]), "{report}");
}

#[test]
#[ignore = "the backup stands still for ten seconds"]
fn a_backup_that_stands_still_for_ten_seconds_loses_nothing() {
    drill("backup-paused", &[]);
}

/// Exit code 0 says that something was proved. A drill that cannot even begin proves nothing.
#[test]
fn a_drill_that_cannot_run_does_not_end_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"no folder").unwrap();
    let kept = file.to_str().unwrap();
    let output = run(&["drill", "--keep", kept, "--json"]);
    assert_eq!(code(&output), 6, "{}", err(&output));
    let told: Value = serde_json::from_str(err(&output).lines().next_back().unwrap()).unwrap();
    assert_eq!(told["error"]["code"], 6);
    assert_eq!(told["error"]["name"], "drill");
}
