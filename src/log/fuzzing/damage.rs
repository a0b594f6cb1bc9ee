//! The ways in which the bytes of a log go wrong at rest.

use super::lives::{Life, SEGMENT_SIZE, at_of, segment_path, verify};
use crate::log::block::{BLOCK_HEADER_SIZE, CRC_AT, crc_of};
use crate::log::{Medium, MemoryMedium};
use crate::model::{Choices, Random, to_u64, to_usize};

/// Was anything made that verifies and was never written?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Accident,
    Forgery,
}

/// Damages a copy of a log by what the bytes choose.
pub(super) fn damage(
    life: &Life,
    choices: &mut Choices<'_>,
    count_max: u64,
) -> (MemoryMedium, Damage) {
    let mut medium = life.medium.fork();
    let mut kind = Damage::Accident;
    let count = choices.below(count_max + 1);
    for _ in 0..count {
        match choices.below(12) {
            0 => {
                let seed = choices.u16();
                medium = medium.crash(&mut Random::new(u64::from(seed)));
            }
            1 => {
                forge(life, &medium, choices);
                kind = Damage::Forgery;
            }
            2 => move_file(&medium, choices),
            _ => damage_bytes(life, &medium, choices),
        }
    }
    (medium, kind)
}

/// A file and a place in it, mostly where something is.
fn place(life: &Life, medium: &MemoryMedium, choices: &mut Choices<'_>) -> Option<(String, u64)> {
    let paths = medium.paths();
    if choices.one_in(3) || life.blocks.is_empty() {
        if paths.is_empty() {
            return None;
        }
        let path = paths[to_usize(choices.below(to_u64(paths.len())))].clone();
        let size = to_u64(medium.content(&path)?.len());
        let at = choices.below(size.max(1));
        return Some((path, at));
    }
    let block = &life.blocks[to_usize(choices.below(to_u64(life.blocks.len())))];
    let path = segment_path(block.first());
    let size = to_u64(block.bytes.len());
    let inside = if choices.one_in(2) {
        choices.below(size)
    } else {
        choices.below(to_u64(BLOCK_HEADER_SIZE))
    };
    let is_there = paths.binary_search(&path).is_ok();
    is_there.then(|| (path, to_u64(at_of(block.first())) + inside))
}

fn damage_bytes(life: &Life, medium: &MemoryMedium, choices: &mut Choices<'_>) {
    let Some((path, at)) = place(life, medium, choices) else {
        return;
    };
    let bytes = medium.content(&path).unwrap();
    let Some(old) = bytes.get(to_usize(at)).copied() else {
        return;
    };
    let fits = |size: usize| size.min(bytes.len() - to_usize(at));
    let (line, sector) = (at & !127, at & !511);
    match choices.below(9) {
        0 => medium.damage(&path, at, &[old ^ (1 << choices.below(8))]),
        1 => {
            let size = to_usize(1 + choices.below(16));
            let new = choices.bytes(fits(size));
            medium.damage(&path, at, new);
        }
        2 => medium.damage(&path, sector, &vec![0; fits(512)]),
        3 => medium.damage(&path, sector, &vec![choices.u8(); fits(512)]),
        4 => medium.damage(&path, at, &vec![0; fits(to_usize(choices.below(1 << 16)))]),
        5 => medium.truncate(&path, at),
        6 => medium.damage(&path, to_u64(bytes.len()), &[choices.u8()]),
        7 => copy(life, medium, choices, (&path, line), 128),
        _ => copy(life, medium, choices, (&path, sector), 4_096),
    }
}

/// Writes bytes of elsewhere.
fn copy(
    life: &Life,
    medium: &MemoryMedium,
    choices: &mut Choices<'_>,
    (path, to): (&str, u64),
    size: usize,
) {
    let Some((from_path, from)) = place(life, medium, choices) else {
        return;
    };
    let from_bytes = medium.content(&from_path).unwrap();
    let room = medium.content(path).unwrap().len() - to_usize(to);
    let from = to_usize(from) & !127;
    let end = from_bytes.len().min(from + size.min(room));
    if let Some(bytes) = from_bytes.get(from..end) {
        medium.damage(path, to, bytes);
    }
}

/// Removes a file, or gives it the name of another one.
fn move_file(medium: &MemoryMedium, choices: &mut Choices<'_>) {
    let paths = medium.paths();
    if paths.is_empty() {
        return;
    }
    let path = &paths[to_usize(choices.below(to_u64(paths.len())))];
    if choices.one_in(2) {
        let to = segment_path(choices.below(8) * SEGMENT_SIZE);
        medium.rename(path, &to).unwrap();
    } else {
        medium.remove(path).unwrap();
    }
}

/// Changes a header and gives it a good checksum: what no accident does, and still no reader may
/// fall over.
fn forge(life: &Life, medium: &MemoryMedium, choices: &mut Choices<'_>) {
    if life.blocks.is_empty() {
        return;
    }
    let block = &life.blocks[to_usize(choices.below(to_u64(life.blocks.len())))];
    let path = segment_path(block.first());
    let mut bytes = block.bytes.to_vec();
    let change_count = 1 + choices.below(3);
    for _ in 0..change_count {
        let at = to_usize(choices.below(to_u64(BLOCK_HEADER_SIZE)));
        bytes[at] = choices.u8();
    }
    let segment = block.first().div_euclid(SEGMENT_SIZE);
    let (header, body) = bytes.split_first_chunk().unwrap();
    let crc = crc_of(header, body, &verify(), segment);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    let room = medium.content(&path).map_or(0, |content| content.len());
    if at_of(block.first()) + bytes.len() <= room {
        medium.damage(&path, to_u64(at_of(block.first())), &bytes);
    }
}
