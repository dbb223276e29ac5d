//! One block with a core and factors, by blocks of rows whose P, Q and H stay in cache:
//!
//! ```text
//!   P = zB   Q = xC   H = core(P, Q)   y = HAᵀ            of absent factors the inputs themselves
//!   D = gA   gradients of H, which the core turns into those of P and Q; dz = dP Bᵀ, dx = dQ Cᵀ
//!   dA = gᵀH   dB = zᵀdP   dC = xᵀdQ   dG = Σ_n D⊗P⊗Q  or  dd[r] = Σ_n D·P·Q
//!
//!   loop 2   groups of rows that share a z (one row each in a batch), as many as have ROWS rows or one group
//!   loop 1     rows of these groups
//! ```
//!
//! Where all groups have the same rows of x, as in all pairs, the loops are exchanged, and Q is formed once for all groups.
//!
//! The products are those of CP's gradients (gradient/jobs.rs); a dense core is a dense layer of P and Q, with all that its engine
//! does. Each runs on all threads, and the blocks do not depend on their number, so that neither do the bits. A dense core of f16 or
//! bf16 meets sums, and is widened for it, as many outputs at a time as take [`CORE_BYTES`].

use super::batch::{Run, Sinks, rows_of, runs};
use super::gate::Gating;
use super::stage::{Rows, as_stored, as_sums, by_rows, copy, deliver, fold, ld, multiply, spread};
use crate::block::Center;
use crate::cpu::cache::{caches, part, parts};
use crate::cpu::gradient::jobs::Call;
use crate::cpu::kernels::{GateSum, Hadamard, Row};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::parallel::Shared;
use crate::cpu::product::IN_PLACE_ROWS;
use crate::cpu::scratch;
use crate::{Block, Context, Element, Interaction, Result, View};

/// Bytes of P, Q and H of a block, and its fewest and most rows.
const BLOCK_BYTES: usize = 1 << 20;
const ROWS: (usize, usize) = (32, 1024);
/// Bytes of a widened core.
const CORE_BYTES: usize = 2 << 20;

/// A block and the rows that it meets, all of whose sizes agree and none of which is zero.
pub(super) struct General<'a, T: Element> {
    pub(super) context: Context,
    pub(super) threads: usize,
    pub(super) block: Block<'a, T>,
    /// [G, I].
    pub(super) z: View<'a, T, 2>,
    /// [G, M, J].
    pub(super) x: View<'a, T, 3>,
}

/// How many rows are handled at once, and the distances between scratch rows.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// Groups.
    pub(super) groups: usize,
    /// Rows of each.
    pub(super) each: usize,
    /// Of H, P, Q.
    pub(super) ld: [usize; 3],
    /// Outputs of a dense core that are widened at once, and their elements; 0 where it is used in place.
    pub(super) widened: (usize, usize),
}

impl Blocks {
    pub(super) fn rows(&self) -> usize {
        self.groups * self.each
    }
}

/// One output after the other of a core: in place, or widened.
pub(super) enum Cores<'a, T: Element> {
    InPlace(View<'a, T::Accumulator, 3>),
    Widened(View<'a, T, 3>, *mut T::Accumulator, usize),
}

impl<'a, T: Element> Cores<'a, T> {
    /// Calls `with` with each part of the outputs, and the layer that they make.
    pub(super) fn each(
        &self,
        context: Context,
        mut with: impl FnMut(Part, Interaction<'_, T::Accumulator>) -> Result<()>,
    ) -> Result<()> {
        match *self {
            Cores::InPlace(core) => {
                with((0, core.shape()[0]), Interaction::dense(core)?.with_context(context.automatic()))
            }
            Cores::Widened(core, buffer, most) => {
                let [outputs, rows, columns] = core.shape();
                for part in parts(outputs, most, 1) {
                    let shape = [part.1, rows, columns];
                    // SAFETY: the part is within the core, and the buffer has room for `most` outputs.
                    let widened = unsafe {
                        let table = T::table(context.capability());
                        Cube::Stored(core).copy(
                            table,
                            [part, (0, rows), (0, columns)],
                            buffer,
                            rows * columns,
                            columns,
                        );
                        View::from_raw_parts(
                            buffer.cast_const(),
                            shape,
                            [(rows * columns) as isize, columns as isize, 1],
                        )
                    };
                    with(part, Interaction::dense(widened)?.with_context(context.automatic()))?;
                }
                Ok(())
            }
        }
    }
}

impl<'a, T: Element> General<'a, T> {
    pub(super) fn each(&self) -> usize {
        self.x.shape()[1]
    }

    /// Whether all groups have the same rows of x.
    fn one_x(&self) -> bool {
        let ([groups, each, _], [stride, ..]) = (self.x.shape(), self.x.strides());
        groups > 1 && each > 1 && stride == 0
    }

    pub(super) fn call(&self) -> Call<T> {
        let table = T::table(self.context.capability());
        let few = self.z.shape()[0].saturating_mul(self.each()) <= IN_PLACE_ROWS;
        Call { table, kc: caches().kc(table), few, threads: self.threads }
    }

    pub(super) fn blocks(&self) -> Blocks {
        self.blocks_of(self.z.shape()[0])
    }

    /// Of so many groups.
    pub(super) fn blocks_of(&self, groups: usize) -> Blocks {
        let each = self.each();
        let (size, ranks) = (size_of::<T::Acc>(), self.block.ranks());
        let ld = ranks.map(ld);
        let most = (BLOCK_BYTES / size / ld.iter().sum::<usize>()).clamp(ROWS.0, ROWS.1);
        let unit = T::table(self.context.capability()).nr;
        let (groups, each) = match each {
            1 => (part(groups, most, unit).max(1), 1),
            _ if each <= most => (part(groups, most / each.max(1), 1).max(1), each),
            _ => (1, part(each, most, unit).max(1)),
        };
        let widened = match self.block.center {
            Center::Dense(core) if !T::IN_PLACE => {
                let [outputs, rows, columns] = core.shape();
                let most = (CORE_BYTES / size / (rows * columns).max(1)).clamp(1, outputs.max(1));
                let most = part(outputs, most, 1).max(1);
                (most, most.saturating_mul(rows).saturating_mul(columns))
            }
            _ => (0, 0),
        };
        Blocks { groups, each, ld, widened }
    }

    /// Lengths of the scratch arrays of y: H, P, Q, rows of y before they are narrowed, weights, a widened core.
    pub(super) fn lengths(&self, blocks: &Blocks) -> [usize; 6] {
        let [k, ..] = self.block.sizes();
        let ([ld_h, ld_p, ld_q], rows) = (blocks.ld, blocks.rows());
        let out = if !T::IN_PLACE && self.block.factors[0].is_some() { ld(k) } else { 0 };
        [rows * ld_h, blocks.groups * ld_p, rows * ld_q, rows * out, ld_h, blocks.widened.1]
    }

    pub(super) fn cores(&self, blocks: &Blocks, buffer: *mut T::Acc) -> Option<Cores<'a, T>> {
        let Center::Dense(core) = self.block.center else { return None };
        Some(match as_sums(core) {
            Some(core) => Cores::InPlace(core),
            None => Cores::Widened(core, buffer, blocks.widened.0),
        })
    }

    /// λ to whole vectors of scratch; ones without.
    pub(super) unsafe fn weights(&self, to: *mut T::Acc) {
        let (Center::Diagonal(r, _), weights) = (self.block.center, self.block.weights()) else { return };
        for component in 0..r {
            let weight = weights.map_or(T::from_f64(1.0), |weights| weights.get([component]).unwrap_or_default());
            // SAFETY: the caller has room for them.
            unsafe { *to.add(component) = weight.to_acc() };
        }
        for padding in r..ld(r) {
            // SAFETY: as above. Sums across a vector take these too, times zeros.
            unsafe { *to.add(padding) = T::Acc::default() };
        }
    }

    /// Rows of an input through its factor, or themselves, to scratch: all components.
    ///
    /// # Safety
    ///
    /// The scratch has room.
    pub(super) unsafe fn project(
        &self,
        call: &Call<T>,
        side: usize,
        input: View<'_, T, 2>,
        to: Rows<T::Acc>,
    ) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe {
            match self.block.factors[side] {
                Some(factor) => multiply(call, Cube::matrix(input), factor, to.first.at(0, 0), false)?,
                None => copy(call, input, to)?,
            }
            if self.block.is_spread(side) {
                spread::<T>(to, input.shape()[0], self.block.ranks()[side]);
            }
        }
        Ok(())
    }

    /// The columns that a factor has, and rows of components added up to them.
    ///
    /// # Safety
    ///
    /// The scratch has so many rows.
    pub(super) unsafe fn folded(&self, side: usize, rows: Rows<T::Acc>, count: usize) -> usize {
        let columns = self.block.ranks()[side];
        if !self.block.is_spread(side) {
            return columns;
        }
        // SAFETY: the caller's contract.
        unsafe { fold::<T>(rows, count, columns) };
        1
    }

    /// y, to where it goes.
    pub(super) fn forward(&self, y: Sinks<T>) -> Result<()> {
        let (groups, each) = (self.z.shape()[0], self.each());
        let (call, blocks) = (self.call(), self.blocks());
        let [ld_h, ld_p, ld_q] = blocks.ld;
        let flat = y.is_flat() && super::batch::is_flat(each, self.x.strides());
        scratch::with(self.lengths(&blocks), |[h, p, q, out, weights, core]| {
            let [h, p, q] = [(h, ld_h), (p, ld_p), (q, ld_q)].map(|(first, ld)| Rows::new(first, ld));
            let room = Rows::new(out, ld(self.block.sizes()[0]));
            let cores = self.cores(&blocks, core);
            // SAFETY: the scratch has the lengths of these blocks, and all shapes agree.
            unsafe {
                self.weights(weights);
                let (at_once, gates) = (self.sums_at_once(), self.gates(&y));
                let [needs_p, needs_q] = [1, 2].map(|side| !at_once && (!gates || self.block.factors[side].is_some()));
                let one_q = self.one_x();
                let meet = |g: Part, m: Part| {
                    if gates {
                        return self.gate([p, q], [g, m], one_q, y);
                    }
                    let shape = ([g.1, m.1], one_q);
                    match &cores {
                        Some(cores) => self.dense(cores, [h, p, q], shape)?,
                        None if at_once => self.sums(&call, h, [g, m], weights)?,
                        None => self.diagonal(&call, [h, p, q], shape, weights)?,
                    }
                    let columns = if at_once { 1 } else { self.folded(0, h, g.1 * m.1) };
                    let a = self.block.factors[0].map(View::transpose);
                    for run in runs(g, m, each, flat) {
                        let from = (h.from(run.at), [run.rows, columns]);
                        deliver(&call, from, a, y.rows(run), room)?;
                    }
                    Ok(())
                };
                let project_z =
                    |g: Part| if needs_p { self.project(&call, 1, self.z.slice_rows(g), p) } else { Ok(()) };
                if one_q {
                    for m in parts(each, blocks.each, 1) {
                        if needs_q {
                            self.project(&call, 2, self.x.matrix(0).slice_rows(m), q)?;
                        }
                        for g in parts(groups, blocks.groups, 1) {
                            project_z(g)?;
                            meet(g, m)?;
                        }
                    }
                    return Ok(());
                }
                for g in parts(groups, blocks.groups, 1) {
                    project_z(g)?;
                    for m in parts(each, blocks.each, 1) {
                        for run in runs(g, m, each, flat).filter(|_| needs_q) {
                            self.project(&call, 2, rows_of(self.x, run), q.from(run.at))?;
                        }
                        meet(g, m)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// H of a dense core.
    ///
    /// # Safety
    ///
    /// The scratch has the rows.
    pub(super) unsafe fn dense(
        &self,
        cores: &Cores<'_, T>,
        [h, p, q]: [Rows<T::Acc>; 3],
        ([groups, each], one_q): ([usize; 2], bool),
    ) -> Result<()> {
        let [_, rb, rc] = self.block.ranks();
        // SAFETY: the caller's contract.
        let (p, q) = unsafe { (p.view([groups, rb]), q.groups([groups, each, rc], one_q)) };
        cores.each(self.context, |(from, outputs), layer| {
            let pitch = h.ld as isize;
            // SAFETY: these outputs of rows that nothing else uses.
            let y = unsafe {
                let first = h.row(0).add(from);
                let strides = [pitch * each as isize, pitch, 1];
                crate::ViewMut::from_raw_parts(first, [groups, each, outputs], strides)?
            };
            if each == 1 {
                let run = Run { group: 0, m: 0, rows: groups, at: 0 };
                return crate::cpu::forward(&layer, p, rows_of(q, run), y.into_rows());
            }
            crate::cpu::forward_shared(&layer, p, q, y)
        })
    }

    /// Whether y is P⊙Q of which one is an input that can be read in place.
    fn gates(&self, y: &Sinks<T>) -> bool {
        let unit = |stride: isize| stride == 1 || self.block.ranks()[0] == 1;
        let [a, b, c] = self.block.factors;
        let stride = if c.is_some() { self.z.strides()[1] } else { self.x.strides()[2] };
        let one = self.block.is_diagonal() && a.is_none() && b.is_some() != c.is_some();
        one && T::IN_PLACE && unit(stride) && y.unit()
    }

    /// This product, of these rows.
    ///
    /// # Safety
    ///
    /// The scratch has the rows of the factor's side.
    unsafe fn gate(&self, [p, q]: [Rows<T::Acc>; 2], [g, m]: [Part; 2], one_q: bool, y: Sinks<T>) -> Result<()> {
        let [_, rb, rc] = self.block.ranks();
        let (mut z, mut x) = (None, None);
        // SAFETY: the caller's contract.
        unsafe {
            if self.block.factors[1].is_some() {
                z = as_stored(p.view([g.1, rb]));
            } else {
                x = as_stored(q.groups([g.1, m.1, rc], one_q));
            }
        }
        let z = z.unwrap_or_else(|| self.z.slice_rows(g));
        let x = match x {
            Some(x) => x,
            None => self.x.slice(0, g.0..g.0 + g.1)?.slice(1, m.0..m.0 + m.1)?,
        };
        let (context, threads, weights) = (self.context, self.threads, self.block.weights());
        Gating { context, threads, weights, bias: None, z, x }.forward(y.at(g.0, m.0))
    }

    /// Whether all components are added up, of inputs that have no factors and can be read in place.
    fn sums_at_once(&self) -> bool {
        let columns = self.block.ranks()[0];
        let unit = |stride: isize| stride == 1 || columns == 1;
        let [_, b, c] = self.block.factors;
        let bare = self.block.is_spread(0) && b.is_none() && c.is_none();
        bare && unit(self.z.strides()[1]) && unit(self.x.strides()[2])
    }

    /// These sums, each row's in its first element of H.
    ///
    /// # Safety
    ///
    /// The scratch has the rows.
    unsafe fn sums(&self, call: &Call<T>, h: Rows<T::Acc>, [g, m]: [Part; 2], weights: *const T::Acc) -> Result<()> {
        let (columns, each) = (self.block.ranks()[0], self.each());
        let scale = Shared::new(if self.block.weights().is_some() { weights.cast_mut() } else { std::ptr::null_mut() });
        for run in runs(g, m, each, false) {
            let (x, z) = (rows_of(self.x, run), self.z.slice_rows((run.group, 1)));
            let z_stride = if each == 1 { self.z.strides()[0] } else { 0 };
            by_rows(call, run.rows, |part| {
                let from = |first: *const T, stride: isize| first.wrapping_offset(stride.wrapping_mul(part.0 as isize));
                // SAFETY: rows of the operands, contiguous; no other task has these rows of scratch.
                unsafe {
                    (call.table.gate_sum)(&GateSum {
                        rows: part.1,
                        columns,
                        z: Row { first: from(z.host_ptr(), z_stride), stride: z_stride },
                        x: Row { first: from(x.host_ptr(), x.strides()[0]), stride: x.strides()[0] },
                        scale: scale.get().cast_const(),
                        to: h.row(run.at + part.0),
                        to_stride: h.ld,
                    });
                }
            })?;
        }
        Ok(())
    }

    /// H of a diagonal core.
    ///
    /// # Safety
    ///
    /// The scratch has the rows.
    unsafe fn diagonal(
        &self,
        call: &Call<T>,
        [h, p, q]: [Rows<T::Acc>; 3],
        ([groups, each], one_q): ([usize; 2], bool),
        weights: *const T::Acc,
    ) -> Result<()> {
        let columns = self.block.ranks()[0];
        let scale = Shared::new(if self.block.weights().is_some() { weights.cast_mut() } else { std::ptr::null_mut() });
        let (segments, rows, ld_p) = if each == 1 { (1, groups, p.ld) } else { (groups, each, 0) };
        for segment in 0..segments {
            by_rows(call, rows, |part| {
                let at = segment * rows + part.0;
                let (q_row, q_ld) = match (one_q, each) {
                    (false, _) => (at, q.ld),
                    (true, 1) => (0, 0),
                    (true, _) => (part.0, q.ld),
                };
                let p = p.row(segment).wrapping_add(part.0 * ld_p).cast_const();
                // SAFETY: these rows of scratch, by whole vectors; no other task has them.
                unsafe {
                    (call.table.arithmetic.hadamard)(&Hadamard {
                        to: h.row(at),
                        to_stride: h.ld,
                        factors: [(p, ld_p), (q.row(q_row).cast_const(), q_ld)],
                        scale: scale.get().cast_const(),
                        rows: part.1,
                        columns,
                    });
                }
            })?;
        }
        Ok(())
    }
}
