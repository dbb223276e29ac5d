//! What a call will do, before it does it.

use std::fmt;

use crate::{DType, Device, SimdLevel};

/// The ways to compute M(x, z). The cost model chooses; a [`crate::Context`] can force one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Few rows: W is read once, at memory bandwidth, each row's vector of sums beside it.
    Stream,
    /// GEMM of x with the rows of W, whose epilogue multiplies by z and adds up: no N×K×I intermediate.
    FusedDot,
    /// GEMM of W with the Khatri-Rao product z⊗x, which is formed panel by panel in cache.
    KhatriRao,
    /// CP: blocks of rows whose zB, xC and product stay in cache.
    CpBlocked,
    /// CP for at most four rows: the factors are read in order, at memory bandwidth.
    CpStream,
    /// One z for many rows of x: zᵀW + V is contracted first.
    ContractContext,
    /// W is absent.
    Linear,
    /// W is a sum of blocks: one after the other, each by the products of its factors and core, or by the engine of its form.
    Blocks,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Algorithm; 8] = [
        Algorithm::Stream,
        Algorithm::FusedDot,
        Algorithm::KhatriRao,
        Algorithm::CpBlocked,
        Algorithm::CpStream,
        Algorithm::ContractContext,
        Algorithm::Linear,
        Algorithm::Blocks,
    ];
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Stream => "stream",
            Algorithm::FusedDot => "fused-dot",
            Algorithm::KhatriRao => "khatri-rao",
            Algorithm::CpBlocked => "cp-blocked",
            Algorithm::CpStream => "cp-stream",
            Algorithm::ContractContext => "contract-context",
            Algorithm::Linear => "linear",
            Algorithm::Blocks => "blocks",
        })
    }
}

/// What a call will do. Returned by [`crate::Interaction::plan`]; its `Display` is a line for people.
///
/// # Example
///
/// ```
/// use trilinear::{Algorithm, Interaction, View};
///
/// let w = vec![0.0f32; 64 * 64 * 64];
/// let layer = Interaction::dense(View::new(&w, [64, 64, 64])?)?;
/// assert_eq!(layer.plan(1)?.algorithm, Algorithm::Stream);
/// assert_eq!(layer.plan(256)?.flops, 2 * 256 * 64 * 64 * 64);
/// println!("{}", layer.plan(256)?);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Which algorithm.
    pub algorithm: Algorithm,
    /// The microkernel, as `architecture-dtype-simd-NRxMR`: NR rows of weights by MR lanes, like `x86_64-f32-avx2-6x16`; on a
    /// CUDA device the last kernel launched, as `operation_arithmetic_BMxBNxBK`: the rows, lanes and depth of a block's tile.
    pub kernel: &'static str,
    /// Where.
    pub device: Device,
    /// With which instructions.
    pub simd: SimdLevel,
    /// Storage type.
    pub dtype: DType,
    /// Floating-point operations that the chosen algorithm needs (a multiply-add counts two).
    pub flops: u128,
    /// Bytes that must at least be moved: weights and inputs read once, outputs written once.
    pub bytes: u128,
    /// Bytes of scratch for each thread, on a CUDA device for each stream, reused from call to call.
    pub scratch: usize,
    /// Threads that will work on it: no more than the context allows, than the pool has, or than there is work for.
    pub threads: usize,
    /// The kernels launched, in their order; none on the processor.
    pub launches: Vec<Launch>,
}

/// The launch of a kernel on a CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// Its name.
    pub kernel: &'static str,
    /// Blocks of the grid, which has one axis.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Launch { kernel, blocks, threads, shared } = self;
        write!(f, "{kernel} <{blocks} × {threads}, {shared} bytes>")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.device != Device::Cpu {
            write!(f, "{} on {} by ", self.algorithm, self.device)?;
            for (index, launch) in self.launches.iter().enumerate() {
                write!(f, "{}{launch}", if index > 0 { ", " } else { "" })?;
            }
            return write!(f, ": {} FLOP, {} bytes, {} bytes of scratch", self.flops, self.bytes, self.scratch);
        }
        write!(
            f,
            "{} by {} on {} with {} thread{}: {} FLOP, {} bytes, {} bytes of scratch a thread",
            self.algorithm,
            self.kernel,
            self.device,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.flops,
            self.bytes,
            self.scratch
        )
    }
}
