//! The folder as a whole: its owner, its small files, the offline check, a real disk.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::disk::look::look_on;
use crate::disk::verify::verify_look;

#[test]
fn verify_finds_what_is_wrong() {
    let log = number(3);
    let (medium, mut bench, mut writer) = filled(log, 20);
    let middle = writer.end;
    bench.run((0..5).map(|_| writer.block(20)).collect());
    bench.make_checkpoint(log, middle);
    let check = |medium: &MemoryMedium, other: Option<&MemoryMedium>| {
        let before = (medium.step_count(), medium.paths());
        let look = look_on(Arc::new(medium.clone()), None).unwrap();
        let other = other.map(|other| look_on(Arc::new(other.clone()), None).unwrap());
        let report = verify_look(&look, other.as_ref(), &mut |_, _| ());
        assert_eq!(
            (medium.step_count(), medium.paths()),
            before,
            "nothing is changed"
        );
        report
    };
    let report = check(&medium, Some(&medium.fork()));
    assert!(report.is_sound(), "{report:?}");
    let replay = report.logs[0].replay.as_ref().unwrap();
    assert_eq!(replay.digest, writer.ledger.digest());
    assert_eq!(replay.end, writer.end);
    assert!(
        replay
            .supply
            .iter()
            .all(|(_, _, difference)| *difference == 0)
    );

    let segment = format!("{}/segment-{:016x}", log_dir(log), 0);
    let damaged = medium.fork();
    damaged.damage(&segment, 20_000, &[0xee; 4]);
    let report = check(&damaged, Some(&medium));
    assert!(!report.is_sound());
    let problems = report.logs[0].problems.join("; ");
    assert!(problems.contains("block 2 of log 3 is lost"), "{problems}");
    assert_eq!(
        report.comparisons[0].difference, None,
        "equal as far as it goes"
    );

    let name = format!("{}/checkpoint-{:016x}", log_dir(log), middle.offset);
    let damaged = medium.fork();
    damaged.damage(&name, 70_000, &[0xee; 4]);
    let problems = check(&damaged, None).logs[0].problems.join("; ");
    assert!(problems.contains("does not verify"), "{problems}");

    // Two histories of one log.
    let (forked, mut fork_bench, mut fork_writer) = filled(log, 20);
    fork_writer.user_count = 3;
    fork_bench.run((0..5).map(|_| fork_writer.block(20)).collect());
    let report = check(&medium, Some(&forked));
    let difference = report.comparisons[0].difference.as_ref().unwrap();
    let due = middle.seq.next();
    assert!(
        difference.starts_with(&format!("block {due} ")),
        "{difference}"
    );
    assert_eq!(report.comparisons[0].equal_through, middle.seq);
}

#[test]
fn a_folder_belongs_to_one_process_of_one_kind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let open_as = |kind| open(&data, DiskOptions { kind });
    let first = open_as(FolderKind::Node).unwrap();
    let second = open_as(FolderKind::Node).unwrap_err();
    assert!(matches!(second, OpenError::InUse), "{second}");
    assert!(matches!(look(&data).unwrap_err(), OpenError::InUse));
    drop(first);
    let other = open_as(FolderKind::Backup).unwrap_err();
    assert_eq!(
        other.to_string(),
        "this is the data folder of a node, not of a backup"
    );
    assert_eq!(look(&data).unwrap().kind(), FolderKind::Node);
    for (path, mode) in [(data.clone(), 0o700), (data.join("kind"), 0o600)] {
        let found = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode);
    }
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("photos"), b"").unwrap();
    let error = open(
        &foreign,
        DiskOptions {
            kind: FolderKind::Node,
        },
    );
    assert!(matches!(error.unwrap_err(), OpenError::Foreign(name) if name == "photos"));
    assert!(matches!(
        look(dir.path().join("none").as_path()),
        Err(OpenError::Missing)
    ));
}

#[test]
fn all_of_it_works_on_a_real_folder() {
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions {
        kind: FolderKind::Backup,
    };
    let log = number(3);
    let mut writer = Writer::new(log, 1);
    let mut bench = Bench::of(open(dir.path(), options).unwrap());
    bench.create_log(log, LogEnd::default());
    let requests = vec![writer.opening(), writer.block(100)];
    bench.run(requests);
    grow(&mut bench, &mut writer, 2 * SEGMENT_SIZE_MIN);
    bench.make_checkpoint(log, writer.end);
    let below = writer.end.offset;
    bench.ask(DiskRequest::RetireSegments { log, below });
    bench.ask(DiskRequest::PrepareSegment { log, offset: 0 });
    grow(&mut bench, &mut writer, SEGMENT_SIZE_MIN);
    let DiskReply::FreeSpace { size } = bench.ask(DiskRequest::MeasureFreeSpace) else {
        panic!("no figure");
    };
    assert!(0 < size);
    drop(bench);
    let mut calls = 0;
    let report = verify(dir.path(), None, &mut |_, _| calls += 1).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!(0 < calls);
    let replay = report.logs[0].replay.as_ref().unwrap();
    assert_eq!(replay.digest, writer.ledger.digest());
    assert_eq!(replay.account_count, writer.ledger.account_count());
    let mut bench = Bench::of(open(dir.path(), options).unwrap());
    let (report, view) = bench.open_log(log).unwrap();
    assert_eq!(
        (report.end, report.torn, report.damage),
        (writer.end, None, None)
    );
    assert!(
        view.recent_entry(Place::new(log, writer.end.offset - 128))
            .is_some()
    );
}
#[test]
fn files_are_saved_and_loaded() {
    let medium = MemoryMedium::new();
    let mut bench = Bench::on(&medium);
    let load = |bench: &mut Bench| {
        let name = FileName::Authority;
        let reply = bench.ask(DiskRequest::LoadFile { name });
        let DiskReply::FileLoaded { bytes, .. } = reply else {
            panic!("{reply:?}");
        };
        bytes
    };
    assert_eq!(load(&mut bench), None);
    let bytes = Bytes::from_static(b"who");
    let name = FileName::Authority;
    let saved = bench.ask(DiskRequest::SaveFile {
        name,
        bytes: bytes.clone(),
    });
    assert!(matches!(saved, DiskReply::FileSaved { .. }));
    assert_eq!(load(&mut bench), Some(bytes.clone()));
    medium.damage("authority", 33, b"x");
    let damaged = bench.ask(DiskRequest::LoadFile { name });
    expect_fault(damaged, &DiskFault::Damage, "authority does not verify");
    medium.fail(Fault::Sync(0));
    let unsure = bench.ask(DiskRequest::SaveFile { name, bytes });
    expect_fault(unsure, &DiskFault::Poisoned, "authority");
}

#[test]
fn a_file_system_in_memory_is_named() {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        let words = file_system_warning(shm).unwrap().unwrap();
        assert!(words.starts_with("tmpfs"), "{words}");
    }
    assert!(file_system_warning(Path::new("/nowhere")).is_err());
}

/// A save that failed in its last step leaves the new content to be read, and a power cut may take
/// it away again. The next life went to work with it: a backup wrote a block in a term that its
/// authority's file did not know any more after the cut. Seed 912.
#[test]
fn what_is_loaded_survives_a_power_cut() {
    let name = FileName::Authority;
    let medium = MemoryMedium::new();
    let mut bench = Bench::on(&medium);
    let mut save = |content: &'static [u8]| {
        let bytes = Bytes::from_static(content);
        bench.ask(DiskRequest::SaveFile { name, bytes })
    };
    assert!(matches!(save(b"old"), DiskReply::FileSaved { .. }));
    // The file is synced, its name is not.
    medium.fail(Fault::Sync(1));
    assert!(matches!(save(b"new"), DiskReply::Failed { .. }));
    for seed in 0..20 {
        let medium = medium.fork();
        let load = |medium: &MemoryMedium| Bench::on(medium).ask(DiskRequest::LoadFile { name });
        let seen = load(&medium);
        let left = load(&medium.crash(&mut Random::new(seed)));
        let (DiskReply::FileLoaded { bytes: seen, .. }, DiskReply::FileLoaded { bytes: left, .. }) =
            (&seen, &left)
        else {
            panic!("{seen:?} {left:?}");
        };
        assert_eq!(seen, left, "seed {seed}");
    }
}
