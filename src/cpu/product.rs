//! Products of rows with strips of lanes: to\[row\]\[c\] ←/+/⊙ Σ_d A\[row\]\[d\] · B\[d\]\[c\].
//!
//! ```text
//!   A  rows × depth: read in place or staged
//!   B  depth × columns, the columns cut into strips of MR lanes:
//!
//!        B:  c0 … c31 │ c32 …         strip:  d0  c0 … c31
//!   d0       ─────────┼──────                 d1  c0 … c31        [KC][MR], in L1 while the rows pass
//!   d1       ─────────┼──────                 …
//! ```
//!
//! This is the engine of CP forward and of all gradients: the lanes run over columns of the result, not over the batch.

use super::cache::parts;
use super::kernels::{Epilogue, Fetch, Gemm, Pack, add_into};
use super::operand::{Cube, Part};
use super::simd::Kernels;
use super::table::Table;
use crate::View;

/// Up to so many rows, strips whose columns are contiguous are read in place: packing them would not pay.
pub(crate) const IN_PLACE_ROWS: usize = 64;

/// The lane operand, depth × columns.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<'a, T: Kernels> {
    pub(crate) view: View<'a, T, 2>,
    /// All strips of a matrix, each [depth][MR] (the last one as wide as it needs to be), or null.
    packed: *const T::Acc,
}

// SAFETY: the packed lanes are only read once tasks run.
unsafe impl<T: Kernels> Sync for Lanes<'_, T> {}

impl<'a, T: Kernels> Lanes<'a, T> {
    pub(crate) fn matrix(view: View<'a, T, 2>) -> Self {
        Lanes { view, packed: std::ptr::null() }
    }

    /// A matrix whose strips [`pack_all`](Self::pack_all) has packed there before, if that is not null.
    ///
    /// # Safety
    ///
    /// They are there for as long as the lanes are used.
    pub(crate) unsafe fn packed_at(view: View<'a, T, 2>, packed: *const T::Acc) -> Self {
        Lanes { packed, ..Lanes::matrix(view) }
    }

    /// A matrix, all strips of which are packed at `next` if that is not null; `next` then points behind them.
    ///
    /// # Safety
    ///
    /// Room for depth × columns, the columns rounded up to MR.
    pub(crate) unsafe fn pack_all(table: &Table<T>, view: View<'a, T, 2>, next: &mut *mut T::Acc) -> Self {
        let [depth, columns] = view.shape();
        let lanes = Lanes { packed: *next, ..Lanes::matrix(view) };
        if !next.is_null() {
            // A few rows at a time, so that rows are read once and in order, whichever axis they are.
            for rows in parts(depth, 32, table.lanes) {
                for column in (0..columns).step_by(table.mr) {
                    let width = (columns - column).min(table.mr).next_multiple_of(table.lanes);
                    let to = next.wrapping_add(column * depth + rows.0 * width);
                    // SAFETY: the caller's promise of room for the strips.
                    unsafe { lanes.pack(table, rows, (column, columns), to) };
                }
            }
            *next = next.wrapping_add(columns.next_multiple_of(table.mr) * depth);
        }
        lanes
    }

    /// Columns from `column` on, at most MR of them, as [depth][width]; returns the vectors of the width.
    ///
    /// # Safety
    ///
    /// The depth within the view; room at `to`.
    pub(crate) unsafe fn pack(
        &self,
        table: &Table<T>,
        depth: Part,
        (column, end): (usize, usize),
        to: *mut T::Acc,
    ) -> usize {
        let [sd, sc] = self.view.strides();
        let rows = (end - column).min(table.mr);
        let vectors = rows.div_ceil(table.lanes);
        // SAFETY: depth and columns are within the view, and `to` has the room.
        unsafe {
            (table.pack)(&Pack {
                from: self.at([depth.0, column]),
                row_stride: sc,
                column_stride: sd,
                rows,
                depth: depth.1,
                to,
                width: vectors * table.lanes,
            });
        }
        vectors
    }

    fn at(&self, index: [usize; 2]) -> *const T {
        let offset = |axis: usize| (index[axis] as isize).wrapping_mul(self.view.strides()[axis]);
        self.view.host_ptr().wrapping_offset(offset(0).wrapping_add(offset(1)))
    }

    /// Whether columns are contiguous.
    fn in_place(&self) -> bool {
        T::IN_PLACE && self.view.strides()[1] == 1
    }
}

/// Where a product goes: rows of sums.
#[derive(Clone, Copy)]
pub(crate) struct Target<A> {
    pub(crate) first: *mut A,
    pub(crate) row_stride: isize,
    pub(crate) column_stride: isize,
    /// Columns that may be written past the last one, because they are scratch.
    pub(crate) padded: bool,
}

impl<A> Target<A> {
    /// Rows of contiguous scratch.
    pub(crate) fn scratch(first: *mut A, distance: usize) -> Self {
        Target { first, row_stride: distance as isize, column_stride: 1, padded: true }
    }

    /// From this row and column on.
    pub(crate) fn offset(self, row: usize, column: usize) -> Self {
        let offset = (row as isize).wrapping_mul(self.row_stride);
        let offset = offset.wrapping_add((column as isize).wrapping_mul(self.column_stride));
        Target { first: self.first.wrapping_offset(offset), ..self }
    }
}

/// What part of a product: how many rows, from which depth of the lanes on, which of their columns.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) rows: usize,
    pub(crate) over: usize,
    pub(crate) columns: Part,
}

/// What products are computed with.
#[derive(Clone, Copy)]
pub(crate) struct Product<T: Kernels> {
    pub(crate) table: &'static Table<T>,
    pub(crate) kc: usize,
    /// Whether the batch has at most [`IN_PLACE_ROWS`].
    pub(crate) few: bool,
    /// Room for a strip of KC × MR, a tile of rows × MR, and rows of KC + 16.
    pub(crate) strip: *mut T::Acc,
    pub(crate) tile: *mut T::Acc,
    pub(crate) staged: *mut T::Acc,
}

impl<T: Kernels> Product<T> {
    /// `to` ←/+/⊙ `a` · `b`, for these columns of `b`, and the part of its depth that is the whole of `a`'s.
    ///
    /// # Safety
    ///
    /// `a` has at least the block's rows; its depth, from `over` on, and the columns are within `b`; `to` has the rows
    /// and columns; the scratch has room for the rows.
    pub(crate) unsafe fn run(
        &self,
        a: Cube<'_, T>,
        b: Lanes<'_, T>,
        block: Block,
        to: Target<T::Acc>,
        epilogue: Epilogue,
    ) {
        let mut epilogue = epilogue;
        let [_, _, depth] = a.shape();
        // SAFETY: the caller's contract.
        unsafe {
            for part in parts(depth, self.kc, self.table.lanes) {
                let rows = [(0, 1), (0, block.rows), part];
                let (first, _, distance) = a.stage(self.table, rows, self.staged, part.1 + 16);
                // Rows that follow each other closely are asked for in advance.
                let near = distance > 0 && distance as usize <= part.1 + part.1 / 4;
                let depth = (block.over + part.0, part.1);
                for column in (0..block.columns.1).step_by(self.table.mr) {
                    let fetch = if column == 0 && near { Fetch::Rows } else { Fetch::Nothing };
                    let gemm = self.strip(b, depth, block, column, (first, distance));
                    self.store(&Gemm { fetch, ..gemm }, block.columns.1 - column, to.offset(0, column), epilogue);
                }
                epilogue = if epilogue == Epilogue::Set { Epilogue::Add } else { epilogue };
            }
        }
    }

    /// The product of staged rows with the strip from `column` of the block on. Where it goes is left open.
    unsafe fn strip(
        &self,
        b: Lanes<'_, T>,
        i: Part,
        block: Block,
        column: usize,
        (rows, distance): (*const T::Acc, isize),
    ) -> Gemm<T::Acc> {
        let table = self.table;
        let (from, end) = (block.columns.0 + column, block.columns.0 + block.columns.1);
        let [whole, columns] = b.view.shape();
        let (a, a_stride, vectors) = if !b.packed.is_null() {
            let vectors = (columns - from).min(table.mr).div_ceil(table.lanes);
            let width = vectors * table.lanes;
            (b.packed.wrapping_add(from * whole + i.0 * width), width as isize, vectors)
        } else if self.few && end - from >= table.mr && b.in_place() {
            (b.at([i.0, from]).cast(), b.view.strides()[0], table.mr / table.lanes)
        } else {
            // SAFETY: the caller's contract.
            let vectors = unsafe { b.pack(table, i, (from, end), self.strip) };
            (self.strip.cast_const(), (vectors * table.lanes) as isize, vectors)
        };
        Gemm {
            a,
            a_stride,
            vectors,
            b: rows,
            b_stride: distance,
            b_step: 1,
            rows: block.rows,
            depth: i.1,
            out: std::ptr::null_mut(),
            out_stride: 0,
            epilogue: Epilogue::Set,
            fetch: Fetch::Nothing,
        }
    }

    /// Runs `gemm`, `columns` of whose lanes go to `to`: directly, or by way of the tile.
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    pub(crate) unsafe fn store(&self, gemm: &Gemm<T::Acc>, columns: usize, to: Target<T::Acc>, epilogue: Epilogue) {
        let width = gemm.vectors * self.table.lanes;
        let used = columns.min(width);
        let contiguous = to.column_stride == 1 && (to.row_stride >= used as isize || gemm.rows == 1);
        // SAFETY: the caller's contract.
        unsafe {
            if contiguous && (to.padded || used == width) {
                let gemm = Gemm { out: to.first, out_stride: to.row_stride as usize, epilogue, ..*gemm };
                (self.table.arithmetic.gemm)(&gemm);
                return;
            }
            (self.table.arithmetic.gemm)(&Gemm { out: self.tile, out_stride: width, epilogue: Epilogue::Set, ..*gemm });
            for row in 0..gemm.rows {
                let sums = std::slice::from_raw_parts(self.tile.add(row * width), used);
                let to = to.offset(row, 0);
                match epilogue {
                    Epilogue::Add if contiguous => {
                        add_into(std::slice::from_raw_parts_mut(to.first, used), sums);
                        continue;
                    }
                    Epilogue::Set if contiguous => {
                        std::ptr::copy_nonoverlapping(sums.as_ptr(), to.first, used);
                        continue;
                    }
                    _ => {}
                }
                for (column, &sum) in sums.iter().enumerate() {
                    let to = to.offset(0, column).first;
                    to.write(match epilogue {
                        Epilogue::Set => sum,
                        Epilogue::Add => *to + sum,
                        Epilogue::Multiply => *to * sum,
                    });
                }
            }
        }
    }
}
