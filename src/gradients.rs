//! The gradients of a batch, of shared contexts and of generated layers, and the owned results.

use crate::error::check;
use crate::interaction::limit;
use crate::wanted::{Gradient, Wanted, WantedBlock, WantedFactors};
use crate::{Block, Element, Interaction, Result, Tensor, View};

/// All gradients of a layer: of both inputs, and of the weights that it has. `D` is the number of axes of x, `Z` that of z.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<T: Element, const D: usize = 2, const Z: usize = 2> {
    /// dz [N, I], [G, I] or [P, S, I].
    pub z: Tensor<T::Accumulator, Z>,
    /// dx [N, J], [G, M, J] or [P, T, J]; [G, 0] of [`Interaction::backward_generate`], which has no x.
    pub x: Tensor<T::Accumulator, D>,
    /// dW [K, I, J].
    pub w: Option<Tensor<T::Accumulator, 3>>,
    /// dU [K, I].
    pub u: Option<Tensor<T::Accumulator, 2>>,
    /// dV [K, J].
    pub v: Option<Tensor<T::Accumulator, 2>>,
    /// db \[K\].
    pub b: Option<Tensor<T::Accumulator, 1>>,
    /// Those of CP factors.
    pub cp: Option<FactorGradients<T>>,
    /// Those of blocks, in their order.
    pub blocks: Vec<BlockGradients<T>>,
}

/// Gradients of the operands that a [`crate::Block`] has.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockGradients<T: Element> {
    /// dG [Ra, Rb, Rc] of a dense core.
    pub core: Option<Tensor<T::Accumulator, 3>>,
    /// dd \[R\] of a diagonal core with weights.
    pub diagonal: Option<Tensor<T::Accumulator, 1>>,
    /// dA [K, Ra], or [K, 1].
    pub a: Option<Tensor<T::Accumulator, 2>>,
    /// dB [I, Rb], or [I, 1].
    pub b: Option<Tensor<T::Accumulator, 2>>,
    /// dC [J, Rc], or [J, 1].
    pub c: Option<Tensor<T::Accumulator, 2>>,
}

impl<T: Element> BlockGradients<T> {
    fn zeros(block: &Block<'_, T>) -> Result<Self> {
        let [a, b, c] = block.factors.map(|factor| factor.map(|factor| Tensor::zeros(factor.shape())).transpose());
        let core = if block.is_diagonal() { None } else { Some(Tensor::zeros(block.ranks())?) };
        let diagonal = block.weights().map(|weights| Tensor::zeros(weights.shape())).transpose()?;
        Ok(BlockGradients { core, diagonal, a: a?, b: b?, c: c? })
    }

    pub(crate) fn wanted(&mut self) -> WantedBlock<'_, T> {
        WantedBlock {
            core: self.core.as_mut().map(|to| Gradient::write(to.view_mut())),
            diagonal: self.diagonal.as_mut().map(|to| Gradient::write(to.view_mut())),
            a: self.a.as_mut().map(|to| Gradient::write(to.view_mut())),
            b: self.b.as_mut().map(|to| Gradient::write(to.view_mut())),
            c: self.c.as_mut().map(|to| Gradient::write(to.view_mut())),
        }
    }
}

/// Gradients of CP factors.
#[derive(Clone, Debug, PartialEq)]
pub struct FactorGradients<T: Element> {
    /// dA [K, R].
    pub a: Tensor<T::Accumulator, 2>,
    /// dB [I, R].
    pub b: Tensor<T::Accumulator, 2>,
    /// dC [J, R].
    pub c: Tensor<T::Accumulator, 2>,
    /// dλ \[R\], if the layer has λ.
    pub lambda: Option<Tensor<T::Accumulator, 1>>,
}

impl<T: Element, const D: usize, const Z: usize> Gradients<T, D, Z> {
    /// Zeros, for the gradients of `layer` and inputs of these shapes.
    pub(crate) fn zeros(layer: &Interaction<'_, T>, z: [usize; Z], x: [usize; D]) -> Result<Self> {
        let [k, i, j] = [layer.k, layer.i, layer.j];
        let factors = |r: usize| {
            Ok(FactorGradients {
                a: Tensor::zeros([k, r])?,
                b: Tensor::zeros([i, r])?,
                c: Tensor::zeros([j, r])?,
                lambda: if layer.has_lambda() { Some(Tensor::zeros([r])?) } else { None },
            })
        };
        Ok(Gradients {
            z: Tensor::zeros(z)?,
            x: Tensor::zeros(x)?,
            w: if layer.is_dense() { Some(Tensor::zeros([k, i, j])?) } else { None },
            u: layer.u.map(|_| Tensor::zeros([k, i])).transpose()?,
            v: layer.v.map(|_| Tensor::zeros([k, j])).transpose()?,
            b: layer.b.map(|_| Tensor::zeros([k])).transpose()?,
            cp: layer.rank().map(factors).transpose()?,
            blocks: layer.terms().iter().map(BlockGradients::zeros).collect::<Result<_>>()?,
        })
    }

    /// Those of the blocks, to be written.
    pub(crate) fn of_blocks(&mut self) -> Vec<BlockGradients<T>> {
        std::mem::take(&mut self.blocks)
    }

    /// All of the others, to be written.
    pub(crate) fn wanted(&mut self) -> Wanted<'_, T, D, Z> {
        let cp = self.cp.as_mut().map_or_else(WantedFactors::default, |cp| WantedFactors {
            a: Some(Gradient::write(cp.a.view_mut())),
            b: Some(Gradient::write(cp.b.view_mut())),
            c: Some(Gradient::write(cp.c.view_mut())),
            lambda: cp.lambda.as_mut().map(|to| Gradient::write(to.view_mut())),
        });
        Wanted {
            z: Some(Gradient::write(self.z.view_mut())),
            x: Some(Gradient::write(self.x.view_mut())),
            tied: None,
            w: self.w.as_mut().map(|to| Gradient::write(to.view_mut())),
            u: self.u.as_mut().map(|to| Gradient::write(to.view_mut())),
            v: self.v.as_mut().map(|to| Gradient::write(to.view_mut())),
            b: self.b.as_mut().map(|to| Gradient::write(to.view_mut())),
            cp,
            blocks: &mut [],
            saved: None,
        }
    }
}

impl<T: Element> Interaction<'_, T> {
    /// All gradients of a loss whose gradient in y is `g` [N, K]: dz, dx, and those of the weights that the layer has.
    /// Errors: [`crate::Error::Shape`] and those of allocation.
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
        self.check_backward(&z, &x, &g)?;
        let mut gradients = Gradients::zeros(self, z.shape(), x.shape())?;
        let mut blocks = gradients.of_blocks();
        let mut of_blocks: Vec<_> = blocks.iter_mut().map(BlockGradients::wanted).collect();
        self.backward_into(z, x, g, Wanted { blocks: &mut of_blocks, ..gradients.wanted() })?;
        Ok(Gradients { blocks, ..gradients })
    }

    /// The gradients that are `wanted`, each written or added to the caller's memory. A gradient of weights that the layer
    /// does not have can be asked for too (of CP factors, if it has a rank). After the first call with a shape it allocates
    /// nothing. Errors: as [`backward`](Self::backward).
    pub fn backward_into(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        g: View<'_, T, 2>,
        wanted: Wanted<'_, T>,
    ) -> Result<()> {
        self.check_backward(&z, &x, &g)?;
        wanted.check(self, z.shape(), x.shape())?;
        (T::calls().backward)(self, z, x, g, wanted)
    }

    /// The gradients of [`forward_shared`](Self::forward_shared) for the gradient `g` [G, M, K] of its result: dz is summed
    /// over the rows that shared it. Errors: as [`backward`](Self::backward).
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, View};
    ///
    /// let w = [1.0f32, 2.0, 3.0, 4.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let (x, g) = ([1.0, 0.0, 0.0, 1.0], [1.0, 1.0]); // two rows of x for one z
    /// let gradients = layer.backward_shared(View::row(&[1.0, 10.0]), View::new(&x, [1, 2, 2])?, View::new(&g, [1, 2, 1])?)?;
    /// assert_eq!(gradients.z.as_slice(), [3.0, 7.0]); // W (1, 0) + W (0, 1)
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn backward_shared(&self, z: View<'_, T, 2>, x: View<'_, T, 3>, g: View<'_, T, 3>) -> Result<Gradients<T, 3>> {
        self.check_backward_shared(&z, &x, &g)?;
        let mut gradients = Gradients::zeros(self, z.shape(), x.shape())?;
        let mut blocks = gradients.of_blocks();
        let mut of_blocks: Vec<_> = blocks.iter_mut().map(BlockGradients::wanted).collect();
        self.backward_shared_into(z, x, g, Wanted { blocks: &mut of_blocks, ..gradients.wanted() })?;
        Ok(Gradients { blocks, ..gradients })
    }

    /// The gradients of [`forward_shared`](Self::forward_shared) that are `wanted`. Errors: as [`backward`](Self::backward), and
    /// [`crate::Error::Unsupported`] for tied inputs.
    pub fn backward_shared_into(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 3>,
        g: View<'_, T, 3>,
        wanted: Wanted<'_, T, 3>,
    ) -> Result<()> {
        self.check_backward_shared(&z, &x, &g)?;
        wanted.check(self, z.shape(), x.shape())?;
        (T::calls().backward_shared)(self, z, x, g, wanted)
    }

    /// The gradients of [`generate`](Self::generate), for those of its results: `weights` [G, K, J] of W′ and `bias` [G, K] of
    /// b′. Errors: as [`backward`](Self::backward).
    pub fn backward_generate(
        &self,
        z: View<'_, T, 2>,
        weights: View<'_, T, 3>,
        bias: View<'_, T, 2>,
    ) -> Result<Gradients<T>> {
        self.check_backward_generate(&z, &weights, &bias)?;
        let mut gradients = Gradients::zeros(self, z.shape(), [z.shape()[0], 0])?;
        let mut blocks = gradients.of_blocks();
        let mut of_blocks: Vec<_> = blocks.iter_mut().map(BlockGradients::wanted).collect();
        let wanted = Wanted { x: None, blocks: &mut of_blocks, ..gradients.wanted() };
        self.backward_generate_into(z, weights, bias, wanted)?;
        Ok(Gradients { blocks, ..gradients })
    }

    /// The gradients of [`generate`](Self::generate) that are `wanted`. Errors: as [`backward`](Self::backward), and
    /// [`crate::Error::Unsupported`] if the gradient in x is among them, which it does not have.
    pub fn backward_generate_into(
        &self,
        z: View<'_, T, 2>,
        weights: View<'_, T, 3>,
        bias: View<'_, T, 2>,
        wanted: Wanted<'_, T>,
    ) -> Result<()> {
        self.check_backward_generate(&z, &weights, &bias)?;
        if wanted.x.is_some() || wanted.tied.is_some() {
            return Err(crate::Error::Unsupported { what: "the gradient in x of generated weights" });
        }
        wanted.check(self, z.shape(), [z.shape()[0], 0])?;
        (T::calls().backward_generate)(self, z, weights, bias, wanted)
    }

    pub(crate) fn check_backward(&self, z: &View<'_, T, 2>, x: &View<'_, T, 2>, g: &View<'_, T, 2>) -> Result<()> {
        check("z", "features", self.i, z.shape()[1])?;
        check("x", "features", self.j, x.shape()[1])?;
        check("z", "rows", x.shape()[0], z.shape()[0])?;
        limit(x.shape()[0])?;
        check("g", "rows", x.shape()[0], g.shape()[0])?;
        check("g", "outputs", self.k, g.shape()[1])
    }

    pub(crate) fn check_backward_shared(
        &self,
        z: &View<'_, T, 2>,
        x: &View<'_, T, 3>,
        g: &View<'_, T, 3>,
    ) -> Result<()> {
        let [groups, rows, features] = x.shape();
        check("z", "features", self.i, z.shape()[1])?;
        check("x", "features", self.j, features)?;
        check("z", "groups", groups, z.shape()[0])?;
        limit(groups)?;
        limit(rows)?;
        check("g", "groups", groups, g.shape()[0])?;
        check("g", "rows", rows, g.shape()[1])?;
        check("g", "outputs", self.k, g.shape()[2])
    }

    pub(crate) fn check_backward_generate(
        &self,
        z: &View<'_, T, 2>,
        weights: &View<'_, T, 3>,
        bias: &View<'_, T, 2>,
    ) -> Result<()> {
        let groups = z.shape()[0];
        check("z", "features", self.i, z.shape()[1])?;
        limit(groups)?;
        check("weights", "groups", groups, weights.shape()[0])?;
        check("weights", "outputs", self.k, weights.shape()[1])?;
        check("weights", "features", self.j, weights.shape()[2])?;
        check("bias", "groups", groups, bias.shape()[0])?;
        check("bias", "outputs", self.k, bias.shape()[1])
    }
}
