//! The one type for the operation.

use crate::cpu::Panels;
use crate::error::check;
use crate::place::{self, Located};
use crate::strides::LONGEST;
use crate::{Block, Context, Element, Plan, Prepared, Result, Tensor, View, ViewMut};

/// How W is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Core<'a, T> {
    Absent,
    /// `w` [K, I, J].
    Dense(View<'a, T, 3>),
    /// `a` [K, R], `b` [I, R], `c` [J, R], `lambda` [R].
    Cp {
        a: View<'a, T, 2>,
        b: View<'a, T, 2>,
        c: View<'a, T, 2>,
        lambda: Option<View<'a, T, 1>>,
    },
    /// Their sum; of one size.
    Blocks(&'a [Block<'a, T>]),
}

/// A multiplicative interaction M(x, z) = zᵀWx + zᵀU + Vx + b over borrowed weights:
///
/// y\[n,k\] = Σᵢⱼ W\[k,i,j\] z\[n,i\] x\[n,j\] + Σᵢ U\[k,i\] z\[n,i\] + Σⱼ V\[k,j\] x\[n,j\] + b\[k\]
///
/// (Jayakumar et al., *Multiplicative Interactions and Where to Find Them*, ICLR 2020). Any of W, U, V and b may be
/// absent; W is dense or a CP decomposition. It is `Copy`: a few pointers, made anew for every step if the weights change.
///
/// Results keep the bound of [`crate::reference`], and have the same bits for any number of threads.
///
/// # Example
///
/// ```
/// use trilinear::{Interaction, View};
///
/// let (w, b) = ([1.0f32, 0.0, 0.0, 1.0], [0.5]); // K = 1, the identity: y = zᵀx + b
/// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?.with_b(View::vector(&b))?;
/// let z = [1.0, 2.0, 3.0, 4.0]; // two rows
/// let x = [5.0, 6.0, 7.0, 8.0];
/// let y = layer.forward(View::new(&z, [2, 2])?, View::new(&x, [2, 2])?)?;
/// assert_eq!(y.as_slice(), [17.5, 53.5]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Interaction<'a, T: Element> {
    pub(crate) k: usize,
    pub(crate) i: usize,
    pub(crate) j: usize,
    pub(crate) core: Core<'a, T>,
    pub(crate) u: Option<View<'a, T, 2>>,
    pub(crate) v: Option<View<'a, T, 2>>,
    pub(crate) b: Option<View<'a, T, 1>>,
    pub(crate) panels: Option<Panels<'a, T>>,
    /// `None`: as the environment says when a call is made.
    pub(crate) context: Option<Context>,
    /// Strides of W as it was first given (of CP's factors: along the components), by which the algorithm is chosen: prepared weights are used like the ones they
    /// were made from.
    pub(crate) layout: [isize; 3],
}

/// The weights and the bias that a given z generates: y = x W′ᵀ + b′ (Ha et al., *HyperNetworks*, ICLR 2017).
#[derive(Clone, Debug, PartialEq)]
pub struct Generated<T> {
    /// W′ = zᵀW + V, [G, K, J].
    pub weights: Tensor<T, 3>,
    /// b′ = zᵀU + b, [G, K].
    pub bias: Tensor<T, 2>,
}

/// That an axis has a length which memory can have.
pub(crate) fn limit(len: usize) -> Result<()> {
    if len <= LONGEST { Ok(()) } else { Err(crate::Error::TooLarge { what: "an axis" }) }
}

impl<'a, T: Element> Interaction<'a, T> {
    fn new(k: usize, i: usize, j: usize, core: Core<'a, T>) -> Result<Self> {
        limit(k.max(i).max(j))?;
        match &core {
            Core::Absent => {}
            Core::Dense(w) => {
                crate::strides::elements(&w.shape())?;
            }
            Core::Cp { a, .. } => limit(a.shape()[1])?,
            Core::Blocks(blocks) => blocks.iter().try_for_each(Block::check)?,
        }
        let layout = match &core {
            Core::Absent | Core::Blocks(_) => [0; 3],
            Core::Dense(w) => w.strides(),
            Core::Cp { a, b, c, .. } => [a.strides()[1], b.strides()[1], c.strides()[1]],
        };
        Ok(Interaction { k, i, j, core, u: None, v: None, b: None, panels: None, context: None, layout })
    }

    /// Dense `w` [K, I, J]: outputs × z features × x features. For other orders see [`crate::Axes`].
    /// Errors: [`crate::Error::TooLarge`].
    #[inline]
    pub fn dense(w: View<'a, T, 3>) -> Result<Self> {
        let [k, i, j] = w.shape();
        Self::new(k, i, j, Core::Dense(w))
    }

    /// CP factors `a` [K, R], `b` [I, R], `c` [J, R]: W\[k,i,j\] = Σᵣ a\[k,r\] b\[i,r\] c\[j,r\]
    /// (Kolda and Bader, *Tensor Decompositions and Applications*, SIAM Review 2009; TensorLy's factor order).
    /// Errors: [`crate::Error::Shape`] if the ranks differ.
    pub fn cp(a: View<'a, T, 2>, b: View<'a, T, 2>, c: View<'a, T, 2>) -> Result<Self> {
        let rank = a.shape()[1];
        check("b", "rank", rank, b.shape()[1])?;
        check("c", "rank", rank, c.shape()[1])?;
        Self::new(a.shape()[0], b.shape()[0], c.shape()[0], Core::Cp { a, b, c, lambda: None })
    }

    /// One output of a matrix `w` [I, J]: y = zᵀwx, a metric between z and x. Errors: [`crate::Error::TooLarge`].
    pub fn matrix(w: View<'a, T, 2>) -> Result<Self> {
        Self::dense(w.as_output())
    }

    /// W as the sum of `blocks`, which have the same sizes: diagonal, Tucker, block-term and other forms, see [`Block`].
    /// Errors: [`crate::Error::Shape`] if their sizes differ, or there is none.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Block, Interaction, View};
    ///
    /// // A generated gate beside a Tucker block: y = (zB)⊙x + G(z, x), where G is 1 for k = 0, i = 1, j = 1.
    /// let b = [1.0f32, 2.0, 3.0, 4.0];
    /// let g = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    /// let blocks = [Block::identity(2).with_b(View::new(&b, [2, 2])?)?, Block::tucker(View::new(&g, [2, 2, 2])?)];
    /// let y = Interaction::blocks(&blocks)?.forward(View::row(&[1.0, 1.0]), View::row(&[10.0, 100.0]))?;
    /// assert_eq!(y.as_slice(), [140.0, 600.0]);
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn blocks(blocks: &'a [Block<'a, T>]) -> Result<Self> {
        let sizes = |block: &Block<'_, T>| block.sizes();
        check("blocks", "blocks", blocks.len().max(1), blocks.len())?;
        let [k, i, j] = blocks.first().map_or([0; 3], sizes);
        for block in blocks {
            let [outputs, z_features, x_features] = block.sizes();
            check("blocks", "outputs", k, outputs)?;
            check("blocks", "z features", i, z_features)?;
            check("blocks", "x features", j, x_features)?;
        }
        Self::new(k, i, j, Core::Blocks(blocks))
    }

    /// No W: the linear layer on [z, x] that U, V and b make. Errors: [`crate::Error::TooLarge`].
    pub fn linear(outputs: usize, z_features: usize, x_features: usize) -> Result<Self> {
        Self::new(outputs, z_features, x_features, Core::Absent)
    }

    /// The layer of `torch.nn.Bilinear(in1, in2, out)` called as `bilinear(z, x)`: `weight` [out, in1, in2] and `bias` \[out\].
    /// Errors: [`crate::Error::Shape`].
    pub fn torch_bilinear(weight: View<'a, T, 3>, bias: Option<View<'a, T, 1>>) -> Result<Self> {
        let layer = Self::dense(weight)?;
        match bias {
            Some(bias) => layer.with_b(bias),
            None => Ok(layer),
        }
    }

    /// The same with weights `lambda` \[R\] of the CP components.
    /// Errors: [`crate::Error::Shape`]: a form that is not CP has no components, so its rank counts as 0.
    pub fn with_lambda(mut self, weights: View<'a, T, 1>) -> Result<Self> {
        check("lambda", "rank", self.rank().unwrap_or(0), weights.shape()[0])?;
        if let Core::Cp { lambda, .. } = &mut self.core {
            *lambda = Some(weights);
        }
        self.panels = None;
        Ok(self)
    }

    /// The same with `u` [K, I], linear in z. Errors: [`crate::Error::Shape`].
    #[inline]
    pub fn with_u(mut self, u: View<'a, T, 2>) -> Result<Self> {
        check("u", "outputs", self.k, u.shape()[0])?;
        check("u", "features", self.i, u.shape()[1])?;
        self.u = Some(u);
        Ok(self)
    }

    /// The same with `v` [K, J], linear in x. Errors: [`crate::Error::Shape`].
    #[inline]
    pub fn with_v(mut self, v: View<'a, T, 2>) -> Result<Self> {
        check("v", "outputs", self.k, v.shape()[0])?;
        check("v", "features", self.j, v.shape()[1])?;
        self.v = Some(v);
        Ok(self)
    }

    /// The same with the bias `b` \[K\]. Errors: [`crate::Error::Shape`].
    #[inline]
    pub fn with_b(mut self, b: View<'a, T, 1>) -> Result<Self> {
        check("b", "outputs", self.k, b.shape()[0])?;
        self.b = Some(b);
        Ok(self)
    }

    /// The same, computed as `context` says rather than as the environment does.
    #[inline]
    pub fn with_context(self, context: Context) -> Self {
        Interaction { context: Some(context), ..self }
    }

    /// K.
    pub fn outputs(&self) -> usize {
        self.k
    }

    /// I.
    pub fn z_features(&self) -> usize {
        self.i
    }

    /// J.
    pub fn x_features(&self) -> usize {
        self.j
    }

    /// What the derivatives of T = Σ g·y along these of the axes k, i, j need (along k that is y): no weights that have no
    /// elements or do not reach such an axis; and no axis, but length 0, that no weights are left of. What is left out adds
    /// nothing, but may be of any length, in views without elements or of stride zero.
    pub(crate) fn along(mut self, [k, i, j]: [bool; 3]) -> Self {
        let empty = match self.core {
            Core::Absent => true,
            Core::Dense(w) => w.is_empty(),
            Core::Cp { a, b, c, .. } => a.is_empty() || b.is_empty() || c.is_empty(),
            Core::Blocks(blocks) => blocks.iter().all(Block::is_empty),
        };
        self.u = self.u.filter(|u| (k || i) && !u.is_empty());
        self.v = self.v.filter(|v| (k || j) && !v.is_empty());
        if empty {
            (self.core, self.panels) = (Core::Absent, None);
            self.k = if k || self.u.is_some() || self.v.is_some() { self.k } else { 0 };
            self.i = if i || self.u.is_some() { self.i } else { 0 };
            self.j = if j || self.v.is_some() { self.j } else { 0 };
        }
        self
    }

    /// Whether [`along`](Self::along) may leave something out of y.
    #[inline]
    pub(crate) fn has_idle_parts(&self) -> bool {
        let nothing = match self.core {
            Core::Absent => true,
            Core::Blocks(blocks) => blocks.iter().all(Block::is_empty),
            _ => self.rank() == Some(0),
        };
        nothing || [self.k, self.i, self.j].contains(&0)
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.core, Core::Absent)
    }

    /// Where the weights are.
    #[inline]
    pub(crate) fn located(&self) -> [Located; 7] {
        let (first, [b, c, lambda]) = match self.core {
            Core::Absent => (None, [None; 3]),
            Core::Dense(w) => (Some(("w", w.place())), [None; 3]),
            Core::Cp { a, b, c, lambda } => {
                let lambda = lambda.map(|lambda| ("lambda", lambda.place()));
                (Some(("a", a.place())), [Some(("b of cp", b.place())), Some(("c", c.place())), lambda])
            }
            Core::Blocks(blocks) => {
                let mut all = blocks.iter().filter_map(Block::located);
                let first = all.next();
                (all.find(|(_, place)| !place.is_host()).or(first), [None; 3])
            }
        };
        let (u, v) = (self.u.map(|u| ("u", u.place())), self.v.map(|v| ("v", v.place())));
        [first, b, c, lambda, u, v, self.b.map(|b| ("b", b.place()))]
    }

    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.core, Core::Dense(_))
    }

    /// The blocks that W is the sum of, if it is given so.
    pub(crate) fn terms(&self) -> &'a [Block<'a, T>] {
        if let Core::Blocks(blocks) = self.core { blocks } else { &[] }
    }

    pub(crate) fn has_lambda(&self) -> bool {
        matches!(self.core, Core::Cp { lambda: Some(_), .. })
    }

    /// R, if W is in CP form.
    pub fn rank(&self) -> Option<usize> {
        match self.core {
            Core::Cp { a, .. } => Some(a.shape()[1]),
            _ => None,
        }
    }

    /// How calls are computed. Errors: those of [`Context::from_env`], if no context was given.
    #[inline]
    pub fn context(&self) -> Result<Context> {
        match self.context {
            Some(context) => Ok(context),
            None => Context::from_env(),
        }
    }

    /// y [N, K] of `z` [N, I] and `x` [N, J]. `z` and `x` may be the same tensor (tied).
    /// Errors: [`crate::Error::Shape`] and those of allocation.
    pub fn forward(&self, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Tensor<T, 2>> {
        self.check_inputs(&z, &x)?;
        let mut y = Tensor::zeros([x.shape()[0], self.k])?;
        self.forward_into(z, x, y.view_mut())?;
        Ok(y)
    }

    /// [`forward`](Self::forward) into `y` [N, K], whose previous contents are never read. After the first call
    /// with a shape it allocates nothing. Errors: [`crate::Error::Shape`].
    #[inline]
    pub fn forward_into(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, y: ViewMut<'_, T, 2>) -> Result<()> {
        self.check_inputs(&z, &x)?;
        check("y", "rows", x.shape()[0], y.shape()[0])?;
        check("y", "outputs", self.k, y.shape()[1])?;
        (T::calls().forward)(self, z, x, y)
    }

    #[inline]
    pub(crate) fn check_inputs(&self, z: &View<'_, T, 2>, x: &View<'_, T, 2>) -> Result<()> {
        check("z", "features", self.i, z.shape()[1])?;
        check("x", "features", self.j, x.shape()[1])?;
        check("z", "rows", x.shape()[0], z.shape()[0])?;
        limit(x.shape()[0])
    }

    /// Shared context: y [G, M, K] where each of the G rows of `z` [G, I] meets M rows of `x` [G, M, J].
    ///
    /// z is contracted first (W′ = zᵀW + V), for G·IJK + G·M·JK multiply-adds instead of G·M·IJK; W′ exists only in
    /// blocks that fit in cache. Errors: [`crate::Error::Shape`] and those of allocation.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, View};
    ///
    /// let w = [1.0f32, 2.0, 3.0, 4.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let (z, x) = ([1.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    /// let y = layer.forward_shared(View::row(&z), View::new(&x, [1, 3, 2])?)?;
    /// assert_eq!(y.as_slice(), [4.0, 6.0, 10.0]);
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn forward_shared(&self, z: View<'_, T, 2>, x: View<'_, T, 3>) -> Result<Tensor<T, 3>> {
        let [groups, rows, features] = x.shape();
        check("x", "features", self.j, features)?;
        let mut y = Tensor::zeros([groups, rows, self.k])?;
        self.forward_shared_into(z, x, y.view_mut())?;
        Ok(y)
    }

    /// [`forward_shared`](Self::forward_shared) into `y` [G, M, K]. Errors: [`crate::Error::Shape`].
    pub fn forward_shared_into(&self, z: View<'_, T, 2>, x: View<'_, T, 3>, y: ViewMut<'_, T, 3>) -> Result<()> {
        check("z", "features", self.i, z.shape()[1])?;
        check("x", "features", self.j, x.shape()[2])?;
        check("z", "groups", x.shape()[0], z.shape()[0])?;
        limit(x.shape()[0].max(x.shape()[1]))?;
        check("y", "groups", x.shape()[0], y.shape()[0])?;
        check("y", "rows", x.shape()[1], y.shape()[1])?;
        check("y", "outputs", self.k, y.shape()[2])?;
        (T::calls().forward_shared)(self, z, x, y)
    }

    /// The hypernetwork view: for each of the G rows of `z` [G, I] the linear layer that it generates,
    /// W′ = zᵀW + V [G, K, J] and b′ = zᵀU + b [G, K]. Errors: [`crate::Error::Shape`] and those of allocation.
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, View};
    ///
    /// let w = [1.0f32, 2.0, 3.0, 4.0];
    /// let layer = Interaction::dense(View::new(&w, [1, 2, 2])?)?;
    /// let generated = layer.generate(View::row(&[1.0, 10.0]))?;
    /// assert_eq!(generated.weights.as_slice(), [31.0, 42.0]);
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn generate(&self, z: View<'_, T, 2>) -> Result<Generated<T>> {
        let groups = z.shape()[0];
        check("z", "features", self.i, z.shape()[1])?;
        let mut weights = Tensor::zeros([groups, self.k, self.j])?;
        let mut bias = Tensor::zeros([groups, self.k])?;
        self.generate_into(z, weights.view_mut(), bias.view_mut())?;
        Ok(Generated { weights, bias })
    }

    /// [`generate`](Self::generate) into `weights` [G, K, J] and `bias` [G, K]. Errors: [`crate::Error::Shape`].
    pub fn generate_into(&self, z: View<'_, T, 2>, weights: ViewMut<'_, T, 3>, bias: ViewMut<'_, T, 2>) -> Result<()> {
        let groups = z.shape()[0];
        check("z", "features", self.i, z.shape()[1])?;
        limit(groups)?;
        check("weights", "groups", groups, weights.shape()[0])?;
        check("weights", "outputs", self.k, weights.shape()[1])?;
        check("weights", "features", self.j, weights.shape()[2])?;
        check("bias", "groups", groups, bias.shape()[0])?;
        check("bias", "outputs", self.k, bias.shape()[1])?;
        (T::calls().generate)(self, z, weights, bias)
    }

    /// What [`forward`](Self::forward) does with `rows` rows. Errors: [`crate::Error::Algorithm`].
    pub fn plan(&self, rows: usize) -> Result<Plan> {
        limit(rows)?;
        (T::calls().plan)(self, rows)
    }

    /// What [`forward_shared`](Self::forward_shared) does with `groups` rows of z and `rows` rows of x for each.
    pub fn plan_shared(&self, groups: usize, rows: usize) -> Result<Plan> {
        limit(groups.max(rows))?;
        (T::calls().plan_shared)(self, groups, rows)
    }

    /// The weights packed once for this processor, to be used for many calls. Errors: those of allocation.
    pub fn prepare(&self) -> Result<Prepared<T>> {
        Prepared::new(self)
    }

    /// W as a dense tensor [K, I, J], whatever its form (zeros if absent). Errors: those of allocation, and [`crate::Error::Place`] of
    /// weights in a device's memory.
    pub fn to_dense(&self) -> Result<Tensor<T, 3>> {
        place::host(self.located())?;
        let mut w = Tensor::zeros([self.k, self.i, self.j])?;
        match self.along([true; 3]).core {
            Core::Absent => {}
            Core::Dense(view) => return Tensor::from_view(view),
            Core::Cp { .. } => crate::reference::reconstruct(self, w.view_mut()),
            Core::Blocks(blocks) => return crate::reference::sum_of_blocks(blocks),
        }
        Ok(w)
    }
}
