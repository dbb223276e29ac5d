//! `wmma.load` and `wmma.store`: a matrix between memory and a warp's registers.

use super::{
    Outcome,
    access::split,
    block::Block,
    code::{AccessSpace, Address},
    each,
    element::{read, read_slice, write, write_slice},
    registers::{ALL, LANES},
    trouble,
    warp::Warp,
};
use crate::{
    FaultKind,
    isa::{Fragment, Number},
};

pub(crate) struct Tile {
    pub(crate) store: bool,
    pub(crate) space: AccessSpace,
    /// Of the first element; the same in all lanes.
    pub(crate) address: Address,
    pub(crate) fragment: Fragment,
    pub(crate) cols: usize,
    pub(crate) row_major: bool,
    /// Register with the elements between rows (or columns).
    pub(crate) stride: u32,
}

impl Block<'_> {
    pub(crate) fn tile(&mut self, warp: &mut Warp, tile: &Tile, mask: u32) -> Outcome {
        if mask != ALL {
            let kind = FaultKind::DivergentSync { members: ALL, present: mask };
            return trouble(mask.trailing_zeros() as usize, kind, None);
        }
        let Fragment { registers, number, index } = &tile.fragment;
        let (pack, bytes) = (number.pack(), number.bits() / 8);
        let base = warp.addresses(&tile.address);
        let strides = warp.registers.r[tile.stride as usize].0;
        let mut seen = vec![u32::MAX; 512];
        for (&slot, index) in registers.iter().zip(index.chunks_exact(pack * LANES)) {
            if !tile.store {
                // Elements that an earlier register holds too are not loaded again.
                let first = &mut seen[index[0] as usize];
                if *first != u32::MAX {
                    warp.registers.r[slot as usize] = warp.registers.r[*first as usize];
                    continue;
                }
                *first = slot;
            }
            let mut values = [0u64; LANES];
            if tile.store {
                for (lane, value) in values.iter_mut().enumerate() {
                    *value = match number {
                        Number::F64 => warp.registers.d[slot as usize].0[lane],
                        _ => warp.registers.r[slot as usize].0[lane].into(),
                    };
                }
            }
            for part in 0..pack {
                let addresses: [u64; LANES] = std::array::from_fn(|lane| {
                    let at = index[lane * pack + part] as usize;
                    let (row, col) = ((at / tile.cols) as u64, (at % tile.cols) as u64);
                    let stride = u64::from(strides[lane]);
                    let element = if tile.row_major { row * stride + col } else { col * stride + row };
                    base[lane].wrapping_add(element * u64::from(bytes))
                });
                let shift = number.bits() * part as u32;
                split(tile.space, &addresses, mask, |space, addresses, mask| {
                    if space == AccessSpace::Shared {
                        self.check_shared(warp, addresses, mask, bytes, tile.store)?;
                        for lane in each(mask) {
                            let at = addresses[lane] as usize;
                            if tile.store {
                                write_slice(&mut self.shared, at, bytes, values[lane] >> shift);
                            } else {
                                values[lane] |= read_slice(&self.shared, at, bytes) << shift;
                            }
                        }
                        return Ok(());
                    }
                    let pointers = self.resolve(addresses, mask, bytes, tile.store)?;
                    for lane in each(mask) {
                        // SAFETY: resolved to so many bytes, aligned.
                        unsafe {
                            if tile.store {
                                write(pointers[lane], bytes, values[lane] >> shift);
                            } else {
                                values[lane] |= read(pointers[lane], bytes) << shift;
                            }
                        }
                    }
                    Ok(())
                })?;
            }
            if !tile.store {
                match number {
                    Number::F64 => warp.registers.d[slot as usize].0 = values,
                    _ => warp.registers.r[slot as usize].0 = values.map(|value| value as u32),
                }
            }
        }
        Ok(())
    }
}
