//! f32 and f64 arithmetic.

use super::{check, doubles, evaluate, exact::*, f, single, singles};

/// `.ftz`.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

fn saturate(x: f32) -> u64 {
    if x.is_nan() { 0 } else { u64::from((x.clamp(0.0, 1.0) + 0.0).to_bits()) }
}

/// Bits of a double; NaNs, whose payload is unspecified, as one.
fn double(x: f64) -> u64 {
    if x.is_nan() { u64::MAX } else { x.to_bits() }
}

#[test]
fn nearest_with_all_modifiers() {
    let values = singles();
    let two: [(u32, &[u64]); 2] = [(32, &values), (32, &values)];
    let operations: [(&str, fn(f32, f32) -> f32); 4] =
        [("add", |a, b| a + b), ("sub", |a, b| a - b), ("mul", |a, b| a * b), ("div.rn", |a, b| a / b)];
    for (opcode, g) in operations {
        let base = opcode.split('.').next().unwrap();
        let rn = if base == "div" { ".rn" } else { "" };
        check(&format!("{base}{rn}.f32 %d, %a, %b;"), 32, &two, |x| single(g(f(x[0]), f(x[1]))));
        check(&format!("{base}{rn}.ftz.f32 %d, %a, %b;"), 32, &two, |x| {
            single(flush(g(flush(f(x[0])), flush(f(x[1])))))
        });
        if base != "div" {
            check(&format!("{base}.rn.sat.f32 %d, %a, %b;"), 32, &two, |x| saturate(g(f(x[0]), f(x[1]))));
        }
    }
    let few = &values[..14];
    check("fma.rn.f32 %d, %a, %b, %c;", 32, &[(32, &values), (32, &values), (32, few)], |x| {
        single(f(x[0]).mul_add(f(x[1]), f(x[2])))
    });
    check("fma.rn.ftz.sat.f32 %d, %a, %b, %c;", 32, &[(32, &values), (32, few), (32, few)], |x| {
        saturate(flush(flush(f(x[0])).mul_add(flush(f(x[1])), flush(f(x[2])))))
    });
}

#[test]
fn one_operand() {
    let values = singles();
    let one: [(u32, &[u64]); 1] = [(32, &values)];
    check("neg.f32 %d, %a;", 32, &one, |x| x[0] ^ 1 << 31);
    check("abs.f32 %d, %a;", 32, &one, |x| x[0] & 0x7fff_ffff);
    check("abs.ftz.f32 %d, %a;", 32, &one, |x| u64::from(flush(f(x[0])).to_bits()) & 0x7fff_ffff);
    check("sqrt.rn.f32 %d, %a;", 32, &one, |x| single(f(x[0]).sqrt()));
    check("rcp.rn.f32 %d, %a;", 32, &one, |x| single(1.0 / f(x[0])));
    check("copysign.f32 %d, %a, %b;", 32, &[(32, &values), (32, &values)], |x| x[0] & 1 << 31 | x[1] & 0x7fff_ffff);
    let tests: [(&str, fn(f32) -> bool); 6] = [
        ("finite", f32::is_finite),
        ("infinite", f32::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", f32::is_normal),
        ("subnormal", f32::is_subnormal),
    ];
    for (name, test) in tests {
        check(&format!("testp.{name}.f32 %p, %a;\nselp.b32 %d, 1, 0, %p;"), 32, &one, |x| test(f(x[0])).into());
    }
}

#[test]
fn minimum_and_maximum() {
    // A NaN gives the other operand, with .NaN a NaN; -0 is below +0.
    let expected = |a: f32, b: f32, max: bool, nan: bool| match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (true, _) | (_, true) if nan => f32::NAN,
        (true, _) => b,
        (_, true) => a,
        _ if a == b => {
            if (a.is_sign_negative() == max) && a == 0.0 {
                b
            } else {
                a
            }
        }
        _ => {
            if (a > b) == max {
                a
            } else {
                b
            }
        }
    };
    let values = singles();
    let two: [(u32, &[u64]); 2] = [(32, &values), (32, &values)];
    for (name, max) in [("min", false), ("max", true)] {
        check(&format!("{name}.f32 %d, %a, %b;"), 32, &two, |x| single(expected(f(x[0]), f(x[1]), max, false)));
        check(&format!("{name}.NaN.f32 %d, %a, %b;"), 32, &two, |x| single(expected(f(x[0]), f(x[1]), max, true)));
        check(&format!("{name}.ftz.f32 %d, %a, %b;"), 32, &two, |x| {
            single(expected(flush(f(x[0])), flush(f(x[1])), max, false))
        });
    }
    let values = doubles();
    check("max.f64 %d, %a, %b;\nmov.b64 %x, 0;", 64, &[(64, &values[..15]), (64, &values[..15])], |x| {
        let (a, b) = (f64::from_bits(x[0]), f64::from_bits(x[1]));
        (if a == b {
            if a.is_sign_negative() { b } else { a }
        } else if a > b {
            a
        } else {
            b
        })
        .to_bits()
    });
}

/// Values whose sums and products, exact, fit 128 bits.
fn moderate() -> Vec<u64> {
    let values = [
        1.0f32,
        -1.0,
        1.000_000_1,
        -1.000_000_1,
        1.5,
        3.0,
        -0.1,
        0.333_333_34,
        4095.999,
        -4095.9995,
        0.000_244_140_63,
        7.000_000_5,
        -2.75,
        0.000_3,
        1.999_999_9,
        2_048.25,
    ];
    values.into_iter().map(|x| x.to_bits().into()).collect()
}

#[test]
fn directed_rounding_of_singles() {
    let values = moderate();
    let value = |x: u64| f64::from(f(x));
    let (two, three): ([(u32, &[u64]); 2], [(u32, &[u64]); 3]) =
        ([(32, &values), (32, &values)], [(32, &values), (32, &values), (32, &values)]);
    for (name, mode) in MODES {
        let bits = |exact: i128, scale: i32| -> u64 { (round(exact, scale, SINGLE, mode) as f32).to_bits().into() };
        let sum = |a: i128, b: i128, scale: i32| -> u64 {
            // Exact zeros of a difference: -0 only downwards.
            if a + b == 0 { if mode == Mode::Down { 1 << 31 } else { 0 } } else { bits(a + b, scale) }
        };
        check(&format!("add.{name}.f32 %d, %a, %b;"), 32, &two, |x| {
            sum(integer(value(x[0]), 40), integer(value(x[1]), 40), 40)
        });
        check(&format!("sub.{name}.f32 %d, %a, %b;"), 32, &two, |x| {
            sum(integer(value(x[0]), 40), -integer(value(x[1]), 40), 40)
        });
        check(&format!("mul.{name}.f32 %d, %a, %b;"), 32, &two, |x| {
            bits(integer(value(x[0]), 40) * integer(value(x[1]), 40), 80)
        });
        check(&format!("fma.{name}.f32 %d, %a, %b, %c;"), 32, &three, |x| {
            sum(integer(value(x[0]), 40) * integer(value(x[1]), 40), integer(value(x[2]), 80), 80)
        });
        // Quotients and roots: the result's neighbours on either side of the exact one.
        for (code, operands) in [("div", &two[..]), ("sqrt", &two[..1]), ("rcp", &two[..1])] {
            let text = if code == "div" { "%a, %b" } else { "%a" };
            for (x, found) in evaluate(&format!("{code}.{name}.f32 %d, {text};"), 32, operands) {
                let (found, a) = (f(found), value(x[0]));
                if code == "sqrt" && a < 0.0 {
                    assert!(found.is_nan());
                    continue;
                }
                let exact = match code {
                    "div" => a / value(x[1]),
                    "sqrt" => a.sqrt(),
                    _ => 1.0 / a,
                };
                // The double is within 2^-53 of the exact result, which is never so near a single without being one.
                let wanted = match mode {
                    Mode::Down if f64::from(exact as f32) > exact => (exact as f32).next_down(),
                    Mode::Up if f64::from(exact as f32) < exact => (exact as f32).next_up(),
                    Mode::Zero if f64::from(exact as f32).abs() > exact.abs() => {
                        f32::from_bits((exact as f32).to_bits() - 1)
                    }
                    _ => exact as f32,
                };
                assert_eq!(found.to_bits(), wanted.to_bits(), "{code}.{name} {x:x?}");
            }
        }
    }
}

#[test]
fn directed_rounding_at_the_ends() {
    // Overflow goes to the greatest finite value or to infinity, by direction; so does underflow.
    let max: u64 = f32::MAX.to_bits().into();
    let tiny = 1;
    let wanted = [("rn", 0x7f80_0000u64, 0), ("rz", max, 0), ("rm", max, 0), ("rp", 0x7f80_0000, 1)];
    for (name, high, low) in wanted {
        check(&format!("add.{name}.f32 %d, %a, %b;"), 32, &[(32, &[max]), (32, &[max])], |_| high);
        check(&format!("mul.{name}.f32 %d, %a, %b;"), 32, &[(32, &[max]), (32, &[max])], |_| high);
        check(&format!("mul.{name}.f32 %d, %a, %b;"), 32, &[(32, &[tiny]), (32, &[tiny])], |_| low);
        check(&format!("fma.{name}.f32 %d, %a, %b, %c;"), 32, &[(32, &[max]), (32, &[max]), (32, &[tiny])], |_| high);
    }
    // A term too small to matter still directs.
    let one: u64 = 1.0f32.to_bits().into();
    check("add.rp.f32 %d, %a, %b;", 32, &[(32, &[one]), (32, &[tiny])], |_| one + 1);
    check("add.rm.f32 %d, %a, %b;", 32, &[(32, &[one]), (32, &[tiny | 1 << 31])], |_| one - 1);
    check("add.rz.f32 %d, %a, %b;", 32, &[(32, &[one]), (32, &[tiny | 1 << 31])], |_| one - 1);
}

#[test]
fn doubles_to_nearest() {
    let values = doubles();
    let bits = |x: u64| f64::from_bits(x);
    let run = |code: &str, operands: &[(u32, &[u64])], g: &dyn Fn(&[u64]) -> f64| {
        for (x, found) in evaluate(code, 64, operands) {
            assert_eq!(double(bits(found)), double(g(&x)), "{code} {x:x?}");
        }
    };
    let two: [(u32, &[u64]); 2] = [(64, &values), (64, &values)];
    run("add.f64 %d, %a, %b;", &two, &|x| bits(x[0]) + bits(x[1]));
    run("sub.rn.f64 %d, %a, %b;", &two, &|x| bits(x[0]) - bits(x[1]));
    run("mul.f64 %d, %a, %b;", &two, &|x| bits(x[0]) * bits(x[1]));
    run("div.rn.f64 %d, %a, %b;", &two, &|x| bits(x[0]) / bits(x[1]));
    run("sqrt.rn.f64 %d, %a;", &two[..1], &|x| bits(x[0]).sqrt());
    run("rcp.rn.f64 %d, %a;", &two[..1], &|x| 1.0 / bits(x[0]));
    run("fma.rn.f64 %d, %a, %b, %c;", &[two[0], two[1], (64, &values[..8])], &|x| {
        bits(x[0]).mul_add(bits(x[1]), bits(x[2]))
    });
    run("neg.f64 %d, %a;", &two[..1], &|x| -bits(x[0]));
    run("abs.f64 %d, %a;", &two[..1], &|x| bits(x[0]).abs());
}

#[test]
fn directed_rounding_of_doubles() {
    // Integers of up to 60 bits: exact sums and products in i128, rounded here to 53 bits.
    let values: Vec<u64> =
        [3.0, -7.0, 4503599627370497.0, 1152921504606846977.0, -9007199254740991.0, 123456789012345.0, 1e15 + 1.0]
            .into_iter()
            .map(f64::to_bits)
            .collect();
    let at = |x: u64| f64::from_bits(x) as i128;
    let format = Format(53, -1022, 1023);
    let two: [(u32, &[u64]); 2] = [(64, &values), (64, &values)];
    for (name, mode) in MODES {
        let bits = |exact: i128| {
            if exact == 0 && mode == Mode::Down { 1 << 63 } else { round(exact, 0, format, mode).to_bits() }
        };
        check(&format!("add.{name}.f64 %d, %a, %b;"), 64, &two, |x| bits(at(x[0]) + at(x[1])));
        check(&format!("mul.{name}.f64 %d, %a, %b;"), 64, &two, |x| bits(at(x[0]) * at(x[1])));
        check(&format!("fma.{name}.f64 %d, %a, %b, %c;"), 64, &[two[0], two[1], (64, &values)], |x| {
            bits(at(x[0]) * at(x[1]) + at(x[2]))
        });
    }
}

#[test]
fn approximations() {
    // Within the errors that the manual gives, and exact where it says so.
    let values: Vec<u64> = (0..400).map(|i| (0.01 + i as f32 * 0.0173).to_bits().into()).collect();
    let one: [(u32, &[u64]); 1] = [(32, &values)];
    let within = |code: &str, g: fn(f64) -> f64, relative: f64, absolute: f64| {
        for (x, found) in evaluate(code, 32, &one) {
            let (x, found) = (f64::from(f(x[0])), f64::from(f(found)));
            let error = (found - g(x)).abs();
            assert!(error <= relative * g(x).abs() + absolute, "{code} {x}: {found}");
        }
    };
    let ulp = 2f64.powi(-23);
    within("rcp.approx.f32 %d, %a;", |x| 1.0 / x, ulp, 0.0);
    within("rsqrt.approx.f32 %d, %a;", |x| 1.0 / x.sqrt(), 2f64.powi(-22) * 1.5, 0.0);
    within("sqrt.approx.f32 %d, %a;", f64::sqrt, 1.5 * ulp, 0.0);
    within("ex2.approx.f32 %d, %a;", f64::exp2, 2.0 * ulp, 0.0);
    within("lg2.approx.f32 %d, %a;", f64::log2, 0.0, 2f64.powi(-22));
    within("sin.approx.f32 %d, %a;", f64::sin, 0.0, 2f64.powf(-20.5));
    within("cos.approx.f32 %d, %a;", f64::cos, 0.0, 2f64.powf(-20.5));
    within("tanh.approx.f32 %d, %a;", f64::tanh, 2f64.powi(-11), 0.0);
    let at = |code: &str, x: f32, wanted: f32| {
        check(code, 32, &[(32, &[x.to_bits().into()])], |_| single(wanted));
    };
    at("rcp.approx.ftz.f32 %d, %a;", -0.0, f32::NEG_INFINITY);
    at("rsqrt.approx.f32 %d, %a;", f32::INFINITY, 0.0);
    at("rsqrt.approx.f32 %d, %a;", -1.0, f32::NAN);
    at("ex2.approx.ftz.f32 %d, %a;", f32::NEG_INFINITY, 0.0);
    at("ex2.approx.f32 %d, %a;", 3.0, 8.0);
    at("lg2.approx.f32 %d, %a;", 0.0, f32::NEG_INFINITY);
    at("lg2.approx.f32 %d, %a;", -1.0, f32::NAN);
    at("sin.approx.f32 %d, %a;", f32::INFINITY, f32::NAN);
}
