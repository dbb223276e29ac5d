//! All pairs of blocks: problem by problem, whose rows of z are groups that share all rows of x. Q = xC is formed once for them,
//!
//! ```text
//!   loop 3   blocks of rows t                     Q; dQ[t] = Σ_s dQ[s,t], from it dx and dC once
//!   loop 2     blocks of rows s                   P; H, D of all (s, t), and what comes of them: dA, dz, dB
//! ```
//!
//! and so is dx: what is added up over s has Rc columns, not J. A block that is dense or CP alone goes to pairs.rs of the engine.

use super::backward::{Arrays, Needed, PART, factor};
use super::batch::{Sinks, is_flat, rows_of, runs};
use super::general::General;
use super::stage::{Rows, by_rows, deliver, ld};
use super::{Batch, again, plain};
use crate::cpu::cache::parts;
use crate::cpu::gradient::jobs::{Call, To};
use crate::cpu::kernels::add_into;
use crate::cpu::output::{Place, Sink};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::interaction::Core;
use crate::wanted::{Gradient, Wanted, WantedBlock, WantedFactors};
use crate::{Block, Context, Element, Interaction, Result, View, ViewMut};

/// y [P, S, T, K]. No axis is empty.
pub(crate) fn forward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    mut y: ViewMut<'_, T, 4>,
) -> Result<()> {
    if let [block] = layer.terms()
        && let Some(layer) = plain(layer, block)
    {
        return crate::cpu::forward_pairs(&layer, z, x, y);
    }
    let ([problems, s, t, _], [sp, ss, st, sk]) = (y.shape(), y.strides());
    let none = Interaction { u: None, v: None, b: None, ..*layer };
    // Where sums can be added up in y, the linear terms meet each row once.
    let linear = Interaction { core: Core::Absent, ..*layer };
    let apart = T::IN_PLACE && (layer.u.is_some() || layer.v.is_some() || layer.b.is_some());
    if apart {
        crate::cpu::forward_pairs(&linear.along([true, false, false]), z, x, y.reborrow())?;
    }
    let rest = if apart { &none } else { layer };
    let first = y.host_mut_ptr();
    for problem in 0..problems {
        let first = first.wrapping_offset((problem as isize).wrapping_mul(sp));
        let place = if apart { Place::Added(first.cast()) } else { Place::Stored(first) };
        let x = x.slice(0, problem..problem + 1)?.broadcast(0, s)?;
        Batch::new(rest, z.matrix(problem), x)?.forward(Sinks::new(place, [ss, st, sk], t))?;
    }
    Ok(())
}

/// The gradients of all pairs. No axis is empty.
pub(crate) fn backward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 4>,
    wanted: Wanted<'_, T, 3, 3>,
) -> Result<()> {
    let (mut to_z, mut to_x, blocks) = (wanted.z, wanted.x, wanted.blocks);
    if let ([block], None) = (layer.terms(), &wanted.w)
        && let Some(layer) = plain(layer, block)
    {
        let of = std::mem::take(blocks.first_mut().unwrap_or(&mut WantedBlock::default()));
        let cp = WantedFactors { a: of.a, b: of.b, c: of.c, lambda: of.diagonal };
        let wanted = Wanted { z: to_z, x: to_x, w: of.core, cp, blocks: &mut [], ..wanted };
        return crate::cpu::backward_pairs(&layer, z, x, g, wanted, 1.0);
    }
    let context = layer.context()?.automatic();
    let (has_u, has_v) = (layer.u.is_some(), layer.v.is_some());
    let linear = Interaction { core: Core::Absent, context: Some(context), ..*layer };
    let share = Wanted {
        z: again(&mut to_z, has_u),
        x: again(&mut to_x, has_v),
        w: wanted.w,
        u: wanted.u,
        v: wanted.v,
        b: wanted.b,
        ..Wanted::default()
    };
    crate::cpu::backward_pairs(&linear.along([true; 3]), z, x, g, share, 1.0)?;
    let problem_of = |to: &mut Option<Gradient<'_, T::Accumulator, 3>>, problem: usize, here: bool| {
        let Some(Gradient { to, add }) = to else { return Ok(None) };
        let ([_, rows, columns], [sp, row, column]) = (to.shape(), to.strides());
        let first = to.host_mut_ptr().wrapping_offset((problem as isize).wrapping_mul(sp));
        // SAFETY: the rows of one problem.
        let to = unsafe { ViewMut::from_raw_parts(first, [rows, columns], [row, column])? };
        Ok::<_, crate::Error>(Some(To::matrix(Gradient { to, add: *add || here })))
    };
    let mut nothing = WantedBlock::default();
    for (index, block) in layer.terms().iter().enumerate() {
        let wanted = match blocks.get_mut(index) {
            Some(wanted) => wanted,
            None => &mut nothing,
        };
        if block.is_empty() {
            continue; // its gradients are zeros already
        }
        // What comes before this block has written.
        let before = layer.terms()[..index].iter().any(|block| !block.is_empty());
        for problem in 0..g.shape()[0] {
            let to =
                [problem_of(&mut to_z, problem, has_u || before)?, problem_of(&mut to_x, problem, has_v || before)?];
            let ([_, s, t, k], [sp, ss, st, sk]) = (g.shape(), g.strides());
            // SAFETY: the pairs of one problem.
            let g = unsafe {
                let first = g.host_ptr().wrapping_offset((problem as isize).wrapping_mul(sp));
                View::from_raw_parts(first, [s, t, k], [ss, st, sk])
            };
            Meeting { context, block: *block, z: z.matrix(problem), x: x.matrix(problem) }.backward(g, to, wanted)?;
            wanted.later();
        }
        *wanted = WantedBlock::default();
    }
    Ok(())
}

/// A block, rows of z [S, I] and rows of x [T, J] that all meet.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'a, T: Element> {
    pub(super) context: Context,
    pub(super) block: Block<'a, T>,
    pub(super) z: View<'a, T, 2>,
    pub(super) x: View<'a, T, 2>,
}

impl<T: Element> Meeting<'_, T> {
    /// The block's share of y [S, T, K], in memory of these strides.
    pub(super) fn forward(&self, place: Place<T>, strides: [isize; 3]) -> Result<()> {
        let one = [self.block];
        let layer = Interaction::blocks(&one)?.with_context(self.context);
        let x = self.x.as_output().broadcast(0, self.z.shape()[0])?;
        let y = Sinks::new(place, strides, self.x.shape()[0]);
        Batch::new(&layer, self.z, x)?.share(self.block, None, y)
    }

    /// The gradients for that of y, `g` [S, T, K]: dz, dx, and those of the block that are wanted.
    pub(super) fn backward(
        &self,
        g: View<'_, T, 3>,
        inputs: [Option<To<T::Accumulator>>; 2],
        wanted: &mut WantedBlock<'_, T>,
    ) -> Result<()> {
        let one = [self.block];
        let layer = Interaction::blocks(&one)?.with_context(self.context);
        let x = self.x.as_output().broadcast(0, self.z.shape()[0])?;
        Batch::new(&layer, self.z, x)?.general(self.block).backward_pairs(g, inputs, wanted)
    }
}

impl<T: Element> General<'_, T> {
    /// The gradients of rows of z that all meet the same rows of x, for those of y, `g` [S, T, K].
    fn backward_pairs(
        &self,
        g: View<'_, T, 3>,
        [dz, dx]: [Option<To<T::Accumulator>>; 2],
        wanted: &mut WantedBlock<'_, T>,
    ) -> Result<()> {
        let (s, t) = (self.z.shape()[0], self.each());
        let (call, blocks) = (self.call(), self.blocks());
        let [_, _, rc] = self.block.ranks();
        let [ld_h, ld_p, ld_q] = blocks.ld;
        let [da, db, dc] =
            [&mut wanted.a, &mut wanted.b, &mut wanted.c].map(|to| again(to, true)).map(|to| to.map(To::matrix));
        let needed = Needed {
            h: da.is_some(),
            of_p: dz.is_some() || db.is_some(),
            of_q: dx.is_some() || dc.is_some(),
            core: wanted.core.is_some() || wanted.diagonal.is_some(),
        };
        let (rows, diagonal) = (blocks.rows(), self.block.is_diagonal());
        let lengths = [
            if diagonal { 0 } else { rows * ld_h },
            rows * ld_h,
            blocks.groups * ld_p,
            blocks.each * ld_q,
            blocks.groups * ld_p,
            rows * ld_q,
            ld_h,
            rows.div_ceil(PART) * ld_h,
            blocks.widened.1,
            blocks.each * ld_q,
        ];
        let flat = is_flat(t, g.strides());
        scratch::with(lengths, |[h, d, p, q, of_p, of_q, weights, partial, core, all_q]| {
            let arrays = Arrays {
                h: Rows::new(if diagonal { d } else { h }, ld_h),
                d: Rows::new(d, ld_h),
                p: Rows::new(p, ld_p),
                q: Rows::new(q, ld_q),
                one_q: true,
                of_p: Rows::new(of_p, ld_p),
                of_q: Rows::new(of_q, ld_q),
                weights,
                partial,
            };
            let (all_q, room) = (Rows::new(all_q, ld_q), Rows::new(std::ptr::null_mut(), ld(0)));
            let cores = self.cores(&blocks, core);
            let [b, c] = [1, 2].map(|side| self.block.factors[side].map(View::transpose));
            let mut fresh = true;
            // SAFETY: the scratch has the lengths of these blocks, and all shapes agree.
            unsafe {
                self.weights(weights);
                for m in parts(t, blocks.each, 1) {
                    let x = self.x.matrix(0).slice_rows(m);
                    self.project(&call, 2, x, arrays.q)?;
                    for row in 0..m.1 {
                        std::slice::from_raw_parts_mut(all_q.row(row), rc).fill(T::Accumulator::default());
                    }
                    for part in parts(s, blocks.groups, 1) {
                        let z = self.z.slice_rows(part);
                        self.project(&call, 1, z, arrays.p)?;
                        for run in runs(part, m, t, flat) {
                            self.project(&call, 0, rows_of(g, run), arrays.d.from(run.at))?;
                        }
                        let shape = [part.1, m.1];
                        match &cores {
                            Some(cores) => {
                                let to = wanted.core.as_mut();
                                self.dense_back(cores, &arrays, shape, needed, (true, fresh), to)?;
                            }
                            None => {
                                let to = wanted.diagonal.as_mut();
                                self.diagonal_back(&call, &arrays, shape, needed, (true, fresh), to)?;
                            }
                        }
                        if let Some(to) = da {
                            let columns = self.folded(0, arrays.h, part.1 * m.1);
                            for run in runs(part, m, t, flat) {
                                let rows = arrays.h.from(run.at);
                                factor(&call, rows_of(g, run), (rows, columns), to, fresh && run.at == 0)?;
                            }
                        }
                        if needed.of_p {
                            let columns = self.folded(1, arrays.of_p, part.1);
                            if let Some(to) = db {
                                factor(&call, z, (arrays.of_p, columns), to, fresh)?;
                            }
                            if let Some(to) = dz {
                                let sink = if m.0 > 0 { to.sink::<T>().adding() } else { to.sink() };
                                deliver(&call, (arrays.of_p, [part.1, columns]), b, sink.at(part.0, 0), room)?;
                            }
                        }
                        if needed.of_q {
                            add_up(&call, arrays.of_q, shape, (all_q, rc))?;
                        }
                        fresh = false;
                    }
                    if needed.of_q {
                        let columns = self.folded(2, all_q, m.1);
                        if let Some(to) = dc {
                            factor(&call, x, (all_q, columns), to, m.0 == 0)?;
                        }
                        if let Some(to) = dx {
                            let sink: Sink<T> = to.sink();
                            deliver(&call, (all_q, [m.1, columns]), c, sink.at(m.0, 0), room)?;
                        }
                    }
                }
            }
            Ok(())
        })
    }
}

/// Rows of all groups added to one group's.
///
/// # Safety
///
/// There are so many groups, rows of each and columns.
unsafe fn add_up<T: Kernels>(
    call: &Call<T>,
    from: Rows<T::Acc>,
    [groups, each]: [usize; 2],
    (to, columns): (Rows<T::Acc>, usize),
) -> Result<()> {
    by_rows(call, each, |part| {
        for row in part.0..part.0 + part.1 {
            // SAFETY: the caller's contract; no other task has this row.
            unsafe {
                let to = std::slice::from_raw_parts_mut(to.row(row), columns);
                for group in 0..groups {
                    add_into(to, std::slice::from_raw_parts(from.row(group * each + row).cast_const(), columns));
                }
            }
        }
    })
}
