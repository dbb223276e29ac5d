//! Gradients, of a dense layer those below; those of a CP layer are drawn in cp.rs.
//!
//! ```text
//!   dx[n][j]    = Σ_ki  g[n][k] z[n][i] W[k][i][j]  + Σ_k g[n][k] V[k][j]      contractions with W like the forward pass,
//!   dz[n][i]    = Σ_kj  g[n][k] x[n][j] W[k][i][j]  + Σ_k g[n][k] U[k][i]      both at once where that is cheaper
//!   dW[k][i][j] = Σ_n   g[n][k] z[n][i] x[n][j]                                weights.rs
//!   dU, dV, db                                                                 dW with ones for z and x
//! ```

mod contexts;
mod cp;
mod cp_few;
mod few;
pub(super) mod jobs;
mod pairs;
mod pairs_cp;
mod pairs_linear;
mod shared;
pub(super) mod weights;

use super::contract::{self, contract};
use super::output::Sink;
use super::trilinear::Trilinear;
use super::{parallel, plan, trilinear};
use crate::interaction::Core;
use crate::wanted::{Gradient, Wanted, WantedBlock, WantedFactors};
use crate::{Context, Element, Interaction, Result, View};
use cp::{Destinations, Factors, Side};
use jobs::To;
pub(crate) use pairs::{backward_pairs, backward_pairs_reduced};
pub(crate) use shared::{backward_generate, backward_shared};
use weights::Weights;

/// All gradients in `wanted`, for the gradient `g` [N, K] of the result.
pub(crate) fn backward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
    mut wanted: Wanted<'_, T>,
) -> Result<()> {
    if matches!(layer.core, Core::Blocks(_)) {
        let blocks = std::mem::take(&mut wanted.blocks);
        super::forms::backward(layer, z, x, g, wanted, blocks)?;
        blocks.iter_mut().for_each(|block| *block = WantedBlock::default());
        return Ok(());
    }
    let context = layer.context()?;
    let n = g.shape()[0];
    let threads = parallel::threads(&context, plan::work(layer, n));
    let ones = [T::from_f64(1.0)];
    let inputs = [g, z, x];
    match factors(layer, &context, z, Side::Input(x.insert_axis()), g.insert_axis(), &ones)? {
        Some(p) => {
            let saved = wanted.saved.map(|saved| ([&saved.p[..], &saved.q[..]], saved.pitch));
            let [z, x, tied] = [wanted.z, wanted.x, wanted.tied].map(|to| to.map(To::matrix));
            let (p, to) = (Factors { saved, ..p }, Destinations { z, x, tied, ..destinations(wanted.cp) });
            match plan::contiguous_factors(layer) && cp_few::possible(&p, &to) {
                true => cp_few::run(&p, inputs, &to, threads)?,
                false => p.run(&to, threads)?,
            }
        }
        None => of_inputs(layer, &context, inputs, [wanted.z, wanted.x, wanted.tied], &mut wanted.w, threads)?,
    }
    let one = View::strided(&ones, 0, [n, 1], [0, 1])?;
    if let Some(Gradient { to, add }) = wanted.w {
        Weights::new(&context, g, z, x).run(to, add, threads)?;
    }
    // Of the linear terms the inputs are the lanes, and the rows have no second factor.
    for (gradient, input) in [(wanted.u, z), (wanted.v, x)] {
        if let Some(Gradient { to, add }) = gradient {
            Weights::new(&context, g, one, input).run(to.insert_axis(), add, threads)?;
        }
    }
    if let Some(Gradient { to, add }) = wanted.b {
        Weights::new(&context, g, one, one).run(to.insert_axis().insert_axis(), add, threads)?;
    }
    Ok(())
}

/// What a CP layer's gradients are computed from: of a batch, until told otherwise.
fn factors<'a, T: Element>(
    layer: &Interaction<'a, T>,
    context: &Context,
    z: View<'a, T, 2>,
    x: Side<'a, T>,
    g: View<'a, T, 3>,
    one: &'a [T; 1],
) -> Result<Option<Factors<'a, T>>> {
    let Core::Cp { a, b, c, lambda } = layer.core else { return Ok(None) };
    let [groups, each, _] = g.shape();
    Ok(Some(Factors {
        table: T::table(context.capability()),
        groups,
        each,
        z,
        x,
        g,
        factors: [a, b, c],
        lambda: lambda.map_or_else(|| View::strided(one, 0, [a.shape()[1]], [0]), Ok)?,
        u: layer.u,
        v: layer.v,
        saved: None,
    }))
}

/// Where the gradients of a CP layer's factors go.
fn destinations<T: Element>(cp: WantedFactors<'_, T>) -> Destinations<T::Accumulator> {
    let factors = [cp.a, cp.b, cp.c].map(|to| to.map(To::matrix));
    Destinations { z: None, x: None, tied: None, factors, lambda: cp.lambda.map(To::vector) }
}

/// dz, dx, and their sum; and dW, which is taken, if it is written in the same pass.
fn of_inputs<T: Element>(
    layer: &Interaction<'_, T>,
    context: &Context,
    [g, z, x]: [View<'_, T, 2>; 3],
    [dz, dx, tied]: [Option<Gradient<'_, T::Accumulator, 2>>; 3],
    dw: &mut Option<Gradient<'_, T::Accumulator, 3>>,
    threads: usize,
) -> Result<()> {
    let t = form(layer, context, [g, z, x])?;
    let sink = |Gradient { to, add }: Gradient<'_, T::Accumulator, 2>| Sink::sums(to, add);
    let (dz, dx) = (dz.map(sink), dx.map(sink));
    if let Core::Dense(w) = layer.core
        && few::possible(&t, w)
    {
        let any = dz.is_some() || dx.is_some() || tied.is_some();
        let mut dw = dw.take_if(|dw| any && few::alike(&t, dw));
        if dz.is_some() || dx.is_some() {
            few::inputs(&t, w, [None, dz, dx], dw.take(), threads)?;
        }
        if let Some(tied) = tied {
            let to = sink(tied);
            few::inputs(&t, w, [None, Some(to), None], dw, threads)?;
            few::inputs(&t, w, [None, None, Some(to.adding())], None, threads)?;
        }
        return Ok(());
    }
    let (one, z_cost) = t.roles([false, true, false]);
    let (other, x_cost) = t.roles([false, false, true]);
    let (both, cost) = t.roles([false, true, true]);
    let joint = cost < z_cost + x_cost && contract::joint(&t, [both.a, both.b]);
    let (mut dz, mut dx) = (dz, dx);
    if joint && dz.is_some() && dx.is_some() {
        contract(&t, both, [None, dz.take(), dx.take()], threads)?;
    }
    let tied = tied.map(sink);
    let [along_z, along_x] = [[false, true, false], [false, false, true]].map(|outs| layer.along(outs));
    for to in [dz, tied].into_iter().flatten() {
        contract(&form(&along_z, context, [g, z, x])?, one, [None, Some(to), None], threads)?;
    }
    for to in [dx, tied.map(Sink::adding)].into_iter().flatten() {
        contract(&form(&along_x, context, [g, z, x])?, other, [None, None, Some(to)], threads)?;
    }
    Ok(())
}

/// T of a dense or linear layer: of its axes, those of g, z and x that it has.
fn form<'a, T: Element>(
    layer: &Interaction<'a, T>,
    context: &Context,
    [g, z, x]: [View<'a, T, 2>; 3],
) -> Result<Trilinear<'a, T>> {
    let inputs = [Some(g.slice(1, 0..layer.k)?), Some(z.slice(1, 0..layer.i)?), Some(x.slice(1, 0..layer.j)?)];
    Ok(Trilinear { inputs, bias: None, ..trilinear(layer, context, g.shape()[0]) })
}
