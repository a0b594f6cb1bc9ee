//! What a frame costs to write and to read, beside what its bytes cost to copy and to check.
//!
//! `copy` and `crc` are the lower bounds: no codec with this checksum can be faster.

use std::hint::black_box;

use bytes::BytesMut;
use counterfoil::limits::FRAME_SIZE_MAX;
use counterfoil::model::{
    Currency, OPERATION_SIZE, Operation, OperationId, Place, Receipt, ReceiptFlags, ResultCode,
    RingEpoch, UserId,
};
use counterfoil::protocol::{Message, ReceiptsWriter, RequestWriter, split};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const COUNTS: [u16; 3] = [1, 100, 8_192];

fn records(count: u16) -> Vec<[u8; OPERATION_SIZE]> {
    (0..u128::from(count))
        .map(|number| {
            let user = UserId::new(number * 7 + 1).expect("not 0");
            let currency = Currency::new(3).expect("not 0");
            let id = OperationId::from_parts(1_700_000_000_000, number);
            Operation::credit(id, user, currency, 100).to_bytes()
        })
        .collect()
}

fn write_request(out: &mut BytesMut, records: &[[u8; OPERATION_SIZE]]) {
    let mut writer = RequestWriter::begin(out, 1, RingEpoch(5), 2_000);
    for record in records {
        writer.push(out, record);
    }
    writer.finish(out);
}

/// Splits, reads, and looks at every operation. Their amounts, so that nothing is optimised away.
fn read_request(bytes: &[u8]) -> u64 {
    let (frame, _) = split(bytes, FRAME_SIZE_MAX).expect("good").expect("whole");
    let Ok(Message::Request { operations, .. }) = Message::read(&frame) else {
        return 0;
    };
    operations
        .iter()
        .flatten()
        .map(|operation| operation.amount())
        .sum()
}

fn write_receipts(out: &mut BytesMut, count: u16) {
    let mut writer = ReceiptsWriter::begin(out, 1, RingEpoch(5));
    for index in 0..count {
        writer.push(
            out,
            &Receipt {
                index,
                code: ResultCode::Ok,
                flags: ReceiptFlags::CREATED,
                available: i64::from(index) + 100,
                held: 0,
                version: 7,
                place: Place(u64::from(index) * 128),
                amount: 100,
            },
        );
    }
    writer.finish(out);
}

fn read_receipts(bytes: &[u8]) -> i64 {
    let (frame, _) = split(bytes, FRAME_SIZE_MAX).expect("good").expect("whole");
    let Ok(Message::Receipts(receipts)) = Message::read(&frame) else {
        return 0;
    };
    receipts
        .iter()
        .flatten()
        .map(|receipt| receipt.available)
        .sum()
}

fn lower_bounds(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    count: u16,
    frame: &[u8],
) {
    let mut target = vec![0; frame.len()];
    group.bench_function(BenchmarkId::new("copy", count), |bench| {
        bench.iter(|| black_box(&mut target).copy_from_slice(black_box(frame)));
    });
    group.bench_function(BenchmarkId::new("crc", count), |bench| {
        bench.iter(|| crc32fast::hash(black_box(frame)));
    });
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for count in COUNTS {
        let records = records(count);
        let mut frame = BytesMut::new();
        write_request(&mut frame, &records);
        assert_eq!(read_request(&frame), 100 * u64::from(count));
        group.throughput(Throughput::Elements(u64::from(count)));
        let mut out = BytesMut::with_capacity(frame.len());
        group.bench_function(BenchmarkId::new("encode", count), |bench| {
            bench.iter(|| {
                out.clear();
                write_request(&mut out, black_box(&records));
            });
        });
        group.bench_function(BenchmarkId::new("decode", count), |bench| {
            bench.iter(|| read_request(black_box(&frame)));
        });
        lower_bounds(&mut group, count, &frame);
    }
    group.finish();
}

fn receipts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receipts");
    for count in COUNTS {
        let mut frame = BytesMut::new();
        write_receipts(&mut frame, count);
        assert_ne!(read_receipts(&frame), 0);
        group.throughput(Throughput::Elements(u64::from(count)));
        let mut out = BytesMut::with_capacity(frame.len());
        group.bench_function(BenchmarkId::new("encode", count), |bench| {
            bench.iter(|| {
                out.clear();
                write_receipts(&mut out, black_box(count));
            });
        });
        group.bench_function(BenchmarkId::new("decode", count), |bench| {
            bench.iter(|| read_receipts(black_box(&frame)));
        });
        lower_bounds(&mut group, count, &frame);
    }
    group.finish();
}

criterion_group!(benches, requests, receipts);
criterion_main!(benches);
