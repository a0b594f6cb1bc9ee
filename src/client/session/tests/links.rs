//! Connections: handshake, addresses, signs of life, broken fronts, questions, the clock.

use super::*;
use crate::client::session::{Question, Told};
use crate::protocol::{AuditPart, AuditRow, RefusalCode, Refused, write_audit};

use ResultCode::{IdInFuture, Ok as Done};

fn refusal(code: RefusalCode) -> BytesMut {
    let refused = Refused {
        code,
        version_min: 4,
        version_max: 5,
        text: "because",
    };
    bytes_of(&Message::Refused(refused), 0)
}

#[test]
fn ids_carry_the_time_of_the_front() {
    let mut bench = Bench::new(1);
    let before = bench.session.new_id(bench.now);
    assert_eq!(before.time_ms(), bench.now.wall_ms);
    bench.connect();
    let after = bench.session.new_id(bench.now);
    assert_eq!(after.time_ms(), bench.now.wall_ms + AHEAD_MS);
    // The date of this machine no longer matters.
    bench.now.wall_ms = 5;
    bench.pass(10);
    let later = bench.session.new_id(bench.now);
    assert_eq!(later.time_ms(), WALL_MS + 1_010 + AHEAD_MS);
}

#[test]
fn an_id_in_the_future_asks_for_the_time() {
    let mut bench = Bench::ready();
    let operation = bench.credit(1, 1);
    bench.submit(&[operation]);
    let request = bench.request();
    bench.answer(request.number, &[(0, IdInFuture)]);
    let mut kinds = Vec::new();
    each_frame(&bench.take(), |frame| kinds.push(frame.header.kind.name()));
    assert_eq!(kinds, ["ping"]);
    let time_ms = bench.now.wall_ms - 100_000;
    bench.receive(&bytes_of(&Message::Pong { time_ms }, 0));
    assert_eq!(bench.session.new_id(bench.now).time_ms(), time_ms);
    // A sign of life that nobody asked for sets no clock.
    bench.receive(&bytes_of(&Message::Pong { time_ms: 1 }, 0));
    assert_eq!(bench.session.server_time_ms(bench.now), time_ms);
}

#[test]
fn addresses_take_turns_and_pauses_grow() {
    let mut bench = Bench::new(3);
    let operation = bench.credit(1, 1);
    let mut addresses = Vec::new();
    let mut times = Vec::new();
    while addresses.len() < 30 {
        match bench.session.poll() {
            Some(Action::Connect { address }) => {
                addresses.push(address);
                times.push(bench.now.tick);
                let text = "connection refused".to_owned();
                bench.session.connect_failed(bench.now, text);
            }
            Some(Action::Close) => panic!("nothing is open"),
            None => bench.pass(1),
        }
        if bench.session.unanswered_count() == 0 {
            bench.submit(&[operation]);
        }
    }
    for pair in addresses.windows(2) {
        assert_eq!(pair[1], (pair[0] + 1) % 3);
    }
    let pauses: Vec<_> = times
        .windows(2)
        .map(|pair| pair[1].since(pair[0]) / 1_000_000)
        .collect();
    assert_eq!(pauses[..2], [0, 0], "the first round has no pauses");
    assert!(pauses.iter().all(|pause| *pause <= 1_001), "{pauses:?}");
    assert!(400 < pauses[28], "{pauses:?}");
    assert_eq!(bench.fault().name(), "cannot_connect");
}

#[test]
fn a_new_session_goes_on_until_it_is_connected() {
    let mut bench = Bench::new(2);
    for _ in 0..5 {
        let mut steps = 0;
        while bench.session.poll().is_none() {
            bench.pass(100);
            steps += 1;
            assert!(steps < 100, "it gave up");
        }
        let text = "connection refused".to_owned();
        bench.session.connect_failed(bench.now, text);
    }
    bench.connect();
}

/// How long after a loss the session dials again, if `stood_ms` passed between handshake and loss
/// and nothing was ever answered.
fn pause_ms_after(stood_ms: u64) -> u64 {
    let mut bench = Bench::new(2);
    for _ in 0..12 {
        while bench.session.poll().is_none() {
            bench.pass(1);
        }
        let text = "connection refused".to_owned();
        bench.session.connect_failed(bench.now, text);
    }
    bench.connect();
    bench.pass(stood_ms);
    let operation = bench.credit(1, 1);
    bench.submit(&[operation]);
    bench.lose();
    let lost = bench.now.tick;
    while bench.session.poll().is_none() {
        bench.pass(1);
    }
    bench.now.tick.since(lost).div_euclid(1_000_000)
}

#[test]
fn a_connection_that_stood_makes_up_for_failures_before_it() {
    assert_eq!(pause_ms_after(1_000), 0);
    assert!(400 < pause_ms_after(900), "one after the other is no storm");
}

#[test]
fn first_addresses_are_spread() {
    let mut seen = [0; 4];
    for seed in 0..200 {
        let options = SessionOptions {
            address_count: 4,
            cluster: None,
            deadline_ms: 1,
            frames_in_flight_max: 1,
            incarnation: Incarnation::new(9).unwrap(),
        };
        let mut session = Session::new(&options, Random::new(seed));
        let Some(Action::Connect { address }) = session.poll() else {
            panic!("a new session connects");
        };
        seen[address] += 1;
    }
    assert!(seen.iter().all(|count| 25 < *count), "{seen:?}");
}

#[test]
fn a_session_without_work_stays_disconnected() {
    let mut bench = Bench::ready();
    bench.lose();
    for _ in 0..100 {
        bench.pass(100);
        assert_eq!(bench.session.poll(), None);
    }
    let operation = bench.credit(1, 1);
    bench.submit(&[operation]);
    bench.connect();
    assert_eq!(bench.request().operations, [operation]);
}

#[test]
fn a_silent_front_is_pinged_and_then_left() {
    let mut bench = Bench::new(2);
    let first = bench.connect();
    let operation = bench.credit(1, 1);
    let ticket = bench.submit(&[operation]);
    bench.request();
    let start = bench.now.tick;
    while bench.session.is_ready() {
        bench.pass(10);
    }
    assert_eq!(bench.now.tick.since(start), 2_000_000_000);
    assert_eq!(bench.session.poll(), Some(Action::Close));
    assert_eq!(bench.fault().name(), "cannot_connect");
    assert_ne!(bench.connect(), first);
    let again = bench.request();
    assert_eq!(again.operations, [operation]);
    assert_eq!(u64::from(again.deadline_ms), DEADLINE_MS - 2_000 - 100);
    bench.answer(again.number, &[(0, Done)]);
    assert_eq!(bench.codes(ticket), Some(vec![Done]));
}

#[test]
fn a_quiet_front_is_fine_while_nothing_is_asked() {
    let mut bench = Bench::ready();
    for _ in 0..1_000 {
        bench.pass(100);
    }
    assert!(bench.take().is_empty());
    assert!(bench.session.is_ready());
    assert_eq!(bench.session.deadline(), None);
    bench.receive(&bytes_of(&Message::Ping, 4));
    let sent = bench.take();
    let (frame, _) = split(&sent, FRAME_SIZE_MAX).unwrap().unwrap();
    assert_eq!(frame.header.request, 4);
    let time_ms = bench.now.wall_ms;
    assert_eq!(Message::read(&frame), Ok(Message::Pong { time_ms }));
}

#[test]
fn a_front_that_is_ending_gets_no_new_requests() {
    let mut bench = Bench::ready();
    let operations = [bench.credit(1, 1), bench.credit(2, 1)];
    let first = bench.submit(&operations[..1]);
    let request = bench.request();
    bench.receive(&bytes_of(&Message::Goaway, 0));
    let second = bench.submit(&operations[1..]);
    assert_eq!(bench.requests(), []);
    bench.answer(request.number, &[(0, Done)]);
    assert_eq!(bench.codes(first), Some(vec![Done]));
    bench.pass(0);
    assert_eq!(bench.session.poll(), Some(Action::Close));
    bench.connect();
    let request = bench.request();
    assert_eq!(request.operations, operations[1..]);
    bench.answer(request.number, &[(0, Done)]);
    assert_eq!(bench.codes(second), Some(vec![Done]));
}

#[test]
fn no_other_cluster_is_ever_talked_to() {
    let mut bench = Bench::ready();
    assert_eq!(bench.session.cluster(), Some(cluster(77)));
    let operation = bench.credit(1, 1);
    bench.submit(&[operation]);
    bench.request();
    bench.lose();
    bench.dial();
    assert_eq!(bench.hello().cluster, Some(cluster(77)));
    let other = Welcome {
        cluster: cluster(78),
        ..welcome(bench.now)
    };
    bench.receive(&bytes_of(&Message::Welcome(other), 0));
    assert_eq!(bench.fault().name(), "wrong_cluster");
    assert_eq!(bench.session.poll(), Some(Action::Close));
    assert!(bench.take().is_empty(), "nothing was sent there");
    bench.connect();
    assert_eq!(bench.request().operations, [operation]);

    let mut pinned = Bench::with(1, Some(cluster(5)), 8);
    pinned.dial();
    assert_eq!(pinned.hello().cluster, Some(cluster(5)));
    pinned.receive(&refusal(RefusalCode::WrongCluster));
    assert_eq!(pinned.fault().name(), "wrong_cluster");
}

#[test]
fn refusals_say_what_is_wrong() {
    for (code, name) in [
        (RefusalCode::Version, "version_unsupported"),
        (RefusalCode::WrongCluster, "wrong_cluster"),
        (RefusalCode::NotReady, "connection_refused"),
        (RefusalCode::TooManyConnections, "connection_refused"),
    ] {
        let mut bench = Bench::new(1);
        bench.dial();
        bench.take();
        bench.receive(&refusal(code));
        assert_eq!(bench.fault().name(), name);
        bench.lose();
        assert_eq!(bench.fault().name(), name, "the end of it says less");
        assert_eq!(bench.session.failure_count(), 1);
    }
}

#[test]
fn a_front_without_a_welcome_is_left() {
    let mut bench = Bench::new(2);
    let first = bench.dial();
    while bench.session.failure_count() == 0 {
        bench.pass(100);
    }
    assert_eq!(bench.now, at_ms(1_000 + 3_000));
    assert_eq!(bench.session.poll(), Some(Action::Close));
    assert_eq!(bench.fault().name(), "cannot_connect");
    let operation = bench.credit(1, 1);
    bench.submit(&[operation]);
    assert_ne!(bench.dial(), first);
}

/// Hands in bytes of a front that breaks the rules; the session must leave it and go on.
fn check_broken(make: impl FnOnce(&Request) -> Vec<u8>) {
    let mut bench = Bench::ready();
    let operations = [bench.credit(1, 1), bench.credit(2, 1)];
    let ticket = bench.submit(&operations);
    let request = bench.request();
    bench.receive(&make(&request));
    assert_eq!(bench.fault().name(), "protocol");
    assert_eq!(bench.session.poll(), Some(Action::Close));
    bench.connect();
    let again = bench.request();
    for (index, _) in again.operations.iter().enumerate() {
        bench.answer(again.number, &[(u16::try_from(index).unwrap(), Done)]);
    }
    assert_eq!(bench.codes(ticket), Some(vec![Done, Done]));
}

#[test]
fn a_front_that_breaks_the_rules_is_left() {
    let bare = |index| Receipt::bare(index, Done);
    check_broken(|_| vec![0xff; 30]);
    check_broken(|request| {
        let mut bytes = receipts_of(request.number, &[bare(0)]).to_vec();
        bytes[30] ^= 1;
        bytes
    });
    check_broken(|request| receipts_of(request.number, &[bare(2)]).to_vec());
    check_broken(|request| receipts_of(request.number, &[bare(1), bare(1)]).to_vec());
    check_broken(|request| receipts_of(request.number + 1, &[bare(0)]).to_vec());
    check_broken(|_| receipts_of(0, &[bare(0)]).to_vec());
    check_broken(|request| bytes_of(&Message::StatusTold { json: "{}" }, request.number).to_vec());
    check_broken(|_| bytes_of(&Message::StatusAsk, 1).to_vec());
    check_broken(|_| bytes_of(&Message::Welcome(welcome(at_ms(0))), 0).to_vec());
    check_broken(|request| {
        let mut bytes = receipts_of(request.number, &[bare(0)]).to_vec();
        let huge = (FRAME_SIZE_MAX + 1).to_le_bytes();
        bytes[..4].copy_from_slice(&huge);
        bytes
    });
}

#[test]
fn a_welcome_must_make_sense() {
    let good = welcome(at_ms(1_000));
    for bad in [
        Welcome { version: 9, ..good },
        Welcome {
            batch_count_max: 0,
            ..good
        },
        Welcome {
            frame_size_max: 100,
            ..good
        },
        Welcome {
            frames_in_flight_max: 0,
            ..good
        },
        Welcome {
            deadline_ms_max: 0,
            ..good
        },
        Welcome {
            role: PeerRole::Backup,
            ..good
        },
    ] {
        let mut bench = Bench::new(1);
        bench.dial();
        bench.take();
        bench.receive(&bytes_of(&Message::Welcome(bad), 0));
        assert!(!bench.session.is_ready(), "{bad:?}");
        assert_eq!(bench.session.poll(), Some(Action::Close));
    }
    // Before the welcome, nothing else is taken and frames are small.
    for early in [
        bytes_of(&Message::Ping, 0),
        receipts_of(1, &[Receipt::bare(0, Done); 11]),
    ] {
        let mut bench = Bench::new(1);
        bench.dial();
        bench.take();
        bench.receive(&early);
        assert_eq!(bench.fault().name(), "protocol");
    }
}

#[test]
fn frames_may_come_byte_by_byte() {
    let mut bench = Bench::new(1);
    bench.dial();
    bench.take();
    let bytes = bytes_of(&Message::Welcome(welcome(bench.now)), 0);
    for end in 1..bytes.len() {
        assert_eq!(bench.session.receive(bench.now, &bytes[..end]), 0);
        assert!(!bench.session.is_ready());
    }
    bench.receive(&bytes);
    assert!(bench.session.is_ready());
}

fn audit_frame(request: u64, currencies: &[u32], part: AuditPart) -> BytesMut {
    let rows: Vec<_> = currencies
        .iter()
        .map(|currency| AuditRow {
            currency: *currency,
            ..AuditRow::default()
        })
        .collect();
    let mut bytes = BytesMut::new();
    write_audit(&mut bytes, request, &rows, part);
    bytes
}

fn asked(bench: &mut Bench) -> Vec<(&'static str, u64)> {
    let mut frames = Vec::new();
    each_frame(&bench.take(), |frame| {
        frames.push((frame.header.kind.name(), frame.header.request));
    });
    frames
}

fn currencies(bench: &mut Bench, question: Question) -> Option<Vec<u32>> {
    match bench.session.take_told(question)?.unwrap() {
        Told::Audit(rows) => Some(rows.iter().map(|row| row.currency).collect()),
        Told::Status(json) | Told::Cluster(json) => panic!("{json}"),
    }
}

#[test]
fn questions_are_answered_and_asked_again_after_a_loss() {
    let mut bench = Bench::ready();
    let status = bench.session.ask_status(bench.now);
    let audit = bench.session.ask_audit(bench.now);
    let frames = asked(&mut bench);
    let [("status_ask", status_request), ("audit_ask", audit_request)] = frames[..] else {
        panic!("{frames:?}");
    };
    let json = r#"{"nodes":3}"#;
    bench.receive(&bytes_of(&Message::StatusTold { json }, status_request));
    bench.receive(&audit_frame(audit_request, &[8, 9], AuditPart::More));
    assert_eq!(currencies(&mut bench, audit), None);
    let told = bench.session.take_told(status);
    assert_eq!(told, Some(Ok(Told::Status(json.to_owned()))));
    assert_eq!(bench.session.take_told(status), None);
    bench.lose();
    bench.connect();
    let frames = asked(&mut bench);
    let [("audit_ask", request)] = frames[..] else {
        panic!("{frames:?}");
    };
    bench.receive(&audit_frame(request, &[1, 2], AuditPart::More));
    bench.receive(&audit_frame(request, &[3], AuditPart::Last));
    assert_eq!(currencies(&mut bench, audit), Some(vec![1, 2, 3]));
}

#[test]
fn half_of_the_round_trip_is_added_to_the_time() {
    let mut bench = Bench::new(1);
    bench.dial();
    bench.take();
    let told = welcome(bench.now);
    bench.pass(300);
    bench.receive(&bytes_of(&Message::Welcome(told), 0));
    let time_ms = bench.session.server_time_ms(bench.now);
    assert_eq!(time_ms, told.time_ms + 150);
}

#[test]
fn a_question_that_cannot_be_answered_now_says_so() {
    let mut bench = Bench::ready();
    for (json, name) in [
        (r#"{"error":"unavailable"}"#, "unavailable"),
        (r#" { "error" : "busy", "more": 1 }"#, "busy"),
        (r#"{"error":"new in a later version"}"#, "unavailable"),
    ] {
        for question in [
            bench.session.ask_audit(bench.now),
            bench.session.ask_status(bench.now),
        ] {
            for (_, request) in asked(&mut bench) {
                bench.receive(&bytes_of(&Message::StatusTold { json }, request));
            }
            let told = bench.session.take_told(question).unwrap();
            assert_eq!(told.unwrap_err().name(), name);
        }
    }
}

#[test]
fn a_question_ends_at_its_deadline() {
    let mut bench = Bench::new(1);
    let question = bench.session.ask_status(bench.now);
    bench.pass(DEADLINE_MS - 1);
    assert_eq!(bench.session.take_told(question), None);
    assert!(bench.session.deadline().is_some());
    bench.pass(1);
    let told = bench.session.take_told(question).unwrap();
    assert_eq!(told.unwrap_err().name(), "unavailable");
}
