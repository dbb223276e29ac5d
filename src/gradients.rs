//! Gradients: which are wanted, where they go, and the owned results.

use crate::error::check;
use crate::interaction::limit;
use crate::{Element, Interaction, Result, Tensor, View, ViewMut, cpu};

/// Where one gradient goes, and whether it replaces what is there or is added to it.
#[derive(Debug)]
pub struct Gradient<'a, A, const D: usize> {
    pub(crate) to: ViewMut<'a, A, D>,
    pub(crate) add: bool,
}

impl<'a, A, const D: usize> Gradient<'a, A, D> {
    /// Written: what was there is never read, so that NaN does no harm (β = 0).
    pub fn write(to: ViewMut<'a, A, D>) -> Self {
        Gradient { to, add: false }
    }

    /// Added to what is there (β = 1).
    pub fn add(to: ViewMut<'a, A, D>) -> Self {
        Gradient { to, add: true }
    }
}

/// The gradients that [`Interaction::backward_into`] computes: those that are present. All are in the accumulator's type,
/// f32 for f16 and bf16.
#[derive(Debug, Default)]
pub struct Wanted<'a, T: Element> {
    /// dz [N, I].
    pub z: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dx [N, J].
    pub x: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dW [K, I, J].
    pub w: Option<Gradient<'a, T::Accumulator, 3>>,
    /// dU [K, I].
    pub u: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dV [K, J].
    pub v: Option<Gradient<'a, T::Accumulator, 2>>,
    /// db \[K\].
    pub b: Option<Gradient<'a, T::Accumulator, 1>>,
}

/// All gradients of a layer: of both inputs, and of the weights that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<T: Element> {
    /// dz [N, I].
    pub z: Tensor<T::Accumulator, 2>,
    /// dx [N, J].
    pub x: Tensor<T::Accumulator, 2>,
    /// dW [K, I, J].
    pub w: Option<Tensor<T::Accumulator, 3>>,
    /// dU [K, I].
    pub u: Option<Tensor<T::Accumulator, 2>>,
    /// dV [K, J].
    pub v: Option<Tensor<T::Accumulator, 2>>,
    /// db \[K\].
    pub b: Option<Tensor<T::Accumulator, 1>>,
}

impl<T: Element> Interaction<'_, T> {
    /// All gradients of a loss whose gradient in y is `g` [N, K]: dz, dx, and those of the weights that the layer has.
    /// Errors: [`crate::Error::Shape`], those of allocation, and [`crate::Error::Unsupported`] for CP weights.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, View};
    ///
    /// let w = [1.0f32, 2.0, 3.0, 4.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let gradients = layer.backward(View::row(&[1.0, 10.0]), View::row(&[1.0, 1.0]), View::row(&[1.0]))?;
    /// assert_eq!(gradients.z.as_slice(), [3.0, 7.0]); // Wx
    /// assert_eq!(gradients.x.as_slice(), [31.0, 42.0]); // zᵀW
    /// assert_eq!(gradients.w.unwrap().as_slice(), [1.0, 1.0, 10.0, 10.0]); // z⊗x
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn backward(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, g: View<'_, T, 2>) -> Result<Gradients<T>> {
        let (n, [k, i, j]) = (g.shape()[0], [self.k, self.i, self.j]);
        self.check_backward(&z, &x, &g)?;
        let mut gradients = Gradients {
            z: Tensor::zeros([n, i])?,
            x: Tensor::zeros([n, j])?,
            w: if self.is_dense() { Some(Tensor::zeros([k, i, j])?) } else { None },
            u: self.u.map(|_| Tensor::zeros([k, i])).transpose()?,
            v: self.v.map(|_| Tensor::zeros([k, j])).transpose()?,
            b: self.b.map(|_| Tensor::zeros([k])).transpose()?,
        };
        let wanted = Wanted {
            z: Some(Gradient::write(gradients.z.view_mut())),
            x: Some(Gradient::write(gradients.x.view_mut())),
            w: gradients.w.as_mut().map(|to| Gradient::write(to.view_mut())),
            u: gradients.u.as_mut().map(|to| Gradient::write(to.view_mut())),
            v: gradients.v.as_mut().map(|to| Gradient::write(to.view_mut())),
            b: gradients.b.as_mut().map(|to| Gradient::write(to.view_mut())),
        };
        self.backward_into(z, x, g, wanted)?;
        Ok(gradients)
    }

    /// The gradients that are `wanted`, each written or added to the caller's memory. A gradient of weights that the layer
    /// does not have can be asked for too. After the first call with a shape it allocates nothing.
    /// Errors: as [`backward`](Self::backward).
    pub fn backward_into(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        g: View<'_, T, 2>,
        wanted: Wanted<'_, T>,
    ) -> Result<()> {
        self.check_backward(&z, &x, &g)?;
        let (n, [k, i, j]) = (g.shape()[0], [self.k, self.i, self.j]);
        fn shape<A, const D: usize>(
            name: &'static str,
            gradient: Option<&Gradient<'_, A, D>>,
            axes: [(&'static str, usize); D],
        ) -> Result<()> {
            let Some(Gradient { to, .. }) = gradient else { return Ok(()) };
            axes.into_iter().zip(to.shape()).try_for_each(|((axis, expected), len)| check(name, axis, expected, len))
        }
        shape("dz", wanted.z.as_ref(), [("rows", n), ("features", i)])?;
        shape("dx", wanted.x.as_ref(), [("rows", n), ("features", j)])?;
        shape("dw", wanted.w.as_ref(), [("outputs", k), ("z features", i), ("x features", j)])?;
        shape("du", wanted.u.as_ref(), [("outputs", k), ("features", i)])?;
        shape("dv", wanted.v.as_ref(), [("outputs", k), ("features", j)])?;
        shape("db", wanted.b.as_ref(), [("outputs", k)])?;
        cpu::backward(self, z, x, g, wanted)
    }

    pub(crate) fn check_backward(&self, z: &View<'_, T, 2>, x: &View<'_, T, 2>, g: &View<'_, T, 2>) -> Result<()> {
        check("z", "features", self.i, z.shape()[1])?;
        check("x", "features", self.j, x.shape()[1])?;
        check("z", "rows", x.shape()[0], z.shape()[0])?;
        limit(x.shape()[0])?;
        check("g", "rows", x.shape()[0], g.shape()[0])?;
        check("g", "outputs", self.k, g.shape()[1])
    }
}
