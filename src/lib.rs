//! Multiplicative interactions of two vectors, by kernels made for them.
//!
//! ```text
//! y = zᵀWx + zᵀU + Vx + b        y[k] = Σᵢⱼ W[k,i,j] z[i] x[j] + Σᵢ U[k,i] z[i] + Σⱼ V[k,j] x[j] + b[k]
//! ```
//!
//! [`Interaction`] is the operation: W dense, a CP decomposition or a sum of blocks, any of W, U, V and b absent, over borrowed strided
//! [`View`]s of `f32`, `f64`, [`struct@f16`] or [`bf16`]. Axes are named `out`, `z` and `x`, and [`Axes`] turns other libraries'
//! orders into this crate's.
//!
//! # Example
//!
//! ```rust
//! use trilinear::{Interaction, View};
//!
//! // Two outputs of z (3 features) and x (2 features), and a batch of two rows.
//! let w = [1.0f32, 0.0, 0.0, 1.0, 0.0, 0.0, /* k = 1 */ 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]; // [2, 3, 2]
//! let u = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]; // [2, 3]
//! let b = [0.5, -0.5];
//! let layer = Interaction::dense(View::new(&w, [2, 3, 2])?)?.with_u(View::new(&u, [2, 3])?)?.with_b(View::vector(&b))?;
//!
//! let z = [1.0, 2.0, 3.0, 0.0, 1.0, 0.0];
//! let x = [10.0, 20.0, 30.0, 40.0];
//! let y = layer.forward(View::new(&z, [2, 3])?, View::new(&x, [2, 2])?)?;
//! assert_eq!(y.as_slice(), [53.5, 89.5, 40.5, -0.5]);
//! # Ok::<(), trilinear::Error>(())
//! ```
//!
//! # Where to find what
//!
//! | to | use |
//! |---|---|
//! | compute a batch | [`Interaction::forward`], and [`forward_into`](Interaction::forward_into) into memory of your own |
//! | let one z meet many x | [`Interaction::forward_shared`] |
//! | let every z meet every x of a problem | [`Interaction::forward_pairs`] |
//! | sum that over problems (outer-product mean) | [`Interaction::forward_pairs_reduced`] |
//! | choose the weights row by row | [`Grouped`] |
//! | get the gradients | [`Interaction::backward`], and [`backward_into`](Interaction::backward_into) for some of them |
//! | keep activations for the backward pass | [`Interaction::forward_saving`] |
//! | differentiate twice | [`Interaction::tangent`] |
//! | get the linear layers that z generates | [`Interaction::generate`] |
//! | use a diagonal, Tucker or block-term W | [`Block`] and [`Interaction::blocks`] |
//! | measure distances, gate x | [`Mahalanobis`], [`Interaction::attend`] |
//! | start training | [`Interaction::deviations`], [`mod@init`] |
//! | use the same weights many times | [`Interaction::prepare`] |
//! | contract W with the factors of a decomposition | [`mttkrp()`], [`mttkrp_into`] |
//! | make a W of low rank | `decompose` (feature `decompose`) |
//! | see what a call will do | [`Interaction::plan`] |
//! | choose device, SIMD level, threads | [`Context`], or the variables `TRILINEAR_DEVICE` and `TRILINEAR_SIMD` |
//! | compute on a CUDA device, in its memory | [`Device`], [`DeviceTensor`], [`View::from_device`], [`Context::with_stream`] |
//! | know how exact results are | [`mod@reference`], the definition as plain loops with the error bound |
//! | know what this machine can do | [`machine`] |
//!
//! # Promises
//!
//! * **Accuracy**: each element keeps the bound of [`mod@reference`].
//! * **Determinism**: the same call gives the same bits on the same processor and SIMD level, for any number of threads.
//! * **Memory**: no intermediate that grows with N·I·J or N·K·I; scratch is reused from call to call.
//! * **Errors**: every wrong input is a typed [`Error`] that names the operand; nothing panics on user input.
//!
//! # Features
//!
//! `cuda` (default): NVIDIA devices, whose driver is looked for at run time; without one [`Device::Cuda`] gives
//! [`Error::Device`]. `ndarray`: views from and to `ndarray` arrays. `decompose`: fits of W by CP and block terms. `cli`: the
//! `trilinear` command.

#[cfg(test)]
extern crate self as trilinear; // for what tests/common has

mod attention;
mod axes;
mod block;
mod calls;
mod cpu;
mod cuda;
#[cfg(feature = "decompose")]
pub mod decompose;
mod device;
mod device_tensor;
mod dispatch;
mod element;
mod error;
mod gradients;
mod grouped;
pub mod init;
mod interaction;
pub mod machine;
mod metric;
mod mttkrp;
#[cfg(feature = "ndarray")]
pub mod ndarray;
mod pairs;
mod place;
mod plan;
mod prepared;
pub mod presets;
mod random;
pub mod reference;
mod saved;
mod strides;
mod tangent;
mod tensor;
mod view;

pub use axes::{Axes, Axis};
pub use block::Block;
pub use device::{Context, Device, SimdLevel};
pub use device_tensor::DeviceTensor;
pub use element::{DType, Element};
pub use error::{Error, Result, Unavailable};
pub use gradients::{BlockGradients, FactorGradients, Gradient, Gradients, Wanted, WantedBlock, WantedFactors};
pub use grouped::{Grouped, GroupedGradients, GroupedWanted};
pub use half::{bf16, f16};
pub use interaction::{Generated, Interaction};
pub use metric::{Mahalanobis, MetricGradients, Precision, WantedMetric};
pub use mttkrp::{mttkrp, mttkrp_into};
pub use pairs::Reduction;
pub use plan::{Algorithm, Launch, Plan};
pub use prepared::Prepared;
pub use saved::Saved;
pub use tangent::Tangents;
pub use tensor::Tensor;
pub use view::{View, ViewMut};

/// The README's examples, as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
