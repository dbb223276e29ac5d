//! Gradients of at most four rows: W is read once for dz and dx together, and dW written once, in the order of memory.
//!
//! W's outermost axis is cut into parts of a fixed number, for one thread too; sums that run over it are added in order.

use crate::cpu::kernels::{OuterStream, Sweep, add_into};
use crate::cpu::output::{Place, Sink};
use crate::cpu::parallel::{self, Shared};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::small::{self, add_linear, copy_rows, pad};
use crate::cpu::table::Table;
use crate::cpu::trilinear::Trilinear;
use crate::{Result, View, ViewMut};

/// Elements of W in a part, at least.
const PART: usize = 1 << 16;
/// Parts, at most.
const PARTS: usize = 8;

/// Whether [`inputs`] can compute the gradients of so many rows for W of these strides.
pub(super) fn possible<T: Kernels>(t: &Trilinear<'_, T>, w: View<'_, T, 3>) -> bool {
    let inner = t.order()[2];
    let unit = |strides: [isize; 3]| strides[inner] == 1 || t.lengths[inner] <= 1;
    t.n <= small::ROWS && t.n > 0 && unit(t.layout) && unit(w.strides()) && !t.lengths.contains(&0)
}

/// The gradients along the axes that have a sink.
pub(super) fn inputs<T: Kernels>(
    t: &Trilinear<'_, T>,
    w: View<'_, T, 3>,
    to: [Option<Sink<T>>; 3],
    threads: usize,
) -> Result<()> {
    let (n, order, table) = (t.n, t.order(), t.table);
    let lengths = order.map(|axis| t.lengths[axis]);
    let [lp, lq, ls] = lengths;
    let strides = order.map(|axis| w.strides()[axis]);
    let [sp, sq, ss] = lengths.map(pad);
    let parts = (lp * lq * ls / PART).clamp(1, PARTS.min(lp));
    let most = lp.div_ceil(parts);
    let parts = lp.div_ceil(most);
    let longest = lp.max(lq).max(ls);
    let sizes = [n * sp, n * sq, n * ss, n * sp, parts * n * sq, parts * n * ss, n * longest];
    scratch::with(sizes, |[up, uq, us, dp, dq, ds, linear]| {
        // SAFETY: the scratch has these lengths; the operands' shapes agree; each part has sums of its own.
        unsafe {
            for ((axis, to), stride) in order.into_iter().zip([up, uq, us]).zip([sp, sq, ss]) {
                if let Some(input) = t.inputs[axis] {
                    copy_rows(table, input, to, stride);
                }
            }
            for (sums, len) in [(dp, sizes[3]), (dq, sizes[4]), (ds, sizes[5])] {
                std::slice::from_raw_parts_mut(sums, len).fill(T::Acc::default());
            }
            let wanted = order.map(|axis| to[axis].is_some());
            let shared = [up, uq, us, dp, dq, ds].map(Shared::new);
            parallel::run(threads, parts, |part| {
                let [up, uq, us, dp, dq, ds] = shared.map(|array| array.get());
                let first = part * most;
                let null = std::ptr::null_mut();
                let sums = |place: usize, at: *mut T::Acc| if wanted[place] { at } else { null };
                (table.sweep)(&Sweep {
                    w: w.host_ptr().wrapping_offset((first as isize).wrapping_mul(strides[0])),
                    p_stride: strides[0],
                    q_stride: strides[1],
                    ps: most.min(lp - first),
                    qs: lq,
                    depth: ls,
                    batch: n,
                    inputs: [(up.add(first).cast_const(), sp), (uq.cast_const(), sq), (us.cast_const(), ss)],
                    sums: [sums(0, dp.add(first)), sums(1, dq.add(part * n * sq)), sums(2, ds.add(part * n * ss))],
                });
                Ok(())
            })?;
            for (sums, len) in [(dq, n * sq), (ds, n * ss)] {
                let total = std::slice::from_raw_parts_mut(sums, len);
                for part in 1..parts {
                    add_into(total, std::slice::from_raw_parts(sums.add(part * len).cast_const(), len));
                }
            }
            let inputs = [(up, sp), (uq, sq), (us, ss)];
            for (place, (sums, stride)) in [(dp, sp), (dq, sq), (ds, ss)].into_iter().enumerate() {
                let Some(to) = to[order[place]] else { continue };
                let len = lengths[place];
                std::slice::from_raw_parts_mut(linear, len * n).fill(T::Acc::default());
                for other in 0..3 {
                    let rows = (inputs[other].0.cast_const(), inputs[other].1);
                    add_linear(table, t.between(order[place], order[other]), rows, n, linear)?;
                }
                for row in 0..n {
                    for column in 0..len {
                        let sum = *sums.add(row * stride + column) + *linear.add(column * n + row);
                        match to.at(row, column).place {
                            Place::Stored(to) => *to = T::from_acc(sum),
                            Place::Sums(to) => *to = sum,
                            Place::Added(to) => *to += sum,
                        }
                    }
                }
            }
        }
        Ok(())
    })
}

/// dW of few rows, whose axis j is contiguous.
pub(super) fn weights<T: Kernels>(
    table: &Table<T>,
    inputs: [View<'_, T, 2>; 3],
    mut to: ViewMut<'_, T::Acc, 3>,
    (add, past): (bool, bool),
    threads: usize,
) -> Result<()> {
    let ([k, i, j], [sk, si, _]) = (to.shape(), to.strides());
    let n = inputs[0].shape()[0];
    let ld = [k, i, j].map(pad);
    let first = Shared::new(to.host_mut_ptr());
    let tasks = if threads > 1 { (8 * threads).min(k) } else { 1 };
    let most = k.div_ceil(tasks.max(1)).max(1);
    scratch::with([n * ld[0], n * ld[1], n * ld[2] + 16], |copies: [*mut T::Acc; 3]| {
        for ((input, to), ld) in inputs.into_iter().zip(copies).zip(ld) {
            // SAFETY: room for the rows.
            unsafe { copy_rows(table, input, to, ld) };
        }
        let copies = copies.map(Shared::new);
        parallel::run(threads, k.div_ceil(most), |index| {
            let [g, z, x] = copies.map(|copy| copy.get().cast_const());
            for out in index * most..k.min((index + 1) * most) {
                // SAFETY: the operands' shapes agree, and no other task has these outputs of the gradient.
                unsafe {
                    (table.arithmetic.outer_stream)(&OuterStream {
                        to: first.get().wrapping_offset((out as isize).wrapping_mul(sk)),
                        row_stride: si,
                        rows: i,
                        columns: j,
                        batch: n,
                        factor: (g.add(out), ld[0]),
                        left: (z, ld[1]),
                        right: (x, ld[2]),
                        add,
                        past,
                    });
                }
            }
            Ok(())
        })
    })
}
