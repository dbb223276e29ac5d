//! Factors to start from.

use super::model::Model;
use super::normal::eigen;
use super::target::Target;
use super::{Cp, Init, Options, Real};
use crate::random::Random;
use crate::{Context, Error, Interaction, Result, Tensor, View};

/// Axes longer than this start at random: the decomposition of their Gram would take longer than the fit.
const LONGEST: usize = 4096;

/// Random numbers of a start.
pub(super) struct Numbers(Random);

impl Numbers {
    /// Of start `start`.
    pub(super) fn new(seed: u64, start: usize) -> Self {
        Numbers(Random(seed ^ Random(start as u64).next()))
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.0.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In [−1, 1), or [0, 1).
    pub(super) fn number(&mut self, nonnegative: bool) -> f64 {
        let number = self.uniform();
        if nonnegative { number } else { 2.0 * number - 1.0 }
    }
}

/// The model of start `start`: the first one's as `options.init` says, the others' random.
pub(super) fn model<T: Real>(
    target: &Target<'_, T>,
    options: &Options<'_, T>,
    block: usize,
    start: usize,
) -> Result<Model<T>> {
    let (lengths, rank) = (target.w.shape(), options.rank * block);
    let mut random = Numbers::new(options.seed, start);
    let mut lambda = None;
    let factors = match options.init {
        Init::Given { factors: [a, b, c], lambda: given } if start == 0 => {
            lambda = given.map(|given| values(given, target.scale)).transpose()?;
            lambda = Some(lambda.unwrap_or_else(|| vec![1.0 / target.scale; rank]));
            let mut factors = [Tensor::from_view(a)?, Tensor::from_view(b)?, Tensor::from_view(c)?];
            if !factors.iter().flat_map(Tensor::as_slice).all(|value| value.to_f64().is_finite()) {
                return Err(Error::NotFinite { operand: "factors" });
            }
            if options.nonnegative {
                let values = factors.iter_mut().flat_map(Tensor::as_mut_slice);
                values.for_each(|value| *value = T::from_f64(value.to_f64().max(0.0)));
            }
            let [a, b, c] = factors;
            [shared(a, block), b, c]
        }
        Init::Hosvd if start == 0 && block > 1 && options.rank == lengths[0] => slices(target, block)?,
        Init::Hosvd if start == 0 => {
            let factor = |mode| leading(target, mode, rank, options.nonnegative, &mut random);
            let [a, b, c]: [Result<_>; 3] = [0, 1, 2].map(factor);
            [shared(a?, block), b?, c?]
        }
        _ => {
            let factor = |len| {
                let mut factor = Tensor::zeros([len, rank])?;
                let values = factor.as_mut_slice().iter_mut();
                values.for_each(|value| *value = T::from_f64(random.number(options.nonnegative)));
                Ok(factor)
            };
            let [a, b, c]: [Result<_>; 3] = lengths.map(factor);
            [shared(a?, block), b?, c?]
        }
    };
    Model::new(factors, lambda, target.context)
}

/// λ in units of the scale.
fn values<T: Real>(given: View<'_, T, 1>, scale: f64) -> Result<Vec<f64>> {
    let values: Vec<f64> = Tensor::from_view(given)?.as_slice().iter().map(|value| value.to_f64() / scale).collect();
    if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err(Error::NotFinite { operand: "lambda" }) }
}

/// The first column of each block, for all columns of the block.
fn shared<T: Real>(mut a: Tensor<T, 2>, block: usize) -> Tensor<T, 2> {
    for columns in a.as_mut_slice().chunks_exact_mut(block) {
        columns.fill(columns[0]);
    }
    a
}

/// The Gram of the rows of `matrix`.
pub(super) fn gram<T: Real>(matrix: View<'_, T, 2>, context: Context) -> Result<Tensor<T, 2>> {
    let [rows, columns] = matrix.shape();
    let layer = Interaction::linear(rows, 0, columns)?.with_v(matrix)?.with_context(context);
    layer.forward(View::new(&[], [rows, 0])?, matrix)
}

/// Leading left singular vectors of the unfolding along an axis: eigenvectors of its Gram.
fn leading<T: Real>(
    target: &Target<'_, T>,
    mode: usize,
    rank: usize,
    nonnegative: bool,
    random: &mut Numbers,
) -> Result<Tensor<T, 2>> {
    let ([k, i, j], elements) = (target.w.shape(), target.w.as_slice().unwrap_or_default());
    let len = [k, i, j][mode];
    let mut factor = Tensor::zeros([len, rank])?;
    let vectors = if len > LONGEST {
        Vec::new()
    } else {
        let mut sum = Tensor::<f64, 2>::zeros([len, len])?;
        // In units of the scale, which keeps the squares finite in f64, if not in f32.
        let mut add = |part: View<'_, T, 2>| -> Result<()> {
            let part = gram(part, target.context)?;
            let scale = 1.0 / target.scale;
            let terms = part.as_slice().iter().map(|term| term.to_f64() * scale * scale);
            sum.as_mut_slice().iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            Ok(())
        };
        match mode {
            0 => add(View::new(elements, [k, i * j])?)?,
            1 => elements.chunks_exact(i * j).try_for_each(|slice| add(View::new(slice, [i, j])?))?,
            _ => add(View::new(elements, [k * i, j])?.transpose())?,
        }
        // Sums of squares beyond the range of f32: a random start will do.
        match sum.as_slice().iter().all(|value| value.is_finite()) {
            true => eigen(sum.as_slice(), len)?.1,
            false => Vec::new(),
        }
    };
    // Ascending: the last ones are the leading ones.
    for column in 0..rank {
        let vector = vectors.rchunks_exact(len.max(1)).nth(column);
        for row in 0..len {
            let value = vector.map_or_else(|| random.number(nonnegative), |vector| vector[row]);
            factor.as_mut_slice()[row * rank + column] = T::from_f64(if nonnegative { value.abs() } else { value });
        }
    }
    Ok(factor)
}

/// A block for each output: the leading singular vectors of its slice W\[k\].
fn slices<T: Real>(target: &Target<'_, T>, block: usize) -> Result<[Tensor<T, 2>; 3]> {
    let ([k, i, j], elements) = (target.w.shape(), target.w.as_slice().unwrap_or_default());
    let rank = k * block;
    let (mut a, mut b, mut c) = (Tensor::zeros([k, rank])?, Tensor::zeros([i, rank])?, Tensor::zeros([j, rank])?);
    for (out, slice) in elements.chunks_exact((i * j).max(1)).enumerate() {
        let slice: Vec<f64> = slice.iter().map(|value| value.to_f64() / target.scale).collect();
        let slice = View::new(&slice, [i, j])?;
        let (_, vectors) = eigen(gram(slice, target.context)?.as_slice(), i)?;
        for (at, vector) in vectors.rchunks_exact(i).take(block).enumerate() {
            let column = out * block + at;
            let along = Interaction::linear(j, 0, i)?.with_v(slice.transpose())?.with_context(target.context);
            let along = along.forward(View::new(&[], [1, 0])?, View::row(vector))?;
            let write = |to: &mut Tensor<T, 2>, values: &[f64]| {
                let rows = to.as_mut_slice().chunks_exact_mut(rank);
                rows.zip(values).for_each(|(row, &value)| row[column] = T::from_f64(value));
            };
            write(&mut b, vector);
            write(&mut c, along.as_slice());
        }
        a.as_mut_slice()[out * rank..][out * block..(out + 1) * block].fill(T::from_f64(1.0));
    }
    Ok([a, b, c])
}

/// The factors of a fit of lower rank, with random columns beside them of weight zero: from there the error can only fall.
pub(super) fn continued<T: Real>(target: &Target<'_, T>, options: &Options<'_, T>, lower: &Cp<T>) -> Result<Model<T>> {
    let (rank, had) = (options.rank, lower.rank());
    let mut random = Numbers::new(options.seed, had);
    let mut widened = |factor: &Tensor<T, 2>| -> Result<_> {
        let mut wide = Tensor::zeros([factor.shape()[0], rank])?;
        for (row, wide) in wide.as_mut_slice().chunks_exact_mut(rank.max(1)).enumerate() {
            wide[..had].copy_from_slice(&factor.as_slice()[row * had..][..had]);
            wide[had..].iter_mut().for_each(|value| *value = T::from_f64(random.number(options.nonnegative)));
        }
        Ok(wide)
    };
    let factors = [widened(&lower.a)?, widened(&lower.b)?, widened(&lower.c)?];
    let mut lambda = values(lower.lambda.view(), target.scale)?;
    lambda.resize(rank, 0.0);
    Model::new(factors, Some(lambda), target.context)
}
