//! Gradients by their definitions: the derivatives of T = Σ g·y in each operand.
//!
//! Depths, which [`Reference::depth`] gives, with N rows in all, M of them for each z (1 without a shared context):
//!
//! | gradient | dense or linear | CP |
//! |---|---|---|
//! | dz | K·J + M + 2 | K + J + R + M + 3 |
//! | dx | K·I + 3 | K + I + R + 4 |
//! | dW, dU, dV, db | N + 3 | N + 3 |
//! | dA | | N + I + J + 4 |
//! | dB | | N + K + J + 4 |
//! | dC | | N + K + I + 4 |
//! | dλ | | N + K + I + J + 4 |
//!
//! With U, dz has K more, and so has dx with V. Of [`backward_generate`] N is G and M is 1. Of all pairs N is P·S·T, M is T for dz
//! and S for dx. Where sums over K and over the other side's rows are one, at once, they are as deep as the product of their
//! lengths: dz has J + T·K + 4 if that is more, dB P·S + T·K + J + 4, dλ P·S·K + T + I + J + 4, and the same with the sides exchanged.
//! Those of blocks are in `blocks.rs`; of all pairs dx has S more, of generated layers N is G·max(J, K), for either side's factor may be
//! the rows that all z meet.
//!
//! **They hold in whichever order an algorithm contracts.** A term passes through at most as many roundings as the
//! lengths of the sums around it, nested in any way, and one for each product that no sum's multiply-add takes:
//!
//! - dz of dense W is one sum over (k, j) of (g·x)·W, K·J additions and a product; or Σₖ g·W first and Σⱼ after, or the other
//!   way, for K + J ≤ K·J + 1. The sum over the M rows that share z stands outside, or inside if dW′ = Σₘ g⊗x is made first:
//!   M − 1 additions more either way. (One running sum over all M·K·J terms would need a larger bound.) dx is the same with
//!   z for x; or W′ = Σᵢ z·W + V is made first, and Σₖ g·W′ is I + K + 1.
//! - The terms of U and V join these sums: K of their own, at their start or their end.
//! - dW, dU, dV and db are sums over rows, all at once or group by group: G + M ≤ G·M + 1.
//! - CP rounds P = zB, Q = xC and dH = gA, sums of I, J and K, before it multiplies them, so its terms' magnitudes are
//!   products of the magnitudes of these. Two products and λ follow, then the sum over rows or over R.

use super::Reference;
use super::blocks::{self, BlockGradients, Derivatives};
use super::terms::{Matrix, Terms, reference, sum};
use crate::interaction::Core;
use crate::{Block, Element, Interaction, Result, View};

/// The exact gradients, whether or not the layer has the weights in question.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// dz [N, I]; of a shared context and of generated layers [G, I].
    pub z: Reference,
    /// dx [N, J]; of a shared context [G·M, J]; of generated layers [G, 0].
    pub x: Reference,
    /// dW, as [K·I, J].
    pub w: Reference,
    /// dU [K, I].
    pub u: Reference,
    /// dV [K, J].
    pub v: Reference,
    /// db [K, 1].
    pub b: Reference,
    /// Those of CP factors, if the layer has them.
    pub cp: Option<Factors>,
    /// Those of its blocks, if it has any.
    pub blocks: Vec<BlockGradients>,
}

impl Gradients {
    /// dz + dx, of z and x that are the same tensor. Errors: [`crate::Error::Shape`] if I is not J.
    pub fn tied(&self) -> Result<Reference> {
        self.z.plus(&self.x)
    }
}

/// The exact gradients of CP factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// dA [K, R].
    pub a: Reference,
    /// dB [I, R].
    pub b: Reference,
    /// dC [J, R].
    pub c: Reference,
    /// dλ [R, 1]; of a layer without λ, at λ = 1.
    pub lambda: Reference,
}

/// The gradients for the gradient `g` [N, K] of y. Shapes and errors as [`Interaction::backward`].
///
/// # Example
///
/// ```
/// use trilinear::{Interaction, View, reference};
///
/// let w = [1.0f32, 2.0, 3.0, 4.0];
/// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
/// let exact = reference::backward(&layer, View::row(&[1.0, 10.0]), View::row(&[1.0, 1.0]), View::row(&[1.0]))?;
/// assert_eq!(exact.x.value.as_slice(), [31.0, 42.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn backward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
) -> Result<Gradients> {
    layer.check_backward(&z, &x, &g)?;
    let groups = x.shape()[0];
    Batch {
        groups,
        rows: 1,
        pairs: false,
        sharing: 1,
        of_x: groups,
        z: Matrix::of(z)?,
        x: Matrix::of(x)?,
        g: Matrix::of(g)?,
    }
    .gradients(layer)
}

/// The gradients of a shared context for the gradient `g` [G, M, K] of its result. Shapes and errors as
/// [`Interaction::backward_shared`].
pub fn backward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
) -> Result<Gradients> {
    layer.check_backward_shared(&z, &x, &g)?;
    let [groups, rows, _] = x.shape();
    Batch {
        groups,
        rows,
        pairs: false,
        sharing: 1,
        of_x: groups.saturating_mul(rows),
        z: Matrix::of(z)?,
        x: Matrix::of(x)?,
        g: Matrix::of(g)?,
    }
    .gradients(layer)
}

/// The gradients of all pairs for the gradient `g` [P, S, T, K] of their result: dz as [P·S, I], dx as [P·T, J]. Shapes and errors
/// as [`Interaction::backward_pairs`].
pub fn backward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 4>,
) -> Result<Gradients> {
    layer.check_backward_pairs(&z, &x, &g)?;
    let [problems, s, rows, _] = g.shape();
    let (groups, of_x) = (problems.saturating_mul(s), problems.saturating_mul(rows));
    Batch { groups, rows, pairs: true, sharing: s, of_x, z: Matrix::of(z)?, x: Matrix::of(x)?, g: Matrix::of(g)? }
        .gradients(layer)
}

/// Weights as f64, and sizes.
struct Layer {
    k: usize,
    i: usize,
    j: usize,
    /// W as [K·I, J].
    w: Option<Matrix>,
    u: Option<Matrix>,
    v: Option<Matrix>,
    cp: Option<Components>,
}

/// CP factors, and λ as [1, R].
struct Components {
    r: usize,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    lambda: Matrix,
}

impl Layer {
    fn of<T: Element>(layer: &Interaction<'_, T>) -> Result<Layer> {
        let (w, cp) = match layer.core {
            Core::Absent | Core::Blocks(_) => (None, None),
            Core::Dense(w) => (Some(Matrix::of(w)?), None),
            Core::Cp { a, b, c, lambda } => {
                let r = a.shape()[1];
                let lambda = lambda.map(Matrix::of).transpose()?;
                let lambda = lambda.map_or_else(|| Matrix::new([1, r], |_, _| 1.0.into()), Ok)?;
                (None, Some(Components { r, a: Matrix::of(a)?, b: Matrix::of(b)?, c: Matrix::of(c)?, lambda }))
            }
        };
        let (u, v) = (layer.u.map(Matrix::of).transpose()?, layer.v.map(Matrix::of).transpose()?);
        Ok(Layer { k: layer.k, i: layer.i, j: layer.j, w, u, v, cp })
    }

    /// The depth of a sum over (k, `length`) of dense W, or over r of CP, whose dH is a sum of `length` and `k` each.
    fn input_depth(&self, length: usize, linear: &Option<Matrix>) -> usize {
        let core = match &self.cp {
            Some(cp) => self.k + length + cp.r + 4,
            None => super::terms_of(self.k, length) + 3,
        };
        core + linear.as_ref().map_or(0, |_| self.k)
    }
}

/// Σₖ g·U (or V), a row of g and a column of the weights.
fn linear(k: usize, weights: &Option<Matrix>, column: usize, g: impl Fn(usize) -> Terms) -> Terms {
    weights.as_ref().map_or_else(Terms::default, |weights| sum(k, |k| g(k) * weights.at(k, column)))
}

/// z [G, I], x [G·M, J] and g [G·M, K]. Of all pairs G is P·S, M is T and x is [P·T, J], each S groups sharing theirs.
struct Batch {
    groups: usize,
    rows: usize,
    pairs: bool,
    /// S; of anything but all pairs 1.
    sharing: usize,
    /// Rows of x in all.
    of_x: usize,
    z: Matrix,
    x: Matrix,
    g: Matrix,
}

impl Batch {
    fn gradients<T: Element>(&self, layer: &Interaction<'_, T>) -> Result<Gradients> {
        let (given, layer) = (layer.terms(), Layer::of(layer)?);
        let (k, i, j, n) = (layer.k, layer.i, layer.j, self.groups * self.rows);
        // Of all pairs, x of each row of y.
        let repeated = match given.is_empty() || self.sharing == 1 {
            true => None,
            false => Some(Matrix::new([n, j], |n, j| self.x.at(self.row_of_x(n), j))?),
        };
        let of_x = repeated.as_ref().unwrap_or(&self.x);
        let of_block = |block| blocks::Exact::of(block)?.backward(self.groups, self.rows, [&self.z, of_x, &self.g]);
        let present = |block: &&Block<'_, T>| !block.is_empty();
        let derivatives = given.iter().filter(present).map(of_block).collect::<Result<Vec<Derivatives>>>()?;
        let depth_of = |side: usize| match given {
            [] => None,
            _ => Some(blocks::depth(derivatives.iter().map(|block| block.depths[side]))),
        };
        // dH = gA, P = zB and Q = xC.
        let parts = |cp: &Components| -> Result<_> {
            Ok([
                Matrix::new([n, cp.r], |n, r| sum(k, |k| self.g.at(n, k) * cp.a.at(k, r)))?,
                Matrix::new([self.groups, cp.r], |group, r| sum(i, |i| self.z.at(group, i) * cp.b.at(i, r)))?,
                Matrix::new([self.of_x, cp.r], |row, r| sum(j, |j| self.x.at(row, j) * cp.c.at(j, r)))?,
            ])
        };
        let parts = layer.cp.as_ref().map(parts).transpose()?;
        let cp = layer.cp.as_ref().zip(parts.as_ref());
        let (g, x) = (|n: usize, k: usize| self.g.at(n, k), |n: usize, j: usize| self.x.at(self.row_of_x(n), j));
        let z = |n: usize, i: usize| self.z.at(n / self.rows, i);
        let of_row = |n: usize, i: usize| {
            let core = match (&layer.w, cp) {
                (Some(w), _) => sum(k, |k| g(n, k) * sum(j, |j| w.at(k * layer.i + i, j) * x(n, j))),
                (_, Some((cp, [dh, _, q]))) => {
                    sum(cp.r, |r| dh.at(n, r) * q.at(self.row_of_x(n), r) * cp.lambda.at(0, r) * cp.b.at(i, r))
                }
                _ => Terms::default(),
            };
            core + linear(k, &layer.u, i, |k| g(n, k))
        };
        let dx = |n: usize, j: usize| {
            let core = match (&layer.w, cp) {
                (Some(w), _) => sum(k, |k| g(n, k) * sum(i, |i| w.at(k * layer.i + i, j) * z(n, i))),
                (_, Some((cp, [dh, p, _]))) => {
                    sum(cp.r, |r| dh.at(n, r) * p.at(n / self.rows, r) * cp.lambda.at(0, r) * cp.c.at(j, r))
                }
                _ => Terms::default(),
            };
            core + linear(k, &layer.v, j, |k| g(n, k))
        };
        // Of all pairs over (t, k), or (s, k), at once.
        let linear_depth = |linear: &Option<Matrix>, others: usize| {
            linear.as_ref().map_or(0, |_| if self.pairs { super::terms_of(k, others) } else { k })
        };
        let [z_depth, x_depth] = self.input_depths(&layer);
        let z_depth = depth_of(0).map_or(z_depth, |depth| depth + linear_depth(&layer.u, self.rows));
        let x_depth =
            depth_of(1).map_or(x_depth, |depth| depth + linear_depth(&layer.v, self.sharing) + self.sharing - 1);
        let dx = |row: usize, j: usize| {
            sum(self.sharing, |s| {
                let pair = self.pair(row, s);
                let of_blocks: Terms = derivatives.iter().map(|block| block.x.at(pair, j)).sum();
                of_blocks + dx(pair, j)
            })
        };
        Ok(Gradients {
            z: reference([self.groups, i], z_depth, |group, i| {
                let of_blocks: Terms = derivatives.iter().map(|block| block.z.at(group, i)).sum();
                of_blocks + sum(self.rows, |m| of_row(group * self.rows + m, i))
            })?,
            x: reference([self.of_x, j], x_depth, dx)?,
            w: reference([k.saturating_mul(i), j], n + 3, |row, j| {
                sum(n, |n| g(n, row / i) * z(n, row % i) * x(n, j))
            })?,
            u: reference([k, i], n + 3, |k, i| sum(n, |n| g(n, k) * z(n, i)))?,
            v: reference([k, j], n + 3, |k, j| sum(n, |n| g(n, k) * x(n, j)))?,
            b: reference([k, 1], n + 3, |k, _| sum(n, |n| g(n, k)))?,
            cp: cp
                .map(|(cp, [dh, p, q])| -> Result<Factors> {
                    let p = |n: usize, r: usize| p.at(n / self.rows, r);
                    let q = |n: usize, r: usize| q.at(self.row_of_x(n), r);
                    let lambda = |r: usize| cp.lambda.at(0, r);
                    let [of_b, of_c, of_lambda] = self.factor_depths(k);
                    Ok(Factors {
                        a: reference([k, cp.r], n + i + j + 4, |k, r| {
                            sum(n, |n| g(n, k) * p(n, r) * q(n, r) * lambda(r))
                        })?,
                        b: reference([i, cp.r], of_b + j + 4, |i, r| {
                            sum(n, |n| z(n, i) * dh.at(n, r) * q(n, r) * lambda(r))
                        })?,
                        c: reference([j, cp.r], of_c + i + 4, |j, r| {
                            sum(n, |n| x(n, j) * dh.at(n, r) * p(n, r) * lambda(r))
                        })?,
                        lambda: reference([cp.r, 1], of_lambda + i + j + 4, |r, _| {
                            sum(n, |n| dh.at(n, r) * p(n, r) * q(n, r))
                        })?,
                    })
                })
                .transpose()?,
            blocks: {
                let mut found = derivatives.iter().map(|block| block.of.clone());
                let of = |block: &Block<'_, T>| match present(&block).then(|| found.next()).flatten() {
                    Some(of) => Ok(of),
                    None => blocks::nothing(block),
                };
                given.iter().map(of).collect::<Result<_>>()?
            },
        })
    }

    /// The row of x of a row of g.
    fn row_of_x(&self, n: usize) -> usize {
        n / (self.rows * self.sharing) * self.rows + n % self.rows
    }

    /// The row of g of a row of x and the `s`-th row of z that meets it.
    fn pair(&self, row: usize, s: usize) -> usize {
        (row / self.rows * self.sharing + s) * self.rows + row % self.rows
    }

    /// Depths of dz and dx. All pairs may sum over (s, k) or (t, k) at once.
    fn input_depths(&self, layer: &Layer) -> [usize; 2] {
        let Layer { k, i, j, .. } = *layer;
        let (s, t) = (self.sharing.max(1), self.rows.max(1));
        let of = |own: usize, other: usize, linear: &Option<Matrix>| {
            let nested = layer.input_depth(own, linear) + other - 1;
            let rank = layer.cp.as_ref().map_or(0, |cp| cp.r);
            let at_once = super::terms_of(k, other) + own + rank + 4 + linear.as_ref().map_or(0, |_| k);
            if self.pairs { nested.max(at_once) } else { nested }
        };
        [of(j, t, &layer.u), of(i, s, &layer.v)]
    }

    /// Those of dB, dC and dλ without J, I and both, and the products.
    fn factor_depths(&self, k: usize) -> [usize; 3] {
        let (n, of_x) = (self.groups * self.rows, self.of_x);
        let nested = n + k;
        if !self.pairs {
            return [nested; 3];
        }
        let (over_t, over_s) = (self.rows * k, self.sharing * k);
        [
            nested.max(self.groups + over_t),
            nested.max(of_x + over_s),
            nested.max(self.groups * k + self.rows).max(of_x * k + self.sharing),
        ]
    }
}

/// The gradients of generated layers for those of W′, `weights` [G, K, J], and of b′, `bias` [G, K]. Shapes and errors as
/// [`Interaction::backward_generate`].
pub fn backward_generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: View<'_, T, 3>,
    bias: View<'_, T, 2>,
) -> Result<Gradients> {
    layer.check_backward_generate(&z, &weights, &bias)?;
    let groups = z.shape()[0];
    let (z, weights, bias) = (Matrix::of(z)?, Matrix::of(weights)?, Matrix::of(bias)?);
    let (given, layer) = (layer.terms(), Layer::of(layer)?);
    let (k, i, j) = (layer.k, layer.i, layer.j);
    let dw = |group: usize, out: usize, j: usize| weights.at(group * k + out, j);
    let of_blocks = blocks::generated(given, groups, [&z, &weights], [k, j])?;
    // P = zB, and what it is multiplied by: ΣₖΣⱼ dW′·A·C.
    let parts = |cp: &Components| -> Result<_> {
        Ok([
            Matrix::new([groups, cp.r], |group, r| sum(i, |i| z.at(group, i) * cp.b.at(i, r)))?,
            Matrix::new([groups, cp.r], |group, r| {
                sum(k, |k| cp.a.at(k, r) * sum(j, |j| dw(group, k, j) * cp.c.at(j, r)))
            })?,
        ])
    };
    let parts = layer.cp.as_ref().map(parts).transpose()?;
    let cp = layer.cp.as_ref().zip(parts.as_ref());
    let dz = |group: usize, i: usize| {
        let core = match (&layer.w, cp) {
            (Some(w), _) => sum(k, |k| sum(j, |j| w.at(k * layer.i + i, j) * dw(group, k, j))),
            (_, Some((cp, [_, dp]))) => sum(cp.r, |r| dp.at(group, r) * cp.lambda.at(0, r) * cp.b.at(i, r)),
            _ => of_blocks.iter().filter_map(|block| block.as_ref()).map(|block| block.z.at(group, i)).sum(),
        };
        core + linear(k, &layer.u, i, |k| bias.at(group, k))
    };
    let depth = groups + 3;
    let present = of_blocks.iter().flatten();
    let z_depth = match given {
        [] => layer.input_depth(j, &layer.u),
        _ => blocks::depth(present.map(|block| block.depths[0])) + layer.u.as_ref().map_or(0, |_| k),
    };
    Ok(Gradients {
        z: reference([groups, i], z_depth, dz)?,
        x: reference([groups, 0], 0, |_, _| Terms::default())?,
        w: reference([k.saturating_mul(i), j], depth, |row, j| {
            sum(groups, |group| z.at(group, row % i) * dw(group, row / i, j))
        })?,
        u: reference([k, i], depth, |k, i| sum(groups, |group| z.at(group, i) * bias.at(group, k)))?,
        v: reference([k, j], depth, |k, j| sum(groups, |group| dw(group, k, j)))?,
        b: reference([k, 1], depth, |k, _| sum(groups, |group| bias.at(group, k)))?,
        cp: cp
            .map(|(cp, [p, dp])| -> Result<Factors> {
                let lambda = |r: usize| cp.lambda.at(0, r);
                Ok(Factors {
                    a: reference([k, cp.r], groups + i + j + 4, |k, r| {
                        sum(groups, |group| lambda(r) * p.at(group, r) * sum(j, |j| dw(group, k, j) * cp.c.at(j, r)))
                    })?,
                    b: reference([i, cp.r], groups + k + j + 4, |i, r| {
                        sum(groups, |group| lambda(r) * z.at(group, i) * dp.at(group, r))
                    })?,
                    c: reference([j, cp.r], groups + k + i + 4, |j, r| {
                        sum(groups, |group| lambda(r) * p.at(group, r) * sum(k, |k| dw(group, k, j) * cp.a.at(k, r)))
                    })?,
                    lambda: reference([cp.r, 1], groups + k + i + j + 4, |r, _| {
                        sum(groups, |group| p.at(group, r) * dp.at(group, r))
                    })?,
                })
            })
            .transpose()?,
        blocks: given
            .iter()
            .zip(of_blocks)
            .map(|(block, of)| of.map_or_else(|| blocks::nothing(block), |of| Ok(of.of)))
            .collect::<Result<_>>()?,
    })
}
