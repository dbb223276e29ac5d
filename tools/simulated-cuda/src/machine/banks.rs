//! Bank conflicts of shared memory.
//!
//! 32 banks of 4 bytes. A warp's access of up to 4 bytes a lane is one pass if no bank has to give two different
//! words; of 8 bytes, one for each half of the lanes; of 16, one for each quarter.

use super::{each, registers::LANES};
use crate::profile::Banks;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BankCounter {
    pub(crate) loads: Banks,
    pub(crate) stores: Banks,
}

impl BankCounter {
    /// Passes beyond the minimum.
    pub(crate) fn conflicts(&self) -> u64 {
        self.loads.conflicts() + self.stores.conflicts()
    }

    pub(crate) fn count(&mut self, addresses: &[u64; LANES], mask: u32, size: u32, write: bool) {
        let to = if write { &mut self.stores } else { &mut self.loads };
        to.requests += 1;
        to.bytes += u64::from(size * mask.count_ones());
        let lanes = match size {
            16 => 8,
            8 => 16,
            _ => 32,
        };
        for first in (0..LANES).step_by(lanes) {
            let part = mask & (((1u64 << lanes) - 1) as u32) << first;
            if part != 0 {
                to.minimum += 1;
                to.transactions += u64::from(passes(addresses, part, size.div_ceil(4)));
            }
        }
    }
}

/// Most different words that a bank has to give to some lanes.
pub(crate) fn passes(addresses: &[u64; LANES], mask: u32, words: u32) -> u32 {
    const NONE: u32 = u32::MAX;
    let (mut first, mut more) = ([NONE; 32], Vec::new());
    for lane in each(mask) {
        let word = (addresses[lane] / 4) as u32;
        for word in word..word + words {
            let bank = &mut first[word as usize % 32];
            if *bank == NONE {
                *bank = word;
            } else if *bank != word {
                more.push(word);
            }
        }
    }
    if more.is_empty() {
        return 1;
    }
    more.sort_unstable();
    more.dedup();
    let mut count = [1; 32];
    more.iter().for_each(|word| count[*word as usize % 32] += 1);
    count.into_iter().max().unwrap_or(1)
}
