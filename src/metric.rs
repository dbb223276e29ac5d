//! Mahalanobis distances: an interaction of the difference of two vectors with itself.

use crate::error::check;
use crate::interaction::limit;
use crate::place::{self, Located};
use crate::wanted::Gradient;
use crate::{Context, Element, Result, Tensor, View, ViewMut, cpu};

/// The inverse of a covariance C, as which the metric is given.
#[derive(Clone, Copy, Debug)]
pub enum Precision<'a, T> {
    /// C⁻¹ [I, I]; need not be symmetric.
    Full(View<'a, T, 2>),
    /// L [I, R], where C⁻¹ = LLᵀ.
    Factor(View<'a, T, 2>),
    /// The diagonal \[I\] of a C⁻¹ that has no other elements.
    Diagonal(View<'a, T, 1>),
}

/// Squared Mahalanobis distances (z − x)ᵀ C⁻¹ (z − x) of rows of z and x (P. C. Mahalanobis, *On the generalised distance in
/// statistics*, 1936), and their gradients. C⁻¹ is given in full, as LLᵀ, or by its diagonal.
///
/// The differences exist for a block of rows at a time, in the accumulator's type. It is an
/// [`Interaction::matrix`](crate::Interaction::matrix) of z − x with itself. Operands are of the host, and the processor computes.
///
/// Each result keeps the bound of [`crate::reference::distances`].
///
/// # Example
///
/// ```
/// use trilinear::{Mahalanobis, Precision, View};
///
/// let p = [2.0f32, 1.0, 1.0, 3.0];
/// let metric = Mahalanobis::new(Precision::Full(View::new(&p, [2, 2])?))?;
/// let (z, x) = (View::row(&[3.0, 1.0]), View::row(&[1.0, 2.0])); // z − x = (2, −1)
/// assert_eq!(metric.squared(z, x)?.as_slice(), [7.0]); // 2·4 − 2·2 + 3
/// let gradients = metric.backward(z, x, View::vector(&[1.0]))?;
/// assert_eq!(gradients.z.as_slice(), [6.0, -2.0]); // 2 C⁻¹ (z − x)
/// assert_eq!(gradients.x.as_slice(), [-6.0, 2.0]);
/// assert_eq!(gradients.matrix.unwrap().as_slice(), [4.0, -2.0, -2.0, 1.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Mahalanobis<'a, T: Element> {
    precision: Precision<'a, T>,
    features: usize,
    context: Option<Context>,
}

/// Gradients of squared distances that are wanted.
#[derive(Debug, Default)]
pub struct WantedMetric<'a, T: Element> {
    /// dz [N, I].
    pub z: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dx [N, I].
    pub x: Option<Gradient<'a, T::Accumulator, 2>>,
    /// That of C⁻¹ [I, I], or of L [I, R].
    pub matrix: Option<Gradient<'a, T::Accumulator, 2>>,
    /// That of the diagonal \[I\].
    pub diagonal: Option<Gradient<'a, T::Accumulator, 1>>,
}

/// All gradients of squared distances.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricGradients<T: Element> {
    /// dz [N, I].
    pub z: Tensor<T::Accumulator, 2>,
    /// dx [N, I].
    pub x: Tensor<T::Accumulator, 2>,
    /// That of C⁻¹ [I, I], or of L [I, R].
    pub matrix: Option<Tensor<T::Accumulator, 2>>,
    /// That of the diagonal \[I\].
    pub diagonal: Option<Tensor<T::Accumulator, 1>>,
}

impl<'a, T: Element> Mahalanobis<'a, T> {
    /// Under this metric. Errors: [`crate::Error::Shape`] if C⁻¹ is not square, [`crate::Error::Place`] if it is in a device's memory.
    pub fn new(precision: Precision<'a, T>) -> Result<Self> {
        let (features, place) = match precision {
            Precision::Full(matrix) => {
                check("precision", "features", matrix.shape()[0], matrix.shape()[1])?;
                (matrix.shape()[0], matrix.place())
            }
            Precision::Factor(factor) => {
                limit(factor.shape()[1])?;
                (factor.shape()[0], factor.place())
            }
            Precision::Diagonal(diagonal) => (diagonal.shape()[0], diagonal.place()),
        };
        limit(features)?;
        place::host([Some(("precision", place))])?;
        Ok(Mahalanobis { precision, features, context: None })
    }

    /// The same, computed as `context` says: its SIMD level and threads.
    pub fn with_context(self, context: Context) -> Self {
        Mahalanobis { context: Some(context), ..self }
    }

    /// The metric.
    pub fn precision(&self) -> Precision<'a, T> {
        self.precision
    }

    /// I.
    pub fn features(&self) -> usize {
        self.features
    }

    fn context(&self) -> Result<Context> {
        self.context.map_or_else(Context::from_env, Ok)
    }

    pub(crate) fn check(&self, z: &View<'_, T, 2>, x: &View<'_, T, 2>) -> Result<()> {
        check("z", "features", self.features, z.shape()[1])?;
        check("x", "features", self.features, x.shape()[1])?;
        check("z", "rows", x.shape()[0], z.shape()[0])?;
        limit(x.shape()[0])?;
        place::host([Some(("z", z.place())), Some(("x", x.place()))])
    }

    /// Squared distances \[N\] of rows of `z` and `x` [N, I]. Errors: [`crate::Error::Shape`], [`crate::Error::Place`] and those of allocation.
    pub fn squared(&self, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Tensor<T, 1>> {
        self.check(&z, &x)?;
        let mut y = Tensor::zeros([x.shape()[0]])?;
        self.squared_into(z, x, y.view_mut())?;
        Ok(y)
    }

    /// [`squared`](Self::squared) into `y` \[N\]. After the first call with a shape it allocates nothing.
    /// Errors: as [`squared`](Self::squared).
    pub fn squared_into(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, mut y: ViewMut<'_, T, 1>) -> Result<()> {
        self.check(&z, &x)?;
        check("y", "rows", x.shape()[0], y.shape()[0])?;
        place::host([Some(("y", y.place()))])?;
        let context = self.context()?;
        if x.shape()[0] == 0 {
            return Ok(());
        }
        if self.is_empty() {
            cpu::fill_zero(&mut y);
            return Ok(());
        }
        cpu::Distances { context, precision: self.precision, z, x }.squared(y)
    }

    /// Whether nothing is added up.
    fn is_empty(&self) -> bool {
        self.features == 0 || matches!(self.precision, Precision::Factor(factor) if factor.shape()[1] == 0)
    }

    /// All gradients of a loss whose gradient in the squared distances is `g` \[N\]. Errors: as [`squared`](Self::squared).
    pub fn backward(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, g: View<'_, T, 1>) -> Result<MetricGradients<T>> {
        self.check(&z, &x)?;
        let (matrix, diagonal) = match self.precision {
            Precision::Full(matrix) | Precision::Factor(matrix) => (Some(Tensor::zeros(matrix.shape())?), None),
            Precision::Diagonal(diagonal) => (None, Some(Tensor::zeros(diagonal.shape())?)),
        };
        let (of_z, of_x) = (Tensor::zeros(z.shape())?, Tensor::zeros(x.shape())?);
        let mut gradients = MetricGradients { z: of_z, x: of_x, matrix, diagonal };
        let wanted = WantedMetric {
            z: Some(Gradient::write(gradients.z.view_mut())),
            x: Some(Gradient::write(gradients.x.view_mut())),
            matrix: gradients.matrix.as_mut().map(|to| Gradient::write(to.view_mut())),
            diagonal: gradients.diagonal.as_mut().map(|to| Gradient::write(to.view_mut())),
        };
        self.backward_into(z, x, g, wanted)?;
        Ok(gradients)
    }

    /// The gradients that are `wanted`, each written or added. Errors: as [`squared`](Self::squared).
    pub fn backward_into(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        g: View<'_, T, 1>,
        mut wanted: WantedMetric<'_, T>,
    ) -> Result<()> {
        self.check(&z, &x)?;
        check("g", "rows", x.shape()[0], g.shape()[0])?;
        let at = |name, gradient: &Option<Gradient<'_, T::Accumulator, 2>>| -> Located {
            gradient.as_ref().map(|gradient| (name, gradient.to.place()))
        };
        let of_diagonal = wanted.diagonal.as_ref().map(|gradient| ("dprecision", gradient.to.place()));
        let of_matrix = at("dprecision", &wanted.matrix);
        place::host([at("dz", &wanted.z), at("dx", &wanted.x), of_matrix, of_diagonal, Some(("g", g.place()))])?;
        let (matrix, diagonal) = match self.precision {
            Precision::Full(matrix) | Precision::Factor(matrix) => (matrix.shape(), 0),
            Precision::Diagonal(diagonal) => ([0; 2], diagonal.shape()[0]),
        };
        for (name, to, shape) in
            [("dz", &wanted.z, z.shape()), ("dx", &wanted.x, x.shape()), ("dprecision", &wanted.matrix, matrix)]
        {
            if let Some(Gradient { to, .. }) = to {
                check(name, "rows", shape[0], to.shape()[0])?;
                check(name, "features", shape[1], to.shape()[1])?;
            }
        }
        if let Some(Gradient { to, .. }) = &wanted.diagonal {
            check("dprecision", "features", diagonal, to.shape()[0])?;
        }
        let context = self.context()?;
        if x.shape()[0] == 0 || self.is_empty() {
            for mut gradient in [wanted.z.take(), wanted.x.take(), wanted.matrix.take()].into_iter().flatten() {
                if !gradient.add {
                    cpu::fill_zero(&mut gradient.to);
                }
            }
            if let Some(mut gradient) = wanted.diagonal.take().filter(|gradient| !gradient.add) {
                cpu::fill_zero(&mut gradient.to);
            }
            return Ok(());
        }
        cpu::Distances { context, precision: self.precision, z, x }.backward(g, wanted)
    }
}
