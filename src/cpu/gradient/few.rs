//! Gradients of at most four rows: W is read once for dz and dx together, and dW written once, in the same pass where their
//! axes lie alike.
//!
//! W's outermost axis is cut into parts of a fixed number, for one thread too; sums that run over it are added in order.

use crate::cpu::cache::{Caches, parts};
use crate::cpu::kernels::{Outer, Sweep, add_into, gather};
use crate::cpu::output::Sink;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::scratch;
use crate::cpu::simd::{Accumulator, Kernels};
use crate::cpu::small::{self, copy_rows, pad};
use crate::cpu::table::Table;
use crate::cpu::trilinear::Trilinear;
use crate::wanted::Gradient;
use crate::{Result, View};

/// Elements of W in a part, at least.
pub(super) const PART: usize = 1 << 16;
/// Parts, at most.
pub(super) const PARTS: usize = 8;
/// Rows of U or V that are gathered at a time.
const GATHERED: usize = 4;

/// Whether [`inputs`] can compute the gradients of so many rows for W of these strides.
pub(super) fn possible<T: Kernels>(t: &Trilinear<'_, T>, w: View<'_, T, 3>) -> bool {
    let inner = t.order()[2];
    let unit = |strides: [isize; 3]| strides[inner] == 1 || t.lengths[inner] <= 1;
    t.n <= small::ROWS && t.n > 0 && unit(t.layout) && unit(w.strides()) && !t.lengths.contains(&0)
}

/// Whether dW can be written in the order of memory of W, in the pass that reads that.
pub(super) fn alike<T: Kernels>(t: &Trilinear<'_, T>, w: &Gradient<'_, T::Acc, 3>) -> bool {
    let inner = t.order()[2];
    w.to.strides()[inner] == 1 || t.lengths[inner] <= 1
}

/// Where dW goes, with its axes in this order. What does not fit the caches is written past them.
fn outer<A>(caches: &Caches, Gradient { mut to, add }: Gradient<'_, A, 3>, order: [usize; 3]) -> Destination<A> {
    let ([_, qs, depth], strides) = (order.map(|axis| to.shape()[axis]), order.map(|axis| to.strides()[axis]));
    let bytes = to.shape().iter().fold(size_of::<A>(), |bytes, &len| bytes.saturating_mul(len));
    let past = !add && qs * depth > 1 && bytes > caches.l3 / 2;
    Destination(Outer { to: to.host_mut_ptr(), p_stride: strides[0], q_stride: strides[1], add, past })
}

/// dW, of which tasks write parts of their own.
#[derive(Clone, Copy)]
struct Destination<A>(Outer<A>);

// SAFETY: as above.
unsafe impl<A: Send> Sync for Destination<A> {}

impl<A: Copy> Destination<A> {
    /// From an index along the outermost axis on.
    fn at(&self, p: usize) -> Outer<A> {
        Outer { to: self.0.to.wrapping_offset((p as isize).wrapping_mul(self.0.p_stride)), ..self.0 }
    }
}

/// The gradients along the axes that have a sink, and dW, if it is given and [`alike`].
pub(super) fn inputs<T: Kernels>(
    t: &Trilinear<'_, T>,
    w: View<'_, T, 3>,
    to: [Option<Sink<T>>; 3],
    dw: Option<Gradient<'_, T::Acc, 3>>,
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
    let dw = dw.map(|dw| outer(&t.caches, dw, order));
    let sizes = [n * sp, n * sq, n * ss + 16, n * sp, parts * n * sq, parts * n * ss];
    scratch::with(sizes, |[up, uq, us, dp, dq, ds]| {
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
                    outer: dw.map(|dw| dw.at(first)),
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
                for other in 0..3 {
                    if let Some(weights) = t.between(order[other], order[place]) {
                        let rows = (inputs[other].0.cast_const(), inputs[other].1);
                        add_linear(table, weights, rows, n, (sums, stride))?;
                    }
                }
                for row in 0..n {
                    to.write_row(row, std::slice::from_raw_parts(sums.add(row * stride), lengths[place]));
                }
            }
        }
        Ok(())
    })
}

/// sums \[n\]\[i\] += Σ_k rows\[n\]\[k\] · weights\[k\]\[i\], for U with g, and V.
///
/// # Safety
///
/// `rows` are n rows of at least the weights' depth, padded with zeros to whole vectors; the sums have room for whole vectors.
pub(super) unsafe fn add_linear<T: Kernels>(
    table: &Table<T>,
    weights: View<'_, T, 2>,
    (rows, rows_ld): (*const T::Acc, usize),
    n: usize,
    (sums, ld): (*mut T::Acc, usize),
) -> Result<()> {
    let ([depth, columns], [row_stride, column_stride]) = (weights.shape(), weights.strides());
    let (one, nowhere) = ([T::Acc::ONE; small::ROWS], std::ptr::null_mut());
    let sweep = |w: *const T, q_stride: isize, qs: usize, depth: usize| Sweep {
        w,
        p_stride: 0,
        q_stride,
        ps: 1,
        qs,
        depth,
        batch: n,
        inputs: [(one.as_ptr(), 1), (rows, rows_ld), (rows, rows_ld)],
        sums: [nowhere; 3],
        outer: None,
    };
    // SAFETY: rows and columns are within the weights; the rest is the caller's contract.
    unsafe {
        if column_stride == 1 {
            let along = sweep(weights.host_ptr(), row_stride, depth, columns);
            let [up, uq, _] = along.inputs;
            (table.sweep)(&Sweep { inputs: [up, uq, (rows, ld)], sums: [nowhere, nowhere, sums], ..along });
            return Ok(());
        }
        if row_stride == 1 {
            let across = sweep(weights.host_ptr(), column_stride, columns, depth);
            let [up, _, us] = across.inputs;
            (table.sweep)(&Sweep { inputs: [up, (rows, ld), us], sums: [nowhere, sums, nowhere], ..across });
            return Ok(());
        }
        // Of other layouts some rows are gathered at a time.
        scratch::with::<T, 1, ()>([GATHERED.saturating_mul(columns)], |[buffer]| {
            for (first, len) in parts(depth, GATHERED, 1) {
                let from = weights.host_ptr().wrapping_offset((first as isize).wrapping_mul(row_stride));
                gather(from, (row_stride, column_stride), (len, columns), buffer, columns, |weight| weight);
                let contiguous = View::from_raw_parts(buffer.cast_const(), [len, columns], [columns as isize, 1]);
                add_linear(table, contiguous, (rows.add(first), rows_ld), n, (sums, ld))?;
            }
            Ok(())
        })
    }
}

/// dW of few rows, whose axis j is contiguous.
pub(super) fn weights<T: Kernels>(
    table: &Table<T>,
    caches: &Caches,
    inputs: [View<'_, T, 2>; 3],
    dw: Gradient<'_, T::Acc, 3>,
    threads: usize,
) -> Result<()> {
    let [k, i, j] = dw.to.shape();
    let n = inputs[0].shape()[0];
    let ld = [k, i, j].map(pad);
    let dw = outer(caches, dw, [0, 1, 2]);
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
            let first = index * most;
            // SAFETY: the operands' shapes agree, and no other task has these outputs of the gradient.
            unsafe {
                (table.sweep)(&Sweep {
                    w: std::ptr::null(),
                    p_stride: 0,
                    q_stride: 0,
                    ps: most.min(k - first),
                    qs: i,
                    depth: j,
                    batch: n,
                    inputs: [(g.wrapping_add(first), ld[0]), (z, ld[1]), (x, ld[2])],
                    sums: [std::ptr::null_mut(); 3],
                    outer: Some(dw.at(first)),
                });
            }
            Ok(())
        })
    })
}
