//! Gradients of a dense layer.
//!
//! ```text
//!   dx[n][j]    = Σ_ki  g[n][k] z[n][i] W[k][i][j]  + Σ_k g[n][k] V[k][j]      contractions with W like the forward pass,
//!   dz[n][i]    = Σ_kj  g[n][k] x[n][j] W[k][i][j]  + Σ_k g[n][k] U[k][i]      both at once where that is cheaper
//!   dW[k][i][j] = Σ_n   g[n][k] z[n][i] x[n][j]                                weights.rs
//!   dU, dV, db                                                                 dW with ones for z and x
//! ```

mod cp;
mod jobs;
mod weights;

use super::contract::{self, contract};
use super::output::Sink;
use super::trilinear::Trilinear;
use super::{parallel, plan, trilinear};
use crate::gradients::WantedFactors;
use crate::gradients::{Gradient, Wanted};
use crate::interaction::Core;
use crate::{Context, Element, Interaction, Result, Saved, View};
use cp::{Destinations, Factors};
use jobs::To;
use weights::Weights;

/// All gradients in `wanted`, for the gradient `g` [N, K] of the result.
pub(crate) fn backward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    let context = layer.context()?;
    context.device().check()?;
    let n = g.shape()[0];
    let threads = parallel::threads(&context, plan::work(layer, n));
    let inputs_wanted = [wanted.z, wanted.x, wanted.tied];
    match layer.core {
        Core::Cp { .. } => factors(layer, &context, [g, z, x], inputs_wanted, wanted.cp, wanted.saved, threads)?,
        _ => inputs(layer, &context, [g, z, x], inputs_wanted, threads)?,
    }
    let ones = [T::from_f64(1.0)];
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

/// dz, dx, and their sum.
fn inputs<T: Element>(
    layer: &Interaction<'_, T>,
    context: &Context,
    [g, z, x]: [View<'_, T, 2>; 3],
    [dz, dx, tied]: [Option<Gradient<'_, T::Accumulator, 2>>; 3],
    threads: usize,
) -> Result<()> {
    let n = g.shape()[0];
    let t = Trilinear { inputs: [Some(g), Some(z), Some(x)], bias: None, ..trilinear(layer, context, n) };
    let sink = |Gradient { to, add }: Gradient<'_, T::Accumulator, 2>| Sink::sums(to, add);
    let (dz, dx) = (dz.map(sink), dx.map(sink));
    let (one, z_cost) = t.roles([false, true, false]);
    let (other, x_cost) = t.roles([false, false, true]);
    let (both, cost) = t.roles([false, true, true]);
    let joint = cost < z_cost + x_cost && contract::joint(&t, [both.a, both.b]);
    match (dz, dx) {
        (Some(dz), Some(dx)) if joint => contract(&t, both, [None, Some(dz), Some(dx)], threads)?,
        (dz, dx) => {
            if let Some(dz) = dz {
                contract(&t, one, [None, Some(dz), None], threads)?;
            }
            if let Some(dx) = dx {
                contract(&t, other, [None, None, Some(dx)], threads)?;
            }
        }
    }
    if let Some(tied) = tied {
        let to = sink(tied);
        contract(&t, one, [None, Some(to), None], threads)?;
        contract(&t, other, [None, None, Some(to.adding())], threads)?;
    }
    Ok(())
}

/// dz, dx, their sum, and the gradients of the factors of a CP layer.
fn factors<T: Element>(
    layer: &Interaction<'_, T>,
    context: &Context,
    [g, z, x]: [View<'_, T, 2>; 3],
    [dz, dx, tied]: [Option<Gradient<'_, T::Accumulator, 2>>; 3],
    wanted: WantedFactors<'_, T>,
    saved: Option<&Saved<T>>,
    threads: usize,
) -> Result<()> {
    let Core::Cp { a, b, c, lambda } = layer.core else { return Ok(()) };
    let one = [T::from_f64(1.0)];
    let p = Factors {
        table: T::table(context.capability()),
        groups: g.shape()[0],
        each: 1,
        z,
        x: x.insert_axis(),
        g: g.insert_axis(),
        factors: [a, b, c],
        lambda: lambda.map_or_else(|| View::strided(&one, 0, [a.shape()[1]], [0]), Ok)?,
        u: layer.u,
        v: layer.v,
        saved: saved.map(|saved| [&saved.p[..], &saved.q[..]]),
    };
    let to = Destinations {
        z: dz.map(To::matrix),
        x: dx.map(To::matrix),
        tied: tied.map(To::matrix),
        factors: [wanted.a, wanted.b, wanted.c].map(|to| to.map(To::matrix)),
        lambda: wanted.lambda.map(To::vector),
    };
    p.run(&to, threads)
}
