//! Images that are begun before anybody has ordered a move.

use super::*;

const DRAFTS: [&str; 2] = ["moves/0001-0000.draft.tmp", "moves/0001-0001.draft.tmp"];

fn draft(pair: &mut Pair, log: LogNumber) {
    let through = if log == source() {
        pair.source.end
    } else {
        pair.target.end
    };
    let range = |first, last| {
        vec![SlotRange {
            first: Slot(first),
            last: Slot(last),
        }]
    };
    let reply = pair.bench.ask(DiskRequest::DraftImages {
        log,
        through,
        ring_key: RING_KEY,
        parts: vec![range(0, 9_999), range(10_000, 20_000)],
    });
    assert!(
        matches!(reply, DiskReply::ImagesDrafted { .. }),
        "{reply:?}"
    );
}

/// The backup hands over what the source has. The two images.
fn taken_over(pair: &mut Pair) -> Vec<Vec<u8>> {
    let end = pair.source.end;
    let reply = build(pair, source(), end, Vec::new());
    let DiskReply::HandOverBuilt { block, end, .. } = reply else {
        panic!("{reply:?}");
    };
    let log = source();
    pair.append(DiskRequest::Append { log, block, end });
    pair.source.end = end;
    let reply = pair.advance(source());
    assert!(matches!(reply, DiskReply::ReplicaAt { .. }), "{reply:?}");
    for path in DRAFTS {
        assert_eq!(pair.medium.content(path), None, "{path}");
    }
    let paths = ["moves/0000000000000008", "moves/0000000000000009"];
    let contents = paths.map(|path| pair.medium.content(path).expect("it was cut"));
    contents.to_vec()
}

/// A lost image is cut again from the log, and must be the very same.
#[test]
fn an_image_from_a_draft_is_the_same() {
    let cut = taken_over(&mut Pair::new(MemoryMedium::new()));
    let mut pair = Pair::new(MemoryMedium::new());
    // The second time in vain, as after another silence at the same end.
    draft(&mut pair, source());
    draft(&mut pair, source());
    assert!(taken_over(&mut pair) == cut);

    let mut pair = Pair::new(MemoryMedium::new());
    draft(&mut pair, source());
    pair.medium.damage(DRAFTS[1], 80_000, &[0xee; 4]);
    let used = taken_over(&mut pair);
    assert!(used[0] == cut[0] && used[1] != cut[1], "drafts are used");
}

#[test]
fn a_draft_is_forgotten_when_the_log_goes_on() {
    let mut pair = Pair::new(MemoryMedium::new());
    draft(&mut pair, source());
    pair.medium.damage(DRAFTS[0], 80_000, &[0xee; 4]);
    let request = pair.source.block(100);
    pair.append(request);
    let mut other = Pair::new(MemoryMedium::new());
    let request = other.source.block(100);
    other.append(request);
    assert!(taken_over(&mut pair) == taken_over(&mut other));

    let mut pair = Pair::new(MemoryMedium::new());
    draft(&mut pair, source());
    assert!(pair.medium.content(DRAFTS[0]).is_some());
    Bench::on(&pair.medium);
    assert_eq!(pair.medium.content(DRAFTS[0]), None, "tidied");
}

/// What is staged is activated or dropped first: a draft would lack it.
#[test]
fn nothing_is_drafted_beside_what_is_staged() {
    let mut pair = Pair::new(MemoryMedium::new());
    pair.hand_over();
    let handed = pair.handed();
    pair.adopt(handed);
    draft(&mut pair, target());
    let names = pair.medium.list("moves").unwrap();
    assert!(
        names.iter().all(|name| !name.contains("draft")),
        "{names:?}"
    );
}
