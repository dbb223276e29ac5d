//! The forward pass, by loops and by matrix products.

use std::ops::{Add, Mul};

use trilinear::{Context, Device, Element, Interaction, View, ViewMut};

use super::product::{Library, Real, Scratch, dot, each, product};
use super::{Baseline, LARGEST_INTERMEDIATE, Results, Run, Weights, dense};
use crate::work::Shape;

/// Naive loops are left out above this many FLOPs.
const LARGEST_NAIVE: f64 = 20e6;

/// The definition as loops.
pub(super) fn naive<T: Element, A: Copy + Default + Add<Output = A> + Mul<Output = A> + 'static>(
    shape: Shape,
    threads: usize,
    widen: fn(T) -> A,
    narrow: fn(A) -> T,
) -> Vec<Baseline<T>> {
    let Shape { n, rows, i, j, k, r, .. } = shape;
    let terms = match r {
        Some(r) => r as f64 * (i + j + k) as f64,
        None => i as f64 * j as f64 * k as f64,
    };
    if 2.0 * n as f64 * rows as f64 * terms > LARGEST_NAIVE {
        return Vec::new();
    }
    let weighted = move |weights: &[T], inputs: &[T], step: usize, at: usize| {
        inputs
            .iter()
            .enumerate()
            .fold(A::default(), |sum, (index, &value)| sum + widen(weights[index * step + at]) * widen(value))
    };
    let run: Run<T> = Box::new(move |operands, Results { y, .. }| {
        each(threads, y, k, |row, y| {
            let (z, x) = (&operands.z[row / rows * i..][..i], &operands.x[shape.x_row(row) * j..][..j]);
            match operands.weights {
                Weights::Dense(w) => {
                    for (y, w) in y.iter_mut().zip(w.chunks(i * j)) {
                        let mut sum = A::default();
                        for (&z, w) in z.iter().zip(w.chunks(j)) {
                            for (&x, &w) in x.iter().zip(w) {
                                sum = sum + widen(w) * widen(z) * widen(x);
                            }
                        }
                        *y = narrow(sum);
                    }
                }
                Weights::Cp { a, b, c } => {
                    let r = r.unwrap_or(0);
                    let product: Vec<A> = (0..r).map(|r_| weighted(b, z, r, r_) * weighted(c, x, r, r_)).collect();
                    for (y, a) in y.iter_mut().zip(a.chunks(r)) {
                        let sum = a.iter().zip(&product).fold(A::default(), |sum, (&a, &h)| sum + widen(a) * h);
                        *y = narrow(sum);
                    }
                }
                Weights::Structured { .. } => {}
            }
        });
        Ok(())
    });
    vec![Baseline { name: "naive loops", run }]
}

/// Those that are made of matrix products.
pub(super) fn products<T: Real>(shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<T>> {
    let scratch = Scratch::none();
    let Shape { n, rows, sharing, i, j, k, r } = shape;
    let total = n.saturating_mul(rows);
    let mut all = Vec::new();
    let mut add = |elements: Option<usize>, name: &'static str, run: Run<T>| {
        let bytes = elements.and_then(|elements| elements.checked_mul(size_of::<T>()));
        if bytes.is_some_and(|bytes| bytes <= LARGEST_INTERMEDIATE.min(memory)) {
            all.push(Baseline { name, run });
        }
    };
    let size = |lengths: &[usize]| lengths.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
    if sharing > 1 {
        add(Some(0), "a shared context for each problem (trilinear)", repeated_contexts(shape, threads));
    }
    for library in [Library::Gemm, Library::MatrixMultiply] {
        if let Some(r) = r {
            if sharing > 1 {
                let elements = shape.x_rows().and_then(|of_x| size(&[n.checked_mul(2)?.checked_add(of_x)?, r]));
                let name = library.name("zB and xC, GEMMs (gemm)", "zB and xC, GEMMs (matrixmultiply)");
                add(elements, name, pair_products(library, shape, r, threads, scratch.clone()));
                continue;
            }
            let elements = size(&[n, r]).zip(size(&[total, r])).and_then(|(p, q)| p.checked_add(q));
            let name = library.name("three GEMMs (gemm)", "three GEMMs (matrixmultiply)");
            add(elements, name, three_products(library, shape, r, threads, scratch.clone()));
            continue;
        }
        if sharing == 1 {
            let name = library.name("outer product + GEMM (gemm)", "outer product + GEMM (matrixmultiply)");
            add(size(&[total, i, j]), name, outer_product(library, shape, threads, scratch.clone()));
            let name = library.name("two GEMMs (gemm)", "two GEMMs (matrixmultiply)");
            add(size(&[total, k, i]), name, two_products(library, shape, threads, scratch.clone()));
        }
        if rows > 1 {
            let name = library.name("z first, GEMMs (gemm)", "z first, GEMMs (matrixmultiply)");
            add(size(&[n, k, j]), name, context_first(library, shape, threads, scratch.clone()));
        }
    }
    all
}

/// z⊗x [N, I·J] in memory, then one product with W.
fn outer_product<T: Real>(library: Library, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let total = n * rows;
    Box::new(move |operands, Results { y, .. }| {
        let mut buffer = scratch.lock(total * i * j);
        let outer = &mut buffer[..total * i * j];
        each(threads, outer, i * j, |row, outer| {
            let (z, x) = (&operands.z[row / rows * i..][..i], &operands.x[row * j..][..j]);
            for (&z, outer) in z.iter().zip(outer.chunks_mut(j)) {
                for (to, &x) in outer.iter_mut().zip(x) {
                    *to = z * x;
                }
            }
        });
        let w = View::new(dense(&operands), [k, i * j])?;
        product(library, threads, View::new(outer, [total, i * j])?, w.transpose(), ViewMut::new(y, [total, k])?);
        Ok(())
    })
}

/// x·Wᵀ [N, K·I] in memory, then the dot with z.
fn two_products<T: Real>(library: Library, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let total = n * rows;
    Box::new(move |operands, Results { y, .. }| {
        let mut buffer = scratch.lock(total * k * i);
        let inner = &mut buffer[..total * k * i];
        let w = View::new(dense(&operands), [k * i, j])?;
        let x = View::new(operands.x, [total, j])?;
        product(library, threads, x, w.transpose(), ViewMut::new(inner, [total, k * i])?);
        each(threads, y, k, |row, y| {
            let z = &operands.z[row / rows * i..][..i];
            for (y, inner) in y.iter_mut().zip(inner[row * k * i..].chunks(i)) {
                *y = dot(inner, z);
            }
        });
        Ok(())
    })
}

/// Shared context: W′ = zᵀW [G, K, J] by one product for each output, then one with x for each group; of all pairs one for each
/// problem where y lies as the product has it, K = 1.
fn context_first<T: Real>(library: Library, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, sharing, i, j, k, .. } = shape;
    Box::new(move |operands, Results { y, .. }| {
        let mut buffer = scratch.lock(n * k * j);
        let generated = &mut buffer[..n * k * j];
        let z = View::new(operands.z, [n, i])?;
        for (out, w) in dense(&operands).chunks(i * j).enumerate() {
            let to = ViewMut::strided(generated, out * j, [n, j], [(k * j) as isize, 1])?;
            product(library, threads, z, View::new(w, [i, j])?, to);
        }
        if sharing > 1 && k == 1 {
            each(threads, y, sharing * rows, |problem, y| {
                let x = View::new(&operands.x[problem * rows * j..][..rows * j], [rows, j]);
                let w = View::new(&generated[problem * sharing * j..][..sharing * j], [sharing, j]);
                if let (Ok(x), Ok(w), Ok(y)) = (x, w, ViewMut::new(y, [sharing, rows])) {
                    product(library, 1, w, x.transpose(), y);
                }
            });
            return Ok(());
        }
        each(threads, y, rows * k, |group, y| {
            let x = View::new(&operands.x[group / sharing * rows * j..][..rows * j], [rows, j]);
            let w = View::new(&generated[group * k * j..][..k * j], [k, j]);
            if let (Ok(x), Ok(w), Ok(y)) = (x, w, ViewMut::new(y, [rows, k])) {
                product(library, 1, x, w.transpose(), y);
            }
        });
        Ok(())
    })
}

/// CP: zB [N, R] and xC [N, R] in memory, their product, and that times Aᵀ.
fn three_products<T: Real>(library: Library, shape: Shape, r: usize, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let total = n * rows;
    Box::new(move |operands, Results { y, .. }| {
        let Weights::Cp { a, b, c } = operands.weights else { return Ok(()) };
        let mut buffer = scratch.lock((n + total) * r);
        let (p, q) = buffer[..(n + total) * r].split_at_mut(n * r);
        let (z, x) = (View::new(operands.z, [n, i])?, View::new(operands.x, [total, j])?);
        product(library, threads, z, View::new(b, [i, r])?, ViewMut::new(p, [n, r])?);
        product(library, threads, x, View::new(c, [j, r])?, ViewMut::new(q, [total, r])?);
        each(threads, q, r, |row, q| {
            for (q, &p) in q.iter_mut().zip(&p[row / rows * r..][..r]) {
                *q = *q * p;
            }
        });
        let a = View::new(a, [k, r])?;
        product(library, threads, View::new(q, [total, r])?, a.transpose(), ViewMut::new(y, [total, k])?);
        Ok(())
    })
}

/// All pairs by this crate's shared contexts: x of a problem is broadcast to each of its rows of z.
fn repeated_contexts<T: Real>(shape: Shape, threads: usize) -> Run<T> {
    let Shape { n, rows, sharing, i, j, k, r } = shape;
    let r = r.unwrap_or(0);
    Box::new(move |operands, Results { y, .. }| {
        let layer = match operands.weights {
            Weights::Dense(w) => Interaction::dense(View::new(w, [k, i, j])?)?,
            Weights::Cp { a, b, c } => {
                Interaction::cp(View::new(a, [k, r])?, View::new(b, [i, r])?, View::new(c, [j, r])?)?
            }
            Weights::Structured { .. } => return Ok(()),
        };
        let layer = layer.with_context(Context::new(Device::Cpu)?.with_threads(threads)?);
        for (problem, y) in y.chunks_mut(sharing * rows * k).enumerate().take(n / sharing) {
            let z = View::new(&operands.z[problem * sharing * i..][..sharing * i], [sharing, i])?;
            let x = View::new(&operands.x[problem * rows * j..][..rows * j], [1, rows, j])?.broadcast(0, sharing)?;
            layer.forward_shared_into(z, x, ViewMut::new(y, [sharing, rows, k])?)?;
        }
        Ok(())
    })
}

/// All pairs of CP: zB and xC in memory; for each output zB times a row of A, and for each problem the product of that with xC.
fn pair_products<T: Real>(library: Library, shape: Shape, r: usize, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, sharing, i, j, k, .. } = shape;
    let of_x = n / sharing * rows;
    Box::new(move |operands, Results { y, .. }| {
        let Weights::Cp { a, b, c } = operands.weights else { return Ok(()) };
        let mut buffer = scratch.lock((2 * n + of_x) * r);
        let (p, rest) = buffer[..(2 * n + of_x) * r].split_at_mut(n * r);
        let (scaled, q) = rest.split_at_mut(n * r);
        let (z, x) = (View::new(operands.z, [n, i])?, View::new(operands.x, [of_x, j])?);
        product(library, threads, z, View::new(b, [i, r])?, ViewMut::new(p, [n, r])?);
        product(library, threads, x, View::new(c, [j, r])?, ViewMut::new(q, [of_x, r])?);
        for (out, a) in a.chunks(r).enumerate() {
            each(threads, scaled, r, |row, scaled| {
                for ((scaled, &p), &a) in scaled.iter_mut().zip(&p[row * r..]).zip(a) {
                    *scaled = p * a;
                }
            });
            each(threads, y, sharing * rows * k, |problem, y| {
                let p = View::new(&scaled[problem * sharing * r..][..sharing * r], [sharing, r]);
                let q = View::new(&q[problem * rows * r..][..rows * r], [rows, r]);
                let y = ViewMut::strided(y, out, [sharing, rows], [(rows * k) as isize, k as isize]);
                if let (Ok(p), Ok(q), Ok(y)) = (p, q, y) {
                    product(library, 1, p, q.transpose(), y);
                }
            });
        }
        Ok(())
    })
}
