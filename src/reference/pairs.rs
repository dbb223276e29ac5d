//! All pairs by their definition: each is a row of a batch.

use super::backward::{Factors, Gradients, backward_pairs};
use super::terms::{Matrix, reference, sum};
use super::{Reference, depth, forward};
use crate::strides::elements;
use crate::{Element, Interaction, Reduction, Result, Tensor, View};

/// y of all pairs, as [P·S·T, K]. Shapes and errors as [`Interaction::forward_pairs`].
///
/// Its depth is that of [`forward`](super::forward), whichever side is contracted first: sums of I and J terms, one of them inside
/// the other, round a term no more often than one of I·J.
pub fn forward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
) -> Result<Reference> {
    layer.check_pairs(&z, &x)?;
    let ([problems, s, _], [_, t, _], k) = (z.shape(), x.shape(), layer.outputs());
    let len = elements(&[problems, s, t, k])?;
    let shape = [if len == 0 { problems.saturating_mul(s).saturating_mul(t) } else { len / k }, k];
    let (mut value, mut magnitude) = (Tensor::zeros(shape)?.into_vec(), Tensor::zeros(shape)?.into_vec());
    for (pair, (value, magnitude)) in
        value.chunks_mut((t * k).max(1)).zip(magnitude.chunks_mut((t * k).max(1))).enumerate()
    {
        let (p, s) = (pair / s, pair % s);
        let z = z.matrix(p).slice(0, s..s + 1)?.broadcast(0, t)?;
        let exact = forward(layer, z, x.matrix(p))?;
        value.copy_from_slice(exact.value.as_slice());
        magnitude.copy_from_slice(exact.magnitude.as_slice());
    }
    Ok(Reference {
        value: Tensor::from_vec(value, shape)?,
        magnitude: Tensor::from_vec(magnitude, shape)?,
        depth: depth(layer, 0),
    })
}

/// y of all pairs summed over the problems, as [S·T, K]. Shapes and errors as [`Interaction::forward_pairs_reduced`].
///
/// Its depth is that of [`forward`](super::forward) and M + 2 more: the sum over M, the scale, b.
pub fn forward_pairs_reduced<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    reduction: Reduction,
) -> Result<Reference> {
    layer.check_reduced(&z, &x)?;
    let ([problems, s, _], [_, t, _], k) = (z.shape(), x.shape(), layer.outputs());
    let scale = reduction.scale(problems);
    let exact = forward_pairs(&Interaction { b: None, ..*layer }, z, x)?;
    let rows = s.saturating_mul(t);
    let b = layer.b.map(Matrix::of).transpose()?;
    let of = |values: &Tensor<f64, 2>, row: usize, k: usize| -> f64 {
        let columns = values.shape()[1];
        (0..problems).map(|m| values.as_slice()[(m * rows + row) * columns + k] * scale).sum()
    };
    let bias = |k: usize| b.as_ref().map_or(0.0, |b| b.at(0, k).value);
    let mut result =
        reference([rows, k], depth(layer, 0) + problems + 2, |row, k| (of(&exact.value, row, k) + bias(k)).into())?;
    result.magnitude = reference([rows, k], 0, |row, k| (of(&exact.magnitude, row, k) + bias(k).abs()).into())?.value;
    Ok(result)
}

/// Its gradients for `g` [S, T, K]: dz as [M·S, I], dx as [M·T, J]. Shapes and errors as [`Interaction::backward_pairs_reduced`].
/// They are those of all pairs where every problem has the same g, times the scale.
pub fn backward_pairs_reduced<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    reduction: Reduction,
    g: View<'_, T, 3>,
) -> Result<Gradients> {
    layer.check_backward_reduced(&z, &x, &g)?;
    let ([s, t, k], [ss, st, sk], problems) = (g.shape(), g.strides(), z.shape()[0]);
    // SAFETY: the elements of g, again for each problem.
    let all = unsafe { View::from_raw_parts(g.as_ptr(), [problems, s, t, k], [0, ss, st, sk]) };
    let exact = backward_pairs(layer, z, x, all)?;
    let scale = reduction.scale(problems);
    let scaled = |of: Reference| -> Result<Reference> {
        let times = |values: &Tensor<f64, 2>| {
            Tensor::from_vec(values.as_slice().iter().map(|value| value * scale).collect(), values.shape())
        };
        Ok(Reference { value: times(&of.value)?, magnitude: times(&of.magnitude)?, depth: of.depth + 1 })
    };
    let g = Matrix::of(g)?;
    Ok(Gradients {
        z: scaled(exact.z)?,
        x: scaled(exact.x)?,
        w: scaled(exact.w)?,
        u: scaled(exact.u)?,
        v: scaled(exact.v)?,
        b: reference([k, 1], s.saturating_mul(t) + 3, |k, _| sum(s * t, |row| g.at(row, k)))?,
        cp: match exact.cp {
            Some(Factors { a, b, c, lambda }) => {
                Some(Factors { a: scaled(a)?, b: scaled(b)?, c: scaled(c)?, lambda: scaled(lambda)? })
            }
            None => None,
        },
        blocks: Vec::new(),
    })
}
