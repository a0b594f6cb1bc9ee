//! A dense array that grows by whole chunks and never moves what it holds.
//!
//! A `Vec` doubles by copying everything, which would stop the loop for as long as that takes;
//! here growth costs one allocation of a fixed size. Elements are never removed: the tables above
//! keep free lists of their own.

use crate::model::to_u64;

/// An array in chunks of `1 << SHIFT` elements.
#[derive(Debug)]
pub(super) struct Chunks<T, const SHIFT: u32> {
    chunks: Vec<Vec<T>>,
    count: u32,
}

impl<T, const SHIFT: u32> Chunks<T, SHIFT> {
    const CHUNK_COUNT: usize = 1 << SHIFT;

    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            count: 0,
        }
    }

    /// Elements in it.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn get(&self, number: u32) -> &T {
        &self.chunks[(number >> SHIFT) as usize][number as usize & (Self::CHUNK_COUNT - 1)]
    }

    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[(number >> SHIFT) as usize][number as usize & (Self::CHUNK_COUNT - 1)]
    }

    /// Appends and returns the element's number.
    pub(super) fn push(&mut self, element: T) -> u32 {
        let number = self.count;
        if number as usize & (Self::CHUNK_COUNT - 1) == 0 {
            self.chunks.push(Vec::with_capacity(Self::CHUNK_COUNT));
        }
        let chunk = self
            .chunks
            .last_mut()
            .expect("one was pushed with the first element");
        chunk.push(element);
        self.count = number
            .checked_add(1)
            .expect("tables are bounded below 32 bits");
        number
    }

    /// Bytes reserved for elements.
    pub(super) fn memory_size(&self) -> u64 {
        to_u64(self.chunks.len() * Self::CHUNK_COUNT * size_of::<T>())
            + to_u64(self.chunks.capacity() * size_of::<Vec<T>>())
    }
}
