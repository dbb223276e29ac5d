//! f16 and bf16 arithmetic: every result the exact one, rounded once.

use super::{check, exact::*};
use ::half::{bf16, f16};

/// f16 values whose products and sums are exact in 128 bits, and special ones.
fn values16() -> Vec<u64> {
    let numbers = [
        0.0f32, 1.0, -1.0, 1.5, 0.1, -0.333, 65504.0, -65504.0, 6e-8, 6.1e-5, 3.1432, 1000.5, -7.25, 0.5, 2048.0, 1e-3,
    ];
    let bits = [0x8000, 0x7c00, 0xfc00, 0x7e00, 0x03ff, 0x8001, 0x3c01, 0xbc01, 0x0401];
    numbers.into_iter().map(|x| f16::from_f32(x).to_bits().into()).chain(bits).collect()
}

fn value(bits: u64) -> f64 {
    f16::from_bits(bits as u16).to_f64()
}

/// f16 bits of a rounded double, NaNs canonical.
fn to16(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { f16::from_f64(x).to_bits().into() }
}

/// `a * b + c` in f16: exact in integers unless something is infinite or not a number.
fn fma16(a: f64, b: f64, c: f64) -> f64 {
    let plain = a * b + c;
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return plain;
    }
    let exact = integer(a, 24) * integer(b, 24) + integer(c, 48);
    // Signs of zeros as doubles have them.
    if exact == 0 { plain } else { round(exact, 48, HALF, Mode::Nearest) * if exact == 0 { 0.0 } else { 1.0 } }
}

fn signed_zero(x: f64, exact_sign: f64) -> f64 {
    if x == 0.0 { 0.0f64.copysign(exact_sign) } else { x }
}

#[test]
fn f16_scalar() {
    let values = values16();
    let two: [(u32, &[u64]); 2] = [(16, &values), (16, &values)];
    check("add.f16 %d, %a, %b;", 16, &two, |x| to16(value(x[0]) + value(x[1])));
    check("sub.rn.f16 %d, %a, %b;", 16, &two, |x| to16(value(x[0]) - value(x[1])));
    check("mul.f16 %d, %a, %b;", 16, &two, |x| to16(value(x[0]) * value(x[1])));
    let three: [(u32, &[u64]); 3] = [(16, &values), (16, &values), (16, &values)];
    let fused = |x: &[u64]| {
        let (a, b, c) = (value(x[0]), value(x[1]), value(x[2]));
        signed_zero(fma16(a, b, c), a * b + c)
    };
    check("fma.rn.f16 %d, %a, %b, %c;", 16, &three, |x| to16(fused(x)));
    check("fma.rn.relu.f16 %d, %a, %b, %c;", 16, &three, |x| {
        let y = fused(x);
        if y.is_nan() { 0x7fff } else { to16(if y > 0.0 { y } else { 0.0 }) }
    });
    check("fma.rn.sat.f16 %d, %a, %b, %c;", 16, &three, |x| {
        let y = fused(x);
        if y.is_nan() { 0 } else { to16(y.clamp(0.0, 1.0) + 0.0) }
    });
    check("neg.f16 %d, %a;", 16, &two[..1], |x| x[0] ^ 0x8000);
    check("abs.f16 %d, %a;", 16, &two[..1], |x| x[0] & 0x7fff);
    check("add.ftz.f16 %d, %a, %b;", 16, &two, |x| {
        let flush = |bits: u64| if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits };
        flush(to16(value(flush(x[0])) + value(flush(x[1]))))
    });
}

#[test]
fn f16_pairs() {
    let values = values16();
    let pairs: Vec<u64> = values.iter().zip(values.iter().rev()).map(|(a, b)| a | b << 16).collect();
    let three: [(u32, &[u64]); 3] = [(32, &pairs), (32, &pairs), (32, &pairs)];
    let each = |x: &[u64], g: &dyn Fn(f64, f64, f64) -> f64| {
        (0..2).fold(0, |out, at| {
            let part = |i: usize| value(x.get(i).copied().unwrap_or(0) >> (16 * at) & 0xffff);
            out | to16(g(part(0), part(1), part(2))) << (16 * at)
        })
    };
    check("add.f16x2 %d, %a, %b;", 32, &three[..2], |x| each(x, &|a, b, _| a + b));
    check("mul.rn.f16x2 %d, %a, %b;", 32, &three[..2], |x| each(x, &|a, b, _| a * b));
    check("fma.rn.f16x2 %d, %a, %b, %c;", 32, &three, |x| each(x, &|a, b, c| signed_zero(fma16(a, b, c), a * b + c)));
    check("min.f16x2 %d, %a, %b;", 32, &three[..2], |x| {
        each(x, &|a, b, _| if a == b && a == 0.0 { if a.is_sign_negative() { a } else { b } } else { a.min(b) })
    });
    check("max.NaN.f16x2 %d, %a, %b;", 32, &three[..2], |x| {
        each(x, &|a, b, _| {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else if a == b && a == 0.0 {
                if a.is_sign_negative() { b } else { a }
            } else {
                a.max(b)
            }
        })
    });
}

#[test]
fn bf16_arithmetic() {
    let numbers = [1.0f32, -1.0, 1.5, 0.1, -0.333, 255.0, 1.0078125, -7.25, 0.5, 3.0e-3, 100.0, -0.00390625];
    let values: Vec<u64> = numbers.into_iter().map(|x| bf16::from_f32(x).to_bits().into()).collect();
    let value = |bits: u64| bf16::from_bits(bits as u16).to_f64();
    let three: [(u32, &[u64]); 3] = [(16, &values), (16, &values), (16, &values)];
    let bits = |exact: i128, scale: i32| -> u64 {
        bf16::from_f64(round(exact, scale, BFLOAT, Mode::Nearest)).to_bits().into()
    };
    let at = |x: u64| integer(value(x), 30);
    check("fma.rn.bf16 %d, %a, %b, %c;", 16, &three, |x| bits(at(x[0]) * at(x[1]) + (at(x[2]) << 30), 60));
    check("fma.rn.relu.bf16 %d, %a, %b, %c;", 16, &three, |x| {
        bits((at(x[0]) * at(x[1]) + (at(x[2]) << 30)).max(0), 60)
    });
    check("add.rn.bf16 %d, %a, %b;", 16, &three[..2], |x| bits(at(x[0]) + at(x[1]), 30));
    check("sub.rn.bf16 %d, %a, %b;", 16, &three[..2], |x| bits(at(x[0]) - at(x[1]), 30));
    check("mul.rn.bf16 %d, %a, %b;", 16, &three[..2], |x| bits(at(x[0]) * at(x[1]), 60));
    check("max.bf16 %d, %a, %b;", 16, &three[..2], |x| bits(at(x[0]).max(at(x[1])), 30));
    let pairs: Vec<u64> = values.iter().zip(values.iter().rev()).map(|(a, b)| a | b << 16).collect();
    check("fma.rn.bf16x2 %d, %a, %b, %c;", 32, &[(32, &pairs), (32, &pairs), (32, &pairs)], |x| {
        (0..2).fold(0, |out, half| {
            let part = |i: usize| at(x[i] >> (16 * half) & 0xffff);
            out | bits(part(0) * part(1) + (part(2) << 30), 60) << (16 * half)
        })
    });
    check("neg.bf16x2 %d, %a;", 32, &[(32, &pairs)], |x| x[0] ^ 0x8000_8000);
    // NaNs are canonical, infinities stay.
    let specials = [0x7f80, 0xff80, 0x7fc1, 0x0000];
    check("add.rn.bf16 %d, %a, %b;", 16, &[(16, &specials), (16, &specials)], |x| {
        let sum = value(x[0]) + value(x[1]);
        if sum.is_nan() { 0x7fff } else { bf16::from_f64(sum).to_bits().into() }
    });
}

#[test]
fn f16_comparisons() {
    let values = values16();
    check("setp.lt.f16 %p, %a, %b;\nselp.b32 %d, 1, 0, %p;", 32, &[(16, &values), (16, &values)], |x| {
        (value(x[0]) < value(x[1])).into()
    });
    let pairs: Vec<u64> = values.iter().zip(values.iter().rev()).map(|(a, b)| a | b << 16).collect();
    let code = "setp.geu.f16x2 %p|%q, %a, %b;\nselp.b32 %t, 1, 0, %p;\nselp.b32 %u, 2, 0, %q;\nor.b32 %d, %t, %u;";
    check(code, 32, &[(32, &pairs), (32, &pairs)], |x| {
        (0..2).fold(0, |out, at| {
            let part = |i: usize| value(x[i] >> (16 * at) & 0xffff);
            out | u64::from(!(part(0) < part(1))) << at
        })
    });
    check("set.eq.f16x2.f16x2 %d, %a, %b;", 32, &[(32, &pairs), (32, &pairs)], |x| {
        (0..2).fold(0, |out, at| {
            let part = |i: usize| value(x[i] >> (16 * at) & 0xffff);
            out | if part(0) == part(1) { 0x3c00 << (16 * at) } else { 0 }
        })
    });
}
