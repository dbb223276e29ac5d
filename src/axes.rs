//! Other libraries' axis orders for W.

use std::fmt;

use crate::{Error, Result, View};

/// What an axis of W counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Outputs, k.
    Out,
    /// Features of z, i.
    Z,
    /// Features of x, j.
    X,
}

/// The order of W's axes in memory. Every source orders them differently, so they are named.
///
/// # Example
///
/// ```
/// use trilinear::{Axes, View};
///
/// // A weight stored as xᵀ W z with the outputs last: [x, z, out] = [4, 3, 2].
/// let data = [0.0f32; 24];
/// let w = Axes::XZ_OUT.view(View::new(&data, [4, 3, 2])?);
/// assert_eq!(w.shape(), [2, 3, 4]); // always out, z, x here
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axes([Axis; 3]);

impl Axes {
    /// `[out, z, x]`: this crate's own order, and that of `torch.nn.Bilinear(in1 = z, in2 = x)` and of
    /// `Flux.Bilinear((z, x) => out)`.
    pub const OUT_Z_X: Axes = Axes([Axis::Out, Axis::Z, Axis::X]);
    /// `[out, x, z]`: `torch.nn.Bilinear(in1 = x, in2 = z)`, for models that pass x first.
    pub const OUT_X_Z: Axes = Axes([Axis::Out, Axis::X, Axis::Z]);
    /// `[z, out, x]`: the paper's zᵀWx written as a matrix of outputs × x for each feature of z; TensorFlow hypernetworks.
    pub const Z_OUT_X: Axes = Axes([Axis::Z, Axis::Out, Axis::X]);
    /// `[z, x, out]`: einsum `ni,nj,ijk->nk`.
    pub const ZX_OUT: Axes = Axes([Axis::Z, Axis::X, Axis::Out]);
    /// `[x, z, out]`: einsum `nj,ni,jik->nk`.
    pub const XZ_OUT: Axes = Axes([Axis::X, Axis::Z, Axis::Out]);
    /// `[x, out, z]`: biaffine parsers that store xᵀ W z with the outputs in the middle.
    pub const X_OUT_Z: Axes = Axes([Axis::X, Axis::Out, Axis::Z]);

    /// Any order. Errors: [`Error::Axes`] if an axis is named twice.
    pub fn new(order: [Axis; 3]) -> Result<Self> {
        let [a, b, c] = order;
        if a == b || b == c || a == c { Err(Error::Axes { given: Axes(order).to_string() }) } else { Ok(Axes(order)) }
    }

    /// `w`, stored in this order, as this crate's `[out, z, x]`. Nothing is copied.
    pub fn view<T>(self, w: View<'_, T, 3>) -> View<'_, T, 3> {
        let place = |axis| self.0.iter().position(|&a| a == axis).unwrap_or(0);
        let order = [place(Axis::Out), place(Axis::Z), place(Axis::X)];
        // An `Axes` is a permutation by construction, so this does not fail.
        w.permute(order).unwrap_or(w)
    }
}

impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |axis| match axis {
            Axis::Out => "out",
            Axis::Z => "z",
            Axis::X => "x",
        };
        write!(f, "[{}, {}, {}]", name(self.0[0]), name(self.0[1]), name(self.0[2]))
    }
}
