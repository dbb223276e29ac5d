//! From a call's context to the engine that computes it, once all its operands are known to be where that engine reads them.
//! This is the only way to either engine.

use crate::gradients::Gradient;
use crate::place::{self, Located, Place};
use crate::{Context, Device, Element, Interaction, Plan, Result, Saved, Tangents, View, ViewMut, Wanted, cpu};
#[cfg(feature = "cuda")]
use crate::{Error, cuda};

enum Engine {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(cuda::Target),
}

/// The context's engine, for operands that it can read. Sums of blocks are computed by the processor, whatever the context says:
/// operands of the host. Errors: [`crate::Error::Place`] and those of the device; [`crate::Error::Unsupported`] of blocks beside
/// operands in a device's memory.
#[inline]
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "only devices refuse a form"))]
fn engine<T: Element>(layer: &Interaction<'_, T>, context: &Context, operands: &[&[Located]]) -> Result<Engine> {
    match context.device() {
        Device::Cpu => place::all(Place::HOST, operands).map(|()| Engine::Cpu),
        #[cfg(feature = "cuda")]
        device @ Device::Cuda(ordinal) => {
            let here = Place::of(device)?;
            let present = || operands.iter().flat_map(|some| some.iter().copied()).flatten();
            let elsewhere = present().find(|&(_, place)| place != here && !place.is_host());
            if let Some((operand, actual)) = elsewhere {
                return Err(Error::Place { operand, expected: device, actual: actual.device() });
            }
            // Copied there and back if nothing is there yet.
            let staged = present().all(|(_, place)| place.is_host());
            if !layer.terms().is_empty() {
                let what = "sums of blocks in a device's memory";
                return if staged { Ok(Engine::Cpu) } else { Err(Error::Unsupported { what }) };
            }
            if !staged {
                place::all(here, operands)?;
            }
            cuda::Target::new(context, ordinal, staged).map(Engine::Cuda)
        }
        #[cfg(not(feature = "cuda"))]
        device => device.check().map(|()| Engine::Cpu),
    }
}

/// That the layer's weights are where its context reads them. Errors: [`crate::Error::Place`] and those of the device.
pub(crate) fn check<T: Element>(layer: &Interaction<'_, T>) -> Result<()> {
    engine(layer, &layer.context()?, &[&layer.located()]).map(drop)
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
    match engine(layer, &layer.context()?, &[&layer.located(), &operands])? {
        Engine::Cpu => cpu::forward(layer, z, x, y),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward(&target, layer, z, x, Gradient::write(y)),
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
    match engine(layer, &layer.context()?, &[&layer.located(), &operands])? {
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
    match engine(layer, &layer.context()?, &[&layer.located(), &operands])? {
        Engine::Cpu => cpu::forward_shared(layer, z, x, y),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::forward_shared(&target, layer, z, x, y),
    }
}

pub(crate) fn generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: ViewMut<'_, T, 3>,
    bias: ViewMut<'_, T, 2>,
) -> Result<()> {
    let operands = [at("z", &z), to("weights", &weights), to("bias", &bias)];
    match engine(layer, &layer.context()?, &[&layer.located(), &operands])? {
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
    match engine(layer, &layer.context()?, &[&layer.located(), &operands, &tangents.located()])? {
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
    let engine = engine(layer, &context, &[&layer.located(), &operands, &wanted.located()])?;
    wanted.saved.map_or(Ok(()), |saved| saved.check_place(&context))?;
    match engine {
        Engine::Cpu => {
            let layer = layer.along([true; 3]);
            cpu::backward(&layer, z, x, g, wanted.nonzero(&layer, x.shape()[0]))
        }
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
    let engine = engine(layer, &context, &[&layer.located(), &operands, &wanted.located()])?;
    wanted.saved.map_or(Ok(()), |saved| saved.check_place(&context))?;
    match engine {
        Engine::Cpu => {
            let layer = layer.along([true; 3]);
            let rows = x.shape()[0].saturating_mul(x.shape()[1]);
            cpu::backward_shared(&layer, z, x, g, wanted.nonzero(&layer, rows))
        }
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward_shared(&target, layer, z, x, g, wanted),
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
    match engine(layer, &layer.context()?, &[&layer.located(), &operands, &wanted.located()])? {
        Engine::Cpu => {
            let layer = layer.along([true; 3]);
            cpu::backward_generate(&layer, z, weights, bias, wanted.nonzero(&layer, z.shape()[0]))
        }
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::backward_generate(&target, layer, z, weights, bias, wanted),
    }
}

pub(crate) fn plan<T: Element>(layer: &Interaction<'_, T>, rows: usize) -> Result<Plan> {
    match engine(layer, &layer.context()?, &[&layer.located()])? {
        Engine::Cpu => cpu::plan(layer, rows),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::plan(&target, layer, rows),
    }
}

pub(crate) fn plan_shared<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> Result<Plan> {
    match engine(layer, &layer.context()?, &[&layer.located()])? {
        Engine::Cpu => cpu::plan_shared(layer, groups, rows),
        #[cfg(feature = "cuda")]
        Engine::Cuda(target) => cuda::plan_shared(&target, layer, groups, rows),
    }
}
