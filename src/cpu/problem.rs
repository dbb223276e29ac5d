//! A call as the drivers see it: operands checked by the API, z and x in the roles that suit the layout of W.

use super::cache::{Caches, caches};
use super::operand::Cube;
use super::simd::Kernels;
use super::table::Table;
use crate::{Context, View};

/// Operands of a dense or linear forward; all sizes agree.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a, T: Kernels> {
    pub(crate) table: &'static Table<T>,
    pub(crate) caches: Caches,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) i: usize,
    pub(crate) j: usize,
    pub(crate) w: Option<Cube<'a, T>>,
    /// Strides of W by which the algorithm is chosen.
    pub(crate) layout: [isize; 3],
    pub(crate) u: Option<View<'a, T, 2>>,
    pub(crate) v: Option<View<'a, T, 2>>,
    pub(crate) b: Option<View<'a, T, 1>>,
}

impl<'a, T: Kernels> Problem<'a, T> {
    pub(crate) fn new(context: &Context, [n, k, i, j]: [usize; 4]) -> Self {
        let table = T::table(context.capability());
        Problem { table, caches: caches(), n, k, i, j, w: None, layout: [0; 3], u: None, v: None, b: None }
    }

    /// The same with z and x (and what belongs to them) exchanged: Σ W[k,i,j] z[i] x[j] = Σ W[k,j,i] x[j] z[i].
    pub(crate) fn swap(self) -> Self {
        let [sk, si, sj] = self.layout;
        let w = self.w.map(Cube::swap);
        Problem { i: self.j, j: self.i, w, layout: [sk, sj, si], u: self.v, v: self.u, ..self }
    }

    /// KC.
    pub(crate) fn kc(&self) -> usize {
        self.caches.kc(self.table)
    }

    /// Elements of a block of W: an eighth of L2, because the next one is brought in beside it, the panels of z, x and y
    /// pass through, and other processors' work may share the cache.
    pub(crate) fn w_block(&self) -> usize {
        (self.caches.l2 / 8).max(96 << 10) / size_of::<T::Acc>()
    }
}
