//! The Jacobian-vector product: how y changes when operands do.

use crate::error::check;
use crate::place::Located;
use crate::wanted::Gradient;
use crate::{Element, Interaction, Result, Tensor, View};

/// Directions in which operands change: those that are present; the others stay as they are. Of weights, only those that
/// the layer has.
#[derive(Clone, Copy, Debug)]
pub struct Tangents<'a, T> {
    /// ż [N, I].
    pub z: Option<View<'a, T, 2>>,
    /// ẋ [N, J].
    pub x: Option<View<'a, T, 2>>,
    /// Ẇ [K, I, J] of a dense layer.
    pub w: Option<View<'a, T, 3>>,
    /// U̇ [K, I].
    pub u: Option<View<'a, T, 2>>,
    /// V̇ [K, J].
    pub v: Option<View<'a, T, 2>>,
    /// ḃ \[K\].
    pub b: Option<View<'a, T, 1>>,
    /// Ȧ [K, R] of a CP layer.
    pub cp_a: Option<View<'a, T, 2>>,
    /// Ḃ [I, R].
    pub cp_b: Option<View<'a, T, 2>>,
    /// Ċ [J, R].
    pub cp_c: Option<View<'a, T, 2>>,
    /// λ̇ \[R\].
    pub lambda: Option<View<'a, T, 1>>,
}

impl<T> Default for Tangents<'_, T> {
    fn default() -> Self {
        Tangents {
            z: None,
            x: None,
            w: None,
            u: None,
            v: None,
            b: None,
            cp_a: None,
            cp_b: None,
            cp_c: None,
            lambda: None,
        }
    }
}

impl<T> Tangents<'_, T> {
    pub(crate) fn located(&self) -> [Located; 10] {
        fn at<T, const D: usize>(name: &'static str, view: &Option<View<'_, T, D>>) -> Located {
            view.as_ref().map(|view| (name, view.place()))
        }
        [
            at("tangent of z", &self.z),
            at("tangent of x", &self.x),
            at("tangent of w", &self.w),
            at("tangent of u", &self.u),
            at("tangent of v", &self.v),
            at("tangent of b", &self.b),
            at("tangent of a", &self.cp_a),
            at("tangent of b of cp", &self.cp_b),
            at("tangent of c", &self.cp_c),
            at("tangent of lambda", &self.lambda),
        ]
    }
}

impl<T: Element> Interaction<'_, T> {
    /// ẏ [N, K], the derivative of y = M(x, z) in the direction of `tangents`, in the accumulator's type:
    ///
    /// ẏ = zᵀẆx + żᵀWx + zᵀWẋ + zᵀU̇ + żᵀU + V̇x + Vẋ + ḃ
    ///
    /// and the same of a CP layer's factors. With the gradients it makes the backward pass of the backward pass: of
    /// φ = ⟨g, y⟩ every second derivative is a gradient or a tangent of an interaction with one operand replaced.
    /// Errors: [`crate::Error::Shape`] and those of allocation.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, Tangents, View};
    ///
    /// let w = [1.0f32, 2.0, 3.0, 4.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let (z, x) = (View::row(&[1.0, 10.0]), View::row(&[1.0, 1.0]));
    /// let direction = Tangents { x: Some(View::row(&[0.0, 1.0])), ..Tangents::default() };
    /// assert_eq!(layer.tangent(z, x, &direction)?.as_slice(), [42.0]); // zᵀW, its second element
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn tangent(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        tangents: &Tangents<'_, T>,
    ) -> Result<Tensor<T::Accumulator, 2>> {
        self.check_tangents(&z, &x, tangents)?;
        let mut to = Tensor::zeros([x.shape()[0], self.k])?;
        self.tangent_into(z, x, tangents, Gradient::write(to.view_mut()))?;
        Ok(to)
    }

    /// [`tangent`](Self::tangent), written or added to the caller's memory. Errors: [`crate::Error::Shape`].
    pub fn tangent_into(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        tangents: &Tangents<'_, T>,
        to: Gradient<'_, T::Accumulator, 2>,
    ) -> Result<()> {
        self.check_tangents(&z, &x, tangents)?;
        check("tangent", "rows", x.shape()[0], to.to.shape()[0])?;
        check("tangent", "outputs", self.k, to.to.shape()[1])?;
        (T::calls().tangent)(self, z, x, tangents, to)
    }

    pub(crate) fn check_tangents(
        &self,
        z: &View<'_, T, 2>,
        x: &View<'_, T, 2>,
        tangents: &Tangents<'_, T>,
    ) -> Result<()> {
        fn shape<T, const D: usize>(
            name: &'static str,
            tangent: &Option<View<'_, T, D>>,
            axes: [&'static str; D],
            lengths: [usize; D],
        ) -> Result<()> {
            let Some(tangent) = tangent else { return Ok(()) };
            let lengths = lengths.into_iter().zip(tangent.shape());
            axes.into_iter().zip(lengths).try_for_each(|(axis, (expected, len))| check(name, axis, expected, len))
        }
        self.check_inputs(z, x)?;
        let (k, i, j, r) = (self.k, self.i, self.j, self.rank().unwrap_or(0));
        let dense = if self.is_dense() { [k, i, j] } else { [0; 3] };
        let has = |present: bool, lengths: [usize; 2]| if present { lengths } else { [0; 2] };
        shape("tangent of z", &tangents.z, ["rows", "features"], z.shape())?;
        shape("tangent of x", &tangents.x, ["rows", "features"], x.shape())?;
        shape("tangent of w", &tangents.w, ["outputs", "z features", "x features"], dense)?;
        shape("tangent of u", &tangents.u, ["outputs", "features"], has(self.u.is_some(), [k, i]))?;
        shape("tangent of v", &tangents.v, ["outputs", "features"], has(self.v.is_some(), [k, j]))?;
        shape("tangent of b", &tangents.b, ["outputs"], [if self.b.is_some() { k } else { 0 }])?;
        let cp = self.rank().is_some();
        shape("tangent of a", &tangents.cp_a, ["outputs", "rank"], has(cp, [k, r]))?;
        shape("tangent of b of cp", &tangents.cp_b, ["features", "rank"], has(cp, [i, r]))?;
        shape("tangent of c", &tangents.cp_c, ["features", "rank"], has(cp, [j, r]))?;
        shape("tangent of lambda", &tangents.lambda, ["rank"], [if self.has_lambda() { r } else { 0 }])
    }
}
