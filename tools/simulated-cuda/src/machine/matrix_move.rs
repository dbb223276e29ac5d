//! `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements between shared memory and registers.
//!
//! Lane 8 i + r has the address of row r of matrix i. Lane l's register i holds elements 2 (l mod 4) and the next of
//! row l / 4 of matrix i; transposed, of column l / 4.

use super::{
    Outcome,
    access::{read_slice, write_slice},
    block::Block,
    code::{AccessSpace, Address},
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
    fn matrix_rows(&mut self, warp: &Warp, op: &MatrixMove, mask: u32, write: bool) -> Outcome<[u64; LANES]> {
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
        self.check_shared(warp, &rows, lanes, 16, write)?;
        Ok(rows)
    }

    pub(crate) fn load_matrix(&mut self, warp: &mut Warp, op: &MatrixMove, mask: u32) -> Outcome {
        let rows = self.matrix_rows(warp, op, mask, false)?;
        for (i, &slot) in op.registers.iter().enumerate() {
            let rows = &rows[8 * i..8 * i + 8];
            let to = &mut warp.registers.r[slot as usize].0;
            for (lane, to) in to.iter_mut().enumerate() {
                *to = if op.transposed {
                    let element = |row: usize| read_slice(&self.shared, rows[row] as usize + 2 * (lane / 4), 2) as u32;
                    element(2 * (lane % 4)) | element(2 * (lane % 4) + 1) << 16
                } else {
                    read_slice(&self.shared, rows[lane / 4] as usize + 4 * (lane % 4), 4) as u32
                };
            }
        }
        Ok(())
    }

    pub(crate) fn store_matrix(&mut self, warp: &mut Warp, op: &MatrixMove, mask: u32) -> Outcome {
        let rows = self.matrix_rows(warp, op, mask, true)?;
        for (i, &slot) in op.registers.iter().enumerate() {
            let rows = &rows[8 * i..8 * i + 8];
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
