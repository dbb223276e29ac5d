//! What users write without this crate: the same results by plain loops, and by a GEMM with an intermediate in memory.
//!
//! All operands are row-major: z [N, I], x [N, J], w [K, I, J], y [N, K]; CP factors a [K, R], b [I, R], c [J, R].
//! Each baseline is given its intermediate, so that no allocation is timed.

use trilinear::Element;

/// The two GEMM libraries, each on one thread.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Library {
    Gemm,
    MatrixMultiply,
}

impl Library {
    pub(crate) const ALL: [Library; 2] = [Library::Gemm, Library::MatrixMultiply];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Library::Gemm => "gemm",
            Library::MatrixMultiply => "matrixmultiply",
        }
    }
}

/// Sizes of a problem; R is 0 if there is no CP form, `rows` the rows of x for each of the N rows of z.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) n: usize,
    pub(crate) rows: usize,
    pub(crate) i: usize,
    pub(crate) j: usize,
    pub(crate) k: usize,
    pub(crate) r: usize,
}

/// A matrix operand: its elements, and the distances between its rows and between its columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T>(pub(crate) &'a [T], pub(crate) usize, pub(crate) usize);

impl<T> Matrix<'_, T> {
    fn check(&self, rows: usize, columns: usize) {
        assert!(rows > 0 && columns > 0 && (rows - 1) * self.1 + (columns - 1) * self.2 < self.0.len());
    }
}

/// The types that both libraries multiply.
pub(crate) trait Float: Element + std::ops::Mul<Output = Self> + std::ops::AddAssign {
    const ZERO: Self;

    /// c [m, n] = a [m, depth] · b [depth, n]; `sizes` are m, n and depth, and `c` comes with the distance between rows.
    fn multiply(library: Library, sizes: [usize; 3], a: Matrix<'_, Self>, b: Matrix<'_, Self>, c: (&mut [Self], usize));
}

macro_rules! float {
    ($type:ty, $matrixmultiply:path) => {
        impl Float for $type {
            const ZERO: Self = 0.0;

            fn multiply(
                library: Library,
                [m, n, depth]: [usize; 3],
                a: Matrix<'_, Self>,
                b: Matrix<'_, Self>,
                (c, c_stride): (&mut [Self], usize),
            ) {
                a.check(m, depth);
                b.check(depth, n);
                Matrix(&*c, c_stride, 1).check(m, n);
                assert!(n <= c_stride);
                let [ar, ac, br, bc, cr] = [a.1, a.2, b.1, b.2, c_stride].map(|stride| stride as isize);
                let (a, b, c) = (a.0.as_ptr(), b.0.as_ptr(), c.as_mut_ptr());
                // SAFETY: all three operands are within their slices, and rows of c do not overlap: checked above.
                unsafe {
                    match library {
                        Library::Gemm => {
                            let serial = gemm::Parallelism::None;
                            gemm::gemm(
                                m, n, depth, c, 1, cr, false, a, ac, ar, b, bc, br, 0.0, 1.0, false, false, false,
                                serial,
                            );
                        }
                        Library::MatrixMultiply => {
                            $matrixmultiply(m, depth, n, 1.0, a, ar, ac, b, br, bc, 0.0, c, cr, 1)
                        }
                    }
                }
            }
        }
    };
}
float!(f32, matrixmultiply::sgemm);
float!(f64, matrixmultiply::dgemm);

/// The definition. No intermediate.
pub(crate) fn naive<T: Float>(s: Sizes, w: &[T], z: &[T], x: &[T], y: &mut [T]) {
    for n in 0..s.n {
        let (z, x) = (&z[n * s.i..][..s.i], &x[n * s.j..][..s.j]);
        for k in 0..s.k {
            let mut sum = T::ZERO;
            for (i, &z) in z.iter().enumerate() {
                for (&w, &x) in w[(k * s.i + i) * s.j..][..s.j].iter().zip(x) {
                    sum += w * z * x;
                }
            }
            y[n * s.k + k] = sum;
        }
    }
}

/// y = (z⊗x) Wᵀ. Intermediate: N·I·J.
pub(crate) fn outer_product<T: Float>(
    library: Library,
    s: Sizes,
    w: &[T],
    z: &[T],
    x: &[T],
    products: &mut [T],
    y: &mut [T],
) {
    let depth = s.i * s.j;
    for ((products, z), x) in products.chunks_exact_mut(depth).zip(z.chunks_exact(s.i)).zip(x.chunks_exact(s.j)) {
        for (products, &z) in products.chunks_exact_mut(s.j).zip(z) {
            for (product, &x) in products.iter_mut().zip(x) {
                *product = z * x;
            }
        }
    }
    T::multiply(library, [s.n, s.k, depth], Matrix(products, depth, 1), Matrix(w, 1, depth), (y, s.k));
}

/// x Wᵀ for all of W's K·I rows at once, then the dots with z. Intermediate: N·K·I.
pub(crate) fn two_gemms<T: Float>(library: Library, s: Sizes, w: &[T], z: &[T], x: &[T], inner: &mut [T], y: &mut [T]) {
    let width = s.k * s.i;
    T::multiply(library, [s.n, width, s.j], Matrix(x, s.j, 1), Matrix(w, 1, s.j), (inner, width));
    for ((inner, z), y) in inner.chunks_exact(width).zip(z.chunks_exact(s.i)).zip(y.chunks_exact_mut(s.k)) {
        for (inner, y) in inner.chunks_exact(s.i).zip(y) {
            *y = dot(inner, z);
        }
    }
}

/// The same, one output after the other, as `torch.nn.functional.bilinear` does it. Intermediate: N·J.
pub(crate) fn gemm_per_output<T: Float>(
    library: Library,
    s: Sizes,
    w: &[T],
    z: &[T],
    x: &[T],
    inner: &mut [T],
    y: &mut [T],
) {
    for (k, w) in w.chunks_exact(s.i * s.j).enumerate() {
        T::multiply(library, [s.n, s.j, s.i], Matrix(z, s.i, 1), Matrix(w, s.j, 1), (inner, s.j));
        for (n, (inner, x)) in inner.chunks_exact(s.j).zip(x.chunks_exact(s.j)).enumerate() {
            y[n * s.k + k] = dot(inner, x);
        }
    }
}

/// Shared context: W′ = zᵀW by K GEMMs, then one GEMM for each row of z. Intermediate: N·K·J.
pub(crate) fn shared<T: Float>(
    library: Library,
    s: Sizes,
    w: &[T],
    z: &[T],
    x: &[T],
    generated: &mut [T],
    y: &mut [T],
) {
    let width = s.k * s.j;
    for (k, w) in w.chunks_exact(s.i * s.j).enumerate() {
        let to = (&mut generated[k * s.j..], width);
        T::multiply(library, [s.n, s.j, s.i], Matrix(z, s.i, 1), Matrix(w, s.j, 1), to);
    }
    let groups = generated.chunks_exact(width).zip(x.chunks_exact(s.rows * s.j)).zip(y.chunks_exact_mut(s.rows * s.k));
    for ((generated, x), y) in groups {
        T::multiply(library, [s.rows, s.k, s.j], Matrix(x, s.j, 1), Matrix(generated, 1, s.j), (y, s.k));
    }
}

/// CP: (zB ⊙ xC) Aᵀ. Intermediates: two of N·R.
pub(crate) fn three_gemms<T: Float>(
    library: Library,
    s: Sizes,
    [a, b, c]: [&[T]; 3],
    z: &[T],
    x: &[T],
    [p, q]: [&mut [T]; 2],
    y: &mut [T],
) {
    T::multiply(library, [s.n, s.r, s.i], Matrix(z, s.i, 1), Matrix(b, s.r, 1), (p, s.r));
    T::multiply(library, [s.n, s.r, s.j], Matrix(x, s.j, 1), Matrix(c, s.r, 1), (q, s.r));
    for (p, &q) in p.iter_mut().zip(&*q) {
        *p = *p * q;
    }
    T::multiply(library, [s.n, s.k, s.r], Matrix(p, s.r, 1), Matrix(a, 1, s.r), (y, s.k));
}

/// In eight parts, so that the compiler can use vectors.
fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    let (mut sums, mut total) = ([T::ZERO; 8], T::ZERO);
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    for (&a, &b) in a.remainder().iter().zip(b.remainder()) {
        total += a * b;
    }
    for (a, b) in a.zip(b) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    for sum in sums {
        total += sum;
    }
    total
}
