//! The command line against a real cluster: results, refusals, exit codes, JSON.

use serde_json::Value;

use crate::harness::{code, err, json, out, run, start};

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one session at the shell, in its order"
)]
fn every_verb_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path(), 3);
    let addr = cluster.front_addresses()[0].to_string();
    let cli = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--addr", &addr, "--json"]);
        run(&all)
    };

    let opened = cli(&["open", "42", "1", "--cap", "1000"]);
    assert_eq!(code(&opened), 0, "{}", err(&opened));
    assert_eq!(json(&opened)["result"], "ok");

    let credited = json(&cli(&["credit", "42", "1", "100"]));
    assert_eq!(
        (&credited["result"], &credited["available"]),
        (&"ok".into(), &"100".into())
    );

    let over = cli(&["credit", "42", "1", "901"]);
    assert_eq!(
        (code(&over), &json(&over)["result"]),
        (1, &Value::from("over_cap"))
    );

    let debited = json(&cli(&["debit", "42", "1", "30"]));
    assert_eq!(debited["available"], "70");

    let short = cli(&["debit", "42", "1", "71"]);
    assert_eq!(
        (code(&short), &json(&short)["result"]),
        (1, &Value::from("insufficient"))
    );

    let taken = json(&cli(&["debit", "42", "1", "500", "--up-to"]));
    assert_eq!(
        (&taken["available"], &taken["amount"]),
        (&"0".into(), &"70".into())
    );

    let shown = json(&cli(&["get", "42", "1"]));
    assert_eq!(shown["available"], "0");
    let version = shown["version"].as_str().unwrap();

    let frozen = cli(&["configure", "42", "1", "--frozen", "--if-version", version]);
    assert_eq!(json(&frozen)["result"], "ok");
    let refused = cli(&["credit", "42", "1", "1"]);
    assert_eq!(
        (code(&refused), &json(&refused)["result"]),
        (1, &Value::from("frozen"))
    );

    let second = cli(&[
        "credit",
        "00000000-0000-0000-0000-00000000002a",
        "7",
        "5",
        "--open",
    ]);
    assert_eq!(json(&second)["created"], true);
    let nobody = cli(&["list", "43"]);
    assert_eq!(code(&nobody), 1);
    let error: Value = serde_json::from_str(&err(&nobody)).unwrap();
    assert_eq!(error["error"]["name"], "not_found");
    let listed = json(&cli(&["list", "42"]));
    let accounts = listed["accounts"].as_array().unwrap();
    assert_eq!(accounts.len(), 2);
    assert_eq!(
        (&accounts[0]["currency"], &accounts[0]["frozen"]),
        (&1.into(), &true.into())
    );
    assert_eq!(
        (&accounts[1]["currency"], &accounts[1]["available"]),
        (&7.into(), &"5".into())
    );

    let id = json(&second)["id"].as_str().unwrap().to_owned();
    let found = json(&cli(&["find", "42", &id]));
    assert_eq!(
        (&found["result"], &found["replayed"]),
        (&"ok".into(), &true.into())
    );

    let audit = cli(&["audit"]);
    assert_eq!(
        (code(&audit), &json(&audit)["conserved"]),
        (0, &Value::from(true))
    );
    let rows = json(&audit);
    let row = &rows["currencies"][0];
    assert_eq!(
        (&row["issued"], &row["burned"]),
        (&"100".into(), &"100".into())
    );

    // A node's figures come with its next sign of life.
    let mut status = cli(&["status"]);
    for _ in 0..200 {
        if code(&status) == 0 {
            break;
        }
        status = cli(&["status"]);
    }
    assert_eq!(code(&status), 0, "{}", out(&status));
    let told = json(&status);
    assert_eq!(told["nodes"].as_array().unwrap().len(), 3);
    assert!(0 < told["memory"]["size_max"].as_u64().unwrap());
    let shown = out(&run(&["status", "--addr", &addr]));
    for word in ["healthy          true", "memory_size_max", "present"] {
        assert!(shown.contains(word), "{shown}");
    }
    cluster.stop().unwrap();
}

#[test]
fn the_same_id_is_applied_once() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(folder.path(), 1);
    let addr = cluster.front_addresses()[0].to_string();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let id = format!(
        "{:08x}-{:04x}-7000-8000-000000000001",
        now >> 16,
        now & 0xffff
    );
    let send = |amount: &str| {
        run(&[
            "credit", "9", "1", amount, "--open", "--id", &id, "--addr", &addr, "--json",
        ])
    };
    assert_eq!(json(&send("10"))["replayed"], false);
    let again = json(&send("10"));
    assert_eq!(
        (&again["replayed"], &again["available"]),
        (&true.into(), &"10".into())
    );
    let other = send("11");
    assert_eq!(code(&other), 1, "{}", err(&other));
    assert!((out(&other) + &err(&other)).contains("id_reused"));
    let shown = json(&run(&["get", "9", "1", "--addr", &addr, "--json"]));
    assert_eq!(shown["available"], "10");
    cluster.stop().unwrap();
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &["credit", "0", "1", "5"][..],
        &[
            "credit",
            "340282366920938463463374607431768211455",
            "1",
            "5",
        ],
        &["credit", "1", "0", "5"],
        &["credit", "1", "1", "-5"],
        &["nonsense"],
        &["front", "--backup", "127.0.0.1:1", "--listen", "0.0.0.0:0"],
        &[
            "node",
            "--id",
            "0",
            "--backup",
            "127.0.0.1:1",
            "--data-dir",
            "x",
        ],
        &["backup", "--data-dir", "x", "--create"],
        &[
            "node",
            "--id",
            "1",
            "--backup",
            "127.0.0.1:1",
            "--data-dir",
            "x",
            "--listen",
            "0.0.0.0:0",
        ],
        &["backup", "--data-dir", "x", "--listen", "[::]:0"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", err(&output));
        assert!(!err(&output).is_empty());
    }
}

#[test]
fn nobody_there_exits_with_3() {
    let output = run(&["get", "1", "1", "--addr", "127.0.0.1:1", "--json"]);
    assert_eq!(code(&output), 3, "{}", err(&output));
    let error: Value = serde_json::from_str(&err(&output)).unwrap();
    assert_eq!(error["error"]["code"], 3);
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(out(&output).contains("counterfoil"), "{shell}");
    }
}

#[test]
fn a_small_drill_proves_itself() {
    let output = run(&[
        "drill",
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
    ]);
    let report = json(&output);
    assert_eq!(code(&output), 0, "{report} {}", err(&output));
    for (name, expected) in [("lost", 0), ("doubled", 0), ("mismatched", 0)] {
        assert_eq!(report[name], expected, "{report}");
    }
    assert_eq!(report["conserved"], true);
    assert_eq!(report["accounts"], 900);
    assert!(
        report["acknowledged"].as_u64().unwrap() > 15_000,
        "{report}"
    );
    assert!(report["replayed"].as_u64().unwrap() > 10, "{report}");
    assert!(report["node_back_after_ms"].as_u64().unwrap() > 0);
    assert!(report["latency_us"]["p99"].as_u64().unwrap() > 0);
}
