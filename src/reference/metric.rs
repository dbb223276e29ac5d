//! Squared distances by their definition.
//!
//! | result | C⁻¹ in full | LLᵀ | diagonal |
//! |---|---|---|---|
//! | y | 2·I + 4 | 2·I + R + 4 | I + 4 |
//! | dz, dx | I + 6 | I + R + 6 | 6 |
//! | of C⁻¹, L, the diagonal | N + 6 | N + I + 6 | N + 6 |
//!
//! The terms are products with the differences z − x, each of which is rounded once.

use super::Reference;
use super::terms::{Matrix, Terms, reference, sum};
use crate::metric::{Mahalanobis, Precision};
use crate::{Element, Result, View};

/// The exact gradients of squared distances.
#[derive(Clone, Debug, PartialEq)]
pub struct DistanceGradients {
    /// dz [N, I].
    pub z: Reference,
    /// dx [N, I].
    pub x: Reference,
    /// That of C⁻¹ [I, I], of L [I, R], or of the diagonal, [I, 1].
    pub precision: Reference,
}

/// z − x, and the metric.
struct Exact {
    n: usize,
    i: usize,
    r: usize,
    d: Matrix,
    p: Matrix,
}

impl Exact {
    fn of<T: Element>(metric: &Mahalanobis<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Exact> {
        metric.check(&z, &x)?;
        let ([n, i], z, x) = (z.shape(), Matrix::of(z)?, Matrix::of(x)?);
        let d = Matrix::new([n, i], |n, i| (z.at(n, i).value - x.at(n, i).value).into())?;
        let (p, r) = match metric.precision() {
            Precision::Full(matrix) => (Matrix::of(matrix)?, i),
            Precision::Factor(factor) => (Matrix::of(factor)?, factor.shape()[1]),
            Precision::Diagonal(diagonal) => (Matrix::of(diagonal)?, 1),
        };
        Ok(Exact { n, i, r, d, p })
    }
}

/// The squared distances [N, 1]. Shapes and errors as [`Mahalanobis::squared`].
pub fn distances<T: Element>(metric: &Mahalanobis<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Reference> {
    let Exact { n, i, r, d, p } = &Exact::of(metric, z, x)?;
    let (i, r) = (*i, *r);
    match metric.precision() {
        Precision::Full(_) => {
            reference([*n, 1], 2 * i + 4, |n, _| sum(i, |a| d.at(n, a) * sum(i, |b| p.at(a, b) * d.at(n, b))))
        }
        Precision::Factor(_) => reference([*n, 1], 2 * i + r + 4, |n, _| {
            sum(r, |r| {
                let e = sum(i, |i| d.at(n, i) * p.at(i, r));
                e * e
            })
        }),
        Precision::Diagonal(_) => reference([*n, 1], i + 4, |n, _| sum(i, |i| d.at(n, i) * p.at(0, i) * d.at(n, i))),
    }
}

/// Their gradients for the gradient `g` \[N\]. Shapes and errors as [`Mahalanobis::backward`].
pub fn distances_backward<T: Element>(
    metric: &Mahalanobis<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 1>,
) -> Result<DistanceGradients> {
    crate::error::check("g", "rows", x.shape()[0], g.shape()[0])?;
    let Exact { n, i, r, d, p } = &Exact::of(metric, z, x)?;
    let (n, i, r, g) = (*n, *i, *r, Matrix::of(g)?);
    let (two, minus): (Terms, Terms) = (2.0.into(), (-1.0).into());
    let e = Matrix::new([n, r], |n, r| match metric.precision() {
        Precision::Factor(_) => sum(i, |i| d.at(n, i) * p.at(i, r)),
        _ => Terms::default(),
    })?;
    let of_d = |n: usize, at: usize| {
        g.at(0, n)
            * match metric.precision() {
                Precision::Full(_) => sum(i, |b| (p.at(at, b) + p.at(b, at)) * d.at(n, b)),
                Precision::Factor(_) => two * sum(r, |r| e.at(n, r) * p.at(at, r)),
                Precision::Diagonal(_) => two * p.at(0, at) * d.at(n, at),
            }
    };
    let (depth, shape, own) = match metric.precision() {
        Precision::Full(_) => (i + 6, [i, i], n + 6),
        Precision::Factor(_) => (i + r + 6, [i, r], n + i + 6),
        Precision::Diagonal(_) => (6, [i, 1], n + 6),
    };
    Ok(DistanceGradients {
        z: reference([n, i], depth, of_d)?,
        x: reference([n, i], depth, |n, i| minus * of_d(n, i))?,
        precision: reference(shape, own, |row, column| {
            sum(n, |n| {
                g.at(0, n)
                    * match metric.precision() {
                        Precision::Full(_) => d.at(n, row) * d.at(n, column),
                        Precision::Factor(_) => two * d.at(n, row) * e.at(n, column),
                        Precision::Diagonal(_) => d.at(n, row) * d.at(n, row),
                    }
            })
        })?,
    })
}
