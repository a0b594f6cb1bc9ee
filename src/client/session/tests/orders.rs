//! Answers, retries, order per user, deadlines.

use super::*;
use crate::limits::{BATCH_COUNT_MAX, RETRY_MS};
use crate::model::{Flags, Place, Row, to_usize};
use crate::protocol::write_rows;

use ResultCode::{
    BadAmount, Busy, Cancelled, IdTooOld, Insufficient, NotSeen, Ok as Done, Unavailable, Unknown,
};

#[test]
fn a_batch_is_sent_in_one_frame_and_answered() {
    let mut bench = Bench::ready();
    let operations = [
        bench.credit(1, 5),
        bench.credit(2, 6),
        Operation::get(user(3), coins()),
    ];
    let ticket = bench.submit(&operations);
    let request = bench.request();
    assert_eq!(request.operations, operations);
    assert_eq!(u64::from(request.deadline_ms), DEADLINE_MS - 100);
    assert_eq!(bench.codes(ticket), None);
    bench.answer(request.number, &[(0, Done), (1, Insufficient), (2, Done)]);
    assert_eq!(bench.codes(ticket), Some(vec![Done, Insufficient, Done]));
    let answers = bench.session.answers(ticket).unwrap();
    let available: Vec<_> = answers.receipts().iter().map(|r| r.available).collect();
    assert_eq!(available, [100, 101, 102]);
    assert!(answers.receipts().iter().all(|receipt| receipt.index == 0));
    assert_eq!(bench.session.next_finished(), Some(ticket));
    assert_eq!(bench.session.next_finished(), None);
    bench.session.forget(ticket);
    assert!(!bench.session.has(ticket));
    assert!(bench.session.answers(ticket).is_none());
}

#[test]
fn receipts_may_come_in_parts_and_in_any_order() {
    let mut bench = Bench::ready();
    let first: Vec<_> = (1..=4).map(|number| bench.credit(number, 1)).collect();
    let first_ticket = bench.submit(&first);
    let second = [bench.credit(9, 1)];
    let second_ticket = bench.submit(&second);
    let requests = bench.requests();
    assert_eq!(requests.len(), 2);
    bench.answer(requests[1].number, &[(0, Done)]);
    assert_eq!(bench.session.next_finished(), Some(second_ticket));
    bench.answer(requests[0].number, &[(3, Done), (1, Insufficient)]);
    assert_eq!(bench.session.next_finished(), None);
    bench.answer(requests[0].number, &[(0, Done), (2, Cancelled)]);
    assert_eq!(
        bench.codes(first_ticket),
        Some(vec![Done, Insufficient, Cancelled, Done])
    );
}

#[test]
fn an_empty_batch_is_answered_at_once() {
    let mut bench = Bench::ready();
    let ticket = bench.submit(&[]);
    assert_eq!(bench.codes(ticket), Some(vec![]));
    assert_eq!(bench.session.next_finished(), Some(ticket));
    bench.session.forget(ticket);
    assert!(!bench.session.has(ticket));
}

#[test]
fn what_is_malformed_is_never_sent() {
    let mut bench = Bench::ready();
    let operations = [bench.credit(1, 0), bench.credit(1, 1)];
    let ticket = bench.submit(&operations);
    let request = bench.request();
    assert_eq!(request.operations, operations[1..]);
    bench.answer(request.number, &[(0, Done)]);
    assert_eq!(bench.codes(ticket), Some(vec![BadAmount, Done]));
}

#[test]
fn of_one_user_one_frame_is_in_flight() {
    let mut bench = Bench::ready();
    let first = [bench.credit(1, 1), bench.credit(1, 2), bench.credit(2, 3)];
    let second = [bench.credit(1, 4), bench.credit(3, 5)];
    let third = [bench.credit(1, 6)];
    let tickets = [
        bench.submit(&first),
        bench.submit(&second),
        bench.submit(&third),
    ];
    let requests = bench.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].operations, first);
    assert_eq!(requests[1].operations, second[1..], "user 1 is in flight");
    bench.answer(requests[0].number, &[(0, Done), (2, Done)]);
    assert_eq!(
        bench.requests(),
        [],
        "one operation of user 1 is still open"
    );
    bench.answer(requests[0].number, &[(1, Done)]);
    let next = bench.request();
    assert_eq!(next.operations, [second[0], third[0]]);
    bench.answer(next.number, &[(1, Done), (0, Done)]);
    bench.answer(requests[1].number, &[(0, Done)]);
    for ticket in tickets {
        let codes = bench.codes(ticket).unwrap();
        assert!(codes.iter().all(|code| *code == Done), "{codes:?}");
    }
}

#[test]
fn not_now_is_sent_again_in_order_with_the_same_ids() {
    let mut bench = Bench::ready();
    let operations = [
        bench.credit(1, 1),
        bench.credit(2, 2),
        bench.credit(1, 3),
        bench.credit(1, 4),
    ];
    let ticket = bench.submit(&operations);
    let request = bench.request();
    // Operations of one user lie together, in their order.
    let order = [0, 2, 3, 1].map(|index: usize| operations[index]);
    assert_eq!(request.operations, order);
    bench.answer(
        request.number,
        &[(0, Done), (1, Busy), (2, Busy), (3, Done)],
    );
    let later = bench.credit(1, 5);
    let later_ticket = bench.submit(&[later]);
    assert_eq!(bench.requests(), [], "after a pause, not at once");
    bench.pass(RETRY_MS);
    let again = bench.request();
    assert_eq!(again.operations, [operations[2], operations[3], later]);
    bench.answer(again.number, &[(0, Done), (1, Done), (2, Done)]);
    assert_eq!(bench.codes(ticket), Some(vec![Done; 4]));
    assert_eq!(bench.codes(later_ticket), Some(vec![Done]));
}

#[test]
fn pauses_between_retries_grow_and_are_bounded() {
    let mut bench = Bench::ready();
    let operation = bench.credit(1, 1);
    bench.submit(&[operation]);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let request = bench.request();
        bench.answer(request.number, &[(0, Busy)]);
        let start = bench.now.tick;
        let deadline = bench.session.deadline().unwrap();
        bench.now.tick = deadline;
        bench.pass(0);
        pauses.push(deadline.since(start) / 1_000_000);
    }
    assert!(pauses[0] <= RETRY_MS, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 200), "{pauses:?}");
    assert!(50 < pauses[9], "{pauses:?}");
}

#[test]
fn not_now_comes_out_at_the_deadline_if_nothing_is_in_doubt() {
    let mut bench = Bench::ready();
    let operations = [bench.credit(1, 1), Operation::get(user(2), coins())];
    let ticket = bench.submit(&operations);
    let mut codes = None;
    for _ in 0..DEADLINE_MS / 10 {
        for request in bench.requests() {
            for index in 0..request.operations.len() {
                bench.answer(request.number, &[(u16::try_from(index).unwrap(), Busy)]);
            }
        }
        codes = bench.codes(ticket);
        assert_eq!(codes, None);
        bench.pass(10);
    }
    assert_eq!(bench.codes(ticket), Some(vec![Busy, Busy]), "{codes:?}");
    assert_eq!(bench.session.unanswered_count(), 0);
}

#[test]
fn what_was_never_sent_is_known_not_to_be_applied() {
    let mut bench = Bench::new(2);
    let operations = [bench.credit(1, 1), Operation::get(user(2), coins())];
    let ticket = bench.submit(&operations);
    for _ in 0..DEADLINE_MS / 10 {
        if bench.session.poll().is_some() {
            let error = "connection refused".to_owned();
            bench.session.connect_failed(bench.now, error);
        }
        bench.pass(10);
    }
    assert_eq!(bench.codes(ticket), Some(vec![Unavailable, Unavailable]));
}

#[test]
fn a_front_that_never_answers_leaves_changes_unknown() {
    let mut bench = Bench::ready();
    let operations = [
        bench.credit(1, 1),
        Operation::get(user(2), coins()),
        Operation::find(bench.session.new_id(bench.now), user(3)).with_flags(Flags::BURN),
    ];
    let ticket = bench.submit(&operations);
    let request = bench.request();
    // It answers pings, so the connection stays.
    for _ in 0..DEADLINE_MS / 100 {
        assert_eq!(bench.codes(ticket), None);
        bench.pass(100);
        bench.take();
        let pong = Message::Pong { time_ms: WALL_MS };
        bench.receive(&bytes_of(&pong, 0));
    }
    assert_eq!(
        bench.codes(ticket),
        Some(vec![Unknown, Unavailable, Unknown])
    );
    // The user is free again, and a late answer changes nothing.
    let find = bench.submit(&[operations[2]]);
    assert_eq!(bench.request().operations, [operations[2]]);
    bench.answer(request.number, &[(0, Done), (1, Done), (2, Done)]);
    assert_eq!(
        bench.codes(ticket),
        Some(vec![Unknown, Unavailable, Unknown])
    );
    assert_eq!(bench.codes(find), None);
}

#[test]
fn a_frame_that_is_overdue_ends_the_connection() {
    let mut bench = Bench::ready();
    let operation = bench.credit(1, 1);
    bench.submit(&[operation]);
    bench.request();
    for _ in 0..DEADLINE_MS / 100 + 10 {
        assert!(bench.session.is_ready());
        bench.take();
        bench.receive(&bytes_of(&Message::Pong { time_ms: WALL_MS }, 0));
        bench.pass(100);
    }
    assert_eq!(bench.session.poll(), Some(Action::Close));
    assert!(!bench.session.is_ready());
}

#[test]
fn a_lost_connection_is_resent_with_the_same_ids_elsewhere() {
    let mut bench = Bench::new(3);
    let first_address = bench.connect();
    let operations = [bench.credit(1, 1), bench.credit(1, 2), bench.credit(2, 3)];
    let ticket = bench.submit(&operations);
    let request = bench.request();
    bench.answer(request.number, &[(0, Done)]);
    bench.lose();
    let second_address = bench.connect();
    assert_eq!(second_address, (first_address + 1) % 3);
    let again = bench.request();
    assert_eq!(again.operations, operations[1..]);
    assert!(request.number < again.number);
    bench.answer(again.number, &[(0, Done), (1, Insufficient)]);
    assert_eq!(bench.codes(ticket), Some(vec![Done, Done, Insufficient]));
}

#[test]
fn after_a_lost_copy_not_now_is_no_answer() {
    let mut bench = Bench::ready();
    let change = bench.credit(1, 1);
    let operations = [change, Operation::get(user(2), coins())];
    let ticket = bench.submit(&operations);
    bench.request();
    bench.lose();
    bench.connect();
    while bench.codes(ticket).is_none() {
        for request in bench.requests() {
            let count = u16::try_from(request.operations.len()).unwrap();
            let codes: Vec<_> = (0..count).map(|index| (index, Busy)).collect();
            bench.answer(request.number, &codes);
        }
        bench.pass(10);
    }
    assert_eq!(bench.codes(ticket), Some(vec![Unknown, Unavailable]));
}

#[test]
fn a_copy_that_never_left_is_not_in_doubt() {
    let mut bench = Bench::ready();
    let operations = [bench.credit(1, 1)];
    let ticket = bench.submit(&operations);
    let size = bench.session.unsent().len();
    bench.session.sent(bench.now, size - 1);
    bench.lose();
    while bench.codes(ticket).is_none() {
        if bench.session.poll().is_some() {
            bench.session.connect_failed(bench.now, String::new());
        }
        bench.pass(100);
    }
    assert_eq!(bench.codes(ticket), Some(vec![Unavailable]));
}

#[test]
fn too_old_says_nothing_about_an_earlier_copy() {
    for is_lost in [false, true] {
        let mut bench = Bench::ready();
        let operations = [
            bench.credit(1, 1),
            Operation::find(bench.session.new_id(bench.now), user(2)),
        ];
        let ticket = bench.submit(&operations);
        if is_lost {
            bench.request();
            bench.lose();
            bench.connect();
        }
        let request = bench.request();
        bench.answer(request.number, &[(0, IdTooOld), (1, NotSeen)]);
        let code = if is_lost { Unknown } else { IdTooOld };
        assert_eq!(bench.codes(ticket), Some(vec![code, NotSeen]));
    }
}

#[test]
fn unknown_from_a_front_is_tried_again_within_the_deadline() {
    let mut bench = Bench::ready();
    let operations = [bench.credit(1, 1)];
    let ticket = bench.submit(&operations);
    let request = bench.request();
    bench.answer(request.number, &[(0, Unknown)]);
    bench.pass(RETRY_MS);
    let again = bench.request();
    assert_eq!(again.operations, operations);
    bench.answer(again.number, &[(0, Done)]);
    assert_eq!(bench.codes(ticket), Some(vec![Done]));

    let ticket = bench.submit(&[operations[0]]);
    let request = bench.request();
    bench.answer(request.number, &[(0, Unknown)]);
    bench.pass(DEADLINE_MS);
    assert_eq!(bench.codes(ticket), Some(vec![Unknown]));
}

#[test]
fn frames_in_flight_and_operations_of_a_frame_are_bounded() {
    let mut bench = Bench::with(1, None, 3);
    bench.dial();
    bench.take();
    let small = Welcome {
        batch_count_max: 4,
        ..welcome(bench.now)
    };
    bench.receive(&bytes_of(&Message::Welcome(small), 0));
    let operations: Vec<_> = (1..=30).map(|number| bench.credit(number, 1)).collect();
    let ticket = bench.submit(&operations);
    let mut requests = bench.requests();
    assert_eq!(requests.len(), 3);
    let mut sent = Vec::new();
    while let Some(request) = requests.pop() {
        assert!(request.operations.len() <= 4);
        sent.extend_from_slice(&request.operations);
        for index in 0..request.operations.len() {
            bench.answer(request.number, &[(u16::try_from(index).unwrap(), Done)]);
        }
        requests.extend(bench.requests());
    }
    assert_eq!(sent.len(), operations.len());
    assert_eq!(bench.codes(ticket), Some(vec![Done; 30]));
}

#[test]
fn what_waits_is_sent_together() {
    let mut bench = Bench::with(1, None, 1);
    bench.connect();
    let tickets: Vec<_> = (1..=5)
        .map(|number| {
            let operation = bench.credit(number, 1);
            bench.submit(&[operation])
        })
        .collect();
    let first = bench.request();
    assert_eq!(first.operations.len(), 1);
    bench.answer(first.number, &[(0, Done)]);
    let rest = bench.request();
    assert_eq!(rest.operations.len(), 4);
    bench.answer(rest.number, &[(3, Done), (2, Done), (1, Done), (0, Done)]);
    for ticket in tickets {
        assert_eq!(bench.codes(ticket), Some(vec![Done]));
    }
}

#[test]
fn what_a_session_holds_is_bounded() {
    let mut bench = Bench::ready();
    let operation = bench.credit(1, 1);
    let batch = vec![operation; to_usize(u64::from(BATCH_COUNT_MAX))];
    let room = bench.session.room();
    let mut tickets = Vec::new();
    while batch.len() <= bench.session.room() {
        tickets.push(bench.session.submit(bench.now, &batch).unwrap());
    }
    let error = bench.session.submit(bench.now, &batch).unwrap_err();
    assert_eq!(error.name(), "too_many_operations");
    bench.pass(DEADLINE_MS);
    assert!(bench.session.room() < batch.len(), "answers are not taken");
    for ticket in tickets {
        assert!(bench.codes(ticket).is_some());
        bench.session.forget(ticket);
    }
    assert_eq!(bench.session.room(), room);
    let too_long = vec![operation; batch.len() + 1];
    let error = bench.session.submit(bench.now, &too_long).unwrap_err();
    assert_eq!(error.name(), "too_many_operations");
}

#[test]
fn rows_belong_to_their_listing() {
    let row = |currency| Row {
        currency,
        flags: 0,
        available: 7,
        held: 0,
        outgoing: 0,
        floor: 0,
        cap: 9,
        version: 1,
        place: Place(1),
    };
    let rows_frame = |request, index, rows: &[Row]| {
        let mut bytes = BytesMut::new();
        write_rows(&mut bytes, request, index, rows);
        bytes
    };
    let mut bench = Bench::ready();
    let operations = [1, 2].map(|number| Operation::list(user(number), 0, 256));
    let ticket = bench.submit(&operations);
    let request = bench.request();
    bench.receive(&rows_frame(request.number, 0, &[row(90), row(91)]));
    bench.lose();
    bench.connect();
    let request = bench.request();
    bench.receive(&rows_frame(request.number, 1, &[row(3)]));
    bench.receive(&rows_frame(request.number, 0, &[row(1), row(2)]));
    bench.answer(request.number, &[(0, Done), (1, Done)]);
    let answers = bench.session.answers(ticket).unwrap();
    assert_eq!(answers.rows(0), [row(1), row(2)]);
    assert_eq!(answers.rows(1), [row(3)]);
    assert_eq!(answers.rows(2), []);
}
