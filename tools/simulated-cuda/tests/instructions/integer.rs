//! Integer arithmetic.

use super::{check, edges};

/// Sign-extends so many bits.
fn s(x: u64, width: u32) -> i128 {
    let shift = 128 - width;
    (i128::from(x) << shift) >> shift
}

fn u(x: u64) -> i128 {
    x.into()
}

/// The low bits of an exact result.
fn low(x: i128, width: u32) -> u64 {
    (x as u128 & ((1u128 << width) - 1)) as u64
}

/// An instruction of two operands at all widths and signs, by its exact definition.
#[track_caller]
fn binary(opcode: &str, expected: impl Fn(i128, i128, u32) -> i128) {
    for width in [16, 32, 64] {
        let values = edges(width);
        for sign in ["u", "s"] {
            let see = |x: u64| if sign == "s" { s(x, width) } else { u(x) };
            check(&format!("{opcode}.{sign}{width} %d, %a, %b;"), width, &[(width, &values), (width, &values)], |x| {
                low(expected(see(x[0]), see(x[1]), width), width)
            });
        }
    }
}

#[test]
fn add_sub_mul() {
    binary("add", |a, b, _| a + b);
    binary("sub", |a, b, _| a - b);
    binary("mul.lo", |a, b, _| a.wrapping_mul(b));
    binary("min", |a, b, _| a.min(b));
    binary("max", |a, b, _| a.max(b));
}

#[test]
fn mul_hi_and_wide() {
    for width in [16, 32] {
        let values = edges(width);
        for sign in ["u", "s"] {
            let see = |x: u64| if sign == "s" { s(x, width) } else { u(x) };
            let both: [(u32, &[u64]); 2] = [(width, &values), (width, &values)];
            check(&format!("mul.hi.{sign}{width} %d, %a, %b;"), width, &both, |x| {
                low((see(x[0]) * see(x[1])) >> width, width)
            });
            check(&format!("mul.wide.{sign}{width} %d, %a, %b;"), 2 * width, &both, |x| {
                low(see(x[0]) * see(x[1]), 2 * width)
            });
        }
    }
    let values = edges(64);
    check("mul.hi.u64 %d, %a, %b;", 64, &[(64, &values), (64, &values)], |x| {
        ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64
    });
    check("mul.hi.s64 %d, %a, %b;", 64, &[(64, &values), (64, &values)], |x| {
        ((s(x[0], 64) * s(x[1], 64)) >> 64) as u64
    });
}

#[test]
fn mad() {
    let (v32, v64, v16) = (edges(32), edges(64), edges(16));
    let three: [(u32, &[u64]); 3] = [(32, &v32), (32, &v32), (32, &v32)];
    check("mad.lo.s32 %d, %a, %b, %c;", 32, &three, |x| low(s(x[0], 32) * s(x[1], 32) + s(x[2], 32), 32));
    check("mad.hi.u32 %d, %a, %b, %c;", 32, &three, |x| low(((u(x[0]) * u(x[1])) >> 32) + u(x[2]), 32));
    check("mad.hi.s32 %d, %a, %b, %c;", 32, &three, |x| low(((s(x[0], 32) * s(x[1], 32)) >> 32) + s(x[2], 32), 32));
    check("mad.hi.sat.s32 %d, %a, %b, %c;", 32, &three, |x| {
        let sum = ((s(x[0], 32) * s(x[1], 32)) >> 32) + s(x[2], 32);
        low(sum.clamp(i128::from(i32::MIN), i128::from(i32::MAX)), 32)
    });
    let wide: [(u32, &[u64]); 3] = [(32, &v32), (32, &v32), (64, &v64)];
    check("mad.wide.u32 %d, %a, %b, %c;", 64, &wide, |x| low(u(x[0]) * u(x[1]) + u(x[2]), 64));
    check("mad.wide.s32 %d, %a, %b, %c;", 64, &wide, |x| low(s(x[0], 32) * s(x[1], 32) + u(x[2]), 64));
    check("mad.wide.s16 %d, %a, %b, %c;", 32, &[(16, &v16), (16, &v16), (32, &v32)], |x| {
        low(s(x[0], 16) * s(x[1], 16) + u(x[2]), 32)
    });
    check("mad.lo.u64 %d, %a, %b, %c;", 64, &[(64, &v64), (64, &v64), (64, &v64)], |x| {
        x[0].wrapping_mul(x[1]).wrapping_add(x[2])
    });
    check("mul24.lo.s32 %d, %a, %b;", 32, &[(32, &v32), (32, &v32)], |x| low(s(x[0], 24) * s(x[1], 24), 32));
    check("mul24.hi.u32 %d, %a, %b;", 32, &[(32, &v32), (32, &v32)], |x| {
        low((u(x[0] & 0xff_ffff) * u(x[1] & 0xff_ffff)) >> 16, 32)
    });
}

#[test]
fn division() {
    // Division by zero is unspecified: not tried.
    for width in [16, 32, 64] {
        let values = edges(width);
        let divisors: Vec<u64> = values.iter().copied().filter(|&x| x != 0).collect();
        let both: [(u32, &[u64]); 2] = [(width, &values), (width, &divisors)];
        check(&format!("div.u{width} %d, %a, %b;"), width, &both, |x| x[0] / x[1]);
        check(&format!("rem.u{width} %d, %a, %b;"), width, &both, |x| x[0] % x[1]);
        check(&format!("div.s{width} %d, %a, %b;"), width, &both, |x| low(s(x[0], width) / s(x[1], width), width));
        check(&format!("rem.s{width} %d, %a, %b;"), width, &both, |x| low(s(x[0], width) % s(x[1], width), width));
    }
}

#[test]
fn negation_absolute_difference_saturation() {
    for width in [16, 32, 64] {
        let values = edges(width);
        check(&format!("neg.s{width} %d, %a;"), width, &[(width, &values)], |x| low(-s(x[0], width), width));
        check(&format!("abs.s{width} %d, %a;"), width, &[(width, &values)], |x| low(s(x[0], width).abs(), width));
    }
    let values = edges(32);
    let two: [(u32, &[u64]); 2] = [(32, &values), (32, &values)];
    let clamp = |x: i128| low(x.clamp(i32::MIN.into(), i32::MAX.into()), 32);
    check("add.sat.s32 %d, %a, %b;", 32, &two, |x| clamp(s(x[0], 32) + s(x[1], 32)));
    check("sub.sat.s32 %d, %a, %b;", 32, &two, |x| clamp(s(x[0], 32) - s(x[1], 32)));
    let three: [(u32, &[u64]); 3] = [(32, &values), (32, &values), (32, &values[..4])];
    check("sad.u32 %d, %a, %b, %c;", 32, &three, |x| low((u(x[0]) - u(x[1])).abs() + u(x[2]), 32));
    check("sad.s32 %d, %a, %b, %c;", 32, &three, |x| low((s(x[0], 32) - s(x[1], 32)).abs() + u(x[2]), 32));
}

#[test]
fn dot_products() {
    let values = [0, 0x0102_0304, 0x7f80_ff01, u64::from(u32::MAX), 0x8080_8080, 0xdead_beef];
    let three: [(u32, &[u64]); 3] = [(32, &values), (32, &values), (32, &values)];
    for (a_sign, a_signed) in [("u32", false), ("s32", true)] {
        for (b_sign, b_signed) in [("u32", false), ("s32", true)] {
            let part = |x: u64, at: u32, width: u32, signed: bool| {
                let bits = x >> (width * at) & ((1 << width) - 1);
                if signed { s(bits, width) } else { u(bits) }
            };
            check(&format!("dp4a.{a_sign}.{b_sign} %d, %a, %b, %c;"), 32, &three, |x| {
                let sum: i128 = (0..4).map(|at| part(x[0], at, 8, a_signed) * part(x[1], at, 8, b_signed)).sum();
                low(sum + u(x[2]), 32)
            });
            for (half, first) in [("lo", 0), ("hi", 2)] {
                check(&format!("dp2a.{half}.{a_sign}.{b_sign} %d, %a, %b, %c;"), 32, &three, |x| {
                    let sum: i128 =
                        (0..2).map(|at| part(x[0], at, 16, a_signed) * part(x[1], first + at, 8, b_signed)).sum();
                    low(sum + u(x[2]), 32)
                });
            }
        }
    }
}

#[test]
fn carries() {
    // 64-bit sums and differences in two steps.
    let values = edges(64);
    let two: [(u32, &[u64]); 2] = [(64, &values), (64, &values)];
    for (first, second) in [("add.cc", "addc"), ("sub.cc", "subc")] {
        let code = format!(
            "{{ .reg .b32 al, ah, bl, bh, dl, dh;\nmov.b64 {{al, ah}}, %a;\nmov.b64 {{bl, bh}}, %b;\n\
             {first}.u32 dl, al, bl;\n{second}.u32 dh, ah, bh;\nmov.b64 %d, {{dl, dh}};\n}}"
        );
        check(&code, 64, &two, |x| if first == "add.cc" { x[0].wrapping_add(x[1]) } else { x[0].wrapping_sub(x[1]) });
    }
    // The upper half of a 64-bit product from 32-bit parts.
    let code = "{ .reg .b32 al, ah, bl, bh, r0, r1, r2, r3;\nmov.b64 {al, ah}, %a;\nmov.b64 {bl, bh}, %b;\n\
                mul.lo.u32 r0, al, bl;\nmul.hi.u32 r1, al, bl;\nmad.lo.cc.u32 r1, al, bh, r1;\nmadc.hi.u32 r2, al, bh, 0;\n\
                mad.lo.cc.u32 r1, ah, bl, r1;\nmadc.hi.cc.u32 r2, ah, bl, r2;\naddc.u32 r3, 0, 0;\n\
                mad.lo.cc.u32 r2, ah, bh, r2;\nmadc.hi.u32 r3, ah, bh, r3;\nmov.b64 %d, {r2, r3};\n}";
    check(code, 64, &two, |x| ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64);
    let flag = "add.cc.u64 %x, %a, %b;\naddc.u64 %d, 0, 0;";
    check(flag, 64, &two, |x| u64::from(x[0].checked_add(x[1]).is_none()));
}
