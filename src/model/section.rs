//! The parts of a checkpoint.

/// Sections of a checkpoint, in the order in which they are stored and loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Section {
    /// Horizon, log time, epoch mark, activated slots.
    Meta = 1,
    /// Supply by currency.
    Supply = 2,
    /// Accounts, sorted by slot, user and currency.
    Accounts = 3,
    /// Remembered ids, sorted by time.
    Ids = 4,
}

impl Section {
    /// All sections, in order.
    pub const ALL: [Self; 4] = [Self::Meta, Self::Supply, Self::Accounts, Self::Ids];
}
