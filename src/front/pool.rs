//! Values under numbered keys whose cells are used again.
//!
//! A key names one value for ever: once the value is gone the key finds nothing, also when its
//! cell holds another value by then. That is how a late answer to an operation that ended is told
//! apart from an answer to the operation that took its cell. It does not bound itself.

use crate::model::{to_u64, to_usize};

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u64 = u64::MAX >> INDEX_BITS;

/// Name of one value of a [`Pool`]: its cell and how often the cell was used.
///
/// 40 bits of generation: a million uses of one cell a second come around after twelve days, far
/// beyond any link or frame that could still hold the old key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Key {
    /// Names nothing.
    pub(super) const NONE: Self = Self(0);

    /// The key that has this number, which may name nothing.
    pub(super) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// As a number; never 0 for a key that was given out.
    pub(super) const fn number(self) -> u64 {
        self.0
    }

    /// The cell.
    pub(super) const fn index(self) -> u32 {
        (self.0 & INDEX_MASK) as u32
    }

    const fn generation(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

#[derive(Debug)]
struct Cell<T> {
    generation: u64,
    value: Option<T>,
}

/// Values under keys. Memory grows to the highest count there ever was and stays.
#[derive(Debug)]
pub(super) struct Pool<T> {
    cells: Vec<Cell<T>>,
    free: Vec<u32>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            cells: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Pool<T> {
    /// How many values there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.cells.len() - self.free.len()).expect("cells are numbered in 24 bits")
    }

    /// Takes a value in.
    pub(super) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let cell = &mut self.cells[to_usize(u64::from(index))];
            assert!(cell.value.is_none());
            cell.generation = (cell.generation + 1) & GENERATION_MASK;
            cell.generation = cell.generation.max(1);
            cell.value = Some(value);
            return Key((cell.generation << INDEX_BITS) | u64::from(index));
        }
        let index = to_u64(self.cells.len());
        assert!(index <= INDEX_MASK);
        self.cells.push(Cell {
            generation: 1,
            value: Some(value),
        });
        Key((1 << INDEX_BITS) | index)
    }

    /// The value, if it is still there.
    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let cell = self.cells.get(to_usize(u64::from(key.index())))?;
        if cell.generation == key.generation() {
            cell.value.as_ref()
        } else {
            None
        }
    }

    /// The value, if it is still there.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let cell = self.cells.get_mut(to_usize(u64::from(key.index())))?;
        if cell.generation == key.generation() {
            cell.value.as_mut()
        } else {
            None
        }
    }

    /// The value in a cell that holds one; panics else.
    pub(super) fn at(&self, index: u32) -> &T {
        let cell = &self.cells[to_usize(u64::from(index))];
        cell.value.as_ref().expect("the cell holds a value")
    }

    /// The value in a cell that holds one; panics else.
    pub(super) fn at_mut(&mut self, index: u32) -> &mut T {
        let cell = &mut self.cells[to_usize(u64::from(index))];
        cell.value.as_mut().expect("the cell holds a value")
    }

    /// The key of the value in a cell.
    pub(super) fn key_at(&self, index: u32) -> Key {
        let cell = &self.cells[to_usize(u64::from(index))];
        Key((cell.generation << INDEX_BITS) | u64::from(index))
    }

    /// Takes the value out of a cell that holds one; panics else.
    pub(super) fn remove_at(&mut self, index: u32) -> T {
        let cell = &mut self.cells[to_usize(u64::from(index))];
        let value = cell.value.take().expect("the cell holds a value");
        self.free.push(index);
        value
    }

    /// Drops the value in a cell that holds one, where it is; panics else.
    pub(super) fn drop_at(&mut self, index: u32) {
        let cell = &mut self.cells[to_usize(u64::from(index))];
        assert!(cell.value.is_some(), "the cell holds a value");
        cell.value = None;
        self.free.push(index);
    }

    /// The cells that hold a value, in order.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u32> {
        (0_u32..)
            .zip(&self.cells)
            .filter(|(_, cell)| cell.value.is_some())
            .map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_value_without_naming_another() {
        let mut pool = Pool::default();
        let first = pool.insert('a');
        assert_eq!(pool.remove_at(first.index()), 'a');
        let second = pool.insert('b');
        assert_eq!(first.index(), second.index());
        assert_eq!(pool.get(first), None);
        assert_eq!(pool.get(second), Some(&'b'));
        assert_eq!(pool.get(Key::NONE), None);
        assert_eq!(pool.key_at(second.index()), second);
        assert_eq!(Key::from_number(second.number()), second);
    }

    #[test]
    fn cells_are_counted_and_listed() {
        let mut pool = Pool::default();
        let keys = [1, 2, 3].map(|value| pool.insert(value));
        pool.remove_at(keys[1].index());
        assert_eq!(pool.count(), 2);
        pool.drop_at(keys[0].index());
        assert_eq!((pool.count(), pool.get(keys[0])), (1, None));
        pool.insert(1);
        assert_eq!(pool.indexes().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(pool.get(Key::from_number(u64::MAX)), None);
    }
}
