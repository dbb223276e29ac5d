//! Squared distances under a metric, and attention: what is computed of D = z − x or of y before it is written, by blocks of rows
//! that stay in cache.
//!
//! ```text
//!   full P       F = D Pᵀ         y[n] = Σ_i D[n][i] F[n][i]     dD = g (F + D P)     dP = Σ_n g D⊗D
//!   factor L     E = D L          y[n] = Σ_r E[n][r]²            dD = 2g E Lᵀ         dL = Σ_n 2g D⊗E
//!   diagonal p   F = p⊙D          y[n] = Σ_i D[n][i] F[n][i]     dD = 2g F            dp = Σ_n g D⊙D
//!   dz = dD, dx = −dD
//! ```

use super::stage::{Rows, add_parts, by_rows, cube, ld, minus, multiply, times};
use crate::cpu::cache::{caches, parts};
use crate::cpu::gradient::jobs::{Call, To};
use crate::cpu::gradient::weights::Weights;
use crate::cpu::operand::Part;
use crate::cpu::product::IN_PLACE_ROWS;
use crate::cpu::simd::Kernels;
use crate::cpu::small::copy_rows;
use crate::cpu::{fill_zero, parallel, scratch};
use crate::metric::{Precision, WantedMetric};
use crate::wanted::Gradient;
use crate::{Context, Element, Result, View, ViewMut};

/// Bytes of the differences of a block of rows.
const BLOCK_BYTES: usize = 512 << 10;

/// Operands: z and x [N, I], neither axis of which is empty.
pub(crate) struct Distances<'a, T> {
    pub(crate) context: Context,
    pub(crate) precision: Precision<'a, T>,
    pub(crate) z: View<'a, T, 2>,
    pub(crate) x: View<'a, T, 2>,
}

/// Scratch of a block of rows.
#[derive(Clone, Copy)]
struct Arrays<A> {
    /// D; F or E; dD.
    d: Rows<A>,
    f: Rows<A>,
    of_d: Rows<A>,
    /// p, one row; rows of x on their way to D.
    p: *mut A,
    x: Rows<A>,
}

impl<T: Element> Distances<'_, T> {
    fn columns(&self) -> [usize; 2] {
        let i = self.z.shape()[1];
        [i, if let Precision::Factor(factor) = self.precision { factor.shape()[1] } else { i }]
    }

    fn call(&self) -> Call<T> {
        let table = T::table(self.context.capability());
        let ([n, i], [_, r]) = (self.z.shape(), self.columns());
        let flops =
            if let Precision::Diagonal(_) = self.precision { 4.0 * i as f64 } else { 2.0 * i as f64 * r as f64 };
        let threads = parallel::threads(&self.context, n as f64 * flops);
        Call { table, kc: caches().kc(table), few: n <= IN_PLACE_ROWS, threads }
    }

    /// Calls `with` with each block of rows, once D and F or E are there.
    fn each(&self, back: bool, mut with: impl FnMut(&Call<T>, Part, Arrays<T::Acc>) -> Result<()>) -> Result<()> {
        let (call, [n, _], [i, r]) = (self.call(), self.z.shape(), self.columns());
        let (ld_d, ld_f) = (ld(i), ld(r));
        let rows = (BLOCK_BYTES / size_of::<T::Acc>() / ld_d.max(ld_f)).clamp(16, 1024).min(n);
        let of_d = if back { rows * ld_d } else { 0 };
        let lengths = [rows * ld_d, rows * ld_f, of_d, rows * ld_d, ld_d];
        scratch::with(lengths, |[d, f, of_d, x, p]: [*mut T::Acc; 5]| {
            let arrays = Arrays {
                d: Rows::new(d, ld_d),
                f: Rows::new(f, ld_f),
                of_d: Rows::new(of_d, ld_d),
                p,
                x: Rows::new(x, ld_d),
            };
            if let Precision::Diagonal(weights) = self.precision {
                for column in 0..i {
                    // SAFETY: there is room for a row.
                    unsafe { *p.add(column) = weights.get([column]).unwrap_or_default().to_acc() };
                }
            }
            for part in parts(n, rows, 1) {
                // SAFETY: the scratch has room for the rows, and all shapes agree.
                unsafe {
                    self.differences(&call, part, arrays)?;
                    let rows = cube(arrays.d, [part.1, i]);
                    let to = arrays.f.first.at(0, 0);
                    match self.precision {
                        Precision::Full(precision) => multiply(&call, rows, precision.transpose(), to, false)?,
                        Precision::Factor(factor) => multiply(&call, rows, factor, to, false)?,
                        Precision::Diagonal(_) => {
                            let weights = parallel::Shared::new(arrays.p);
                            by_rows(&call, part.1, |part| {
                                each_row::<T>(part, [arrays.d, arrays.f], i, |_, [d, f]| {
                                    for column in 0..i {
                                        f[column] = times::<T>(d[column], *weights.get().add(column));
                                    }
                                });
                            })?;
                        }
                    }
                }
                with(&call, part, arrays)?;
            }
            Ok(())
        })
    }

    /// D of these rows.
    ///
    /// # Safety
    ///
    /// There is room.
    unsafe fn differences(&self, call: &Call<T>, rows: Part, arrays: Arrays<T::Acc>) -> Result<()> {
        let i = self.z.shape()[1];
        by_rows(call, rows.1, |part| {
            let of = (rows.0 + part.0, part.1);
            // SAFETY: rows of the operands and of scratch, of which no other task has these.
            unsafe {
                copy_rows(call.table, self.z.slice_rows(of), arrays.d.row(part.0), arrays.d.ld);
                copy_rows(call.table, self.x.slice_rows(of), arrays.x.row(part.0), arrays.x.ld);
                each_row::<T>(part, [arrays.d, arrays.x], i, |_, [d, x]| {
                    for (d, &mut x) in d.iter_mut().zip(x) {
                        *d = minus::<T>(*d, x);
                    }
                });
            }
        })
    }

    /// y \[N\].
    pub(crate) fn squared(&self, mut y: ViewMut<'_, T, 1>) -> Result<()> {
        let (stride, to) = (y.strides()[0], parallel::Shared::new(y.host_mut_ptr()));
        let [i, r] = self.columns();
        let own = matches!(self.precision, Precision::Factor(_));
        self.each(false, |call, rows, arrays| {
            by_rows(call, rows.1, |part| {
                let others = if own { arrays.f } else { arrays.d };
                let len = if own { r } else { i };
                for n in part.0..part.0 + part.1 {
                    // SAFETY: rows of scratch, and an element of y of this task.
                    unsafe {
                        let a = std::slice::from_raw_parts(others.row(n).cast_const(), len);
                        let b = std::slice::from_raw_parts(arrays.f.row(n).cast_const(), len);
                        let at = ((rows.0 + n) as isize).wrapping_mul(stride);
                        *to.get().wrapping_offset(at) = T::from_acc(dot::<T>(a, b));
                    }
                }
            })
        })
    }

    /// The gradients that are wanted, for those of y, `g` \[N\].
    pub(crate) fn backward(&self, g: View<'_, T, 1>, wanted: WantedMetric<'_, T>) -> Result<()> {
        let [i, r] = self.columns();
        let WantedMetric { z, x, mut matrix, mut diagonal } = wanted;
        let inputs = [(z.map(To::matrix), false), (x.map(To::matrix), true)];
        let one = [T::Accumulator::from_f64(1.0)];
        self.each(true, |call, rows, arrays| {
            let fresh = rows.0 == 0;
            let twice = T::from_f64(2.0).to_acc();
            let scale = |n: usize| g.get([rows.0 + n]).unwrap_or_default().to_acc();
            // SAFETY: rows of scratch, of which tasks have their own; the destinations have these rows and columns.
            unsafe {
                let shape = [rows.1, i];
                match self.precision {
                    Precision::Full(precision) => {
                        // F + D P, in the place of F.
                        multiply(call, cube(arrays.d, shape), precision, arrays.f.first.at(0, 0), true)?;
                        by_rows(call, rows.1, |part| {
                            each_row::<T>(part, [arrays.f, arrays.of_d], i, |n, [f, of_d]| {
                                let scale = scale(n);
                                of_d.iter_mut().zip(f).for_each(|(to, &mut f)| *to = times::<T>(scale, f));
                            });
                        })?;
                        if let Some(Gradient { to, add }) = &mut matrix {
                            // g D, in the place of F.
                            by_rows(call, rows.1, |part| {
                                each_row::<T>(part, [arrays.d, arrays.f], i, |n, [d, f]| {
                                    let scale = scale(n);
                                    f.iter_mut().zip(d).for_each(|(to, &mut d)| *to = times::<T>(scale, d));
                                });
                            })?;
                            let (f, d) = (arrays.f.view(shape), arrays.d.view(shape));
                            self.outer([f, d], &one, to.reborrow(), *add || !fresh, call.threads)?;
                        }
                    }
                    Precision::Factor(factor) => {
                        by_rows(call, rows.1, |part| {
                            each_row::<T>(part, [arrays.f, arrays.f], r, |n, [f, _]| {
                                let scale = times::<T>(twice, scale(n));
                                f.iter_mut().for_each(|f| *f = times::<T>(scale, *f));
                            });
                        })?;
                        if inputs.iter().any(|(to, _)| to.is_some()) {
                            let of_d = arrays.of_d.first.at(0, 0);
                            multiply(call, cube(arrays.f, [rows.1, r]), factor.transpose(), of_d, false)?;
                        }
                        if let Some(Gradient { to, add }) = &mut matrix {
                            let (d, e) = (arrays.d.view(shape), arrays.f.view([rows.1, r]));
                            self.outer([d, e], &one, to.reborrow(), *add || !fresh, call.threads)?;
                        }
                    }
                    Precision::Diagonal(_) => {
                        by_rows(call, rows.1, |part| {
                            each_row::<T>(part, [arrays.f, arrays.of_d], i, |n, [f, of_d]| {
                                let scale = times::<T>(twice, scale(n));
                                of_d.iter_mut().zip(f).for_each(|(to, &mut f)| *to = times::<T>(scale, f));
                            });
                        })?;
                        if let Some(Gradient { to, add }) = &mut diagonal {
                            if fresh && !*add {
                                fill_zero(to);
                            }
                            // g D², in the place of F.
                            by_rows(call, rows.1, |part| {
                                each_row::<T>(part, [arrays.d, arrays.f], i, |n, [d, f]| {
                                    let scale = scale(n);
                                    f.iter_mut()
                                        .zip(d)
                                        .for_each(|(to, &mut d)| *to = times::<T>(times::<T>(scale, d), d));
                                });
                            })?;
                            add_parts::<T>(arrays.f, rows.1, i, (to.host_mut_ptr(), to.strides()[0]));
                        }
                    }
                }
                for (to, negative) in &inputs {
                    let Some(to) = to else { continue };
                    by_rows(call, rows.1, |part| {
                        for n in part.0..part.0 + part.1 {
                            let from = std::slice::from_raw_parts(arrays.of_d.row(n).cast_const(), i);
                            write_signed::<T>(from, to, rows.0 + n, *negative);
                        }
                    })?;
                }
            }
            Ok(())
        })
    }

    /// to\[a\]\[b\] ←/+ Σ_n left\[n\]\[a\] right\[n\]\[b\].
    fn outer(
        &self,
        [left, right]: [View<'_, T::Accumulator, 2>; 2],
        one: &[T::Accumulator; 1],
        to: ViewMut<'_, T::Accumulator, 2>,
        add: bool,
        threads: usize,
    ) -> Result<()> {
        let ones = View::strided(one, 0, [left.shape()[0], 1], [0, 1])?;
        Weights::<T::Accumulator>::new(&self.context, left, ones, right).run(to.insert_axis(), add, threads)
    }
}

/// Calls `with` with a row of each array.
///
/// # Safety
///
/// They have these rows and columns, which no other task uses. Of one array twice the second is not touched.
unsafe fn each_row<T: Kernels>(
    part: Part,
    arrays: [Rows<T::Acc>; 2],
    columns: usize,
    mut with: impl FnMut(usize, [&mut [T::Acc]; 2]),
) {
    for n in part.0..part.0 + part.1 {
        let [first, second] = arrays.map(|array| array.row(n));
        let len = if first == second { 0 } else { columns };
        // SAFETY: the caller's contract; one row twice is not given twice.
        unsafe {
            let (a, b) = (std::slice::from_raw_parts_mut(first, columns), std::slice::from_raw_parts_mut(second, len));
            with(n, [a, b]);
        }
    }
}

/// A row of a gradient written or added, or its negative.
///
/// # Safety
///
/// The destination has the row, which no other task has.
unsafe fn write_signed<T: Kernels>(from: &[T::Acc], to: &To<T::Acc>, row: usize, negative: bool) {
    let target = to.rows(row, 0, 1);
    for (column, &value) in from.iter().enumerate() {
        let place = target.offset(0, column).first;
        let value = if negative { T::Acc::default() - value } else { value };
        // SAFETY: the caller's contract.
        unsafe { *place = if to.add { *place + value } else { value } };
    }
}

/// Σ a·b, in a fixed order of several sums.
fn dot<T: Kernels>(a: &[T::Acc], b: &[T::Acc]) -> T::Acc {
    const LANES: usize = 16;
    let mut sums = [T::Acc::default(); LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.into_iter().fold(T::Acc::default(), |sum, part| sum + part)
}
