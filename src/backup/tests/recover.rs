//! A backup that is made again: who is waited for, what is recorded first, what is asked of whom.

use bytes::BytesMut;

use super::bench::{SEGMENT, cluster, options};
use super::{Bench, FakeNode, log, node};
use crate::backup::{BackupOptions, RecoverOptions};
use crate::model::{Generation, LogNumber, RingEpoch, Seq, Slot, SlotRange, Term};
use crate::protocol::{
    Fetched, Hello, Message, NodeIds, PeerRole, Recorded, RefusalCode, Register, TermStarts,
    VERSION_MAX, VERSION_MIN, put_node_id,
};
use crate::role::{ExitCode, Holding, PeerId, Survey};

fn recovering(give_up: &[u32]) -> Bench {
    let recover = RecoverOptions {
        give_up: give_up.iter().map(|number| node(*number)).collect(),
        ..RecoverOptions::default()
    };
    let mut bench = Bench::blank(BackupOptions {
        recover: Some(recover),
        ..options(1)
    });
    bench.settle();
    bench
}

/// A node with two blocks in its log, that owns half of the slots.
fn with_log(bench: &mut Bench, number: u16, generation: u64) -> FakeNode {
    let mut fake = FakeNode::new(number.into(), 100 + u128::from(number));
    fake.log = Some(log(number));
    fake.copy = 7;
    fake.term = Term(3);
    fake.generation = Generation(generation);
    fake.ring_epoch = RingEpoch(5);
    fake.build(2);
    fake.build(1);
    let half = u16::MAX / 2;
    let (first, last) = if number == 1 {
        (0, half)
    } else {
        (half + 1, u16::MAX)
    };
    let slots = SlotRange {
        first: Slot(first),
        last: Slot(last),
    };
    let survey = Survey {
        runs: vec![(slots, Holding::Owned(RingEpoch(1)))],
        ring_epoch: RingEpoch(1),
    };
    bench.disk.surveys.insert(log(number), survey);
    fake
}

/// Says hello, and registers.
fn come(bench: &mut Bench, fake: &mut FakeNode) -> PeerId {
    let peer = bench.open();
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        role: PeerRole::Node,
        cluster: Some(cluster()),
        node: Some(fake.node),
        incarnation: fake.incarnation,
    };
    bench.say_to(peer, &Message::Hello(hello));
    let register = Register {
        node: fake.node,
        log: fake.log,
        copy: fake.copy,
        generation: fake.generation,
        ring_epoch: fake.ring_epoch,
        term: fake.term,
        end: fake.end(),
        committed: Seq(0),
        address: fake.address,
        join: fake.join_weight,
        terms: TermStarts::new(&[]).unwrap(),
    };
    bench.say_to(peer, &Message::Register(register));
    fake.peer = Some(peer);
    peer
}

/// What came for a node: kinds, and the generation that it is to record.
fn heard(bench: &mut Bench, fake: &FakeNode) -> Vec<String> {
    let mut heard = Vec::new();
    bench.take(fake.peer.unwrap(), |_, message| match message {
        Message::Ping => (),
        Message::Recover { generation } => heard.push(format!("recover {generation}")),
        Message::Refused(refused) => heard.push(format!("refused {}", refused.code.name())),
        message => heard.push(message.kind().name().to_owned()),
    });
    heard
}

fn record(bench: &mut Bench, fake: &mut FakeNode, generation: u64, members: &[u32]) {
    fake.generation = Generation(generation);
    let mut list = BytesMut::new();
    for number in members {
        put_node_id(&mut list, node(*number));
    }
    let recorded = Recorded {
        generation: Generation(generation),
        ring_key: 99,
        segment_size: SEGMENT,
        first_offset: 0,
        checkpoint_size: 0,
        log_max: 4,
        members: NodeIds::new(&list).unwrap(),
    };
    bench.say_to(fake.peer.unwrap(), &Message::Recorded(recorded));
    bench.settle();
}

/// Answers a fetch, if one came, with all blocks.
fn give(bench: &mut Bench, fake: &FakeNode) -> bool {
    let peer = fake.peer.unwrap();
    let mut asked = None;
    bench.take(peer, |frame, message| {
        if let Message::Fetch(fetch) = message {
            asked = Some((frame.header.request, *fetch));
        }
    });
    let Some((request, fetch)) = asked else {
        return false;
    };
    let mut blocks = BytesMut::new();
    for (_, block) in &fake.blocks {
        blocks.extend_from_slice(block);
    }
    let fetched = Fetched {
        log: fetch.log,
        offset: fetch.offset,
        blocks: &blocks,
    };
    bench.say_only(peer, &Message::Fetched(fetched), request);
    bench.settle();
    true
}

#[test]
fn the_generation_is_above_all_others_and_recorded_before_anything_is_asked() {
    let mut bench = recovering(&[]);
    let mut one = with_log(&mut bench, 1, 1);
    let mut two = with_log(&mut bench, 2, 3);
    come(&mut bench, &mut one);
    assert_eq!(heard(&mut bench, &one), ["welcome", "recover 2"]);
    bench.settle();
    assert_eq!(heard(&mut bench, &one), [""; 0], "it has not recorded yet");
    come(&mut bench, &mut two);
    assert_eq!(heard(&mut bench, &two), ["welcome", "recover 4"]);
    assert_eq!(
        heard(&mut bench, &one),
        ["recover 4"],
        "the other one knew more"
    );
    record(&mut bench, &mut one, 2, &[1, 2]);
    assert_eq!(
        heard(&mut bench, &one),
        [""; 0],
        "that is not the present one any more"
    );
    record(&mut bench, &mut one, 4, &[1, 2]);
    assert!(give(&mut bench, &one));
    assert!(bench.disk.authority.is_none(), "node 2 has not recorded");
    record(&mut bench, &mut two, 4, &[1, 2]);
    assert!(bench.disk.authority.is_none(), "it has not given");
    assert!(give(&mut bench, &two));
    assert!(bench.ready, "{:?} {:?}", bench.exit, bench.said);

    // From here on it is a backup: of terms above all of older generations.
    let mut one = one.restarted(500);
    one.copy = 7;
    one.join(&mut bench);
    assert_eq!(one.term, Term((4 << 32) + 1));
    assert_eq!(
        (one.generation, one.ring_epoch),
        (Generation(4), RingEpoch(6))
    );
    one.commit(&mut bench, 1);
}

#[test]
fn every_member_that_anybody_knows_of_is_waited_for_or_given_up() {
    for give_up in [&[][..], &[3]] {
        let mut bench = recovering(give_up);
        let mut nodes = [1, 2].map(|number| with_log(&mut bench, number, 1));
        for (fake, members) in nodes.iter_mut().zip([&[1, 2][..], &[1, 2, 3]]) {
            come(&mut bench, fake);
            record(&mut bench, fake, 2, members);
            assert!(give(&mut bench, fake));
        }
        bench.wait_ms(2_000);
        bench.settle();
        let waits = bench
            .said
            .iter()
            .any(|(_, text)| text.contains("node 3 is waited for"));
        assert_eq!(
            (bench.ready, waits),
            (!give_up.is_empty(), give_up.is_empty())
        );
        assert_eq!(bench.disk.authority.is_some(), bench.ready);
    }
}

#[test]
fn who_has_nothing_to_give_is_sent_away() {
    let mut bench = recovering(&[2]);
    let mut empty = FakeNode::new(1, 101);
    come(&mut bench, &mut empty);
    let refused = |code: RefusalCode| ["welcome".to_owned(), format!("refused {}", code.name())];
    assert_eq!(heard(&mut bench, &empty), refused(RefusalCode::NotReady));
    let mut given_up = with_log(&mut bench, 2, 1);
    come(&mut bench, &mut given_up);
    assert_eq!(
        heard(&mut bench, &given_up),
        refused(RefusalCode::NotAMember)
    );
    let mut one = with_log(&mut bench, 1, 1);
    come(&mut bench, &mut one);
    let mut same_log = with_log(&mut bench, 3, 1);
    same_log.log = LogNumber::new(1);
    come(&mut bench, &mut same_log);
    assert_eq!(heard(&mut bench, &same_log), refused(RefusalCode::NotReady));
    assert!(bench.exit.is_none());
}

/// A node that had been removed, of which nobody who made the backup again knew: the backup took
/// itself for an old copy and alarmed. Seed 28017.
#[test]
fn a_node_that_nobody_knew_of_is_told_that_it_was_left_out() {
    let mut bench = recovering(&[]);
    for number in [1, 2] {
        let mut fake = with_log(&mut bench, number, 1);
        come(&mut bench, &mut fake);
        record(&mut bench, &mut fake, 2, &[1, 2]);
        assert!(give(&mut bench, &fake));
    }
    bench.settle();
    assert!(bench.ready);
    let mut removed = with_log(&mut bench, 3, 1);
    removed.join_weight = Some(1);
    come(&mut bench, &mut removed);
    let refused = format!("refused {}", RefusalCode::NotAMember.name());
    assert_eq!(heard(&mut bench, &removed), ["welcome".to_owned(), refused]);
    assert_eq!(bench.alarms(), 0, "{:?}", bench.said);
    assert!(bench.exit.is_none());
}

#[test]
fn a_lost_link_is_taken_up_where_it_was() {
    let mut bench = recovering(&[]);
    let mut one = with_log(&mut bench, 1, 1);
    let mut two = with_log(&mut bench, 2, 1);
    come(&mut bench, &mut one);
    record(&mut bench, &mut one, 2, &[1, 2]);
    bench.drop_peer(one.peer.unwrap());
    come(&mut bench, &mut one);
    assert_eq!(
        heard(&mut bench, &one),
        ["welcome", "recover 2"],
        "the same recovery"
    );
    record(&mut bench, &mut one, 2, &[1, 2]);
    assert!(give(&mut bench, &one));
    let created = |bench: &Bench| {
        bench
            .disk
            .done
            .iter()
            .filter(|name| **name == "create_log")
            .count()
    };
    assert_eq!(created(&bench), 1);
    // A shorter log than before is another one: it is copied anew.
    bench.drop_peer(one.peer.unwrap());
    one.blocks.pop();
    come(&mut bench, &mut one);
    record(&mut bench, &mut one, 2, &[1, 2]);
    assert!(give(&mut bench, &one));
    assert_eq!(created(&bench), 2);
    come(&mut bench, &mut two);
    record(&mut bench, &mut two, 2, &[1, 2]);
    assert!(give(&mut bench, &two));
    assert!(bench.ready, "{:?}", bench.said);
    assert_eq!(bench.disk.logs[&log(1)].blocks.len(), 1);
}

#[test]
fn logs_that_leave_slots_to_nobody_are_not_served() {
    let mut bench = recovering(&[]);
    let mut one = with_log(&mut bench, 1, 1);
    come(&mut bench, &mut one);
    record(&mut bench, &mut one, 2, &[1]);
    assert!(give(&mut bench, &one));
    assert_eq!(bench.exit_code(), Some(ExitCode::Damage));
    assert!(bench.disk.authority.is_none());
    assert!(!bench.ready);
}
