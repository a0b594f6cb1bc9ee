//! The bench client against real clusters: what it reports, proves and refuses.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{BINARY, code, err, json, run, start};

/// Checks `value` against `schema`: the part of JSON Schema that our own schema uses. Panics on a
/// keyword that it does not know, so that none is ignored.
fn validate(schema: &Value, root: &Value, value: &Value, at: &str) {
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" => (),
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                validate(&root["$defs"][name], root, value, at);
            }
            "const" => assert_eq!(value, rule, "{at}"),
            "enum" => assert!(rule.as_array().unwrap().contains(value), "{at}: {value}"),
            "type" => {
                let allowed = rule
                    .as_array()
                    .map_or(vec![rule], |list| list.iter().collect());
                let fits = allowed
                    .iter()
                    .any(|name| is_of(value, name.as_str().unwrap()));
                assert!(fits, "{at}: {value} is none of {rule}");
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    let name = name.as_str().unwrap();
                    assert!(
                        value.is_null() || value.get(name).is_some(),
                        "{at}: no {name}"
                    );
                }
            }
            "properties" => {
                for (name, inner) in rule.as_object().unwrap() {
                    if let Some(part) = value.get(name) {
                        validate(inner, root, part, &format!("{at}/{name}"));
                    }
                }
            }
            "additionalProperties" => {
                let known = &schema["properties"];
                for (name, part) in value.as_object().into_iter().flatten() {
                    if known.get(name).is_some() {
                        continue;
                    }
                    assert!(rule.is_object(), "{at}: {name} is not in the schema");
                    validate(rule, root, part, &format!("{at}/{name}"));
                }
            }
            "items" => {
                for part in value.as_array().unwrap() {
                    validate(rule, root, part, &format!("{at}[]"));
                }
            }
            keyword => panic!("{at}: this validator does not know `{keyword}`"),
        }
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        name => panic!("unknown type {name}"),
    }
}

fn check_schema(report: &Value) {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bench-result.schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(schema).unwrap()).unwrap();
    validate(&schema, &schema, report, "");
}

#[test]
fn a_bench_reports_and_proves_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path(), 2);
    let addr = cluster.front_addresses()[0].to_string();
    let page = folder.path().join("out.html");
    let log = folder.path().join("out.hdr");
    let output = run(&[
        "bench",
        "--addr",
        &addr,
        "--json",
        "--quiet",
        "--connections",
        "6",
        "--threads",
        "2",
        "--pipeline",
        "4",
        "--batch",
        "7",
        "--requests",
        "600",
        "--warmup",
        "100ms",
        "--interval",
        "100ms",
        "--workload",
        "credit:40,debit:40,read:10,recent:10",
        "--users",
        "300",
        "--currencies",
        "3",
        "--distribution",
        "zipf:0.9",
        "--verify",
        "--fail-if",
        "errors>0",
        "--label",
        "shape=<small>",
        "--html",
        page.to_str().unwrap(),
        "--hdr-log",
        log.to_str().unwrap(),
    ]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let report = json(&output);
    check_schema(&report);
    assert_eq!(
        (&report["loop"], &report["operations"]),
        (&"closed".into(), &4_200.into())
    );
    assert_eq!(report["codes"]["ok"], 4_200);
    assert_eq!(report["labels"]["shape"], "<small>");
    assert_eq!(
        (&report["cluster"]["nodes"], &report["errors"]),
        (&2.into(), &0.into())
    );
    let verdict = &report["verdict"];
    assert_eq!(
        (&verdict["proved"], &verdict["accounts"]),
        (&true.into(), &900.into())
    );
    assert!(100 < verdict["replayed"].as_u64().unwrap());

    check_page(&page);
    check_log(&log, &report);
}

fn check_page(page: &Path) {
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg").count(), 3);
    assert!(page.contains("shape = &lt;small&gt;") && !page.contains("<small>"));
    // Nothing is fetched from elsewhere; the only address in it names the SVG language.
    let links = page.matches("http").count();
    assert_eq!(links, page.matches("http://www.w3.org/2000/svg").count());
}

/// A line for each interval that counts.
fn check_log(log: &Path, report: &Value) {
    let log = std::fs::read_to_string(log).unwrap();
    let intervals = report["intervals"].as_array().unwrap();
    let measured = intervals
        .iter()
        .filter(|one| one["warmup"] == false)
        .count();
    let lines = log
        .lines()
        .filter(|line| !line.starts_with(['#', '"']))
        .count();
    assert_eq!(lines, measured);
}

#[test]
fn an_open_loop_keeps_its_rate_and_thresholds_decide_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path(), 1);
    let addr = cluster.front_addresses()[0].to_string();
    let bench = |flags: &[&str]| {
        let mut all = vec![
            "bench", "--addr", &addr, "--json", "--quiet", "--users", "50",
        ];
        all.extend(["--connections", "4", "--warmup", "0s"]);
        all.extend(flags);
        run(&all)
    };
    let output = bench(&[
        "--rate",
        "400",
        "--duration",
        "500ms",
        "--fail-if",
        "max>30s",
    ]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let report = json(&output);
    check_schema(&report);
    assert_eq!(
        (&report["loop"], &report["options"]["rate"]),
        (&"open".into(), &400.into())
    );
    // Every request that was due was sent, however slow this machine is.
    assert_eq!(
        (&report["requests"], &report["unsent_requests"]),
        (&200.into(), &0.into())
    );

    let output = bench(&[
        "--requests",
        "20",
        "--fail-if",
        "p50>1ns",
        "--fail-if",
        "rate>0",
    ]);
    assert_eq!(code(&output), 7, "{}", err(&output));
    let broken = json(&output)["thresholds_broken"].clone();
    assert_eq!(broken.as_array().unwrap().len(), 2, "{broken}");

    let output = bench(&["--rate-sweep", "100..200:100", "--duration", "100ms"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let sweep = json(&output);
    let runs = sweep["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[1]["options"]["rate"]), (2, &200.into()));
    runs.iter().for_each(check_schema);
}

#[test]
fn a_bench_that_cannot_be_proved_says_so() {
    // Somebody else changes an account under the bench: to it that is a change nobody made.
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path(), 1);
    let addr = cluster.front_addresses()[0].to_string();
    let mut bench = Command::new(BINARY)
        .args([
            "bench", "--addr", &addr, "--json", "--users", "10", "--verify",
        ])
        .args(["--connections", "2", "--warmup", "0s", "--duration", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(bench.stderr.take().unwrap()).lines();
    let ready = lines.find(|line| line.as_ref().unwrap().starts_with("accounts ready"));
    assert!(ready.is_some());
    let other = run(&["credit", "7", "1", "5", "--addr", &addr]);
    assert_eq!(code(&other), 0, "{}", err(&other));
    // Its lines are read to the end, so that it never waits for room.
    let rest = lines.map(Result::unwrap).collect::<Vec<_>>().join("\n");
    let output = bench.wait_with_output().unwrap();
    assert_eq!(code(&output), 6, "{rest}");
    let verdict = json(&output)["verdict"].clone();
    assert_eq!(
        (&verdict["proved"], &verdict["doubled"]),
        (&false.into(), &1.into())
    );
}

#[test]
fn an_own_cluster_is_measured_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("cluster");
    let output = run(&[
        "bench",
        "--dev",
        "--nodes",
        "2",
        "--data-dir",
        data.to_str().unwrap(),
        "--json",
        "--quiet",
        "--connections",
        "2",
        "--users",
        "100",
        "--requests",
        "400",
        "--warmup",
        "0s",
        "--verify",
    ]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let report = json(&output);
    check_schema(&report);
    assert_eq!(report["processes"].as_array().unwrap().len(), 4);
    // Both copies of at least one entry for each change.
    assert!(200.0 < report["disk_bytes_per_operation"].as_f64().unwrap());
    assert_eq!(report["verdict"]["differing_currencies"], 0);
    // The data is whole and nobody has it open any more.
    let checked = run(&["verify", data.join("backup").to_str().unwrap()]);
    assert_eq!(code(&checked), 0, "{}", err(&checked));
}

#[test]
fn flags_that_make_no_sense_are_usage_errors_and_no_cluster_is_no_connection() {
    for flags in [
        &["--rate", "0"][..],
        &["--requests", "0"],
        &["--connections", "1", "--threads", "2"],
        &["--distribution", "pareto"],
        &["--workload", "credit:0"],
        &["--percentiles", "50,101"],
        &["--fail-if", "p99>5"],
        &["--rate", "5", "--rate-sweep", "1..2:1"],
        &["--users", "3000000000", "--currencies", "4"],
    ] {
        let mut all = vec!["bench", "--addr", "127.0.0.1:1"];
        all.extend(flags);
        assert_eq!(code(&run(&all)), 2, "{flags:?}");
    }
    let output = run(&["bench", "--addr", "127.0.0.1:1", "--json"]);
    assert_eq!(code(&output), 3, "{}", err(&output));
}
