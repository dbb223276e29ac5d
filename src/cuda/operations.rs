//! The API's operations on a device: operands are staged, and the launches recorded.

use super::contract::{self, Batch, dx_terms, dz_terms};
use super::cp::{self, Kept};
use super::driver::Gpu;
use super::few::Few;
use super::forms;
use super::gate::Groups;
use super::gram;
use super::operand::{Factors, Form, Layer, Operand, Output, Outputs};
use super::recorder::Recorder;
pub(crate) use super::recorder::Target;
use super::shared;
use super::stage::Stage;
use crate::wanted::{Fill, Gradient};
use crate::{
    Algorithm, Context, Device, Element, Error, Interaction, Launch, Plan, Result, Saved, Tangents, View, ViewMut,
    Wanted, cpu,
};

pub(crate) fn synchronize(context: &Context) -> Result<()> {
    match context.device() {
        Device::Cpu => Ok(()),
        Device::Cuda(ordinal) => Gpu::get(ordinal)?.synchronize(context.stream() as usize),
    }
}

/// The one algorithm that there is for a form. Errors: [`Error::Algorithm`] if another is forced.
pub(super) fn algorithm<T: Element>(target: &Target, layer: &Interaction<'_, T>) -> Result<Algorithm> {
    let (ours, reason) = match layer.rank() {
        Some(_) => (Algorithm::CpBlocked, "CUDA devices compute W in CP form by cp-blocked"),
        None if !layer.terms().is_empty() => (Algorithm::Blocks, "W is a sum of blocks"),
        None if layer.is_dense() => (Algorithm::FusedDot, "CUDA devices compute dense W by fused-dot"),
        None => (Algorithm::Linear, "W is absent"),
    };
    match target.context.algorithm() {
        Some(algorithm) if algorithm != ours => Err(Error::Algorithm { algorithm, reason }),
        _ => Ok(ours),
    }
}

/// y of a batch.
pub(super) fn record_forward(
    recorder: &mut Recorder<'_>,
    (layer, blocks): (&Layer, &Few<forms::Block>),
    n: usize,
    [z, x]: [Operand<2>; 2],
    y: Output<2>,
    keep: Option<Kept>,
) -> Result<()> {
    match &layer.form {
        _ if !blocks.is_empty() => {
            forms::forward(recorder, layer, blocks, Groups { count: n, each: 1 }, (z, x.heads()), y.heads())
        }
        Form::Cp(factors) => cp::forward(recorder, layer, factors, n, [z, x], y, keep),
        _ => contract::forward(recorder, layer, n, [z, x], y),
    }
}

/// A call: its operands are staged, its launches recorded, its results fetched.
pub(super) fn call<'a, R>(target: &'a Target, prepare: impl FnOnce(&mut Stage<'a>) -> Result<R>) -> Result<()>
where
    R: Fn(&mut Recorder<'_>) -> Result<()>,
{
    let mut stage = Stage::new(target);
    let record = prepare(&mut stage)?;
    target.run(record)?;
    stage.finish()
}

pub(crate) fn forward<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: Gradient<'_, T, 2>,
) -> Result<()> {
    forward_keeping(target, layer, [z, x], y, None)
}

fn forward_keeping<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    inputs: [View<'_, T, 2>; 2],
    y: Gradient<'_, T, 2>,
    keep: Option<Kept>,
) -> Result<()> {
    algorithm(target, layer)?;
    let [z, x] = inputs;
    call(target, |stage| {
        let (layer, blocks) = (stage.layer(layer)?, forms::blocks(stage, layer)?);
        let (n, inputs) = (x.shape()[0], [stage.input(z)?, stage.input(x)?]);
        let y = stage.output(y)?;
        Ok(move |recorder: &mut Recorder<'_>| record_forward(recorder, (&layer, &blocks), n, inputs, y, keep))
    })
}

pub(crate) fn forward_saving<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
    saved: &mut Saved<T>,
) -> Result<()> {
    algorithm(target, layer)?;
    let (n, y) = (x.shape()[0], Gradient::write(y));
    let Some(rank) = layer.rank() else {
        saved.resize(n, 0)?;
        return forward(target, layer, z, x, y);
    };
    let (p, q, pitch) = saved.resize_on(target.gpu.device(), n, rank)?;
    forward_keeping(target, layer, [z, x], y, Some(Kept { p, q, pitch }))
}

pub(crate) fn forward_shared<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 3>,
) -> Result<()> {
    let [groups, rows, _] = x.shape();
    call(target, |stage| {
        let (layer, blocks) = (stage.layer(layer)?, forms::blocks(stage, layer)?);
        let (z, x) = (stage.input(z)?, stage.input(x)?);
        let y = stage.output(Gradient::write(y))?;
        Ok(move |recorder: &mut Recorder<'_>| record_shared(recorder, (&layer, &blocks), [groups, rows], (z, x), y))
    })
}

/// y of a shared context.
fn record_shared(
    recorder: &mut Recorder<'_>,
    (layer, blocks): (&Layer, &Few<forms::Block>),
    [count, each]: [usize; 2],
    (z, x): (Operand<2>, Operand<3>),
    y: Output<3>,
) -> Result<()> {
    if blocks.is_empty() {
        return shared::forward(recorder, layer, [count, each], (z, x), y);
    }
    forms::forward(recorder, layer, blocks, Groups { count, each }, (z, x), y)
}

/// Errors: [`Error::Unsupported`] of sums of blocks.
fn generates<T: Element>(layer: &Interaction<'_, T>) -> Result<()> {
    let blocks = layer.along([true; 3]).terms();
    if blocks.is_empty() { Ok(()) } else { Err(Error::Unsupported { what: "the layers that sums of blocks generate" }) }
}

pub(crate) fn generate<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: ViewMut<'_, T, 3>,
    bias: ViewMut<'_, T, 2>,
) -> Result<()> {
    generates(layer)?;
    let groups = z.shape()[0];
    call(target, |stage| {
        let (layer, z) = (stage.layer(layer)?, stage.input(z)?);
        let to = (stage.output(Gradient::write(weights))?.to, stage.output(Gradient::write(bias))?.to);
        Ok(move |recorder: &mut Recorder<'_>| shared::generate(recorder, &layer, groups, z, to))
    })
}

/// Each operand that changes gives a forward pass with its tangent in its place; their sums add up.
pub(crate) fn tangent<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    tangents: &Tangents<'_, T>,
    to: Gradient<'_, T::Accumulator, 2>,
) -> Result<()> {
    let n = x.shape()[0];
    call(target, |stage| {
        let (layer, blocks) = (stage.layer(layer)?, forms::blocks(stage, layer)?);
        let (z, x) = (stage.input(z)?, stage.input(x)?);
        let (dz, dx) = (stage.some(tangents.z)?, stage.some(tangents.x)?);
        let [u, v] = [stage.some(tangents.u)?, stage.some(tangents.v)?];
        let (w, b) = (stage.some(tangents.w)?, stage.some(tangents.b)?);
        let factors = [stage.some(tangents.cp_a)?, stage.some(tangents.cp_b)?, stage.some(tangents.cp_c)?];
        let lambda = stage.some(tangents.lambda)?;
        let to = stage.output(to)?;
        let absent = Layer { form: Form::Absent, u: None, v: None, b: None, ..layer };
        let of_weights = Layer { u, v, b, form: w.map_or(Form::Absent, Form::Dense), ..absent };
        Ok(move |recorder: &mut Recorder<'_>| {
            let terms = |layer: &Layer, z: Operand<2>, x: Operand<2>| contract::terms(layer, z.matrix(), x.matrix());
            // In W's form, with U and V of what changes in the inputs.
            let [moved_z, moved_x] = [
                dz.map(|dz| terms(&Layer { v: None, ..layer }, dz, x)),
                dx.map(|dx| terms(&Layer { u: None, ..layer }, z, dx)),
            ];
            let all = [moved_z.unwrap_or_default(), moved_x.unwrap_or_default(), terms(&of_weights, z, x)];
            let bias = b.map(Operand::<1>::row);
            contract::sum(recorder, Batch::plain(n), layer.k, all.as_flattened(), bias, (to.to.matrix(), to.add))?;
            let moved = [dz.map(|dz| (dz, x)), dx.map(|dx| (z, dx))];
            for (z, x) in moved.into_iter().flatten().filter(|_| !blocks.is_empty()) {
                let to = Output { add: true, ..to };
                record_forward(recorder, (&absent, &blocks), n, [z, x], to, None)?;
            }
            let Form::Cp(own) = layer.form else { return Ok(()) };
            let [a, b, c] = factors;
            let replaced = [
                a.map(|a| (Factors { a, ..own }, z, x)),
                b.map(|b| (Factors { b, ..own }, z, x)),
                c.map(|c| (Factors { c, ..own }, z, x)),
                lambda.map(|lambda| (Factors { lambda: Some(lambda), ..own }, z, x)),
                dz.map(|dz| (own, dz, x)),
                dx.map(|dx| (own, z, dx)),
            ];
            for (factors, z, x) in replaced.into_iter().flatten() {
                cp::forward(recorder, &absent, &factors, n, [z, x], Output { add: true, ..to }, None)?;
            }
            Ok(())
        })
    })
}

/// Where all gradients go.
pub(super) fn outputs<'a, T: Element, const D: usize, const Z: usize>(
    stage: &mut Stage<'a>,
    wanted: Wanted<'a, T, D, Z>,
) -> Result<Outputs<D, Z>> {
    Ok(Outputs {
        z: stage.wanted(wanted.z)?,
        x: stage.wanted(wanted.x)?,
        tied: stage.wanted(wanted.tied)?,
        w: stage.wanted(wanted.w)?,
        u: stage.wanted(wanted.u)?,
        v: stage.wanted(wanted.v)?,
        b: stage.wanted(wanted.b)?,
        cp_a: stage.wanted(wanted.cp.a)?,
        cp_b: stage.wanted(wanted.cp.b)?,
        cp_c: stage.wanted(wanted.cp.c)?,
        lambda: stage.wanted(wanted.cp.lambda)?,
    })
}

/// What a forward pass on this device has kept.
fn kept<T: Element>(saved: Option<&Saved<T>>) -> Option<Kept> {
    saved.and_then(Saved::on_device).map(|(p, q, pitch)| Kept { p, q, pitch })
}

pub(crate) fn backward<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    let (n, saved) = (g.shape()[0], kept(wanted.saved));
    call(target, |stage| {
        let (blocks, of_blocks) = (forms::blocks(stage, layer)?, forms::wanted(stage, layer, wanted.blocks)?);
        let (layer, operands) = (stage.layer(layer)?, [stage.input(z)?, stage.input(x)?, stage.input(g)?]);
        let to = outputs(stage, wanted.without_blocks())?;
        Ok(move |recorder: &mut Recorder<'_>| {
            record_gradients(recorder, &layer, (&blocks, &of_blocks), n, operands, saved, &to)
        })
    })
}

/// All of them; those of the blocks after those of U, V and b.
pub(super) fn record_gradients(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    blocks: (&Few<forms::Block>, &Few<forms::Outputs>),
    n: usize,
    operands @ [z, x, g]: [Operand<2>; 3],
    saved: Option<Kept>,
    to: &Outputs<2>,
) -> Result<()> {
    if blocks.0.is_empty() {
        return record_backward(recorder, layer, n, operands, saved, to);
    }
    record_backward(recorder, layer, n, operands, None, &to.linear(layer))?;
    let (u, v) = (layer.u.is_some(), layer.v.is_some());
    let inputs = forms::Inputs {
        z: to.z.map(|to| to.later(u)),
        x: to.x.map(|to| to.later(v).heads()),
        tied: to.tied.map(|to| to.later(u || v)),
    };
    forms::backward(recorder, layer, blocks, Groups { count: n, each: 1 }, (z, x.heads(), g.heads()), inputs)
}

/// Inputs' gradients in one launch, weights' in another.
pub(super) fn record_backward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    n: usize,
    operands: [Operand<2>; 3],
    saved: Option<Kept>,
    to: &Outputs<2>,
) -> Result<()> {
    if let Form::Cp(factors) = &layer.form {
        return cp::backward(recorder, layer, factors, n, operands, saved, to);
    }
    let (batch, [z, x, g]) = (Batch::plain(n), operands.map(Operand::<2>::matrix));
    let (dz, dx) = (dz_terms(layer, g, x), dx_terms(layer, g, z));
    contract::inputs(recorder, batch, [(&dz, layer.i), (&dx, layer.j)], [to.z, to.x, to.tied])?;
    recorder.gram(&gram::weights(batch, layer, [z, x, g], to).map(Option::unwrap_or_default))
}

/// y = m⊙x, by blocks of rows whose m is in scratch.
pub(crate) fn attend<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    let n = x.shape()[0];
    call(target, |stage| {
        let (layer, blocks) = (stage.layer(layer)?, forms::blocks(stage, layer)?);
        let (z, x, y) = (stage.input(z)?, stage.input(x)?, stage.output(Gradient::write(y))?);
        Ok(move |recorder: &mut Recorder<'_>| forms::attend(recorder, (&layer, &blocks), n, [z, x], y))
    })
}

pub(crate) fn attend_backward<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    let n = g.shape()[0];
    call(target, |stage| {
        let (blocks, of_blocks) = (forms::blocks(stage, layer)?, forms::wanted(stage, layer, wanted.blocks)?);
        let (layer, operands) = (stage.layer(layer)?, [stage.input(z)?, stage.input(x)?, stage.input(g)?]);
        let to = outputs(stage, wanted.without_blocks())?;
        Ok(move |recorder: &mut Recorder<'_>| {
            forms::attend_backward(recorder, &layer, (&blocks, &of_blocks), n, operands, &to)
        })
    })
}

pub(crate) fn backward_shared<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
    wanted: Wanted<'_, T, 3>,
) -> Result<()> {
    let ([groups, rows, _], saved) = (x.shape(), kept(wanted.saved));
    call(target, |stage| {
        let (blocks, of_blocks) = (forms::blocks(stage, layer)?, forms::wanted(stage, layer, wanted.blocks)?);
        let (layer, z, x, g) = (stage.layer(layer)?, stage.input(z)?, stage.input(x)?, stage.input(g)?);
        let to = outputs(stage, wanted.without_blocks())?;
        Ok(move |recorder: &mut Recorder<'_>| {
            let operands = (z, x, g);
            if blocks.is_empty() {
                return shared::backward(recorder, &layer, [groups, rows], operands, saved, &to);
            }
            shared::backward(recorder, &layer, [groups, rows], operands, None, &to.linear(&layer))?;
            let inputs = forms::Inputs {
                z: to.z.map(|to| to.later(layer.u.is_some())),
                x: to.x.map(|to| to.later(layer.v.is_some())),
                tied: None,
            };
            let groups = Groups { count: groups, each: rows };
            forms::backward(recorder, &layer, (&blocks, &of_blocks), groups, operands, inputs)
        })
    })
}

pub(crate) fn backward_generate<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: View<'_, T, 3>,
    bias: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    generates(layer)?;
    let groups = z.shape()[0];
    call(target, |stage| {
        let layer = stage.layer(layer)?;
        let operands = (stage.input(z)?, stage.input(weights)?, stage.input(bias)?);
        let to = outputs(stage, wanted.without_blocks())?;
        Ok(move |recorder: &mut Recorder<'_>| shared::backward_generate(recorder, &layer, groups, operands, &to))
    })
}

impl Fill for Target {
    /// On the host or the device.
    fn zeros<A: Element, const D: usize>(&self, mut to: ViewMut<'_, A, D>) -> Result<()> {
        if self.staged {
            cpu::fill_zero(&mut to);
            return Ok(());
        }
        // Of at most three axes.
        let (mut shape, mut strides) = ([1; 3], [0; 3]);
        shape[3 - D..].copy_from_slice(&to.shape());
        let Output { to: Operand { address, strides: own, kind }, .. } = Output::from(Gradient::write(to));
        strides[3 - D..].copy_from_slice(&own);
        self.run(|recorder| recorder.gram(&[gram::zeros(shape, Operand { address, strides, kind })]))
    }
}

/// What [`forward`] does with row-major inputs on the device.
pub(crate) fn plan<T: Element>(target: &Target, layer: &Interaction<'_, T>, n: usize) -> Result<Plan> {
    let algorithm = algorithm(target, layer)?;
    let [z, x, y] = [layer.i, layer.j, layer.k].map(|columns| Operand::somewhere::<T>([columns as i64, 1]));
    let stage = &mut Stage::planned(target);
    let (on_device, blocks) = (stage.layer(layer)?, forms::blocks(stage, layer)?);
    let y = Output { to: y, add: false };
    let planned = target.plan(|recorder| record_forward(recorder, (&on_device, &blocks), n, [z, x], y, None))?;
    Ok(describe::<T>(target, algorithm, cpu::counts(layer, n), planned))
}

/// What [`forward_shared`] does.
pub(crate) fn plan_shared<T: Element>(
    target: &Target,
    layer: &Interaction<'_, T>,
    groups: usize,
    rows: usize,
) -> Result<Plan> {
    let z = Operand::somewhere::<T>([layer.i as i64, 1]);
    let [x, y] = [layer.j, layer.k].map(|columns| {
        let columns = columns as i64;
        Operand::somewhere::<T>([columns.saturating_mul(rows as i64), columns, 1])
    });
    let stage = &mut Stage::planned(target);
    let (on_device, blocks) = (stage.layer(layer)?, forms::blocks(stage, layer)?);
    let y = Output { to: y, add: false };
    let planned = target.plan(|recorder| record_shared(recorder, (&on_device, &blocks), [groups, rows], (z, x), y))?;
    Ok(describe::<T>(target, cpu::shared_algorithm(layer), cpu::shared_counts(layer, groups, rows), planned))
}

pub(super) fn describe<T: Element>(
    target: &Target,
    algorithm: Algorithm,
    [flops, bytes]: [u128; 2],
    (launches, scratch): (Vec<Launch>, usize),
) -> Plan {
    Plan {
        algorithm,
        kernel: launches.last().map_or("none", |launch| launch.kernel),
        device: target.gpu.device(),
        simd: target.context.simd(),
        dtype: T::DTYPE,
        flops,
        bytes,
        scratch,
        threads: 1,
        launches,
    }
}
