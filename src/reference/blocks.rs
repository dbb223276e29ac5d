//! Blocks by their definition: y, and the derivatives of T = Σ g·y in each operand.
//!
//! Depths, with \[B\] for 1 where the factor B is present and 0 where it is not:
//!
//! | result | depth |
//! |---|---|
//! | y | I\[B\] + J\[C\] + Ra\[A\] + 4, and Rb·Rc of a dense core |
//! | dz | K\[A\] + J\[C\] + Rb\[B\] + M + 3, and Ra·Rc |
//! | dx | K\[A\] + I\[B\] + Rc\[C\] + 4, and Ra·Rb |
//! | dA | N + I\[B\] + J\[C\] + 4, and Rb·Rc |
//! | dB | N + K\[A\] + J\[C\] + 4, and Ra·Rc |
//! | dC | N + K\[A\] + I\[B\] + 4, and Ra·Rb |
//! | dG, dd | N + K\[A\] + I\[B\] + J\[C\] + 4 |
//!
//! A term passes through the sum that a factor is (P = zB, Q = xC, dH = gA: their product is rounded in it), through that of the
//! core, and through the sum over the rows; the rest are its products. It is the count of `backward.rs` for CP, a diagonal core with
//! all factors, and for dense W, a core without any. The gradient of a factor of one column adds up R components more.
//! The results of several blocks are added to each other: as many additions more as there are blocks.

use super::Reference;
use super::terms::{Matrix, Terms, reference, sum};
use crate::block::Center;
use crate::{Block, Element, Result, Tensor};

/// The exact gradients of a block's operands.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockGradients {
    /// dG, as [Ra·Rb, Rc]; of a diagonal core dd, [R, 1], at d = 1 if it has no weights.
    pub core: Reference,
    /// dA [K, Ra], of the columns that it has, if the block has A.
    pub a: Option<Reference>,
    /// dB [I, Rb].
    pub b: Option<Reference>,
    /// dC [J, Rc].
    pub c: Option<Reference>,
}

/// A factor, and how many columns it has.
struct Factor {
    values: Matrix,
    columns: usize,
}

impl Factor {
    /// The element of a component.
    fn at(&self, row: usize, component: usize) -> Terms {
        self.values.at(row, if self.columns == 1 { 0 } else { component })
    }
}

/// A block as f64.
pub(super) struct Exact {
    ranks: [usize; 3],
    sizes: [usize; 3],
    diagonal: bool,
    /// G as [Ra·Rb, Rc], or d as [1, R].
    core: Matrix,
    factors: [Option<Factor>; 3],
}

impl Exact {
    pub(super) fn of<T: Element>(block: &Block<'_, T>) -> Result<Exact> {
        let core = match block.center {
            Center::Diagonal(r, None) => Matrix::new([1, r], |_, _| 1.0.into())?,
            Center::Diagonal(_, Some(weights)) => Matrix::of(weights)?,
            Center::Dense(core) => Matrix::of(core)?,
        };
        let [a, b, c] = block.factors.map(|factor| {
            factor.map(|factor| Ok(Factor { values: Matrix::of(factor)?, columns: factor.shape()[1] })).transpose()
        });
        let (ranks, sizes) = (block.ranks(), block.sizes());
        Ok(Exact { ranks, sizes, diagonal: block.is_diagonal(), core, factors: [a?, b?, c?] })
    }

    /// The length of the sum that a factor is, if it is present.
    fn projection(&self, side: usize) -> usize {
        if self.factors[side].is_some() { self.sizes[side] } else { 0 }
    }

    /// The depth of a dense core's sum over all but one axis.
    fn core_depth(&self, but: usize) -> usize {
        let others = self.ranks.iter().enumerate().filter(|(side, _)| *side != but).map(|(_, &rank)| rank);
        if self.diagonal { 0 } else { others.fold(1, usize::saturating_mul).min(usize::MAX / 16) }
    }

    /// R of a factor on the way back.
    fn back(&self, side: usize) -> usize {
        if self.factors[side].is_some() { self.ranks[side] } else { 0 }
    }

    /// Additions of components to a factor of one column.
    fn spread(&self, side: usize) -> usize {
        if self.factors[side].as_ref().is_some_and(|factor| factor.columns == 1) { self.ranks[side] } else { 0 }
    }

    pub(super) fn depth(&self) -> usize {
        self.projection(1) + self.projection(2) + self.back(0) + self.core_depth(0) + 4
    }

    fn projected(&self, side: usize, rows: usize, input: &Matrix) -> Result<Matrix> {
        Matrix::new([rows, self.ranks[side]], |n, r| match &self.factors[side] {
            Some(factor) => sum(self.sizes[side], |feature| input.at(n, feature) * factor.at(feature, r)),
            None => input.at(n, r),
        })
    }

    fn hidden(&self, rows: usize, p: impl Fn(usize, usize) -> Terms, q: &Matrix) -> Result<Matrix> {
        let [ra, rb, rc] = self.ranks;
        Matrix::new([rows, ra], |n, a| match self.diagonal {
            true => self.core.at(0, a) * p(n, a) * q.at(n, a),
            false => sum(rb, |b| p(n, b) * sum(rc, |c| self.core.at(a * rb + b, c) * q.at(n, c))),
        })
    }

    /// y [N, K], of z [G, I] whose rows meet `each` rows of x.
    pub(super) fn forward(&self, [groups, each]: [usize; 2], z: &Matrix, x: &Matrix) -> Result<Matrix> {
        let n = groups * each;
        let (p, q) = (self.projected(1, groups, z)?, self.projected(2, n, x)?);
        let h = self.hidden(n, |n, r| p.at(n / each, r), &q)?;
        Matrix::new([n, self.sizes[0]], |n, k| match &self.factors[0] {
            Some(a) => sum(self.ranks[0], |r| a.at(k, r) * h.at(n, r)),
            None => h.at(n, k),
        })
    }

    /// dz and dx by their element, and the gradients of the block.
    pub(super) fn backward(&self, groups: usize, each: usize, [z, x, g]: [&Matrix; 3]) -> Result<Derivatives> {
        let (n, [k, i, j], [ra, rb, rc]) = (groups * each, self.sizes, self.ranks);
        let [a, b, c] = &self.factors;
        let (p, q) = (self.projected(1, groups, z)?, self.projected(2, n, x)?);
        let p = |n: usize, r: usize| p.at(n / each, r);
        let z = |n: usize, i: usize| z.at(n / each, i);
        let h = self.hidden(n, p, &q)?;
        let d = self.projected(0, n, g)?;
        let core = |a: usize, b: usize, c: usize| self.core.at(a * rb + b, c);
        let dp = Matrix::new([n, rb], |n, b| match self.diagonal {
            true => self.core.at(0, b) * d.at(n, b) * q.at(n, b),
            false => sum(ra, |a| d.at(n, a) * sum(rc, |c| core(a, b, c) * q.at(n, c))),
        })?;
        let dq = Matrix::new([n, rc], |n, c| match self.diagonal {
            true => self.core.at(0, c) * d.at(n, c) * p(n, c),
            false => sum(ra, |a| d.at(n, a) * sum(rb, |b| core(a, b, c) * p(n, b))),
        })?;
        let back = |factor: &Option<Factor>, from: &Matrix, rank, n, feature| match factor {
            Some(factor) => sum(rank, |r| from.at(n, r) * factor.at(feature, r)),
            None => from.at(n, feature),
        };
        let dz = Matrix::new([groups, i], |group, i| sum(each, |m| back(b, &dp, rb, group * each + m, i)))?;
        let dx = Matrix::new([n, j], |n, j| back(c, &dq, rc, n, j))?;
        // Of one column that all components share.
        let element = |columns: usize, rank: usize, r: usize, of: &dyn Fn(usize) -> Terms| {
            if columns == 1 { sum(rank, of) } else { of(r) }
        };
        let (pa, pb, pc) = (self.projection(0), self.projection(1), self.projection(2));
        let of_a = a.as_ref().map(|a| {
            reference([k, a.columns], n + pb + pc + self.core_depth(0) + self.spread(0) + 4, |k, r| {
                element(a.columns, ra, r, &|r| sum(n, |n| g.at(n, k) * h.at(n, r)))
            })
        });
        let of_b = b.as_ref().map(|b| {
            reference([i, b.columns], n + pa + pc + self.core_depth(1) + self.spread(1) + 4, |i, r| {
                element(b.columns, rb, r, &|r| sum(n, |n| z(n, i) * dp.at(n, r)))
            })
        });
        let of_c = c.as_ref().map(|c| {
            reference([j, c.columns], n + pa + pb + self.core_depth(2) + self.spread(2) + 4, |j, r| {
                element(c.columns, rc, r, &|r| sum(n, |n| x.at(n, j) * dq.at(n, r)))
            })
        });
        let depth = n + pa + pb + pc + 4;
        let of_core = match self.diagonal {
            true => reference([ra, 1], depth, |r, _| sum(n, |n| d.at(n, r) * p(n, r) * q.at(n, r)))?,
            false => reference([ra.saturating_mul(rb), rc], depth, |row, c| {
                sum(n, |n| d.at(n, row / rb) * p(n, row % rb) * q.at(n, c))
            })?,
        };
        Ok(Derivatives {
            z: dz,
            x: dx,
            depths: [
                pa + pc + self.back(1) + self.core_depth(1) + each.max(1) + 3,
                pa + pb + self.back(2) + self.core_depth(2) + 4,
            ],
            of: BlockGradients { core: of_core, a: of_a.transpose()?, b: of_b.transpose()?, c: of_c.transpose()? },
        })
    }
}

/// A block's share of dz and dx, their depths, and the gradients of its operands.
pub(super) struct Derivatives {
    pub(super) z: Matrix,
    pub(super) x: Matrix,
    pub(super) depths: [usize; 2],
    pub(super) of: BlockGradients,
}

/// All blocks of a layer.
pub(super) fn exact<T: Element>(blocks: &[Block<'_, T>]) -> Result<Vec<Exact>> {
    blocks.iter().filter(|block| !block.is_empty()).map(Exact::of).collect()
}

/// The derivatives of generated layers, for those of W′, `weights` [G·K, J]: of the rows of the identity as x. `None` of blocks that
/// nothing is added up of.
pub(super) fn generated<T: Element>(
    blocks: &[Block<'_, T>],
    groups: usize,
    [z, weights]: [&Matrix; 2],
    [k, j]: [usize; 2],
) -> Result<Vec<Option<Derivatives>>> {
    if blocks.is_empty() {
        return Ok(Vec::new());
    }
    let x = Matrix::new([groups * j, j], |n, column| if n % j == column { 1.0.into() } else { Terms::default() })?;
    let g = Matrix::new([groups * j, k], |n, out| weights.at(n / j * k + out, n % j))?;
    let longer = k.saturating_sub(j);
    let of_block = |block: &Block<'_, T>| {
        if block.is_empty() {
            return Ok(None);
        }
        let mut found = Exact::of(block)?.backward(groups, j, [z, &x, &g])?;
        found.depths[0] += longer;
        let BlockGradients { core, a, b, c } = &mut found.of;
        for of in [Some(core), a.as_mut(), b.as_mut(), c.as_mut()].into_iter().flatten() {
            of.depth += groups * longer;
        }
        Ok(Some(found))
    };
    blocks.iter().map(of_block).collect()
}

/// What the depth of a generated layer is more than that of y: the core may be contracted with the outputs' side.
pub(super) fn generated_depth<T: Element>(blocks: &[Block<'_, T>]) -> usize {
    let of_block = |block: &Block<'_, T>| match block.ranks() {
        [ra, rb, rc] if !block.is_diagonal() => super::terms_of(ra, rb) + rc,
        _ => 0,
    };
    blocks.iter().map(of_block).max().unwrap_or(0)
}

/// W: in f64, rounded once.
pub(crate) fn sum_of_blocks<T: Element>(blocks: &[Block<'_, T>]) -> Result<Tensor<T, 3>> {
    let [k, i, j] = blocks.first().map_or([0; 3], Block::sizes);
    let mut w = Tensor::<T, 3>::zeros([k, i, j])?.into_vec();
    let mut sums = Tensor::<f64, 3>::zeros([k, i, j])?.into_vec();
    for block in exact(blocks)? {
        let [ra, rb, rc] = block.ranks;
        let unit = |here: bool| Terms::from(if here { 1.0 } else { 0.0 });
        let of = |side: usize, row: usize, r: usize| match &block.factors[side] {
            Some(factor) => factor.at(row, r),
            None => unit(row == r),
        };
        for (index, sum_of) in sums.iter_mut().enumerate() {
            let (out, row, column) = (index / (i * j), index / j % i, index % j);
            // Only the one component of an absent factor.
            let range = |side: usize, row: usize, rank: usize| match block.factors[side] {
                Some(_) => 0..rank,
                None => row..row + 1,
            };
            let mut total = 0.0;
            for a in range(0, out, ra) {
                if block.diagonal {
                    total += (of(0, out, a) * block.core.at(0, a) * of(1, row, a) * of(2, column, a)).value;
                    continue;
                }
                for b in range(1, row, rb) {
                    for c in range(2, column, rc) {
                        total +=
                            (of(0, out, a) * of(1, row, b) * of(2, column, c) * block.core.at(a * rb + b, c)).value;
                    }
                }
            }
            *sum_of += total;
        }
    }
    for (w, sum) in w.iter_mut().zip(sums) {
        *w = T::from_f64(sum);
    }
    Tensor::from_vec(w, [k, i, j])
}

/// No gradient, of operands that nothing is added up of.
pub(super) fn nothing<T: Element>(block: &Block<'_, T>) -> Result<BlockGradients> {
    let zeros = |shape: [usize; 2]| reference(shape, 1, |_, _| Terms::default());
    let [ra, rb, rc] = block.ranks();
    let [a, b, c] = block.factors.map(|factor| factor.map(|factor| zeros(factor.shape())).transpose());
    let core = if block.is_diagonal() { [ra, 1] } else { [ra.saturating_mul(rb), rc] };
    Ok(BlockGradients { core: zeros(core)?, a: a?, b: b?, c: c? })
}

/// The depth of a sum of several blocks' results.
pub(super) fn depth(depths: impl Iterator<Item = usize> + Clone) -> usize {
    depths.clone().max().unwrap_or(0) + depths.count().saturating_sub(1)
}
