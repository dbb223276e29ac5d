//! What ours is measured against: the ways in which a program computes the same from a matrix product and loops.
//!
//! Each takes contiguous row-major operands, and is written as someone who cares about speed would write it: the
//! intermediate tensors are allocated once and reused, elementwise loops run on the same threads as the products.

use std::ops::{Add, Mul};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use trilinear::{Element, Result, View, ViewMut, bf16, f16};

/// Intermediate tensors larger than this are not formed: such baselines are left out.
const LARGEST_INTERMEDIATE: usize = 2 << 30;
/// Naive loops are left out above this many FLOPs.
const LARGEST_NAIVE: f64 = 20e6;

/// Sizes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows of z.
    pub(crate) n: usize,
    /// Rows of x for each row of z: more than 1 is a shared context.
    pub(crate) rows: usize,
    pub(crate) i: usize,
    pub(crate) j: usize,
    pub(crate) k: usize,
    /// The rank, for the CP form.
    pub(crate) r: Option<usize>,
}

/// The inputs of a call: `z` [n, i], `x` [n·rows, j].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands<'a, T> {
    pub(crate) z: &'a [T],
    pub(crate) x: &'a [T],
    pub(crate) weights: Weights<'a, T>,
}

/// W.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights<'a, T> {
    /// [k, i, j].
    Dense(&'a [T]),
    /// `a` [k, r], `b` [i, r], `c` [j, r].
    Cp { a: &'a [T], b: &'a [T], c: &'a [T] },
}

/// Computes `y` [n·rows, k].
type Run<T> = Box<dyn FnMut(Operands<'_, T>, &mut [T]) -> Result<()> + Send>;

/// One way to compute a call of one shape.
pub(crate) struct Baseline<T> {
    /// The way, and the library whose matrix product it uses.
    pub(crate) name: &'static str,
    run: Run<T>,
}

impl<T> Baseline<T> {
    /// Computes `y` [n·rows, k], in the rayon pool that it is called in. Errors: operands of another shape.
    pub(crate) fn run(&mut self, operands: Operands<'_, T>, y: &mut [T]) -> Result<()> {
        (self.run)(operands, y)
    }
}

/// Storage types that there are baselines for.
pub(crate) trait Baselines: Element {
    /// Every baseline for this shape on `threads` threads whose intermediates fit in `memory` bytes.
    fn baselines(shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<Self>>;
}

macro_rules! with_products {
    ($($real:ty, $product:path);+) => {$(
        impl Real for $real {
            unsafe fn matrixmultiply(
                [m, depth, n]: [usize; 3],
                (a, [ars, acs]): (*const Self, [isize; 2]),
                (b, [brs, bcs]): (*const Self, [isize; 2]),
                (c, [crs, ccs]): (*mut Self, [isize; 2]),
            ) {
                // SAFETY: the caller's contract is the same.
                unsafe { $product(m, depth, n, 1.0, a, ars, acs, b, brs, bcs, 0.0, c, crs, ccs) }
            }
        }
        impl Baselines for $real {
            fn baselines(shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<Self>> {
                let mut all = naive(shape, threads, |value| value, |sum| sum);
                all.extend(products(shape, threads, memory));
                all
            }
        }
    )+};
}
with_products!(f32, matrixmultiply::sgemm; f64, matrixmultiply::dgemm);

macro_rules! loops_only {
    ($($half:ty),+) => {$(
        impl Baselines for $half {
            fn baselines(shape: Shape, threads: usize, _memory: usize) -> Vec<Baseline<Self>> {
                naive(shape, threads, <$half>::to_f32, <$half>::from_f32)
            }
        }
    )+};
}
loops_only!(f16, bf16);

/// Types that both libraries multiply matrices of.
trait Real: Element + Add<Output = Self> + Mul<Output = Self> {
    /// C ← A·B, sizes [rows of C, depth, columns of C], each matrix with the strides of its rows and columns.
    ///
    /// # Safety
    ///
    /// As [`matrixmultiply::sgemm`]: everything that sizes and strides reach is there, and C is not shared.
    unsafe fn matrixmultiply(
        sizes: [usize; 3],
        a: (*const Self, [isize; 2]),
        b: (*const Self, [isize; 2]),
        c: (*mut Self, [isize; 2]),
    );
}

#[derive(Clone, Copy)]
enum Library {
    Gemm,
    MatrixMultiply,
}

impl Library {
    fn name(self, with_gemm: &'static str, with_matrixmultiply: &'static str) -> &'static str {
        match self {
            Library::Gemm => with_gemm,
            Library::MatrixMultiply => with_matrixmultiply,
        }
    }
}

/// C [m, n] ← A [m, depth] · B [depth, n].
fn product<T: Real>(library: Library, threads: usize, a: View<'_, T, 2>, b: View<'_, T, 2>, mut c: ViewMut<'_, T, 2>) {
    let ([m, depth], [b_rows, n]) = (a.shape(), b.shape());
    assert!(b_rows == depth && c.shape() == [m, n], "shapes of a matrix product");
    let (to, strides) = (c.as_mut_ptr(), c.strides());
    let ([ars, acs], [brs, bcs], [crs, ccs]) = (a.strides(), b.strides(), strides);
    match library {
        Library::Gemm => {
            let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
            let (zero, one) = (T::from_f64(0.0), T::from_f64(1.0));
            // SAFETY: a view is in bounds by construction, the mutable one is disjoint, and the sizes agree.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    depth,
                    to,
                    ccs,
                    crs,
                    false,
                    a.as_ptr(),
                    acs,
                    ars,
                    b.as_ptr(),
                    bcs,
                    brs,
                    zero,
                    one,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        }
        // It is built without threads of its own, so the larger side of C is cut into one part for each.
        Library::MatrixMultiply => {
            let to = Shared(to);
            let part = m.max(n).div_ceil(threads.max(1)).max(1);
            let work = |index: usize| {
                let start = index * part;
                let len = part.min(m.max(n).saturating_sub(start));
                let at = start as isize;
                let (sizes, [at_a, at_b, at_c]) = if m >= n {
                    ([len, depth, n], [at * ars, 0, at * crs])
                } else {
                    ([m, depth, len], [0, at * bcs, at * ccs])
                };
                if len == 0 {
                    return;
                }
                // SAFETY: as above; the parts of C are disjoint.
                unsafe {
                    T::matrixmultiply(
                        sizes,
                        (a.as_ptr().offset(at_a), [ars, acs]),
                        (b.as_ptr().offset(at_b), [brs, bcs]),
                        (to.get().offset(at_c), [crs, ccs]),
                    );
                }
            };
            if threads > 1 { (0..threads).into_par_iter().for_each(work) } else { work(0) }
        }
    }
}

/// A pointer whose users write to different places.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: as the type says.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as the type says.
unsafe impl<T: Send> Sync for Shared<T> {}

/// The memory of the intermediate tensors: shared by the baselines of one shape, of which one runs at a time.
#[derive(Clone)]
struct Scratch<T>(Arc<Mutex<Vec<T>>>);

impl<T: Element> Scratch<T> {
    fn lock(&self, len: usize) -> MutexGuard<'_, Vec<T>> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < len {
            *buffer = vec![T::default(); len];
        }
        buffer
    }
}

/// `work(row, part)` for each `len` elements of `data`.
fn each<T: Send>(threads: usize, data: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    if threads > 1 {
        data.par_chunks_mut(len).enumerate().for_each(|(row, part)| work(row, part));
    } else {
        data.chunks_mut(len).enumerate().for_each(|(row, part)| work(row, part));
    }
}

/// In sixteen sums, so that the compiler can use vectors.
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::default(); 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = *sum + a[lane] * b[lane];
        }
    }
    let tail = rest.fold(T::default(), |sum, (&a, &b)| sum + a * b);
    sums.into_iter().fold(tail, |sum, lane| sum + lane)
}

/// The definition as loops.
fn naive<T: Element, A: Copy + Default + Add<Output = A> + Mul<Output = A> + 'static>(
    shape: Shape,
    threads: usize,
    widen: fn(T) -> A,
    narrow: fn(A) -> T,
) -> Vec<Baseline<T>> {
    let Shape { n, rows, i, j, k, r } = shape;
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
    let run: Run<T> = Box::new(move |operands, y| {
        each(threads, y, k, |row, y| {
            let (z, x) = (&operands.z[row / rows * i..][..i], &operands.x[row * j..][..j]);
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
            }
        });
        Ok(())
    });
    vec![Baseline { name: "naive loops", run }]
}

/// Those that are made of matrix products.
fn products<T: Real>(shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<T>> {
    let scratch = Scratch(Arc::new(Mutex::new(Vec::new())));
    let Shape { n, rows, i, j, k, r } = shape;
    let total = n.saturating_mul(rows);
    let mut all = Vec::new();
    let mut add = |elements: Option<usize>, name: &'static str, run: Run<T>| {
        let bytes = elements.and_then(|elements| elements.checked_mul(size_of::<T>()));
        if bytes.is_some_and(|bytes| bytes <= LARGEST_INTERMEDIATE.min(memory)) {
            all.push(Baseline { name, run });
        }
    };
    let size = |lengths: &[usize]| lengths.iter().try_fold(1usize, |product, &len| product.checked_mul(len));
    for library in [Library::Gemm, Library::MatrixMultiply] {
        if let Some(r) = r {
            let elements = size(&[n, r]).zip(size(&[total, r])).and_then(|(p, q)| p.checked_add(q));
            let name = library.name("three GEMMs (gemm)", "three GEMMs (matrixmultiply)");
            add(elements, name, three_products(library, shape, r, threads, scratch.clone()));
            continue;
        }
        let name = library.name("outer product + GEMM (gemm)", "outer product + GEMM (matrixmultiply)");
        add(size(&[total, i, j]), name, outer_product(library, shape, threads, scratch.clone()));
        let name = library.name("two GEMMs (gemm)", "two GEMMs (matrixmultiply)");
        add(size(&[total, k, i]), name, two_products(library, shape, threads, scratch.clone()));
        if rows > 1 {
            let name = library.name("z first, GEMMs (gemm)", "z first, GEMMs (matrixmultiply)");
            add(size(&[n, k, j]), name, context_first(library, shape, threads, scratch.clone()));
        }
    }
    all
}

fn dense<'a, T>(operands: &Operands<'a, T>) -> &'a [T] {
    match operands.weights {
        Weights::Dense(w) => w,
        Weights::Cp { .. } => &[],
    }
}

/// z⊗x [N, I·J] in memory, then one product with W.
fn outer_product<T: Real>(library: Library, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    let total = n * rows;
    Box::new(move |operands, y| {
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
    Box::new(move |operands, y| {
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

/// Shared context: W′ = zᵀW [G, K, J] by one product for each output, then one with x for each group.
fn context_first<T: Real>(library: Library, shape: Shape, threads: usize, scratch: Scratch<T>) -> Run<T> {
    let Shape { n, rows, i, j, k, .. } = shape;
    Box::new(move |operands, y| {
        let mut buffer = scratch.lock(n * k * j);
        let generated = &mut buffer[..n * k * j];
        let z = View::new(operands.z, [n, i])?;
        for (out, w) in dense(&operands).chunks(i * j).enumerate() {
            let to = ViewMut::strided(generated, out * j, [n, j], [(k * j) as isize, 1])?;
            product(library, threads, z, View::new(w, [i, j])?, to);
        }
        each(threads, y, rows * k, |group, y| {
            let x = View::new(&operands.x[group * rows * j..][..rows * j], [rows, j]);
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
    Box::new(move |operands, y| {
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
