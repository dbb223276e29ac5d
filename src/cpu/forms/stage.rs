//! Rows in scratch: copied there, multiplied with factors, and written to where they go.
//!
//! Scratch rows are whole vectors, `ld` apart.

use crate::View;
use crate::cpu::cache::parts;
use crate::cpu::gradient::jobs::{Array, Call, ROWS};
use crate::cpu::kernels::{Epilogue, add_into};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::output::{Place, Sink};
use crate::cpu::product::{Block, Lanes, Target};
use crate::cpu::simd::Kernels;
use crate::cpu::small::copy_rows;
use crate::{Element, Result};

/// Distance between scratch rows of so many elements: a line more than these, so that rows do not share their cache sets.
pub(super) fn ld(len: usize) -> usize {
    len.saturating_add(31) / 16 * 16
}

/// Scratch rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<A> {
    pub(super) first: Array<A>,
    pub(super) ld: usize,
}

impl<A: Copy> Rows<A> {
    pub(super) fn new(first: *mut A, ld: usize) -> Self {
        Rows { first: Array(Target::scratch(first, ld)), ld }
    }

    pub(super) fn row(&self, row: usize) -> *mut A {
        self.first.at(row, 0).first
    }

    /// From a row on.
    pub(super) fn from(self, row: usize) -> Self {
        Rows { first: Array(self.first.at(row, 0)), ..self }
    }

    /// Its first rows and columns.
    ///
    /// # Safety
    ///
    /// They are within the scratch, and initialised; nothing writes them while the view is used.
    pub(super) unsafe fn view<'a>(&self, [rows, columns]: [usize; 2]) -> View<'a, A, 2> {
        // SAFETY: the caller's contract.
        unsafe { View::from_raw_parts(self.row(0).cast_const(), [rows, columns], [self.ld as isize, 1]) }
    }

    /// The same as groups of rows, or the rows of one for all groups.
    ///
    /// # Safety
    ///
    /// As [`view`](Self::view).
    pub(super) unsafe fn groups<'a>(&self, [groups, rows, columns]: [usize; 3], one: bool) -> View<'a, A, 3> {
        let ld = self.ld as isize;
        let group = if one { 0 } else { rows as isize * ld };
        // SAFETY: the caller's contract.
        unsafe { View::from_raw_parts(self.row(0).cast_const(), [groups, rows, columns], [group, ld, 1]) }
    }
}

/// Sums as what is stored, where that is one type.
pub(super) fn as_stored<'a, T: Element, const D: usize>(view: View<'a, T::Accumulator, D>) -> Option<View<'a, T, D>> {
    // SAFETY: the same type, by the meaning of `IN_PLACE`.
    T::IN_PLACE.then(|| unsafe { View::from_raw_parts(view.host_ptr().cast(), view.shape(), view.strides()) })
}

/// The type of sums, where it is the storage type.
pub(super) fn as_sums<'a, T: Element, const D: usize>(view: View<'a, T, D>) -> Option<View<'a, T::Accumulator, D>> {
    // SAFETY: the same type, by the meaning of `IN_PLACE`.
    T::IN_PLACE.then(|| unsafe { View::from_raw_parts(view.host_ptr().cast(), view.shape(), view.strides()) })
}

/// Calls `task` with parts of the rows.
pub(super) fn by_rows<T: Kernels>(call: &Call<T>, rows: usize, task: impl Fn(Part) + Sync) -> Result<()> {
    let (count, size) = (rows.div_ceil(ROWS), ROWS);
    crate::cpu::parallel::run(call.threads, count, |index| {
        task((index * size, size.min(rows - index * size)));
        Ok(())
    })
}

/// Rows copied to scratch.
///
/// # Safety
///
/// There is room for them.
pub(super) unsafe fn copy<T: Kernels>(call: &Call<T>, from: View<'_, T, 2>, to: Rows<T::Acc>) -> Result<()> {
    by_rows(call, from.shape()[0], |part| {
        // SAFETY: the caller's contract; no other task has these rows.
        unsafe { copy_rows(call.table, from.slice_rows(part), to.row(part.0), to.ld) }
    })
}

/// `to` ←/+ rows · lanes. The rows are one output of a cube: as they are stored, or sums.
///
/// # Safety
///
/// The lanes have the depth of the rows, and `to` the rows and their columns.
pub(super) unsafe fn multiply<T: Kernels>(
    call: &Call<T>,
    rows: Cube<'_, T>,
    lanes: View<'_, T, 2>,
    to: Target<T::Acc>,
    add: bool,
) -> Result<()> {
    let ([_, n, _], lanes, to) = (rows.shape(), Lanes::matrix(lanes), Array(to));
    let grid = call.grid(n, lanes.view.shape()[1]);
    call.tasks(grid.tasks(), |product, index| {
        let (n, columns) = grid.at(index);
        let part = match rows {
            Cube::Stored(view) => view.slice(1, n.0..n.0 + n.1).map(Cube::Stored),
            Cube::Widened(view) => view.slice(1, n.0..n.0 + n.1).map(Cube::Widened),
        };
        let Ok(part) = part else { return }; // rows of the grid are rows of the view
        let epilogue = if add { Epilogue::Add } else { Epilogue::Set };
        // SAFETY: the caller's contract; no other task has these rows and columns.
        unsafe { product.run(part, lanes, Block { rows: n.1, over: 0, columns }, to.at(n.0, columns.0), epilogue) };
    })
}

/// Scratch rows as what [`multiply`] takes.
///
/// # Safety
///
/// As [`Rows::view`].
pub(super) unsafe fn cube<'a, T: Kernels>(rows: Rows<T::Acc>, shape: [usize; 2]) -> Cube<'a, T> {
    // SAFETY: the caller's contract.
    let view = unsafe { rows.view(shape) };
    Cube::Widened(view.as_output())
}

/// `to` ←/+ rows · factor, or the rows themselves without a factor. `room` is scratch for as many rows of results, of storage types
/// whose sums have another.
///
/// # Safety
///
/// The rows have the depth of the factor; `to` has their number and its columns, as has `room`.
pub(super) unsafe fn deliver<T: Kernels>(
    call: &Call<T>,
    (rows, shape): (Rows<T::Acc>, [usize; 2]),
    factor: Option<View<'_, T, 2>>,
    to: Sink<T>,
    room: Rows<T::Acc>,
) -> Result<()> {
    // SAFETY: the caller's contract, here and below.
    unsafe {
        let Some(factor) = factor else { return write(call, (rows, shape), to) };
        let (first, add) = match to.place {
            Place::Sums(first) => (first, false),
            Place::Added(first) => (first, true),
            Place::Stored(first) if T::IN_PLACE => (first.cast(), false),
            Place::Stored(_) => {
                multiply(call, cube(rows, shape), factor, room.first.at(0, 0), false)?;
                return write(call, (room, [shape[0], factor.shape()[1]]), to);
            }
        };
        let [row_stride, column_stride] = to.strides;
        multiply(call, cube(rows, shape), factor, Target { first, row_stride, column_stride, padded: false }, add)
    }
}

/// Scratch rows to where they go.
///
/// # Safety
///
/// `to` has these rows and columns.
pub(super) unsafe fn write<T: Kernels>(
    call: &Call<T>,
    (rows, [count, columns]): (Rows<T::Acc>, [usize; 2]),
    to: Sink<T>,
) -> Result<()> {
    let to = &to;
    by_rows(call, count, |part| {
        for n in part.0..part.0 + part.1 {
            // SAFETY: the caller's contract; no other task has these rows.
            unsafe {
                let from = std::slice::from_raw_parts(rows.row(n).cast_const(), columns);
                match to.at(n, 0).place {
                    Place::Added(to_row) if to.strides[1] == 1 => {
                        add_into(std::slice::from_raw_parts_mut(to_row, columns), from);
                    }
                    Place::Sums(to_row) if to.strides[1] == 1 => {
                        std::ptr::copy_nonoverlapping(from.as_ptr(), to_row, columns);
                    }
                    _ => to.write_row(n, from),
                }
            }
        }
    })
}

/// Each row's first element in the place of all of them.
///
/// # Safety
///
/// There is room.
pub(super) unsafe fn spread<T: Kernels>(rows: Rows<T::Acc>, count: usize, columns: usize) {
    for n in 0..count {
        // SAFETY: the caller's contract.
        unsafe {
            let first = *rows.row(n);
            std::slice::from_raw_parts_mut(rows.row(n), columns).fill(first);
        }
    }
}

/// Each row's sum in the place of its first element.
///
/// # Safety
///
/// There are so many.
pub(super) unsafe fn fold<T: Kernels>(rows: Rows<T::Acc>, count: usize, columns: usize) {
    const LANES: usize = 16;
    for n in 0..count {
        // SAFETY: the caller's contract.
        let row = unsafe { std::slice::from_raw_parts_mut(rows.row(n), columns) };
        let mut lanes = [T::Acc::default(); LANES];
        for (start, len) in parts(columns, LANES, LANES) {
            for (lane, &value) in lanes.iter_mut().zip(&row[start..start + len]) {
                *lane += value;
            }
        }
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                let other = lanes[lane + width];
                lanes[lane] += other;
            }
        }
        row[0] = lanes[0];
    }
}

/// The sums of the parts' rows, in order, added to a vector.
///
/// # Safety
///
/// There are so many parts and columns; the vector has these elements.
pub(super) unsafe fn add_parts<T: Kernels>(
    rows: Rows<T::Acc>,
    parts: usize,
    columns: usize,
    (first, stride): (*mut T::Acc, isize),
) {
    for column in 0..columns {
        // SAFETY: the caller's contract.
        unsafe {
            let of_parts = (0..parts).map(|part| *rows.row(part).add(column));
            *first.wrapping_offset((column as isize).wrapping_mul(stride)) +=
                of_parts.fold(T::Acc::default(), |sum, part| sum + part);
        }
    }
}

/// a·b, where the compiler does not see that T's accumulator has arithmetic.
#[inline(always)]
pub(super) fn times<T: Kernels>(a: T::Acc, b: T::Acc) -> T::Acc {
    a * b
}

/// a − b, likewise.
#[inline(always)]
pub(super) fn minus<T: Kernels>(a: T::Acc, b: T::Acc) -> T::Acc {
    a - b
}
