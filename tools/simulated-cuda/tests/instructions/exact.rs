//! Exact sums and products in integers, and their rounding: a reference that shares nothing with the simulator.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Nearest,
    Away,
    Zero,
    Down,
    Up,
}

pub const MODES: [(&str, Mode); 4] = [("rn", Mode::Nearest), ("rz", Mode::Zero), ("rm", Mode::Down), ("rp", Mode::Up)];

/// A format: bits of the mantissa, stored ones and the implicit one; exponent of the least normal; of the greatest.
#[derive(Clone, Copy)]
pub struct Format(pub u32, pub i32, pub i32);

pub const SINGLE: Format = Format(24, -126, 127);
pub const HALF: Format = Format(11, -14, 15);
pub const BFLOAT: Format = Format(8, -126, 127);
pub const TF32: Format = Format(11, -126, 127);

/// `value * 2^-scale`, rounded; as an f64, which holds every value of every format here. A zero has no sign.
pub fn round(value: i128, scale: i32, format: Format, mode: Mode) -> f64 {
    let Format(precision, least, greatest) = format;
    if value == 0 {
        return 0.0;
    }
    let (negative, magnitude) = (value < 0, value.unsigned_abs());
    let exponent = 127 - magnitude.leading_zeros() as i32 - scale;
    // The last place's exponent, and how many bits are below it.
    let last = exponent.max(least) - precision as i32 + 1;
    let drop = last + scale;
    let (mut kept, rest, half) = if drop <= 0 {
        (magnitude << -drop, 0, 1)
    } else if drop > 126 {
        (0, 1, 2)
    } else {
        (magnitude >> drop, magnitude & ((1 << drop) - 1), 1u128 << (drop - 1))
    };
    let up = match mode {
        Mode::Nearest => rest > half || rest == half && drop > 0 && kept & 1 == 1,
        Mode::Away => rest >= half && drop > 0,
        Mode::Zero => false,
        Mode::Down => negative && rest != 0,
        Mode::Up => !negative && rest != 0,
    };
    kept += u128::from(up);
    let result = kept as f64 * 2f64.powi(last);
    let overflow = result >= 2f64.powi(greatest) * 2.0;
    let largest = (2.0 - 2f64.powi(1 - precision as i32)) * 2f64.powi(greatest);
    let to_infinity = match mode {
        Mode::Nearest | Mode::Away => true,
        Mode::Zero => false,
        Mode::Down => negative,
        Mode::Up => !negative,
    };
    let result = if !overflow {
        result
    } else if to_infinity {
        f64::INFINITY
    } else {
        largest
    };
    if negative { -result } else { result }
}

/// A finite value as an integer times `2^-scale`; it must fit.
pub fn integer(x: f64, scale: i32) -> i128 {
    let bits = x.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    let mantissa = i128::from(bits & ((1 << 52) - 1) | if field == 0 { 0 } else { 1 << 52 });
    let shift = field.max(1) - 1075 + scale;
    let magnitude = if shift >= 0 {
        assert!(shift < 74);
        mantissa << shift
    } else if mantissa == 0 {
        0
    } else {
        assert!(mantissa.trailing_zeros() as i32 >= -shift, "{x} does not fit");
        mantissa >> -shift
    };
    if x.is_sign_negative() { -magnitude } else { magnitude }
}

#[test]
fn rounds_as_the_processor_does() {
    for x in [1.0f64, 1.0 / 3.0, -0.1, 123_456_789.123, 16_777_217.0, -16_777_219.0, 1e-3] {
        let scaled = integer(x, 80);
        assert_eq!(round(scaled, 80, SINGLE, Mode::Nearest), f64::from(x as f32), "{x}");
        assert!(round(scaled, 80, SINGLE, Mode::Down) <= x && x <= round(scaled, 80, SINGLE, Mode::Up));
    }
}
