//! What ours is measured against on a GPU: the ways in which a program computes the same from cuBLAS's products. Intermediate
//! tensors are in the storage type, and allocated before the clock starts; forming them is in the time.

use std::rc::Rc;

use anyhow::Result;
use trilinear::{Device, Element};

use super::gemm::{Blas, Matrix, fits};
use super::tensors::{Flat, Tensors};
use crate::work::{Shape, Work};

/// Enqueues the products, with the intermediate tensors.
type Enqueue<T> = fn(&Blas, &Tensors<T>, &[Flat<T>]) -> Result<()>;

/// One way.
pub(crate) struct Baseline<T: Element> {
    pub(crate) name: &'static str,
    /// Elements of the storage type that it keeps between products, one after the other.
    intermediates: Vec<usize>,
    enqueue: Enqueue<T>,
}

/// A way with its memory.
pub(crate) struct Ready<T: Element> {
    pub(crate) name: &'static str,
    blas: Rc<Blas>,
    pub(crate) intermediates: Vec<Flat<T>>,
    enqueue: Enqueue<T>,
}

impl<T: Element> Baseline<T> {
    /// Bytes of the intermediate tensors.
    pub(crate) fn bytes(&self) -> u128 {
        self.intermediates.iter().map(|&len| (len * size_of::<T>()) as u128).sum()
    }

    pub(crate) fn prepare(self, device: Device, blas: &Rc<Blas>) -> Result<Ready<T>> {
        let zeros = self.intermediates.iter().map(|&len| Flat::zeros(device, [len]));
        let intermediates = zeros.collect::<trilinear::Result<_>>()?;
        Ok(Ready { name: self.name, blas: Rc::clone(blas), intermediates, enqueue: self.enqueue })
    }
}

impl<T: Element> Ready<T> {
    pub(crate) fn call(&self, tensors: &Tensors<T>) -> Result<()> {
        (self.enqueue)(&self.blas, tensors, &self.intermediates)
    }
}

/// Every way to do this work that cuBLAS can be asked for.
pub(crate) fn of<T: Element>(work: Work, shape: Shape) -> Vec<Baseline<T>> {
    let Shape { n, rows, i, j, k, r, .. } = shape;
    let lens =
        |sizes: &[usize]| sizes.iter().try_fold(1usize, |all, &len| all.checked_mul(len)).filter(|&len| fits(len));
    let (y, d) = (work.forward(), work.backward());
    // Of as many elements as cuBLAS counts.
    let some = |wanted: &[(bool, &[usize])]| -> Option<Vec<usize>> {
        wanted.iter().map(|&(wanted, sizes)| if wanted { lens(sizes) } else { Some(0) }).collect()
    };
    let parts = work.parts(shape);
    let mut all = Vec::new();
    // Of all pairs there is none.
    if shape.sharing > 1 {
        return all;
    }
    let mut add = |name: &'static str, intermediates: Option<Vec<usize>>, enqueue: Enqueue<T>| {
        all.extend(intermediates.map(|intermediates| Baseline { name, intermediates, enqueue }));
    };
    match (r, rows) {
        (None, 1) => {
            let partial: &[usize] = &[n, k, i];
            let products = [(y || parts.z, partial), (parts.x || parts.w, partial)];
            add("two GEMMs (cuBLAS)", some(&products), two_gemms::<T>);
            let outer: &[usize] = &[n, i, j];
            let products = [(y || parts.w, outer), (parts.z || parts.x, outer)];
            add("outer product + GEMM (cuBLAS)", some(&products), outer_product::<T>);
        }
        (None, _) => {
            let generated: &[usize] = &[n, k, j];
            let products = [(y || parts.x, generated), (parts.z || parts.w, generated)];
            add("z first, GEMMs (cuBLAS)", some(&products), z_first::<T>);
        }
        // Of half-width types cuBLAS multiplies no elements.
        (Some(r), 1) if size_of::<T>() >= 4 => {
            let hidden: &[usize] = &[n, r];
            add("GEMMs (cuBLAS)", some(&[(true, hidden), (true, hidden), (true, hidden), (d, hidden)]), factors::<T>);
        }
        _ => {}
    }
    all
}

/// T = xWᵀ [n, k, i], then y = Tz and dz = gT; S = g⊗z, then dx = SW and dW = Sᵀx.
fn two_gemms<T: Element>(blas: &Blas, on: &Tensors<T>, intermediates: &[Flat<T>]) -> Result<()> {
    let Shape { n, i, j, k, .. } = on.shape;
    let parts = on.work.parts(on.shape);
    let ([t, s], [dz, dx, dw, ..]) = (pair(intermediates), on.gradients.each_ref());
    let tied = on.work.sums_inputs(on.shape);
    let (x, w) = (Matrix::of(on.x(), j, 0), Matrix::of(&on.weights[0], j, 0));
    // Rows of each n.
    let (z, g) = (Matrix::of(&on.z, i, i), Matrix::of(&on.g, k, k));
    let (z_column, g_column) = (Matrix::of(&on.z, 1, i), Matrix::of(&on.g, 1, k));
    // SAFETY: the tensors have these shapes, and live until the device has been waited for.
    unsafe {
        if on.work.forward() || parts.z {
            blas.gemm(1, [n, j, k * i], (x, w.t()), Matrix::of(t, k * i, 0), false)?;
        }
        let of_n = |tensor| Matrix::of(tensor, i, k * i);
        if on.work.forward() {
            blas.gemm(n, [k, i, 1], (of_n(t), z_column), Matrix::of(&on.y, 1, k), false)?;
        }
        if parts.z {
            blas.gemm(n, [1, k, i], (g, of_n(t)), Matrix::of(dz, i, i), false)?;
        }
        if parts.x || parts.w {
            blas.gemm(n, [k, 1, i], (g_column, z), of_n(s), false)?;
        }
        if parts.x {
            let to = if tied { dz } else { dx };
            blas.gemm(1, [n, k * i, j], (Matrix::of(s, k * i, 0), w), Matrix::of(to, j, 0), tied)?;
        }
        if parts.w {
            blas.gemm(1, [k * i, n, j], (Matrix::of(s, k * i, 0).t(), x), Matrix::of(dw, j, 0), false)?;
        }
    }
    Ok(())
}

/// O = z⊗x [n, i, j], then y = OWᵀ and dW = gᵀO; D = gW, then dz = Dx and dx = zD.
fn outer_product<T: Element>(blas: &Blas, on: &Tensors<T>, intermediates: &[Flat<T>]) -> Result<()> {
    let Shape { n, i, j, k, .. } = on.shape;
    let parts = on.work.parts(on.shape);
    let ([o, d], [dz, dx, dw, ..]) = (pair(intermediates), on.gradients.each_ref());
    let tied = on.work.sums_inputs(on.shape);
    let (w, g) = (Matrix::of(&on.weights[0], i * j, 0), Matrix::of(&on.g, k, 0));
    let (z, z_column) = (Matrix::of(&on.z, i, i), Matrix::of(&on.z, 1, i));
    let (x, x_column) = (Matrix::of(on.x(), j, j), Matrix::of(on.x(), 1, j));
    let (of_n, whole) = (|tensor| Matrix::of(tensor, j, i * j), |tensor| Matrix::of(tensor, i * j, 0));
    // SAFETY: as above.
    unsafe {
        if on.work.forward() || parts.w {
            blas.gemm(n, [i, 1, j], (z_column, x), of_n(o), false)?;
        }
        if on.work.forward() {
            blas.gemm(1, [n, i * j, k], (whole(o), w.t()), Matrix::of(&on.y, k, 0), false)?;
        }
        if parts.z || parts.x {
            blas.gemm(1, [n, k, i * j], (g, w), whole(d), false)?;
        }
        if parts.z {
            blas.gemm(n, [i, j, 1], (of_n(d), x_column), Matrix::of(dz, 1, i), false)?;
        }
        if parts.x {
            let to = if tied { dz } else { dx };
            blas.gemm(n, [1, i, j], (z, of_n(d)), Matrix::of(to, j, j), tied)?;
        }
        if parts.w {
            blas.gemm(1, [k, n, i * j], (g.t(), whole(o)), Matrix::of(dw, i * j, 0), false)?;
        }
    }
    Ok(())
}

/// W′ = zᵀW [n, k, j], then y = xW′ᵀ and dx = gW′ of each z; dW′ = gᵀx, then dz = Σ dW′W and dW = zᵀdW′.
fn z_first<T: Element>(blas: &Blas, on: &Tensors<T>, intermediates: &[Flat<T>]) -> Result<()> {
    let Shape { n, rows, i, j, k, .. } = on.shape;
    let parts = on.work.parts(on.shape);
    let ([generated, dgenerated], [dz, dx, dw, ..]) = (pair(intermediates), on.gradients.each_ref());
    let (z, w) = (Matrix::of(&on.z, i, 0), Matrix::of(&on.weights[0], j, i * j));
    let (x, g) = (Matrix::of(on.x(), j, rows * j), Matrix::of(&on.g, k, rows * k));
    // Of each n, and of each k.
    let (of_n, of_k) = (|tensor| Matrix::of(tensor, j, k * j), |tensor| Matrix::of(tensor, k * j, j));
    // SAFETY: as above.
    unsafe {
        if on.work.forward() || parts.x {
            blas.gemm(k, [n, i, j], (z, w), of_k(generated), false)?;
        }
        if on.work.forward() {
            blas.gemm(n, [rows, j, k], (x, of_n(generated).t()), Matrix::of(&on.y, k, rows * k), false)?;
        }
        if parts.x {
            blas.gemm(n, [rows, k, j], (g, of_n(generated)), Matrix::of(dx, j, rows * j), false)?;
        }
        if parts.z || parts.w {
            blas.gemm(n, [k, rows, j], (g.t(), x), of_n(dgenerated), false)?;
        }
        if parts.z {
            for output in 0..k {
                let (from, w) = (of_k(dgenerated).at(output * j), w.at(output * i * j));
                blas.gemm(1, [n, j, i], (from, w.t()), Matrix::of(dz, i, 0), output > 0)?;
            }
        }
        if parts.w {
            blas.gemm(k, [i, n, j], (z.t(), of_k(dgenerated)), Matrix::of(dw, j, i * j), false)?;
        }
    }
    Ok(())
}

/// P = zB, Q = xC, y = (P⊙Q)Aᵀ; D = gA, of which dP = D⊙Q and dQ = D⊙P.
fn factors<T: Element>(blas: &Blas, on: &Tensors<T>, intermediates: &[Flat<T>]) -> Result<()> {
    let (Shape { n, i, j, k, .. }, r) = (on.shape, on.shape.r.unwrap_or(0));
    let parts = on.work.parts(on.shape);
    let ([p, q, h, d], [dz, dx, _, da, db, dc]) = (intermediates, on.gradients.each_ref()) else { return Ok(()) };
    let tied = on.work.sums_inputs(on.shape);
    let [a, b, c] = on.weights.each_ref().map(|factor| Matrix::of(factor, r, 0));
    let (z, x, g) = (Matrix::of(&on.z, i, 0), Matrix::of(on.x(), j, 0), Matrix::of(&on.g, k, 0));
    let of = |tensor| Matrix::of(tensor, r, 0);
    // SAFETY: as above.
    unsafe {
        blas.gemm(1, [n, i, r], (z, b), of(p), false)?;
        blas.gemm(1, [n, j, r], (x, c), of(q), false)?;
        if on.work.forward() || parts.a {
            blas.multiply(n * r, p, q, h)?;
        }
        if on.work.forward() {
            blas.gemm(1, [n, r, k], (of(h), a.t()), Matrix::of(&on.y, k, 0), false)?;
        }
        if parts.a {
            blas.gemm(1, [k, n, r], (g.t(), of(h)), Matrix::of(da, r, 0), false)?;
        }
        if parts.z || parts.x || parts.b || parts.c {
            blas.gemm(1, [n, k, r], (g, a), of(d), false)?;
        }
        if parts.z || parts.b {
            blas.multiply(n * r, d, q, h)?; // dP
        }
        if parts.z {
            blas.gemm(1, [n, r, i], (of(h), b.t()), Matrix::of(dz, i, 0), false)?;
        }
        if parts.b {
            blas.gemm(1, [i, n, r], (z.t(), of(h)), Matrix::of(db, r, 0), false)?;
        }
        if parts.x || parts.c {
            blas.multiply(n * r, d, p, h)?; // dQ
        }
        if parts.x {
            let to = if tied { dz } else { dx };
            blas.gemm(1, [n, r, j], (of(h), c.t()), Matrix::of(to, j, 0), tied)?;
        }
        if parts.c {
            blas.gemm(1, [j, n, r], (x.t(), of(h)), Matrix::of(dc, r, 0), false)?;
        }
    }
    Ok(())
}

fn pair<T: Element>(intermediates: &[Flat<T>]) -> [&Flat<T>; 2] {
    [&intermediates[0], &intermediates[1]]
}
