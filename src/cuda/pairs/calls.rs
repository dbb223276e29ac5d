//! The API's operations on all pairs.

use super::{Pairs, gradients, reduced};
use crate::cuda::operand::Operand;
use crate::cuda::operations::{call, describe, outputs};
use crate::cuda::recorder::{Recorder, Target};
use crate::cuda::stage::Stage;
use crate::wanted::Gradient;
use crate::{Element, Interaction, Plan, Result, View, ViewMut, Wanted, cpu};

pub(crate) fn forward_pairs<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 4>,
) -> Result<()> {
    let [p, s, t, _] = y.shape();
    call(target, |stage| {
        let (layer, z, x) = (stage.layer(layer)?, stage.input(z)?, stage.input(x)?);
        let y = stage.output(Gradient::write(y))?.to;
        let pairs = Pairs { layer, sizes: [p, s, t], z, x, y };
        Ok(move |recorder: &mut Recorder<'_>| record_forward(recorder, pairs))
    })
}

fn record_forward(recorder: &mut Recorder<'_>, pairs: Pairs) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    pairs.oriented().0.forward(recorder)
}

pub(crate) fn backward_pairs<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 4>,
    wanted: Wanted<'_, T, 3, 3>,
) -> Result<()> {
    let [p, s, t, _] = g.shape();
    call(target, |stage| {
        let (layer, z, x, y) = (stage.layer(layer)?, stage.input(z)?, stage.input(x)?, stage.input(g)?);
        let to = outputs(stage, wanted.without_blocks())?;
        let pairs = Pairs { layer, sizes: [p, s, t], z, x, y };
        Ok(move |recorder: &mut Recorder<'_>| gradients::backward(recorder, pairs, &to, 1.0))
    })
}

/// What [`forward_pairs`] does with row-major inputs on the device.
pub(crate) fn plan_pairs<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    sizes @ [p, s, t]: [usize; 3],
) -> Result<Plan> {
    let input = |[rows, columns]: [i64; 2]| Operand::somewhere::<T>([columns.saturating_mul(rows), columns, 1]);
    let [rows_z, rows_x, i, j, k] = [s, t, layer.i, layer.j, layer.k].map(|len| len as i64);
    let (z, x, row) = (input([rows_z, i]), input([rows_x, j]), rows_x.saturating_mul(k));
    let y = Operand::somewhere::<T>([row.saturating_mul(rows_z), row, k, 1]);
    let on_device = Stage::planned(target).layer(layer)?;
    let pairs = Pairs { layer: on_device, sizes: [p, s, t], z, x, y };
    let planned = target.plan(|recorder| record_forward(recorder, pairs))?;
    let (algorithm, counts) = (cpu::shared_algorithm(layer), cpu::pairs_counts(layer, sizes));
    Ok(describe::<T>(target, algorithm, counts, planned))
}

pub(crate) fn forward_pairs_reduced<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 3>,
    scale: f64,
) -> Result<()> {
    let ([s, t, _], [p, _, _]) = (y.shape(), z.shape());
    call(target, |stage| {
        let (layer, z, x) = (stage.layer(layer)?, stage.input(z)?, stage.input(x)?);
        let y = for_all_problems(stage.output(Gradient::write(y))?.to);
        let pairs = Pairs { layer, sizes: [p, s, t], z, x, y };
        Ok(move |recorder: &mut Recorder<'_>| reduced::forward(recorder, pairs, scale))
    })
}

/// b is not scaled, and there once.
pub(crate) fn backward_pairs_reduced<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
    mut wanted: Wanted<'_, T, 3, 3>,
    scale: f64,
) -> Result<()> {
    let ([s, t, _], [p, _, _]) = (g.shape(), z.shape());
    call(target, |stage| {
        let (layer, z, x) = (stage.layer(layer)?, stage.input(z)?, stage.input(x)?);
        let y = for_all_problems(stage.input(g)?);
        let b = stage.wanted(wanted.b.take())?;
        let to = outputs(stage, wanted.without_blocks())?;
        let pairs = Pairs { layer, sizes: [p, s, t], z, x, y };
        Ok(move |recorder: &mut Recorder<'_>| {
            gradients::linear(recorder, &Pairs { sizes: [1, s, t], ..pairs }, (None, None, b))?;
            gradients::backward(recorder, pairs, &to, scale)
        })
    })
}

fn for_all_problems(of: Operand<3>) -> Operand<4> {
    let [s, t, k] = of.strides;
    Operand { address: of.address, strides: [0, s, t, k], kind: of.kind }
}
