//! Which algorithm a call takes, and what it costs: what [`crate::Plan`] tells and the drivers do.

use super::cost::{self, Choice};
use super::problem::Problem;
use super::{context, contract, cp, cp_problem, forms, pairs, parallel, problem, scratch, small};
use crate::block::Center;
use crate::interaction::Core;
use crate::{Algorithm, Block, Context, Element, Error, Interaction, Plan, Result, View};

/// A size that may be absurd: zero-stride views have any shape.
fn wide(len: usize) -> u128 {
    len as u128
}

/// Σ of products of sizes, at most `u128::MAX`.
fn sum<const N: usize>(terms: [&[usize]; N]) -> u128 {
    let product = |factors: &[usize]| factors.iter().fold(1, |product: u128, &len| product.saturating_mul(wide(len)));
    terms.into_iter().map(product).fold(0, u128::saturating_add)
}

/// Multiply-adds count two.
pub(super) fn flops<T: Element>(layer: &Interaction<'_, T>, n: usize) -> u128 {
    let (k, i, j) = (layer.k, layer.i, layer.j);
    let core = match layer.core {
        Core::Absent => 0,
        Core::Dense(_) => sum([&[2, n, k, i, j]]),
        Core::Cp { a, .. } => sum([i, j, k].map(|len| [2, n, a.shape()[1], len]).each_ref().map(|f| &f[..])),
        Core::Blocks(blocks) => of_blocks(blocks, [n; 3]),
    };
    let (u, v) = (usize::from(layer.u.is_some()), usize::from(layer.v.is_some()));
    core.saturating_add(sum([&[2, n, k, i, u], &[2, n, k, j, v]]))
}

/// The same, roughly, in the few nanoseconds that a tiny call has.
#[inline]
pub(super) fn work<T: Element>(layer: &Interaction<'_, T>, n: usize) -> f64 {
    let [n, k, i, j] = [n, layer.k, layer.i, layer.j].map(|len| len as f64);
    let core = match layer.core {
        Core::Absent => 0.0,
        Core::Dense(_) => i * j * k,
        Core::Cp { a, .. } => a.shape()[1] as f64 * (i + j + k),
        Core::Blocks(blocks) => of_blocks(blocks, [1; 3]) as f64 / 2.0,
    };
    2.0 * n * (core + if layer.u.is_some() { i * k } else { 0.0 } + if layer.v.is_some() { j * k } else { 0.0 })
}

/// Those of blocks, for so many rows of z, of x and of y.
fn of_blocks<T: Element>(blocks: &[Block<'_, T>], [of_z, of_x, rows]: [usize; 3]) -> u128 {
    let of_block = |block: &Block<'_, T>| {
        let ([ra, rb, rc], sizes) = (block.ranks(), block.sizes());
        let core = if block.is_diagonal() { sum([&[2, rows, ra]]) } else { sum([&[2, rows, ra, rb, rc]]) };
        let factors = [rows, of_z, of_x].into_iter().enumerate().map(|(side, rows)| match block.factors[side] {
            Some(factor) => sum([&[2, rows, sizes[side], factor.shape()[1]]]),
            None => 0,
        });
        factors.fold(core, u128::saturating_add)
    };
    blocks.iter().map(of_block).fold(0, u128::saturating_add)
}

/// Elements of a block's operands.
fn elements_of<T: Element>(block: &Block<'_, T>) -> u128 {
    let core = match block.center {
        Center::Diagonal(_, weights) => weights.map_or(0, |weights| wide(weights.shape()[0])),
        Center::Dense(core) => sum([&core.shape()]),
    };
    let factors = block.factors.iter().flatten().map(|factor| sum([&factor.shape()]));
    factors.fold(core, u128::saturating_add)
}

/// Those of W′ and b′.
pub(super) fn generate_flops<T: Element>(layer: &Interaction<'_, T>, groups: usize) -> u128 {
    let (k, i, j) = (layer.k, layer.i, layer.j);
    let core = match layer.core {
        Core::Absent => 0,
        Core::Dense(_) => sum([&[2, groups, k, i, j]]),
        Core::Cp { a, .. } => {
            let r = a.shape()[1];
            sum([&[2, groups, r, i], &[2, groups, r, j, k]])
        }
        // The rows of a factor are those of x.
        Core::Blocks(blocks) => of_blocks(blocks, [groups, k.min(j), groups.saturating_mul(k.max(j))]),
    };
    core.saturating_add(sum([&[2, groups, k, i, usize::from(layer.u.is_some())]]))
}

/// Those of contracting z first, for `rows` rows of x in each of `groups` groups.
pub(super) fn shared_flops<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> u128 {
    let (k, i, j) = (layer.k, layer.i, layer.j);
    let (u, v) = (usize::from(layer.u.is_some()), usize::from(layer.v.is_some()));
    match layer.core {
        Core::Cp { a, .. } => {
            let r = a.shape()[1];
            let core = sum([&[2, groups, r, i], &[2, groups, rows, r, j], &[2, groups, rows, r, k]]);
            core.saturating_add(sum([&[2, groups, rows, k, i, u], &[2, groups, rows, k, j, v]]))
        }
        Core::Blocks(blocks) => {
            let linear = sum([&[2, groups, rows, k, i, u], &[2, groups, rows, k, j, v]]);
            let rows = groups.saturating_mul(rows);
            of_blocks(blocks, [groups, rows, rows]).saturating_add(linear)
        }
        _ => generate_flops(layer, groups).saturating_add(sum([&[2, groups, rows, k, j]])),
    }
}

/// Those of all pairs of `s` rows of z and `t` rows of x in each of `p` problems, the cheaper side contracted first.
pub(super) fn pairs_flops<T: Element>(layer: &Interaction<'_, T>, [p, s, t]: [usize; 3]) -> u128 {
    let (k, i, j) = (layer.k, layer.i, layer.j);
    let (u, v) = (usize::from(layer.u.is_some()), usize::from(layer.v.is_some()));
    let linear = sum([&[2, p, s, k, i, u], &[2, p, t, k, j, v]]);
    match layer.core {
        Core::Absent => linear,
        Core::Cp { a, .. } => {
            let r = a.shape()[1];
            sum([&[2, p, s, i, r], &[2, p, t, j, r], &[2, p, s, t, k, r]]).saturating_add(linear)
        }
        Core::Blocks(blocks) => {
            let [of_z, of_x] = [s, t].map(|rows| p.saturating_mul(rows));
            of_blocks(blocks, [of_z, of_x, of_z.saturating_mul(t)]).saturating_add(linear)
        }
        // V joins W′ without a multiplication.
        _ => {
            let z_first = sum([&[2, p, s, k, i, j], &[2, p, s, t, k, j], &[2, p, s, k, i, u]]);
            z_first.min(sum([&[2, p, t, k, i, j], &[2, p, s, t, k, i], &[2, p, t, k, j, v]]))
        }
    }
}

/// Bytes of all weights, and of `elements` of inputs and outputs.
fn bytes<T: Element>(layer: &Interaction<'_, T>, elements: u128) -> u128 {
    let (k, i, j) = (layer.k, layer.i, layer.j);
    let core = match layer.core {
        Core::Absent => 0,
        Core::Dense(_) => sum([&[k, i, j]]),
        Core::Cp { a, lambda, .. } => {
            let r = a.shape()[1];
            sum([&[r, k], &[r, i], &[r, j], &[r, usize::from(lambda.is_some())]])
        }
        Core::Blocks(blocks) => blocks.iter().map(elements_of).fold(0, u128::saturating_add),
    };
    let present = [layer.u.is_some(), layer.v.is_some(), layer.b.is_some()].map(usize::from);
    let linear = sum([&[present[0], k, i], &[present[1], k, j], &[present[2], k]]);
    core.saturating_add(linear).saturating_add(elements).saturating_mul(size_of::<T>() as u128)
}

/// Whether the components of all factors are contiguous, as the factors are and as they were first given.
pub(super) fn contiguous_factors<T: Element>(layer: &Interaction<'_, T>) -> bool {
    let Core::Cp { a, b, c, .. } = layer.core else { return false };
    [a, b, c].map(|factor| factor.strides()[1]) == [1; 3] && layer.layout == [1; 3]
}

/// The algorithm for a batch of `n`: the one forced, if it can compute the call, or the cheapest.
#[inline]
pub(super) fn choose<T: Element>(layer: &Interaction<'_, T>, context: &Context, p: &Problem<'_, T>) -> Result<Choice> {
    let forced = context.algorithm();
    let refuse = |algorithm, reason| Err(Error::Algorithm { algorithm, reason });
    let few = p.n <= small::ROWS;
    match layer.core {
        Core::Dense(_) => cost::choose(p, || super::trilinear(layer, context, p.n), forced),
        Core::Absent => match forced {
            None | Some(Algorithm::Linear) => Ok(Choice { algorithm: Algorithm::Linear, swap: false, small: few }),
            Some(algorithm) => refuse(algorithm, "W is absent"),
        },
        Core::Blocks(_) => match forced {
            None | Some(Algorithm::Blocks) => Ok(Choice { algorithm: Algorithm::Blocks, swap: false, small: false }),
            Some(algorithm) => refuse(algorithm, "W is a sum of blocks"),
        },
        Core::Cp { .. } => {
            let streams = few && contiguous_factors(layer);
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
pub(crate) fn shared_algorithm<T: Element>(layer: &Interaction<'_, T>) -> Algorithm {
    match layer.core {
        Core::Cp { .. } => Algorithm::CpBlocked,
        Core::Blocks(_) => Algorithm::Blocks,
        _ => Algorithm::ContractContext,
    }
}

pub(crate) fn plan<T: Element>(layer: &Interaction<'_, T>, n: usize) -> Result<Plan> {
    let context = layer.context()?;
    let p = problem(layer, &context, n);
    let choice = choose(layer, &context, &p)?;
    let flops = flops(layer, n);
    let threads = parallel::threads(&context, work(layer, n));
    let scratch = match cp_problem(layer, &context, n) {
        _ if choice.algorithm == Algorithm::Blocks => forms::scratch(layer, [n, 1], &context)?,
        Some(p) if choice.small => size::<T>(&cp::small_lengths(&p)),
        Some(p) => cp_scratch(&p, threads),
        None => {
            let p = if choice.swap { p.swap() } else { p };
            match choice.algorithm {
                _ if choice.small => size::<T>(&small::lengths(&p)),
                _ => {
                    let (t, outs) = (super::trilinear(layer, &context, n), [true, false, false]);
                    let (roles, _) = t.roles_of(outs, choice.algorithm == Algorithm::KhatriRao);
                    size::<T>(&contract::Blocks::new(&t, roles, outs, threads).lengths)
                }
            }
        }
    };
    Ok(describe::<T>(&context, choice.algorithm, [flops, moved(layer, n)], scratch, threads))
}

/// Bytes of all operands of a batch of `n`.
fn moved<T: Element>(layer: &Interaction<'_, T>, n: usize) -> u128 {
    bytes(layer, sum([&[n, layer.k], &[n, layer.i], &[n, layer.j]]))
}

/// Those of a shared context.
fn shared_moved<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> u128 {
    bytes(layer, sum([&[groups, layer.i], &[groups, rows, layer.j], &[groups, rows, layer.k]]))
}

/// FLOPs and bytes of a batch, which do not depend on the device.
#[cfg(feature = "cuda")]
pub(crate) fn counts<T: Element>(layer: &Interaction<'_, T>, n: usize) -> [u128; 2] {
    [flops(layer, n), moved(layer, n)]
}

/// Those of a shared context.
#[cfg(feature = "cuda")]
pub(crate) fn shared_counts<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> [u128; 2] {
    [shared_flops(layer, groups, rows), shared_moved(layer, groups, rows)]
}

/// Those of all pairs.
#[cfg(feature = "cuda")]
pub(crate) fn pairs_counts<T: Element>(layer: &Interaction<'_, T>, sizes: [usize; 3]) -> [u128; 2] {
    [pairs_flops(&layer.along([true, false, false]), sizes), pairs_moved(layer, sizes)]
}

fn pairs_moved<T: Element>(layer: &Interaction<'_, T>, [p, s, t]: [usize; 3]) -> u128 {
    bytes(layer, sum([&[p, s, layer.i], &[p, t, layer.j], &[p, s, t, layer.k]]))
}

pub(crate) fn plan_shared<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> Result<Plan> {
    let context = layer.context()?;
    let flops = shared_flops(layer, groups, rows);
    let threads = parallel::threads(&context, flops as f64);
    let scratch = match cp_problem(layer, &context, rows) {
        _ if shared_algorithm(layer) == Algorithm::Blocks => forms::scratch(layer, [groups, rows], &context)?,
        Some(p) => cp_scratch(&p, 1),
        None => size::<T>(&context::Blocks::new(&problem(layer, &context, groups), rows, threads).lengths),
    };
    let bytes = shared_moved(layer, groups, rows);
    Ok(describe::<T>(&context, shared_algorithm(layer), [flops, bytes], scratch, threads))
}

pub(crate) fn plan_pairs<T: Element>(layer: &Interaction<'_, T>, sizes @ [p, s, t]: [usize; 3]) -> Result<Plan> {
    let context = layer.context()?;
    let needed = &layer.along([true, false, false]);
    let flops = pairs_flops(needed, sizes);
    let threads = parallel::threads(&context, flops as f64);
    // One element seen as all inputs: only their shapes count.
    let one = [T::default()];
    let input = |rows, features: usize| View::strided(&one, 0, [p, rows, features], [0; 3]);
    let empty = [p, s, t, layer.k, needed.i, needed.j].contains(&0);
    let scratch = if empty {
        0
    } else if shared_algorithm(needed) == Algorithm::Blocks {
        forms::scratch(needed, [s, t], &context)?
    } else {
        let pairs = pairs::Pairs::new(needed, &context, input(s, needed.i)?, input(t, needed.j)?)?;
        let pairs = if pairs.prefers_swap() { pairs.swap() } else { pairs };
        let blocks = pairs::Blocks::new(&pairs, threads, false);
        size::<T>(&blocks.lengths).saturating_add(size::<T>(&[blocks.packed]))
    };
    let bytes = pairs_moved(layer, sizes);
    Ok(describe::<T>(&context, shared_algorithm(layer), [flops, bytes], scratch, threads))
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
        launches: Vec::new(),
    }
}
