//! Directed rounding and the canonical forms of floating-point results.

/// How a result that is not representable is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Rounding {
    /// By `.rn`, `.rz`, `.rm`, `.rp` among the modifiers.
    pub(crate) fn of(m: &super::Modifiers) -> Self {
        if m.has("rz") {
            Self::Zero
        } else if m.has("rm") {
            Self::Down
        } else if m.has("rp") {
            Self::Up
        } else {
            Self::Nearest
        }
    }
}

/// Every NaN result of f32 arithmetic is this one. On integers: the compiler takes one NaN for as good as another.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// `.ftz`: subnormals are zeros of their sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 1 << 31) } else { x }
}

/// `.sat`: to [0, 1], NaN to +0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// As [`saturate`], for f64.
pub(crate) fn saturate64(x: f64) -> f64 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// An f64 that stands for `nearest + error` in any later rounding to fewer bits: rounded to odd.
fn odd(nearest: f64, error: f64) -> f64 {
    if error == 0.0 || error.is_nan() || !nearest.is_finite() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // Of the two neighbours of an inexact value, the nearest is even: take the other.
    if (error > 0.0) == (nearest > 0.0 || nearest == 0.0 && error > 0.0) {
        f64::from_bits(nearest.to_bits() + 1)
    } else {
        f64::from_bits(nearest.to_bits() - 1)
    }
}

/// An f64 to f32 with a rounding.
pub(crate) fn narrow(x: f64, rounding: Rounding) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    if back == x || x.is_nan() || x.is_infinite() {
        return nearest;
    }
    directed32(nearest, if x > back { 1 } else { -1 }, rounding)
}

/// The rounding of a value whose nearest f32 is given, that lies above (1) or below (-1) it.
fn directed32(nearest: f32, side: i32, rounding: Rounding) -> f32 {
    // An overflow rounds back to the greatest finite value where the direction says so.
    match rounding {
        Rounding::Nearest => nearest,
        Rounding::Down => {
            if side < 0 {
                nearest.next_down()
            } else {
                nearest
            }
        }
        Rounding::Up => {
            if side > 0 {
                nearest.next_up()
            } else {
                nearest
            }
        }
        Rounding::Zero if nearest > 0.0 || nearest == 0.0 && side > 0 => {
            if side < 0 {
                nearest.next_down()
            } else {
                nearest
            }
        }
        Rounding::Zero => {
            if side > 0 {
                nearest.next_up()
            } else {
                nearest
            }
        }
    }
}

fn directed64(nearest: f64, error: f64, rounding: Rounding) -> f64 {
    if error == 0.0 || error.is_nan() || nearest.is_nan() {
        return nearest;
    }
    match rounding {
        Rounding::Nearest => nearest,
        Rounding::Down => {
            if error < 0.0 {
                nearest.next_down()
            } else {
                nearest
            }
        }
        Rounding::Up => {
            if error > 0.0 {
                nearest.next_up()
            } else {
                nearest
            }
        }
        Rounding::Zero if nearest > 0.0 || nearest == 0.0 && error > 0.0 => {
            if error < 0.0 {
                nearest.next_down()
            } else {
                nearest
            }
        }
        Rounding::Zero => {
            if error > 0.0 {
                nearest.next_up()
            } else {
                nearest
            }
        }
    }
}

/// Rounding error of `a + b = s`, exact (Knuth).
fn sum_error(a: f64, b: f64, s: f64) -> f64 {
    let bb = s - a;
    (a - (s - bb)) + (b - bb)
}

/// Zero sums of nonzero terms are -0 when rounding down.
fn zero_sum(a: f64, b: f64, sum: f64, rounding: Rounding) -> f64 {
    if sum == 0.0
        && rounding == Rounding::Down
        && !(a == 0.0 && b == 0.0 && a.is_sign_positive() && b.is_sign_positive())
    {
        -0.0
    } else {
        sum
    }
}

/// `a * b + c` in f32 with a directed rounding.
pub(crate) fn fma32(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    // The product is exact in f64.
    add_exact(f64::from(a) * f64::from(b), f64::from(c), rounding)
}

/// `a + b` in f32 with a directed rounding.
pub(crate) fn add32(a: f32, b: f32, rounding: Rounding) -> f32 {
    add_exact(f64::from(a), f64::from(b), rounding)
}

fn add_exact(a: f64, b: f64, rounding: Rounding) -> f32 {
    let sum = a + b;
    if sum == 0.0 {
        return zero_sum(a, b, sum, rounding) as f32;
    }
    narrow(odd(sum, sum_error(a, b, sum)), rounding)
}

/// `a * b` in f32 with a directed rounding.
pub(crate) fn mul32(a: f32, b: f32, rounding: Rounding) -> f32 {
    narrow(f64::from(a) * f64::from(b), rounding)
}

/// `a / b` in f32 with a directed rounding.
pub(crate) fn div32(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    if !q.is_finite() || q == 0.0 {
        return q as f32;
    }
    // The remainder's sign, seen through the divisor's.
    let remainder = (-q).mul_add(b, a);
    narrow(odd(q, if b < 0.0 { -remainder } else { remainder }), rounding)
}

/// `sqrt(a)` in f32 with a directed rounding.
pub(crate) fn sqrt32(a: f32, rounding: Rounding) -> f32 {
    let a = f64::from(a);
    let root = a.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root as f32;
    }
    narrow(odd(root, (-root).mul_add(root, a)), rounding)
}

/// `a + b` in f64 with a directed rounding.
pub(crate) fn add64(a: f64, b: f64, rounding: Rounding) -> f64 {
    let sum = a + b;
    match (sum.is_infinite() && a.is_finite() && b.is_finite(), rounding) {
        (true, Rounding::Nearest) => sum,
        // Overflow: the exact sum lies below infinity.
        (true, _) => directed64(sum, if sum > 0.0 { -1.0 } else { 1.0 }, rounding),
        _ if sum == 0.0 => zero_sum(a, b, sum, rounding),
        _ => directed64(sum, sum_error(a, b, sum), rounding),
    }
}

/// `a * b` in f64 with a directed rounding; products that underflow are only as near as their error is representable.
pub(crate) fn mul64(a: f64, b: f64, rounding: Rounding) -> f64 {
    fma64(a, b, -0.0, rounding)
}

/// `a * b + c` in f64 with a directed rounding.
pub(crate) fn fma64(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    let nearest = a.mul_add(b, c);
    if rounding == Rounding::Nearest || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return nearest;
    }
    if nearest.is_infinite() {
        return directed64(nearest, if nearest > 0.0 { -1.0 } else { 1.0 }, rounding);
    }
    let product = a * b;
    if nearest == 0.0 && (product != 0.0 || c != 0.0) && product == -c {
        let error = a.mul_add(b, -product);
        return if error == 0.0 {
            zero_sum(product, c, nearest, rounding)
        } else {
            directed64(nearest, error, rounding)
        };
    }
    // a b + c - nearest, exactly as a sum of three terms; only its sign matters.
    let low = a.mul_add(b, -product);
    let sum = product + c;
    let error = sum_error(product, c, sum);
    directed64(nearest, ((sum - nearest) + error) + low, rounding)
}

/// `a / b` in f64 with a directed rounding.
pub(crate) fn div64(a: f64, b: f64, rounding: Rounding) -> f64 {
    let q = a / b;
    if rounding == Rounding::Nearest || !a.is_finite() || !b.is_finite() || b == 0.0 || q.is_nan() {
        return q;
    }
    if q.is_infinite() {
        return directed64(q, if q > 0.0 { -1.0 } else { 1.0 }, rounding);
    }
    let remainder = (-q).mul_add(b, a);
    directed64(q, if b < 0.0 { -remainder } else { remainder }, rounding)
}

/// `sqrt(a)` in f64 with a directed rounding.
pub(crate) fn sqrt64(a: f64, rounding: Rounding) -> f64 {
    let root = a.sqrt();
    if rounding == Rounding::Nearest || !root.is_finite() || root == 0.0 {
        return root;
    }
    directed64(root, (-root).mul_add(root, a), rounding)
}
