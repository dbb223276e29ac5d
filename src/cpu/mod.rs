//! The CPU engine: which algorithm, and the way from the API's operands to the drivers'.

mod cache;
mod context;
mod cost;
mod cp;
mod dense;
mod kernels;
mod operand;
mod output;
mod parallel;
mod problem;
mod scratch;
mod simd;
mod small;
mod table;

pub(crate) use simd::{Capability, Kernels};

use crate::interaction::Core;
use crate::{Algorithm, Context, Element, Error, Interaction, Plan, Result, View, ViewMut};
use context::Target;
use cost::Choice;
use operand::Cube;
use problem::Problem;

/// Prepared weights that the drivers read in place of the stored ones: W in the accumulator's type.
pub(crate) type Panels<'a, T> = View<'a, <T as Kernels>::Acc, 3>;

/// The operands of a dense or linear layer for a batch of `n`.
#[inline]
fn problem<'a, T: Element>(layer: &Interaction<'a, T>, n: usize) -> Problem<'a, T> {
    let mut p = Problem::new(&layer.context(), [n, layer.k, layer.i, layer.j]);
    if let Core::Dense(w) = layer.core {
        p.w = Some(Cube::Stored(w));
    }
    (p.u, p.v, p.b) = (layer.u, layer.v, layer.b);
    p
}

/// The operands of a CP layer for a batch of `n`.
fn cp_problem<'a, T: Element>(layer: &Interaction<'a, T>, n: usize) -> Option<cp::Problem<'a, T>> {
    let Core::Cp { a, b, c, lambda } = layer.core else { return None };
    let mut p = cp::Problem::new(&layer.context(), n, [a, b, c]);
    (p.lambda, p.u, p.v, p.bias) = (lambda, layer.u, layer.v, layer.b);
    Some(p)
}

/// Multiply-adds count two: those of the algorithm, and of the linear terms.
fn flops<T: Element>(layer: &Interaction<'_, T>, n: usize) -> u128 {
    let [n, k, i, j] = [n, layer.k, layer.i, layer.j].map(|len| len as u128);
    let core = match layer.core {
        Core::Absent => 0,
        Core::Dense(_) => i.saturating_mul(j).saturating_mul(k),
        Core::Cp { a, .. } => (a.shape()[1] as u128).saturating_mul(i + j + k),
    };
    let linear = k * (layer.u.map_or(0, |_| i) + layer.v.map_or(0, |_| j));
    n.saturating_mul(core.saturating_add(linear)).saturating_mul(2)
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

pub(crate) fn forward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    let n = x.shape()[0];
    layer.context().device().check()?;
    let choice = choose(layer, n)?;
    if n == 0 || layer.k == 0 {
        return Ok(());
    }
    let threads = parallel::threads(&layer.context(), flops(layer, n));
    if let Some(p) = cp_problem(layer, n) {
        return match choice.algorithm {
            Algorithm::CpStream => p.forward_small(z, x, y),
            _ => p.forward(z, x, y, threads),
        };
    }
    let mut p = problem(layer, n);
    let (mut z, mut x) = (z, x);
    if choice.swap {
        (z, x) = (x, z);
        p = p.swap();
    }
    if choice.small {
        return small::forward(&p, z, x, y, threads);
    }
    if let Some(widened) = layer.panels {
        let widened = Cube::Widened(widened);
        p.w = Some(if choice.swap { widened.swap() } else { widened });
    }
    dense::forward(&p, z, x, y, choice.algorithm, threads)
}

/// The algorithm for a batch of `n`: the one forced, if it can compute the call, or the cheapest.
#[inline]
fn choose<T: Element>(layer: &Interaction<'_, T>, n: usize) -> Result<Choice> {
    let forced = layer.context().algorithm();
    let refuse = |algorithm, reason| Err(Error::Algorithm { algorithm, reason });
    let small = n <= small::ROWS;
    match (layer.core, forced) {
        (Core::Cp { a, b, c, .. }, None) => {
            let streams = small && cp::streams(&a, &b, &c);
            let algorithm = if streams { Algorithm::CpStream } else { Algorithm::CpBlocked };
            Ok(Choice { algorithm, swap: false, small: streams })
        }
        (Core::Cp { .. }, Some(Algorithm::CpBlocked)) => {
            Ok(Choice { algorithm: Algorithm::CpBlocked, swap: false, small: false })
        }
        (Core::Cp { a, b, c, .. }, Some(Algorithm::CpStream)) if small && cp::streams(&a, &b, &c) => {
            Ok(Choice { algorithm: Algorithm::CpStream, swap: false, small: true })
        }
        (Core::Cp { .. }, Some(Algorithm::CpStream)) => {
            refuse(Algorithm::CpStream, "it takes at most 4 rows, and factors whose components are contiguous")
        }
        (Core::Absent, None | Some(Algorithm::Linear)) => {
            Ok(Choice { algorithm: Algorithm::Linear, swap: false, small })
        }
        (Core::Dense(_), None) => Ok(cost::choose(&problem(layer, n))),
        (Core::Dense(w), Some(Algorithm::Stream)) => {
            let swap = w.strides()[2] != 1 && w.strides()[1] == 1;
            if small && (swap || small::streams(&Cube::Stored(w))) {
                Ok(Choice { algorithm: Algorithm::Stream, swap, small: true })
            } else {
                refuse(Algorithm::Stream, "it takes at most 4 rows, and W contiguous along z or x")
            }
        }
        (Core::Dense(_), Some(algorithm @ (Algorithm::FusedDot | Algorithm::KhatriRao))) => {
            Ok(cost::choose_swap(&problem(layer, n), algorithm))
        }
        (Core::Cp { .. }, Some(algorithm)) => refuse(algorithm, "W is in CP form"),
        (Core::Absent, Some(algorithm)) => refuse(algorithm, "W is absent"),
        (Core::Dense(_), Some(algorithm)) => refuse(algorithm, "W is dense"),
    }
}

pub(crate) fn plan<T: Element>(layer: &Interaction<'_, T>, n: usize) -> Result<Plan> {
    layer.context().device().check()?;
    let choice = choose(layer, n)?;
    let flops = flops(layer, n);
    let threads = parallel::threads(&layer.context(), flops);
    let size = |lengths: &[usize]| scratch::bytes::<T::Acc>(lengths);
    let scratch = match cp_problem(layer, n) {
        Some(p) if choice.small => size(&cp::small_lengths(&p)),
        Some(p) => {
            let blocks = cp::Blocks::new(&p, threads);
            size(&blocks.lengths).saturating_add(size(&[blocks.packed]))
        }
        None => {
            let p = problem(layer, n);
            let p = if choice.swap { p.swap() } else { p };
            match choice.small {
                true => size(&small::lengths(&p)),
                false => size(&dense::Blocks::new(&p, choice.algorithm, threads).lengths),
            }
        }
    };
    let rows = (n as u128) * (layer.k + layer.i + layer.j) as u128;
    let bytes = weight_bytes(layer).saturating_add(rows.saturating_mul(size_of::<T>() as u128));
    Ok(describe::<T>(&layer.context(), choice.algorithm, [flops, bytes], scratch, threads))
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

/// FLOPs of contracting z first, for `rows` rows of x in each of `groups` groups.
fn shared_flops<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> u128 {
    let [g, m, k, j] = [groups, rows, layer.k, layer.j].map(|len| len as u128);
    let apply = g.saturating_mul(m).saturating_mul(k.saturating_mul(j)).saturating_mul(2);
    flops(layer, groups).saturating_add(apply)
}

pub(crate) fn plan_shared<T: Element>(layer: &Interaction<'_, T>, groups: usize, rows: usize) -> Result<Plan> {
    layer.context().device().check()?;
    if layer.rank().is_some() {
        return plan(layer, groups.saturating_mul(rows));
    }
    let flops = shared_flops(layer, groups, rows);
    let threads = parallel::threads(&layer.context(), flops);
    let blocks = context::Blocks::new(&problem(layer, groups), rows, threads);
    let scratch = scratch::bytes::<T::Acc>(&blocks.lengths);
    let elements = groups as u128 * (layer.i as u128 + rows as u128 * (layer.j + layer.k) as u128);
    let bytes = weight_bytes(layer).saturating_add(elements.saturating_mul(size_of::<T>() as u128));
    Ok(describe::<T>(&layer.context(), Algorithm::ContractContext, [flops, bytes], scratch, threads))
}

pub(crate) fn forward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    mut y: ViewMut<'_, T, 3>,
) -> Result<()> {
    layer.context().device().check()?;
    let [groups, rows, features] = x.shape();
    if groups == 0 || rows == 0 || layer.k == 0 {
        return Ok(());
    }
    if layer.rank().is_some() {
        // W′ of CP factors costs more than it saves: each group is a batch whose z is broadcast.
        let ([xg, xm, xj], [yg, ym, yk]) = (x.strides(), y.strides());
        for g in 0..groups {
            let z = z.slice(0, g..g + 1)?.broadcast(0, rows)?;
            // SAFETY: group g of x and of y, whose other axes are those of a batch.
            let (x, y) = unsafe {
                (
                    View::from_raw_parts(x.as_ptr().wrapping_offset(g as isize * xg), [rows, features], [xm, xj]),
                    ViewMut::from_raw_parts(
                        y.as_mut_ptr().wrapping_offset(g as isize * yg),
                        [rows, layer.k],
                        [ym, yk],
                    )?,
                )
            };
            forward(layer, z, x, y)?;
        }
        return Ok(());
    }
    let threads = parallel::threads(&layer.context(), shared_flops(layer, groups, rows));
    context::run(&widened(layer, groups), z, Target::Apply(x, y), threads)
}

/// The problem with prepared weights where there are.
fn widened<'a, T: Element>(layer: &Interaction<'a, T>, n: usize) -> Problem<'a, T> {
    let p = problem(layer, n);
    Problem { w: layer.panels.map(Cube::Widened).or(p.w), ..p }
}

pub(crate) fn generate<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    weights: ViewMut<'_, T, 3>,
    bias: ViewMut<'_, T, 2>,
) -> Result<()> {
    layer.context().device().check()?;
    let groups = z.shape()[0];
    if groups == 0 || layer.k == 0 {
        return Ok(());
    }
    let threads = parallel::threads(&layer.context(), flops(layer, groups));
    if let Core::Cp { .. } = layer.core {
        return generate_cp(layer, z, weights, bias, threads);
    }
    context::run(&widened(layer, groups), z, Target::Generate(weights, bias), threads)
}

/// W′[g] of CP factors is the CP layer's output for the identity in place of x.
fn generate_cp<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    mut weights: ViewMut<'_, T, 3>,
    bias: ViewMut<'_, T, 2>,
    threads: usize,
) -> Result<()> {
    let (k, j) = (layer.k, layer.j);
    let [sg, sk, sj] = weights.strides();
    // Rows j of the identity as a sliding window: element [j][c] is at J − 1 − j + c, and 1 where c = j.
    let mut window = crate::Tensor::<T, 1>::zeros([(2 * j).saturating_sub(1)])?.into_vec();
    if let Some(one) = window.get_mut(j.saturating_sub(1)) {
        *one = T::from_f64(1.0);
    }
    let plain = Interaction { u: None, b: None, ..*layer };
    for g in 0..z.shape()[0] {
        if j == 0 {
            break;
        }
        let z = z.slice(0, g..g + 1)?.broadcast(0, j)?;
        let identity = View::strided(&window, j - 1, [j, j], [-1, 1])?;
        // SAFETY: group g of the weights, transposed to [J, K].
        let y = unsafe {
            ViewMut::from_raw_parts(weights.as_mut_ptr().wrapping_offset(g as isize * sg), [j, k], [sj, sk])?
        };
        forward(&plain, z, identity, y)?;
    }
    let mut p = Problem::new(&layer.context(), [z.shape()[0], k, layer.i, 0]);
    (p.u, p.b) = (layer.u, layer.b);
    let x = View::strided(&[], 0, [z.shape()[0], 0], [0, 1])?;
    dense::forward(&p, z, x, bias, Algorithm::Linear, threads)
}
