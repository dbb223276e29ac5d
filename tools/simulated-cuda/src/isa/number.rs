//! Conversions between number formats, each rounded once; loops over them vectorise.

use super::rounding::Rounding;

/// The hyperbolic tangent: the instruction's own error is 2^-11 relative; this is near exact.
pub(crate) fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

#[inline(always)]
pub(crate) fn f16_to_f32(x: u16) -> f32 {
    // Exponent and mantissa in place, scaled by 2^112: exact, subnormals included.
    let bits = u32::from(x & 0x7fff) << 13;
    let magnitude = if x & 0x7c00 == 0x7c00 {
        f32::from_bits(bits | 0x7f80_0000)
    } else {
        f32::from_bits(bits) * f32::from_bits(0x7780_0000)
    };
    f32::from_bits(magnitude.to_bits() | u32::from(x & 0x8000) << 16)
}

/// To nearest, ties to even; NaNs to 0x7fff.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let normal = (magnitude.wrapping_add(0xc800_0fff).wrapping_add(magnitude >> 13 & 1)) >> 13;
    // Adding 0.5 aligns a subnormal result with the mantissa's end, and rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let result = if magnitude >= 0x4780_0000 { 0x7c00 } else { finite };
    if magnitude > 0x7f80_0000 { 0x7fff } else { sign | result as u16 }
}

#[inline(always)]
pub(crate) fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// To nearest, ties to even; NaNs to 0x7fff.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
}

/// What a tensor core takes of an f32 register as tf32: sign, exponent, ten bits of mantissa.
#[inline(always)]
pub(crate) fn truncate_tf32(x: u32) -> f32 {
    f32::from_bits(x & 0xffff_e000)
}

/// A floating-point format with an implicit leading bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Format {
    /// Stored bits of the mantissa.
    pub(crate) mantissa: u32,
    /// Exponent of the least normal.
    pub(crate) least: i32,
    /// Greatest finite value.
    pub(crate) greatest: f64,
}

pub(crate) const F16: Format = Format { mantissa: 10, least: -14, greatest: 65504.0 };
pub(crate) const BF16: Format = Format { mantissa: 7, least: -126, greatest: 3.389_531_389_251_535_5e38 };
pub(crate) const TF32: Format = Format { mantissa: 10, least: -126, greatest: 3.401_162_134_214_653_5e38 };

/// How `cvt` rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Directed(Rounding),
    /// To nearest, ties away from zero.
    Away,
}

/// An f64 rounded to a format's values (infinities where it overflows); the result is exact in f64.
pub(crate) fn round_to(x: f64, format: Format, mode: Mode) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(format.least);
    // Units in the last place: scaling by powers of two is exact here.
    let unit = f64::from_bits(((exponent - format.mantissa as i32 + 1023) as u64) << 52);
    let scaled = x / unit;
    let rounded = match mode {
        Mode::Directed(Rounding::Nearest) => scaled.round_ties_even(),
        Mode::Directed(Rounding::Zero) => scaled.trunc(),
        Mode::Directed(Rounding::Down) => scaled.floor(),
        Mode::Directed(Rounding::Up) => scaled.ceil(),
        Mode::Away => scaled.round(),
    };
    let rounded = (rounded * unit).copysign(x);
    if rounded.abs() <= format.greatest {
        return rounded;
    }
    let to_infinity = match mode {
        Mode::Directed(Rounding::Zero) => false,
        Mode::Directed(Rounding::Down) => x < 0.0,
        Mode::Directed(Rounding::Up) => x > 0.0,
        _ => true,
    };
    if to_infinity { f64::INFINITY.copysign(x) } else { format.greatest.copysign(x) }
}
