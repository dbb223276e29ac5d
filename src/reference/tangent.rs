//! ẏ by its definition: the sum over the operands that change of y with that operand replaced.

use super::terms::{Matrix, Terms, reference, sum};
use super::{Reference, blocks};
use crate::interaction::Core;
use crate::{Element, Interaction, Result, Tangents, View};

/// ẏ [N, K] in the direction of `tangents`. Shapes and errors as [`Interaction::tangent`].
///
/// Its depth is that of one sum after the other: for dense W, I·J for each of ż, ẋ and Ẇ that is present; for CP, I for each
/// of ż and Ḃ (at least once), J for each of ẋ and Ċ (at least once), and R for each of these, of Ȧ and of λ̇; I for each of
/// U̇ and żᵀU; J for each of V̇ and Vẋ; 1 with ḃ; and 6 for the products. For CP, Ṗ = żB + zḂ and Q̇ may be made first.
pub fn tangent<'a, T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    tangents: &Tangents<'a, T>,
) -> Result<Reference> {
    layer.check_tangents(&z, &x, tangents)?;
    let layer = &layer.along([true, false, false]);
    let (n, k, i, j) = (x.shape()[0], layer.k, layer.i, layer.j);
    let (z, x) = (z.slice(1, 0..i)?, x.slice(1, 0..j)?);
    let cut = |view: Option<View<'a, T, 2>>, len| view.map(|view| view.slice(1, 0..len)).transpose();
    let tangents = &Tangents { z: cut(tangents.z, i)?, x: cut(tangents.x, j)?, ..*tangents };
    let core = core(layer, z, x, tangents)?;
    let (z, x) = (Matrix::of(z)?, Matrix::of(x)?);
    let [dz, dx] = [tangents.z, tangents.x].map(|view| view.map(Matrix::of));
    let [dz, dx] = [dz.transpose()?, dx.transpose()?];
    let [u, v, du, dv] = [layer.u, layer.v, tangents.u, tangents.v].map(|view| view.map(Matrix::of));
    let [u, v, du, dv] = [u.transpose()?, v.transpose()?, du.transpose()?, dv.transpose()?];
    // U with ż, U̇ with z, and so on: those of which both are present.
    let linear: Vec<(&Matrix, &Matrix, usize)> =
        [(&u, dz.as_ref(), i), (&du, Some(&z), i), (&v, dx.as_ref(), j), (&dv, Some(&x), j)]
            .into_iter()
            .filter_map(|(weights, input, length)| Some((weights.as_ref()?, input?, length)))
            .collect();
    let bias = tangents.b.map(Matrix::of).transpose()?;
    let depth = core.as_ref().map_or(0, |core| core.depth)
        + linear.iter().map(|(_, _, length)| length).sum::<usize>()
        + bias.as_ref().map_or(0, |_| 1)
        + 6;
    reference([n, k], depth, |n, k| {
        let core = core.as_ref().map_or_else(Terms::default, |core| (core.of)(n, k));
        let linear: Terms = linear
            .iter()
            .map(|&(weights, input, length)| sum(length, |feature| weights.at(k, feature) * input.at(n, feature)))
            .sum();
        core + linear + bias.as_ref().map_or_else(Terms::default, |b| b.at(0, k))
    })
}

/// The terms of W.
struct CoreTerms {
    depth: usize,
    of: Box<dyn Fn(usize, usize) -> Terms>,
}

fn core<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    tangents: &Tangents<'_, T>,
) -> Result<Option<CoreTerms>> {
    let (n, i, j) = (x.shape()[0], layer.i, layer.j);
    let count = |present: &[bool]| present.iter().filter(|&&present| present).count();
    let (moves_z, moves_x) = (tangents.z.is_some(), tangents.x.is_some());
    // Zeros stand for an operand that does not change.
    let zeros = |shape: [usize; 2]| Matrix::new(shape, |_, _| Terms::default());
    let or_zeros = |view: Option<View<'_, T, 2>>, shape| view.map_or_else(|| zeros(shape), Matrix::of);
    match layer.core {
        Core::Absent => Ok(None),
        Core::Dense(w) => {
            let depth = super::terms_of(i, j) * count(&[moves_z, moves_x, tangents.w.is_some()]);
            let dw = tangents.w.map(Matrix::of).transpose()?;
            let (w, dz, dx) = (Matrix::of(w)?, or_zeros(tangents.z, [n, i])?, or_zeros(tangents.x, [n, j])?);
            let (z, x) = (Matrix::of(z)?, Matrix::of(x)?);
            let of = move |n, k| {
                sum(i, |row| {
                    let weights = |w: &Matrix, x: &Matrix| sum(j, |j| w.at(k * i + row, j) * x.at(n, j));
                    let of_w = dw.as_ref().map_or_else(Terms::default, |dw| z.at(n, row) * weights(dw, &x));
                    of_w + dz.at(n, row) * weights(&w, &x) + z.at(n, row) * weights(&w, &dx)
                })
            };
            Ok(Some(CoreTerms { depth, of: Box::new(of) }))
        }
        Core::Blocks(given) => {
            let (z, dz) = (Matrix::of(z)?, or_zeros(tangents.z, [n, i])?);
            let (x, dx) = (Matrix::of(x)?, or_zeros(tangents.x, [n, j])?);
            let (mut sums, mut depths) = (Vec::new(), Vec::new());
            for block in blocks::exact(given)? {
                sums.push(block.forward([n, 1], &dz, &x)?);
                sums.push(block.forward([n, 1], &z, &dx)?);
                depths.push(block.depth());
            }
            let depth = blocks::depth(depths.iter().copied()) * count(&[moves_z, moves_x]);
            Ok(Some(CoreTerms { depth, of: Box::new(move |n, k| sums.iter().map(|sum| sum.at(n, k)).sum()) }))
        }
        Core::Cp { a, b, c, lambda } => {
            let r = a.shape()[1];
            let of_p = count(&[moves_z, tangents.cp_b.is_some()]);
            let of_q = count(&[moves_x, tangents.cp_c.is_some()]);
            let parts = of_p + of_q + count(&[tangents.cp_a.is_some(), tangents.lambda.is_some()]);
            let depth = i * of_p.max(1) + j * of_q.max(1) + r * parts;
            let lambda = lambda.map(Matrix::of).transpose()?;
            let lambda = lambda.map_or_else(|| Matrix::new([1, r], |_, _| 1.0.into()), Ok)?;
            let dlambda = tangents.lambda.map(Matrix::of).transpose()?;
            let dlambda = dlambda.map_or_else(|| zeros([1, r]), Ok)?;
            let da = or_zeros(tangents.cp_a, a.shape())?;
            let product = |input: &Matrix, factor: &Matrix, length| {
                Matrix::new([n, r], |n, r| sum(length, |feature| input.at(n, feature) * factor.at(feature, r)))
            };
            let plus = |a: Matrix, b: Matrix| Matrix::new([n, r], |n, r| a.at(n, r) + b.at(n, r));
            let (z, dz) = (Matrix::of(z)?, or_zeros(tangents.z, [n, i])?);
            let (db, b) = (or_zeros(tangents.cp_b, b.shape())?, Matrix::of(b)?);
            let (p, dp) = (product(&z, &b, i)?, plus(product(&dz, &b, i)?, product(&z, &db, i)?)?);
            let (x, dx) = (Matrix::of(x)?, or_zeros(tangents.x, [n, j])?);
            let (dc, c) = (or_zeros(tangents.cp_c, c.shape())?, Matrix::of(c)?);
            let (q, dq) = (product(&x, &c, j)?, plus(product(&dx, &c, j)?, product(&x, &dc, j)?)?);
            let a = Matrix::of(a)?;
            let of = move |n, k| {
                sum(r, |r| {
                    let (a, da, p, dp) = (a.at(k, r), da.at(k, r), p.at(n, r), dp.at(n, r));
                    let (q, dq, lambda, dlambda) = (q.at(n, r), dq.at(n, r), lambda.at(0, r), dlambda.at(0, r));
                    dlambda * a * p * q + lambda * (da * p * q + a * (dp * q + p * dq))
                })
            };
            Ok(Some(CoreTerms { depth, of: Box::new(of) }))
        }
    }
}
