//! The gradients of one block with a core and factors: see general.rs.

use super::again;
use super::batch::{is_flat, rows_of, runs};
use super::general::{Cores, General};
use super::stage::{Rows, add_parts, deliver, ld};
use crate::cpu::gradient::jobs::{Call, Job, To};
use crate::cpu::gradient::weights::Weights;
use crate::cpu::kernels::Components;
use crate::cpu::output::{Place, Sink};
use crate::cpu::product::Target;
use crate::cpu::simd::Kernels;
use crate::cpu::{fill_zero, parallel, scratch};
use crate::wanted::{Gradient, Wanted, WantedBlock};
use crate::{Element, Result, View, ViewMut};

/// Rows whose sums of components are added up by themselves.
pub(super) const PART: usize = 128;

/// Where gradients of inputs go: those of z, of x, and their sum. Each may be added to.
pub(super) struct Inputs<A> {
    pub(super) z: [Option<To<A>>; 2],
    pub(super) x: [Option<To<A>>; 2],
}

impl<A: Copy> Inputs<A> {
    /// Of the last block: tied inputs are those of z, then those of x added.
    pub(super) fn new(z: Option<To<A>>, x: Option<To<A>>, tied: Option<To<A>>) -> Self {
        let mut adding = tied;
        adding.iter_mut().for_each(|to| to.add = true);
        Inputs { z: [z, tied], x: [x, adding] }
    }
}

/// Scratch of a block of rows: H and D, P, Q, the gradients of P and of Q.
#[derive(Clone, Copy)]
pub(super) struct Arrays<A> {
    pub(super) h: Rows<A>,
    pub(super) d: Rows<A>,
    pub(super) p: Rows<A>,
    pub(super) q: Rows<A>,
    /// Whether all groups have the same Q, which is there once.
    pub(super) one_q: bool,
    pub(super) of_p: Rows<A>,
    pub(super) of_q: Rows<A>,
    pub(super) weights: *mut A,
    pub(super) partial: *mut A,
}

/// What has to be computed for the destinations.
#[derive(Clone, Copy)]
pub(super) struct Needed {
    pub(super) h: bool,
    pub(super) of_p: bool,
    pub(super) of_q: bool,
    pub(super) core: bool,
}

impl<T: Element> General<'_, T> {
    /// The gradients that are wanted, for those of y, `g` [G, M, K].
    pub(super) fn backward(
        &self,
        g: View<'_, T, 3>,
        inputs: &Inputs<T::Accumulator>,
        wanted: &mut WantedBlock<'_, T>,
    ) -> Result<()> {
        let (groups, each) = (self.z.shape()[0], self.each());
        let (call, blocks) = (self.call(), self.blocks());
        let [_, _, rc] = self.block.ranks();
        let [ld_h, ld_p, ld_q] = blocks.ld;
        let (rows, partials) = (blocks.rows(), blocks.rows().div_ceil(PART) * ld_h);
        let [da, db, dc] =
            [&mut wanted.a, &mut wanted.b, &mut wanted.c].map(|to| again(to, true)).map(|to| to.map(To::matrix));
        let needed = Needed {
            h: da.is_some(),
            of_p: inputs.z.iter().any(Option::is_some) || db.is_some(),
            of_q: inputs.x.iter().any(Option::is_some) || dc.is_some(),
            core: wanted.core.is_some() || wanted.diagonal.is_some(),
        };
        if !(needed.h || needed.of_p || needed.of_q || needed.core) {
            return Ok(());
        }
        let if_dense = |len: usize| if self.block.is_diagonal() { 0 } else { len };
        // The results of a diagonal core lie where its operands do, but that of P where P serves several rows.
        let own_p = if each == 1 { if_dense(blocks.groups * ld_p) } else { blocks.groups * ld_p };
        let own_q = if each == 1 { if_dense(rows * ld_q) } else { rows * ld_q };
        let lengths = [
            if_dense(rows * ld_h),
            rows * ld_h,
            blocks.groups * ld_p,
            rows * ld_q,
            own_p,
            own_q,
            ld_h,
            partials,
            blocks.widened.1,
        ];
        let flat = is_flat(each, self.x.strides())
            && is_flat(each, g.strides())
            && inputs.x.iter().flatten().all(|to| to.flat(each));
        scratch::with(lengths, |[h, d, p, q, of_p, of_q, weights, partial, core]| {
            let diagonal = self.block.is_diagonal();
            let arrays = Arrays {
                h: Rows::new(if diagonal { d } else { h }, ld_h),
                d: Rows::new(d, ld_h),
                p: Rows::new(p, ld_p),
                q: Rows::new(q, ld_q),
                one_q: false,
                of_p: Rows::new(if own_p == 0 { q } else { of_p }, ld_p),
                of_q: Rows::new(if own_q == 0 { p } else { of_q }, ld_q),
                weights,
                partial,
            };
            let room = Rows::new(std::ptr::null_mut(), ld(0)); // sums are not narrowed
            let cores = self.cores(&blocks, core);
            let [b, c] = [1, 2].map(|side| self.block.factors[side].map(View::transpose));
            let mut fresh = true;
            // SAFETY: the scratch has the lengths of these blocks, and all shapes agree.
            unsafe {
                self.weights(weights);
                for part in crate::cpu::cache::parts(groups, blocks.groups, 1) {
                    let z = self.z.slice_rows(part);
                    self.project(&call, 1, z, arrays.p)?;
                    let mut first_rows = true;
                    for m in crate::cpu::cache::parts(each, blocks.each, 1) {
                        let shape = [part.1, m.1];
                        for run in runs(part, m, each, flat) {
                            self.project(&call, 2, rows_of(self.x, run), arrays.q.from(run.at))?;
                            self.project(&call, 0, rows_of(g, run), arrays.d.from(run.at))?;
                        }
                        match &cores {
                            Some(cores) => {
                                let to = wanted.core.as_mut();
                                self.dense_back(cores, &arrays, shape, needed, (first_rows, fresh), to)?;
                            }
                            None => {
                                let to = wanted.diagonal.as_mut();
                                self.diagonal_back(&call, &arrays, shape, needed, (first_rows, fresh), to)?;
                            }
                        }
                        let total = part.1 * m.1;
                        if let Some(to) = da {
                            let columns = self.folded(0, arrays.h, total);
                            for run in runs(part, m, each, flat) {
                                let rows = arrays.h.from(run.at);
                                factor(&call, rows_of(g, run), (rows, columns), to, fresh && run.at == 0)?;
                            }
                        }
                        if needed.of_q {
                            let columns = self.folded(2, arrays.of_q, total);
                            for run in runs(part, m, each, flat) {
                                let rows = arrays.of_q.from(run.at);
                                if let Some(to) = dc {
                                    let input = rows_of(self.x, run);
                                    factor(&call, input, (rows, columns), to, fresh && run.at == 0)?;
                                }
                                for to in inputs.x.iter().flatten().filter(|_| each > 1) {
                                    deliver(&call, (rows, [run.rows, columns]), c, self.sink(to, run), room)?;
                                }
                            }
                        }
                        (first_rows, fresh) = (false, false);
                    }
                    if needed.of_p {
                        let columns = self.folded(1, arrays.of_p, part.1);
                        if let Some(to) = db {
                            factor(&call, z, (arrays.of_p, columns), to, part.0 == 0)?;
                        }
                        for to in inputs.z.iter().flatten() {
                            let sink = to.sink::<T>().at(part.0, 0);
                            deliver(&call, (arrays.of_p, [part.1, columns]), b, sink, room)?;
                        }
                    }
                    // After those of z, to which tied ones are added.
                    for to in inputs.x.iter().flatten().filter(|_| each == 1 && needed.of_q) {
                        let columns = if self.block.is_spread(2) { 1 } else { rc };
                        deliver(&call, (arrays.of_q, [part.1, columns]), c, to.sink::<T>().at(part.0, 0), room)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// The rows of a run in a destination.
    fn sink(&self, to: &To<T::Accumulator>, run: super::batch::Run) -> Sink<T> {
        let Target { first, row_stride, column_stride, .. } = to.rows(run.group, run.m, self.each());
        Sink {
            place: if to.add { Place::Added(first) } else { Place::Sums(first) },
            strides: [row_stride, column_stride],
        }
    }

    /// H, the gradients of P and Q, and that of a dense core.
    pub(super) unsafe fn dense_back(
        &self,
        cores: &Cores<'_, T>,
        arrays: &Arrays<T::Accumulator>,
        [groups, each]: [usize; 2],
        needed: Needed,
        (first_rows, fresh): (bool, bool),
        to: Option<&mut Gradient<'_, T::Accumulator, 3>>,
    ) -> Result<()> {
        let [ra, rb, rc] = self.block.ranks();
        // SAFETY: rows of scratch that are read only until the layers below have returned, or written only.
        unsafe {
            if needed.h {
                self.dense(cores, [arrays.h, arrays.p, arrays.q], ([groups, each], arrays.one_q))?;
            }
            let (p, q) = (arrays.p.view([groups, rb]), arrays.q.groups([groups, each, rc], arrays.one_q));
            if needed.of_p || needed.of_q {
                cores.each(self.context, |(from, outputs), layer| {
                    let d = arrays.d.groups([groups, each, ra], false).slice(2, from..from + outputs)?;
                    let later = from > 0;
                    let of_p = |add| matrix_of(arrays.of_p, [groups, rb]).map(|to| Gradient { to, add });
                    let z = needed.of_p.then(|| of_p(later || !first_rows)).transpose()?;
                    let strides = [(each * arrays.of_q.ld) as isize, arrays.of_q.ld as isize, 1];
                    let of_q = ViewMut::from_raw_parts(arrays.of_q.row(0), [groups, each, rc], strides)?;
                    let x = needed.of_q.then_some(Gradient { to: of_q, add: later });
                    if each == 1 {
                        let rows = super::batch::Run { group: 0, m: 0, rows: groups, at: 0 };
                        let x = x.map(|Gradient { to, add }| Gradient { to: to.into_rows(), add });
                        let wanted = Wanted { z, x, ..Wanted::default() };
                        return crate::cpu::backward(&layer, p, rows_of(q, rows), rows_of(d, rows), wanted);
                    }
                    crate::cpu::backward_shared(&layer, p, q, d, Wanted { z, x, ..Wanted::default() })
                })?;
            }
            let Some(Gradient { to, add }) = to else { return Ok(()) };
            // Rows of P for each row of Q.
            let d = arrays.d.view([groups * each, ra]);
            if each == 1 {
                let q = rows_of(q, super::batch::Run { group: 0, m: 0, rows: groups, at: 0 });
                let weights = Weights::<T::Accumulator>::new(&self.context, d, p, q);
                return weights.run(to.reborrow(), *add || !fresh, self.threads);
            }
            for group in 0..groups {
                let rows = (group * each, each);
                let p = p.slice(0, group..group + 1)?.broadcast(0, each)?;
                let weights = Weights::<T::Accumulator>::new(&self.context, d.slice_rows(rows), p, q.matrix(group));
                weights.run(to.reborrow(), *add || !fresh || group > 0, self.threads)?;
            }
        }
        Ok(())
    }

    /// The same of a diagonal core.
    pub(super) unsafe fn diagonal_back(
        &self,
        call: &Call<T>,
        arrays: &Arrays<T::Accumulator>,
        [groups, each]: [usize; 2],
        needed: Needed,
        (first_rows, fresh): (bool, bool),
        to: Option<&mut Gradient<'_, T::Accumulator, 1>>,
    ) -> Result<()> {
        let columns = self.block.ranks()[0];
        let Arrays { h, d, p, q, one_q, of_p, of_q, weights, partial } = *arrays;
        let wanted = |used: bool, to: *mut T::Accumulator| if used { to } else { std::ptr::null_mut() };
        let (ld, shared) = (d.ld, self.each() > 1);
        let (rows, pointers) = (groups * each, parallel::Shared::new(partial));
        let constant = parallel::Shared::new(weights);
        // Parts of rows, in order; of a shared context those of one group after the other.
        let size = if shared { each } else { PART };
        if shared && first_rows {
            for group in 0..groups {
                // SAFETY: rows of scratch.
                unsafe { std::slice::from_raw_parts_mut(of_p.row(group), ld) }.fill(T::Accumulator::default());
            }
        }
        // SAFETY: room for the parts' sums.
        let sums = unsafe { std::slice::from_raw_parts_mut(partial, rows.div_ceil(PART) * ld) };
        sums.fill(T::Accumulator::default());
        let part = |start: usize, count: usize, sums: *mut T::Accumulator| {
            let (p_row, p_stride) = if shared { (p.row(start / each), 0) } else { (p.row(start), ld) };
            let (q_row, q_stride) = match (one_q, shared) {
                (false, _) => (q.row(start), ld),
                (true, true) => (q.row(0), ld),
                (true, false) => (q.row(0), 0),
            };
            // SAFETY: these rows of scratch, by whole vectors; no other task has them.
            unsafe {
                (call.table.arithmetic.components)(&Components {
                    rows: count,
                    columns,
                    p: p_row.cast_const(),
                    p_stride,
                    q: q_row.cast_const(),
                    q_stride,
                    d: d.row(start).cast_const(),
                    stride: ld,
                    lambda: constant.get().cast_const(),
                    h: wanted(needed.h, h.row(start)),
                    dq: wanted(needed.of_p && !shared, of_p.row(start)),
                    dp: wanted(needed.of_q, of_q.row(start)),
                    d_lambda: wanted(needed.core, sums),
                    dq_sum: wanted(needed.of_p && shared, of_p.row(start / each.max(1))),
                });
            }
        };
        if shared {
            (0..groups).for_each(|group| part(group * each, each, partial));
        } else {
            parallel::run(call.threads, rows.div_ceil(size), |index| {
                let start = index * size;
                part(start, size.min(rows - start), pointers.get().wrapping_add(index * ld));
                Ok(())
            })?;
        }
        let Some(Gradient { to, add }) = to else { return Ok(()) };
        if fresh && !*add {
            fill_zero(to);
        }
        let (first, stride, parts) = (to.host_mut_ptr(), to.strides()[0], rows.div_ceil(PART));
        // SAFETY: all parts are complete; the elements of the gradient.
        unsafe { add_parts::<T>(Rows::new(partial, ld), parts, columns, (first, stride)) };
        Ok(())
    }
}

/// Scratch rows as a destination.
///
/// # Safety
///
/// Nothing else uses them meanwhile.
unsafe fn matrix_of<'a, A>(rows: Rows<A>, shape: [usize; 2]) -> Result<ViewMut<'a, A, 2>>
where
    A: Copy,
{
    // SAFETY: the caller's contract.
    unsafe { ViewMut::from_raw_parts(rows.row(0), shape, [rows.ld as isize, 1]) }
}

/// The gradient of a factor: columns of the input times scratch rows.
///
/// # Safety
///
/// The scratch has as many rows as the input, and the destination their columns.
pub(super) unsafe fn factor<T: Kernels>(
    call: &Call<T>,
    input: View<'_, T, 2>,
    (lanes, columns): (Rows<T::Acc>, usize),
    to: To<T::Acc>,
    fresh: bool,
) -> Result<()> {
    let job = Job::Factor { to: to.rows(0, 0, 1), add: to.add || !fresh, input, lanes: lanes.first, r: (0, columns) };
    // SAFETY: the caller's contract.
    unsafe { call.jobs(&[Some(job)]) }
}
