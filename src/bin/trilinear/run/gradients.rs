//! `--grad`: the gradients of an interaction of files, a file for each.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use trilinear::{Axes, Element, Gradient, Interaction, Tensor, View, ViewMut, Wanted, WantedFactors};

use super::{Call, Operands};
use crate::formats::{Output, Values};

/// The folder, and the files in it that are to be written.
pub(super) struct Files {
    // Dropped before the folder, which is empty then if it was made for them.
    outputs: Vec<(&'static str, Output)>,
    _folder: Folder,
}

/// A folder that is removed again if nothing came to be in it.
struct Folder {
    path: PathBuf,
    made: bool,
}

impl Folder {
    fn open(path: &Path) -> Result<Folder> {
        let made = !path.exists();
        if made {
            std::fs::create_dir(path).context("cannot be created")?;
        }
        ensure!(path.is_dir(), "is not a folder");
        Ok(Folder { path: path.to_owned(), made })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.made {
            // Of a folder with files in it this does nothing.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

impl Files {
    /// A file in `folder` for each gradient that there is of these operands.
    pub(super) fn create(folder: &Path, operands: &Operands) -> Result<Files> {
        let made = Folder::open(folder).with_context(|| format!("--out-dir: {}", folder.display()))?;
        let cp = operands.cp.is_some();
        let mut outputs = Vec::new();
        for (name, present) in [
            ("dz", true),
            ("dx", operands.x.is_some()),
            ("dw", operands.w.is_some()),
            ("da", cp),
            ("db_cp", cp),
            ("dc", cp),
            ("dlambda", operands.lambda.is_some()),
            ("du", operands.u.is_some()),
            ("dv", operands.v.is_some()),
            ("db", operands.b.is_some()),
        ] {
            if present {
                let path = folder.join(format!("{name}.npy"));
                let path = path.to_str().ok_or_else(|| anyhow!("--out-dir: {} is not UTF-8", folder.display()))?;
                outputs.push((name, Output::create("--out-dir", path)?));
            }
        }
        Ok(Files { outputs, _folder: made })
    }

    pub(super) fn names(&self) -> String {
        self.outputs.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Writes every file, before the first takes its place.
    pub(super) fn write<A: Element>(mut self, parts: &[Part<A>]) -> Result<()> {
        for (name, output) in &mut self.outputs {
            let part = parts.iter().find(|part| part.name == *name);
            let part = part.with_context(|| format!("the gradient {name} was not computed"))?;
            output.fill(&part.shape, &part.values)?;
        }
        self.outputs.iter_mut().try_for_each(|(_, output)| output.finish())
    }
}

/// One gradient, of the shape of what it is for.
pub(super) struct Part<A> {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<A>,
}

/// All gradients, for `grad` of the result's shape.
pub(super) fn compute<T: Element>(
    call: &Call<'_, T>,
    layer: &Interaction<'_, T>,
    operands: &Operands,
    axes: Axes,
    grad: &Values<'_, T>,
) -> Result<Vec<Part<T::Accumulator>>> {
    let locate = |error| operands.locate(error, false);
    match *call {
        Call::Rows(z, x) => {
            let g = grad.rows("1 axis, [K], or 2: [N, K]")?;
            let run = |wanted: Wanted<'_, T>| layer.backward_into(z, x, g, wanted);
            gradients(layer, operands, axes, z.shape(), x.shape(), run, locate)
        }
        Call::Shared(z, x) => {
            // As many axes as x has in its file.
            let g = match operands.x().shape.len() {
                3 => grad.view("3 axes: [G, M, K]")?,
                _ => grad.one_group("1 axis, [K], or 2: [N, K]")?,
            };
            let run = |wanted: Wanted<'_, T, 3>| layer.backward_shared_into(z, x, g, wanted);
            gradients(layer, operands, axes, z.shape(), x.shape(), run, locate)
        }
    }
}

fn gradients<T: Element, const D: usize>(
    layer: &Interaction<'_, T>,
    operands: &Operands,
    axes: Axes,
    z_shape: [usize; 2],
    x_shape: [usize; D],
    run: impl FnOnce(Wanted<'_, T, D>) -> trilinear::Result<()>,
    locate: impl Fn(trilinear::Error) -> anyhow::Error,
) -> Result<Vec<Part<T::Accumulator>>> {
    fn new<A: Element, const D: usize>(present: bool, shape: [usize; D]) -> trilinear::Result<Option<Tensor<A, D>>> {
        if present { Tensor::zeros(shape).map(Some) } else { Ok(None) }
    }
    fn write<A: Element, const D: usize>(to: &mut Option<Tensor<A, D>>) -> Option<Gradient<'_, A, D>> {
        to.as_mut().map(|to| Gradient::write(to.view_mut()))
    }
    let (k, i, j, r) = (layer.outputs(), layer.z_features(), layer.x_features(), layer.rank().unwrap_or(0));
    let (tied, cp) = (operands.x.is_none(), operands.cp.is_some());
    let mut z = new(true, z_shape)?;
    let mut x = new(!tied, x_shape)?;
    // In the order of the axes that the file has.
    let w_shape: Option<[usize; 3]> = operands.w.as_ref().and_then(|w| w.shape.as_slice().try_into().ok());
    let mut w = w_shape.map(|shape| Tensor::zeros(shape).map(|w| (shape, w.into_vec()))).transpose()?;
    let (mut u, mut v) = (new(operands.u.is_some(), [k, i])?, new(operands.v.is_some(), [k, j])?);
    let mut b = new(operands.b.is_some(), [k])?;
    let (mut cp_a, mut cp_b, mut cp_c) = (new(cp, [k, r])?, new(cp, [i, r])?, new(cp, [j, r])?);
    let mut lambda = new(operands.lambda.is_some(), [r])?;
    let z_gradient = write(&mut z);
    let (z_gradient, tied_gradient) = if tied { (None, z_gradient) } else { (z_gradient, None) };
    let wanted = Wanted {
        z: z_gradient,
        tied: tied_gradient,
        x: write(&mut x),
        w: w.as_mut().map(|(shape, w)| in_order(axes, *shape, w).map(Gradient::write)).transpose()?,
        u: write(&mut u),
        v: write(&mut v),
        b: write(&mut b),
        cp: WantedFactors { a: write(&mut cp_a), b: write(&mut cp_b), c: write(&mut cp_c), lambda: write(&mut lambda) },
        blocks: &mut [],
        saved: None,
    };
    run(wanted).map_err(locate)?;

    fn part<A: Element, const D: usize>(name: &'static str, from: Option<Tensor<A, D>>) -> Option<Part<A>> {
        from.map(|from| Part { name, shape: from.shape().to_vec(), values: from.into_vec() })
    }
    let mut parts: Vec<Part<T::Accumulator>> = [
        part("dz", z).map(|dz| fold(dz, &operands.z.shape)),
        part("dx", x).map(|dx| fold(dx, &operands.x().shape)),
        w.map(|(shape, values)| Part { name: "dw", shape: shape.to_vec(), values }),
        part("du", u),
        part("dv", v),
        part("db", b),
    ]
    .into_iter()
    .flatten()
    .collect();
    let factors = [part("da", cp_a), part("db_cp", cp_b), part("dc", cp_c), part("dlambda", lambda)];
    parts.extend(factors.into_iter().flatten());
    Ok(parts)
}

/// dW, stored in `shape` and this order, as [K, I, J].
fn in_order<A: Element>(axes: Axes, shape: [usize; 3], w: &mut [A]) -> trilinear::Result<ViewMut<'_, A, 3>> {
    let ordered = axes.view(View::new(&*w, shape)?);
    let (shape, strides) = (ordered.shape(), ordered.strides());
    ViewMut::strided(w, 0, shape, strides)
}

/// In the shape of the operand; if one row of it met many, summed over them.
fn fold<A: Element>(part: Part<A>, shape: &[usize]) -> Part<A> {
    let len: usize = shape.iter().product();
    if part.values.len() <= len {
        return Part { shape: shape.to_vec(), ..part };
    }
    let mut sums = vec![0.0; len];
    for row in part.values.chunks(len.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value.to_f64());
    }
    Part { name: part.name, shape: shape.to_vec(), values: sums.into_iter().map(A::from_f64).collect() }
}
