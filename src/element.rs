//! The four storage types and the type in which each one's sums are kept.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use crate::{Error, Result};

/// A storage type, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary16, accumulated in f32.
    F16,
    /// bfloat16, accumulated in f32.
    Bf16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F16 | DType::Bf16 => 2,
            DType::F32 => 4,
            DType::F64 => 8,
        }
    }

    /// Unit roundoff of the *accumulator*: 2⁻²⁴ for f16, bf16 and f32; 2⁻⁵³ for f64.
    pub const fn accumulator_roundoff(self) -> f64 {
        match self {
            DType::F64 => f64::EPSILON / 2.0,
            _ => f32::EPSILON as f64 / 2.0,
        }
    }

    /// Unit roundoff of *storage*: the relative error of rounding a result into this type.
    pub const fn storage_roundoff(self) -> f64 {
        match self {
            DType::F16 => 4.8828125e-4, // 2⁻¹¹
            DType::Bf16 => 3.90625e-3,  // 2⁻⁸
            DType::F32 => f32::EPSILON as f64 / 2.0,
            DType::F64 => f64::EPSILON / 2.0,
        }
    }

    /// The smallest positive number (subnormal), below which a stored result is rounded absolutely.
    pub const fn smallest_positive(self) -> f64 {
        match self {
            DType::F16 => 5.960464477539063e-8,   // 2⁻²⁴
            DType::Bf16 => 9.183549615799121e-41, // 2⁻¹³³
            DType::F32 => 1.401298464324817e-45,  // 2⁻¹⁴⁹
            DType::F64 => 5e-324,                 // 2⁻¹⁰⁷⁴
        }
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<DType> {
        let all = [DType::F16, DType::Bf16, DType::F32, DType::F64];
        all.into_iter().find(|dtype| dtype.to_string() == text).ok_or_else(|| Error::Parse {
            what: "dtype".into(),
            given: text.into(),
            expected: "f16, bf16, f32 or f64",
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        })
    }
}

/// A type that tensors are stored in: `f32`, `f64`, [`half::f16`] or [`half::bf16`]. Sealed.
#[allow(private_bounds)]
pub trait Element:
    Copy
    + Default
    + PartialEq
    + Send
    + Sync
    + fmt::Debug
    + fmt::Display
    + 'static
    + crate::cpu::Kernels<Acc = <Self as Element>::Accumulator>
    + crate::calls::Compiled
{
    /// The type in which sums are kept, and gradients given: f32 for f16 and bf16, else the type itself.
    type Accumulator: Element<Accumulator = Self::Accumulator>;

    /// The type by name.
    const DTYPE: DType;

    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;

    /// The value, exactly.
    fn to_f64(self) -> f64;
}

impl Element for f32 {
    type Accumulator = f32;
    const DTYPE: DType = DType::F32;
    #[inline]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    #[inline]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Element for f64 {
    type Accumulator = f64;
    const DTYPE: DType = DType::F64;
    #[inline]
    fn from_f64(value: f64) -> Self {
        value
    }
    #[inline]
    fn to_f64(self) -> f64 {
        self
    }
}

impl Element for f16 {
    type Accumulator = f32;
    const DTYPE: DType = DType::F16;
    #[inline]
    fn from_f64(value: f64) -> Self {
        f16::from_f32(round_to_odd(value))
    }
    #[inline]
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

impl Element for bf16 {
    type Accumulator = f32;
    const DTYPE: DType = DType::Bf16;
    #[inline]
    fn from_f64(value: f64) -> Self {
        bf16::from_f32(round_to_odd(value))
    }
    #[inline]
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
}

/// To f32 such that rounding again to a type of at most 22 bits gives what rounding once would (Boldo and Melquiond,
/// *Emulation of FMA and Correctly Rounded Sums*, IEEE TC 2008): of the two neighbours of an inexact value, the odd one.
fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    let exact = f64::from(near) == value || !value.is_finite();
    if exact || near.to_bits() & 1 == 1 {
        return near;
    }
    if near.is_infinite() {
        return f32::MAX.copysign(near); // beyond f32: the odd neighbour is the largest number
    }
    if f64::from(near) < value { near.next_up() } else { near.next_down() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_once() {
        assert_eq!(<bf16 as Element>::from_f64(1.0 + 2f64.powi(-8) + 2f64.powi(-23)).to_f64(), 1.0078125);
        assert_eq!(<bf16 as Element>::from_f64(1.0 + 2f64.powi(-8) + 2f64.powi(-40)).to_f64(), 1.0078125);
        assert_eq!(<bf16 as Element>::from_f64(1.0 + 2f64.powi(-8)).to_f64(), 1.0);
        assert_eq!(<f16 as Element>::from_f64(1.0 + 2f64.powi(-11) + 2f64.powi(-40)).to_f64(), 1.0009765625);
        assert_eq!(<f16 as Element>::from_f64(1.0 + 2f64.powi(-11)).to_f64(), 1.0);
        assert_eq!(<f16 as Element>::from_f64(-(1.0 + 2f64.powi(-11) + 2f64.powi(-40))).to_f64(), -1.0009765625);
        assert_eq!(<f16 as Element>::from_f64(1e300), f16::INFINITY);
        assert_eq!(<bf16 as Element>::from_f64(1e300), bf16::INFINITY);
        assert_eq!(<f16 as Element>::from_f64(-1e-300).to_f64(), 0.0);
        assert!(<bf16 as Element>::from_f64(f64::NAN).is_nan());
    }
}
