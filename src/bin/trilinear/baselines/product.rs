//! Matrix products of both libraries, on contiguous or strided matrices, and loops beside them.

use std::ops::{Add, Mul, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use trilinear::{Element, View, ViewMut};

/// Types that both libraries multiply matrices of.
pub(super) trait Real:
    Element<Accumulator = Self> + Add<Output = Self> + Mul<Output = Self> + Sub<Output = Self>
{
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
pub(super) enum Library {
    Gemm,
    MatrixMultiply,
}

impl Library {
    pub(super) fn name(self, with_gemm: &'static str, with_matrixmultiply: &'static str) -> &'static str {
        match self {
            Library::Gemm => with_gemm,
            Library::MatrixMultiply => with_matrixmultiply,
        }
    }
}

/// C [m, n] ← A [m, depth] · B [depth, n].
pub(super) fn product<T: Real>(
    library: Library,
    threads: usize,
    a: View<'_, T, 2>,
    b: View<'_, T, 2>,
    mut c: ViewMut<'_, T, 2>,
) {
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
pub(super) struct Scratch<T>(Arc<Mutex<Vec<T>>>);

impl<T: Element> Scratch<T> {
    pub(super) fn none() -> Self {
        Scratch(Arc::new(Mutex::new(Vec::new())))
    }

    pub(super) fn lock(&self, len: usize) -> MutexGuard<'_, Vec<T>> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < len {
            *buffer = vec![T::default(); len];
        }
        buffer
    }
}

/// `work(row, part)` for each `len` elements of `data`.
pub(super) fn each<T: Send>(threads: usize, data: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    if threads > 1 {
        data.par_chunks_mut(len).enumerate().for_each(|(row, part)| work(row, part));
    } else {
        data.chunks_mut(len).enumerate().for_each(|(row, part)| work(row, part));
    }
}

/// In sixteen sums, so that the compiler can use vectors.
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
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
