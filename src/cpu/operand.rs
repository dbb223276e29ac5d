//! Weights as the kernels want them: rows of contiguous accumulators, in place where they are that already.

use super::kernels::{Widened, gather};
use super::simd::Kernels;
use super::table::Table;
use crate::View;

/// A 3-tensor of weights [K, I, J] (a matrix is one with K = 1), as stored or from a prepared copy in the accumulator's type.
#[derive(Clone, Copy)]
pub(crate) enum Cube<'a, T: Kernels> {
    Stored(View<'a, T, 3>),
    Widened(View<'a, T::Acc, 3>),
}

/// Where staged weights are: pointer, distance between outputs, distance between rows.
pub(crate) type Staged<A> = (*const A, isize, isize);

/// Part of an axis: where it starts, how long it is.
pub(crate) type Part = (usize, usize);

impl<'a, T: Kernels> Cube<'a, T> {
    /// A matrix of rows as the rows of one output.
    pub(crate) fn matrix(rows: View<'a, T, 2>) -> Self {
        let ([r, c], [sr, sc]) = (rows.shape(), rows.strides());
        // SAFETY: an axis of length 1 and stride 0 reaches no other element.
        Cube::Stored(unsafe { View::from_raw_parts(rows.host_ptr(), [1, r, c], [0, sr, sc]) })
    }

    pub(crate) fn shape(&self) -> [usize; 3] {
        match self {
            Cube::Stored(view) => view.shape(),
            Cube::Widened(view) => view.shape(),
        }
    }

    pub(crate) fn strides(&self) -> [isize; 3] {
        match self {
            Cube::Stored(view) => view.strides(),
            Cube::Widened(view) => view.strides(),
        }
    }

    /// z and x exchanged.
    pub(crate) fn swap(self) -> Self {
        // [0, 2, 1] is a permutation, so neither fails.
        match self {
            Cube::Stored(view) => Cube::Stored(view.permute([0, 2, 1]).unwrap_or(view)),
            Cube::Widened(view) => Cube::Widened(view.permute([0, 2, 1]).unwrap_or(view)),
        }
    }

    /// The axes in another order, which is a permutation.
    pub(crate) fn permute(self, order: [usize; 3]) -> Self {
        match self {
            Cube::Stored(view) => Cube::Stored(view.permute(order).unwrap_or(view)),
            Cube::Widened(view) => Cube::Widened(view.permute(order).unwrap_or(view)),
        }
    }

    /// Where an element is, if it is one of accumulators; else an address that is not to be read.
    pub(crate) fn at(&self, index: [usize; 3]) -> *const T::Acc {
        let strides = self.strides();
        let offset =
            (0..3).fold(0isize, |sum, axis| sum.wrapping_add((index[axis] as isize).wrapping_mul(strides[axis])));
        match self {
            Cube::Stored(view) => view.host_ptr().wrapping_offset(offset).cast(),
            Cube::Widened(view) => view.host_ptr().wrapping_offset(offset),
        }
    }

    /// Bytes of an element.
    pub(crate) fn element(&self) -> usize {
        if matches!(self, Cube::Widened(_)) { size_of::<T::Acc>() } else { size_of::<T>() }
    }

    /// Whether rows can be read in place.
    pub(crate) fn in_place(&self) -> bool {
        let unit = self.strides()[2] == 1 || self.shape()[2] <= 1;
        unit && (T::IN_PLACE || matches!(self, Cube::Widened(_)))
    }

    /// The block k × i × j as rows (k, i) of contiguous j: in place, or copied to `buffer` with rows `ld` apart.
    ///
    /// # Safety
    ///
    /// The block within the shape; `buffer` with room for k·i·`ld`.
    pub(crate) unsafe fn stage(
        &self,
        table: &Table<T>,
        [k, i, j]: [Part; 3],
        buffer: *mut T::Acc,
        ld: usize,
    ) -> Staged<T::Acc> {
        let [sk, si, sj] = self.strides();
        let offset = (k.0 as isize).wrapping_mul(sk).wrapping_add(i.0 as isize * si).wrapping_add(j.0 as isize * sj);
        // SAFETY: the caller's contract.
        unsafe {
            match *self {
                Cube::Widened(view) if self.in_place() => (view.host_ptr().wrapping_offset(offset), sk, si),
                Cube::Stored(view) if self.in_place() => {
                    (view.host_ptr().cast::<T::Acc>().wrapping_offset(offset), sk, si)
                }
                _ => {
                    self.copy(table, [k, i, j], buffer, i.1 * ld, ld);
                    (buffer, (i.1 * ld) as isize, ld as isize)
                }
            }
        }
    }

    /// The block copied to `buffer`, outputs `out_ld` and rows `ld` apart.
    ///
    /// # Safety
    ///
    /// The block within the shape; `buffer` with room for it.
    pub(crate) unsafe fn copy(
        &self,
        table: &Table<T>,
        [k, i, j]: [Part; 3],
        buffer: *mut T::Acc,
        out_ld: usize,
        ld: usize,
    ) {
        let [sk, si, sj] = self.strides();
        let offset = (k.0 as isize).wrapping_mul(sk).wrapping_add(i.0 as isize * si).wrapping_add(j.0 as isize * sj);
        let (strides, shape) = ([sk, si, sj], [k.1, i.1, j.1]);
        // SAFETY: the caller's contract.
        unsafe {
            match *self {
                Cube::Stored(view) if sj == 1 => {
                    for k in 0..k.1 {
                        (table.widen)(&Widened {
                            from: view.host_ptr().wrapping_offset(offset + k as isize * sk),
                            row_stride: si,
                            rows: i.1,
                            columns: j.1,
                            to: buffer.add(k * out_ld),
                            to_stride: ld,
                        });
                    }
                }
                Cube::Stored(view) => {
                    gather_cube(
                        view.host_ptr().wrapping_offset(offset),
                        strides,
                        shape,
                        buffer,
                        [out_ld, ld],
                        T::to_acc,
                    );
                }
                Cube::Widened(view) if sj == 1 => {
                    for k in 0..k.1 {
                        for i in 0..i.1 {
                            let row = view.host_ptr().wrapping_offset(offset + k as isize * sk + i as isize * si);
                            std::ptr::copy_nonoverlapping(row, buffer.add(k * out_ld + i * ld), j.1);
                        }
                    }
                }
                Cube::Widened(view) => {
                    gather_cube(view.host_ptr().wrapping_offset(offset), strides, shape, buffer, [out_ld, ld], |v| v);
                }
            }
        }
    }
}

/// By matrices over the two axes of the smallest strides.
unsafe fn gather_cube<T: Copy, A>(
    from: *const T,
    [sk, si, sj]: [isize; 3],
    [k, i, j]: [usize; 3],
    to: *mut A,
    [out_ld, ld]: [usize; 2],
    convert: impl Fn(T) -> A + Copy,
) {
    // SAFETY: the contract of `copy`.
    unsafe {
        if sk.unsigned_abs() < si.unsigned_abs() {
            for row in 0..i {
                gather(from.wrapping_offset(row as isize * si), (sk, sj), (k, j), to.add(row * ld), out_ld, convert);
            }
        } else {
            for out in 0..k {
                gather(from.wrapping_offset(out as isize * sk), (si, sj), (i, j), to.add(out * out_ld), ld, convert);
            }
        }
    }
}
