//! Attention: an interaction's outputs as a gate of x.

use crate::error::check;
use crate::{BlockGradients, Element, Gradients, Interaction, Result, Tensor, View, ViewMut, Wanted};

impl<T: Element> Interaction<'_, T> {
    /// y = m⊙x [N, J] with m = M(x, z): a gate of x that x and z decide together (Jayakumar et al., ICLR 2020, §5). The layer has as
    /// many outputs as x has features. m exists for a block of rows at a time, and is not rounded before the product.
    /// Errors: [`crate::Error::Shape`], [`crate::Error::Place`] and those of allocation.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Block, Interaction, View};
    ///
    /// let gate = [Block::identity(2)]; // m = z⊙x
    /// let layer = Interaction::blocks(&gate)?;
    /// let y = layer.attend(View::row(&[2.0f32, 3.0]), View::row(&[4.0, 5.0]))?;
    /// assert_eq!(y.as_slice(), [32.0, 75.0]); // z⊙x⊙x
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn attend(&self, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Tensor<T, 2>> {
        self.check_inputs(&z, &x)?;
        let mut y = Tensor::zeros(x.shape())?;
        self.attend_into(z, x, y.view_mut())?;
        Ok(y)
    }

    /// [`attend`](Self::attend) into `y` [N, J]. After the first call with a shape it allocates nothing. Errors: as `attend`.
    pub fn attend_into(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, y: ViewMut<'_, T, 2>) -> Result<()> {
        self.check_inputs(&z, &x)?;
        check("x", "features", self.k, x.shape()[1])?;
        check("y", "rows", x.shape()[0], y.shape()[0])?;
        check("y", "features", x.shape()[1], y.shape()[1])?;
        (T::calls().attend)(self, z, x, y)
    }

    /// All gradients of [`attend`](Self::attend), for that of its result, `g` [N, J]. Errors: as `attend`.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Block, Interaction, View};
    ///
    /// let gate = [Block::identity(1)]; // y = z x²
    /// let layer = Interaction::blocks(&gate)?;
    /// let gradients = layer.attend_backward(View::row(&[2.0f32]), View::row(&[4.0]), View::row(&[1.0]))?;
    /// assert_eq!(gradients.z.as_slice(), [16.0]); // x²
    /// assert_eq!(gradients.x.as_slice(), [16.0]); // 2 z x
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn attend_backward(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, g: View<'_, T, 2>) -> Result<Gradients<T>> {
        self.check_attend_backward(&z, &x, &g)?;
        let mut gradients = Gradients::zeros(self, z.shape(), x.shape())?;
        let mut blocks = gradients.of_blocks();
        let mut of_blocks: Vec<_> = blocks.iter_mut().map(BlockGradients::wanted).collect();
        self.attend_backward_into(z, x, g, Wanted { blocks: &mut of_blocks, ..gradients.wanted() })?;
        Ok(Gradients { blocks, ..gradients })
    }

    /// The gradients of [`attend`](Self::attend) that are `wanted`. The gradient in m, g⊙x [N, J], is rounded to the storage type; the
    /// processor allocates it for the call. Errors: as `attend`.
    pub fn attend_backward_into(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        g: View<'_, T, 2>,
        wanted: Wanted<'_, T>,
    ) -> Result<()> {
        self.check_attend_backward(&z, &x, &g)?;
        wanted.check(self, z.shape(), x.shape())?;
        (T::calls().attend_backward)(self, z, x, g, wanted)
    }

    fn check_attend_backward(&self, z: &View<'_, T, 2>, x: &View<'_, T, 2>, g: &View<'_, T, 2>) -> Result<()> {
        check("x", "features", self.k, x.shape()[1])?;
        self.check_backward(z, x, g)
    }
}
