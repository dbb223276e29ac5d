//! Which gradients are computed, and where to: checked, located and, where they are sums of nothing, written.

use crate::error::check;
use crate::place::Located;
use crate::{Block, Element, Interaction, Result, Saved, ViewMut};

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
#[derive(Debug, Default)]
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

/// Gradients of CP factors that are wanted.
#[derive(Debug, Default)]
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

/// Gradients of a [`crate::Block`]'s operands that are wanted: of those that it has, and of the weights of a diagonal core.
#[derive(Debug, Default)]
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
