//! A few elements of each of our results against their definitions, before anything is timed.
//!
//! y is compared with `reference::forward`. The gradients' references compute every gradient of the whole call, for hours
//! where calls take seconds; so their elements are summed here, one by one, with the depths of `reference::backward`.

use anyhow::{Result, bail};
use trilinear::{Context, DType, Element, Interaction, Mahalanobis, Precision, View, reference};

use crate::baselines::{Operands, Results, Weights};
use crate::forms::Structure;
use crate::operands::{Data, layer, parts};
use crate::work::{Pass, Shape, Work};

/// The sum of some terms, and of their magnitudes.
#[derive(Clone, Copy, Debug, Default)]
struct Terms {
    value: f64,
    magnitude: f64,
}

impl Terms {
    fn of(value: f64) -> Terms {
        Terms { value, magnitude: value.abs() }
    }

    fn times(self, other: Terms) -> Terms {
        Terms { value: self.value * other.value, magnitude: self.magnitude * other.magnitude }
    }

    fn plus(self, other: Terms) -> Terms {
        Terms { value: self.value + other.value, magnitude: self.magnitude + other.magnitude }
    }
}

fn sum(len: usize, term: impl Fn(usize) -> Terms) -> Terms {
    (0..len).fold(Terms::default(), |sum, index| sum.plus(term(index)))
}

/// The operands of a call, by their indices.
struct Exact<'a, T> {
    shape: Shape,
    operands: Operands<'a, T>,
}

impl<T: Element> Exact<'_, T> {
    fn z(&self, n: usize, i: usize) -> Terms {
        Terms::of(self.operands.z[n / self.shape.rows * self.shape.i + i].to_f64())
    }

    fn x(&self, n: usize, j: usize) -> Terms {
        Terms::of(self.operands.x[self.shape.x_row(n) * self.shape.j + j].to_f64())
    }

    fn g(&self, n: usize, k: usize) -> Terms {
        Terms::of(self.operands.g[n * self.shape.k + k].to_f64())
    }

    fn w(&self, k: usize, i: usize, j: usize) -> Terms {
        match self.operands.weights {
            Weights::Dense(w) => Terms::of(w[(k * self.shape.i + i) * self.shape.j + j].to_f64()),
            Weights::Cp { .. } | Weights::Structured { .. } => Terms::default(),
        }
    }

    /// An element of a CP factor: 0 is A, 1 is B, 2 is C.
    fn factor(&self, which: usize, row: usize, r: usize) -> Terms {
        match self.operands.weights {
            Weights::Dense(_) | Weights::Structured { .. } => Terms::default(),
            Weights::Cp { a, b, c } => Terms::of([a, b, c][which][row * self.rank() + r].to_f64()),
        }
    }

    fn rank(&self) -> usize {
        self.shape.r.unwrap_or(0)
    }

    /// P = zB, Q = xC and dH = gA.
    fn p(&self, n: usize, r: usize) -> Terms {
        sum(self.shape.i, |i| self.z(n, i).times(self.factor(1, i, r)))
    }

    fn q(&self, n: usize, r: usize) -> Terms {
        sum(self.shape.j, |j| self.x(n, j).times(self.factor(2, j, r)))
    }

    fn dh(&self, n: usize, r: usize) -> Terms {
        sum(self.shape.k, |k| self.g(n, k).times(self.factor(0, k, r)))
    }

    /// One row's part of dz.
    fn dz(&self, n: usize, i: usize) -> Terms {
        match self.shape.r {
            None => {
                sum(self.shape.k, |k| self.g(n, k).times(sum(self.shape.j, |j| self.w(k, i, j).times(self.x(n, j)))))
            }
            Some(r) => sum(r, |r| self.dh(n, r).times(self.q(n, r)).times(self.factor(1, i, r))),
        }
    }

    fn dx(&self, n: usize, j: usize) -> Terms {
        match self.shape.r {
            None => {
                sum(self.shape.k, |k| self.g(n, k).times(sum(self.shape.i, |i| self.w(k, i, j).times(self.z(n, i)))))
            }
            Some(r) => sum(r, |r| self.dh(n, r).times(self.p(n, r)).times(self.factor(2, j, r))),
        }
    }
}

/// The first, the last and two elements between of every result. Errors: one that is not within its bound.
pub(crate) fn check<T: Element>(data: &Data<T>, context: Context, results: &Results<'_, T>) -> Result<()> {
    if let Some(structure) = data.structure {
        return of_form(structure, data, context, results);
    }
    if data.work.forward() {
        forward(data, context, results.y)?;
    }
    let Shape { n, rows, sharing, i, j, k, .. } = data.shape;
    let exact = Exact { shape: data.shape, operands: data.operands(0) };
    let (total, r) = (n * rows, exact.rank());
    let all_rows = |term: &dyn Fn(usize) -> Terms| sum(total, term);
    // Roundings on the way of a term: see `reference::backward`.
    let slack = rounding_of_operands(T::DTYPE, context);
    let elements = |name, result: &[T::Accumulator], columns, depth, exact: &dyn Fn(usize, usize) -> Terms| {
        elements(name, result, columns, (depth, slack), exact)
    };
    // All pairs may sum over (s, k), or over (t, k), at once.
    let of_inputs = |length: usize, others: usize| {
        let nested = others - 1
            + match data.shape.r {
                None => k.saturating_mul(length) + 3,
                Some(r) => k + length + r + 4,
            };
        let at_once = k.saturating_mul(others) + length + r + 4;
        if sharing > 1 { nested.max(at_once) } else { nested }
    };
    let factor = |others: usize| if sharing > 1 { k * others + total } else { k + total };
    let tied = data.work.sums_inputs(data.shape);
    let z_depth = of_inputs(j, rows) + if tied { of_inputs(i, 1) } else { 0 };
    let dz = |n: usize, i: usize| {
        let own = sum(rows, |row| exact.dz(n * rows + row, i));
        if tied { own.plus(exact.dx(n, i)) } else { own }
    };
    elements("dz", results.z, i, z_depth, &dz)?;
    elements("dx", results.x, j, of_inputs(i, sharing), &|row, j| {
        let first = row / rows * sharing;
        sum(sharing, |s| exact.dx((first + s) * rows + row % rows, j))
    })?;
    elements("dW", results.w, j, total + 3, &|row, j| {
        all_rows(&|n| exact.g(n, row / i).times(exact.z(n, row % i)).times(exact.x(n, j)))
    })?;
    elements("dA", results.a, r, total + i + j + 4, &|k, r| {
        all_rows(&|n| exact.g(n, k).times(exact.p(n, r)).times(exact.q(n, r)))
    })?;
    elements("dB", results.b, r, factor(rows) + j + 4, &|i, r| {
        all_rows(&|n| exact.z(n, i).times(exact.dh(n, r)).times(exact.q(n, r)))
    })?;
    elements("dC", results.c, r, factor(sharing) + i + 4, &|j, r| {
        all_rows(&|n| exact.x(n, j).times(exact.dh(n, r)).times(exact.p(n, r)))
    })
}

/// Elements of a gradient with rows of `columns`, which is empty if it was not computed.
fn elements<A: Element>(
    name: &str,
    result: &[A],
    columns: usize,
    (depth, slack): (usize, f64),
    exact: impl Fn(usize, usize) -> Terms,
) -> Result<()> {
    if result.is_empty() {
        return Ok(());
    }
    for at in 0..4 {
        let index = ((result.len() - 1) as u128 * at / 3) as usize;
        let Terms { value, magnitude } = exact(index / columns, index % columns);
        let bound = reference::error_bound(A::DTYPE, depth, value, magnitude) + slack * magnitude;
        within(result[index].to_f64(), value, bound, || format!("element {index} of {name}"))?;
    }
    Ok(())
}

fn forward<T: Element>(data: &Data<T>, context: Context, y: &[T]) -> Result<()> {
    let Shape { n, rows, i, j, k, r, .. } = data.shape;
    let Operands { z, x, weights, .. } = data.operands(0);
    for (row, out) in [(0, 0), (1, 2), (2, 1), (3, 3)] {
        let (row, out) = ((n * rows - 1) * row / 3, (k - 1) * out / 3);
        let weights = match (weights, r) {
            (Weights::Cp { a, b, c }, Some(r)) => Weights::Cp { a: &a[out * r..][..r], b, c },
            (Weights::Dense(w), _) => Weights::Dense(&w[out * i * j..][..i * j]),
            (other, _) => other,
        };
        let layer = layer(parts(weights), Shape { k: 1, ..data.shape }, context)?;
        let (z, x) = (View::row(&z[row / rows * i..][..i]), View::row(&x[data.shape.x_row(row) * j..][..j]));
        let exact = reference::forward(&layer, z, x)?;
        let what = || format!("row {row}, output {out}");
        let bound =
            exact.error_bound(T::DTYPE, 0) + rounding_of_operands(T::DTYPE, context) * exact.magnitude.as_slice()[0];
        within(y[row * k + out].to_f64(), exact.value.as_slice()[0], bound, what)?;
    }
    Ok(())
}

/// Some rows of y, dz and dx of a form of W, and all gradients of weights of the first rows alone: a sum over all rows takes the
/// reference too long.
fn of_form<T: Element>(structure: Structure, data: &Data<T>, context: Context, results: &Results<'_, T>) -> Result<()> {
    let (shape, operands) = (data.shape, data.operands(0));
    let Shape { n, rows, i, j, k, .. } = shape;
    let Weights::Structured { core, .. } = operands.weights else { return Ok(()) };
    let blocks = structure.blocks(shape, operands.weights)?;
    let metric = match structure {
        Structure::Mahalanobis => Some(Mahalanobis::new(Precision::Full(View::new(core, [i, i])?))?),
        _ => None,
    };
    let layer = match structure {
        Structure::Blocks { .. } => Interaction::blocks(&blocks)?,
        Structure::Attend | Structure::Mahalanobis => Interaction::dense(View::new(core, [k, i, j])?)?,
    };
    let near = |value: f64, exact: &reference::Reference, index: usize, dtype, what: &str| {
        let bound = exact.error_bound(dtype, index);
        within(value, exact.value.as_slice()[index], bound, || what.to_owned())
    };
    for at in 0..if data.work.forward() { 4 } else { 0 } {
        let row = (n * rows - 1) * at / 3;
        let (z, x) = (View::row(&operands.z[row / rows * i..][..i]), View::row(&operands.x[row * j..][..j]));
        let exact = match &metric {
            Some(metric) => reference::distances(metric, z, x)?,
            None => reference::forward(&layer, z, x)?,
        };
        for out in 0..k {
            let (y, what) = (results.y[row * k + out].to_f64(), format!("row {row}, output {out}"));
            if structure == Structure::Attend {
                let gate = operands.x[row * j + out].to_f64();
                let [value, magnitude] = [&exact.value, &exact.magnitude].map(|of| of.as_slice()[out]);
                let (value, magnitude) = (value * gate, magnitude * gate.abs());
                let bound = reference::error_bound(T::DTYPE, exact.depth + 1, value, magnitude);
                within(y, value, bound, || what)?;
            } else {
                near(y, &exact, out, T::DTYPE, &what)?;
            }
        }
    }
    if !data.work.backward() {
        return Ok(());
    }
    // The first rows of z, and those of x that they meet.
    let first = n.min(2);
    let sums = T::Accumulator::DTYPE;
    let z = View::new(&operands.z[..first * i], [first, i])?;
    let (of_x, g) = (&operands.x[..first * rows * j], &operands.g[..first * rows * k]);
    let lengths = [first * i, first * rows * j, results.w.len(), results.a.len(), results.b.len(), results.c.len()];
    let mut own = lengths.map(|len| vec![T::Accumulator::from_f64(f64::NAN); len]);
    {
        let [z, x, w, a, b, c] = own.each_mut().map(Vec::as_mut_slice);
        let work = Work { pass: Pass::Backward, ..data.work };
        let operands = Operands { z: &operands.z[..first * i], x: of_x, g, ..operands };
        structure.call(
            (work, Shape { n: first, ..shape }, context),
            operands,
            Results { y: &mut [], z, x, w, a, b, c },
        )?;
    }
    let [_, _, w, a, b, c] = &own;
    let all = |results: &[T::Accumulator], exact: &reference::Reference, what: &str| -> Result<()> {
        results.iter().enumerate().try_for_each(|(at, value)| near(value.to_f64(), exact, at, sums, what))
    };
    if let Some(metric) = metric {
        let exact = reference::distances_backward(&metric, z, View::new(of_x, [first, j])?, View::vector(g))?;
        all(&results.z[..first * i], &exact.z, "dz")?;
        all(&results.x[..first * j], &exact.x, "dx")?;
        return all(w, &exact.precision, "dP");
    }
    let exact =
        reference::backward_shared(&layer, z, View::new(of_x, [first, rows, j])?, View::new(g, [first, rows, k])?)?;
    all(&results.z[..first * i], &exact.z, "dz")?;
    all(&results.x[..first * rows * j], &exact.x, "dx")?;
    let count = blocks.len();
    for (block, exact) in exact.blocks.iter().enumerate() {
        for (name, all_of, exact) in [
            ("core", w, Some(&exact.core)),
            ("A", a, exact.a.as_ref()),
            ("B", b, exact.b.as_ref()),
            ("C", c, exact.c.as_ref()),
        ] {
            let len = all_of.len() / count;
            if let Some(exact) = exact {
                all(&all_of[block * len..][..len], exact, &format!("d{name} of block {block}"))?;
            }
        }
    }
    Ok(())
}

/// What tf32, where it is allowed, adds to the relative error of a term: each of its three factors may be rounded to 11 bits.
fn rounding_of_operands(dtype: DType, context: Context) -> f64 {
    if context.tf32() && dtype == DType::F32 { 2f64.powi(-11).mul_add(3.0, 2f64.powi(-20)) } else { 0.0 }
}

fn within(value: f64, expected: f64, bound: f64, what: impl FnOnce() -> String) -> Result<()> {
    let within = (value - expected).abs() <= bound; // which NaN is not
    if !within {
        bail!("wrong result at {}: {value} instead of {expected}: please report this", what());
    }
    Ok(())
}

/// The results of a baseline, which keeps intermediate tensors in this type, against ours, each relative to its largest element.
pub(crate) fn compare<T: Element>(
    (name, kept): (&str, DType),
    theirs: &Results<'_, T>,
    ours: &Snapshot<T>,
) -> Result<()> {
    close((name, kept), "y", theirs.y, &ours.y)?;
    for ((part, theirs), ours) in gradients(theirs).into_iter().zip(&ours.gradients) {
        close((name, kept), part, theirs, ours)?;
    }
    Ok(())
}

fn close<E: Element>((name, kept): (&str, DType), part: &str, theirs: &[E], ours: &[E]) -> Result<()> {
    let largest = ours.iter().fold(0.0, |largest: f64, value| largest.max(value.to_f64().abs()));
    let tolerance = (1e-3 + 4.0 * E::DTYPE.storage_roundoff().max(kept.storage_roundoff())) * largest;
    let close = |(theirs, ours): (&E, &E)| (theirs.to_f64() - ours.to_f64()).abs() <= tolerance; // which NaN is not
    match theirs.iter().zip(ours).position(|pair| !close(pair)) {
        None => Ok(()),
        Some(index) => {
            let (theirs, ours) = (theirs[index], ours[index]);
            bail!(
                "baseline `{name}` gives {theirs} where ours is {ours} (element {index} of {part}): please report this"
            )
        }
    }
}

fn gradients<'a, T: Element>(results: &'a Results<'_, T>) -> [(&'static str, &'a [T::Accumulator]); 6] {
    [("dz", &*results.z), ("dx", results.x), ("dW", results.w), ("dA", results.a), ("dB", results.b), ("dC", results.c)]
}

/// A copy of our results.
pub(crate) struct Snapshot<T: Element> {
    y: Vec<T>,
    gradients: [Vec<T::Accumulator>; 6],
}

impl<T: Element> Snapshot<T> {
    pub(crate) fn of(results: &Results<'_, T>) -> Self {
        Snapshot { y: results.y.to_vec(), gradients: gradients(results).map(|(_, part)| part.to_vec()) }
    }

    /// Whether these results have the same bits, but for the signs of zeros.
    pub(crate) fn equals(&self, results: &Results<'_, T>) -> bool {
        let parts = gradients(results);
        self.y == results.y && self.gradients.iter().zip(parts).all(|(own, (_, part))| own == part)
    }
}

/// NaN everywhere, so that what is not written shows.
pub(crate) fn clear<T: Element>(results: &mut Results<'_, T>) {
    results.y.fill(T::from_f64(f64::NAN));
    let Results { z, x, w, a, b, c, .. } = results;
    for part in [z, x, w, a, b, c] {
        part.fill(T::Accumulator::from_f64(f64::NAN));
    }
}
