//! Handshakes, refusals, signs of life, links that come and go, questions to the backup, the end.

use super::*;
use crate::limits::{CLIENT_PING_MS, LINK_SILENCE_MS_MAX, REDIAL_MS};
use crate::protocol::{AuditPart, AuditRow, write_audit};
use ResultCode::{Ok, Unavailable, Unknown};

#[test]
fn strangers_are_refused_with_a_code() {
    let (mut rig, _, _) = Rig::with_nodes(options(), 1);
    let versions = (VERSION_MIN, VERSION_MAX);
    let other = ClusterId::new(78);
    let cases = [
        (
            PeerRole::Client,
            None,
            (VERSION_MAX + 1, 99),
            RefusalCode::Version,
        ),
        (PeerRole::Client, other, versions, RefusalCode::WrongCluster),
        (PeerRole::Node, None, versions, RefusalCode::Unexpected),
        (PeerRole::Backup, None, versions, RefusalCode::Unexpected),
    ];
    for (role, cluster, versions, code) in cases {
        let peer = rig.hello(role, cluster, versions);
        assert_eq!(rig.refusal(peer).0, code);
    }
    let peer = rig.hello(PeerRole::Client, None, (50, 60));
    assert_eq!(rig.refusal(peer).1, "supported versions are 1 to 1");
    let peer = rig.open(Link::Client);
    rig.feed(peer, &Message::Ping);
    rig.turn();
    assert_eq!(rig.refusal(peer).0, RefusalCode::Unexpected);
    let peer = rig.hello(PeerRole::Client, Some(cluster()), versions);
    assert!(matches!(rig.take(peer)[0].message(), Message::Welcome(_)));
    rig.turn();
    assert_eq!(rig.closed.len(), 6);
}

#[test]
fn a_welcome_names_cluster_time_and_limits() {
    let (mut rig, _, _) = Rig::with_nodes(options(), 1);
    let peer = rig.hello(PeerRole::Client, None, (0x1, 9));
    let got = rig.take(peer);
    let Message::Welcome(welcome) = got[0].message() else {
        panic!("{got:?}");
    };
    assert_eq!(welcome.version, VERSION_MAX);
    assert_eq!(welcome.cluster, cluster());
    assert_eq!(welcome.time_ms, WALL_MS + rig.tick_ms);
    assert_eq!(welcome.frames_in_flight_max, 1_024);
    rig.feed(peer, &Message::Ping);
    rig.turn();
    let time_ms = WALL_MS + rig.tick_ms;
    assert_eq!(rig.take(peer)[0].message(), Message::Pong { time_ms });
}

#[test]
fn without_a_cluster_nobody_is_welcomed_yet() {
    let mut rig = Rig::new(options());
    rig.turn();
    let peer = rig.hello(PeerRole::Client, None, (VERSION_MIN, VERSION_MAX));
    assert_eq!(rig.refusal(peer).0, RefusalCode::NotReady);
    let mut known = options();
    known.cluster = Some(cluster());
    let mut rig = Rig::new(known);
    rig.turn();
    rig.client();
}

#[test]
fn a_broken_message_ends_a_client_and_no_one_else() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let (good, bad) = (rig.client(), rig.client());
    let user = user_of(1, 1, 0);
    rig.request(good, 1, 0, &[credit(user, 1)]);
    rig.request(bad, 1, 0, &[credit(user, 2)]);
    rig.turn();
    let frame = Frame {
        header: Header::bare(crate::protocol::FrameKind::Request),
        body: &[1, 2, 3],
    };
    rig.input(Input::Frame { peer: bad, frame });
    rig.feed(bad, &Message::Ping);
    rig.turn();
    assert_eq!(rig.refusal(bad).0, RefusalCode::Malformed);
    let asked = rig.asked_once(nodes[0]);
    rig.answer(nodes[0], asked.request, &[(0, Ok), (1, Ok)]);
    assert_eq!(rig.receipts(good), [(1, 0, Ok)]);
    assert!(rig.take(bad).is_empty(), "nothing follows the last word");
    rig.feed(good, &Message::Follow);
    rig.turn();
    assert_eq!(rig.refusal(good).0, RefusalCode::Unexpected);
    rig.turn();
    assert_eq!(rig.front.clients.count(), 0);
}

#[test]
fn a_client_that_is_gone_is_answered_to_nobody() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    rig.request(client, 1, 1_000, &[credit(user, 1)]);
    rig.request(client, 2, 1_000, &[credit(user, 2)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    rig.cut(client);
    rig.turn();
    assert_eq!(rig.front.flight.held_count(), 2);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.front.flight.held_count(), 1);
    rig.run_ms(1_000);
    assert!(rig.take(client).is_empty());
    assert_eq!(rig.front.flight.batches.count(), 0);
    rig.answer(nodes[0], asked.request, &[(1, Ok)]);
    assert_eq!(rig.front.flight.held_count(), 0);
}

#[test]
fn silent_clients_are_asked_once_and_then_closed() {
    let (mut rig, _, _) = Rig::with_nodes(options(), 1);
    let (silent, alive) = (rig.client(), rig.client());
    for _ in 0..8 {
        rig.feed(alive, &Message::Pong { time_ms: 0 });
        rig.run_ms(CLIENT_PING_MS / 4);
    }
    assert_eq!(rig.refusal(silent).0, RefusalCode::TooSlow);
    assert!(!rig.closing.contains(&alive));
}

#[test]
fn a_link_is_dialled_again_with_growing_pauses() {
    let mut rig = Rig::new(options());
    let mut last_ms = rig.tick_ms;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        rig.run_ms(2_000);
        let (dial, address) = rig.dials.pop().unwrap();
        assert_eq!(address, BACKUP.parse().unwrap());
        rig.tick_ms = last_ms;
        let error = "refused".to_owned();
        rig.input(Input::DialFailed { dial, error });
        rig.turn();
        let due_ms = rig.front.deadline().unwrap().0.div_ceil(1_000_000);
        pauses.push(due_ms - last_ms);
        last_ms = due_ms;
        rig.tick_ms = due_ms;
    }
    assert_eq!(pauses[..7], [50, 100, 200, 400, 800, 1_000, 1_000]);
    let complaints = rig.said.iter().filter(|text| text.contains("does not"));
    assert_eq!(complaints.count(), 1, "said once, not at every try");
}

#[test]
fn the_last_table_serves_on_while_the_backup_is_away() {
    let (mut rig, backup, nodes) = Rig::with_nodes(options(), 1);
    rig.cut(backup);
    rig.turn();
    let client = rig.client();
    rig.request(client, 1, 0, &[credit(user_of(1, 1, 0), 1)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
    let backup = rig.accept(BACKUP.parse().unwrap());
    let got = rig.take(backup);
    assert!(matches!(got[0].message(), Message::Follow));
}

#[test]
fn silence_closes_a_link_unless_this_process_slept() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 2);
    // Asleep for long: nobody is blamed.
    rig.tick_ms += 10 * LINK_SILENCE_MS_MAX;
    rig.input(Input::Elapsed);
    rig.turn();
    assert!(rig.closing.is_empty());
    rig.talking.retain(|peer| *peer != nodes[1]);
    rig.run_ms(LINK_SILENCE_MS_MAX - 300);
    assert!(rig.closing.is_empty() && rig.closed.is_empty());
    rig.run_ms(600);
    assert_eq!(rig.closed, [nodes[1]]);
    rig.run_ms(REDIAL_MS);
    rig.accept(node_address(2));
}

#[test]
fn members_decide_which_nodes_are_dialled() {
    let (mut rig, backup, nodes) = Rig::with_nodes(options(), 2);
    let whole = [(slot_range(0, 65_535), 1)];
    let moved = "127.0.0.1:2901".parse().unwrap();
    // Node 2 has another address, node 3 is new and away.
    let members = [
        (1, MemberState::Present, node_address(1)),
        (2, MemberState::Present, moved),
        (3, MemberState::Away, node_address(3)),
    ];
    rig.tell_table(backup, 2, &members, &whole);
    assert_eq!(rig.closing, [nodes[1]]);
    rig.turn();
    rig.accept(moved);
    rig.run_ms(1_100);
    assert!(rig.dials.is_empty());
    // Node 2 is no member any more, node 3 came, node 1 is away but its link stands.
    let members = [
        (1, MemberState::Away, node_address(1)),
        (3, MemberState::Present, node_address(3)),
    ];
    rig.tell_table(backup, 3, &members, &whole);
    assert_eq!(rig.closing.len(), 1);
    rig.accept(node_address(3));
    rig.cut(nodes[0]);
    rig.run_ms(2_000);
    assert!(rig.dials.is_empty(), "who is away is not dialled");
    // A new member takes the place of a former one.
    let link_count = rig.front.links.len();
    let members = [(4, MemberState::Present, node_address(4))];
    rig.tell_table(backup, 4, &members, &[]);
    rig.accept(node_address(4));
    assert_eq!(rig.front.links.len(), link_count);
}

#[test]
fn an_earlier_table_of_the_same_epoch_is_not_taken_again() {
    let (mut rig, backup, nodes) = Rig::with_nodes(options(), 1);
    let whole = [(slot_range(0, 65_535), 1)];
    let table = |number, state| {
        let members = [(1, state, node_address(1))];
        let bytes = table_bytes(1, &members, &whole);
        let (frame, _) = split(&bytes, LINK_FRAME_SIZE_MAX).unwrap().unwrap();
        let table = Message::read(&frame).unwrap();
        let mut numbered = BytesMut::new();
        table.write_for(&mut numbered, number);
        numbered
    };
    let away = table(1, MemberState::Away);
    let present = table(2, MemberState::Present);
    for bytes in [&away, &present, &away] {
        rig.feed_bytes(backup, bytes);
        rig.turn();
    }
    rig.cut(nodes[0]);
    rig.run_ms(2_000);
    rig.accept(node_address(1));
    // Another connection counts anew.
    rig.cut(backup);
    rig.run_ms(2_000);
    let backup = rig.accept(BACKUP.parse().unwrap());
    rig.feed_bytes(backup, &away);
    rig.turn();
    let again: Vec<_> = rig.front.links.iter().map(|link| link.is_wanted).collect();
    assert_eq!(again, [true, false]);
}

#[test]
fn a_table_that_contradicts_itself_ends_the_backups_link() {
    let (mut rig, backup, _) = Rig::with_nodes(options(), 1);
    let members = [(1, MemberState::Present, node_address(1))];
    rig.tell_table(backup, 2, &members, &[(slot_range(0, 9), 8)]);
    let (code, text) = rig.refusal(backup);
    assert_eq!(code, RefusalCode::Malformed);
    assert_eq!(text, "slots of node 8, which is no member");
    assert_eq!(rig.front.epoch(), RingEpoch(1));
}

#[test]
fn a_backup_of_another_cluster_is_not_followed() {
    let mut known = options();
    known.cluster = Some(cluster());
    let mut rig = Rig::new(known);
    rig.turn();
    let other = ClusterId::new(1_234).unwrap();
    let backup = rig.accept_as(BACKUP.parse().unwrap(), other, 9);
    assert_eq!(rig.refusal(backup).0, RefusalCode::WrongCluster);
    assert!(
        rig.said
            .iter()
            .any(|text| text.contains("1234") || text.contains("4d2"))
    );
}

#[test]
fn answers_that_were_not_asked_for_end_a_link() {
    for codes in [vec![(1, Ok)], vec![(0, Ok), (0, Ok)]] {
        let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
        let client = rig.client();
        rig.request(client, 1, 100, &[credit(user_of(1, 1, 0), 1)]);
        rig.turn();
        let asked = rig.asked_once(nodes[0]);
        rig.answer(nodes[0], asked.request, &codes);
        assert_eq!(rig.refusal(nodes[0]).0, RefusalCode::Malformed);
        rig.run_ms(200);
        let code = if codes.len() == 1 { Unknown } else { Ok };
        assert_eq!(rig.receipts(client), [(1, 0, code)]);
    }
    let (mut rig, backup, nodes) = Rig::with_nodes(options(), 1);
    rig.answer(nodes[0], 12_345, &[(0, Ok)]);
    assert_eq!(rig.refusal(nodes[0]).0, RefusalCode::Malformed);
    rig.answer(backup, 1, &[(0, Ok)]);
    assert_eq!(rig.refusal(backup).0, RefusalCode::Unexpected);
}

#[test]
fn status_and_audit_are_passed_on_and_back() {
    let (mut rig, backup, _) = Rig::with_nodes(options(), 1);
    rig.take(backup);
    let client = rig.client();
    let mut bytes = BytesMut::new();
    Message::StatusAsk.write_for(&mut bytes, 11);
    Message::AuditAsk.write_for(&mut bytes, 12);
    rig.feed_bytes(client, &bytes);
    rig.turn();
    let asked = rig.take(backup);
    assert!(matches!(asked[0].message(), Message::StatusAsk));
    assert!(matches!(asked[1].message(), Message::AuditAsk));
    let [status, audit] = [&asked[0], &asked[1]].map(|got| got.header.request);
    assert_ne!(status, audit);
    let mut bytes = BytesMut::new();
    let row = AuditRow {
        currency: 3,
        ..AuditRow::default()
    };
    write_audit(&mut bytes, audit, &[row], AuditPart::More);
    Message::StatusTold { json: "{}" }.write_for(&mut bytes, status);
    write_audit(&mut bytes, audit, &[], AuditPart::Last);
    write_audit(&mut bytes, audit, &[row], AuditPart::Last);
    rig.feed_bytes(backup, &bytes);
    rig.turn();
    let got: Vec<_> = rig.take(client);
    let heads: Vec<_> = got
        .iter()
        .map(|g| (g.header.request, g.header.flags))
        .collect();
    assert_eq!(
        heads,
        [(12, 1), (11, 0), (12, 0)],
        "and nothing after the end"
    );
    assert!(matches!(got[0].message(), Message::AuditTold { .. }));
    assert_eq!(got[1].message(), Message::StatusTold { json: "{}" });
}

#[test]
fn a_question_that_cannot_be_answered_is_told_so() {
    let (mut rig, backup, _) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let mut bytes = BytesMut::new();
    Message::AuditAsk.write_for(&mut bytes, 5);
    let told = |rig: &mut Rig, why: &str| {
        let got = rig.take(client);
        let json = format!("{{\"error\":\"unavailable\",\"text\":\"{why}\"}}");
        assert_eq!(got[0].message(), Message::StatusTold { json: &json });
        assert_eq!((got.len(), got[0].header.request), (1, 5));
    };
    rig.feed_bytes(client, &bytes);
    rig.turn();
    rig.run_ms(5_000);
    told(&mut rig, "the backup did not answer in time");
    rig.feed_bytes(client, &bytes);
    rig.turn();
    rig.cut(backup);
    rig.turn();
    told(&mut rig, "the backup was lost");
    rig.feed_bytes(client, &bytes);
    rig.turn();
    told(&mut rig, "the backup is away");
}

#[test]
fn stop_answers_what_is_held_and_ends() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    let user = user_of(1, 1, 0);
    rig.request(client, 1, 0, &[credit(user, 1)]);
    rig.turn();
    let asked = rig.asked_once(nodes[0]);
    rig.input(Input::Stop);
    rig.turn();
    assert!(matches!(rig.take(client)[0].message(), Message::Goaway));
    rig.request(client, 2, 0, &[credit(user, 2), get(user)]);
    rig.turn();
    assert_eq!(
        rig.receipts(client),
        [(2, 0, Unavailable), (2, 1, Unavailable)]
    );
    let late = rig.hello(PeerRole::Client, None, (VERSION_MIN, VERSION_MAX));
    assert_eq!(rig.refusal(late).0, RefusalCode::Closing);
    assert_eq!(rig.exit, None);
    rig.answer(nodes[0], asked.request, &[(0, Ok)]);
    assert_eq!(rig.receipts(client), [(1, 0, Ok)]);
    assert_eq!(rig.closing, [client]);
    rig.turn();
    assert_eq!(rig.exit, Some(ExitCode::Ok));
    assert_eq!(rig.front.deadline(), None);
}

#[test]
fn stop_waits_no_longer_than_the_longest_deadline() {
    let (mut rig, _, nodes) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    rig.request(client, 1, 10_000, &[credit(user_of(1, 1, 0), 1)]);
    rig.turn();
    rig.asked_once(nodes[0]);
    rig.input(Input::Stop);
    rig.turn();
    rig.take(client);
    rig.run_ms(9_999);
    assert_eq!(rig.exit, None);
    rig.run_ms(1);
    assert_eq!(rig.receipts(client), [(1, 0, Unknown)]);
    rig.turn();
    assert_eq!(rig.exit, Some(ExitCode::Ok));
}

#[test]
fn a_second_stop_ends_at_once() {
    let (mut rig, _, _) = Rig::with_nodes(options(), 1);
    let client = rig.client();
    rig.request(client, 1, 0, &[credit(user_of(1, 1, 0), 1)]);
    rig.input(Input::Stop);
    rig.turn();
    assert_eq!(rig.exit, None);
    rig.input(Input::Stop);
    rig.turn();
    assert_eq!(rig.exit, Some(ExitCode::Ok));
}
