//! From a call's context to the engine that computes it, once all its operands are known to be where that engine reads them.
//! This is the only way to either engine.

use crate::grouped::{Grouped, GroupedWanted};
use crate::place::{self, Located, Place};
use crate::wanted::{Fill, Gradient, OnHost, WantedBlock};
#[cfg(feature = "cuda")]
use crate::{Block, Error, cuda};
use crate::{Context, Device, Element, Interaction, Plan, Result, Saved, Tangents, Tensor, View, ViewMut, Wanted, cpu};

enum Engine {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(cuda::Target),
}

impl Fill for Engine {
    fn zeros<A: Element, const D: usize>(&self, to: ViewMut<'_, A, D>) -> Result<()> {
        match self {
            Engine::Cpu => OnHost.zeros(to)?,
            #[cfg(feature = "cuda")]
            Engine::Cuda(target) => target.zeros(to)?,
        }
        Ok(())
    }
}

/// The context's engine, for operands that it can read; `wanted` are the destinations of blocks' gradients. Errors:
/// [`crate::Error::Place`] and those of the device.
#[inline]
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "only devices have two places"))]
fn engine<T: Element>(
    layer: &Interaction<'_, T>,
    context: &Context,
    operands: &[&[Located]],
    wanted: &[WantedBlock<'_, T>],
) -> Result<Engine> {
    match context.device() {
        Device::Cpu => place::all(Place::HOST, operands).map(|()| Engine::Cpu),
        #[cfg(feature = "cuda")]
        device @ Device::Cuda(ordinal) => {
            let here = Place::of(device)?;
            let of_blocks = || layer.terms().iter().flat_map(Block::operands);
            let of_wanted = || wanted.iter().flat_map(WantedBlock::located);
            let given = || operands.iter().flat_map(|some| some.iter().copied());
            let present = || given().chain(of_blocks()).chain(of_wanted()).flatten();
            let refuse = |(operand, actual): (&'static str, Place)| {
                Err(Error::Place { operand, expected: device, actual: actual.device() })
            };
            if let Some(elsewhere) = present().find(|&(_, place)| place != here && !place.is_host()) {
                return refuse(elsewhere);
            }
            // Copied there and back if nothing is there yet.
            let staged = present().all(|(_, place)| place.is_host());
            if let Some(elsewhere) = present().find(|(_, place)| !staged && *place != here) {
                return refuse(elsewhere);
            }
            cuda::Target::new(context, ordinal, staged).map(Engine::Cuda)
        }
        #[cfg(not(feature = "cuda"))]
        device => device.check().map(|()| Engine::Cpu),
    }
}

/// The same for operations in which CUDA devices do not compute sums of blocks: the processor does, of operands of the host. Errors:
/// those of `engine`, and [`crate::Error::Unsupported`] of blocks in a device's memory.
#[inline]
fn engine_but_blocks<T: Element>(
    layer: &Interaction<'_, T>,
    context: &Context,
    operands: &[&[Located]],
) -> Result<Engine> {
    match engine(layer, context, operands, &[])? {
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) if !layer.terms().is_empty() => {
            let what = "all pairs, grouped and generated layers of sums of blocks in a device's memory";
            if target.is_staged() { Ok(Engine::Cpu) } else { Err(Error::Unsupported { what }) }
        }
        engine => Ok(engine),
    }
}

/// That the layer's weights are where its context reads them. Errors: [`crate::Error::Place`] and those of the device.
pub(crate) fn check<T: Element>(layer: &Interaction<'_, T>) -> Result<()> {
    engine(layer, &layer.context()?, &[&layer.located()], &[]).map(|_| ())
}

fn at<T, const D: usize>(name: &'static str, view: &View<'_, T, D>) -> Located {
    Some((name, view.place()))
}

fn to<T, const D: usize>(name: &'static str, view: &ViewMut<'_, T, D>) -> Located {
    Some((name, view.place()))
}

#[inline]
pub(crate) fn forward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), to("y", &y)];
    match engine(layer, &layer.context()?, &[&layer.located(), &operands], &[])? {
        Engine::Cpu => cpu::forward(layer, z, x, y),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward(&target, layer, z, x, Gradient::write(y)),
    }
}

pub(crate) fn attend<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), to("y", &y)];
    match engine(layer, &layer.context()?, &[&layer.located(), &operands], &[])? {
        Engine::Cpu => cpu::attend(layer, z, x, y),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::attend(&target, layer, z, x, y),
    }
}

pub(crate) fn attend_backward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
    mut wanted: Wanted<'_, T>,
) -> Result<()> {
    let context = layer.context()?;
    let operands = [at("z", &z), at("x", &x), at("g", &g)];
    let engine = engine(layer, &context, &[&layer.located(), &operands, &wanted.located()], wanted.blocks)?;
    wanted.saved.map_or(Ok(()), |saved| saved.check_place(&context))?;
    match engine {
        Engine::Cpu => {
            let mut dm = Tensor::zeros(g.shape())?;
            let inputs = [&mut wanted.x, &mut wanted.tied]
                .map(|to| to.as_mut().map(|Gradient { to, add }| Gradient { to: to.reborrow(), add: *add }));
            cpu::attend_back(layer, [z, x, g], dm.view_mut(), inputs)?;
            for to in [&mut wanted.x, &mut wanted.tied].into_iter().flatten() {
                to.add = true;
            }
            backward(layer, z, x, dm.view(), wanted)
        }
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => {
            let layer = &layer.along([true; 3]);
            // dx has m in it, whatever the layer.
            let (of_x, tied) = (wanted.x.take(), wanted.tied.take());
            let wanted = wanted.nonzero(layer, x.shape()[0], &Engine::Cuda(target))?;
            cuda::attend_backward(&target, layer, z, x, g, Wanted { x: of_x, tied, ..wanted })
        }
    }
}

pub(crate) fn forward_saving<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
    saved: &mut Saved<T>,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), to("y", &y)];
    match engine(layer, &layer.context()?, &[&layer.located(), &operands], &[])? {
        Engine::Cpu => cpu::forward_saving(layer, z, x, y, saved),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward_saving(&target, layer, z, x, y, saved),
    }
}

pub(crate) fn forward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 3>,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), to("y", &y)];
    match engine(layer, &layer.context()?, &[&layer.located(), &operands], &[])? {
        Engine::Cpu => cpu::forward_shared(layer, z, x, y),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward_shared(&target, layer, z, x, y),
    }
}

pub(crate) fn forward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 4>,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), to("y", &y)];
    match engine_but_blocks(layer, &layer.context()?, &[&layer.located(), &operands])? {
        Engine::Cpu => cpu::forward_pairs(layer, z, x, y),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward_pairs(&target, layer, z, x, y),
    }
}

pub(crate) fn generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: ViewMut<'_, T, 3>,
    bias: ViewMut<'_, T, 2>,
) -> Result<()> {
    let operands = [at("z", &z), to("weights", &weights), to("bias", &bias)];
    match engine_but_blocks(layer, &layer.context()?, &[&layer.located(), &operands])? {
        Engine::Cpu => cpu::generate(layer, z, weights, bias),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::generate(&target, layer, z, weights, bias),
    }
}

pub(crate) fn tangent<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    tangents: &Tangents<'_, T>,
    gradient: Gradient<'_, T::Accumulator, 2>,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), to("tangent", &gradient.to)];
    match engine(layer, &layer.context()?, &[&layer.located(), &operands, &tangents.located()], &[])? {
        Engine::Cpu => cpu::tangent(layer, z, x, tangents, gradient),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::tangent(&target, layer, z, x, tangents, gradient),
    }
}

pub(crate) fn backward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    let context = layer.context()?;
    let operands = [at("z", &z), at("x", &x), at("g", &g)];
    let engine = engine(layer, &context, &[&layer.located(), &operands, &wanted.located()], wanted.blocks)?;
    wanted.saved.map_or(Ok(()), |saved| saved.check_place(&context))?;
    let layer = &layer.along([true; 3]);
    let wanted = wanted.nonzero(layer, x.shape()[0], &engine)?;
    match engine {
        Engine::Cpu => cpu::backward(layer, z, x, g, wanted),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward(&target, layer, z, x, g, wanted),
    }
}

pub(crate) fn backward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
    wanted: Wanted<'_, T, 3>,
) -> Result<()> {
    let context = layer.context()?;
    let operands = [at("z", &z), at("x", &x), at("g", &g)];
    let engine = engine(layer, &context, &[&layer.located(), &operands, &wanted.located()], wanted.blocks)?;
    wanted.saved.map_or(Ok(()), |saved| saved.check_place(&context))?;
    let layer = &layer.along([true; 3]);
    let wanted = wanted.nonzero(layer, x.shape()[0].saturating_mul(x.shape()[1]), &engine)?;
    match engine {
        Engine::Cpu => cpu::backward_shared(layer, z, x, g, wanted),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward_shared(&target, layer, z, x, g, wanted),
    }
}

pub(crate) fn backward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 4>,
    wanted: Wanted<'_, T, 3, 3>,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), at("g", &g)];
    let engine = engine_but_blocks(layer, &layer.context()?, &[&layer.located(), &operands, &wanted.located()])?;
    let layer = &layer.along([true; 3]);
    let [p, s, t, _] = g.shape();
    let wanted = wanted.nonzero(layer, p.saturating_mul(s).saturating_mul(t), &engine)?;
    match engine {
        Engine::Cpu => cpu::backward_pairs(layer, z, x, g, wanted, 1.0),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward_pairs(&target, layer, z, x, g, wanted),
    }
}

pub(crate) fn backward_generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: View<'_, T, 3>,
    bias: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    let operands = [at("z", &z), at("weights", &weights), at("bias", &bias)];
    let engine = engine_but_blocks(layer, &layer.context()?, &[&layer.located(), &operands, &wanted.located()])?;
    let layer = &layer.along([true; 3]);
    let wanted = wanted.nonzero(layer, z.shape()[0], &engine)?;
    match engine {
        Engine::Cpu => cpu::backward_generate(layer, z, weights, bias, wanted),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward_generate(&target, layer, z, weights, bias, wanted),
    }
}

pub(crate) fn plan<T: Element>(layer: &Interaction<'_, T>, rows: usize) -> Result<Plan> {
    match engine(layer, &layer.context()?, &[&layer.located()], &[])? {
        Engine::Cpu => cpu::plan(layer, rows),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::plan(&target, layer, rows),
    }
}

pub(crate) fn plan_shared<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> Result<Plan> {
    match engine(layer, &layer.context()?, &[&layer.located()], &[])? {
        Engine::Cpu => cpu::plan_shared(layer, groups, rows),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::plan_shared(&target, layer, groups, rows),
    }
}

pub(crate) fn plan_pairs<T: Element>(layer: &Interaction<'_, T>, sizes: [usize; 3]) -> Result<Plan> {
    match engine_but_blocks(layer, &layer.context()?, &[&layer.located()])? {
        Engine::Cpu => cpu::plan_pairs(layer, sizes),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::plan_pairs(&target, layer, sizes),
    }
}

/// The engine of the first layer's context, for layers and destinations that it can read: sums of blocks decide, if there are any.
fn grouped<T: Element>(grouped: &Grouped<'_, T>, operands: &[Located], wanted: &[Wanted<'_, T>]) -> Result<Engine> {
    let context = grouped.first.context()?;
    let first = grouped.layers.iter().find(|layer| !layer.terms().is_empty()).unwrap_or(grouped.first);
    let found = engine_but_blocks(first, &context, &[operands, &first.located()])?;
    let place = match &found {
        Engine::Cpu => Place::HOST,
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => target.place()?,
    };
    grouped.layers.iter().try_for_each(|layer| place::all(place, &[&layer.located()]))?;
    wanted.iter().try_for_each(|of_layer| place::all(place, &[&of_layer.located()]))?;
    Ok(found)
}

pub(crate) fn forward_grouped<T: Element>(
    layers: &Grouped<'_, T>,
    index: &[usize],
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    match grouped(layers, &[at("z", &z), at("x", &x), to("y", &y)], &[])? {
        Engine::Cpu => cpu::forward_grouped(layers, index, z, x, y),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward_grouped(&target, layers, index, z, x, y),
    }
}

pub(crate) fn backward_grouped<T: Element>(
    layers: &Grouped<'_, T>,
    index: &[usize],
    [z, x, g]: [View<'_, T, 2>; 3],
    wanted: GroupedWanted<'_, '_, T>,
) -> Result<()> {
    let dz = wanted.z.as_ref().and_then(|gradient| to("dz", &gradient.to));
    let dx = wanted.x.as_ref().and_then(|gradient| to("dx", &gradient.to));
    match grouped(layers, &[at("z", &z), at("x", &x), at("g", &g), dz, dx], wanted.layers)? {
        Engine::Cpu => cpu::backward_grouped(layers, index, [z, x, g], wanted),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward_grouped(&target, layers, index, [z, x, g], wanted),
    }
}

pub(crate) fn forward_pairs_reduced<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 3>,
    scale: f64,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), to("y", &y)];
    match engine_but_blocks(layer, &layer.context()?, &[&layer.located(), &operands])? {
        Engine::Cpu => cpu::forward_pairs_reduced(layer, z, x, y, scale),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward_pairs_reduced(&target, layer, z, x, y, scale),
    }
}

pub(crate) fn backward_pairs_reduced<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
    mut wanted: Wanted<'_, T, 3, 3>,
    scale: f64,
) -> Result<()> {
    let operands = [at("z", &z), at("x", &x), at("g", &g)];
    let engine = engine_but_blocks(layer, &layer.context()?, &[&layer.located(), &operands, &wanted.located()])?;
    let layer = &layer.along([true; 3]);
    let [s, t, _] = g.shape();
    // b is there once, also where there are no problems.
    let bias = Wanted::<T, 3, 3> { b: wanted.b.take(), ..Wanted::default() };
    let b = bias.nonzero(layer, s.saturating_mul(t), &engine)?.b;
    let rows = z.shape()[0].saturating_mul(s).saturating_mul(t);
    let wanted = Wanted { b, ..wanted.nonzero(layer, rows, &engine)? };
    match engine {
        Engine::Cpu => cpu::backward_pairs_reduced(layer, z, x, g, wanted, scale),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward_pairs_reduced(&target, layer, z, x, g, wanted, scale),
    }
}
