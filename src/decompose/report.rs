//! Results of fits.

use super::{Init, Real};
use crate::{Interaction, Result, Tensor};

/// Why a fit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// An iteration changed the relative error by less than the tolerance.
    Converged,
    /// There were as many as allowed.
    Iterations,
    /// The caller's progress callback said so.
    Cancelled,
}

/// How a fit went.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The relative error ‖W − Ŵ‖/‖W‖; of a fit for data that expected of y for independent z and x like the samples.
    /// 0 where W is 0.
    pub error: f64,
    /// The same after each iteration of the best start. The *fit* that other programs report is 1 − error.
    pub errors: Vec<f64>,
    /// Why the best start ended.
    pub stopped: Stopped,
    /// Which start was the best, from 0.
    pub start: usize,
    /// Of all starts.
    pub seconds: f64,
    /// What the products with W took of that.
    pub mttkrp_seconds: f64,
    /// Numbers that W has, and that its decomposition has.
    pub parameters: [usize; 2],
    /// ‖Y − Ŷ‖/‖Y‖ on the samples of a fit for data.
    pub output_error: Option<f64>,
}

/// A CP decomposition: W\[k,i,j\] ≈ Σᵣ λ\[r\] a\[k,r\] b\[i,r\] c\[j,r\]. Columns have length 1 (or 0 where λ is), and components are in
/// the order of falling |λ|.
#[derive(Clone, Debug, PartialEq)]
pub struct Cp<T> {
    /// [K, R].
    pub a: Tensor<T, 2>,
    /// [I, R].
    pub b: Tensor<T, 2>,
    /// [J, R].
    pub c: Tensor<T, 2>,
    /// \[R\].
    pub lambda: Tensor<T, 1>,
    /// How it was found.
    pub report: Report,
}

impl<T: Real> Cp<T> {
    /// R.
    pub fn rank(&self) -> usize {
        self.lambda.shape()[0]
    }

    /// The layer that computes with it. Errors: none, unless the factors' shapes were changed.
    pub fn interaction(&self) -> Result<Interaction<'_, T>> {
        Interaction::cp(self.a.view(), self.b.view(), self.c.view())?.with_lambda(self.lambda.view())
    }

    /// These factors as the start of another fit.
    pub fn init(&self) -> Init<'_, T> {
        let factors = [self.a.view(), self.b.view(), self.c.view()];
        Init::Given { factors, lambda: Some(self.lambda.view()) }
    }
}
