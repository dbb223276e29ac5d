//! The vector abstraction that every kernel is written in once, and the capability tokens that guard its uses.
//!
//! [`Simd`] is a set of instructions. Its operations are `#[inline(always)]` functions that do not themselves enable
//! the instructions: they are inlined into a kernel, and the kernel into one `#[target_feature]` entry point (made by
//! `table!` in each level's file), where they compile to one instruction each. An entry point is reached only through
//! the table of a [`Capability`], which only a check of the processor constructs.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::table::Table;
use crate::SimdLevel;

/// Proof that this processor has a SIMD level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capability(SimdLevel);

impl Capability {
    /// The proof for `level`, if the processor has it.
    pub(crate) fn of(level: SimdLevel) -> Option<Capability> {
        let available = match level {
            SimdLevel::Portable => true,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Capability::of(SimdLevel::Avx2).is_some()
            }
            #[cfg(target_arch = "aarch64")]
            SimdLevel::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns, reason = "which levels are left depends on the architecture")]
            _ => false,
        };
        available.then_some(Capability(level))
    }

    /// The proof for the most able level.
    pub(crate) fn best() -> Capability {
        let levels = SimdLevel::ALL.into_iter().rev();
        levels.filter_map(Capability::of).next().unwrap_or(Capability(SimdLevel::Portable))
    }

    pub(crate) fn level(self) -> SimdLevel {
        self.0
    }
}

/// A type in which sums are kept.
pub(crate) trait Accumulator:
    Copy
    + Default
    + Send
    + Sync
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + 'static
{
    const ONE: Self;
}
impl Accumulator for f32 {
    const ONE: f32 = 1.0;
}
impl Accumulator for f64 {
    const ONE: f64 = 1.0;
}

/// Vectors of `LANES` accumulators of type `Acc`, and the register tile that suits them.
///
/// # Safety
///
/// Every function must be called where the instructions of the implementation are enabled, and every pointer be valid
/// for what the function reads or writes. Nothing needs to be aligned beyond its element type.
pub(crate) trait Simd: Copy + 'static {
    type Acc: Accumulator;
    type Vector: Copy;
    const LANES: usize;
    /// Vectors in a microkernel's tile: MR = `MV`·`LANES`.
    const MV: usize;
    /// Rows in a microkernel's tile.
    const NR: usize;

    unsafe fn zero() -> Self::Vector;
    unsafe fn splat(value: Self::Acc) -> Self::Vector;
    unsafe fn load(from: *const Self::Acc) -> Self::Vector;
    unsafe fn store(to: *mut Self::Acc, v: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a·b + c, rounded once where the processor can.
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The sum of the lanes, in a fixed order.
    unsafe fn sum(v: Self::Vector) -> Self::Acc;

    /// `to[c·to_stride + r] = from[r·from_stride + c]` for r, c < `LANES`.
    #[inline(always)]
    unsafe fn transpose(from: *const Self::Acc, from_stride: isize, to: *mut Self::Acc, to_stride: usize) {
        for r in 0..Self::LANES {
            for c in 0..Self::LANES {
                // SAFETY: the caller's contract.
                unsafe { *to.add(c * to_stride + r) = *from.offset(r as isize * from_stride + c as isize) };
            }
        }
    }

    /// Stores past the caches where the processor can. `to` is aligned to the vector.
    #[inline(always)]
    unsafe fn store_past(to: *mut Self::Acc, v: Self::Vector) {
        // SAFETY: the caller's contract.
        unsafe { Self::store(to, v) }
    }

    /// Orders stores past the caches before all later ones: what another thread is told of them comes after them.
    #[inline(always)]
    unsafe fn fence() {}

    /// Asks for the cache line at `at`, which need not be readable, to be brought into L2: for streams at the speed of memory.
    #[inline(always)]
    unsafe fn prefetch(_at: *const Self::Acc) {}

    /// The same into L1: for what is asked for between FMAs, at less than that speed.
    #[inline(always)]
    unsafe fn prefetch_near(at: *const Self::Acc) {
        // SAFETY: the caller's contract.
        unsafe { Self::prefetch(at) }
    }
}

/// Loads of storage type `T` as accumulators.
///
/// # Safety
///
/// As [`Simd`].
pub(crate) trait Widen<T>: Simd {
    /// `LANES` elements.
    unsafe fn widen(from: *const T) -> Self::Vector;
    /// The first `len` < `LANES` elements, then zeros; nothing past them is read.
    unsafe fn widen_partial(from: *const T, len: usize) -> Self::Vector;
}

/// A storage type's kernels. This is the sealed half of [`crate::Element`].
pub(crate) trait Kernels: Copy + Default + Send + Sync + 'static {
    type Acc: Accumulator;
    /// Whether storage and accumulator are one type, so that weights can be read in place.
    const IN_PLACE: bool;

    fn to_acc(self) -> Self::Acc;
    fn from_acc(value: Self::Acc) -> Self;
    /// As many as both have, with the processor's conversion where it has one.
    fn narrow(from: &[Self::Acc], to: &mut [Self]);
    /// The kernels of this level. The capability is the proof that they may be called.
    fn table(capability: Capability) -> &'static Table<Self>;
}

/// As `bf16::from_f32`, but without branches, so that the compiler makes vectors of it: round to nearest, ties to even; NaN
/// stays NaN and becomes quiet.
fn narrow_bf16(from: &[f32], to: &mut [bf16]) {
    for (&from, to) in from.iter().zip(to) {
        let bits = from.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let quiet = bits | 0x0040_0000;
        *to = bf16::from_bits(((if from.is_nan() { quiet } else { rounded }) >> 16) as u16);
    }
}

macro_rules! kernels {
    ($storage:ty, $acc:ty, $in_place:literal, $to:expr, $from:expr, $narrow:expr, $table:ident) => {
        impl Kernels for $storage {
            type Acc = $acc;
            const IN_PLACE: bool = $in_place;

            #[inline(always)]
            fn to_acc(self) -> $acc {
                $to(self)
            }
            #[inline(always)]
            fn from_acc(value: $acc) -> Self {
                $from(value)
            }
            #[inline]
            fn narrow(from: &[$acc], to: &mut [Self]) {
                let len = from.len().min(to.len());
                $narrow(&from[..len], &mut to[..len])
            }
            #[inline]
            fn table(capability: Capability) -> &'static Table<Self> {
                match capability.0 {
                    #[cfg(target_arch = "x86_64")]
                    SimdLevel::Avx2 => &avx2::$table,
                    #[cfg(target_arch = "x86_64")]
                    SimdLevel::Avx512 => &avx512::$table,
                    #[cfg(target_arch = "aarch64")]
                    SimdLevel::Neon => &neon::$table,
                    _ => &portable::$table,
                }
            }
        }
    };
}
kernels!(f32, f32, true, |v| v, |v| v, |from, to: &mut [f32]| to.copy_from_slice(from), F32);
kernels!(f64, f64, true, |v| v, |v| v, |from, to: &mut [f64]| to.copy_from_slice(from), F64);
kernels!(f16, f32, false, f16::to_f32, f16::from_f32, |from, to: &mut [f16]| to.convert_from_f32_slice(from), F16);
kernels!(bf16, f32, false, bf16::to_f32, bf16::from_f32, narrow_bf16, BF16);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bf16, its neighbours in f32, and the ties between.
    #[test]
    fn narrowing_bf16_is_that_of_half() {
        let mut values = Vec::new();
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                values.push(f32::from_bits(u32::from(high) << 16 | low));
            }
        }
        let mut narrow = vec![bf16::ZERO; values.len()];
        narrow_bf16(&values, &mut narrow);
        for (value, narrow) in values.into_iter().zip(narrow) {
            assert_eq!(narrow.to_bits(), bf16::from_f32(value).to_bits(), "{value} {:x}", value.to_bits());
        }
    }
}
