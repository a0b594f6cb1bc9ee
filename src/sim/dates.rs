//! What goes wrong with the clocks of machines.

use super::world::World;
use crate::model::{Random, to_u64, to_usize};

impl World {
    /// The date of a machine jumps.
    pub(super) fn jump(&mut self, random: &mut Random) -> String {
        let machine = to_usize(random.below(to_u64(self.machines.len())));
        let reach = [1_000, 10_000, 3_600_000][to_usize(random.below(3))];
        let ms = random.below(2 * reach).cast_signed() - reach.cast_signed();
        self.machines[machine].clock.jump(ms);
        format!("{} by {ms} ms", self.machines[machine].name)
    }

    /// The dates of all machines go on by more than a day.
    pub(super) fn leap(&mut self, random: &mut Random) -> String {
        let ms = (25 * 3_600_000 + random.below(3_600_000)).cast_signed();
        for machine in &mut self.machines {
            machine.clock.jump(ms);
        }
        format!("all dates by {ms} ms")
    }

    /// The clock of a machine runs too fast or too slow from now on.
    pub(super) fn change_rate(&mut self, random: &mut Random) -> String {
        let machine = to_usize(random.below(to_u64(self.machines.len())));
        let ppm = random.below(100_000).cast_signed() - 50_000;
        let at = self.at;
        self.machines[machine].clock.set_rate(at, ppm);
        self.wake(machine);
        format!("{} by {ppm} ppm", self.machines[machine].name)
    }
}
