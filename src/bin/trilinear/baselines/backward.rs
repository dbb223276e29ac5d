//! Gradients by matrix products, and forward and backward together: as automatic differentiation of the same way to compute
//! y does it, with what one result shares with another computed once.

use trilinear::{View, ViewMut};

use super::product::{Library, Real, Scratch, dot, each, product};
use super::{Baseline, LARGEST_INTERMEDIATE, Results, Run, cp, dense};
use crate::work::{Shape, Work};

/// Every way that fits in memory.
pub(super) fn products<T: Real>(work: Work, shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<T>> {
    let scratch = Scratch::none();
    let Shape { n, rows, i, j, k, r, .. } = shape;
    let total = n.saturating_mul(rows);
    let mut all = Vec::new();
    let size = |lengths: &[usize]| lengths.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
    let sums_inputs = work.sums_inputs(shape);
    let mut add = |elements: Option<usize>, name: &'static str, run: Run<T>| {
        let inputs = if sums_inputs { size(&[total, j]) } else { Some(0) };
        let elements = elements.zip(inputs).and_then(|(own, inputs)| own.checked_add(inputs));
        let bytes = elements.and_then(|elements| elements.checked_mul(size_of::<T>()));
        if bytes.is_some_and(|bytes| bytes <= LARGEST_INTERMEDIATE.min(memory)) {
            all.push(Baseline { name, run: if sums_inputs { tied(shape, threads, run) } else { run } });
        }
    };
    for library in [Library::Gemm, Library::MatrixMultiply] {
        if let Some(r) = r {
            let name = library.name("GEMMs (gemm)", "GEMMs (matrixmultiply)");
            let elements = size(&[2, n, r]).zip(size(&[3, total, r])).and_then(|(z, x)| z.checked_add(x));
            add(elements, name, cp::products(library, work, shape, r, threads, scratch.clone()));
            continue;
        }
        let name = library.name("outer product + GEMM (gemm)", "outer product + GEMM (matrixmultiply)");
        add(size(&[total, i, j]), name, outer_product(library, work, shape, threads, scratch.clone()));
        let name = library.name("two GEMMs (gemm)", "two GEMMs (matrixmultiply)");
        add(size(&[total, k, i]), name, two_products(library, work, shape, threads, scratch.clone()));
        if rows > 1 {
            let name = library.name("z first, GEMMs (gemm)", "z first, GEMMs (matrixmultiply)");
            let elements = size(&[n, k, j]).zip(size(&[n, i])).and_then(|(w, z)| w.checked_add(z));
            add(elements, name, context_first(library, work, shape, threads, scratch.clone()));
        }
    }
    all
}

/// dx in memory of its own, added to dz.
fn tied<T: Real>(shape: Shape, threads: usize, mut run: Run<T>) -> Run<T> {
    let Shape { n, rows, i, j, .. } = shape;
    let mut dx = vec![T::default(); n * rows * j];
    Box::new(move |operands, results| {
        let Results { y, z, w, a, b, c, .. } = results;
        run(operands, Results { y, z: &mut *z, x: &mut dx, w, a, b, c })?;
        each(threads, z, i, |row, z| {
            for (z, &x) in z.iter_mut().zip(&dx[row * j..]) {
                *z = *z + x;
            }
        });
        Ok(())
    })
}

/// `to` ← `to` + factor·`from`; without reading what was in `to`, if it is the first.
fn accumulate<T: Real>(to: &mut [T], first: bool, factor: T, from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = if first { factor * from } else { *to + factor * from };
    }
}

/// z⊗x [N, I·J] in memory, of which y and dW are products with W and g; then g·W of the same size, which dz and dx are
/// reductions of.
fn outer_product<T: Real>(library: Library, work: Work, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let (total, parts) = (n * rows, work.parts(shape));
    Box::new(move |operands, results| {
        let mut buffer = scratch.lock(total * i * j);
        let buffer = &mut buffer[..total * i * j];
        let w = View::new(dense(&operands), [k, i * j])?;
        if work.forward() || parts.w {
            each(threads, buffer, i * j, |row, outer| {
                let (z, x) = (&operands.z[row / rows * i..][..i], &operands.x[row * j..][..j]);
                for (&z, outer) in z.iter().zip(outer.chunks_mut(j)) {
                    accumulate(outer, true, z, x);
                }
            });
            let outer = View::new(&*buffer, [total, i * j])?;
            if work.forward() {
                product(library, threads, outer, w.transpose(), ViewMut::new(results.y, [total, k])?);
            }
            if parts.w {
                let g = View::new(operands.g, [total, k])?;
                product(library, threads, g.transpose(), outer, ViewMut::new(results.w, [k, i * j])?);
            }
        }
        if parts.z || parts.x {
            let g = View::new(operands.g, [total, k])?;
            product(library, threads, g, w, ViewMut::new(&mut *buffer, [total, i * j])?);
        }
        let buffer = &*buffer;
        if parts.z {
            each(threads, results.z, i, |group, dz| {
                for row in group * rows..(group + 1) * rows {
                    let x = &operands.x[row * j..][..j];
                    for (dz, gw) in dz.iter_mut().zip(buffer[row * i * j..].chunks(j)) {
                        let own = dot(gw, x);
                        *dz = if row == group * rows { own } else { *dz + own };
                    }
                }
            });
        }
        if parts.x {
            each(threads, results.x, j, |row, dx| {
                let z = &operands.z[row / rows * i..][..i];
                for (at, (&z, gw)) in z.iter().zip(buffer[row * i * j..].chunks(j)).enumerate() {
                    accumulate(dx, at == 0, z, gw);
                }
            });
        }
        Ok(())
    })
}

/// x·Wᵀ [N, K·I] in memory, which y and dz are reductions of; then g⊗z of the same size, of which dx and dW are products
/// with W and x.
fn two_products<T: Real>(library: Library, work: Work, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let (total, parts) = (n * rows, work.parts(shape));
    Box::new(move |operands, results| {
        let mut buffer = scratch.lock(total * k * i);
        let buffer = &mut buffer[..total * k * i];
        let (w, x) = (View::new(dense(&operands), [k * i, j])?, View::new(operands.x, [total, j])?);
        if work.forward() || parts.z {
            product(library, threads, x, w.transpose(), ViewMut::new(&mut *buffer, [total, k * i])?);
            let inner = &*buffer;
            if work.forward() {
                each(threads, results.y, k, |row, y| {
                    let z = &operands.z[row / rows * i..][..i];
                    for (y, inner) in y.iter_mut().zip(inner[row * k * i..].chunks(i)) {
                        *y = dot(inner, z);
                    }
                });
            }
            if parts.z {
                each(threads, results.z, i, |group, dz| {
                    for row in group * rows..(group + 1) * rows {
                        let g = &operands.g[row * k..][..k];
                        for (at, (&g, inner)) in g.iter().zip(inner[row * k * i..].chunks(i)).enumerate() {
                            accumulate(dz, row == group * rows && at == 0, g, inner);
                        }
                    }
                });
            }
        }
        if parts.x || parts.w {
            each(threads, buffer, k * i, |row, outer| {
                let (z, g) = (&operands.z[row / rows * i..][..i], &operands.g[row * k..][..k]);
                for (&g, outer) in g.iter().zip(outer.chunks_mut(i)) {
                    accumulate(outer, true, g, z);
                }
            });
            let outer = View::new(&*buffer, [total, k * i])?;
            if parts.x {
                product(library, threads, outer, w, ViewMut::new(results.x, [total, j])?);
            }
            if parts.w {
                product(library, threads, outer.transpose(), x, ViewMut::new(results.w, [k * i, j])?);
            }
        }
        Ok(())
    })
}

/// Shared context: W′ = zᵀW [G, K, J], of which y and dx are products for each group; then dW′ = gᵀx of the same size, of
/// which dz and dW are products for each output.
fn context_first<T: Real>(library: Library, work: Work, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let parts = work.parts(shape);
    Box::new(move |operands, results| {
        let mut buffer = scratch.lock(n * k * j + n * i);
        let (generated, part_of_dz) = buffer[..n * k * j + n * i].split_at_mut(n * k * j);
        let (z, w) = (View::new(operands.z, [n, i])?, dense(&operands));
        let strides = [(k * j) as isize, 1];
        if work.forward() || parts.x {
            for (out, w) in w.chunks(i * j).enumerate() {
                let to = ViewMut::strided(generated, out * j, [n, j], strides)?;
                product(library, threads, z, View::new(w, [i, j])?, to);
            }
            let generated = &*generated;
            if work.forward() {
                each(threads, results.y, rows * k, |group, y| {
                    let x = View::new(&operands.x[group * rows * j..][..rows * j], [rows, j]);
                    let w = View::new(&generated[group * k * j..][..k * j], [k, j]);
                    if let (Ok(x), Ok(w), Ok(y)) = (x, w, ViewMut::new(y, [rows, k])) {
                        product(library, 1, x, w.transpose(), y);
                    }
                });
            }
            if parts.x {
                each(threads, results.x, rows * j, |group, dx| {
                    let g = View::new(&operands.g[group * rows * k..][..rows * k], [rows, k]);
                    let w = View::new(&generated[group * k * j..][..k * j], [k, j]);
                    if let (Ok(g), Ok(w), Ok(dx)) = (g, w, ViewMut::new(dx, [rows, j])) {
                        product(library, 1, g, w, dx);
                    }
                });
            }
        }
        if !(parts.z || parts.w) {
            return Ok(());
        }
        each(threads, generated, k * j, |group, to| {
            let g = View::new(&operands.g[group * rows * k..][..rows * k], [rows, k]);
            let x = View::new(&operands.x[group * rows * j..][..rows * j], [rows, j]);
            if let (Ok(g), Ok(x), Ok(to)) = (g, x, ViewMut::new(to, [k, j])) {
                product(library, 1, g.transpose(), x, to);
            }
        });
        for (out, w) in w.chunks(i * j).enumerate() {
            let of_output = View::strided(&*generated, out * j, [n, j], strides)?;
            if parts.w {
                let to = ViewMut::new(&mut results.w[out * i * j..][..i * j], [i, j])?;
                product(library, threads, z.transpose(), of_output, to);
            }
            if parts.z {
                let to = ViewMut::new(&mut *part_of_dz, [n, i])?;
                product(library, threads, of_output, View::new(w, [i, j])?.transpose(), to);
                let one = T::from_f64(1.0);
                each(threads, results.z, i, |group, dz| accumulate(dz, out == 0, one, &part_of_dz[group * i..]));
            }
        }
        Ok(())
    })
}
