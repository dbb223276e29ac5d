//! A block of y while it is added up: panels [K-block][MR], one for each tile of the batch.

use super::cache::parts;
use super::kernels::{Epilogue, Fetch, Gemm, Pack, Unpack, add_into};
use super::operand::{Cube, Part};
use super::simd::Kernels;
use super::table::Table;
use crate::{View, ViewMut};

/// A matrix that results are written to, in the storage type or the accumulator's, or added to.
#[derive(Clone, Copy)]
pub(crate) struct Sink<T: Kernels> {
    pub(crate) place: Place<T>,
    pub(crate) strides: [isize; 2],
}

/// What a [`Sink`] does with results, and its first element.
#[derive(Clone, Copy)]
pub(crate) enum Place<T: Kernels> {
    /// Rounded to the storage type.
    Stored(*mut T),
    /// Sums as they are; what was there before is not read.
    Sums(*mut T::Acc),
    /// Added to what is there.
    Added(*mut T::Acc),
}

// SAFETY: tasks write disjoint elements, as each use says.
unsafe impl<T: Kernels> Send for Sink<T> {}
// SAFETY: as above.
unsafe impl<T: Kernels> Sync for Sink<T> {}

impl<T: Kernels> Sink<T> {
    /// y of a forward pass.
    pub(crate) fn stored(mut y: ViewMut<'_, T, 2>) -> Self {
        Sink { place: Place::Stored(y.host_mut_ptr()), strides: y.strides() }
    }

    /// A gradient or tangent.
    pub(crate) fn sums(mut to: ViewMut<'_, T::Acc, 2>, add: bool) -> Self {
        let (first, strides) = (to.host_mut_ptr(), to.strides());
        Sink { place: if add { Place::Added(first) } else { Place::Sums(first) }, strides }
    }

    /// From this row and column on.
    pub(crate) fn at(self, row: usize, column: usize) -> Self {
        let offset = (row as isize).wrapping_mul(self.strides[0]);
        let offset = offset.wrapping_add((column as isize).wrapping_mul(self.strides[1]));
        let place = match self.place {
            Place::Stored(to) => Place::Stored(to.wrapping_offset(offset)),
            Place::Sums(to) => Place::Sums(to.wrapping_offset(offset)),
            Place::Added(to) => Place::Added(to.wrapping_offset(offset)),
        };
        Sink { place, ..self }
    }

    /// The same, with what follows added to what is there by then.
    pub(crate) fn adding(self) -> Self {
        let place = if let Place::Sums(to) = self.place { Place::Added(to) } else { self.place };
        Sink { place, ..self }
    }

    /// The first element, if sums can be formed in place, which `columns` contiguous ones of each row can.
    pub(crate) fn direct(&self, columns: usize) -> Option<*mut T::Acc> {
        if self.strides[1] != 1 || self.strides[0] < columns as isize {
            return None;
        }
        match self.place {
            Place::Stored(to) if T::IN_PLACE => Some(to.cast()),
            Place::Sums(to) => Some(to),
            _ => None,
        }
    }

    /// A row of results, from the first column on.
    ///
    /// # Safety
    ///
    /// The matrix has the row and its columns, and no other thread writes them.
    pub(crate) unsafe fn write_row(&self, row: usize, from: &[T::Acc]) {
        let column = self.strides[1];
        // SAFETY: the caller's contract.
        unsafe {
            match self.at(row, 0).place {
                Place::Stored(to) if column == 1 => T::narrow(from, std::slice::from_raw_parts_mut(to, from.len())),
                Place::Stored(to) => {
                    for (c, &sum) in from.iter().enumerate() {
                        *to.wrapping_offset((c as isize).wrapping_mul(column)) = T::from_acc(sum);
                    }
                }
                Place::Sums(to) => {
                    for (c, &sum) in from.iter().enumerate() {
                        *to.wrapping_offset((c as isize).wrapping_mul(column)) = sum;
                    }
                }
                Place::Added(to) => {
                    for (c, &sum) in from.iter().enumerate() {
                        *to.wrapping_offset((c as isize).wrapping_mul(column)) += sum;
                    }
                }
            }
        }
    }
}

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
                // SAFETY: within the panel.
                unsafe { std::slice::from_raw_parts_mut(self.sums_of(tile, k), tile.width) }.fill(bias);
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
                    from: from.host_ptr().wrapping_offset(offset),
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

    /// sums += those of another block of the same size.
    ///
    /// # Safety
    ///
    /// Both are complete, and no other thread uses them.
    pub(crate) unsafe fn add(&self, other: *const T::Acc) {
        let panels = self.panels(self.sums, self.k.1);
        for tile in self.tiles() {
            let len = tile.width * self.k.1;
            // SAFETY: a tile's panel is so long; the caller's contract.
            unsafe {
                let other = std::slice::from_raw_parts(other.add(tile.index * panels.distance), len);
                add_into(std::slice::from_raw_parts_mut(panels.at(tile), len), other);
            }
        }
    }

    /// The sums, written to the whole y.
    ///
    /// # Safety
    ///
    /// y has these rows and outputs, and no other thread writes them.
    pub(crate) unsafe fn write(&self, y: Sink<T>) {
        for tile in self.tiles() {
            let to = y.at(self.n.0 + tile.index * self.table.mr, self.k.0);
            let (from, [row_stride, column_stride]) = (self.sums_of(tile, 0), to.strides);
            let (width, rows, columns) = (tile.width, tile.rows, self.k.1);
            // SAFETY: the panel holds all of these rows and outputs; the rest is the caller's contract.
            unsafe {
                match to.place {
                    Place::Stored(to) => (self.table.unpack)(&Unpack {
                        from,
                        width,
                        rows,
                        columns,
                        to,
                        row_stride,
                        column_stride,
                        add: false,
                    }),
                    Place::Sums(first) | Place::Added(first) => (self.table.arithmetic.unpack)(&Unpack {
                        from,
                        width,
                        rows,
                        columns,
                        to: first,
                        row_stride,
                        column_stride,
                        add: matches!(to.place, Place::Added(_)),
                    }),
                }
            }
        }
    }
}
