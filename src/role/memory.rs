//! What a daemon may use of memory at most, added up from its limits: said at its start.

use std::fmt;

use crate::limits;

/// The most memory that a daemon may use, by part, and what comes on top with what it serves.
///
/// Counted is what the process asks for. Mapped segments are not: the system takes their pages
/// back when it needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    parts: Vec<(&'static str, u64)>,
    growing: Vec<(&'static str, u64)>,
}

impl MemoryPlan {
    /// What every event loop uses.
    #[must_use]
    pub fn of_loop() -> Self {
        let kept = limits::INTAKE_KEPT_COUNT_MAX * limits::INTAKE_KEPT_SIZE_MAX
            + limits::OUTBOX_KEPT_SIZE_MAX
            + limits::READ_SIZE_MAX
            + limits::TURN_FRAME_SIZE_MAX;
        let connections = u64::from(limits::CONNECTION_COUNT_MAX)
            * (limits::CONNECTION_SIZE_MAX + u64::from(limits::HELLO_FRAME_SIZE_MAX));
        Self::default()
            .part("event loop", crate::model::to_u64(kept))
            .part("connections", connections)
    }

    /// With a part.
    #[must_use]
    pub fn part(mut self, name: &'static str, size: u64) -> Self {
        self.parts.push((name, size));
        self
    }

    /// With something that comes on top for each of `name`.
    #[must_use]
    pub fn each(mut self, name: &'static str, size: u64) -> Self {
        self.growing.push((name, size));
        self
    }

    /// With what a link of the cluster may have queued and begun.
    #[must_use]
    pub fn each_link(self) -> Self {
        let size = limits::LINK_QUEUE_SIZE_MAX + limits::LINK_FRAME_SIZE_MAX;
        self.each("link", size.into())
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, size)| size).sum()
    }

    /// The parts, each with its bytes.
    #[must_use]
    pub fn parts(&self) -> &[(&'static str, u64)] {
        &self.parts
    }

    /// What comes on top: bytes for each of these.
    #[must_use]
    pub fn growing(&self) -> &[(&'static str, u64)] {
        &self.growing
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "memory at most {}", Size(self.total()))?;
        for (index, (name, size)) in self.parts.iter().enumerate() {
            let before = if index == 0 { " =" } else { "," };
            write!(out, "{before} {name} {}", Size(*size))?;
        }
        for (index, (name, size)) in self.growing.iter().enumerate() {
            let before = if index == 0 { "; and for each" } else { "," };
            write!(out, "{before} {name} {}", Size(*size))?;
        }
        Ok(())
    }
}

/// Bytes, rounded up to the largest unit of which there are ten.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = if 10 << 20 <= self.0 {
            (1 << 20, "MiB")
        } else if 10 << 10 <= self.0 {
            (1 << 10, "KiB")
        } else {
            (1, "bytes")
        };
        write!(out, "{} {name}", self.0.div_ceil(unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_adds_up_and_reads_well() {
        let plan = MemoryPlan::default()
            .part("queues", 64 << 20)
            .part("buffers", (1 << 20) + 1)
            .each("account", 100)
            .each("link", 20 << 20);
        assert_eq!(plan.total(), (65 << 20) + 1);
        assert_eq!(
            plan.to_string(),
            "memory at most 66 MiB = queues 64 MiB, buffers 1025 KiB; and for each account 100 \
             bytes, link 20 MiB"
        );
        assert!(0 < MemoryPlan::of_loop().total());
    }
}
