//! Vectors of the `wide` crate: what every processor has. The fallback, never a rival of the others.
//!
//! `wide` maps f32x8 onto two SSE2 registers on x86-64; the tile of 4 rows × 1 vector then takes 8 accumulators, 2
//! registers of the lane operand and 2 of the broadcast: 12 of 16.

use half::{bf16, f16};
use wide::{f32x8, f64x4};

use super::{Simd, Widen};
use crate::cpu::table::{arithmetic, table};

macro_rules! portable {
    ($name:ident, $vector:ty, $acc:ty, $lanes:literal) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl Simd for $name {
            type Acc = $acc;
            type Vector = $vector;
            const LANES: usize = $lanes;
            const MV: usize = 1;
            const NR: usize = 4;

            #[inline(always)]
            unsafe fn zero() -> $vector {
                <$vector>::ZERO
            }
            #[inline(always)]
            unsafe fn splat(value: $acc) -> $vector {
                <$vector>::splat(value)
            }
            #[inline(always)]
            unsafe fn load(from: *const $acc) -> $vector {
                // SAFETY: the caller's contract: `LANES` readable elements.
                <$vector>::new(unsafe { from.cast::<[$acc; $lanes]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(to: *mut $acc, v: $vector) {
                // SAFETY: the caller's contract: `LANES` writable elements.
                unsafe { to.cast::<[$acc; $lanes]>().write_unaligned(v.to_array()) }
            }
            #[inline(always)]
            unsafe fn add(a: $vector, b: $vector) -> $vector {
                a + b
            }
            #[inline(always)]
            unsafe fn mul(a: $vector, b: $vector) -> $vector {
                a * b
            }
            #[inline(always)]
            unsafe fn fma(a: $vector, b: $vector, c: $vector) -> $vector {
                a.mul_add(b, c)
            }
            #[inline(always)]
            unsafe fn sum(v: $vector) -> $acc {
                v.reduce_add()
            }
        }
    };
}
portable!(PortableF32, f32x8, f32, 8);
portable!(PortableF64, f64x4, f64, 4);

macro_rules! widen {
    ($storage:ty, $name:ident, $lanes:literal, $zero:expr, $to:expr) => {
        impl Widen<$storage> for $name {
            #[inline(always)]
            unsafe fn widen(from: *const $storage) -> Self::Vector {
                // SAFETY: the caller's contract: `LANES` readable elements.
                let elements = unsafe { from.cast::<[$storage; $lanes]>().read_unaligned() };
                <$name as Simd>::Vector::new(elements.map($to))
            }
            #[inline(always)]
            unsafe fn widen_partial(from: *const $storage, len: usize) -> Self::Vector {
                let mut padded = [$zero; $lanes];
                // SAFETY: the caller's contract: `len` < `LANES` readable elements.
                unsafe {
                    std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
                    Self::widen(padded.as_ptr())
                }
            }
        }
    };
}
widen!(f32, PortableF32, 8, 0.0, |v| v);
widen!(f64, PortableF64, 4, 0.0, |v| v);
widen!(f16, PortableF32, 8, f16::ZERO, f16::to_f32);
widen!(bf16, PortableF32, 8, bf16::ZERO, bf16::to_f32);

arithmetic!(ARITHMETIC_F32, PortableF32, []);
arithmetic!(ARITHMETIC_F64, PortableF64, []);
table!(F32, f32, PortableF32, [], ARITHMETIC_F32, "portable-f32-wide-4x8");
table!(F64, f64, PortableF64, [], ARITHMETIC_F64, "portable-f64-wide-4x4");
table!(F16, f16, PortableF32, [], ARITHMETIC_F32, "portable-f16-wide-4x8");
table!(BF16, bf16, PortableF32, [], ARITHMETIC_F32, "portable-bf16-wide-4x8");
