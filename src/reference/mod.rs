//! The definition, as plain loops in f64. Slow and obvious: what every kernel is tested against.
//!
//! [`forward`] returns each y\[n,k\] and the sum of the magnitudes of its terms, from which [`error_bound`] gives the
//! largest error that a result may have. The bound is the classical one for a sum of products computed in any order
//! (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1): |ŷ − y| ≤ γₘ Σ|terms|, γₘ = mε/(1 − mε).
//!
//! The same of gradients ([`backward()`], [`backward_shared`], [`backward_generate`]) and of the derivative in a direction
//! ([`tangent()`]).

mod backward;
mod blocks;
mod metric;
mod pairs;
mod tangent;
mod terms;

pub use backward::{Factors, Gradients, backward, backward_generate, backward_pairs, backward_shared};
pub use blocks::BlockGradients;
pub(crate) use blocks::sum_of_blocks;
pub use metric::{DistanceGradients, distances, distances_backward};
pub use pairs::{backward_pairs_reduced, forward_pairs, forward_pairs_reduced};
pub use tangent::tangent;

use crate::interaction::Core;
use crate::{DType, Element, Interaction, Result, Tensor, View, ViewMut};
use terms::{Matrix, Terms};

/// The exact result (to f64) and what its rounding errors are proportional to.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// y [N, K], or another result of two axes.
    pub value: Tensor<f64, 2>,
    /// Σ|W||z||x| + Σ|U||z| + Σ|V||x| + |b|, [N, K]; for CP Σ|λ||A||B||C||z||x| in the first place.
    pub magnitude: Tensor<f64, 2>,
    /// m: roundings on the way from any one term to the result.
    pub depth: usize,
}

/// The definition. Shapes as [`Interaction::forward`]; the errors are the same too.
///
/// # Example
///
/// ```
/// use trilinear::{DType, Interaction, View, reference};
///
/// let w = vec![0.1f32; 5 * 6 * 7];
/// let layer = Interaction::dense(View::new(&w, [5, 6, 7])?)?;
/// let (z, x) = ([0.3f32; 6], [0.7f32; 7]);
/// let y = layer.forward(View::row(&z), View::row(&x))?;
/// let exact = reference::forward(&layer, View::row(&z), View::row(&x))?;
/// for (k, &value) in y.as_slice().iter().enumerate() {
///     assert!((f64::from(value) - exact.value.as_slice()[k]).abs() <= exact.error_bound(DType::F32, k));
/// }
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn forward<T: Element>(layer: &Interaction<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Reference> {
    let (n, k, i, j) = (x.shape()[0], layer.outputs(), layer.z_features(), layer.x_features());
    crate::error::check("z", "features", i, z.shape()[1])?;
    crate::error::check("x", "features", j, x.shape()[1])?;
    crate::error::check("z", "rows", n, z.shape()[0])?;
    crate::place::host(layer.located())?;
    crate::place::host([Some(("z", z.place())), Some(("x", x.place()))])?;
    let needed = layer.along([true, false, false]);
    let (i, j) = (needed.i, needed.j);
    let blocks = blocks::exact(needed.terms())?;
    let of_blocks = match blocks.is_empty() || k == 0 {
        true => Vec::new(),
        false => {
            let (z, x) = (Matrix::of(z)?, Matrix::of(x)?);
            blocks.iter().map(|block| block.forward([n, 1], &z, &x)).collect::<Result<Vec<_>>>()?
        }
    };
    let (mut value, mut magnitude) = (Tensor::zeros([n, k])?.into_vec(), Tensor::zeros([n, k])?.into_vec());
    for row in 0..if k == 0 { 0 } else { n } {
        let z: Vec<f64> = (0..i).map(|i| at(z, [row, i])).collect();
        let x: Vec<f64> = (0..j).map(|j| at(x, [row, j])).collect();
        for out in 0..k {
            let (mut sum, mut size) = (0.0, 0.0);
            let mut add = |term: f64| {
                sum += term;
                size += term.abs();
            };
            match needed.core {
                Core::Absent => {}
                Core::Blocks(_) => {
                    let terms: Terms = of_blocks.iter().map(|block| block.at(row, out)).sum();
                    (sum, size) = (terms.value, terms.magnitude);
                }
                Core::Dense(w) => {
                    for (i, z) in z.iter().enumerate() {
                        for (j, x) in x.iter().enumerate() {
                            add(at(w, [out, i, j]) * z * x);
                        }
                    }
                }
                Core::Cp { a, b, c, lambda } => {
                    for r in 0..a.shape()[1] {
                        let scale = lambda.map_or(1.0, |lambda| at(lambda, [r])) * at(a, [out, r]);
                        let p =
                            |f: fn(f64) -> f64| z.iter().enumerate().map(|(i, z)| f(at(b, [i, r]) * z)).sum::<f64>();
                        let q =
                            |f: fn(f64) -> f64| x.iter().enumerate().map(|(j, x)| f(at(c, [j, r]) * x)).sum::<f64>();
                        sum += scale * p(|t| t) * q(|t| t);
                        size += scale.abs() * p(f64::abs) * q(f64::abs);
                    }
                }
            }
            let mut add = |term: f64| {
                sum += term;
                size += term.abs();
            };
            if let Some(u) = needed.u {
                z.iter().enumerate().for_each(|(i, z)| add(at(u, [out, i]) * z));
            }
            if let Some(v) = needed.v {
                x.iter().enumerate().for_each(|(j, x)| add(at(v, [out, j]) * x));
            }
            if let Some(b) = layer.b {
                add(at(b, [out]));
            }
            value[row * k + out] = sum;
            magnitude[row * k + out] = size;
        }
    }
    Ok(Reference {
        value: Tensor::from_vec(value, [n, k])?,
        magnitude: Tensor::from_vec(magnitude, [n, k])?,
        depth: depth(layer, blocks::depth(blocks.iter().map(blocks::Exact::depth))),
    })
}

/// W′ of the layers that `z` [G, I] generates, as [G·K, J]. Shapes and errors as [`Interaction::generate`].
///
/// It is [`forward`] of the rows of the identity without U and b, and its depth that of [`forward`]; of blocks with a dense core it has
/// Ra·Rb + Rc more, for the outputs' side may be contracted first.
pub fn generate<T: Element>(layer: &Interaction<'_, T>, z: View<'_, T, 2>) -> Result<Reference> {
    crate::error::check("z", "features", layer.z_features(), z.shape()[1])?;
    let layer = Interaction { u: None, b: None, ..*layer };
    let (groups, k, j) = (z.shape()[0], layer.outputs(), layer.x_features());
    let mut identity = Tensor::<T, 2>::zeros([j, j])?.into_vec();
    identity.iter_mut().step_by(j + 1).for_each(|one| *one = T::from_f64(1.0));
    let x = View::new(&identity, [j, j])?;
    let shape = [groups.saturating_mul(k), j];
    let (mut value, mut magnitude) = (Tensor::zeros(shape)?.into_vec(), Tensor::zeros(shape)?.into_vec());
    for group in 0..if j == 0 { 0 } else { groups } {
        let exact = forward(&layer, z.slice(0, group..group + 1)?.broadcast(0, j)?, x)?;
        for (to, from) in [(&mut value, &exact.value), (&mut magnitude, &exact.magnitude)] {
            for (at, &element) in from.as_slice().iter().enumerate() {
                to[(group * k + at % k) * j + at / k] = element;
            }
        }
    }
    let depth = depth(&layer, blocks::depth(blocks::exact(layer.terms())?.iter().map(blocks::Exact::depth)));
    let depth = depth + blocks::generated_depth(layer.terms());
    Ok(Reference { value: Tensor::from_vec(value, shape)?, magnitude: Tensor::from_vec(magnitude, shape)?, depth })
}

/// i·j terms, or so many that no bound holds: axes may be of any length where there is nothing to add up. There is room for
/// what is added to it.
fn terms_of(i: usize, j: usize) -> usize {
    i.saturating_mul(j).min(usize::MAX / 16)
}

/// m: additions that a term can pass through, and the roundings of the term itself.
fn depth<T: Element>(layer: &Interaction<'_, T>, of_blocks: usize) -> usize {
    let (i, j) = (layer.z_features(), layer.x_features());
    let core = match layer.core {
        Core::Cp { a, .. } => i + j + a.shape()[1] + 4,
        Core::Blocks(_) => of_blocks,
        _ => terms_of(i, j) + 3,
    };
    core + layer.u.map_or(0, |_| i) + layer.v.map_or(0, |_| j) + layer.b.map_or(0, |_| 1)
}

impl Reference {
    /// The largest error that element `index` (row-major) of a result in `dtype` may have: γₘ Σ|terms|, and for storage
    /// narrower than the accumulator half a unit in the last place of the result. For f64 the bound counts twice,
    /// because the reference is computed in f64 too.
    pub fn error_bound(&self, dtype: DType, index: usize) -> f64 {
        let (value, magnitude) = (self.value.as_slice()[index], self.magnitude.as_slice()[index]);
        error_bound(dtype, self.depth, value, magnitude)
    }

    /// The sum of two results that one memory collects, such as dz + dx of tied inputs, or a gradient and the values that
    /// it is added to: a term of either may pass through the additions of both. Errors: [`crate::Error::Shape`].
    pub fn plus(&self, other: &Reference) -> Result<Reference> {
        let [rows, columns] = self.value.shape();
        crate::error::check("other", "rows", rows, other.value.shape()[0])?;
        crate::error::check("other", "columns", columns, other.value.shape()[1])?;
        let sum = |a: &Tensor<f64, 2>, b: &Tensor<f64, 2>| {
            let sums = a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| a + b);
            Tensor::from_vec(sums.collect(), [rows, columns])
        };
        Ok(Reference {
            value: sum(&self.value, &other.value)?,
            magnitude: sum(&self.magnitude, &other.magnitude)?,
            depth: self.depth.saturating_add(other.depth),
        })
    }

    /// What is there already, without an error of its own: `values`, row-major, of this shape.
    /// Errors: [`crate::Error::Length`].
    pub fn given<T: Element>(values: &[T], shape: [usize; 2]) -> Result<Reference> {
        let value = Tensor::from_vec(values.iter().map(|value| value.to_f64()).collect(), shape)?;
        let magnitude = Tensor::from_vec(value.as_slice().iter().map(|value| value.abs()).collect(), shape)?;
        Ok(Reference { value, magnitude, depth: 1 })
    }
}

/// See [`Reference::error_bound`].
pub fn error_bound(dtype: DType, depth: usize, value: f64, magnitude: f64) -> f64 {
    let gamma = |epsilon: f64| depth as f64 * epsilon / (1.0 - depth as f64 * epsilon);
    // The second term is the reference's own error.
    let sum = (gamma(dtype.accumulator_roundoff()) + gamma(DType::F64.accumulator_roundoff())) * magnitude;
    let stored = match dtype {
        DType::F16 | DType::Bf16 => (value.abs() + sum) * dtype.storage_roundoff(),
        DType::F32 | DType::F64 => 0.0,
    };
    sum + stored + depth as f64 * dtype.smallest_positive()
}

/// W of CP factors.
pub(crate) fn reconstruct<T: Element>(layer: &Interaction<'_, T>, mut w: ViewMut<'_, T, 3>) {
    let Core::Cp { a, b, c, lambda } = layer.core else { return };
    let ([k, i, j], strides, ptr) = (w.shape(), w.strides(), w.host_mut_ptr());
    for out in 0..k {
        for i in 0..i {
            for j in 0..j {
                let sum = (0..a.shape()[1])
                    .map(|r| {
                        lambda.map_or(1.0, |lambda| at(lambda, [r])) * at(a, [out, r]) * at(b, [i, r]) * at(c, [j, r])
                    })
                    .sum();
                let offset = out as isize * strides[0] + i as isize * strides[1] + j as isize * strides[2];
                // SAFETY: the index is within the view's shape.
                unsafe { *ptr.offset(offset) = T::from_f64(sum) };
            }
        }
    }
}

fn at<T: Element, const D: usize>(view: View<'_, T, D>, index: [usize; D]) -> f64 {
    view.get(index).map_or(f64::NAN, T::to_f64)
}
