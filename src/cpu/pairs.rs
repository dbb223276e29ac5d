//! All pairs: y\[p,s,t,k\] = z\[p,s\]ᵀ W_k x\[p,t\] + …, every row of z of a problem p with every row of x of it.
//!
//! ```text
//!   tasks: blocks of rows (p, s) × outputs k
//!   W′[p,s,k][·] = Σ_i z[p,s][i] · W[k][i][·] + V[k][·]      lanes over j; tiles of NR rows (p, s)                dense, d = J
//!                = λ ⊙ A[k] ⊙ zB                             lanes over r                                         CP, d = R
//!   y[p,s,t,k]   = Σ_d W′[p,s,k][d] · X[p,t][d] + b′[p,s,k]  lanes over t, X packed once for all rows (s, k)       X = x, or xC
//! ```
//!
//! Cost P·S·IJK + P·S·T·JK: contracted before it meets the rows of x, which all rows of z share. The sides may change roles
//! ([`Pairs::swap`]), so that the cheaper one is contracted. A tile of MR rows of x is packed (and of CP multiplied by C) for a
//! whole block of W′, which stays in L2; only its sums exist beside it.

mod task;

use super::cache::{Caches, caches, part};
use super::operand::Part;
use super::parallel::{self, Shared};
use super::product::{IN_PLACE_ROWS, Lanes};
use super::scratch;
use super::simd::Kernels;
use super::table::Table;
use crate::interaction::Core;
use crate::{Context, Interaction, Result, View, ViewMut};
pub(super) use task::Task;

/// Elements of W′ in a task: 1 MiB of f32, a usual L2.
pub(super) const GENERATED: usize = 1 << 18;
/// Rows of z in a task, a multiple of every level's NR: packing a strip of W costs about two cycles for each step of depth, using
/// it one for each row.
pub(super) const ROWS: usize = 192;
/// Rows of z that a task should have at least.
const SOME_ROWS: usize = 48;
/// Rows of z below which tasks are not cut for the sake of threads, times NR.
const FEW_TILES: usize = 2;
/// Rows of z in all from which on packing W once costs less than reading it in place, ...
const MANY_ROWS: usize = 256;
/// ... and bytes of packed weights that a call may keep.
const PACKED_BYTES: usize = 4 << 20;

/// Operands, whose sizes agree.
#[derive(Clone, Copy)]
pub(crate) struct Pairs<'a, T: Kernels> {
    pub(crate) table: &'static Table<T>,
    pub(crate) caches: Caches,
    /// P, S, T, K.
    pub(crate) sizes: [usize; 4],
    /// [P, S, I] and [P, T, J].
    pub(crate) z: View<'a, T, 3>,
    pub(crate) x: View<'a, T, 3>,
    pub(crate) core: Core<'a, T>,
    pub(crate) u: Option<View<'a, T, 2>>,
    pub(crate) v: Option<View<'a, T, 2>>,
    pub(crate) b: Option<View<'a, T, 1>>,
}

/// Where y goes: its first element, and the strides of p, s, t and k.
#[derive(Clone, Copy)]
pub(crate) struct To<T> {
    pub(crate) first: *mut T,
    pub(crate) strides: [isize; 4],
}

impl<T> To<T> {
    pub(crate) fn new(mut y: ViewMut<'_, T, 4>) -> Self {
        To { first: y.host_mut_ptr(), strides: y.strides() }
    }

    /// s and t exchanged.
    pub(crate) fn swap(self) -> Self {
        let [p, s, t, k] = self.strides;
        To { strides: [p, t, s, k], ..self }
    }
}

/// Rows of some of the problems as one matrix: all of each of several, evenly spaced, or some of one.
pub(crate) fn rows_of<T>(view: View<'_, T, 3>, p: Part, s: Part) -> View<'_, T, 2> {
    let ([_, _, columns], [sp, ss, sc]) = (view.shape(), view.strides());
    let offset = (p.0 as isize).wrapping_mul(sp).wrapping_add((s.0 as isize).wrapping_mul(ss));
    let stride = if s.1 == 1 && p.1 > 1 { sp } else { ss };
    // SAFETY: rows of the view, evenly spaced as the blocks are cut.
    unsafe { View::from_raw_parts(view.host_ptr().wrapping_offset(offset), [p.1 * s.1, columns], [stride, sc]) }
}

/// Whether the rows of all problems are evenly spaced.
pub(crate) fn flat([_, rows, _]: [usize; 3], [sp, ss, _]: [isize; 3]) -> bool {
    rows == 1 || sp == ss.wrapping_mul(rows as isize)
}

impl<'a, T: Kernels> Pairs<'a, T> {
    /// `layer` has no weights without elements.
    pub(crate) fn new(
        layer: &Interaction<'a, T>,
        context: &Context,
        z: View<'a, T, 3>,
        x: View<'a, T, 3>,
    ) -> Result<Self>
    where
        T: crate::Element,
    {
        let (table, caches) = (T::table(context.capability()), caches());
        let ([p, s, _], [_, t, _]) = (z.shape(), x.shape());
        let (z, x) = (z.slice(2, 0..layer.i)?, x.slice(2, 0..layer.j)?);
        let (core, u, v, b) = (layer.core, layer.u, layer.v, layer.b);
        Ok(Pairs { table, caches, sizes: [p, s, t, layer.k], z, x, core, u, v, b })
    }

    /// z and x exchanged, and what belongs to them.
    pub(crate) fn swap(self) -> Self {
        let [p, s, t, k] = self.sizes;
        let core = match self.core {
            Core::Dense(w) => Core::Dense(w.permute([0, 2, 1]).unwrap_or(w)), // a permutation
            Core::Cp { a, b, c, lambda } => Core::Cp { a, b: c, c: b, lambda },
            other => other,
        };
        Pairs { sizes: [p, t, s, k], z: self.x, x: self.z, core, u: self.v, v: self.u, ..self }
    }

    /// Whether it is cheaper to contract x first.
    pub(crate) fn prefers_swap(&self) -> bool {
        // Lanes run over t.
        let cost = |p: &Self| {
            let [_, s, t, k] = p.sizes.map(|len| len as f64);
            let padded = p.sizes[2].next_multiple_of(p.table.lanes) as f64;
            let [i, j] = [p.z.shape()[2], p.x.shape()[2]].map(|len| len as f64);
            match p.core {
                Core::Cp { a, .. } => a.shape()[1] as f64 * (s * i + padded * j + s * k * padded),
                _ => k * s * j * (i + padded) + t,
            }
        };
        cost(&self.swap()) < cost(self)
    }

    /// Length of a row of W′.
    pub(crate) fn depth(&self) -> usize {
        match self.core {
            Core::Absent => 0,
            Core::Cp { a, .. } => a.shape()[1],
            _ => self.x.shape()[2],
        }
    }

    fn is_dense(&self) -> bool {
        matches!(self.core, Core::Dense(_))
    }

    /// y on so many threads.
    pub(crate) fn forward(&self, y: To<T>, threads: usize) -> Result<()> {
        if self.prefers_swap() {
            return self.swap().contract_z(y.swap(), threads, None);
        }
        self.contract_z(y, threads, None)
    }

    /// y by contracting z first; with a scale the sum of all problems' times that, and b.
    pub(super) fn contract_z(&self, y: To<T>, threads: usize, scale: Option<T::Acc>) -> Result<()> {
        let blocks = Blocks::new(self, threads, scale.is_some());
        let [p, s, t, k] = self.sizes;
        scratch::with([blocks.packed], |[packed]| {
            let weights = Weights::new(self, if blocks.packed > 0 { packed } else { std::ptr::null_mut() });
            let shared = Shared::new(y.first);
            let (outer, each) = if scale.is_some() { (t, blocks.tb) } else { (p, blocks.pb) };
            let cuts = [outer.div_ceil(each), s.div_ceil(blocks.sb), k.div_ceil(blocks.kb)];
            parallel::run(threads, cuts.iter().product(), |index| {
                let (rest, k0) = (index % (cuts[0] * cuts[1]), index / (cuts[0] * cuts[1]) * blocks.kb);
                let (first, s0) = (rest / cuts[1] * each, rest % cuts[1] * blocks.sb);
                let part = (first, each.min(outer - first));
                let (s, k) = ((s0, blocks.sb.min(s - s0)), (k0, blocks.kb.min(k - k0)));
                scratch::with(blocks.lengths, |scratch| {
                    let task = Task { pairs: self, blocks: &blocks, weights: &weights, k, scratch };
                    let y = To { first: shared.get(), ..y };
                    // SAFETY: the scratch has the lengths that `Blocks` computed for these blocks, the operands' shapes
                    // agree, and no other task writes these rows and outputs.
                    unsafe {
                        match scale {
                            None => task.run(part, s, y),
                            Some(scale) => task.reduce(part, s, y, scale),
                        }
                    }
                    Ok(())
                })
            })
        })
    }
}

/// Sizes of the blocks.
pub(crate) struct Blocks {
    /// Problems in a task; of several all rows.
    pb: usize,
    /// Rows of z of each.
    sb: usize,
    /// Outputs.
    kb: usize,
    /// Rows of x whose sums are kept: a tile, or if all problems are summed as many as fit.
    tb: usize,
    /// Distance between rows of W′, and between rows of b′.
    ld: usize,
    bias_ld: usize,
    kc: usize,
    /// Whether the rows of z are so few that packing W would not pay.
    few: bool,
    /// Length of the weights packed for the whole call, if they are.
    pub(crate) packed: usize,
    /// Lengths of a task's scratch: W′, zB, λ⊙A, λ, b′, a panel of x, sums, xVᵀ, xC, a panel of it, a strip, a tile, staged rows.
    pub(crate) lengths: [usize; 13],
}

impl Blocks {
    pub(crate) fn new<T: Kernels>(p: &Pairs<'_, T>, threads: usize, reduced: bool) -> Blocks {
        let ([problems, s, t, k], [_, _, i], depth) = (p.sizes, p.z.shape(), p.depth());
        let (mr, nr, kc) = (p.table.mr, p.table.nr, p.caches.kc(p.table));
        let ld = depth.next_multiple_of(mr) + 16;
        let most = (GENERATED / ld).max(1);
        let wanted = if threads > 1 { 4 * threads } else { 1 };
        // As many outputs as leave room for some rows, in whole vectors, by which they are written.
        let kb = part(k, (most / SOME_ROWS).max(1), p.table.lanes.min((most / SOME_ROWS).max(1))).max(1);
        let rows = (most / kb).clamp(1, ROWS);
        // Whole problems if they are many and small, else parts of one; fewer rows for the sake of threads.
        let (even, apart) = (flat(p.z.shape(), p.z.strides()), if reduced { 1 } else { problems });
        let pb = if even && s > 0 && !reduced { (rows / s).clamp(1, problems.div_ceil(wanted).max(1)) } else { 1 };
        let pb = part(problems, pb, 1).max(1);
        let least = s.div_ceil(wanted.div_ceil(apart.div_ceil(pb).max(1))).max(FEW_TILES * nr);
        let sb = if pb > 1 { s } else { part(s, rows.min(least), 1).max(1) };
        let most = if reduced { (GENERATED / (sb * kb)).max(mr) } else { mr };
        let tb = part(t, most, mr).next_multiple_of(mr).max(mr);
        let bias_ld = kb.next_multiple_of(mr) + 16;
        let strips = |len: usize| len.next_multiple_of(mr);
        let packed = match p.core {
            Core::Dense(_) => k.saturating_mul(i).saturating_mul(strips(depth)),
            Core::Cp { .. } => i.saturating_add(p.x.shape()[2]).saturating_mul(strips(depth)),
            _ => 0,
        };
        let all = problems.saturating_mul(s);
        let fits = packed.saturating_mul(size_of::<T::Acc>()) <= PACKED_BYTES;
        let packed = if fits && all >= MANY_ROWS { packed } else { 0 };
        let few = all <= IN_PLACE_ROWS;
        let (cp, linear) = (matches!(p.core, Core::Cp { .. }), !p.is_dense() && p.v.is_some());
        let when = |used: bool, len: usize| if used { len } else { 0 };
        let rows = pb * sb;
        let lengths = [
            rows * kb * ld,
            when(cp, rows * ld),
            when(cp, kb * ld),
            when(cp, ld),
            rows * bias_ld,
            kc * mr,
            sb * kb * tb,
            when(linear, kb * mr),
            when(cp, ROWS * ld),
            when(cp, depth * mr),
            kc * mr,
            rows.max(ROWS) * mr,
            (rows.max(ROWS) * (kc + 16)).max(kc * (ROWS + 16)),
        ];
        Blocks { pb, sb, kb, tb, ld, bias_ld, kc, few, packed, lengths }
    }
}

/// The weights that inputs are multiplied by, W, or B and C: packed for the whole call where they fit.
pub(super) struct Weights<'a, T: Kernels> {
    packed: *const T::Acc,
    core: Core<'a, T>,
    mr: usize,
}

// SAFETY: the packed weights are only read once tasks run.
unsafe impl<T: Kernels> Sync for Weights<'_, T> {}

impl<'a, T: Kernels> Weights<'a, T> {
    /// Packed at `to`, which has the room that `Blocks` counted, unless that is null.
    fn new(p: &Pairs<'a, T>, to: *mut T::Acc) -> Self {
        let mut next = to;
        let outputs = if to.is_null() { 0 } else { p.sizes[3] };
        match p.core {
            Core::Dense(w) => {
                for k in 0..outputs {
                    // SAFETY: the room was counted for all outputs.
                    unsafe { Lanes::pack_all(p.table, w.matrix(k), &mut next) };
                }
            }
            Core::Cp { b, c, .. } => {
                for factor in [b, c] {
                    // SAFETY: as above.
                    unsafe { Lanes::pack_all(p.table, factor, &mut next) };
                }
            }
            Core::Absent | Core::Blocks(_) => {} // no blocks, which have a driver of their own
        }
        Weights { packed: to, core: p.core, mr: p.table.mr }
    }

    /// Those of an output; of CP B, or C.
    fn of(&self, k: usize) -> Option<Lanes<'a, T>> {
        let (view, first) = match self.core {
            Core::Dense(w) => {
                let [_, rows, columns] = w.shape();
                (w.matrix(k), k * rows * columns.next_multiple_of(self.mr))
            }
            Core::Cp { b, .. } if k == 0 => (b, 0),
            Core::Cp { b, c, .. } => (c, b.shape()[0] * b.shape()[1].next_multiple_of(self.mr)),
            Core::Absent | Core::Blocks(_) => return None,
        };
        let packed = if self.packed.is_null() { self.packed } else { self.packed.wrapping_add(first) };
        // SAFETY: packed one behind the other by `new`, for as long as the call.
        Some(unsafe { Lanes::packed_at(view, packed) })
    }
}

/// y [S, T, K] = b, or 0.
pub(crate) fn fill<T: Kernels>(y: To<T>, [s, t, k]: [usize; 3], b: Option<View<'_, T, 1>>) -> Result<()> {
    let [_, ss, st, sk] = y.strides;
    for k in 0..k {
        let value = T::from_acc(b.and_then(|b| b.get([k])).map_or(T::Acc::default(), T::to_acc));
        for (s, t) in (0..s).flat_map(|s| (0..t).map(move |t| (s, t))) {
            let offset = (s as isize).wrapping_mul(ss).wrapping_add((t as isize).wrapping_mul(st));
            // SAFETY: an element of y.
            unsafe { *y.first.wrapping_offset(offset.wrapping_add((k as isize).wrapping_mul(sk))) = value };
        }
    }
    Ok(())
}
