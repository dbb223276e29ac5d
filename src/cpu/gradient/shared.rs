//! Gradients of shared contexts and of generated layers: which parts of them are computed how.
//!
//! Of both the gradient in the generated weights, dW′ [G, K, J], and that in the generated bias, db′ [G, K], are what all else
//! follows from; of a shared context they are Σ_m g\[g,m,k\] x\[g,m,j\] and Σ_m g\[g,m,k\]. W′ = zᵀW + V is linear in W and in z,
//! and a batch of G rows; of a CP layer it is one whose Q is A: W′\[g,k,j\] = Σ_r (λP)\[g,r\] A\[k,r\] C\[j,r\].

use super::contexts::{Contexts, Destinations as To3, Source};
use super::cp::{Destinations, Factors, Side};
use super::jobs::To;
use super::weights::Weights;
use super::{destinations, factors};
use crate::cpu::contract::contract;
use crate::cpu::output::Sink;
use crate::cpu::trilinear::Trilinear;
use crate::cpu::{forms, parallel, plan};
use crate::interaction::Core;
use crate::wanted::{Gradient, Wanted};
use crate::{Element, Interaction, Result, View, ViewMut};

/// The gradients of a shared context.
pub(crate) fn backward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
    wanted: Wanted<'_, T, 3>,
) -> Result<()> {
    if matches!(layer.core, Core::Blocks(_)) {
        return forms::backward_shared(layer, z, x, g, wanted);
    }
    let context = layer.context()?;
    let [groups, rows, _] = x.shape();
    let threads = parallel::threads(&context, plan::shared_flops(layer, groups, rows) as f64);
    let ones = [T::from_f64(1.0)];
    let (dz, dx) = (wanted.z.map(To::matrix), wanted.x.map(To::batch));
    let cp = factors(layer, &context, z, Side::Input(x), g, &ones)?;
    if let Some(p) = &cp {
        let saved = wanted.saved.map(|saved| ([&saved.p[..], &saved.q[..]], saved.pitch));
        let to = Destinations { z: dz, x: dx, ..destinations(wanted.cp) };
        // The share of U is added below.
        Factors { saved, u: None, ..*p }.run(&to, threads)?;
    }
    let contexts = Contexts {
        table: T::table(context.capability()),
        sizes: [groups, layer.k, layer.i, layer.j],
        z,
        source: Source::Applied(x, g),
        w: if let Core::Dense(w) = layer.core { Some(w) } else { None },
        u: layer.u,
        v: layer.v,
        factored: cp.is_some(),
        threads,
    };
    contexts.run(&To3 {
        z: dz,
        x: dx,
        w: wanted.w.map(To::batch),
        u: wanted.u.map(To::matrix),
        v: None,
        b: wanted.b.map(To::vector),
    })?;
    let Some(Gradient { mut to, add }) = wanted.v else { return Ok(()) };
    // dV: of all rows at once where they are evenly spaced.
    let even = |view: View<'_, T, 3>| view.strides()[0] == view.strides()[1].wrapping_mul(rows as isize);
    let all = groups.checked_mul(rows).filter(|_| even(x) && even(g));
    let (blocks, each) = all.map_or((groups, rows), |all| (1, all));
    for block in 0..blocks {
        let one = View::strided(&ones, 0, [each, 1], [0, 1])?;
        let [g, x] = [g, x].map(|view| {
            let ([_, _, columns], [sg, sm, sc]) = (view.shape(), view.strides());
            let first = view.host_ptr().wrapping_offset((block as isize).wrapping_mul(sg));
            // SAFETY: rows of one group, or of all, evenly spaced.
            unsafe { View::from_raw_parts(first, [each, columns], [sm, sc]) }
        });
        Weights::new(&context, g, one, x).run(to.reborrow().insert_axis(), add || block > 0, threads)?;
    }
    Ok(())
}

/// The gradients of generated layers.
pub(crate) fn backward_generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: View<'_, T, 3>,
    bias: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    if matches!(layer.core, Core::Blocks(_)) {
        return forms::backward_generate(layer, z, weights, bias, wanted);
    }
    let context = layer.context()?;
    let groups = z.shape()[0];
    let threads = parallel::threads(&context, plan::generate_flops(layer, groups) as f64);
    let ones = [T::from_f64(1.0)];
    let one = View::strided(&ones, 0, [groups, 1], [0, 1])?;
    let mut dz = wanted.z;
    let to_z = dz.as_mut().map(|dz| To::matrix(Gradient { to: dz.to.reborrow(), add: dz.add }));
    let mut factored = false;
    if let Core::Cp { a, c, .. } = layer.core
        && let Some(p) = factors(layer, &context, z, Side::Fixed(a), weights, &ones)?
    {
        let [_, b, _] = p.factors;
        let to = Destinations { z: to_z, ..destinations(wanted.cp) };
        let [da, db, dc] = to.factors;
        let to = Destinations { factors: [dc, db, da], ..to };
        Factors { factors: [c, b, a], u: None, v: None, ..p }.run(&to, threads)?;
        factored = true;
    }
    let contexts = Contexts {
        table: T::table(context.capability()),
        sizes: [groups, layer.k, layer.i, layer.j],
        z,
        source: Source::Given(weights),
        w: if let Core::Dense(w) = layer.core { Some(w) } else { None },
        u: None,
        v: None,
        factored,
        threads,
    };
    contexts.run(&To3 {
        z: to_z,
        x: None,
        w: wanted.w.map(To::batch),
        u: None,
        v: wanted.v.map(To::matrix),
        b: None,
    })?;
    if let Some(Gradient { to, add }) = wanted.u {
        Weights::new(&context, bias, one, z).run(to.insert_axis(), add, threads)?;
    }
    if let Some(Gradient { to, add }) = wanted.b {
        Weights::new(&context, bias, one, one).run(to.insert_axis().insert_axis(), add, threads)?;
    }
    if let (Some(u), Some(Gradient { to, .. })) = (layer.u, dz) {
        add_linear(layer, &context, bias, u, to, threads)?;
    }
    Ok(())
}

/// dz += db′ U.
fn add_linear<T: Element>(
    layer: &Interaction<'_, T>,
    context: &crate::Context,
    bias: View<'_, T, 2>,
    u: View<'_, T, 2>,
    to: ViewMut<'_, T::Accumulator, 2>,
    threads: usize,
) -> Result<()> {
    let groups = bias.shape()[0];
    let mut t = Trilinear::new(context, groups, [layer.i, layer.k, 0]);
    (t.u, t.inputs[1]) = (Some(u.transpose()), Some(bias));
    let (roles, _) = t.roles([true, false, false]);
    contract(&t, roles, [Some(Sink::sums(to, true)), None, None], threads)
}
