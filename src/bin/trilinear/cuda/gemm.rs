//! Matrix products by cuBLAS, of row-major matrices in a device's memory.

use std::ffi::c_void;
use std::fmt;

use anyhow::{Result, bail};
use cudarc::cublas::{result, sys};
use sys::cublasComputeType_t as Compute;
use sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use trilinear::{DType, Element};

use super::tensors::Flat;

/// cuBLAS, on the default stream.
pub(crate) struct Blas {
    handle: sys::cublasHandle_t,
    tf32: bool,
}

/// Why there is no cuBLAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBlas {
    /// The library was not found.
    Absent,
    /// It does not start.
    Failed(result::CublasError),
}

impl fmt::Display for NoBlas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoBlas::Absent => f.write_str("no baselines: cuBLAS (libcublas) is not installed"),
            NoBlas::Failed(error) => write!(f, "no baselines: cuBLAS (libcublas) does not start: {error}"),
        }
    }
}

/// Rows × columns of each of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    address: u64,
    kind: DType,
    /// Elements from one row of what is stored to the next.
    pitch: usize,
    /// Elements from one matrix of the batch to the next.
    stride: usize,
    /// What is stored is the transpose.
    transposed: bool,
}

impl Matrix {
    /// From the tensor's first element on.
    pub(crate) fn of<T: Element>(tensor: &Flat<T>, pitch: usize, stride: usize) -> Matrix {
        Matrix { address: tensor.address(), kind: T::DTYPE, pitch, stride, transposed: false }
    }

    pub(crate) fn t(self) -> Matrix {
        Matrix { transposed: !self.transposed, ..self }
    }

    /// From `elements` later on.
    pub(crate) fn at(self, elements: usize) -> Matrix {
        Matrix { address: self.address + (elements * self.kind.bytes()) as u64, ..self }
    }

    fn operation(self) -> sys::cublasOperation_t {
        if self.transposed { CUBLAS_OP_T } else { CUBLAS_OP_N }
    }
}

fn kind(dtype: DType) -> Result<sys::cudaDataType_t> {
    Ok(match dtype {
        DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        DType::F64 => sys::cudaDataType_t::CUDA_R_64F,
        other => bail!("cuBLAS has no {other}"),
    })
}

impl Blas {
    pub(crate) fn open(tf32: bool) -> Result<Blas, NoBlas> {
        // SAFETY: only tries to load the library by its names.
        if !unsafe { sys::is_culib_present() } {
            return Err(NoBlas::Absent);
        }
        let handle = result::create_handle().map_err(NoBlas::Failed)?;
        Ok(Blas { handle, tf32 })
    }

    /// Enqueues c = a·b, or c += a·b, of [m, depth] and [depth, n] for each of a batch.
    ///
    /// # Safety
    ///
    /// The matrices are in memory of the device, of which the context is current, until the product is there.
    pub(crate) unsafe fn gemm(
        &self,
        batch: usize,
        [m, depth, n]: [usize; 3],
        (a, b): (Matrix, Matrix),
        c: Matrix,
        add: bool,
    ) -> Result<()> {
        let [m, depth, n, batch] = ints([m, depth, n, batch])?;
        let [a_pitch, b_pitch, c_pitch] = ints([a.pitch, b.pitch, c.pitch])?;
        let [a_kind, b_kind, c_kind] = [kind(a.kind)?, kind(b.kind)?, kind(c.kind)?];
        let compute = match a.kind {
            DType::F64 => Compute::CUBLAS_COMPUTE_64F,
            DType::F32 if self.tf32 => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => Compute::CUBLAS_COMPUTE_32F,
        };
        let (single, double) = ([1f32, f32::from(u8::from(add))], [1f64, f64::from(u8::from(add))]);
        let scale = |index: usize| match compute {
            Compute::CUBLAS_COMPUTE_64F => std::ptr::from_ref(&double[index]).cast::<c_void>(),
            _ => std::ptr::from_ref(&single[index]).cast::<c_void>(),
        };
        let [a_at, b_at, c_at] = [a, b, c].map(|matrix| matrix.address as usize as *mut c_void);
        let algorithm = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT;
        // cuBLAS's matrices are column-major: what it sees are the transposes, and cᵀ = bᵀaᵀ.
        // SAFETY: the caller's; cuBLAS reads the scales before it returns.
        unsafe {
            if batch == 1 {
                let (op_b, op_a) = (b.operation(), a.operation());
                sys::cublasGemmEx(
                    self.handle,
                    op_b,
                    op_a,
                    n,
                    m,
                    depth,
                    scale(0),
                    b_at,
                    b_kind,
                    b_pitch,
                    a_at,
                    a_kind,
                    a_pitch,
                    scale(1),
                    c_at,
                    c_kind,
                    c_pitch,
                    compute,
                    algorithm,
                )
            } else {
                let [a_stride, b_stride, c_stride] = [a, b, c].map(|matrix| matrix.stride as i64);
                let (op_b, op_a) = (b.operation(), a.operation());
                sys::cublasGemmStridedBatchedEx(
                    self.handle,
                    op_b,
                    op_a,
                    n,
                    m,
                    depth,
                    scale(0),
                    b_at,
                    b_kind,
                    b_pitch,
                    b_stride,
                    a_at,
                    a_kind,
                    a_pitch,
                    a_stride,
                    scale(1),
                    c_at,
                    c_kind,
                    c_pitch,
                    c_stride,
                    batch,
                    compute,
                    algorithm,
                )
            }
        }
        .result()?;
        Ok(())
    }

    /// Enqueues c = a⊙b of `len` elements in f32 or f64.
    ///
    /// # Safety
    ///
    /// As of [`gemm`](Self::gemm).
    pub(crate) unsafe fn multiply<A: Element>(&self, len: usize, a: &Flat<A>, b: &Flat<A>, c: &Flat<A>) -> Result<()> {
        let [len] = ints([len])?;
        let [a, b, c] = [a, b, c].map(|tensor| tensor.address() as usize);
        let (right, h) = (sys::cublasSideMode_t::CUBLAS_SIDE_RIGHT, self.handle);
        // A matrix of one row times a diagonal one.
        // SAFETY: the caller's.
        unsafe {
            match A::DTYPE {
                DType::F32 => sys::cublasSdgmm(h, right, 1, len, a as *const _, 1, b as *const _, 1, c as *mut _, 1),
                DType::F64 => sys::cublasDdgmm(h, right, 1, len, a as *const _, 1, b as *const _, 1, c as *mut _, 1),
                other => bail!("cuBLAS multiplies no elements of {other}"),
            }
        }
        .result()?;
        Ok(())
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: created in `open`. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Whether cuBLAS can be told of so many.
pub(crate) fn fits(len: usize) -> bool {
    i32::try_from(len).is_ok()
}

fn ints<const N: usize>(lengths: [usize; N]) -> Result<[i32; N]> {
    let mut ints = [0; N];
    for (int, len) in ints.iter_mut().zip(lengths) {
        *int = i32::try_from(len)?;
    }
    Ok(ints)
}
