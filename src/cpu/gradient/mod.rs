//! Gradients of a dense layer: four contractions by the one engine of [`super::product`].
//!
//! ```text
//!   dx[n][j]    = Σ_ki  (g[n][k] · z[n][i]) · W[k][i][j]  + Σ_k g[n][k] V[k][j]      inputs.rs: rows n, lanes j
//!   dz[n][i]    = Σ_kj  (g[n][k] · x[n][j]) · W[k][i][j]  + Σ_k g[n][k] U[k][i]      the same, z and x exchanged
//!   dW[k][i][j] = Σ_n   (g[n][k] · z[n][i]) · x[n][j]                                weights.rs: rows (k, i), lanes j
//!   dU, dV, db                                                                       dW with ones for z and x
//! ```
//!
//! The products in parentheses are formed in cache, block by block, as the row operand.

mod inputs;
mod weights;

use super::parallel;
use super::plan;
use crate::gradients::{Gradient, Wanted};
use crate::interaction::Core;
use crate::{Element, Error, Interaction, Result, View};
use inputs::Inputs;
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
    if let Core::Cp { .. } = layer.core {
        return Err(Error::Unsupported { what: "gradients of CP weights" });
    }
    let n = g.shape()[0];
    let threads = parallel::threads(&context, plan::work(layer, n));
    let w = if let Core::Dense(w) = layer.core { Some(w) } else { None };
    let ones = [T::from_f64(1.0)];
    let one = View::strided(&ones, 0, [n, 1], [0, 1])?;
    if let Some(Gradient { to, add }) = wanted.z {
        let w = w.map(|w| w.permute([0, 2, 1])).transpose()?;
        Inputs::new(&context, [g, x], w, layer.u).run(to, add, threads)?;
    }
    if let Some(Gradient { to, add }) = wanted.x {
        Inputs::new(&context, [g, z], w, layer.v).run(to, add, threads)?;
    }
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
