//! Gradients of CP by matrix products: P = zB, Q = xC and dH = gA in memory [N, R], and
//!
//! ```text
//!   y = (P⊙Q)Aᵀ   dA = gᵀ(P⊙Q)   dB = zᵀ(dH⊙Q)   dC = xᵀ(dH⊙P)   dz = (dH⊙Q)Bᵀ   dx = (dH⊙P)Cᵀ
//! ```

use trilinear::{View, ViewMut};

use super::product::{Library, Real, Scratch, each, product};
use super::{Operands, Run, Weights};
use crate::work::{Pass, Shape, Work};

/// The gradients, and y too if it is wanted. What the backward pass may have saved, it takes from its first call.
pub(super) fn products<T: Real>(
    library: Library,
    work: Work,
    shape: Shape,
    r: usize,
    threads: usize,
    scratch: Scratch<T>,
) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let (total, parts) = (n * rows, work.parts(shape));
    let y = work.forward();
    let (needs_p, needs_q) = (y || parts.a || parts.c || parts.x, y || parts.a || parts.b || parts.z);
    let mut kept: Vec<T> = Vec::new();
    Box::new(move |operands, results| {
        let Operands { z, x, g, weights: Weights::Cp { a, b, c } } = operands else { return Ok(()) };
        let mut buffer = scratch.lock((2 * n + 3 * total) * r);
        let (of_z, rest) = buffer.split_at_mut(n * r);
        let (p, rest) = rest.split_at_mut(n * r);
        let (q, rest) = rest.split_at_mut(total * r);
        let (dh, rest) = rest.split_at_mut(total * r);
        let of_x = &mut rest[..total * r];
        let [z, x] = [View::new(z, [n, i])?, View::new(x, [total, j])?];
        let [a, b, c] = [View::new(a, [k, r])?, View::new(b, [i, r])?, View::new(c, [j, r])?];
        if kept.is_empty() {
            if needs_p {
                product(library, threads, z, b, ViewMut::new(&mut *p, [n, r])?);
            }
            if needs_q {
                product(library, threads, x, c, ViewMut::new(&mut *q, [total, r])?);
            }
            if work.saved && work.pass == Pass::Backward {
                kept.extend_from_slice(p);
                kept.extend_from_slice(q);
            }
        }
        let (p, q) = if kept.is_empty() { (&*p, &*q) } else { kept.split_at(n * r) };
        let times_p = |from: &[T], to: &mut [T]| {
            each(threads, to, r, |row, to| {
                let factors = from[row * r..].iter().zip(&p[row / rows * r..]);
                to.iter_mut().zip(factors).for_each(|(to, (&from, &p))| *to = from * p);
            });
        };

        if y || parts.a {
            times_p(q, of_x);
            let h = View::new(&*of_x, [total, r])?;
            if y {
                product(library, threads, h, a.transpose(), ViewMut::new(results.y, [total, k])?);
            }
            if parts.a {
                let g = View::new(g, [total, k])?;
                product(library, threads, g.transpose(), h, ViewMut::new(results.a, [k, r])?);
            }
        }
        if parts.z || parts.x || parts.b || parts.c {
            product(library, threads, View::new(g, [total, k])?, a, ViewMut::new(&mut *dh, [total, r])?);
        }
        if parts.b || parts.z {
            // Summed over the rows that share z.
            each(threads, of_z, r, |group, to| {
                for row in group * rows..(group + 1) * rows {
                    let factors = dh[row * r..].iter().zip(&q[row * r..]);
                    for (to, (&dh, &q)) in to.iter_mut().zip(factors) {
                        *to = if row == group * rows { dh * q } else { *to + dh * q };
                    }
                }
            });
            let dp = View::new(&*of_z, [n, r])?;
            if parts.b {
                product(library, threads, z.transpose(), dp, ViewMut::new(results.b, [i, r])?);
            }
            if parts.z {
                product(library, threads, dp, b.transpose(), ViewMut::new(results.z, [n, i])?);
            }
        }
        if parts.c || parts.x {
            times_p(dh, of_x);
            let dq = View::new(&*of_x, [total, r])?;
            if parts.c {
                product(library, threads, x.transpose(), dq, ViewMut::new(results.c, [j, r])?);
            }
            if parts.x {
                product(library, threads, dq, c.transpose(), ViewMut::new(results.x, [total, j])?);
            }
        }
        Ok(())
    })
}
