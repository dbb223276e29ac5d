//! A term of W with structure: a core, and a factor on each of its sides.

use crate::error::check;
use crate::interaction::limit;
use crate::place::Located;
use crate::{Element, Result, View};

/// A term of W that is a small core with a factor on each side: with P = zB and Q = xC,
///
/// ```text
/// dense core G [Ra, Rb, Rc]      y[k] = Σ_a A[k,a] Σ_bc G[a,b,c] P[b] Q[c]
/// diagonal core d [R]            y[k] = Σ_r A[k,r] d[r] P[r] Q[r]
/// ```
///
/// **A factor that is absent is the identity**: without B the components P are the features of z themselves. A factor of one column
/// serves all components of a diagonal core: of B \[I, 1\], all P\[r\] are the one number zB; of A \[K, 1\], the components are added up.
/// [`crate::Interaction::blocks`] makes a layer of one block or a sum of several. So:
///
/// | form | block | where it is from |
/// |---|---|---|
/// | diagonal, gating: y = d⊙z⊙x | `diagonal(d)`; without d `identity(n)` | FiLM (Perez et al., AAAI 2018) |
/// | generated gate: y = (zB)⊙x | `identity(J).with_b(B)` | the diagonal W′ of Jayakumar et al., ICLR 2020 |
/// | scalar: y = (zᵀs) x | `identity(J).with_b(s)`, s \[I, 1\] | the scales of the same paper |
/// | inner product: y = zᵀx | `identity(n).with_a(1)`, a \[1, 1\]; with weights `diagonal(d)` | |
/// | low-rank metric: y = (zB)ᵀ(xC) | `identity(R).with_a(1)`, and both | metric learning |
/// | diagonal relations: y = A(z⊙x) | `identity(n).with_a(A)` | DistMult (Yang et al., ICLR 2015) |
/// | Tucker | `tucker(G)` with any factors | TuckER (Balažević et al., EMNLP 2019) |
/// | CP | `identity(R)` or `diagonal(λ)` with all factors | [`crate::Interaction::cp`] |
/// | block-term | several of the above | MUTAN (Ben-younes et al., ICCV 2017), BLOCK (AAAI 2019) |
///
/// # Example
///
/// ```
/// use trilinear::{Block, Interaction, View};
///
/// let gate = [Block::diagonal(View::vector(&[1.0f32, 10.0, 100.0]))];
/// let layer = Interaction::blocks(&gate)?;
/// let y = layer.forward(View::row(&[1.0, 2.0, 3.0]), View::row(&[4.0, 5.0, 6.0]))?;
/// assert_eq!(y.as_slice(), [4.0, 100.0, 1800.0]);
///
/// let one = [1.0f32];
/// let inner = [Block::identity(3).with_a(View::new(&one, [1, 1])?)?];
/// let y = Interaction::blocks(&inner)?.forward(View::row(&[1.0, 2.0, 3.0]), View::row(&[4.0, 5.0, 6.0]))?;
/// assert_eq!(y.as_slice(), [32.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Block<'a, T> {
    pub(crate) center: Center<'a, T>,
    /// A [K, Ra], B [I, Rb], C [J, Rc].
    pub(crate) factors: [Option<View<'a, T, 2>>; 3],
}

/// The core.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Center<'a, T> {
    /// So many components, each with its weight or 1.
    Diagonal(usize, Option<View<'a, T, 1>>),
    /// [Ra, Rb, Rc].
    Dense(View<'a, T, 3>),
}

impl<'a, T: Element> Block<'a, T> {
    /// A diagonal core of these weights.
    pub fn diagonal(weights: View<'a, T, 1>) -> Self {
        Block { center: Center::Diagonal(weights.shape()[0], Some(weights)), factors: [None; 3] }
    }

    /// A diagonal core of ones: so many components.
    pub fn identity(components: usize) -> Self {
        Block { center: Center::Diagonal(components, None), factors: [None; 3] }
    }

    /// A dense core [Ra, Rb, Rc] (Tucker, *Some mathematical notes on three-mode factor analysis*, Psychometrika 1966).
    pub fn tucker(core: View<'a, T, 3>) -> Self {
        Block { center: Center::Dense(core), factors: [None; 3] }
    }

    /// The same with `a` [K, Ra] between the core and the outputs. Errors: [`crate::Error::Shape`].
    pub fn with_a(self, a: View<'a, T, 2>) -> Result<Self> {
        self.with(0, "a", a)
    }

    /// The same with `b` [I, Rb] between z and the core. Errors: [`crate::Error::Shape`].
    pub fn with_b(self, b: View<'a, T, 2>) -> Result<Self> {
        self.with(1, "b of block", b)
    }

    /// The same with `c` [J, Rc] between x and the core. Errors: [`crate::Error::Shape`].
    pub fn with_c(self, c: View<'a, T, 2>) -> Result<Self> {
        self.with(2, "c", c)
    }

    fn with(mut self, side: usize, name: &'static str, factor: View<'a, T, 2>) -> Result<Self> {
        let columns = factor.shape()[1];
        if columns != 1 || !self.is_diagonal() {
            check(name, "rank", self.ranks()[side], columns)?;
        }
        self.factors[side] = Some(factor);
        Ok(self)
    }

    pub(crate) fn is_diagonal(&self) -> bool {
        matches!(self.center, Center::Diagonal(..))
    }

    /// The core's axes.
    pub(crate) fn ranks(&self) -> [usize; 3] {
        match self.center {
            Center::Diagonal(components, _) => [components; 3],
            Center::Dense(core) => core.shape(),
        }
    }

    /// K, I and J.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        let ranks = self.ranks();
        std::array::from_fn(|side| self.factors[side].map_or(ranks[side], |factor| factor.shape()[0]))
    }

    /// The weights of a diagonal core.
    pub(crate) fn weights(&self) -> Option<View<'a, T, 1>> {
        if let Center::Diagonal(_, weights) = self.center { weights } else { None }
    }

    /// Whether a factor is one column for several components.
    pub(crate) fn is_spread(&self, side: usize) -> bool {
        self.is_diagonal() && self.ranks()[side] != 1 && self.factors[side].is_some_and(|factor| factor.shape()[1] == 1)
    }

    /// Whether there is nothing to add up.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranks().contains(&0) || self.sizes().contains(&0)
    }

    /// That no axis is longer than memory can have.
    pub(crate) fn check(&self) -> Result<()> {
        if let Center::Dense(core) = self.center {
            crate::strides::elements(&core.shape())?;
        }
        self.ranks().into_iter().chain(self.sizes()).try_for_each(limit)
    }

    /// An operand that is not in the host's memory, if there is one, else any.
    pub(crate) fn located(&self) -> Located {
        let center = match self.center {
            Center::Diagonal(_, weights) => weights.map(|weights| ("diagonal", weights.place())),
            Center::Dense(core) => Some(("core", core.place())),
        };
        let [a, b, c] = self.factors.map(|factor| factor.map(|factor| factor.place()));
        let all = [center, a.map(|a| ("a", a)), b.map(|b| ("b of block", b)), c.map(|c| ("c", c))];
        let mut present = all.into_iter().flatten();
        let first = present.next();
        first.filter(|(_, place)| !place.is_host()).or_else(|| present.find(|(_, place)| !place.is_host())).or(first)
    }
}
