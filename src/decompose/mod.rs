//! Fits of W by tensors of few parameters (feature `decompose`): CP decompositions and block terms by alternating least
//! squares, on this crate's own products with W.
//!
//! | to | use |
//! |---|---|
//! | fit a rank | [`cp`] |
//! | see the error of several ranks, or stay within a budget | [`sweep`] |
//! | reach an error | [`search`] |
//! | fit slices W\[k\] of low rank | [`block_terms`] |
//! | compute with the result | [`Cp::interaction`] |
//! | have the error of y small, rather than that of W | [`Options::data`] |
//!
//! A fit has the same bits for any number of threads.
//!
//! # Example
//!
//! ```
//! use trilinear::decompose::{Options, search};
//! use trilinear::{Interaction, View};
//!
//! // A W of rank 2.
//! let (a, b, c) = ([1.0, 0.5, -1.0, 2.0, 0.0, 1.0], [1.0, 2.0, 3.0, -1.0], [2.0, 1.0, 1.0, 1.0, 0.0, -1.0]);
//! let w: Vec<f64> = (0..18)
//!     .map(|at| (0..2).map(|r| a[at / 6 * 2 + r] * b[at / 3 % 2 * 2 + r] * c[at % 3 * 2 + r]).sum())
//!     .collect();
//! let w = View::new(&w, [3, 2, 3])?;
//!
//! let fits = search(w, 1e-6, &Options { iterations: 1000, tolerance: 0.0, ..Options::new(6) })?;
//! let fit = fits.for_error(1e-6).expect("found");
//! assert_eq!(fit.rank(), 2);
//!
//! let (z, x) = (View::row(&[1.0, -1.0]), View::row(&[0.5, 2.0, 1.0]));
//! let (y, exact) = (fit.interaction()?.forward(z, x)?, Interaction::dense(w)?.forward(z, x)?);
//! assert!(y.as_slice().iter().zip(exact.as_slice()).all(|(y, exact)| (y - exact).abs() < 1e-4));
//! # Ok::<(), trilinear::Error>(())
//! ```

mod als;
mod blocks;
mod data;
mod fit;
mod model;
mod normal;
mod options;
mod products;
mod report;
mod start;
mod sweep;
mod target;

pub use blocks::{BlockTerms, block_terms};
pub use fit::cp;
pub use options::{Init, OnProgress, Options, Progress};
pub use report::{Cp, Report, Stopped};
pub use sweep::{Sweep, search, sweep};

use std::ops::{Add, Mul};

use crate::Element;

/// A type that fits are computed in: `f32` or `f64`. Sealed, as [`Element`] is.
pub trait Real: Element<Accumulator = Self> + Add<Output = Self> + Mul<Output = Self> {}

impl Real for f32 {}
impl Real for f64 {}
