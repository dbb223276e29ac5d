//! All pairs by their definition: each is a row of a batch.

use super::{Reference, depth, forward};
use crate::view::elements;
use crate::{Element, Interaction, Result, Tensor, View};

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
        depth: depth(layer),
    })
}
