//! A block of y while it is added up: panels [K-block][MR], one for each tile of the batch.

use super::cache::parts;
use super::kernels::{Epilogue, Fetch, Gemm, Pack, Unpack};
use super::operand::{Cube, Part};
use super::simd::Kernels;
use super::table::Table;
use crate::View;

/// Rows `n` by outputs `k` of y in the accumulator's type.
#[derive(Clone, Copy)]
pub(crate) struct Output<T: Kernels> {
    pub(crate) table: &'static Table<T>,
    pub(crate) n: Part,
    pub(crate) k: Part,
    /// Room for n (rounded up to MR) × k.
    pub(crate) sums: *mut T::Acc,
}

/// A tile of the batch: which one, its rows, and its width in vectors and lanes. All but the last are MR wide.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) index: usize,
    pub(crate) rows: usize,
    pub(crate) vectors: usize,
    pub(crate) width: usize,
}

/// Panels of z, x or H: one for each tile, `distance` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Panels<A> {
    pub(crate) first: *mut A,
    pub(crate) distance: usize,
}

impl<A> Panels<A> {
    pub(crate) fn at(&self, tile: Tile) -> *mut A {
        self.first.wrapping_add(tile.index * self.distance)
    }
}

/// Where weights that cannot be read in place are staged.
#[derive(Clone, Copy)]
pub(crate) struct Staging<A> {
    pub(crate) buffer: *mut A,
    pub(crate) len: usize,
}

impl<T: Kernels> Output<T> {
    pub(crate) fn tiles(&self) -> impl Iterator<Item = Tile> + use<T> {
        let (lanes, mr, n) = (self.table.lanes, self.table.mr, self.n.1);
        (0..n.div_ceil(mr)).map(move |index| {
            let rows = (n - index * mr).min(mr);
            let vectors = rows.div_ceil(lanes);
            Tile { index, rows, vectors, width: vectors * lanes }
        })
    }

    /// Panels of `depth` rows, one behind the other.
    pub(crate) fn panels(&self, first: *mut T::Acc, depth: usize) -> Panels<T::Acc> {
        Panels { first, distance: self.table.mr * depth }
    }

    /// This tile's sums, from output `k` of the block on.
    pub(crate) fn sums_of(&self, tile: Tile, k: usize) -> *mut T::Acc {
        self.panels(self.sums, self.k.1).at(tile).wrapping_add(k * tile.width)
    }

    /// y = b, or 0.
    ///
    /// # Safety
    ///
    /// `sums` has the room.
    pub(crate) unsafe fn set(&self, b: Option<View<'_, T, 1>>) {
        for tile in self.tiles() {
            for k in 0..self.k.1 {
                let bias = b.and_then(|b| b.get([self.k.0 + k])).map_or(T::Acc::default(), T::to_acc);
                for lane in 0..tile.width {
                    // SAFETY: within the panel.
                    unsafe { *self.sums_of(tile, k).add(lane) = bias };
                }
            }
        }
    }

    /// Rows `n` and `columns` of z or x as panels.
    ///
    /// # Safety
    ///
    /// Rows and columns are within `from`; `panels` has room for n (rounded up to MR) × columns.
    pub(crate) unsafe fn pack(&self, from: View<'_, T, 2>, columns: Part, panels: Panels<T::Acc>) {
        let [row_stride, column_stride] = from.strides();
        for tile in self.tiles() {
            let row = self.n.0 + tile.index * self.table.mr;
            let offset = (row as isize).wrapping_mul(row_stride).wrapping_add(columns.0 as isize * column_stride);
            // SAFETY: the caller's contract.
            unsafe {
                (self.table.pack)(&Pack {
                    from: from.as_ptr().wrapping_offset(offset),
                    row_stride,
                    column_stride,
                    rows: tile.rows,
                    depth: columns.1,
                    to: panels.at(tile),
                    width: tile.width,
                });
            }
        }
    }

    /// y += panels · weightsᵀ: the linear terms, and CP's projection by A. `weights` is one output of rows k × depth,
    /// of which `columns` meet the rows of the panels.
    ///
    /// # Safety
    ///
    /// `panels` as made by [`pack`](Self::pack) for these columns; `staging` has room for a row of `kc` + 16.
    pub(crate) unsafe fn add_product(
        &self,
        weights: Cube<'_, T>,
        columns: Part,
        panels: Panels<T::Acc>,
        kc: usize,
        staging: Staging<T::Acc>,
    ) {
        let table = self.table;
        for (d0, depth) in parts(columns.1, kc, table.lanes) {
            let ld = depth + 16;
            let most = (staging.len / ld).max(1);
            for (r0, rows) in parts(self.k.1, most, table.nr.min(most)) {
                let block = [(0, 1), (self.k.0 + r0, rows), (columns.0 + d0, depth)];
                // SAFETY: rows k and columns of the weights; the panels have the depth; the staging `most` rows.
                unsafe {
                    let (b, _, b_stride) = weights.stage(table, block, staging.buffer, ld);
                    for tile in self.tiles() {
                        (table.arithmetic.gemm)(&Gemm {
                            a: panels.at(tile).add(d0 * tile.width),
                            a_stride: tile.width as isize,
                            vectors: tile.vectors,
                            b,
                            b_stride,
                            b_step: 1,
                            rows,
                            depth,
                            out: self.sums_of(tile, r0),
                            out_stride: tile.width,
                            epilogue: Epilogue::Add,
                            fetch: Fetch::Nothing,
                        });
                    }
                }
            }
        }
    }

    /// The sums, written to y, of which `to` is the first element.
    ///
    /// # Safety
    ///
    /// y has these rows and outputs, and no other thread writes them.
    pub(crate) unsafe fn write(&self, to: *mut T, strides: [isize; 2]) {
        for tile in self.tiles() {
            let row = (self.n.0 + tile.index * self.table.mr) as isize;
            let to = to.wrapping_offset(row * strides[0] + self.k.0 as isize * strides[1]);
            // SAFETY: the panel holds all of these rows and outputs; the rest is the caller's contract.
            unsafe {
                (self.table.unpack)(&Unpack {
                    from: self.sums_of(tile, 0),
                    width: tile.width,
                    rows: tile.rows,
                    columns: self.k.1,
                    to,
                    row_stride: strides[0],
                    column_stride: strides[1],
                });
            }
        }
    }
}
