//! `cvt`.

use super::{check, doubles, edges, exact::*, f, single, singles};
use ::half::{bf16, f16};

fn s(x: u64, width: u32) -> i128 {
    i128::from(x) << (128 - width) >> (128 - width)
}

fn low(x: i128, width: u32) -> u64 {
    (x as u128 & ((1u128 << width) - 1)) as u64
}

#[test]
fn integers() {
    for from in [16u32, 32, 64] {
        let values = edges(from);
        for to in [16u32, 32, 64] {
            for (from_sign, to_sign) in [("u", "u"), ("s", "u"), ("u", "s"), ("s", "s")] {
                let see = |x: u64| if from_sign == "s" { s(x, from) } else { i128::from(x) };
                let kinds = format!("{to_sign}{to}.{from_sign}{from}");
                check(&format!("cvt.{kinds} %d, %a;"), to, &[(from, &values)], |x| low(see(x[0]), to));
                let (least, greatest) =
                    if to_sign == "s" { (-(1i128 << (to - 1)), (1 << (to - 1)) - 1) } else { (0, (1 << to) - 1) };
                check(&format!("cvt.sat.{kinds} %d, %a;"), to, &[(from, &values)], |x| {
                    low(see(x[0]).clamp(least, greatest), to)
                });
            }
        }
    }
    // Bytes are in wider registers, extended by their sign.
    check("cvt.s32.s8 %d, %a;", 32, &[(32, &edges(32))], |x| low(s(x[0] & 0xff, 8), 32));
    check("cvt.u32.u8 %d, %a;", 32, &[(16, &edges(16))], |x| x[0] & 0xff);
    check("cvt.s8.s32 %d, %a;", 32, &[(32, &edges(32))], |x| low(s(x[0] & 0xff, 8), 32));
    check("cvt.sat.u8.s32 %d, %a;", 32, &[(32, &edges(32))], |x| s(x[0], 32).clamp(0, 255) as u64);
}

#[test]
fn floats_to_integers() {
    let (v32, v64) = (singles(), doubles());
    let modes: [(&str, fn(f64) -> f64); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    let extra: Vec<u64> =
        [0.5f32, 1.5, 2.5, -0.5, -1.5, 2147483648.0, -2147483648.0, 4294967296.0, 9.3e18, 300.0, -129.0]
            .iter()
            .map(|x| x.to_bits().into())
            .collect();
    let v32: Vec<u64> = v32.into_iter().chain(extra).collect();
    for (name, round) in modes {
        for (kind, bits) in
            [("u8", 8u32), ("s8", 8), ("u16", 16), ("s16", 16), ("u32", 32), ("s32", 32), ("u64", 64), ("s64", 64)]
        {
            let signed = kind.starts_with('s');
            let (least, greatest) =
                if signed { (-(1i128 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
            let width = bits.max(16);
            let expected =
                |x: f64, nan: u64| if x.is_nan() { nan } else { low((round(x) as i128).clamp(least, greatest), width) };
            // The manual: a NaN is 0, but from f64 or to 64 bits the top bit alone.
            let nan = |wide: bool| if wide { 1 << (bits - 1) } else { 0 };
            check(&format!("cvt.{name}.{kind}.f32 %d, %a;"), width, &[(32, &v32)], |x| {
                expected(f(x[0]).into(), nan(bits == 64))
            });
            if bits >= 16 {
                check(&format!("cvt.{name}.{kind}.f64 %d, %a;"), width, &[(64, &v64)], |x| {
                    expected(f64::from_bits(x[0]), nan(true))
                });
            }
        }
    }
}

#[test]
fn integers_to_floats() {
    for (name, mode) in MODES {
        for (kind, bits) in [("u32", 32), ("s32", 32), ("u64", 64), ("s64", 64), ("u16", 16), ("s16", 16)] {
            let values = edges(bits);
            let see = |x: u64| if kind.starts_with('s') { s(x, bits) } else { i128::from(x) };
            check(&format!("cvt.{name}.f32.{kind} %d, %a;"), 32, &[(bits, &values)], |x| {
                (round(see(x[0]), 0, SINGLE, mode) as f32).to_bits().into()
            });
            check(&format!("cvt.{name}.f64.{kind} %d, %a;"), 64, &[(bits, &values)], |x| {
                round(see(x[0]), 0, Format(53, -1022, 1023), mode).to_bits()
            });
            check(&format!("cvt.{name}.f16.{kind} %d, %a;"), 16, &[(bits, &values)], |x| {
                f16::from_f64(round(see(x[0]), 0, HALF, mode)).to_bits().into()
            });
        }
    }
}

/// Singles that are finite and not so small that their integer form does not fit, and others apart.
fn moderate() -> Vec<u64> {
    let values = [
        1.0f32,
        1.000_488_3,
        1.000_488_3,
        1.000_976_6,
        -1.5,
        0.1,
        -3.3333333,
        65504.0,
        65519.99,
        65520.0,
        -65536.0,
        6.1e-5,
        5.96e-8,
        2.98e-8,
        2.9802322e-8,
        8.9e-8,
        -1e-7,
        100_000.0,
        1.003_906_3,
        1.001_953_1,
        1.005_859_4,
    ];
    values.iter().map(|x| x.to_bits().into()).collect()
}

#[test]
fn to_half_precision() {
    let values = moderate();
    let signed = |y: f64, x: f32| if y == 0.0 { 0.0f64.copysign(x.into()) } else { y };
    for (name, mode) in MODES.into_iter().filter(|(name, _)| matches!(*name, "rn" | "rz")) {
        let narrow = |x: u64, format: Format| signed(round(integer(f(x).into(), 60), 60, format, mode), f(x));
        let half = |x: u64| u64::from(f16::from_f64(narrow(x, HALF)).to_bits());
        let bfloat = |x: u64| u64::from(bf16::from_f64(narrow(x, BFLOAT)).to_bits());
        check(&format!("cvt.{name}.f16.f32 %d, %a;"), 16, &[(32, &values)], |x| half(x[0]));
        check(&format!("cvt.{name}.bf16.f32 %d, %a;"), 16, &[(32, &values)], |x| bfloat(x[0]));
        let two: [(u32, &[u64]); 2] = [(32, &values), (32, &values)];
        check(&format!("cvt.{name}.f16x2.f32 %d, %a, %b;"), 32, &two, |x| half(x[0]) << 16 | half(x[1]));
        check(&format!("cvt.{name}.bf16x2.f32 %d, %a, %b;"), 32, &two, |x| bfloat(x[0]) << 16 | bfloat(x[1]));
        check(&format!("cvt.{name}.relu.bf16x2.f32 %d, %a, %b;"), 32, &two, |x| {
            let relu = |x: u64| if f(x) > 0.0 { bfloat(x) } else { 0 };
            relu(x[0]) << 16 | relu(x[1])
        });
        check(&format!("cvt.{name}.tf32.f32 %d, %a;"), 32, &[(32, &values)], |x| {
            (narrow(x[0], TF32) as f32).to_bits().into()
        });
    }
    // Ties away from zero, whatever came before them.
    check("cvt.rna.tf32.f32 %d, %a;", 32, &[(32, &values)], |x| {
        (round(integer(f(x[0]).into(), 60), 60, TF32, Mode::Away) as f32).to_bits().into()
    });
    let specials: Vec<u64> =
        [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0].iter().map(|x| x.to_bits().into()).collect();
    check("cvt.rn.f16.f32 %d, %a;", 16, &[(32, &specials)], |x| {
        if f(x[0]).is_nan() { 0x7fff } else { f16::from_f32(f(x[0])).to_bits().into() }
    });
    check("cvt.rn.bf16.f32 %d, %a;", 16, &[(32, &specials)], |x| {
        if f(x[0]).is_nan() { 0x7fff } else { bf16::from_f32(f(x[0])).to_bits().into() }
    });
}

#[test]
fn every_half() {
    let all: Vec<u64> = (0..0x10000).collect();
    check("cvt.f32.f16 %d, %a;", 32, &[(16, &all)], |x| single(f16::from_bits(x[0] as u16).to_f32()));
    check("cvt.f32.bf16 %d, %a;", 32, &[(16, &all)], |x| single(bf16::from_bits(x[0] as u16).to_f32()));
    check("cvt.f32.f16 %t, %a;\ncvt.rn.f16.f32 %d, %t;", 16, &[(16, &all)], |x| {
        if f16::from_bits(x[0] as u16).is_nan() { 0x7fff } else { x[0] }
    });
    // And points between, and ties.
    let between: Vec<u64> =
        (0..0x8000u64).flat_map(|i| [i * 0x1_0001 + 0x3000_0000, i << 13 | 0x1000, i << 13 | 0x0fff]).collect();
    check("cvt.rn.f16.f32 %d, %a;", 16, &[(32, &between)], |x| {
        if f(x[0]).is_nan() { 0x7fff } else { f16::from_f32_const(f(x[0])).to_bits().into() }
    });
    check("cvt.rn.bf16.f32 %d, %a;", 16, &[(32, &between)], |x| {
        if f(x[0]).is_nan() { 0x7fff } else { bf16::from_f32(f(x[0])).to_bits().into() }
    });
}

#[test]
fn between_floats() {
    let (v32, v64) = (singles(), doubles());
    for (x, found) in super::evaluate("cvt.f64.f32 %d, %a;", 64, &[(32, &v32)]) {
        let (wanted, found) = (f64::from(f(x[0])), f64::from_bits(found));
        assert!(wanted.to_bits() == found.to_bits() || wanted.is_nan() && found.is_nan());
    }
    check("cvt.rn.f32.f64 %d, %a;", 32, &[(64, &v64)], |x| single(f64::from_bits(x[0]) as f32));
    check("cvt.rn.ftz.f32.f64 %d, %a;", 32, &[(64, &v64)], |x| {
        let y = f64::from_bits(x[0]) as f32;
        single(if y.is_subnormal() { 0.0f32.copysign(y) } else { y })
    });
    for (name, g) in
        [("rni", f32::round_ties_even as fn(f32) -> f32), ("rzi", f32::trunc), ("rmi", f32::floor), ("rpi", f32::ceil)]
    {
        check(&format!("cvt.{name}.f32.f32 %d, %a;"), 32, &[(32, &v32)], |x| single(g(f(x[0]))));
    }
    check("cvt.sat.f32.f32 %d, %a;", 32, &[(32, &v32)], |x| {
        let y = f(x[0]);
        if y.is_nan() { 0 } else { (y.clamp(0.0, 1.0) + 0.0).to_bits().into() }
    });
}
