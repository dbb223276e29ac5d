//! The definition, as plain loops in f64. Slow and obvious: what every kernel is tested against.
//!
//! [`forward`] returns each y\[n,k\] and the sum of the magnitudes of its terms, from which [`error_bound`] gives the
//! largest error that a result may have. The bound is the classical one for a sum of products computed in any order
//! (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1): |ŷ − y| ≤ γₘ Σ|terms|, γₘ = mε/(1 − mε).

use crate::interaction::Core;
use crate::{DType, Element, Interaction, Result, Tensor, View, ViewMut};

/// The exact result (to f64) and what its rounding errors are proportional to.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// y [N, K].
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
    let mut value = vec![0.0; n * k];
    let mut magnitude = vec![0.0; n * k];
    for row in 0..n {
        let z: Vec<f64> = (0..i).map(|i| at(z, [row, i])).collect();
        let x: Vec<f64> = (0..j).map(|j| at(x, [row, j])).collect();
        for out in 0..k {
            let (mut sum, mut size) = (0.0, 0.0);
            let mut add = |term: f64| {
                sum += term;
                size += term.abs();
            };
            match layer.core {
                Core::Absent => {}
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
            if let Some(u) = layer.u {
                z.iter().enumerate().for_each(|(i, z)| add(at(u, [out, i]) * z));
            }
            if let Some(v) = layer.v {
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
        depth: depth(layer),
    })
}

/// The exact gradients of a dense or linear layer, whether or not it has the weights in question.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// dz [N, I].
    pub z: Reference,
    /// dx [N, J].
    pub x: Reference,
    /// dW, as [K·I, J].
    pub w: Reference,
    /// dU [K, I].
    pub u: Reference,
    /// dV [K, J].
    pub v: Reference,
    /// db [K, 1].
    pub b: Reference,
}

/// The gradients by their definitions, for the gradient `g` [N, K] of y: of T = Σ g\[n,k\] y\[n,k\] in each operand. Shapes
/// and errors as [`Interaction::backward`].
///
/// # Example
///
/// ```
/// use trilinear::{Interaction, View, reference};
///
/// let w = [1.0f32, 2.0, 3.0, 4.0];
/// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
/// let exact = reference::backward(&layer, View::row(&[1.0, 10.0]), View::row(&[1.0, 1.0]), View::row(&[1.0]))?;
/// assert_eq!(exact.x.value.as_slice(), [31.0, 42.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn backward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
) -> Result<Gradients> {
    layer.check_backward(&z, &x, &g)?;
    let ([n, k], i, j) = (g.shape(), layer.z_features(), layer.x_features());
    let w = match layer.core {
        Core::Absent => None,
        Core::Dense(w) => Some(w),
        Core::Cp { .. } => return Err(crate::Error::Unsupported { what: "gradients of CP weights" }),
    };
    let weight = |k: usize, i: usize, j: usize| w.map_or(0.0, |w| at(w, [k, i, j]));
    let linear = |matrix: Option<View<'_, T, 2>>, k, c| matrix.map_or(0.0, |matrix| at(matrix, [k, c]));
    let (g, z, x) = (|n, k| at(g, [n, k]), |n, i| at(z, [n, i]), |n, j| at(x, [n, j]));
    Ok(Gradients {
        z: terms([n, i], k * j + k + 3, |n, i, add| {
            for k in 0..k {
                (0..j).for_each(|j| add(g(n, k) * weight(k, i, j) * x(n, j)));
                add(g(n, k) * linear(layer.u, k, i));
            }
        })?,
        x: terms([n, j], k * i + k + 3, |n, j, add| {
            for k in 0..k {
                (0..i).for_each(|i| add(g(n, k) * weight(k, i, j) * z(n, i)));
                add(g(n, k) * linear(layer.v, k, j));
            }
        })?,
        w: terms([k * i, j], n + 3, |row, j, add| (0..n).for_each(|n| add(g(n, row / i) * z(n, row % i) * x(n, j))))?,
        u: terms([k, i], n + 3, |k, i, add| (0..n).for_each(|n| add(g(n, k) * z(n, i))))?,
        v: terms([k, j], n + 3, |k, j, add| (0..n).for_each(|n| add(g(n, k) * x(n, j))))?,
        b: terms([k, 1], n + 3, |k, _, add| (0..n).for_each(|n| add(g(n, k))))?,
    })
}

/// Sums of the terms that `of` lists for each element, and of their magnitudes.
fn terms(shape: [usize; 2], depth: usize, of: impl Fn(usize, usize, &mut dyn FnMut(f64))) -> Result<Reference> {
    let (mut value, mut magnitude) = (Vec::new(), Vec::new());
    for row in 0..shape[0] {
        for column in 0..shape[1] {
            let (mut sum, mut size) = (0.0, 0.0);
            of(row, column, &mut |term: f64| {
                sum += term;
                size += term.abs();
            });
            value.push(sum);
            magnitude.push(size);
        }
    }
    Ok(Reference { value: Tensor::from_vec(value, shape)?, magnitude: Tensor::from_vec(magnitude, shape)?, depth })
}

/// m: additions that a term can pass through, and the roundings of the term itself.
fn depth<T: Element>(layer: &Interaction<'_, T>) -> usize {
    let (i, j) = (layer.z_features(), layer.x_features());
    let core = match layer.rank() {
        Some(r) => i + j + r + 4,
        None => i.saturating_mul(j) + 3,
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
    let ([k, i, j], strides, ptr) = (w.shape(), w.strides(), w.as_mut_ptr());
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
