//! The CPU engine: the way from the API's operands to the drivers.

mod cache;
mod context;
mod contract;
mod cost;
mod cp;
mod forms;
mod gradient;
mod grouped;
mod kernels;
mod operand;
mod output;
mod pairs;
mod parallel;
mod plan;
mod problem;
mod product;
mod reduced;
mod scratch;
mod simd;
mod small;
mod soon;
mod table;
mod tangent;
mod trilinear;

pub(crate) use forms::{Distances, attend, attend_back};
pub(crate) use gradient::{backward, backward_generate, backward_pairs, backward_pairs_reduced, backward_shared};
pub(crate) use grouped::{backward_grouped, forward_grouped};
#[cfg(feature = "cuda")]
pub(crate) use plan::{counts, shared_algorithm, shared_counts};
pub(crate) use plan::{plan, plan_pairs, plan_shared};
pub(crate) use simd::{Capability, Kernels};
pub(crate) use tangent::tangent;

use crate::interaction::Core;
use crate::{Algorithm, Context, Element, Interaction, Result, Saved, View, ViewMut};
use context::Target;
use operand::Cube;
use output::Sink;
use problem::Problem;
use trilinear::Trilinear;

/// Prepared weights that the drivers read in place of the stored ones: W in the accumulator's type.
pub(crate) type Panels<'a, T> = View<'a, <T as Kernels>::Acc, 3>;

/// The operands of a dense or linear layer for a batch of `n`.
#[inline]
fn problem<'a, T: Element>(layer: &Interaction<'a, T>, context: &Context, n: usize) -> Problem<'a, T> {
    let mut p = Problem::new(context, [n, layer.k, layer.i, layer.j]);
    if let Core::Dense(w) = layer.core {
        p.w = Some(Cube::Stored(w));
    }
    p.layout = layer.layout;
    (p.u, p.v, p.b) = (layer.u, layer.v, layer.b);
    p
}

/// The same as a trilinear form, with prepared weights where there are.
#[inline]
fn trilinear<'a, T: Element>(layer: &Interaction<'a, T>, context: &Context, n: usize) -> Trilinear<'a, T> {
    let mut t = Trilinear::new(context, n, [layer.k, layer.i, layer.j]);
    if let Core::Dense(w) = layer.core {
        t.w = layer.panels.map(Cube::Widened).or(Some(Cube::Stored(w)));
    }
    t.layout = layer.layout;
    (t.u, t.v, t.bias) = (layer.u, layer.v, layer.b);
    t
}

/// The same with prepared weights where there are.
fn prepared<'a, T: Element>(layer: &Interaction<'a, T>, p: Problem<'a, T>) -> Problem<'a, T> {
    Problem { w: layer.panels.map(Cube::Widened).or(p.w), ..p }
}

/// The operands of a CP layer for a batch of `n`.
fn cp_problem<'a, T: Element>(layer: &Interaction<'a, T>, context: &Context, n: usize) -> Option<cp::Problem<'a, T>> {
    let Core::Cp { a, b, c, lambda } = layer.core else { return None };
    let mut p = cp::Problem::new(context, n, [a, b, c]);
    (p.lambda, p.u, p.v, p.bias) = (lambda, layer.u, layer.v, layer.b);
    Some(p)
}

pub(crate) fn forward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    forward_to(layer, z, x, Sink::stored(y))
}

/// y, stored, or its sums written or added to.
#[inline]
fn forward_to<T: Element>(layer: &Interaction<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>, y: Sink<T>) -> Result<()> {
    let context = layer.context()?;
    let n = x.shape()[0];
    let p = problem(layer, &context, n);
    let choice = plan::choose(layer, &context, &p)?;
    if n == 0 || layer.k == 0 {
        return Ok(());
    }
    let needed;
    let (layer, p, z, x) = if layer.has_idle_parts() {
        needed = layer.along([true, false, false]);
        (&needed, problem(&needed, &context, n), z.slice(1, 0..needed.i)?, x.slice(1, 0..needed.j)?)
    } else {
        (layer, p, z, x)
    };
    if matches!(layer.core, Core::Blocks(_)) {
        return forms::forward(layer, z, x, y);
    }
    let threads = parallel::threads(&context, plan::work(layer, n));
    if choice.small && !matches!(layer.core, Core::Cp { .. }) {
        let (p, z, x) = if choice.swap { (p.swap(), x, z) } else { (p, z, x) };
        return small::forward(&p, z, x, y, threads);
    }
    if let Some(p) = cp_problem(layer, &context, n) {
        return match choice.algorithm {
            Algorithm::CpStream => p.forward_small(z, x, y),
            _ => p.forward(z, x, y, threads),
        };
    }
    let t = Trilinear { inputs: [None, Some(z), Some(x)], ..trilinear(layer, &context, n) };
    let (roles, _) = t.roles_of([true, false, false], choice.algorithm == Algorithm::KhatriRao);
    contract::contract(&t, roles, [Some(y), None, None], threads)
}

pub(crate) fn forward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 3>,
) -> Result<()> {
    let context = layer.context()?;
    let [groups, rows, _] = x.shape();
    if groups == 0 || rows == 0 || layer.k == 0 {
        return Ok(());
    }
    let layer = &layer.along([true, false, false]);
    let (z, x) = (z.slice(1, 0..layer.i)?, x.slice(2, 0..layer.j)?);
    if matches!(layer.core, Core::Blocks(_)) {
        return forms::forward_shared(layer, z, x, y);
    }
    let threads = parallel::threads(&context, plan::shared_flops(layer, groups, rows) as f64);
    match cp_problem(layer, &context, rows) {
        Some(p) => p.forward_shared(z, x, y, threads),
        None => {
            let p = prepared(layer, problem(layer, &context, groups));
            context::run(&p, z, Target::Apply(x, y), threads)
        }
    }
}

pub(crate) fn forward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    y: ViewMut<'_, T, 4>,
) -> Result<()> {
    let context = layer.context()?;
    if y.shape().contains(&0) {
        return Ok(());
    }
    let layer = &layer.along([true, false, false]);
    let [p, s, t, _] = y.shape();
    let threads = parallel::threads(&context, plan::pairs_flops(layer, [p, s, t]) as f64);
    pairs::Pairs::new(layer, &context, z, x)?.forward(pairs::To::new(y), threads)
}

/// The sum of all problems' pairs times `scale`, and b. `layer` has no linear terms.
pub(crate) fn forward_pairs_reduced<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    mut y: ViewMut<'_, T, 3>,
    scale: f64,
) -> Result<()> {
    let context = layer.context()?;
    if y.shape().contains(&0) {
        return Ok(());
    }
    // Sums of nothing are those of a layer without W.
    let idle = z.shape()[0] == 0 || layer.has_idle_parts();
    let layer = &if idle { layer.along([true, false, false]) } else { *layer };
    let absent = z.shape()[0] == 0 || layer.is_absent();
    let [_, t, _] = x.shape();
    let threads = parallel::threads(&context, plan::pairs_flops(layer, [z.shape()[0], z.shape()[1], t]) as f64);
    let [ss, st, sk] = y.strides();
    let to = pairs::To { first: y.host_mut_ptr(), strides: [0, ss, st, sk] };
    if absent {
        return pairs::fill(to, y.shape(), layer.b);
    }
    pairs::Pairs::new(layer, &context, z, x)?.reduce(to, T::Accumulator::from_f64(scale), threads)
}

pub(crate) fn generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: ViewMut<'_, T, 3>,
    bias: ViewMut<'_, T, 2>,
) -> Result<()> {
    let context = layer.context()?;
    let groups = z.shape()[0];
    if groups == 0 || layer.k == 0 {
        return Ok(());
    }
    let layer = &layer.along([true, false, true]);
    if matches!(layer.core, Core::Blocks(_)) {
        return Err(crate::Error::Unsupported { what: "the layers that sums of blocks generate" });
    }
    let z = z.slice(1, 0..layer.i)?;
    let threads = parallel::threads(&context, plan::generate_flops(layer, groups) as f64);
    let Some(cp) = cp_problem(layer, &context, groups) else {
        let p = prepared(layer, problem(layer, &context, groups));
        return context::run(&p, z, Target::Generate(weights, bias), threads);
    };
    cp.generate(z, weights, threads)?;
    // b′ is the linear layer of z alone.
    let mut t = Trilinear::new(&context, groups, [layer.k, layer.i, 0]);
    (t.u, t.bias, t.inputs[1]) = (layer.u, layer.b, Some(z));
    let (roles, _) = t.roles([true, false, false]);
    contract::contract(&t, roles, [Some(Sink::stored(bias)), None, None], threads)
}

/// y, with P and Q kept.
pub(crate) fn forward_saving<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
    saved: &mut Saved<T>,
) -> Result<()> {
    let context = layer.context()?;
    let n = x.shape()[0];
    saved.resize(n, layer.rank().unwrap_or(0))?;
    let Some(p) = cp_problem(&layer.along([true; 3]), &context, n) else {
        return forward(layer, z, x, y);
    };
    let saving = cp::Saving::new(&mut saved.p, &mut saved.q, saved.pitch);
    let choice = plan::choose(layer, &context, &problem(layer, &context, n))?;
    let p = cp::Problem { saving: Some(saving), ..p };
    match choice.algorithm {
        Algorithm::CpStream => p.forward_small(z, x, Sink::stored(y)),
        _ => p.forward(z, x, Sink::stored(y), parallel::threads(&context, plan::work(layer, n))),
    }
}

/// Zeros in all elements.
pub(crate) fn fill_zero<A: Clone + Default, const D: usize>(to: &mut ViewMut<'_, A, D>) {
    let (shape, strides, first) = (to.shape(), to.strides(), to.host_mut_ptr());
    if shape.contains(&0) {
        return;
    }
    if strides == crate::strides::row_major(shape) {
        // SAFETY: all elements, which lie one behind the other.
        unsafe { std::slice::from_raw_parts_mut(first, shape.iter().product()) }.fill(A::default());
        return;
    }
    for element in 0..shape.iter().product::<usize>() {
        let (mut rest, mut offset) = (element, 0isize);
        for axis in (0..D).rev() {
            offset = offset.wrapping_add(((rest % shape[axis]) as isize).wrapping_mul(strides[axis]));
            rest /= shape[axis];
        }
        // SAFETY: the index is within the view's shape.
        unsafe { *first.wrapping_offset(offset) = A::default() };
    }
}
