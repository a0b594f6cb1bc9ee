//! Damage at rest: bits that flip and sectors that change places, where a disk has something; and
//! what an operator does about it.

use super::clock::MS;
use super::machine::Kind;
use super::plan::FaultKind;
use super::world::World;
use crate::log::{MemoryMedium, SEGMENT_HEADER_SIZE, log_dir};
use crate::model::{LogNumber, Random, to_u64, to_usize};

/// What a node says that ends because of what the backup has.
const REFUSED: &str = "the backup refuses";

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

impl World {
    /// Bytes of a disk at rest change. Its process ends before and starts after it.
    pub(super) fn damage(&mut self, kind: FaultKind, random: &mut Random) -> Option<String> {
        let machine = self.pick_disk(random);
        if !self.faults.may_hurt() || !self.machines[machine].is_ready() {
            return None;
        }
        self.kill(machine);
        let medium = self.machines[machine].medium.clone()?;
        self.faults.sound = Some(medium.fork());
        self.faults.hurt = Some(machine);
        let text = if kind == FaultKind::Flip {
            flip(&medium, random)
        } else {
            swap(&medium, random)
        };
        let pause = (20 + random.below(1_000)) * MS;
        self.restart_at(machine, self.at + pause);
        Some(format!("{}: {text}", self.machines[machine].name))
    }

    /// A daemon stopped because of damage: the operator gives a node an empty disk, and the backup
    /// the disk that it had before. To a node that is refused because the backup lost the end of
    /// its log the operator brings that log back: what the backup has of the others went on.
    pub(super) fn repair_by_hand(&mut self, machine: usize, text: &str) {
        if self.faults.is_lost {
            // There is no disk to be brought back: it is tried again.
            return;
        }
        if text.contains("poisoned") || text.contains("on demand") {
            // A write or a sync failed. The disk has what it had: starting again is enough.
            return;
        }
        let backup = self.backup();
        let is_refused = machine != backup && text.contains(REFUSED);
        if is_refused && self.faults.hurt == Some(backup) {
            let log = self.watch.log_of.get(&machine).copied();
            if let Some(log) = self.faults.sound_log.or(log) {
                // What was lost was at the log's end, and only the node could know.
                self.kill(backup);
                self.restart_at(backup, self.at + 20 * MS);
                self.repair_log(backup, log);
            }
            return;
        }
        if self.faults.hurt != Some(machine) {
            return;
        }
        if let Some(log) = self.faults.sound_log {
            self.repair_log(machine, log);
            return;
        }
        let sound = self.faults.sound.take();
        let text = format!("the operator repairs {}", self.machines[machine].name);
        self.tell(&text);
        self.counts.event("repair_by_hand");
        if matches!(self.machines[machine].kind, Kind::Backup) {
            self.machines[machine].medium = sound;
            self.watch.backup_is_whole_again();
            self.faults.hurt = None;
        } else {
            self.machines[machine].medium = Some(MemoryMedium::new());
            self.watch.forget_disk(machine);
        }
    }

    /// The operator puts one log of a backup back as it was before it was damaged, unless its node
    /// has sent again what was lost.
    fn repair_log(&mut self, machine: usize, log: LogNumber) {
        let sound = self.faults.sound.take();
        self.faults.sound_log = None;
        self.faults.hurt = None;
        let (Some(sound), Some(medium)) = (sound, &self.machines[machine].medium) else {
            return;
        };
        if self.watch.is_backup_whole() {
            return;
        }
        let dir = log_dir(log);
        for path in sound.paths() {
            let content = sound.content(&path).unwrap_or_default();
            if path.starts_with(&dir) && path.contains("/segment-") {
                medium.damage(&path, 0, &content);
            }
        }
        self.watch.backup_is_whole_again();
        self.tell("the operator puts the damaged log back");
        self.counts.event("repair_by_hand");
    }
}
