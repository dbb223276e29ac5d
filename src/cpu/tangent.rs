//! Tangents: each operand that changes gives a forward contraction with its tangent in its place; their sums add up.

use super::output::Sink;
use super::{fill_zero, forward_to};
use crate::interaction::Core;
use crate::wanted::Gradient;
use crate::{Element, Interaction, Result, Tangents, View};

/// ẏ, written or added.
pub(crate) fn tangent<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    tangents: &Tangents<'_, T>,
    Gradient { mut to, add }: Gradient<'_, T::Accumulator, 2>,
) -> Result<()> {
    let context = layer.context()?;
    let mut sink = Sink::sums(to.reborrow(), add);
    let mut term = |layer: Interaction<'_, T>, z, x| {
        forward_to(&layer.with_context(context), z, x, sink)?;
        sink = sink.adding();
        Ok::<(), crate::Error>(())
    };
    let mut any = false;
    if let Some(dz) = tangents.z {
        any = true;
        term(Interaction { v: None, b: None, ..*layer }, dz, x)?;
    }
    if let Some(dx) = tangents.x {
        any = true;
        term(Interaction { u: None, b: None, ..*layer }, z, dx)?;
    }
    let linear = Interaction { u: tangents.u, v: tangents.v, b: tangents.b, ..bare(layer)? };
    match tangents.w {
        Some(w) => {
            any = true;
            let dense = Interaction::dense(w)?;
            term(Interaction { u: linear.u, v: linear.v, b: linear.b, ..dense }, z, x)?;
        }
        None if linear.u.is_some() || linear.v.is_some() || linear.b.is_some() => {
            any = true;
            term(linear, z, x)?;
        }
        None => {}
    }
    if let Core::Cp { a, b, c, lambda } = layer.core {
        let factors = [
            tangents.cp_a.map(|a| ([a, b, c], lambda)),
            tangents.cp_b.map(|b| ([a, b, c], lambda)),
            tangents.cp_c.map(|c| ([a, b, c], lambda)),
            tangents.lambda.map(|lambda| ([a, b, c], Some(lambda))),
        ];
        for ([a, b, c], lambda) in factors.into_iter().flatten() {
            any = true;
            let layer = Interaction::cp(a, b, c)?;
            let layer = match lambda {
                Some(lambda) => layer.with_lambda(lambda)?,
                None => layer,
            };
            term(layer, z, x)?;
        }
    }
    if !any && !add {
        fill_zero(&mut to);
    }
    Ok(())
}

/// A layer of the same sizes without any weights.
fn bare<'a, T: Element>(layer: &Interaction<'_, T>) -> Result<Interaction<'a, T>> {
    Interaction::linear(layer.k, layer.i, layer.j)
}
