//! The layers that sums of blocks generate. Of a block, W′\[g,k,j\] = Σ_c H\[g,k,c\] C\[j,c\] is the block without C where the rows of C
//! are all rows of x, which all z meet (pairs.rs); and as well, with k and j exchanged, the block without A where the rows of A are:
//!
//! ```text
//!   with A     W′[g,k,·] = block(z[g], A[k])    core and factors of k and j exchanged, no factor of x
//!   else       W′[g,·,j] = block(z[g], C[j])    no factor of x
//!   neither    W′[g,·,j] = block(z[g], e[j])    rows of the identity, a panel of them at a time
//! ```
//!
//! A factor of one column is no matrix of rows: it stays with the block.

use super::again;
use super::pairs::Meeting;
use super::stage::{Rows, write};
use crate::block::Center;
use crate::cpu::cache::parts;
use crate::cpu::gradient::jobs::{Call, To};
use crate::cpu::output::{Place, Sink};
use crate::cpu::scratch;
use crate::interaction::Core;
use crate::wanted::{Gradient, Wanted, WantedBlock};
use crate::{Block, Element, Interaction, Result, View, ViewMut};

/// Bytes of a panel of the identity, of a few rows at least, and of the sums of some groups, of one at least.
const PANEL_BYTES: usize = 1 << 20;
const PANEL_ROWS: usize = 16;

/// A block whose x are the rows of one of its factors.
struct Rowed<'a, T> {
    block: Block<'a, T>,
    x: View<'a, T, 2>,
    /// Whether they are the outputs; else the features of x.
    outputs: bool,
}

fn rowed<'a, T: Element>(block: &Block<'a, T>) -> Result<Option<Rowed<'a, T>>> {
    let [a, b, c] = block.factors;
    let full = |side: usize| block.factors[side].filter(|_| !block.is_spread(side));
    if let Some(x) = full(0) {
        let center = match block.center {
            Center::Dense(core) => Center::Dense(core.permute([2, 1, 0])?),
            diagonal => diagonal,
        };
        return Ok(Some(Rowed { block: Block { center, factors: [c, b, None] }, x, outputs: true }));
    }
    Ok(full(2).map(|x| Rowed { block: Block { factors: [a, b, None], ..*block }, x, outputs: false }))
}

/// Calls `with` with panels of rows of the identity, and which they are.
fn panels<T: Element>(size: usize, mut with: impl FnMut(usize, View<'_, T, 2>) -> Result<()>) -> Result<()> {
    let most = (PANEL_BYTES / size_of::<T>() / size).clamp(PANEL_ROWS, size.max(PANEL_ROWS)).min(size);
    scratch::with::<T, 1, _>([most * size], |[rows]| {
        for (first, count) in parts(size, most, 1) {
            // SAFETY: room for these rows.
            let panel = unsafe { std::slice::from_raw_parts_mut(rows, count * size) };
            panel.fill(T::default());
            for row in 0..count {
                panel[row * size + first + row] = T::from_f64(1.0);
            }
            with(first, View::new(&*panel, [count, size])?)?;
        }
        Ok(())
    })
}

/// W′ [G, K, J] of z [G, I]. No axis is empty.
pub(crate) fn generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    mut weights: ViewMut<'_, T, 3>,
) -> Result<()> {
    let ([groups, k, j], strides) = (weights.shape(), weights.strides());
    let first = weights.host_mut_ptr();
    if T::IN_PLACE {
        return sum(layer, z, first.cast(), strides);
    }
    let context = layer.context()?;
    let call = Call::<T> { table: T::table(context.capability()), kc: 0, few: false, threads: 1 };
    let most = (PANEL_BYTES / size_of::<T::Acc>() / (k * j)).max(1);
    scratch::with([most.min(groups) * k * j], |[sums]| {
        for part in parts(groups, most, 1) {
            sum(layer, z.slice_rows(part), sums, [(k * j) as isize, j as isize, 1])?;
            for group in 0..part.1 {
                let to = Sink { place: Place::Stored(first), strides: [strides[0], 0] }.at(part.0 + group, 0);
                let rows = Rows::new(sums.wrapping_add(group * k * j), j);
                // SAFETY: the rows of a group, in scratch and in W′.
                unsafe { write(&call, (rows, [k, j]), Sink { strides: [strides[1], strides[2]], ..to })? };
            }
        }
        Ok(())
    })
}

/// V and the shares of all blocks, in memory of these strides.
fn sum<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    first: *mut T::Acc,
    strides @ [sg, sk, sj]: [isize; 3],
) -> Result<()> {
    let context = layer.context()?.automatic();
    let mut place = Place::Sums(first);
    if let Some(v) = layer.v {
        for k in 0..layer.k {
            for j in 0..layer.j {
                let value = v.get([k, j]).unwrap_or_default().to_acc();
                for group in 0..z.shape()[0] {
                    let [group, k, j] = [group, k, j].map(|index| index as isize);
                    let offset =
                        group.wrapping_mul(sg).wrapping_add(k.wrapping_mul(sk)).wrapping_add(j.wrapping_mul(sj));
                    // SAFETY: an element of W′.
                    unsafe { *first.wrapping_offset(offset) = value };
                }
            }
        }
        place = Place::Added(first);
    }
    for block in layer.terms().iter().filter(|block| !block.is_empty()) {
        match rowed(block)? {
            Some(Rowed { block, x, outputs }) => {
                let strides = if outputs { strides } else { [sg, sj, sk] };
                Meeting { context, block, z, x }.forward(place, strides)?;
            }
            None => panels(layer.j, |column, x| {
                let to = Sink::<T> { place, strides: [sj, 0] }.at(column, 0).place;
                Meeting { context, block: *block, z, x }.forward(to, [sg, sj, sk])
            })?,
        }
        place = Place::Added(first);
    }
    Ok(())
}

/// The gradients of generated layers, for those of W′, `weights` [G, K, J], and of b′. No axis is empty.
pub(crate) fn backward_generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: View<'_, T, 3>,
    bias: View<'_, T, 2>,
    wanted: Wanted<'_, T>,
) -> Result<()> {
    let context = layer.context()?.automatic();
    let (mut to_z, has_u) = (wanted.z, layer.u.is_some());
    let linear = Interaction { core: Core::Absent, context: Some(context), ..*layer };
    let share =
        Wanted { z: again(&mut to_z, has_u), w: wanted.w, u: wanted.u, v: wanted.v, b: wanted.b, ..Wanted::default() };
    crate::cpu::backward_generate(&linear.along([true; 3]), z, weights, bias, share)?;
    let mut dz = to_z.map(|Gradient { to, add }| To::matrix(Gradient { to, add: add || has_u }));
    let mut nothing = WantedBlock::default();
    for (index, block) in layer.terms().iter().enumerate() {
        let wanted = match wanted.blocks.get_mut(index) {
            Some(wanted) => wanted,
            None => &mut nothing,
        };
        if block.is_empty() {
            continue; // its gradients are zeros already
        }
        match rowed(block)? {
            Some(Rowed { block, x, outputs }) => {
                let WantedBlock { core, diagonal, a, b, c } = std::mem::take(wanted);
                let (dx, of, g) = match outputs {
                    true => {
                        let core =
                            core.map(|Gradient { to, add }| to.permute([2, 1, 0]).map(|to| Gradient { to, add }));
                        (a, WantedBlock { core: core.transpose()?, diagonal, a: c, b, c: None }, weights)
                    }
                    false => (c, WantedBlock { core, diagonal, a, b, c: None }, weights.permute([0, 2, 1])?),
                };
                let mut of = of;
                Meeting { context, block, z, x }.backward(g, [dz, dx.map(To::matrix)], &mut of)?;
            }
            None => {
                let g = weights.permute([0, 2, 1])?;
                let mut dz = dz;
                panels(layer.j, |column, x| {
                    let g = g.slice(1, column..column + x.shape()[0])?;
                    Meeting { context, block: *block, z, x }.backward(g, [dz, None], wanted)?;
                    wanted.later();
                    dz.iter_mut().for_each(|dz| dz.add = true);
                    Ok(())
                })?;
                *wanted = WantedBlock::default();
            }
        }
        dz.iter_mut().for_each(|dz| dz.add = true);
    }
    Ok(())
}
