//! Grouped weights: a layer for each relation or expert, chosen row by row.

use crate::error::check;
use crate::interaction::limit;
use crate::wanted::Gradient;
use crate::{
    BlockGradients, Element, Error, Gradients, Interaction, Result, Tensor, View, ViewMut, Wanted, WantedBlock,
};

/// Layers of the same sizes, one of which is chosen for each row: y\[n\] = M_e(x\[n\], z\[n\]) with e = index\[n\].
///
/// The relations of a knowledge graph (Nickel et al., *A Three-Way Model for Collective Learning on Multi-Relational Data*, ICML
/// 2011: RESCAL), or experts (Shazeer et al., *Outrageously Large Neural Networks*, ICLR 2017). The rows of a layer are gathered
/// and computed as one batch, in blocks of bounded size; rows that lie one behind the other already are not copied.
///
/// The layers may be of any form. The first one's context says where, and on how many threads.
///
/// # Example
///
/// ```
/// use trilinear::{Grouped, View};
///
/// // Two relations of two features: the dot product, and twice that.
/// let w = [1.0f32, 0.0, 0.0, 1.0, /* e = 1 */ 2.0, 0.0, 0.0, 2.0];
/// let layers = Grouped::layers(View::new(&w, [2, 1, 2, 2])?)?;
/// let relations = Grouped::new(&layers)?;
/// let (z, x) = ([1.0, 2.0, 1.0, 2.0, 3.0, 0.0], [10.0, 1.0, 10.0, 1.0, 5.0, 5.0]);
/// let y = relations.forward(&[1, 0, 1], View::new(&z, [3, 2])?, View::new(&x, [3, 2])?)?;
/// assert_eq!(y.as_slice(), [24.0, 12.0, 30.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Grouped<'a, T: Element> {
    pub(crate) layers: &'a [Interaction<'a, T>],
    pub(crate) first: &'a Interaction<'a, T>,
}

/// Gradients of [`Grouped`] that are wanted.
#[derive(Debug, Default)]
pub struct GroupedWanted<'w, 'a, T: Element> {
    /// dz [N, I].
    pub z: Option<Gradient<'w, T::Accumulator, 2>>,
    /// dx [N, J].
    pub x: Option<Gradient<'w, T::Accumulator, 2>>,
    /// Those of the weights of each layer, or of none. Their own dz and dx must be absent. A layer that no row chose has zeros
    /// (added: what was there).
    pub layers: &'w mut [Wanted<'a, T>],
}

/// All gradients of [`Grouped`].
#[derive(Clone, Debug, PartialEq)]
pub struct GroupedGradients<T: Element> {
    /// dz [N, I].
    pub z: Tensor<T::Accumulator, 2>,
    /// dx [N, J].
    pub x: Tensor<T::Accumulator, 2>,
    /// Those of the weights of each layer; their `z` and `x` have no rows.
    pub layers: Vec<Gradients<T>>,
}

impl<'a, T: Element> Grouped<'a, T> {
    /// Errors: [`Error::Shape`] if there is no layer, or they differ in their sizes.
    pub fn new(layers: &'a [Interaction<'a, T>]) -> Result<Self> {
        let Some(first) = layers.first() else {
            return Err(Error::Shape { operand: "layers", axis: "layers", expected: 1, actual: 0 });
        };
        for layer in layers {
            check("layers", "outputs", first.outputs(), layer.outputs())?;
            check("layers", "z features", first.z_features(), layer.z_features())?;
            check("layers", "x features", first.x_features(), layer.x_features())?;
        }
        Ok(Grouped { layers, first })
    }

    /// The dense layers of `w` [E, K, I, J], to be given terms of their own or to [`new`](Self::new).
    /// Errors: [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn layers(w: View<'a, T, 4>) -> Result<Vec<Interaction<'a, T>>> {
        let mut layers = Vec::new();
        let bytes = w.shape()[0].saturating_mul(size_of::<Interaction<'a, T>>());
        layers.try_reserve_exact(w.shape()[0]).map_err(|_| Error::OutOfMemory { bytes })?;
        for w in w.unstack() {
            layers.push(Interaction::dense(w)?);
        }
        Ok(layers)
    }

    /// y [N, K] of `z` [N, I] and `x` [N, J], row n by the layer `index[n]`. Errors: [`Error::Index`] for an index that no layer
    /// has, and those of [`Interaction::forward`].
    pub fn forward(&self, index: &[usize], z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Tensor<T, 2>> {
        self.check(index, &z, &x)?;
        let mut y = Tensor::zeros([index.len(), self.first.outputs()])?;
        self.forward_into(index, z, x, y.view_mut())?;
        Ok(y)
    }

    /// [`forward`](Self::forward) into `y` [N, K]. On the processor, after the first call with a shape and an index, it allocates
    /// nothing. On a CUDA device the order of the rows is sent to it first, and waited for, unless `index` ascends: only then can
    /// the call be captured in a graph. Errors: as [`forward`](Self::forward).
    pub fn forward_into(
        &self,
        index: &[usize],
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        y: ViewMut<'_, T, 2>,
    ) -> Result<()> {
        self.check(index, &z, &x)?;
        check("y", "rows", index.len(), y.shape()[0])?;
        check("y", "outputs", self.first.outputs(), y.shape()[1])?;
        (T::calls().forward_grouped)(self, index, z, x, y)
    }

    /// The gradients for the gradient `g` [N, K] of y: dz and dx row by row, and those of the weights of each layer.
    /// Errors: as [`forward`](Self::forward).
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Grouped, View};
    ///
    /// let w = [1.0f32, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 2.0];
    /// let layers = Grouped::layers(View::new(&w, [2, 1, 2, 2])?)?;
    /// let (z, x) = (View::row(&[1.0, 2.0]), View::row(&[10.0, 1.0]));
    /// let gradients = Grouped::new(&layers)?.backward(&[1], z, x, View::row(&[1.0]))?;
    /// assert_eq!(gradients.x.as_slice(), [2.0, 4.0]);
    /// let dw = |e: usize| gradients.layers[e].w.as_ref().unwrap().as_slice();
    /// assert_eq!((dw(0), dw(1)), (&[0.0; 4][..], &[10.0, 1.0, 20.0, 2.0][..]));
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn backward(
        &self,
        index: &[usize],
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        g: View<'_, T, 2>,
    ) -> Result<GroupedGradients<T>> {
        self.check_backward(index, &z, &x, &g)?;
        let (i, j) = (self.first.z_features(), self.first.x_features());
        let (mut dz, mut dx) = (Tensor::zeros(z.shape())?, Tensor::zeros(x.shape())?);
        let layers = self.layers.iter().map(|layer| Gradients::zeros(layer, [0, i], [0, j]));
        let mut layers = layers.collect::<Result<Vec<Gradients<T>>>>()?;
        let mut blocks: Vec<Vec<BlockGradients<T>>> = layers.iter_mut().map(Gradients::of_blocks).collect();
        let mut of_blocks: Vec<Vec<WantedBlock<'_, T>>> =
            blocks.iter_mut().map(|blocks| blocks.iter_mut().map(BlockGradients::wanted).collect()).collect();
        let wanted = layers.iter_mut().zip(&mut of_blocks);
        let wanted = wanted.map(|(gradients, blocks)| Wanted { z: None, x: None, blocks, ..gradients.wanted() });
        let mut wanted: Vec<Wanted<'_, T>> = wanted.collect();
        let wanted = GroupedWanted {
            z: Some(Gradient::write(dz.view_mut())),
            x: Some(Gradient::write(dx.view_mut())),
            layers: &mut wanted,
        };
        self.backward_into(index, z, x, g, wanted)?;
        for (gradients, blocks) in layers.iter_mut().zip(blocks) {
            gradients.blocks = blocks;
        }
        Ok(GroupedGradients { z: dz, x: dx, layers })
    }

    /// The gradients that are `wanted`, each written or added to the caller's memory. Errors: as [`backward`](Self::backward), and
    /// [`Error::Unsupported`] if a layer's own dz, dx or saved activations are among them.
    pub fn backward_into(
        &self,
        index: &[usize],
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        g: View<'_, T, 2>,
        wanted: GroupedWanted<'_, '_, T>,
    ) -> Result<()> {
        self.check_backward(index, &z, &x, &g)?;
        let shape = |name, to: &Option<Gradient<'_, T::Accumulator, 2>>, [rows, features]: [usize; 2]| {
            let Some(Gradient { to, .. }) = to else { return Ok(()) };
            check(name, "rows", rows, to.shape()[0])?;
            check(name, "features", features, to.shape()[1])
        };
        shape("dz", &wanted.z, z.shape())?;
        shape("dx", &wanted.x, x.shape())?;
        if !wanted.layers.is_empty() {
            check("wanted", "layers", self.layers.len(), wanted.layers.len())?;
        }
        for (layer, of_layer) in self.layers.iter().zip(wanted.layers.iter()) {
            if of_layer.z.is_some() || of_layer.x.is_some() || of_layer.tied.is_some() || of_layer.saved.is_some() {
                return Err(Error::Unsupported {
                    what: "inputs' gradients of one of several layers, and saved activations",
                });
            }
            of_layer.check(layer, [0, layer.z_features()], [0, layer.x_features()])?;
        }
        (T::calls().backward_grouped)(self, index, [z, x, g], wanted)
    }

    fn check(&self, index: &[usize], z: &View<'_, T, 2>, x: &View<'_, T, 2>) -> Result<()> {
        limit(index.len())?;
        check("z", "rows", index.len(), z.shape()[0])?;
        check("x", "rows", index.len(), x.shape()[0])?;
        check("z", "features", self.first.z_features(), z.shape()[1])?;
        check("x", "features", self.first.x_features(), x.shape()[1])?;
        let limit = self.layers.len();
        match index.iter().position(|&index| index >= limit) {
            Some(row) => Err(Error::Index { row, index: index[row], limit }),
            None => Ok(()),
        }
    }

    fn check_backward(
        &self,
        index: &[usize],
        z: &View<'_, T, 2>,
        x: &View<'_, T, 2>,
        g: &View<'_, T, 2>,
    ) -> Result<()> {
        self.check(index, z, x)?;
        check("g", "rows", index.len(), g.shape()[0])?;
        check("g", "outputs", self.first.outputs(), g.shape()[1])
    }
}
