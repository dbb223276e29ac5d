//! All pairs: each row of z of a problem with each row of x of it.

use crate::error::check;
use crate::interaction::limit;
use crate::{BlockGradients, Element, Error, Gradients, Interaction, Plan, Result, Tensor, View, ViewMut, Wanted};

/// How [`Interaction::forward_pairs_reduced`] takes its problems together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their sum by their number.
    Mean,
}

impl Reduction {
    pub(crate) fn scale(self, problems: usize) -> f64 {
        match self {
            Reduction::Sum => 1.0,
            // Nothing is scaled where there is nothing.
            Reduction::Mean => 1.0 / problems.max(1) as f64,
        }
    }
}

impl<T: Element> Interaction<'_, T> {
    /// All pairs: y [P, S, T, K] where in each of P problems every one of the S rows of `z` [P, S, I] meets every one of the T
    /// rows of `x` [P, T, J]: y\[p,s,t,·\] = M(x\[p,t\], z\[p,s\]).
    ///
    /// One side is contracted with W first, the one for which that is cheaper, so that it takes P·S·IJK + P·S·T·JK multiply-adds
    /// (or as many with the sides exchanged) and not P·S·T·IJK; what it is contracted to exists only in blocks that fit in cache.
    /// This scores arcs and their labels in biaffine parsers (Dozat and Manning, *Deep Biaffine Attention for Neural Dependency
    /// Parsing*, ICLR 2017). Errors: [`crate::Error::Shape`] and those of allocation and of the device.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, View};
    ///
    /// let w = [1.0f32, 2.0, 3.0, 4.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let z = [1.0, 0.0, 0.0, 1.0]; // one problem of two rows of z
    /// let x = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]; // and three of x
    /// let y = layer.forward_pairs(View::new(&z, [1, 2, 2])?, View::new(&x, [1, 3, 2])?)?;
    /// assert_eq!(y.shape(), [1, 2, 3, 1]);
    /// assert_eq!(y.as_slice(), [1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn forward_pairs(&self, z: View<'_, T, 3>, x: View<'_, T, 3>) -> Result<Tensor<T, 4>> {
        self.check_pairs(&z, &x)?;
        let ([problems, s, _], [_, t, _]) = (z.shape(), x.shape());
        let mut y = Tensor::zeros([problems, s, t, self.k])?;
        self.forward_pairs_into(z, x, y.view_mut())?;
        Ok(y)
    }

    /// [`forward_pairs`](Self::forward_pairs) into `y` [P, S, T, K], whose previous contents are never read. Where the axes of y
    /// are in another order in memory, [`ViewMut::permute`] names them in this one. After the first call with a shape it allocates
    /// nothing. Errors: as [`forward_pairs`](Self::forward_pairs).
    pub fn forward_pairs_into(&self, z: View<'_, T, 3>, x: View<'_, T, 3>, y: ViewMut<'_, T, 4>) -> Result<()> {
        self.check_pairs(&z, &x)?;
        let ([problems, s, _], [_, t, _]) = (z.shape(), x.shape());
        check("y", "problems", problems, y.shape()[0])?;
        check("y", "rows of z", s, y.shape()[1])?;
        check("y", "rows of x", t, y.shape()[2])?;
        check("y", "outputs", self.k, y.shape()[3])?;
        (T::calls().forward_pairs)(self, z, x, y)
    }

    /// What [`forward_pairs`](Self::forward_pairs) does with P problems of S rows of z and T of x each.
    /// Errors: those of [`plan`](Self::plan).
    pub fn plan_pairs(&self, problems: usize, z_rows: usize, x_rows: usize) -> Result<Plan> {
        limit(problems.max(z_rows).max(x_rows))?;
        (T::calls().plan_pairs)(self, [problems, z_rows, x_rows])
    }

    /// The gradients of [`forward_pairs`](Self::forward_pairs) for the gradient `g` [P, S, T, K] of its result: dz and dx are
    /// summed over the pairs that a row is part of. Errors: as [`forward_pairs`](Self::forward_pairs).
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, View};
    ///
    /// let w = [1.0f32, 2.0, 3.0, 4.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let (z, x, g) = ([1.0, 10.0], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0]); // one row of z with two of x
    /// let (z, x) = (View::new(&z, [1, 1, 2])?, View::new(&x, [1, 2, 2])?);
    /// let gradients = layer.backward_pairs(z, x, View::new(&g, [1, 1, 2, 1])?)?;
    /// assert_eq!(gradients.z.as_slice(), [3.0, 7.0]); // W (1, 0) + W (0, 1)
    /// assert_eq!(gradients.x.as_slice(), [31.0, 42.0, 31.0, 42.0]); // zᵀW, twice
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn backward_pairs(
        &self,
        z: View<'_, T, 3>,
        x: View<'_, T, 3>,
        g: View<'_, T, 4>,
    ) -> Result<Gradients<T, 3, 3>> {
        self.check_backward_pairs(&z, &x, &g)?;
        let mut gradients = Gradients::zeros(self, z.shape(), x.shape())?;
        let mut blocks = gradients.of_blocks();
        let mut of_blocks: Vec<_> = blocks.iter_mut().map(BlockGradients::wanted).collect();
        self.backward_pairs_into(z, x, g, Wanted { blocks: &mut of_blocks, ..gradients.wanted() })?;
        Ok(Gradients { blocks, ..gradients })
    }

    /// The gradients of [`forward_pairs`](Self::forward_pairs) that are `wanted`, each written or added to the caller's memory.
    /// After the first call with a shape it allocates nothing. Errors: as [`backward_pairs`](Self::backward_pairs), and
    /// [`Error::Unsupported`] for tied inputs and saved activations.
    pub fn backward_pairs_into(
        &self,
        z: View<'_, T, 3>,
        x: View<'_, T, 3>,
        g: View<'_, T, 4>,
        wanted: Wanted<'_, T, 3, 3>,
    ) -> Result<()> {
        self.check_backward_pairs(&z, &x, &g)?;
        if wanted.saved.is_some() {
            return Err(Error::Unsupported { what: "saved activations of all pairs" });
        }
        wanted.check(self, z.shape(), x.shape())?;
        (T::calls().backward_pairs)(self, z, x, g, wanted)
    }

    /// All pairs, summed over the problems: y [S, T, K] = Σₘ z\[m,s\]ᵀ W x\[m,t\] + b of `z` [M, S, I] and `x` [M, T, J], or the mean
    /// in place of the sum. b is added once.
    ///
    /// This is the outer-product mean by which AlphaFold 2 makes pairs of residues of an alignment's M sequences (Jumper et al.,
    /// Nature 2021, algorithm 10). Neither Σₘ z⊗x nor zᵀW exists but in blocks that fit in cache: either is formed, what is
    /// cheaper. Errors: [`Error::Shape`] and those of allocation and of the device; [`Error::Unsupported`] of a layer with U or V, or of
    /// a sum of blocks.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, Reduction, View};
    ///
    /// let w = [1.0f32, 0.0, 0.0, 1.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let (z, x) = ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 10.0, 10.0]); // two problems of one pair
    /// let (z, x) = (View::new(&z, [2, 1, 2])?, View::new(&x, [2, 1, 2])?);
    /// assert_eq!(layer.forward_pairs_reduced(z, x, Reduction::Sum)?.as_slice(), [73.0]);
    /// assert_eq!(layer.forward_pairs_reduced(z, x, Reduction::Mean)?.as_slice(), [36.5]);
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn forward_pairs_reduced(
        &self,
        z: View<'_, T, 3>,
        x: View<'_, T, 3>,
        reduction: Reduction,
    ) -> Result<Tensor<T, 3>> {
        self.check_reduced(&z, &x)?;
        let mut y = Tensor::zeros([z.shape()[1], x.shape()[1], self.k])?;
        self.forward_pairs_reduced_into(z, x, reduction, y.view_mut())?;
        Ok(y)
    }

    /// [`forward_pairs_reduced`](Self::forward_pairs_reduced) into `y` [S, T, K]. After the first call with a shape it allocates
    /// nothing. Errors: as [`forward_pairs_reduced`](Self::forward_pairs_reduced).
    pub fn forward_pairs_reduced_into(
        &self,
        z: View<'_, T, 3>,
        x: View<'_, T, 3>,
        reduction: Reduction,
        y: ViewMut<'_, T, 3>,
    ) -> Result<()> {
        self.check_reduced(&z, &x)?;
        check("y", "rows of z", z.shape()[1], y.shape()[0])?;
        check("y", "rows of x", x.shape()[1], y.shape()[1])?;
        check("y", "outputs", self.k, y.shape()[2])?;
        (T::calls().forward_pairs_reduced)(self, z, x, y, reduction.scale(z.shape()[0]))
    }

    /// The gradients of [`forward_pairs_reduced`](Self::forward_pairs_reduced) for the gradient `g` [S, T, K] of its result: dz
    /// [M, S, I], dx [M, T, J], and those of the weights. Errors: as [`forward_pairs_reduced`](Self::forward_pairs_reduced).
    pub fn backward_pairs_reduced(
        &self,
        z: View<'_, T, 3>,
        x: View<'_, T, 3>,
        reduction: Reduction,
        g: View<'_, T, 3>,
    ) -> Result<Gradients<T, 3, 3>> {
        self.check_backward_reduced(&z, &x, &g)?;
        let mut gradients = Gradients::zeros(self, z.shape(), x.shape())?;
        self.backward_pairs_reduced_into(z, x, reduction, g, gradients.wanted())?;
        Ok(gradients)
    }

    /// The gradients of [`forward_pairs_reduced`](Self::forward_pairs_reduced) that are `wanted`. Errors: as
    /// [`backward_pairs_into`](Self::backward_pairs_into), and [`Error::Unsupported`] for those of U and V.
    pub fn backward_pairs_reduced_into(
        &self,
        z: View<'_, T, 3>,
        x: View<'_, T, 3>,
        reduction: Reduction,
        g: View<'_, T, 3>,
        wanted: Wanted<'_, T, 3, 3>,
    ) -> Result<()> {
        self.check_backward_reduced(&z, &x, &g)?;
        if wanted.saved.is_some() {
            return Err(Error::Unsupported { what: "saved activations of all pairs" });
        }
        if wanted.u.is_some() || wanted.v.is_some() {
            return Err(LINEAR);
        }
        wanted.check(self, z.shape(), x.shape())?;
        (T::calls().backward_pairs_reduced)(self, z, x, g, wanted, reduction.scale(z.shape()[0]))
    }

    pub(crate) fn check_reduced(&self, z: &View<'_, T, 3>, x: &View<'_, T, 3>) -> Result<()> {
        self.check_pairs(z, x)?;
        if !self.terms().is_empty() {
            return Err(Error::Unsupported { what: "sums of blocks over pairs of several problems" });
        }
        if self.u.is_some() || self.v.is_some() { Err(LINEAR) } else { Ok(()) }
    }

    pub(crate) fn check_backward_reduced(
        &self,
        z: &View<'_, T, 3>,
        x: &View<'_, T, 3>,
        g: &View<'_, T, 3>,
    ) -> Result<()> {
        self.check_reduced(z, x)?;
        check("g", "rows of z", z.shape()[1], g.shape()[0])?;
        check("g", "rows of x", x.shape()[1], g.shape()[1])?;
        check("g", "outputs", self.k, g.shape()[2])
    }

    pub(crate) fn check_backward_pairs(
        &self,
        z: &View<'_, T, 3>,
        x: &View<'_, T, 3>,
        g: &View<'_, T, 4>,
    ) -> Result<()> {
        self.check_pairs(z, x)?;
        check("g", "problems", z.shape()[0], g.shape()[0])?;
        check("g", "rows of z", z.shape()[1], g.shape()[1])?;
        check("g", "rows of x", x.shape()[1], g.shape()[2])?;
        check("g", "outputs", self.k, g.shape()[3])
    }

    pub(crate) fn check_pairs(&self, z: &View<'_, T, 3>, x: &View<'_, T, 3>) -> Result<()> {
        let ([problems, s, _], [of_x, t, _]) = (z.shape(), x.shape());
        check("z", "features", self.i, z.shape()[2])?;
        check("x", "features", self.j, x.shape()[2])?;
        check("x", "problems", problems, of_x)?;
        limit(problems.max(s).max(t))
    }
}

const LINEAR: Error = Error::Unsupported { what: "linear terms of pairs that are summed over problems" };
