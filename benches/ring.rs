//! What routing one operation costs: hash of the user, read of the table; and what a plan costs.
//!
//! `array` is the lower bound of a look-up: the same reads from a plain array.

use std::hint::black_box;

use counterfoil::model::{NodeId, Random, RingEpoch, Slot, UserId, user_slot};
use counterfoil::ring::{RingNode, SlotTable, nearest, plan};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const RING_KEY: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
const USER_COUNT: u64 = 4_096;

fn nodes(count: u32) -> Vec<RingNode> {
    (1..=count)
        .map(|number| RingNode::drawn(RING_KEY, NodeId::new(number).expect("not 0"), 1))
        .collect()
}

fn users() -> Vec<UserId> {
    let mut random = Random::new(1);
    (0..USER_COUNT)
        .filter_map(|_| UserId::new(random.u128()))
        .collect()
}

fn owner(table: &SlotTable, slot: Slot) -> u64 {
    table.owner(slot).map_or(0, |node| u64::from(node.get()))
}

fn look_up(criterion: &mut Criterion) {
    let users = users();
    let table = plan(RingEpoch(1), &nodes(10));
    let slots: Vec<Slot> = users
        .iter()
        .map(|user| user_slot(RING_KEY, *user))
        .collect();
    let array: Vec<u32> = (0..=u16::MAX)
        .map(|slot| table.owner(Slot(slot)).map_or(0, NodeId::get))
        .collect();
    let mut group = criterion.benchmark_group("look_up");
    group.throughput(Throughput::Elements(USER_COUNT));
    group.bench_function("user_slot", |bench| {
        bench.iter(|| -> u64 {
            let slots = black_box(&users)
                .iter()
                .map(|user| user_slot(RING_KEY, *user));
            slots.map(|slot| u64::from(slot.0)).sum()
        });
    });
    group.bench_function("table", |bench| {
        bench.iter(|| -> u64 {
            black_box(&slots)
                .iter()
                .map(|slot| owner(&table, *slot))
                .sum()
        });
    });
    group.bench_function("user_slot and table", |bench| {
        bench.iter(|| -> u64 {
            let slots = black_box(&users)
                .iter()
                .map(|user| user_slot(RING_KEY, *user));
            slots.map(|slot| owner(&table, slot)).sum()
        });
    });
    group.bench_function("array", |bench| {
        bench.iter(|| -> u64 {
            black_box(&slots)
                .iter()
                .map(|slot| u64::from(array[slot.index()]))
                .sum()
        });
    });
    group.finish();
}

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    for count in [3, 10, 100] {
        let nodes = nodes(count);
        group.bench_function(BenchmarkId::new("plan", count), |bench| {
            bench.iter(|| plan(RingEpoch(1), black_box(&nodes)));
        });
        // One slot of 65,536: what the plan would cost by the rule alone.
        group.bench_function(BenchmarkId::new("nearest, one slot", count), |bench| {
            bench.iter(|| nearest(black_box(&nodes), black_box(Slot(12_345))));
        });
        let (old, new) = (plan(RingEpoch(1), &nodes), plan(RingEpoch(2), &nodes[1..]));
        group.bench_function(BenchmarkId::new("difference", count), |bench| {
            bench.iter(|| black_box(&old).difference(&new).count());
        });
    }
    group.finish();
}

criterion_group!(benches, look_up, plans);
criterion_main!(benches);
