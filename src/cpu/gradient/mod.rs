//! Gradients of a dense layer.
//!
//! ```text
//!   dx[n][j]    = Σ_ki  g[n][k] z[n][i] W[k][i][j]  + Σ_k g[n][k] V[k][j]      contractions with W like the forward pass,
//!   dz[n][i]    = Σ_kj  g[n][k] x[n][j] W[k][i][j]  + Σ_k g[n][k] U[k][i]      both at once where that is cheaper
//!   dW[k][i][j] = Σ_n   g[n][k] z[n][i] x[n][j]                                weights.rs
//!   dU, dV, db                                                                 dW with ones for z and x
//! ```

mod cp;
mod weights;

use super::contract::{self, contract};
use super::output::Sink;
use super::trilinear::Trilinear;
use super::{parallel, plan, trilinear};
use crate::gradients::{Gradient, Wanted, WantedFactors};
use crate::interaction::Core;
use crate::{Context, Element, Interaction, Result, View};
use cp::{Cp, Place, To};
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
    match layer.core {
        Core::Cp { a, b, c, lambda } => {
            let saved = wanted.saved.filter(|_| n > 0).map(|saved| ([&saved.p[..], &saved.q[..]], saved.pitch));
            let base = Cp::new(&context, [a, b, c], [g, z, x]);
            let cp = Cp { lambda, u: layer.u, v: layer.v, saved, ..base };
            cp_gradients(&cp, [wanted.z, wanted.x, wanted.tied], wanted.cp, threads)?;
        }
        _ => inputs(layer, &context, [g, z, x], [wanted.z, wanted.x, wanted.tied], threads)?,
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

/// dz, dx, their sum, and the factors' gradients.
fn cp_gradients<T: Element>(
    cp: &Cp<'_, T>,
    [dz, dx, tied]: [Option<Gradient<'_, T::Accumulator, 2>>; 3],
    factors: WantedFactors<'_, T>,
    threads: usize,
) -> Result<()> {
    let lambda = factors.lambda.map(|Gradient { to, add }| Gradient { to: to.insert_axis(), add });
    let to = To {
        inputs: [dz.map(Place::new), dx.map(Place::new)],
        factors: [factors.a, factors.b, factors.c].map(|gradient| gradient.map(Place::new)),
        lambda: lambda.map(Place::new),
    };
    if !to.is_empty() {
        cp.run(&to, threads)?;
    }
    if let Some(tied) = tied {
        // One after the other: their sum is not formed in one product.
        let place = Place::new(tied);
        for inputs in [[Some(place), None], [None, Some(place.adding())]] {
            cp.run(&To { inputs, factors: [None; 3], lambda: None }, threads)?;
        }
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
