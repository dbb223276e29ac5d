//! The forward pass of the forms of W, by matrix products of the crate `gemm` and loops.

use trilinear::{View, ViewMut};

use super::product::{Library, Real, Scratch, dot, each, product};
use super::{Baseline, LARGEST_INTERMEDIATE, Operands, Results, Run, Weights, forward};
use crate::forms::{Core, Structure};
use crate::work::Shape;

/// Those that there are, whose intermediates fit in `memory` bytes.
pub(super) fn products<T: Real>(form: Structure, shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<T>> {
    let Shape { n, rows, i, .. } = shape;
    let mut all: Vec<Baseline<T>> = Vec::new();
    let mut add = |elements: &[usize], name: &'static str, run: Run<T>| {
        let bytes = elements.iter().try_fold(size_of::<T>(), |product, &len| product.checked_mul(len));
        if bytes.is_some_and(|bytes| bytes <= LARGEST_INTERMEDIATE.min(memory)) {
            all.push(Baseline { name, run });
        }
    };
    let total = n.saturating_mul(rows);
    match form {
        Structure::Attend => return attend(shape, threads, memory),
        Structure::Mahalanobis => add(&[2, n, i], "GEMM and loops (gemm)", distances(shape, threads)),
        Structure::Blocks { core: Core::Dense([ra, rb, rc]), count, .. } => {
            let sizes = Sizes { shape, count, ranks: [ra, rb, rc] };
            if rows == 1 {
                add(&[n, rb, rc], "P⊗Q and GEMMs (gemm)", outer_product(sizes, threads));
            }
            add(&[n, ra, rc], "core first, GEMMs (gemm)", core_first(sizes, threads));
        }
        Structure::Blocks { core: Core::Identity(r), columns: [1, b, _], .. } if b > 0 => {
            add(&[2, total, r], "two GEMMs and dots (gemm)", metric(shape, r, threads));
        }
        Structure::Blocks { core: Core::Identity(_), columns: [1, ..], .. } => add(&[0], "loop", inner(shape, threads)),
        Structure::Blocks { columns: [_, b, _], .. } if b > 0 => {
            add(&[n, b], "GEMM and loop (gemm)", gate(shape, threads));
        }
        Structure::Blocks { .. } => add(&[0], "loop", diagonal(shape, threads)),
    }
    all
}

fn parts<'a, T>(operands: &Operands<'a, T>) -> [&'a [T]; 4] {
    match operands.weights {
        Weights::Structured { core, a, b, c } => [core, a, b, c],
        Weights::Dense(_) | Weights::Cp { .. } => [&[]; 4],
    }
}

/// y = d⊙z⊙x.
fn diagonal<T: Real>(shape: Shape, threads: usize) -> Run<T> {
    let Shape { rows, k, .. } = shape;
    Box::new(move |operands, Results { y, .. }| {
        let [d, ..] = parts(&operands);
        // As many rows at once as a thread is worth waking for.
        let many = (1 << 16 >> k.ilog2()).max(1);
        each(threads, y, many * k, |block, y| {
            for (at, y) in y.chunks_mut(k).enumerate() {
                let row = block * many + at;
                let (z, x) = (&operands.z[row / rows * k..][..k], &operands.x[row * k..][..k]);
                for (((y, &z), &x), &d) in y.iter_mut().zip(z).zip(x).zip(d) {
                    *y = d * z * x;
                }
            }
        });
        Ok(())
    })
}

/// y = a zᵀx.
fn inner<T: Real>(shape: Shape, threads: usize) -> Run<T> {
    let Shape { rows, i, .. } = shape;
    Box::new(move |operands, Results { y, .. }| {
        let [_, a, ..] = parts(&operands);
        let many = (1 << 16 >> i.ilog2()).max(1);
        each(threads, y, many, |block, y| {
            for (at, y) in y.iter_mut().enumerate() {
                let row = block * many + at;
                *y = a[0] * dot(&operands.z[row / rows * i..][..i], &operands.x[row * i..][..i]);
            }
        });
        Ok(())
    })
}

/// y = a (zB)ᵀ(xC).
fn metric<T: Real>(shape: Shape, r: usize, threads: usize) -> Run<T> {
    let Shape { n, rows, i, j, .. } = shape;
    let (total, scratch) = (n * rows, Scratch::none());
    Box::new(move |operands, Results { y, .. }| {
        let [_, a, b, c] = parts(&operands);
        let mut buffer = scratch.lock((n + total) * r);
        let (p, q) = buffer[..(n + total) * r].split_at_mut(n * r);
        let (z, x) = (View::new(operands.z, [n, i])?, View::new(operands.x, [total, j])?);
        product(Library::Gemm, threads, z, View::new(b, [i, r])?, ViewMut::new(&mut *p, [n, r])?);
        product(Library::Gemm, threads, x, View::new(c, [j, r])?, ViewMut::new(&mut *q, [total, r])?);
        for (row, (y, q)) in y.iter_mut().zip(q.chunks(r)).enumerate() {
            *y = a[0] * dot(&p[row / rows * r..][..r], q);
        }
        Ok(())
    })
}

/// y = (zB)⊙x.
fn gate<T: Real>(shape: Shape, threads: usize) -> Run<T> {
    let Shape { n, rows, i, k, .. } = shape;
    let scratch = Scratch::none();
    Box::new(move |operands, Results { y, .. }| {
        let [_, _, b, _] = parts(&operands);
        let (z, b) = (View::new(operands.z, [n, i])?, View::new(b, [i, k])?);
        if rows == 1 {
            product(Library::Gemm, threads, z, b, ViewMut::new(&mut *y, [n, k])?);
            each(threads, y, k, |row, y| {
                y.iter_mut().zip(&operands.x[row * k..]).for_each(|(y, &x)| *y = *y * x);
            });
            return Ok(());
        }
        let mut buffer = scratch.lock(n * k);
        let p = &mut buffer[..n * k];
        product(Library::Gemm, threads, z, b, ViewMut::new(&mut *p, [n, k])?);
        each(threads, y, k, |row, y| {
            let factors = p[row / rows * k..].iter().zip(&operands.x[row * k..]);
            y.iter_mut().zip(factors).for_each(|(y, (&p, &x))| *y = p * x);
        });
        Ok(())
    })
}

/// Blocks with a dense core and all factors.
#[derive(Clone, Copy)]
struct Sizes {
    shape: Shape,
    count: usize,
    ranks: [usize; 3],
}

/// Each block's share of y, from P and Q through `hidden`, which makes H [N, Ra] of the core, P and Q in the rest of its scratch.
fn tucker<T: Real>(
    sizes: Sizes,
    threads: usize,
    room: usize,
    hidden: impl Fn(&[T], [&[T]; 2], &mut [T], &mut [T]) -> trilinear::Result<()> + Send + 'static,
) -> Run<T> {
    let Sizes { shape: Shape { n, rows, i, j, k, .. }, count, ranks: [ra, rb, rc] } = sizes;
    let (total, scratch) = (n * rows, Scratch::none());
    Box::new(move |operands, Results { y, .. }| {
        let [cores, a, b, c] = parts(&operands);
        let share = if count > 1 { total * k } else { 0 };
        let mut buffer = scratch.lock(n * rb + total * (rc + ra) + share + room);
        let (p, rest) = buffer.split_at_mut(n * rb);
        let (q, rest) = rest.split_at_mut(total * rc);
        let (h, rest) = rest.split_at_mut(total * ra);
        let (of_block, rest) = rest.split_at_mut(share);
        let (z, x) = (View::new(operands.z, [n, i])?, View::new(operands.x, [total, j])?);
        for index in 0..count {
            let b = View::new(&b[index * i * rb..][..i * rb], [i, rb])?;
            let c = View::new(&c[index * j * rc..][..j * rc], [j, rc])?;
            let a = View::new(&a[index * k * ra..][..k * ra], [k, ra])?;
            product(Library::Gemm, threads, z, b, ViewMut::new(&mut *p, [n, rb])?);
            product(Library::Gemm, threads, x, c, ViewMut::new(&mut *q, [total, rc])?);
            hidden(&cores[index * ra * rb * rc..][..ra * rb * rc], [p, q], h, rest)?;
            let h = View::new(&*h, [total, ra])?;
            if index == 0 {
                product(Library::Gemm, threads, h, a.transpose(), ViewMut::new(&mut *y, [total, k])?);
                continue;
            }
            product(Library::Gemm, threads, h, a.transpose(), ViewMut::new(&mut *of_block, [total, k])?);
            each(threads, y, k, |row, y| {
                y.iter_mut().zip(&of_block[row * k..]).for_each(|(y, &share)| *y = *y + share);
            });
        }
        Ok(())
    })
}

/// P⊗Q [N, Rb·Rc] in memory, then one product with the core.
fn outer_product<T: Real>(sizes: Sizes, threads: usize) -> Run<T> {
    let Sizes { shape: Shape { n, .. }, ranks: [ra, rb, rc], .. } = sizes;
    tucker(sizes, threads, n * rb * rc, move |core, [p, q], h, outer| {
        let outer = &mut outer[..n * rb * rc];
        each(threads, outer, rb * rc, |row, outer| {
            for (&p, outer) in p[row * rb..].iter().zip(outer.chunks_mut(rc)) {
                outer.iter_mut().zip(&q[row * rc..]).for_each(|(outer, &q)| *outer = p * q);
            }
        });
        let core = View::new(core, [ra, rb * rc])?;
        let to = ViewMut::new(h, [n, ra])?;
        product(Library::Gemm, threads, View::new(&*outer, [n, rb * rc])?, core.transpose(), to);
        Ok(())
    })
}

/// The core contracted with P [N, Ra, Rc] in memory, one product for each of its outputs, then dots with Q.
fn core_first<T: Real>(sizes: Sizes, threads: usize) -> Run<T> {
    let Sizes { shape: Shape { n, rows, .. }, ranks: [ra, rb, rc], .. } = sizes;
    tucker(sizes, threads, n * ra * rc, move |core, [p, q], h, contracted| {
        let contracted = &mut contracted[..n * ra * rc];
        let p = View::new(p, [n, rb])?;
        for (out, core) in core.chunks(rb * rc).enumerate() {
            let to = ViewMut::strided(contracted, out * rc, [n, rc], [(ra * rc) as isize, 1])?;
            product(Library::Gemm, threads, p, View::new(core, [rb, rc])?, to);
        }
        each(threads, h, ra, |row, h| {
            let q = &q[row * rc..][..rc];
            for (h, contracted) in h.iter_mut().zip(contracted[row / rows * ra * rc..].chunks(rc)) {
                *h = dot(contracted, q);
            }
        });
        Ok(())
    })
}

/// M by each of its baselines, then times x.
fn attend<T: Real>(shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<T>> {
    let Shape { j, .. } = shape;
    let gated = |mut of_m: Baseline<T>| {
        let name = of_m.name;
        let run: Run<T> = Box::new(move |operands, Results { y, z, x, w, a, b, c }| {
            let [core, ..] = parts(&operands);
            let weights = Weights::Dense(core);
            of_m.run(Operands { weights, ..operands }, Results { y: &mut *y, z, x, w, a, b, c })?;
            each(threads, y, j, |row, y| {
                y.iter_mut().zip(&operands.x[row * j..]).for_each(|(y, &x)| *y = *y * x);
            });
            Ok(())
        });
        Baseline { name, run }
    };
    forward::products(Shape { r: None, ..shape }, threads, memory).into_iter().map(gated).collect()
}

/// D = z − x and PD in memory, then dots.
fn distances<T: Real>(shape: Shape, threads: usize) -> Run<T> {
    let Shape { n, i, .. } = shape;
    let scratch = Scratch::none();
    Box::new(move |operands, Results { y, .. }| {
        let [p, ..] = parts(&operands);
        let mut buffer = scratch.lock(2 * n * i);
        let (d, f) = buffer[..2 * n * i].split_at_mut(n * i);
        each(threads, d, i, |row, d| {
            let inputs = operands.z[row * i..].iter().zip(&operands.x[row * i..]);
            d.iter_mut().zip(inputs).for_each(|(d, (&z, &x))| *d = z - x);
        });
        let p = View::new(p, [i, i])?;
        product(Library::Gemm, threads, View::new(&*d, [n, i])?, p.transpose(), ViewMut::new(&mut *f, [n, i])?);
        for (y, (d, f)) in y.iter_mut().zip(d.chunks(i).zip(f.chunks(i))) {
            *y = dot(d, f);
        }
        Ok(())
    })
}
