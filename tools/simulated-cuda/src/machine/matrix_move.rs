//! `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between shared memory and registers.
//!
//! Lane 8 i + r has the address of row r of matrix i. Lane l's register i holds elements 2 (l mod 4) and the next of
//! row l / 4 of matrix i; transposed, of column l / 4.

use super::{
    Outcome,
    block::Block,
    code::{AccessSpace, Address},
    element::write_slice,
    registers::{ALL, LANES},
    trouble,
    warp::Warp,
};
use crate::{FaultKind, fault::Space};

pub(crate) struct MatrixMove {
    pub(crate) address: Address,
    pub(crate) registers: Vec<u32>,
    pub(crate) transposed: bool,
}

impl Block<'_> {
    /// Offsets of the rows, checked.
    fn matrix_rows(&mut self, warp: &Warp, op: &MatrixMove, mask: u32, write: bool) -> Outcome<[u32; LANES]> {
        if mask != ALL {
            let present = mask;
            return trouble(mask.trailing_zeros() as usize, FaultKind::DivergentSync { members: ALL, present }, None);
        }
        let addresses = warp.addresses(&op.address);
        let mut rows = [0; LANES];
        let used = 8 * op.registers.len();
        for lane in 0..used {
            let (space, address) = match super::access::classify(addresses[lane]) {
                // A 32-bit address within shared memory, or a generic one.
                (AccessSpace::Global, address) => (AccessSpace::Shared, address),
                other => other,
            };
            if space != AccessSpace::Shared {
                let kind = FaultKind::OutOfBounds { space: Space::Shared, size: 16, write };
                return trouble(lane, kind, Some(addresses[lane]));
            }
            rows[lane] = address;
        }
        let lanes = if used == 32 { ALL } else { (1 << used) - 1 };
        self.check_shared(warp, &rows, lanes, 16, write)
    }

    pub(crate) fn load_matrix(&mut self, warp: &mut Warp, op: &MatrixMove, mask: u32) -> Outcome {
        let rows = self.matrix_rows(warp, op, mask, false)?;
        for (rows, &slot) in rows.chunks_exact(8).zip(&op.registers) {
            let to = &mut warp.registers.r[slot as usize].0;
            let row = |at: usize| &self.shared[rows[at] as usize..][..16];
            if op.transposed {
                for at in 0..8 {
                    for (column, element) in row(at).chunks_exact(2).enumerate() {
                        let element = u32::from(u16::from_le_bytes([element[0], element[1]]));
                        let to = &mut to[4 * column + at / 2];
                        *to = if at % 2 == 0 { element } else { *to | element << 16 };
                    }
                }
            } else {
                for (at, to) in to.chunks_exact_mut(4).enumerate() {
                    for (to, word) in to.iter_mut().zip(row(at).chunks_exact(4)) {
                        *to = u32::from_le_bytes(word.try_into().unwrap_or_default());
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn store_matrix(&mut self, warp: &mut Warp, op: &MatrixMove, mask: u32) -> Outcome {
        let rows = self.matrix_rows(warp, op, mask, true)?;
        for (rows, &slot) in rows.chunks_exact(8).zip(&op.registers) {
            for (lane, &value) in warp.registers.r[slot as usize].0.iter().enumerate() {
                if op.transposed {
                    for (half, row) in [2 * (lane % 4), 2 * (lane % 4) + 1].into_iter().enumerate() {
                        let element = u64::from(value >> (16 * half) & 0xffff);
                        write_slice(&mut self.shared, rows[row] as usize + 2 * (lane / 4), 2, element);
                    }
                } else {
                    write_slice(&mut self.shared, rows[lane / 4] as usize + 4 * (lane % 4), 4, value.into());
                }
            }
        }
        Ok(())
    }
}
