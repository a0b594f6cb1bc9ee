//! A disk that is full, and one that rots: real processes on real file systems.
//!
//! The full one is a small file system of its own, mounted where only this test and its processes
//! see it. That takes the rights of root; without them the test says that it was skipped, and why.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use counterfoil::client::{Client, ClientError, Options};
use counterfoil::dev::Cluster;
use counterfoil::model::{Flags, Operation, ResultCode};
use serde_json::Value;

use crate::harness::{code, connect, currency, err, run, start, user};

/// Set in the copy of this process that has file systems of its own: where they are mounted.
const CHILD: &str = "COUNTERFOIL_TEST_SMALL_DISK";

/// Room for the reserve of 256 MiB and a few hundred segments of 2 MiB.
const DISK_MIB: u32 = 400;

/// Tries of at most a deadline each before a state counts as never reached.
const TRY_COUNT_MAX: u32 = 20_000;

#[test]
fn a_full_disk_stops_changes_not_reads_and_nothing_is_lost() {
    if let Some(folder) = std::env::var_os(CHILD) {
        for part in ["node-1", "backup"] {
            fill_and_free(&PathBuf::from(&folder), part);
        }
        return;
    }
    let own_mounts = ["--mount", "--propagation", "private"];
    let probe = Command::new("unshare")
        .args(own_mounts)
        .arg("true")
        .output();
    match probe {
        Ok(output) if output.status.success() => (),
        Ok(output) => {
            println!(
                "SKIPPED: no mounts of our own here: {}",
                err(&output).trim()
            );
            return;
        }
        Err(error) => {
            println!("SKIPPED: no mounts of our own here: unshare: {error}");
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "small_disk::a_full_disk_stops_changes_not_reads_and_nothing_is_lost";
    let child = Command::new("unshare")
        .args(own_mounts)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    println!("{told}");
    assert!(child.status.success(), "{told}\n{}", err(&child));
    assert!(told.contains("1 passed"), "{told}");
}

#[expect(
    clippy::print_stdout,
    reason = "what was really tried belongs into the log of a test"
)]
fn tell(text: &str) {
    println!("{text}");
}

/// Mounts a small file system there: ext4 in a file, or memory where that cannot be mounted.
fn mount(folder: &Path, place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    let image = folder.join(format!("{}.ext4", place.file_name().unwrap().display()));
    let file = File::create(&image).unwrap();
    file.set_len(u64::from(DISK_MIB) << 20).unwrap();
    let does = |program: &str, arguments: &[&str]| {
        let command = Command::new(program).args(arguments).output();
        command.is_ok_and(|output| output.status.success())
    };
    let (image, at) = (image.to_str().unwrap(), place.to_str().unwrap());
    let is_ext4 = does("mkfs.ext4", &["-q", "-F", "-m", "0", image])
        && does("mount", &["-o", "loop", image, at]);
    if is_ext4 {
        std::fs::remove_dir(place.join("lost+found")).unwrap();
        tell(&format!("{at}: ext4 of {DISK_MIB} MiB"));
    } else {
        let size = format!("size={DISK_MIB}m");
        let is_mounted = does("mount", &["-t", "tmpfs", "-o", &size, "none", at]);
        assert!(is_mounted, "neither ext4 nor memory can be mounted at {at}");
        tell(&format!("{at}: tmpfs of {DISK_MIB} MiB"));
    }
}

/// Takes all the room there is, down to the last pages.
fn fill(place: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for size in ["128M", "32M", "8M", "2M", "512K", "64K", "4K"] {
        loop {
            let path = place.join(format!("filler-{}", files.len()));
            let output = Command::new("fallocate")
                .args(["-l", size])
                .arg(&path)
                .output()
                .unwrap();
            files.push(path);
            if !output.status.success() {
                break;
            }
        }
    }
    files
}

/// One account that is credited again and again.
struct Teller {
    client: Client,
    /// What was acknowledged.
    balance: i64,
    /// A credit that has no final answer yet: sent again with its id until it has.
    pending: Option<Operation>,
}

impl Teller {
    /// Credits 1; `Err`: why not now.
    fn credit(&mut self) -> Result<(), ResultCode> {
        let client = &mut self.client;
        let credit = *self.pending.get_or_insert_with(|| {
            Operation::credit(client.new_id(), user(1), currency(1), 1)
                .with_flags(Flags::OPEN_IF_MISSING)
        });
        match client.execute(&credit) {
            Ok(_) => {
                self.balance += 1;
                self.pending = None;
                Ok(())
            }
            Err(ClientError::NotNow { code, .. }) => Err(code),
            Err(ClientError::Unknown { .. }) => Err(ResultCode::Unknown),
            Err(error) => panic!("{error}"),
        }
    }

    fn until(&mut self, what: &str, mut is_it: impl FnMut(Result<(), ResultCode>) -> bool) {
        for _ in 0..TRY_COUNT_MAX {
            let result = self.credit();
            if is_it(result) {
                return;
            }
        }
        panic!("never {what}");
    }

    fn assert_balance(&mut self) {
        let shown = self.client.get(user(1), currency(1)).expect("reads go on");
        let unknown = i64::from(self.pending.is_some());
        let range = self.balance..=self.balance + unknown;
        assert!(range.contains(&shown.available), "{range:?}: {shown:?}");
    }
}

fn fill_and_free(folder: &Path, part: &str) {
    let folder = folder.join(format!("with-small-{part}"));
    let place = folder.join(part);
    std::fs::create_dir_all(&folder).unwrap();
    mount(&folder, &place);
    let mut cluster = start(&folder, 1);
    let options = Options {
        deadline: Duration::from_millis(400),
        ..Options::default()
    };
    let mut teller = Teller {
        client: Client::connect_to(&cluster.front_addresses(), &options).unwrap(),
        balance: 0,
        pending: None,
    };
    teller.until("credited a hundred times", {
        let mut count = 0;
        move |result| {
            count += u32::from(result.is_ok());
            count == 100
        }
    });
    for round in 1..=2 {
        let fillers = fill(&place);
        teller.until("out of space", |result| result == Err(ResultCode::NoSpace));
        teller.assert_balance();
        assert_eq!(cluster.ended().unwrap(), None, "all live on");
        for filler in fillers {
            std::fs::remove_file(filler).unwrap();
        }
        teller.until("resumed", |result| result.is_ok());
        teller.assert_balance();
        let balance = teller.balance;
        tell(&format!(
            "{part} round {round}: no_space, reads, resumed at {balance}"
        ));
    }
    assert_eq!(teller.pending, None);
    assert!(
        teller
            .client
            .audit()
            .unwrap()
            .iter()
            .all(|row| row.difference == 0)
    );
    let (node, backup) = (cluster.node_folder(1), cluster.backup_folder());
    cluster.stop().unwrap();
    let verified = run(&[
        "verify",
        node.to_str().unwrap(),
        "--against",
        backup.to_str().unwrap(),
    ]);
    assert_eq!(code(&verified), 0, "{}", err(&verified));
    let unmounted = Command::new("umount").arg(&place).output().unwrap();
    assert!(unmounted.status.success(), "{}", err(&unmounted));
}

/// The first segment of the only log in a data folder.
fn first_segment(folder: &Path) -> PathBuf {
    let mut logs = std::fs::read_dir(folder.join("logs")).unwrap();
    let log = logs.next().unwrap().unwrap().path();
    log.join("segment-0000000000000000")
}

/// Changes one byte of the first block's first entry, on the device too.
fn rot(segment: &Path) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(segment)
        .unwrap();
    let at = 4_096 + 128 + 100;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

/// Asks for the status until it is as wanted; each question is one round trip to the backup.
fn until_status(client: &mut Client, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..100_000 {
        let status: Value = serde_json::from_str(&client.status().unwrap()).unwrap();
        if is_it(&status) {
            return status;
        }
    }
    panic!("the status never showed {what}");
}

fn scrub_of(status: &Value) -> &Value {
    &status["nodes"][0]["scrub"]
}

/// Credits until two segments of the only node are sealed.
fn seal_two(client: &mut Client, cluster: &Cluster) {
    let third = first_segment(&cluster.backup_folder()).with_file_name("segment-0000000000000003");
    for _ in 0..20 {
        let batch: Vec<Operation> = (1..=8_000_u128)
            .map(|number| {
                Operation::credit(client.new_id(), user(number), currency(1), 1)
                    .with_flags(Flags::OPEN_IF_MISSING)
            })
            .collect();
        for answer in client.batch(&batch).expect("answered") {
            assert_eq!(answer.receipt.code, ResultCode::Ok);
        }
        // It is the spare of the third one.
        if third.exists() {
            return;
        }
    }
    panic!("no third segment");
}

#[test]
fn old_segments_that_rot_are_found_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = start(folder.path(), 1);
    let mut client = connect(&cluster.front_addresses());
    seal_two(&mut client, &cluster);
    let lap = |status: &Value| {
        scrub_of(status)["laps"]
            .as_u64()
            .is_some_and(|laps| 1 <= laps)
    };
    let status = until_status(&mut client, "a lap", lap);
    assert_eq!(scrub_of(&status)["found"], 0);
    assert_eq!(status["healthy"], true);

    // The node's: it says so, and a restart puts it aside and fetches what counts from the backup.
    let (here, there) = (
        first_segment(&cluster.node_folder(1)),
        first_segment(&cluster.backup_folder()),
    );
    rot(&here);
    let log = folder.path().join("logs/node-1.log");
    let alarm = "ALARM: log 1: an old segment does not verify";
    until_status(&mut client, "time enough for the node", |_| {
        std::fs::read_to_string(&log).unwrap().contains(alarm)
    });
    cluster.node(1).kill().unwrap();
    cluster.restart_node(1).unwrap();
    cluster.node(1).wait_ready(Duration::from_secs(60)).unwrap();
    let shown = client.get(user(8_000), currency(1)).unwrap();
    assert!(1 <= shown.available);

    // The backup's: the status has it.
    rot(&there);
    let found = |status: &Value| scrub_of(status)["found"] == 1;
    let status = until_status(&mut client, "the damage", found);
    let text = scrub_of(&status)["last_found"].as_str().unwrap();
    assert!(text.contains("offset 4096"), "{text}");
    assert_eq!(status["healthy"], false);
    assert_eq!(
        code(&run(&[
            "status",
            "--addr",
            &cluster.front_addresses()[0].to_string()
        ])),
        5
    );
    let folder = cluster.node_folder(1);
    cluster.stop().unwrap();
    let verified = run(&["verify", folder.to_str().unwrap()]);
    assert_eq!(code(&verified), 0, "{}", err(&verified));
}
