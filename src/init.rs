//! Initial values of trainable weights.
//!
//! For inputs z and x whose elements are independent, of mean 0 and variance 1, [`Interaction::deviations`] gives the standard
//! deviation of each operand's elements such that those of y have variance 1, whatever the sizes: the rule of LeCun (*Efficient
//! BackProp*, 1998) and of Glorot and Bengio (AISTATS 2010), of products. A sum of so many independent terms needs terms of as many
//! times less variance:
//!
//! | operand | deviation |
//! |---|---|
//! | dense W | 1/√(I·J) |
//! | B, C (CP or block) | 1/√I, 1/√J: P = zB and Q = xC then have variance 1 |
//! | A | 1/√Ra |
//! | core of a block | 1/√(Rb·Rc) |
//! | diagonal of a block, λ | 1 |
//! | U, V | 1/√I, 1/√J |
//! | b | 0 |
//!
//! A result of several parts (blocks, U, V) gives each the same share of its variance: of T parts, the last operand of each (A, or
//! where there is none the core, the diagonal, B or C) has its deviation divided by √T. All of it is symmetric in z and x. (`nn.Bilinear` of PyTorch divides by √I
//! alone, whichever of its inputs z is, so that y has variance J/3: pytorch#132231.)

use crate::interaction::Core;
use crate::random::Random;
use crate::{Block, Element, Interaction};

/// Standard deviations of a layer's operands: of those that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviations {
    /// Of a dense W.
    pub w: Option<f64>,
    /// Of CP factors A, B, C, and of λ.
    pub cp: Option<[f64; 4]>,
    /// Of each block's operands.
    pub blocks: Vec<BlockDeviations>,
    /// Of U.
    pub u: Option<f64>,
    /// Of V.
    pub v: Option<f64>,
}

/// Standard deviations of a block's operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockDeviations {
    /// Of a dense core.
    pub core: Option<f64>,
    /// Of the weights of a diagonal core.
    pub diagonal: Option<f64>,
    /// Of A.
    pub a: Option<f64>,
    /// Of B.
    pub b: Option<f64>,
    /// Of C.
    pub c: Option<f64>,
}

/// 1/√len; 1 for nothing.
fn one_over_root(len: usize) -> f64 {
    1.0 / (len.max(1) as f64).sqrt()
}

impl BlockDeviations {
    fn of<T: Element>(block: &Block<'_, T>, share: f64) -> BlockDeviations {
        let (sizes, [ra, rb, rc]) = (block.sizes(), block.ranks());
        let dense = !block.is_diagonal();
        let root = |side: usize, len: usize| block.factors[side].map(|_| one_over_root(len));
        // Components that are all the same number add up coherently.
        let coherent = block.is_spread(0) && block.is_spread(1) && block.is_spread(2) && block.weights().is_none();
        let mut of = BlockDeviations {
            core: dense.then(|| one_over_root(rb.saturating_mul(rc))),
            diagonal: block.weights().map(|_| 1.0),
            a: root(0, if coherent { ra.saturating_mul(ra) } else { ra }),
            b: root(1, sizes[1]),
            c: root(2, sizes[2]),
        };
        let last = [&mut of.a, &mut of.core, &mut of.diagonal, &mut of.b, &mut of.c].into_iter().flatten().next();
        if let Some(last) = last {
            *last *= share;
        }
        of
    }
}

impl<T: Element> Interaction<'_, T> {
    /// Standard deviations of the operands with which y has variance 1: see [`crate::init`].
    ///
    /// # Example
    ///
    /// ```
    /// use trilinear::{Interaction, View, init};
    ///
    /// let mut w = vec![0.0f32; 8 * 16 * 4]; // K = 8, I = 16, J = 4
    /// let deviations = Interaction::dense(View::new(&w, [8, 16, 4])?)?.deviations();
    /// assert_eq!(deviations.w, Some(0.125)); // 1/√64
    /// init::normal(7, 0.125, &mut w);
    /// # Ok::<(), trilinear::Error>(())
    /// ```
    pub fn deviations(&self) -> Deviations {
        let blocks = self.terms();
        let parts = usize::from(!self.is_absent() && blocks.is_empty())
            + blocks.len()
            + usize::from(self.u.is_some())
            + usize::from(self.v.is_some());
        let (share, of_z, of_x) = (one_over_root(parts), one_over_root(self.i), one_over_root(self.j));
        let (w, cp) = match self.core {
            Core::Dense(_) => (Some(of_z * of_x * share), None),
            Core::Cp { a, .. } => (None, Some([one_over_root(a.shape()[1]) * share, of_z, of_x, 1.0])),
            _ => (None, None),
        };
        Deviations {
            w,
            cp,
            blocks: blocks.iter().map(|block| BlockDeviations::of(block, share)).collect(),
            u: self.u.map(|_| of_z * share),
            v: self.v.map(|_| of_x * share),
        }
    }
}

/// Normally distributed numbers of mean 0 and this standard deviation, the same for the same seed (to the last bit, where the logarithms are)
/// (SplitMix64, Steele et al., OOPSLA 2014; Box and Muller, 1958).
///
/// # Example
///
/// ```
/// let (mut a, mut b) = ([0.0f64; 3], [0.0f64; 3]);
/// trilinear::init::normal(1, 0.5, &mut a);
/// trilinear::init::normal(1, 0.5, &mut b);
/// assert_eq!(a, b);
/// ```
pub fn normal<T: Element>(seed: u64, deviation: f64, to: &mut [T]) {
    let mut random = Random(seed);
    // In (0, 1).
    let mut uniform = || ((random.next() >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
    for pair in to.chunks_mut(2) {
        let radius = deviation * (-2.0 * uniform().ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * uniform()).sin_cos();
        for (to, value) in pair.iter_mut().zip([cosine, sine]) {
            *to = T::from_f64(radius * value);
        }
    }
}
