//! Gradients: which are wanted, where they go, and the owned results.

use crate::error::check;
use crate::interaction::limit;
use crate::place::Located;
use crate::{Block, Element, Interaction, Result, Saved, Tensor, View, ViewMut};

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

impl<A: Element> Gradient<'_, A, 2> {
    /// Some of the rows, which the caller knows to be there.
    pub(crate) fn rows(&mut self, rows: std::ops::Range<usize>) -> Gradient<'_, A, 2> {
        Gradient { to: self.to.reborrow().slice_rows((rows.start, rows.len())), add: self.add }
    }
}

impl<A, const D: usize> Gradient<'_, A, D> {
    /// The same; `add`: added to what is there in any case.
    fn reborrow(&mut self, add: bool) -> Gradient<'_, A, D> {
        Gradient { to: self.to.reborrow(), add: add || self.add }
    }
}

/// The gradients that a backward pass computes: those that are present. All are in the accumulator's type, f32 for f16 and
/// bf16. `D` is the number of axes of x: 2, or 3 for a shared context and for all pairs; `Z` that of z: 2, or 3 for all pairs.
#[derive(Debug)]
pub struct Wanted<'a, T: Element, const D: usize = 2, const Z: usize = 2> {
    /// dz [N, I]; of a shared context [G, I], summed over the rows that shared it; of all pairs [P, S, I].
    pub z: Option<Gradient<'a, T::Accumulator, Z>>,
    /// dx [N, J], [G, M, J] or [P, T, J].
    pub x: Option<Gradient<'a, T::Accumulator, D>>,
    /// dz + dx [N, I], where z and x are the same tensor (I = J).
    pub tied: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dW [K, I, J].
    pub w: Option<Gradient<'a, T::Accumulator, 3>>,
    /// dU [K, I].
    pub u: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dV [K, J].
    pub v: Option<Gradient<'a, T::Accumulator, 2>>,
    /// db \[K\].
    pub b: Option<Gradient<'a, T::Accumulator, 1>>,
    /// Those of CP factors.
    pub cp: WantedFactors<'a, T>,
    /// Those of a sum of blocks: of each block, in their order, or of none of them. A call leaves nothing in the slice that another
    /// could be made with.
    pub blocks: &'a mut [WantedBlock<'a, T>],
    /// What [`Interaction::forward_saving`] kept of the same z and x, so that it is not computed again.
    pub saved: Option<&'a Saved<T>>,
}

impl<T: Element, const D: usize, const Z: usize> Default for Wanted<'_, T, D, Z> {
    fn default() -> Self {
        let cp = WantedFactors::default();
        Wanted { z: None, x: None, tied: None, w: None, u: None, v: None, b: None, cp, blocks: &mut [], saved: None }
    }
}

/// Gradients of CP factors that are wanted.
#[derive(Debug)]
pub struct WantedFactors<'a, T: Element> {
    /// dA [K, R].
    pub a: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dB [I, R].
    pub b: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dC [J, R].
    pub c: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dλ \[R\]; of a layer without λ, at λ = 1.
    pub lambda: Option<Gradient<'a, T::Accumulator, 1>>,
}

impl<T: Element> Default for WantedFactors<'_, T> {
    fn default() -> Self {
        WantedFactors { a: None, b: None, c: None, lambda: None }
    }
}

/// Gradients of a [`crate::Block`]'s operands that are wanted: of those that it has, and of the weights of a diagonal core.
#[derive(Debug)]
pub struct WantedBlock<'a, T: Element> {
    /// dG [Ra, Rb, Rc] of a dense core.
    pub core: Option<Gradient<'a, T::Accumulator, 3>>,
    /// dd \[R\] of a diagonal core; of one without weights, at d = 1.
    pub diagonal: Option<Gradient<'a, T::Accumulator, 1>>,
    /// dA [K, Ra], or [K, 1].
    pub a: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dB [I, Rb], or [I, 1].
    pub b: Option<Gradient<'a, T::Accumulator, 2>>,
    /// dC [J, Rc], or [J, 1].
    pub c: Option<Gradient<'a, T::Accumulator, 2>>,
}

impl<T: Element> Default for WantedBlock<'_, T> {
    fn default() -> Self {
        WantedBlock { core: None, diagonal: None, a: None, b: None, c: None }
    }
}

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

impl<T: Element> WantedBlock<'_, T> {
    /// Zeros to what is to be written, of operands that nothing is added up of. Errors: those of `fill`.
    fn clear(&mut self, fill: &impl Fill) -> Result<()> {
        fn clear<A: Element, const D: usize>(fill: &impl Fill, gradient: Option<Gradient<'_, A, D>>) -> Result<()> {
            match gradient {
                Some(Gradient { to, add: false }) => fill.zeros(to),
                _ => Ok(()),
            }
        }
        clear(fill, self.core.take())?;
        clear(fill, self.diagonal.take())?;
        [self.a.take(), self.b.take(), self.c.take()].into_iter().try_for_each(|to| clear(fill, to))
    }

    /// Zeros to what is to be written.
    fn zero(&mut self) {
        let WantedBlock { core, diagonal, a, b, c } = self;
        zero(core);
        zero(diagonal);
        [a, b, c].into_iter().for_each(zero);
    }

    /// What comes later is added to what is there by then.
    pub(crate) fn later(&mut self) {
        fn later<A, const D: usize>(gradient: &mut Option<Gradient<'_, A, D>>) {
            gradient.iter_mut().for_each(|gradient| gradient.add = true);
        }
        let WantedBlock { core, diagonal, a, b, c } = self;
        later(core);
        later(diagonal);
        [a, b, c].into_iter().for_each(later);
    }

    pub(crate) fn located(&self) -> [Located; 5] {
        [
            at("dcore", &self.core),
            at("ddiagonal", &self.diagonal),
            at("da", &self.a),
            at("db of block", &self.b),
            at("dc", &self.c),
        ]
    }

    /// That every destination has the shape of an operand of the block.
    fn check(&self, block: &Block<'_, T>) -> Result<()> {
        let ranks @ [r, ..] = block.ranks();
        let (dense, diagonal) = if block.is_diagonal() { ([0; 3], [r]) } else { (ranks, [0]) };
        shape("dcore", &self.core, ["outputs", "z features", "x features"], dense)?;
        shape("ddiagonal", &self.diagonal, ["rank"], diagonal)?;
        let of = |side: usize| block.factors[side].map_or([0; 2], |factor| factor.shape());
        shape("da", &self.a, ["outputs", "rank"], of(0))?;
        shape("db of block", &self.b, ["features", "rank"], of(1))?;
        shape("dc", &self.c, ["features", "rank"], of(2))
    }
}

/// Zeros, if it is to be written.
fn zero<A: Element, const D: usize>(gradient: &mut Option<Gradient<'_, A, D>>) {
    if let Some(Gradient { to, add: false }) = gradient {
        crate::cpu::fill_zero(to);
    }
}

/// Where a destination is.
fn at<A, const D: usize>(name: &'static str, gradient: &Option<Gradient<'_, A, D>>) -> Located {
    gradient.as_ref().map(|gradient| (name, gradient.to.place()))
}

/// That a destination has these lengths.
fn shape<A, const D: usize>(
    name: &'static str,
    gradient: &Option<Gradient<'_, A, D>>,
    axes: [&'static str; D],
    lengths: [usize; D],
) -> Result<()> {
    let Some(Gradient { to, .. }) = gradient else { return Ok(()) };
    let lengths = lengths.into_iter().zip(to.shape());
    axes.into_iter().zip(lengths).try_for_each(|(axis, (expected, len))| check(name, axis, expected, len))
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

/// Writes zeros in all elements, wherever they are.
pub(crate) trait Fill {
    fn zeros<A: Element, const D: usize>(&self, to: ViewMut<'_, A, D>) -> Result<()>;
}

/// In the host's memory.
pub(crate) struct OnHost;

impl Fill for OnHost {
    fn zeros<A: Element, const D: usize>(&self, mut to: ViewMut<'_, A, D>) -> Result<()> {
        crate::cpu::fill_zero(&mut to);
        Ok(())
    }
}

impl<'a, T: Element, const D: usize, const Z: usize> Wanted<'a, T, D, Z> {
    /// All but those of blocks, for as long as a call takes.
    #[cfg(feature = "cuda")]
    pub(crate) fn without_blocks<'b>(self) -> Wanted<'b, T, D, Z>
    where
        'a: 'b,
    {
        let Wanted { z, x, tied, w, u, v, b, cp, blocks: _, saved } = self;
        Wanted { z, x, tied, w, u, v, b, cp, blocks: &mut [], saved }
    }

    /// Those that there is something to compute of, for so many rows: not those without elements, nor those that are sums of
    /// nothing, which are written here, by `fill`. `layer` has no weights without elements. Errors: those of `fill`.
    pub(crate) fn nonzero(self, layer: &Interaction<'_, T>, rows: usize, fill: &impl Fill) -> Result<Self> {
        fn keep<'a, A: Element, const D: usize>(
            fill: &impl Fill,
            gradient: Option<Gradient<'a, A, D>>,
            terms: bool,
        ) -> Result<Option<Gradient<'a, A, D>>> {
            match gradient.filter(|gradient| !gradient.to.shape().contains(&0)) {
                Some(gradient) if terms => Ok(Some(gradient)),
                Some(Gradient { to, add: false }) => fill.zeros(to).map(|()| None),
                _ => Ok(None),
            }
        }
        let any = rows > 0;
        let blocks = self.blocks;
        for (index, wanted) in blocks.iter_mut().enumerate() {
            if !any || layer.terms().get(index).is_none_or(Block::is_empty) {
                wanted.clear(fill)?;
            }
        }
        let core = any && !layer.is_absent();
        let (u, v, cp) = (any && layer.u.is_some(), any && layer.v.is_some(), core && layer.rank().is_some());
        Ok(Wanted {
            z: keep(fill, self.z, core || u)?,
            x: keep(fill, self.x, core || v)?,
            tied: keep(fill, self.tied, core || u || v)?,
            w: keep(fill, self.w, any)?,
            u: keep(fill, self.u, any)?,
            v: keep(fill, self.v, any)?,
            b: keep(fill, self.b, any)?,
            cp: WantedFactors {
                a: keep(fill, self.cp.a, cp)?,
                b: keep(fill, self.cp.b, cp)?,
                c: keep(fill, self.cp.c, cp)?,
                lambda: keep(fill, self.cp.lambda, cp)?,
            },
            blocks,
            saved: self.saved,
        })
    }

    /// A shorter borrow of the gradients of weights; `add`: all of them added to what is there.
    pub(crate) fn weights(&mut self, add: bool) -> Wanted<'_, T, D, Z> {
        fn of<'b, A, const D: usize>(to: &'b mut Option<Gradient<'_, A, D>>, add: bool) -> Option<Gradient<'b, A, D>> {
            to.as_mut().map(|to| to.reborrow(add))
        }
        let WantedFactors { a, b, c, lambda } = &mut self.cp;
        Wanted {
            w: of(&mut self.w, add),
            u: of(&mut self.u, add),
            v: of(&mut self.v, add),
            b: of(&mut self.b, add),
            cp: WantedFactors { a: of(a, add), b: of(b, add), c: of(c, add), lambda: of(lambda, add) },
            ..Wanted::default()
        }
    }

    /// Zeros in the gradients of weights that are to be written; those of blocks are added to from now on.
    pub(crate) fn zero(&mut self) {
        for block in self.blocks.iter_mut() {
            block.zero();
            block.later();
        }
        let WantedFactors { a, b, c, lambda } = &mut self.cp;
        zero(&mut self.w);
        [&mut self.u, &mut self.v, a, b, c].into_iter().for_each(zero);
        [&mut self.b, lambda].into_iter().for_each(zero);
    }

    /// Where the destinations are.
    pub(crate) fn located(&self) -> [Located; 12] {
        [
            at("dz", &self.z),
            at("dx", &self.x),
            at("dz + dx", &self.tied),
            at("dw", &self.w),
            at("du", &self.u),
            at("dv", &self.v),
            at("db", &self.b),
            at("da", &self.cp.a),
            at("db of cp", &self.cp.b),
            at("dc", &self.cp.c),
            at("dlambda", &self.cp.lambda),
            self.blocks.iter().flat_map(WantedBlock::located).flatten().find(|(_, place)| !place.is_host()),
        ]
    }

    /// That every destination has the shape of what it is for.
    pub(crate) fn check(&self, layer: &Interaction<'_, T>, z: [usize; Z], x: [usize; D]) -> Result<()> {
        let (k, i, j, r) = (layer.k, layer.i, layer.j, layer.rank().unwrap_or(0));
        fn axes<const D: usize>(first: &'static str) -> [&'static str; D] {
            std::array::from_fn(|axis| match D - axis {
                1 => "features",
                2 => "rows",
                _ => first,
            })
        }
        let first = if Z == 3 { "problems" } else { "groups" };
        shape("dz", &self.z, axes(first), z)?;
        shape("dx", &self.x, axes(first), x)?;
        if let Some(tied) = &self.tied {
            check("dz + dx", "rows", z[0], tied.to.shape()[0])?;
            check("dz + dx", "features", z[Z - 1], tied.to.shape()[1])?;
            match (D, Z) {
                (2, _) => check("x", "features", i, j)?,
                (_, 2) => return Err(crate::Error::Unsupported { what: "tied inputs of a shared context" }),
                _ => return Err(crate::Error::Unsupported { what: "tied inputs of all pairs" }),
            }
        }
        shape("dw", &self.w, ["outputs", "z features", "x features"], [k, i, j])?;
        shape("du", &self.u, ["outputs", "features"], [k, i])?;
        shape("dv", &self.v, ["outputs", "features"], [k, j])?;
        shape("db", &self.b, ["outputs"], [k])?;
        shape("da", &self.cp.a, ["outputs", "rank"], [k, r])?;
        shape("db of cp", &self.cp.b, ["features", "rank"], [i, r])?;
        shape("dc", &self.cp.c, ["features", "rank"], [j, r])?;
        shape("dlambda", &self.cp.lambda, ["rank"], [r])?;
        if !self.blocks.is_empty() {
            check("blocks", "blocks", layer.terms().len(), self.blocks.len())?;
            self.blocks.iter().zip(layer.terms()).try_for_each(|(wanted, block)| wanted.check(block))?;
        }
        if let Some(saved) = self.saved {
            let rows = x[..D - 1].iter().try_fold(1usize, |rows, &len| rows.checked_mul(len));
            saved.check(layer, rows.ok_or(crate::Error::TooLarge { what: "the number of rows" })?)?;
        }
        Ok(())
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
