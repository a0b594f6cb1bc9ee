//! Random runs: retries, held replies, lost links, crashes, wiped and restored folders. Whatever
//! happens, every id takes effect once or not at all, and what was acknowledged is never lost.

use std::collections::BTreeMap;

use super::disk::TestDisk;
use super::world::{World, credit, get, options};
use crate::model::{CodeClass, Flags, Random, ReceiptFlags, ResultCode};

const SEED_COUNT: u64 = 150;
const STEP_COUNT: u32 = 120;
const USER_COUNT: u64 = 4;

/// What the clients know.
#[derive(Default)]
struct Clients {
    id_count: u128,
    /// Requests without a complete answer: number and the ids in it.
    open: Vec<(u64, Vec<u128>)>,
    /// Acknowledged: id -> version of its receipt.
    acknowledged: BTreeMap<u128, u64>,
}

/// Each id has its user, so that the operation of an id is always the same.
fn user_of(id: u128) -> u128 {
    1 + id % u128::from(USER_COUNT)
}

impl Clients {
    fn send(&mut self, world: &mut World, random: &mut Random) {
        let count = 1 + random.below(4);
        let ids: Vec<u128> = (0..count)
            .map(|_| {
                if self.id_count == 0 || !random.one_in(3) {
                    self.id_count += 1;
                    self.id_count
                } else {
                    1 + u128::from(random.u64()) % self.id_count
                }
            })
            .collect();
        let operations: Vec<_> = ids.iter().map(|id| credit(*id, user_of(*id), 1)).collect();
        let request = world.send(&operations);
        self.open.push((request, ids));
    }

    fn listen(&mut self, world: &World) {
        let acknowledged = &mut self.acknowledged;
        self.open.retain(|(request, ids)| {
            let receipts = world.answer(*request).receipts;
            for receipt in &receipts {
                let id = ids[usize::from(receipt.index)];
                if receipt.code == ResultCode::Ok {
                    // Every receipt of one id is the same, whoever gives it.
                    let first = *acknowledged.entry(id).or_insert(receipt.version);
                    assert_eq!(first, receipt.version, "id {id}");
                } else {
                    assert_eq!(
                        receipt.code.class(),
                        CodeClass::NotNow,
                        "id {id}: {receipt:?}"
                    );
                }
            }
            receipts.len() < ids.len()
        });
    }
}

fn disturb(mut world: World, clients: &mut Clients, random: &mut Random) -> World {
    match random.below(12) {
        0 => world.disk.holds_appends = true,
        1 => world.disk.release_appends_if_any(),
        2 => world.backup.holds_acks = true,
        3 => world.backup.release_acks(),
        4 => world.backup.drops_appends = true,
        5 => world.backup.drops_appends = false,
        6 => world.cut_link(),
        7 => world.mend_link(),
        8 => world
            .disk
            .files(|files| files.cold_below = files.end().offset),
        9 => world.pass(random.below(700)),
        10 => {
            // What a dead process did not answer is never answered.
            clients.open.clear();
            return again(world, random);
        }
        _ => world.run(),
    }
    world
}

/// The process dies and comes again, now and then with an empty folder.
fn again(world: World, random: &mut Random) -> World {
    let mut world = world.restart();
    if random.one_in(4) {
        world.disk = TestDisk::new();
    }
    world.disk.files(|files| files.cold_below = 0);
    world.backup.drops_appends = false;
    world.serve();
    world
}

fn run(seed: u64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let mut clients = Clients::default();
    let mut options = options(100);
    options.limits.parked_count_max = 3;
    let mut world = World::with(options, TestDisk::new(), super::backup::TestBackup::new());
    world.serve();
    let mut replay_count = 0;
    for _ in 0..STEP_COUNT {
        if random.one_in(2) {
            clients.send(&mut world, &mut random);
            if random.one_in(2) {
                world.run();
            }
        } else {
            world = disturb(world, &mut clients, &mut random);
        }
        assert!(world.exit.is_none(), "{:?} {:?}", world.exit, world.said);
        clients.listen(&world);
    }
    world = again(world, &mut random);
    // Every id again: those that were acknowledged are known, with the same receipt.
    for id in 1..=clients.id_count {
        let receipt = world.one(credit(id, user_of(id), 1));
        assert_eq!(receipt.code, ResultCode::Ok);
        if let Some(version) = clients.acknowledged.get(&id) {
            assert!(receipt.flags.has(ReceiptFlags::REPLAYED), "id {id} is lost");
            assert_eq!(*version, receipt.version, "id {id}");
            replay_count += 1;
        }
    }
    let shown: i64 = (1..=u128::from(USER_COUNT))
        .map(|user| world.one(get(user).with_flags(Flags::RECENT)).available)
        .sum();
    assert_eq!(
        u128::try_from(shown).unwrap(),
        clients.id_count,
        "an id took effect twice"
    );
    (clients.acknowledged.len(), replay_count)
}

#[test]
fn every_id_takes_effect_once() {
    let (mut acknowledged, mut replayed) = (0, 0);
    for seed in 0..SEED_COUNT {
        let result = std::panic::catch_unwind(|| run(seed));
        let (a, r) = result.unwrap_or_else(|_| panic!("seed {seed} fails"));
        acknowledged += a;
        replayed += r;
    }
    assert!(4_000 < acknowledged, "{acknowledged} acknowledged");
    assert!(4_000 < replayed, "{replayed} replayed");
}
