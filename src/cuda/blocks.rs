//! Intermediate results in scratch are of blocks of rows or groups, so that what a call needs is bounded whatever its batch.

use crate::{Error, Result};

/// Of the hidden layers of CP, or of W′ or dW′, unless those of one row (or group) are more. Small in this crate's own tests, so
/// that they have many blocks.
pub(super) const BLOCK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 128 << 20 };

/// Of a call, so that it ends.
const MOST: usize = 1 << 16;

/// `count` things in blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    count: usize,
    block: usize,
}

impl Blocks {
    /// Of things that take `bytes` each. Errors: [`Error::TooLarge`] of more blocks than a call can have.
    pub(super) fn new(count: usize, bytes: usize) -> Result<Blocks> {
        let block = (BLOCK_BYTES / bytes.max(1)).max(1);
        if count.div_ceil(block) > MOST {
            Err(Error::TooLarge { what: "a batch" })
        } else {
            Ok(Blocks { count, block })
        }
    }

    /// In a block at most.
    pub(super) fn most(self) -> usize {
        self.block.min(self.count)
    }

    /// First of each block, and how many; one block even of nothing.
    pub(super) fn iter(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count.max(1)).step_by(self.block).map(move |first| (first, self.block.min(self.count - first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cover_all() {
        let of = |count, bytes| Blocks::new(count, bytes).unwrap().iter().collect::<Vec<_>>();
        assert_eq!(of(0, 8), [(0, 0)]);
        assert_eq!(of(5, BLOCK_BYTES / 2), [(0, 2), (2, 2), (4, 1)]);
        assert_eq!(of(2, usize::MAX), [(0, 1), (1, 1)]);
        assert_eq!(of(7, 0), [(0, 7)]);
        assert!(Blocks::new(usize::MAX, 1 << 10).is_err());
    }
}
