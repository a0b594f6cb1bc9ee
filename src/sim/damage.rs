//! Damage at rest: bits that flip and sectors that change places, where a disk has something.

use crate::log::{MemoryMedium, SEGMENT_HEADER_SIZE, log_dir};
use crate::model::{LogNumber, Random, to_u64, to_usize};

/// Where a disk has something that matters: a file, and how many bytes of it.
fn pick_used(medium: &MemoryMedium, random: &mut Random) -> (String, Vec<u8>) {
    let paths = medium.paths();
    let segments: Vec<&String> = paths
        .iter()
        .filter(|path| path.contains("/segment-"))
        .collect();
    let path = if segments.is_empty() || random.one_in(6) {
        paths[to_usize(random.below(to_u64(paths.len())))].clone()
    } else {
        segments[to_usize(random.below(to_u64(segments.len())))].clone()
    };
    let mut content = medium.content(&path).unwrap_or_default();
    let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    content.truncate(used);
    (path, content)
}

/// One bit of a used part of a file.
pub(super) fn flip(medium: &MemoryMedium, random: &mut Random) -> String {
    let (path, content) = pick_used(medium, random);
    if content.is_empty() {
        return format!("{path} is empty");
    }
    let at = to_usize(random.below(to_u64(content.len())));
    let bit = random.below(8);
    medium.damage(&path, to_u64(at), &[content[at] ^ (1 << bit)]);
    format!("bit {bit} of byte {at} of {path} flips")
}

/// One bit of the last block of a log, about.
pub(super) fn flip_at_end(medium: &MemoryMedium, log: LogNumber, random: &mut Random) -> String {
    const REACH: u64 = 192;
    let dir = log_dir(log);
    let mut segments: Vec<String> = medium.paths();
    segments.retain(|path| path.starts_with(&dir) && path.contains("/segment-"));
    segments.sort_unstable();
    for path in segments.iter().rev() {
        let content = medium.content(path).unwrap_or_default();
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let room = to_u64(used).saturating_sub(SEGMENT_HEADER_SIZE);
        if room != 0 {
            let at = used - 1 - to_usize(random.below(room.min(REACH)));
            let bit = random.below(8);
            medium.damage(path, to_u64(at), &[content[at] ^ (1 << bit)]);
            return format!("bit {bit} of byte {at} of {path} flips");
        }
    }
    format!("log {log} is empty")
}

/// Two sectors of a used part of a file.
pub(super) fn swap(medium: &MemoryMedium, random: &mut Random) -> String {
    const SECTOR_SIZE: usize = 512;
    let (path, content) = pick_used(medium, random);
    let count = to_u64(content.len().div_euclid(SECTOR_SIZE));
    if count < 2 {
        return format!("{path} has too few sectors");
    }
    let [first, second] = [random.below(count), random.below(count)];
    let sector = |number: u64| {
        let from = to_usize(number) * SECTOR_SIZE;
        content[from..from + SECTOR_SIZE].to_vec()
    };
    let size = to_u64(SECTOR_SIZE);
    medium.damage(&path, first * size, &sector(second));
    medium.damage(&path, second * size, &sector(first));
    format!("sectors {first} and {second} of {path} change places")
}
