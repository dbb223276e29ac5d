//! Which algorithm a call takes, and what it costs: what [`crate::Plan`] tells and the drivers do.

use super::cost::{self, Choice};
use super::{context, cp, cp_problem, dense, parallel, problem, scratch, small};
use crate::interaction::Core;
use crate::{Algorithm, Context, Element, Error, Interaction, Plan, Result};

/// Multiply-adds count two.
pub(super) fn flops<T: Element>(layer: &Interaction<'_, T>, n: usize) -> u128 {
    let [n, k, i, j] = [n, layer.k, layer.i, layer.j].map(|len| len as u128);
    let core = match layer.core {
        Core::Absent => 0,
        Core::Dense(_) => i.saturating_mul(j).saturating_mul(k),
        Core::Cp { a, .. } => (a.shape()[1] as u128).saturating_mul(i + j + k),
    };
    let linear = k * (layer.u.map_or(0, |_| i) + layer.v.map_or(0, |_| j));
    n.saturating_mul(core.saturating_add(linear)).saturating_mul(2)
}

/// Those of W′ and b′.
pub(super) fn generate_flops<T: Element>(layer: &Interaction<'_, T>, groups: usize) -> u128 {
    let [g, k, i, j] = [groups, layer.k, layer.i, layer.j].map(|len| len as u128);
    let core = match layer.core {
        Core::Absent => 0,
        Core::Dense(_) => i.saturating_mul(j).saturating_mul(k),
        Core::Cp { a, .. } => (a.shape()[1] as u128).saturating_mul(i + j.saturating_mul(k)),
    };
    g.saturating_mul(core.saturating_add(layer.u.map_or(0, |_| k * i))).saturating_mul(2)
}

/// Those of contracting z first, for `rows` rows of x in each of `groups` groups.
pub(super) fn shared_flops<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> u128 {
    let [g, m, k, i, j] = [groups, rows, layer.k, layer.i, layer.j].map(|len| len as u128);
    let Core::Cp { a, .. } = layer.core else {
        let apply = g.saturating_mul(m).saturating_mul(k.saturating_mul(j)).saturating_mul(2);
        return generate_flops(layer, groups).saturating_add(apply);
    };
    let r = a.shape()[1] as u128;
    let (u, v) = (layer.u.map_or(0, |_| k * i), layer.v.map_or(0, |_| k * j));
    let row = r.saturating_mul(j + k).saturating_add(u + v);
    g.saturating_mul((r * i).saturating_add(m.saturating_mul(row))).saturating_mul(2)
}

/// Bytes of all weights.
fn weight_bytes<T: Element>(layer: &Interaction<'_, T>) -> u128 {
    let [k, i, j] = [layer.k, layer.i, layer.j].map(|len| len as u128);
    let core = match layer.core {
        Core::Absent => 0,
        Core::Dense(_) => i.saturating_mul(j).saturating_mul(k),
        Core::Cp { a, lambda, .. } => (a.shape()[1] as u128) * (i + j + k + lambda.map_or(0, |_| 1)),
    };
    let linear = layer.u.map_or(0, |_| k * i) + layer.v.map_or(0, |_| k * j) + layer.b.map_or(0, |_| k);
    core.saturating_add(linear).saturating_mul(size_of::<T>() as u128)
}

/// The algorithm for a batch of `n`: the one forced, if it can compute the call, or the cheapest.
#[inline]
pub(super) fn choose<T: Element>(layer: &Interaction<'_, T>, context: &Context, n: usize) -> Result<Choice> {
    let forced = context.algorithm();
    let refuse = |algorithm, reason| Err(Error::Algorithm { algorithm, reason });
    let few = n <= small::ROWS;
    match layer.core {
        Core::Dense(_) => cost::choose(&problem(layer, context, n), forced),
        Core::Absent => match forced {
            None | Some(Algorithm::Linear) => Ok(Choice { algorithm: Algorithm::Linear, swap: false, small: few }),
            Some(algorithm) => refuse(algorithm, "W is absent"),
        },
        Core::Cp { a, b, c, .. } => {
            let streams = few && cp::streams(&a, &b, &c);
            let choice = |algorithm, small| Ok(Choice { algorithm, swap: false, small });
            match forced {
                None | Some(Algorithm::CpStream) if streams => choice(Algorithm::CpStream, true),
                None | Some(Algorithm::CpBlocked) => choice(Algorithm::CpBlocked, false),
                Some(Algorithm::CpStream) => {
                    refuse(Algorithm::CpStream, "it takes at most 4 rows, and factors whose components are contiguous")
                }
                Some(algorithm) => refuse(algorithm, "W is in CP form"),
            }
        }
    }
}

/// The algorithm for a shared context.
pub(super) fn choose_shared<T: Element>(layer: &Interaction<'_, T>, context: &Context) -> Result<Algorithm> {
    let algorithm = match layer.core {
        Core::Cp { .. } => Algorithm::CpBlocked,
        _ => Algorithm::ContractContext,
    };
    match context.algorithm() {
        Some(forced) if forced != algorithm => {
            Err(Error::Algorithm { algorithm: forced, reason: "a shared context is always contracted first" })
        }
        _ => Ok(algorithm),
    }
}

pub(crate) fn plan<T: Element>(layer: &Interaction<'_, T>, n: usize) -> Result<Plan> {
    let context = layer.context()?;
    context.device().check()?;
    let choice = choose(layer, &context, n)?;
    let flops = flops(layer, n);
    let threads = parallel::threads(&context, flops);
    let scratch = match cp_problem(layer, &context, n) {
        Some(p) if choice.small => size::<T>(&cp::small_lengths(&p)),
        Some(p) => cp_scratch(&p, threads),
        None => {
            let p = problem(layer, &context, n);
            let p = if choice.swap { p.swap() } else { p };
            match choice.small {
                true => size::<T>(&small::lengths(&p)),
                false => size::<T>(&dense::Blocks::new(&p, choice.algorithm, threads).lengths),
            }
        }
    };
    let rows = (n as u128) * (layer.k + layer.i + layer.j) as u128;
    let bytes = weight_bytes(layer).saturating_add(rows.saturating_mul(size_of::<T>() as u128));
    Ok(describe::<T>(&context, choice.algorithm, [flops, bytes], scratch, threads))
}

pub(crate) fn plan_shared<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> Result<Plan> {
    let context = layer.context()?;
    context.device().check()?;
    let algorithm = choose_shared(layer, &context)?;
    let flops = shared_flops(layer, groups, rows);
    let threads = parallel::threads(&context, flops);
    let scratch = match cp_problem(layer, &context, rows) {
        Some(p) => cp_scratch(&p, 1),
        None => size::<T>(&context::Blocks::new(&problem(layer, &context, groups), rows, threads).lengths),
    };
    let row = (rows as u128).saturating_mul((layer.j + layer.k) as u128);
    let elements = (groups as u128).saturating_mul(row.saturating_add(layer.i as u128));
    let bytes = weight_bytes(layer).saturating_add(elements.saturating_mul(size_of::<T>() as u128));
    Ok(describe::<T>(&context, algorithm, [flops, bytes], scratch, threads))
}

fn size<T: Element>(lengths: &[usize]) -> usize {
    scratch::bytes::<T::Acc>(lengths)
}

fn cp_scratch<T: Element>(p: &cp::Problem<'_, T>, threads: usize) -> usize {
    let blocks = cp::Blocks::new(p, threads);
    size::<T>(&blocks.lengths).saturating_add(size::<T>(&[blocks.packed]))
}

fn describe<T: Element>(
    context: &Context,
    algorithm: Algorithm,
    [flops, bytes]: [u128; 2],
    scratch: usize,
    threads: usize,
) -> Plan {
    Plan {
        algorithm,
        kernel: T::table(context.capability()).name,
        device: context.device(),
        simd: context.simd(),
        dtype: T::DTYPE,
        flops,
        bytes,
        scratch,
        threads,
    }
}
