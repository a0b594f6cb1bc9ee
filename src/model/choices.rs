//! Bytes as choices: what a fuzzer's input means to a target that wants a list of events.
//!
//! Small numbers cost one byte, so that a mutation of the input is a small change of the list.
//! A source that has run dry gives zeros for ever.

/// Bytes that are taken from the front.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// All of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Has it run dry?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `size` bytes, or as many as there are.
    pub fn bytes(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(size.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Sixteen bytes.
    pub fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.array())
    }

    /// A number below `bound`, which is not 0: of one byte where that is enough.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(0 < bound);
        let number = if bound <= 1 << 8 {
            u64::from(self.u8())
        } else if bound <= 1 << 16 {
            u64::from(self.u16())
        } else {
            self.u64()
        };
        number % bound
    }

    /// True for one in `odds` values of a byte; false when it has run dry.
    pub fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == odds - 1
    }

    /// One of a list that is not empty.
    pub fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[super::to_usize(self.below(super::to_u64(list.len())))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_from_the_front_and_end_in_zeros() {
        let mut choices = Choices::new(&[7, 1, 2, 255, 9]);
        assert_eq!(choices.u8(), 7);
        assert_eq!(choices.u16(), 0x0201);
        assert!(choices.one_in(2));
        assert_eq!(choices.below(1000), 9);
        assert!(choices.is_empty());
        assert_eq!((choices.below(10), choices.u64()), (0, 0));
        assert!(!choices.one_in(2));
        assert_eq!(choices.one_of(&[5, 6]), 5);
        assert_eq!(Choices::new(&[1, 2]).bytes(9), [1, 2]);
    }
}
