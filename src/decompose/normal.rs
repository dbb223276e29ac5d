//! The normal equations of one factor, F·G = M: G [R, R] symmetric and positive semidefinite, F and M [rows, R].

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{MatMut, MatRef, Par};

use crate::{Error, Result, Tensor};

/// Sweeps of non-negative coordinate descent for each update: the products with W cost more than several of them
/// (Gillis and Glineur, *Accelerated Multiplicative Updates and Hierarchical ALS Algorithms*, Neural Computation 2012).
const SWEEPS: usize = 4;

/// The equations of an update, and the memory for their solution. A pivot below `least` of the largest makes G count as singular.
pub(super) struct Normal {
    pub(super) g: Tensor<f64, 2>,
    rank: usize,
    factor: Vec<f64>,
    least: f64,
}

impl Normal {
    /// For ranks of at most `rank`, and M with relative errors of `roundoff`.
    pub(super) fn new(rank: usize, roundoff: f64) -> Result<Self> {
        // What errors of M cost in the squared distance is divided by the smallest eigenvalue, in units of G's.
        let least = (8.0 * rank as f64 * f64::EPSILON).max(1e4 * roundoff * roundoff);
        let g = Tensor::zeros([rank, rank])?;
        Ok(Normal { g, rank, factor: Tensor::zeros([rank, rank])?.into_vec(), least })
    }

    /// The rank of the next equations.
    pub(super) fn set_rank(&mut self, rank: usize) {
        self.rank = rank;
    }

    /// Makes of M in `m` the F of least ‖F·G − M‖, by Cholesky's decomposition. If G is singular, the change from `old` is solved for
    /// without the eigenvectors of eigenvalue zero, so that the distance from W does not grow. Errors: those of allocation, and
    /// [`Error::NotFinite`].
    pub(super) fn solve(&mut self, m: &mut [f64], old: impl Fn(usize) -> f64) -> Result<()> {
        let r = self.rank;
        if r == 0 || m.is_empty() {
            return Ok(());
        }
        let (g, rows) = (&self.g.as_slice()[..r * r], m.len() / r);
        let largest = (0..r).map(|at| g[at * r + at]).fold(0.0, f64::max);
        if !(largest.is_finite() && g.iter().all(|value| value.is_finite())) {
            return Err(Error::NotFinite { operand: "w" });
        }
        let factor = &mut self.factor[..r * r];
        factor.copy_from_slice(g);
        let mut memory = buffer(llt::factor::cholesky_in_place_scratch::<f64>(r, Par::Seq, Default::default()))?;
        let (stack, mut l) = (MemStack::new(&mut memory), MatMut::from_column_major_slice_mut(factor, r, r));
        let done = llt::factor::cholesky_in_place(l.rb_mut(), Default::default(), Par::Seq, stack, Default::default());
        let regular = (0..r).all(|at| l[(at, at)] * l[(at, at)] > self.least * largest);
        if done.is_ok() && regular {
            // Rows of M are columns of its transpose.
            let m = MatMut::from_column_major_slice_mut(m, r, rows);
            llt::solve::solve_in_place(l.rb(), m, Par::Seq, MemStack::new(&mut []));
            return Ok(());
        }
        self.solve_singular(m, old)
    }

    #[cold]
    fn solve_singular(&mut self, m: &mut [f64], old: impl Fn(usize) -> f64) -> Result<()> {
        let r = self.rank;
        let g = &self.g.as_slice()[..r * r];
        let (values, vectors) = eigen(g, r)?;
        let largest = values.iter().copied().fold(0.0, f64::max);
        let mut change = vec![0.0; r];
        for (row, m) in m.chunks_exact_mut(r).enumerate() {
            let old = |at: usize| old(row * r + at);
            for (at, change) in change.iter_mut().enumerate() {
                *change = m[at] - (0..r).map(|of| old(of) * g[of * r + at]).sum::<f64>();
            }
            for (at, m) in m.iter_mut().enumerate() {
                *m = old(at);
            }
            for (value, vector) in values.iter().zip(vectors.chunks_exact(r)) {
                if *value > self.least * largest {
                    let along = vector.iter().zip(&change).map(|(v, c)| v * c).sum::<f64>() / value;
                    m.iter_mut().zip(vector).for_each(|(m, v)| *m += along * v);
                }
            }
        }
        Ok(())
    }

    /// Makes of M in `m` an F without negative elements, by coordinate descent on its columns from `old`.
    pub(super) fn solve_nonnegative(&mut self, m: &mut [f64], old: impl Fn(usize) -> f64) -> Result<()> {
        let r = self.rank;
        let g = &self.g.as_slice()[..r * r];
        let mut f = vec![0.0; r];
        for (row, m) in m.chunks_exact_mut(r.max(1)).enumerate() {
            f.iter_mut().enumerate().for_each(|(at, f)| *f = old(row * r + at).max(0.0));
            for _ in 0..SWEEPS {
                for at in 0..r {
                    let (g, pivot) = (&g[at * r..][..r], g[at * r + at]);
                    if pivot > 0.0 {
                        let sum: f64 = f.iter().zip(g).map(|(f, g)| f * g).sum();
                        f[at] = (f[at] + (m[at] - sum) / pivot).max(0.0);
                    }
                }
            }
            m.copy_from_slice(&f);
        }
        Ok(())
    }
}

/// Eigenvalues of a symmetric matrix [n, n], ascending, and their vectors, one a row. Errors: those of allocation, and
/// [`Error::NotFinite`].
pub(super) fn eigen(matrix: &[f64], n: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut values, mut vectors) = (Tensor::zeros([n])?.into_vec(), Tensor::zeros([n, n])?.into_vec());
    if n == 0 {
        return Ok((values, vectors));
    }
    if !matrix.iter().all(|value| value.is_finite()) {
        return Err(Error::NotFinite { operand: "w" });
    }
    let (compute, params) = (ComputeEigenvectors::Yes, Default::default());
    let mut memory = buffer(self_adjoint_evd_scratch::<f64>(n, compute, Par::Seq, params))?;
    let u = MatMut::from_column_major_slice_mut(&mut vectors, n, n);
    let s = faer::ColMut::from_slice_mut(&mut values).as_diagonal_mut();
    let matrix = MatRef::from_column_major_slice(matrix, n, n);
    self_adjoint_evd(matrix, s, Some(u), Par::Seq, MemStack::new(&mut memory), params)
        .map_err(|_| Error::NotFinite { operand: "w" })?;
    Ok((values, vectors))
}

fn buffer(needed: faer::dyn_stack::StackReq) -> Result<MemBuffer> {
    MemBuffer::try_new(needed).map_err(|_| Error::OutOfMemory { bytes: needed.size_bytes() })
}
