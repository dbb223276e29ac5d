//! The operands and results of a row of `bench`, in as many copies as memory is to be measured with.

use trilinear::{Context, Element, Gradient, Interaction, Plan, Saved, View, ViewMut, Wanted, WantedFactors};

use crate::baselines::{Operands, Results, Weights};
use crate::cases::{Case, Lengths};
use crate::forms::Structure;
use crate::work::{Shape, Work};

/// The operands.
pub(crate) struct Data<T> {
    /// Of a form beside dense and CP.
    pub(crate) structure: Option<Structure>,
    pub(crate) shape: Shape,
    pub(crate) work: Work,
    pub(crate) lengths: Lengths,
    pub(crate) sets: usize,
    /// Elements from one set to the next.
    stride: usize,
    /// The first element at a cache line's start.
    start: usize,
    /// Of z, x, the three parts of the weights, g and cores, in a set.
    offsets: [usize; 7],
    elements: Vec<T>,
}

impl<T: Element> Data<T> {
    /// `None` if there is not the memory.
    pub(crate) fn new(case: &Case, work: Work, sets: usize) -> Option<Self> {
        let lengths = case.elements(work)?;
        let line = 64 / size_of::<T>();
        let [w0, w1, w2] = lengths.weights;
        let mut offsets = [0; 7];
        let mut stride = 0usize;
        for (offset, len) in offsets.iter_mut().zip([lengths.z, lengths.x, w0, w1, w2, lengths.g, lengths.core]) {
            *offset = stride;
            stride = stride.checked_add(len.checked_next_multiple_of(line)?)?;
        }
        let len = stride.checked_mul(sets)?.checked_add(line)?;
        let mut elements: Vec<T> = Vec::new();
        elements.try_reserve_exact(len).ok()?;
        let start = elements.as_ptr().align_offset(64).min(line);
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        elements.resize_with(start + stride, || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            T::from_f64((seed >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
        });
        for _ in 1..sets {
            elements.extend_from_within(start..start + stride);
        }
        let Case { structure, shape, .. } = *case;
        Some(Data { structure, shape, work, lengths, sets, stride, start, offsets, elements })
    }

    pub(crate) fn operands(&self, set: usize) -> Operands<'_, T> {
        let part =
            |index: usize, len: usize| &self.elements[self.start + set * self.stride + self.offsets[index]..][..len];
        let z = part(0, self.lengths.z);
        let x = if self.work.tied { z } else { part(1, self.lengths.x) };
        let [w0, w1, w2] = self.lengths.weights;
        let (a, b, c) = (part(2, w0), part(3, w1), part(4, w2));
        let weights = match (self.structure, self.shape.r) {
            (Some(_), _) => Weights::Structured { core: part(6, self.lengths.core), a, b, c },
            (None, None) => Weights::Dense(a),
            (None, Some(_)) => Weights::Cp { a, b, c },
        };
        Operands { z, x, g: part(5, self.lengths.g), weights }
    }

    pub(crate) fn layer(&self, set: usize, context: Context) -> trilinear::Result<Interaction<'_, T>> {
        layer(parts(self.operands(set).weights), self.shape, context)
    }

    /// Ours: the forward pass, the backward pass, or both.
    pub(crate) fn call(
        &self,
        layer: &Interaction<'_, T>,
        set: usize,
        Results { y, z, x, w, a, b, c }: Results<'_, T>,
        saved: &mut Saved<T>,
    ) -> trilinear::Result<()> {
        let operands = self.operands(set);
        let inputs = [operands.z, operands.x, operands.g];
        call(layer, self.work, self.shape, inputs, (y, [z, x, w, a, b, c]), saved)
    }

    /// What the forward pass of a set keeps for the backward pass.
    pub(crate) fn save(&self, set: usize, context: Context) -> trilinear::Result<Saved<T>> {
        let Shape { n, i, j, .. } = self.shape;
        let mut saved = Saved::default();
        if self.work.saved {
            let Operands { z, x, .. } = self.operands(set);
            let (z, x) = (View::new(z, [n, i])?, View::new(x, [n, j])?);
            self.layer(set, context)?.forward_saving(z, x, &mut saved)?;
        }
        Ok(saved)
    }

    pub(crate) fn plan(&self, context: Context) -> trilinear::Result<Plan> {
        if let Some(structure) = self.structure {
            return structure.plan(self.shape, self.operands(0).weights, context);
        }
        let layer = self.layer(0, context)?;
        let Shape { n, rows, sharing, .. } = self.shape;
        match (sharing, rows) {
            (1, 1) => layer.plan(n),
            (1, _) => layer.plan_shared(n, rows),
            _ => layer.plan_pairs(n / sharing, sharing, rows),
        }
    }
}

/// Elements of an operand, one after the other: on the host or in a device's memory.
pub(crate) trait Source<'a, T: Element>: Copy {
    /// As a row-major tensor.
    fn shaped<const D: usize>(self, shape: [usize; D]) -> trilinear::Result<View<'a, T, D>>;
}

/// The same of a result.
pub(crate) trait Target<'a, T: Element> {
    fn shaped<const D: usize>(self, shape: [usize; D]) -> trilinear::Result<ViewMut<'a, T, D>>;
}

impl<'a, T: Element> Source<'a, T> for &'a [T] {
    fn shaped<const D: usize>(self, shape: [usize; D]) -> trilinear::Result<View<'a, T, D>> {
        View::new(self, shape)
    }
}

impl<'a, T: Element> Target<'a, T> for &'a mut [T] {
    fn shaped<const D: usize>(self, shape: [usize; D]) -> trilinear::Result<ViewMut<'a, T, D>> {
        ViewMut::new(self, shape)
    }
}

/// What `work` asks for, of the operands z, x and g, into y and the gradients in the order of [`Lengths`].
pub(crate) fn call<'a, T: Element, S: Source<'a, T>, G: Target<'a, T::Accumulator>>(
    layer: &Interaction<'_, T>,
    work: Work,
    shape: Shape,
    [z, x, g]: [S; 3],
    (y, gradients): (impl Target<'a, T>, [G; 6]),
    saved: &mut Saved<T>,
) -> trilinear::Result<()> {
    let Shape { n, rows, sharing, i, j, k, .. } = shape;
    if sharing > 1 {
        let (problems, y_shape) = (n / sharing, [n / sharing, sharing, rows, k]);
        let (z, x) = (z.shaped([problems, sharing, i])?, x.shaped([problems, rows, j])?);
        if work.forward() {
            layer.forward_pairs_into(z, x, y.shaped(y_shape)?)?;
        }
        if work.backward() {
            let wanted = wanted(work, shape, gradients, [problems, sharing, i], [problems, rows, j], None)?;
            layer.backward_pairs_into(z, x, g.shaped(y_shape)?, wanted)?;
        }
        return Ok(());
    }
    let z = z.shaped([n, i])?;
    if rows > 1 {
        let x = x.shaped([n, rows, j])?;
        if work.forward() {
            layer.forward_shared_into(z, x, y.shaped([n, rows, k])?)?;
        }
        if work.backward() {
            let wanted = wanted(work, shape, gradients, [n, i], [n, rows, j], None)?;
            layer.backward_shared_into(z, x, g.shaped([n, rows, k])?, wanted)?;
        }
        return Ok(());
    }
    let x = x.shaped([n, j])?;
    if work.forward() {
        let y = y.shaped([n, k])?;
        if work.saved { layer.forward_saving_into(z, x, y, saved) } else { layer.forward_into(z, x, y) }?;
    }
    if work.backward() {
        let wanted = wanted(work, shape, gradients, [n, i], [n, j], work.saved.then_some(&*saved))?;
        layer.backward_into(z, x, g.shaped([n, k])?, wanted)?;
    }
    Ok(())
}

/// The gradients that `work` asks for: written, so that what was there is not read.
fn wanted<'s, 'a: 's, T: Element, G: Target<'a, T::Accumulator>, const D: usize, const Z: usize>(
    work: Work,
    shape: Shape,
    gradients: [G; 6],
    z_shape: [usize; Z],
    x_shape: [usize; D],
    saved: Option<&'s Saved<T>>,
) -> trilinear::Result<Wanted<'s, T, D, Z>> {
    let Shape { n, i, j, k, r, .. } = shape;
    let (parts, r) = (work.parts(shape), r.unwrap_or(0));
    let tied = work.sums_inputs(shape);
    let [z, x, w, a, b, c] = gradients;
    let (z, tied_z) = match (parts.z, tied) {
        (true, true) => (None, Some(Gradient::write(z.shaped([n, i])?))),
        (true, false) => (Some(Gradient::write(z.shaped(z_shape)?)), None),
        (false, _) => (None, None),
    };
    Ok(Wanted {
        z,
        tied: tied_z,
        x: if parts.x && !tied { Some(Gradient::write(x.shaped(x_shape)?)) } else { None },
        w: if parts.w { Some(Gradient::write(w.shaped([k, i, j])?)) } else { None },
        cp: WantedFactors {
            a: if parts.a { Some(Gradient::write(a.shaped([k, r])?)) } else { None },
            b: if parts.b { Some(Gradient::write(b.shaped([i, r])?)) } else { None },
            c: if parts.c { Some(Gradient::write(c.shaped([j, r])?)) } else { None },
            lambda: None,
        },
        saved,
        ..Wanted::default()
    })
}

/// The layer of these weights: W, or A, B and C.
pub(crate) fn layer<'a, T: Element>(
    [w, b, c]: [impl Source<'a, T>; 3],
    Shape { i, j, k, r, .. }: Shape,
    context: Context,
) -> trilinear::Result<Interaction<'a, T>> {
    let layer = match r {
        None => Interaction::dense(w.shaped([k, i, j])?)?,
        Some(r) => Interaction::cp(w.shaped([k, r])?, b.shaped([i, r])?, c.shaped([j, r])?)?,
    };
    Ok(layer.with_context(context))
}

/// In the order that [`layer`] takes them; of dense weights the last two are empty.
pub(crate) fn parts<T>(weights: Weights<'_, T>) -> [&[T]; 3] {
    match weights {
        Weights::Dense(w) => [w, &[], &[]],
        Weights::Cp { a, b, c } | Weights::Structured { a, b, c, .. } => [a, b, c],
    }
}

/// The results of each set.
pub(crate) struct Outputs<T: Element> {
    y: Pool<T>,
    gradients: Pool<T::Accumulator>,
    lengths: Lengths,
}

impl<T: Element> Outputs<T> {
    /// `None` if there is not the memory.
    pub(crate) fn new(sets: usize, lengths: Lengths) -> Option<Self> {
        let y = Pool::new(sets, &[lengths.y])?;
        Some(Outputs { y, gradients: Pool::new(sets, &lengths.gradients)?, lengths })
    }

    pub(crate) fn set(&mut self, set: usize) -> Results<'_, T> {
        let [y] = self.y.parts(set, [self.lengths.y]);
        let [z, x, w, a, b, c] = self.gradients.parts(set, self.lengths.gradients);
        Results { y, z, x, w, a, b, c }
    }
}

/// Sets of parts, each of which begins with a cache line.
struct Pool<E> {
    elements: Vec<E>,
    start: usize,
    stride: usize,
}

impl<E: Element> Pool<E> {
    fn new(sets: usize, lengths: &[usize]) -> Option<Self> {
        let line = 64 / size_of::<E>();
        let stride =
            lengths.iter().try_fold(0usize, |stride, len| stride.checked_add(len.checked_next_multiple_of(line)?))?;
        let len = stride.checked_mul(sets)?.checked_add(line)?;
        let mut elements = Vec::new();
        elements.try_reserve_exact(len).ok()?;
        // NaN rather than zeros, which the system would only promise: the pages are there before the clock runs.
        elements.resize(len, E::from_f64(f64::NAN));
        Some(Pool { start: elements.as_ptr().align_offset(64).min(line), stride, elements })
    }

    fn parts<const P: usize>(&mut self, set: usize, lengths: [usize; P]) -> [&mut [E]; P] {
        let line = 64 / size_of::<E>();
        let mut rest = &mut self.elements[self.start + set * self.stride..][..self.stride];
        lengths.map(|len| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(line));
            rest = after;
            &mut part[..len]
        })
    }
}
