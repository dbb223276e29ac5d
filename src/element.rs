//! The four storage types and the type in which each one's sums are kept.

use std::fmt;

use half::{bf16, f16};

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
    Copy + Default + PartialEq + Send + Sync + fmt::Debug + fmt::Display + 'static + crate::cpu::Kernels
{
    /// The type by name.
    const DTYPE: DType;

    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;

    /// The value, exactly.
    fn to_f64(self) -> f64;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    fn from_f64(value: f64) -> Self {
        f16::from_f64(value)
    }
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
    fn from_f64(value: f64) -> Self {
        bf16::from_f64(value)
    }
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
}
