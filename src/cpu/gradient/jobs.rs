//! The two kinds of products that the gradients of factors consist of, and how they are shared among threads:
//!
//! ```text
//!   Input    to[n][i] ←/+ Σ_r rows[n][r] · F[i][r]  (+ Σ_k g[n][k] · U[k][i])     rows n in scratch, in place; lanes over i
//!   Factor   to[i][r] ←/+ Σ_n z[n][i] · lanes[n][r]                               depth n: z read across, lanes in scratch
//!
//!   loop 3   blocks of rows × blocks of columns of the destination: the tasks of the threads
//!   loop 2     depth by KC                              loop 1   strips of MR columns       microkernel   tiles of NR rows
//! ```

use crate::cpu::cache::{part, parts};
use crate::cpu::kernels::{Epilogue, Fetch, Gemm, add_into};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::output::{Place, Sink};
use crate::cpu::parallel;
use crate::cpu::product::{Block, Lanes, Product, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::small::copy_rows;
use crate::cpu::table::Table;
use crate::wanted::Gradient;
use crate::{Result, View, ViewMut};

/// Rows of a task, a multiple of every level's NR: as in the forward pass, packing a strip for them costs 1%.
pub(in crate::cpu) const ROWS: usize = 192;

/// A destination of up to three axes: its first element, strides, and whether it is added to.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct To<A> {
    first: *mut A,
    strides: [isize; 3],
    pub(in crate::cpu) add: bool,
}

// SAFETY: tasks write disjoint elements, as each use says.
unsafe impl<A: Send> Send for To<A> {}
// SAFETY: as above.
unsafe impl<A: Send> Sync for To<A> {}

impl<A> To<A> {
    pub(in crate::cpu) fn vector(gradient: Gradient<'_, A, 1>) -> Self {
        let Gradient { mut to, add } = gradient;
        To { first: to.host_mut_ptr(), strides: [to.strides()[0], 0, 0], add }
    }

    pub(in crate::cpu) fn matrix(gradient: Gradient<'_, A, 2>) -> Self {
        let Gradient { mut to, add } = gradient;
        let [row, column] = to.strides();
        To { first: to.host_mut_ptr(), strides: [row, row, column], add }
    }

    pub(in crate::cpu) fn batch(gradient: Gradient<'_, A, 3>) -> Self {
        let Gradient { mut to, add } = gradient;
        To { first: to.host_mut_ptr(), strides: to.strides(), add }
    }

    /// Whether the rows of all groups are evenly spaced.
    pub(in crate::cpu) fn flat(&self, each: usize) -> bool {
        self.strides[0] == self.strides[1].wrapping_mul(each as isize)
    }

    /// Rows from the m-th of a group on, of groups with so many.
    pub(in crate::cpu) fn rows(&self, group: usize, m: usize, each: usize) -> Target<A> {
        let [sg, sm, column_stride] = self.strides;
        let offset = (group as isize).wrapping_mul(sg).wrapping_add((m as isize).wrapping_mul(sm));
        let row_stride = if each == 1 { sg } else { sm };
        Target { first: self.first.wrapping_offset(offset), row_stride, column_stride, padded: false }
    }

    pub(in crate::cpu) fn column_stride(&self) -> isize {
        self.strides[2]
    }

    /// A matrix as the gradient that it is of.
    ///
    /// # Safety
    ///
    /// It has this shape, and nothing else uses it meanwhile.
    pub(in crate::cpu) unsafe fn gradient<'a>(&self, shape: [usize; 2]) -> Result<Gradient<'a, A, 2>> {
        let [row, _, column] = self.strides;
        // SAFETY: the caller's contract.
        let to = unsafe { ViewMut::from_raw_parts(self.first, shape, [row, column])? };
        Ok(Gradient { to, add: self.add })
    }

    /// Rows of groups, in the same way.
    ///
    /// # Safety
    ///
    /// As [`gradient`](Self::gradient).
    pub(in crate::cpu) unsafe fn gradients<'a>(&self, shape: [usize; 3]) -> Result<Gradient<'a, A, 3>> {
        // SAFETY: the caller's contract.
        let to = unsafe { ViewMut::from_raw_parts(self.first, shape, self.strides)? };
        Ok(Gradient { to, add: self.add })
    }

    /// A matrix as what rows of results are written to.
    pub(in crate::cpu) fn sink<T: Kernels<Acc = A>>(&self) -> Sink<T> {
        let place = if self.add { Place::Added(self.first) } else { Place::Sums(self.first) };
        Sink { place, strides: [self.strides[0], self.strides[2]] }
    }

    /// An element of a vector.
    pub(in crate::cpu) fn element(&self, index: usize) -> *mut A {
        self.first.wrapping_offset((index as isize).wrapping_mul(self.strides[0]))
    }
}

/// Rows of scratch that tasks share.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Array<A>(pub(in crate::cpu) Target<A>);

// SAFETY: tasks write disjoint elements, as each use says.
unsafe impl<A: Send> Send for Array<A> {}
// SAFETY: as above.
unsafe impl<A: Send> Sync for Array<A> {}

impl<A: Copy> Array<A> {
    pub(in crate::cpu) fn at(&self, row: usize, column: usize) -> Target<A> {
        self.0.offset(row, column)
    }
}

/// rows · lanes, and of the linear term g · U.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Term<'a, T: Kernels> {
    pub(in crate::cpu) rows: Array<T::Acc>,
    pub(in crate::cpu) lanes: Lanes<'a, T>,
    pub(in crate::cpu) linear: Option<[View<'a, T, 2>; 2]>,
}

/// A product, for the components `r`.
#[allow(clippy::large_enum_variant, reason = "a few on the stack for each call")]
pub(in crate::cpu) enum Job<'a, T: Kernels> {
    Input {
        to: Target<T::Acc>,
        add: bool,
        terms: [Option<Term<'a, T>>; 2],
        rows: usize,
        columns: usize,
        r: Part,
    },
    Factor {
        to: Target<T::Acc>,
        add: bool,
        input: View<'a, T, 2>,
        lanes: Array<T::Acc>,
        r: Part,
    },
    /// to\[i\]\[r\] ←/+ Σ_g lanes\[g·I + i\]\[r\]: so many rows in all, and for each g.
    Sum {
        to: Target<T::Acc>,
        add: bool,
        lanes: Array<T::Acc>,
        rows: (usize, usize),
        r: Part,
    },
}

// SAFETY: tasks write disjoint parts of the destinations, and only read the rest.
unsafe impl<T: Kernels> Sync for Job<'_, T> {}

/// How a destination is cut into tasks: its rows and columns, and those of each.
#[derive(Clone, Copy, Default)]
pub(in crate::cpu) struct Grid {
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl Grid {
    pub(in crate::cpu) fn tasks(&self) -> usize {
        self.rows.div_ceil(self.row.max(1)) * self.columns.div_ceil(self.column.max(1))
    }

    pub(in crate::cpu) fn at(&self, index: usize) -> (Part, Part) {
        let cuts = self.columns.div_ceil(self.column);
        let (row, column) = (index / cuts * self.row, index % cuts * self.column);
        ((row, self.row.min(self.rows - row)), (column, self.column.min(self.columns - column)))
    }
}

/// What all tasks of a call have in common.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Call<T: Kernels> {
    pub(in crate::cpu) table: &'static Table<T>,
    pub(in crate::cpu) kc: usize,
    /// Whether the batch has few rows.
    pub(in crate::cpu) few: bool,
    pub(in crate::cpu) threads: usize,
}

impl<T: Kernels> Call<T> {
    /// Runs so many tasks of at most [`ROWS`] rows.
    pub(in crate::cpu) fn tasks(&self, count: usize, task: impl Fn(&Product<T>, usize) + Sync) -> Result<()> {
        let Call { table, kc, few, threads } = *self;
        let lengths = [kc * table.mr, ROWS * table.mr, (ROWS * (kc + 16)).max(kc * (ROWS + 16))];
        parallel::run(threads, count, |index| {
            scratch::with(lengths, |[strip, tile, staged]| {
                task(&Product { table, kc, few, strip, tile, staged }, index);
                Ok(())
            })
        })
    }

    pub(in crate::cpu) fn grid(&self, rows: usize, columns: usize) -> Grid {
        let Table { nr, mr, .. } = *self.table;
        let (mut row, mut column) = (part(rows, ROWS, nr).max(1), columns.max(1));
        let wanted = if self.threads > 1 { 4 * self.threads } else { 1 };
        let have = rows.div_ceil(row).max(1);
        if have < wanted {
            column = part(columns, columns.div_ceil(wanted.div_ceil(have)), mr).max(1);
            let cuts = columns.div_ceil(column).max(1);
            row = part(rows, row.min(rows.div_ceil(wanted.div_ceil(cuts)).max(2 * nr)), nr).max(1);
        }
        Grid { rows, columns, row, column }
    }

    /// `to` of so many rows and columns as `term` alone, as a phase of its own.
    ///
    /// # Safety
    ///
    /// As [`Product::run`].
    pub(in crate::cpu) unsafe fn project(
        &self,
        rows: View<'_, T, 2>,
        lanes: Lanes<'_, T>,
        r: Part,
        to: Array<T::Acc>,
    ) -> Result<()> {
        let grid = self.grid(rows.shape()[0], r.1);
        self.tasks(grid.tasks(), |product, index| {
            let (n, columns) = grid.at(index);
            let block = Block { rows: n.1, over: 0, columns: (r.0 + columns.0, columns.1) };
            let from = Cube::matrix(rows.slice_rows(n));
            // SAFETY: the caller's contract; no other task has these rows and columns.
            unsafe { product.run(from, lanes, block, to.at(n.0, columns.0), Epilogue::Set) };
        })
    }

    /// All of the products.
    ///
    /// # Safety
    ///
    /// All shapes agree with the destinations, which are disjoint.
    pub(in crate::cpu) unsafe fn jobs<const N: usize>(&self, jobs: &[Option<Job<'_, T>>; N]) -> Result<()> {
        let mut grids = [Grid::default(); N];
        for (grid, job) in grids.iter_mut().zip(jobs) {
            *grid = match job {
                Some(Job::Input { rows, columns, .. }) => self.grid(*rows, *columns),
                Some(Job::Factor { input, r, .. }) => self.grid(input.shape()[1], r.1),
                Some(Job::Sum { rows, r, .. }) => self.grid(rows.1, r.1),
                None => *grid,
            };
        }
        let total = grids.iter().map(Grid::tasks).sum();
        self.tasks(total, |product, index| {
            let mut index = index;
            for (grid, job) in grids.iter().zip(jobs) {
                let tasks = grid.tasks();
                if index >= tasks {
                    index -= tasks;
                    continue;
                }
                let (rows, columns) = grid.at(index);
                if let Some(job) = job {
                    // SAFETY: the caller's contract; no other task has these rows and columns.
                    unsafe { job.run(product, rows, columns) };
                }
                return;
            }
        })
    }
}

impl<T: Kernels> Job<'_, T> {
    unsafe fn run(&self, product: &Product<T>, rows: Part, columns: Part) {
        let of = |add: bool| if add { Epilogue::Add } else { Epilogue::Set };
        // SAFETY: see `Call::jobs`, here and in all that it calls.
        unsafe {
            match self {
                Job::Input { to, add, terms, r, .. } => {
                    let to = to.offset(rows.0, columns.0);
                    let mut epilogue = of(*add || r.0 > 0);
                    for term in terms.iter().flatten() {
                        let from = term.rows.at(rows.0, 0);
                        let from =
                            View::from_raw_parts(from.first.cast_const(), [1, rows.1, r.1], [0, from.row_stride, 1]);
                        let block = Block { rows: rows.1, over: r.0, columns };
                        product.run(Cube::Widened(from), term.lanes, block, to, epilogue);
                        epilogue = Epilogue::Add;
                        let Some([g, weights]) = term.linear.filter(|_| r.0 == 0) else { continue };
                        let g = Cube::matrix(g.slice_rows(rows));
                        let block = Block { over: 0, ..block };
                        product.run(g, Lanes::matrix(weights), block, to, epilogue);
                    }
                }
                Job::Factor { to, add, input, lanes, r } => {
                    factor(product, *input, rows, (*lanes, columns), to.offset(rows.0, r.0 + columns.0), of(*add));
                }
                Job::Sum { to, add, lanes, rows: (total, each), r } => {
                    for row in rows.0..rows.0 + rows.1 {
                        // In the tile, as many columns as it has room for, and then to where they go.
                        for part in parts(columns.1, ROWS * product.table.mr, 1) {
                            let sums = std::slice::from_raw_parts_mut(product.tile, part.1);
                            sums.fill(T::Acc::default());
                            for row in (row..*total).step_by(*each) {
                                let from = lanes.at(row, columns.0 + part.0).first.cast_const();
                                add_into(sums, std::slice::from_raw_parts(from, part.1));
                            }
                            for (column, &sum) in sums.iter().enumerate() {
                                let to = to.offset(row, r.0 + columns.0 + part.0 + column).first;
                                *to = if *add { *to + sum } else { sum };
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Columns `i` of the input times the columns of the lanes, over all rows of both.
pub(in crate::cpu) unsafe fn factor<T: Kernels>(
    product: &Product<T>,
    input: View<'_, T, 2>,
    i: Part,
    (lanes, columns): (Array<T::Acc>, Part),
    to: Target<T::Acc>,
    mut epilogue: Epilogue,
) {
    let table = product.table;
    for n in parts(input.shape()[0], product.kc, table.lanes) {
        // SAFETY: see `Call::jobs`.
        unsafe {
            let (b, b_step) = across(table, input, n, i, product.staged);
            for column in (0..columns.1).step_by(table.mr) {
                let lanes = lanes.at(n.0, columns.0 + column);
                let left = columns.1 - column;
                let gemm = Gemm {
                    a: lanes.first.cast_const(),
                    a_stride: lanes.row_stride,
                    vectors: left.min(table.mr).div_ceil(table.lanes),
                    b,
                    b_stride: 1,
                    b_step,
                    rows: i.1,
                    depth: n.1,
                    out: std::ptr::null_mut(),
                    out_stride: 0,
                    epilogue: Epilogue::Set,
                    fetch: if column == 0 { Fetch::Rows } else { Fetch::Nothing },
                };
                product.store(&gemm, left, to.offset(0, column), epilogue);
            }
        }
        epilogue = Epilogue::Add;
    }
}

/// Rows n of some columns as accumulators, and the distance of the rows: in place, or copied.
pub(in crate::cpu) unsafe fn across<T: Kernels>(
    table: &Table<T>,
    input: View<'_, T, 2>,
    n: Part,
    columns: Part,
    staged: *mut T::Acc,
) -> (*const T::Acc, isize) {
    let [sn, sc] = input.strides();
    let offset = (n.0 as isize).wrapping_mul(sn).wrapping_add((columns.0 as isize).wrapping_mul(sc));
    let from = input.host_ptr().wrapping_offset(offset);
    if T::IN_PLACE && sc == 1 {
        return (from.cast(), sn);
    }
    let pitch = columns.1 + 16;
    // SAFETY: rows and columns are within the input; room for KC rows.
    unsafe { copy_rows(table, View::from_raw_parts(from, [n.1, columns.1], [sn, sc]), staged, pitch) };
    (staged.cast_const(), pitch as isize)
}
