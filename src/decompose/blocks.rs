//! Block terms of rank (L, L, 1).

use super::fit::Problem;
use super::report::{Cp, Report};
use super::{Options, Real};
use crate::{Block, Interaction, Result, Tensor, View};

/// Block terms of rank (L, L, 1): each slice W\[k\] ≈ Σ_β a\[k,β\] B_β diag(λ_β) C_βᵀ is a mixture of the same matrices of rank L, the
/// L columns of `b` and `c` that belong to block β.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockTerms<T> {
    /// L.
    pub block: usize,
    /// [K, blocks].
    pub a: Tensor<T, 2>,
    /// [I, blocks·L].
    pub b: Tensor<T, 2>,
    /// [J, blocks·L].
    pub c: Tensor<T, 2>,
    /// [blocks·L].
    pub lambda: Tensor<T, 1>,
    /// How it was found.
    pub report: Report,
}

impl<T: Real> BlockTerms<T> {
    /// The same as a CP decomposition, each column of `a` L times. Errors: those of allocation.
    pub fn to_cp(&self) -> Result<Cp<T>> {
        let columns = self.a.as_slice().iter().flat_map(|&value| std::iter::repeat_n(value, self.block));
        let a = Tensor::from_vec(columns.collect(), [self.a.shape()[0], self.lambda.shape()[0]])?;
        let (b, c, lambda) = (self.b.clone(), self.c.clone(), self.lambda.clone());
        Ok(Cp { a, b, c, lambda, report: self.report.clone() })
    }

    /// The same as a sum of blocks, for [`Interaction::blocks`]: each a diagonal core of its λ with L columns of `b` and `c`, and the one
    /// column of `a`, so that y takes K multiply-adds for each block and not K·L. That is cheaper than [`to_cp`](Self::to_cp) where K is
    /// not small beside I + J. Errors: those of allocation.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::decompose::{Options, block_terms};
    /// use trilinear::{Interaction, View};
    ///
    /// let w = [1.0f64, 0.0, 0.0, 1.0, 0.0, 2.0, 2.0, 0.0]; // two slices of rank 2
    /// let terms = block_terms(View::new(&w, [2, 2, 2])?, 2, &Options::new(2))?;
    /// let blocks = terms.to_blocks()?;
    /// let y = Interaction::blocks(&blocks)?.forward(View::row(&[1.0, 2.0]), View::row(&[3.0, 4.0]))?;
    /// assert!((y.as_slice()[0] - 11.0).abs() < 1e-6 && (y.as_slice()[1] - 20.0).abs() < 1e-6);
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn to_blocks(&self) -> Result<Vec<Block<'_, T>>> {
        let block = |at: usize| {
            let columns = at * self.block..(at + 1) * self.block;
            Block::diagonal(self.lambda.view().slice(0, columns.clone())?)
                .with_a(self.a.view().slice(1, at..at + 1)?)?
                .with_b(self.b.view().slice(1, columns.clone())?)?
                .with_c(self.c.view().slice(1, columns)?)
        };
        (0..self.a.shape()[1]).map(block).collect()
    }
}

/// Fits [`BlockTerms`] of `block` columns each, [`Options::rank`] of them, by alternating least squares (De Lathauwer and Nion,
/// *Decompositions of a Higher-Order Tensor in Block Terms, Part III: Alternating Least Squares Algorithms*, SIAM J. Matrix Anal.
/// Appl. 2008). With blocks of one column it is [`super::cp`]; with a block for each output it starts from the singular vectors of
/// the slices W\[k\], and is exact where none has a rank above L, as the heads of an attention layer, W_Qᵀ W_K.
/// Errors: as [`super::cp`].
///
/// # Example
///
/// ```
/// use trilinear::decompose::{Options, block_terms};
/// use trilinear::View;
///
/// // Two slices of rank 2 that have nothing in common.
/// let mut w = [0.0f64; 2 * 4 * 4];
/// for (at, value) in [(0, 3.0), (5, 1.0), (1, 1.0), (16 + 10, 2.0), (16 + 15, 4.0)] {
///     w[at] = value;
/// }
/// let terms = block_terms(View::new(&w, [2, 4, 4])?, 2, &Options::new(2))?;
/// assert!(terms.report.error < 1e-9);
/// assert_eq!(terms.report.parameters, [32, 2 * 2 + 2 * 2 * (4 + 4)]);
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn block_terms<T: Real>(w: View<'_, T, 3>, block: usize, options: &Options<'_, T>) -> Result<BlockTerms<T>> {
    let problem = Problem::new(w, options)?;
    let (model, mut report, scale) = problem.best(options, block, None)?;
    let order: Vec<usize> = (0..model.lambda.len()).collect();
    let ([a, b, c], lambda) = model.finish(&order, scale)?;
    let layer = Interaction::cp(a.view(), b.view(), c.view())?.with_lambda(lambda.view())?;
    report.output_error = problem.output_error(layer)?;
    let blocks = order.len().checked_div(block).unwrap_or(0);
    let firsts = a.as_slice().iter().step_by(block.max(1)).copied().collect();
    let a = Tensor::from_vec(firsts, [w.shape()[0], blocks])?;
    Ok(BlockTerms { block, a, b, c, lambda, report })
}
