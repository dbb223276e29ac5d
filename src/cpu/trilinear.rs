//! The trilinear form T = Σ W\[k,i,j\] g\[n,k\] z\[n,i\] x\[n,j\] and how one of its gradients is computed: which axis is summed
//! in the microkernel, and which in its epilogue.
//!
//! y, dz and dx are the gradients of T in g, z and x: one contraction with the axes of W in other roles.

use super::cache::{Caches, caches};
use super::operand::Cube;
use super::simd::Kernels;
use super::table::Table;
use crate::{Context, View};

/// Operands; all sizes agree. Axes are k, i, j throughout.
#[derive(Clone, Copy)]
pub(crate) struct Trilinear<'a, T: Kernels> {
    pub(crate) table: &'static Table<T>,
    pub(crate) caches: Caches,
    /// Rows of the batch.
    pub(crate) n: usize,
    /// K, I, J.
    pub(crate) lengths: [usize; 3],
    /// g, z, x: those that are needed.
    pub(crate) inputs: [Option<View<'a, T, 2>>; 3],
    pub(crate) w: Option<Cube<'a, T>>,
    /// Strides of W by which roles are chosen.
    pub(crate) layout: [isize; 3],
    /// U [K, I], between k and i.
    pub(crate) u: Option<View<'a, T, 2>>,
    /// V [K, J], between k and j.
    pub(crate) v: Option<View<'a, T, 2>>,
    /// b, of axis k.
    pub(crate) bias: Option<View<'a, T, 1>>,
}

/// The axes of W by what becomes of them: `c` is the depth of the microkernel, rows of its tiles are along `b`, `a` is the
/// loop around. The gradient along `a` sums over b (a dot in the epilogue), that along `b` over a (an axpy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) a: usize,
    pub(crate) b: usize,
    pub(crate) c: usize,
    /// Of the gradient along `b` alone: whether the microkernel sums over a as well, for which it forms the products of the
    /// inputs along a and c.
    pub(crate) khatri_rao: bool,
}

impl Roles {
    /// Whether the gradients along a and b are among those of `outs`.
    pub(crate) fn wanted(&self, outs: [bool; 3]) -> (bool, bool) {
        (outs[self.a], outs[self.b])
    }
}

impl<'a, T: Kernels> Trilinear<'a, T> {
    pub(crate) fn new(context: &Context, n: usize, lengths: [usize; 3]) -> Self {
        let table = T::table(context.capability());
        let (inputs, layout) = ([None; 3], [0; 3]);
        Trilinear { table, caches: caches(), n, lengths, inputs, w: None, layout, u: None, v: None, bias: None }
    }

    pub(crate) fn kc(&self) -> usize {
        self.caches.kc(self.table)
    }

    /// The weights between two axes as rows along the first.
    pub(crate) fn between(&self, row: usize, column: usize) -> Option<View<'a, T, 2>> {
        match (row, column) {
            (0, 1) => self.u,
            (1, 0) => self.u.map(View::transpose),
            (0, 2) => self.v,
            (2, 0) => self.v.map(View::transpose),
            _ => None,
        }
    }

    /// The axes from the outermost in memory to the innermost. An axis without a second element, or broadcast, is not the
    /// innermost if another can be.
    pub(crate) fn order(&self) -> [usize; 3] {
        let mut order = [0, 1, 2];
        order.sort_by_key(|&axis| match (self.lengths[axis], self.layout[axis].unsigned_abs()) {
            (_, 0) | (0 | 1, _) => (0, 0),
            (_, stride) => (1, usize::MAX - stride),
        });
        order
    }

    /// Whether axis `axis` is contiguous in memory.
    fn unit(&self, axis: usize) -> bool {
        self.layout[axis] == 1 || self.lengths[axis] <= 1
    }

    /// The cheapest roles for the gradients along one axis, or two at once, and their cost: see [`cycles`](Self::cycles).
    pub(crate) fn roles(&self, outs: [bool; 3]) -> (Roles, f64) {
        let (fused, cost) = self.roles_of(outs, false);
        let (other, other_cost) = self.roles_of(outs, true);
        if cost <= other_cost { (fused, cost) } else { (other, other_cost) }
    }

    /// Those with the Khatri-Rao product, or without; there are none with it for two gradients at once.
    pub(crate) fn roles_of(&self, outs: [bool; 3], khatri_rao: bool) -> (Roles, f64) {
        let [p, q, s] = self.order();
        let candidates = [(p, q, s), (q, p, s), (p, s, q), (q, s, p)];
        let mut best = (Roles { a: p, b: q, c: s, khatri_rao: false }, f64::INFINITY);
        for (a, b, c) in candidates {
            let roles = Roles { a, b, c, khatri_rao };
            if !outs[c] && (!khatri_rao || roles.wanted(outs) == (false, true)) {
                let cost = self.cycles(roles, outs);
                if cost < best.1 {
                    best = (roles, cost);
                }
            }
        }
        best
    }

    /// Cycles for one tile of the batch, from what the kernels issue.
    fn cycles(&self, roles: Roles, outs: [bool; 3]) -> f64 {
        let Roles { a, b, c, khatri_rao } = roles;
        let [outer, _, inner] = self.order();
        let [la, lb, lc] = [a, b, c].map(|axis| self.lengths[axis] as f64);
        let tiles = (self.n as f64 / self.table.mr as f64).max(1.0);
        let vectors = self.table.mr as f64 / self.table.lanes as f64;
        let elements = la * lb * lc;
        // Staging W takes about half a cycle an element by vectors, three by strides.
        let staging = match (T::IN_PLACE && c != outer, self.unit(inner)) {
            (true, true) => 0.0,
            (_, true) => 0.5,
            _ => 3.0,
        };
        // Rows that do not follow each other in memory are not brought in advance.
        let far = if b == outer { 0.3 } else { 0.0 };
        let weights = (staging + far) * elements / tiles;
        let kc = self.kc() as f64;
        let passes = (lc / kc).ceil().max(1.0);
        if khatri_rao {
            // A product is formed in one and a half, and in each row of tiles it takes two to go to the next a. Rows that lie
            // a power of two apart share a few sets of L1.
            let shared = if b == outer && self.layout[b].unsigned_abs().is_multiple_of(1024) { 0.1 } else { 0.0 };
            let outs = (kc / lc.max(1.0)).floor().clamp(1.0, la.max(1.0));
            let calls = (la / outs).ceil() * passes;
            // Rows of several outputs are no one run of memory, unless all of them are in a block.
            let apart = outs > 1.0 && c == inner && outs * lb * lc > (self.caches.l2 / 4 / size_of::<T::Acc>()) as f64;
            let weights = weights + if apart { 0.3 * elements / tiles } else { 0.0 };
            let turns = 2.0 * la * passes * (lb / self.table.nr as f64).ceil();
            return weights
                + calls * rows(self.table, self.lengths[b], outs * lc / passes, vectors, 1.0)
                + (1.5 + shared * lb) * la * lc * vectors
                + turns;
        }
        let epilogue = match roles.wanted(outs) {
            (true, true) => 3.0,
            (false, true) => 2.0,
            _ => 1.0,
        };
        weights + la * passes * rows(self.table, self.lengths[b], lc / passes, vectors, epilogue)
    }
}

/// Cycles of the microkernel for so many rows: two FMAs a cycle (8 to cover their latency), and what it takes to start
/// and finish a tile, whose vectors are each used `epilogue` times.
pub(crate) fn rows<T: Kernels>(table: &Table<T>, rows: usize, depth: f64, vectors: f64, epilogue: f64) -> f64 {
    const START: f64 = 10.0;
    let tiles = rows.div_ceil(table.nr) as f64;
    let size = rows as f64 / tiles.max(1.0);
    let step = (vectors * size / 2.0).max(4.0);
    tiles * (depth * step + START + epilogue * vectors * size)
}
