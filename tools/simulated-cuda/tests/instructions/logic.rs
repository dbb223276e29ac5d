//! Comparison, logic, bits, moves and selections.

use super::{check, doubles, edges, f, singles};

#[test]
fn bitwise() {
    for width in [16, 32, 64] {
        let values = edges(width);
        let two: [(u32, &[u64]); 2] = [(width, &values), (width, &values)];
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        check(&format!("and.b{width} %d, %a, %b;"), width, &two, |x| x[0] & x[1]);
        check(&format!("or.b{width} %d, %a, %b;"), width, &two, |x| x[0] | x[1]);
        check(&format!("xor.b{width} %d, %a, %b;"), width, &two, |x| x[0] ^ x[1]);
        check(&format!("not.b{width} %d, %a;"), width, &two[..1], |x| !x[0] & mask);
        check(&format!("cnot.b{width} %d, %a;"), width, &two[..1], |x| u64::from(x[0] == 0));
    }
}

#[test]
fn shifts() {
    let amounts = [0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, u64::from(u32::MAX)];
    for width in [16u32, 32, 64] {
        let values = edges(width);
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        let two: [(u32, &[u64]); 2] = [(width, &values), (32, &amounts)];
        // More than the width: all bits out, or the sign everywhere.
        let clamp = |n: u64| n.min(width.into()) as u32;
        check(&format!("shl.b{width} %d, %a, %b;"), width, &two, |x| (u128::from(x[0]) << clamp(x[1])) as u64 & mask);
        check(&format!("shr.u{width} %d, %a, %b;"), width, &two, |x| (u128::from(x[0]) >> clamp(x[1])) as u64);
        check(&format!("shr.s{width} %d, %a, %b;"), width, &two, |x| {
            let signed = i128::from(x[0]) << (128 - width) >> (128 - width);
            (signed >> clamp(x[1])) as u64 & mask
        });
    }
    let values = edges(32);
    let three: [(u32, &[u64]); 3] = [(32, &values), (32, &values), (32, &amounts)];
    for (mode, wrap) in [("wrap", true), ("clamp", false)] {
        let n = |c: u64| if wrap { c & 31 } else { c.min(32) };
        check(&format!("shf.l.{mode}.b32 %d, %a, %b, %c;"), 32, &three, |x| {
            ((u128::from(x[1]) << 32 | u128::from(x[0])) << n(x[2]) >> 32) as u64 & 0xffff_ffff
        });
        check(&format!("shf.r.{mode}.b32 %d, %a, %b, %c;"), 32, &three, |x| {
            ((u128::from(x[1]) << 32 | u128::from(x[0])) >> n(x[2])) as u64 & 0xffff_ffff
        });
    }
}

#[test]
fn counting_and_finding_bits() {
    for width in [32u32, 64] {
        let values = edges(width);
        let one: [(u32, &[u64]); 1] = [(width, &values)];
        let bit = |x: u64, at: u32| x >> at & 1;
        check(&format!("popc.b{width} %d, %a;"), 32, &one, |x| (0..width).map(|at| bit(x[0], at)).sum());
        check(&format!("clz.b{width} %d, %a;"), 32, &one, |x| {
            (0..width).rev().take_while(|&at| bit(x[0], at) == 0).count() as u64
        });
        check(&format!("brev.b{width} %d, %a;"), width, &one, |x| {
            (0..width).fold(0, |out, at| out | bit(x[0], at) << (width - 1 - at))
        });
        // The position of the most significant bit that is not the sign; all ones where there is none.
        for sign in ["u", "s"] {
            let find = |x: u64| {
                let negative = sign == "s" && bit(x, width - 1) == 1;
                (0..width).rev().find(|&at| bit(x, at) != u64::from(negative)).map_or(0xffff_ffff, u64::from)
            };
            check(&format!("bfind.{sign}{width} %d, %a;"), 32, &one, |x| find(x[0]));
            check(&format!("bfind.shiftamt.{sign}{width} %d, %a;"), 32, &one, |x| match find(x[0]) {
                0xffff_ffff => 0xffff_ffff,
                at => u64::from(width) - 1 - at,
            });
        }
    }
}

#[test]
fn bit_fields() {
    let fields = [0, 1, 5, 8, 31, 32, 33, 63, 64, 255, 256, 257];
    for width in [32u32, 64] {
        let values = edges(width);
        let three: [(u32, &[u64]); 3] = [(width, &values), (32, &fields), (32, &fields)];
        let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
        for sign in ["u", "s"] {
            check(&format!("bfe.{sign}{width} %d, %a, %b, %c;"), width, &three, |x| {
                let (position, length) = (x[1] & 255, x[2] & 255);
                // The manual: zeros, or the sign of the field, which beyond the register is its top bit.
                let taken: u128 = (u128::from(x[0]) >> position.min(127)) & ((1u128 << length.min(64)) - 1);
                if sign == "u" {
                    return taken as u64 & mask;
                }
                if length == 0 {
                    return 0;
                }
                let top = (position + length - 1).min(u64::from(width) - 1);
                let negative = x[0] >> top & 1 == 1;
                let kept = length.min(u64::from(width).saturating_sub(position));
                let ones = if kept >= 64 { 0 } else { u64::MAX << kept };
                (if negative { taken as u64 | ones } else { taken as u64 & !ones }) & mask
            });
        }
        let few = &values[16..];
        check(
            &format!("bfi.b{width} %d, %a, %b, %c, %e;"),
            width,
            &[(width, few), (width, few), (32, &fields), (32, &fields)],
            |x| {
                let (position, length) = (x[2] & 255, x[3] & 255);
                let field = ((1u128 << length.min(64)) - 1) << position.min(64);
                ((u128::from(x[1]) & !field | u128::from(x[0]) << position.min(64) & field) as u64) & mask
            },
        );
    }
    let amounts = [0, 1, 4, 31, 32, 40];
    check("bmsk.clamp.b32 %d, %a, %b;", 32, &[(32, &amounts), (32, &amounts)], |x| {
        if x[0] >= 32 { 0 } else { (((1u128 << x[1].min(32)) - 1) << x[0]) as u64 & 0xffff_ffff }
    });
    check("szext.clamp.s32 %d, %a, %b;", 32, &[(32, &edges(32)), (32, &amounts)], |x| match x[1] {
        0 => 0,
        n @ 1..32 => ((x[0] as i64) << (64 - n) >> (64 - n)) as u64 & 0xffff_ffff,
        _ => x[0],
    });
}

#[test]
fn permutation() {
    let (a, b) = (0x8382_8180u64, 0x0706_f504u64);
    let selectors: Vec<u64> = (0..0x10000).step_by(7).collect();
    check("prmt.b32 %d, %a, %b, %c;", 32, &[(32, &[a]), (32, &[b]), (32, &selectors)], |x| {
        let bytes = (x[1] << 32 | x[0]).to_le_bytes();
        (0..4).fold(0, |out, at| {
            let control = x[2] >> (4 * at) & 15;
            let byte = bytes[(control & 7) as usize];
            let byte = if control & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
            out | u64::from(byte) << (8 * at)
        })
    });
    // The manual's table of forward and backward extracts, and copies of a byte.
    let modes: [(&str, [u64; 4]); 6] = [
        ("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
        ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
        ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
        ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
        ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
        ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
    ];
    for (mode, table) in modes {
        check(&format!("prmt.b32.{mode} %d, %a, %b, %c;"), 32, &[(32, &[a]), (32, &[b]), (32, &[0, 1, 2, 3])], |x| {
            let bytes = (x[1] << 32 | x[0]).to_le_bytes();
            (0..4)
                .fold(0, |out, at| out | u64::from(bytes[(table[x[2] as usize] >> (4 * at) & 7) as usize]) << (8 * at))
        });
    }
}

#[test]
fn three_input_logic() {
    // Columns of the truth table in the bits of the operands.
    let (a, b, c) = (0xf0f0_f0f0u64, 0xcccc_ccccu64, 0xaaaa_aaaau64);
    for table in 0..256u64 {
        check(&format!("lop3.b32 %d, %a, %b, %c, {table};"), 32, &[(32, &[a]), (32, &[b]), (32, &[c])], |_| {
            table * 0x0101_0101
        });
    }
}

fn compare<T: PartialOrd>(by: &str, a: T, b: T) -> bool {
    match by {
        "eq" => a == b,
        "ne" => a != b,
        "lt" | "lo" => a < b,
        "le" | "ls" => a <= b,
        "gt" | "hi" => a > b,
        _ => a >= b,
    }
}

#[test]
fn integer_comparisons() {
    for width in [16, 32, 64] {
        let values = edges(width);
        let two: [(u32, &[u64]); 2] = [(width, &values), (width, &values)];
        let run = |by: &str, kind: &str| {
            check(&format!("setp.{by}.{kind}{width} %p, %a, %b;\nselp.b32 %d, 1, 0, %p;"), 32, &two, |x| {
                let signed = |x: u64| i128::from(x) << (128 - width);
                u64::from(if kind == "s" { compare(by, signed(x[0]), signed(x[1])) } else { compare(by, x[0], x[1]) })
            });
        };
        ["eq", "ne", "lt", "le", "gt", "ge"].iter().for_each(|by| {
            run(by, "s");
            run(by, "u");
        });
        ["lo", "ls", "hi", "hs"].iter().for_each(|by| run(by, "u"));
        ["eq", "ne"].iter().for_each(|by| run(by, "b"));
    }
}

#[test]
fn float_comparisons() {
    let ordered = ["eq", "ne", "lt", "le", "gt", "ge"];
    let expected = |by: &str, a: f64, b: f64| {
        let nan = a.is_nan() || b.is_nan();
        match by {
            "num" => !nan,
            "nan" => nan,
            _ if by.ends_with('u') && by.len() == 3 => nan || compare(&by[..2], a, b),
            _ => !nan && compare(by, a, b),
        }
    };
    let all = || {
        ordered
            .iter()
            .map(|by| by.to_string())
            .chain(ordered.iter().map(|by| format!("{by}u")))
            .chain(["num".into(), "nan".into()])
    };
    let (v32, v64) = (singles(), doubles());
    for by in all() {
        check(&format!("setp.{by}.f32 %p, %a, %b;\nselp.b32 %d, 1, 0, %p;"), 32, &[(32, &v32), (32, &v32)], |x| {
            expected(&by, f(x[0]).into(), f(x[1]).into()).into()
        });
        check(&format!("setp.{by}.f64 %p, %a, %b;\nselp.b32 %d, 1, 0, %p;"), 32, &[(64, &v64), (64, &v64)], |x| {
            expected(&by, f64::from_bits(x[0]), f64::from_bits(x[1])).into()
        });
        check(&format!("setp.{by}.ftz.f32 %p, %a, %b;\nselp.b32 %d, 1, 0, %p;"), 32, &[(32, &v32), (32, &v32)], |x| {
            let flush = |x: f32| if x.is_subnormal() { 0.0f64 } else { x.into() };
            expected(&by, flush(f(x[0])), flush(f(x[1]))).into()
        });
    }
}

#[test]
fn comparisons_with_a_predicate() {
    let values = [0, 1, 2];
    for (combine, f) in [("and", (|x, c| x & c) as fn(u64, u64) -> u64), ("or", |x, c| x | c), ("xor", |x, c| x ^ c)] {
        for (negation, flip) in [("", 0), ("!", 1)] {
            let code = format!(
                "setp.eq.u32 %q, %c, 1;\nsetp.lt.{combine}.u32 %p|%in, %a, %b, {negation}%q;\n\
                 selp.b32 %t, 1, 0, %p;\nselp.b32 %u, 2, 0, %in;\nor.b32 %d, %t, %u;"
            );
            check(&code, 32, &[(32, &values), (32, &values), (32, &[0, 1])], |x| {
                let (less, c) = (u64::from(x[0] < x[1]), x[2] ^ flip);
                f(less, c) | f(1 - less, c) << 1
            });
        }
    }
    // Logic of predicates alone.
    for (opcode, f) in [("and", (|a, b| a & b) as fn(u64, u64) -> u64), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)] {
        let code = format!(
            "setp.ne.u32 %p, %a, 0;\nsetp.ne.u32 %q, %b, 0;\n{opcode}.pred %p, %p, %q;\nnot.pred %q, %p;\n\
             selp.b32 %t, 1, 0, %p;\nselp.b32 %u, 2, 0, %q;\nor.b32 %d, %t, %u;"
        );
        check(&code, 32, &[(32, &[0, 1]), (32, &[0, 1])], |x| f(x[0], x[1]) | (1 - f(x[0], x[1])) << 1);
    }
}

#[test]
fn set_and_selections() {
    let values = edges(32);
    let two: [(u32, &[u64]); 2] = [(32, &values), (32, &values)];
    check("set.lt.u32.s32 %d, %a, %b;", 32, &two, |x| if (x[0] as i32) < x[1] as i32 { 0xffff_ffff } else { 0 });
    check("set.ge.f32.u32 %d, %a, %b;", 32, &two, |x| if x[0] >= x[1] { 0x3f80_0000 } else { 0 });
    check("slct.u32.s32 %d, %a, %b, %c;", 32, &[(32, &[7]), (32, &[9]), (32, &values)], |x| {
        if x[2] as i32 >= 0 { 7 } else { 9 }
    });
    check("slct.f32.f32 %d, %a, %b, %c;", 32, &[(32, &[7]), (32, &[9]), (32, &singles())], |x| {
        if f(x[2]) >= 0.0 { 7 } else { 9 }
    });
    check(
        "setp.ne.u32 %p, %c, 0;\nselp.b64 %d, %a, %b, %p;",
        64,
        &[(64, &edges(64)), (64, &[3]), (32, &[0, 1])],
        |x| {
            if x[2] != 0 { x[0] } else { x[1] }
        },
    );
    check(
        "setp.ne.u32 %p, %c, 0;\n@!%p mov.b32 %a, %b;\nmov.b32 %d, %a;",
        32,
        &[(32, &[5]), (32, &[6]), (32, &[0, 1])],
        |x| {
            if x[2] != 0 { 5 } else { 6 }
        },
    );
}

#[test]
fn packing() {
    let (v16, v32, v64) = (edges(16), edges(32), edges(64));
    check("mov.b32 %d, {%a, %b};", 32, &[(16, &v16), (16, &v16)], |x| x[0] | x[1] << 16);
    check("mov.b64 %d, {%a, %b};", 64, &[(32, &v32), (32, &v32)], |x| x[0] | x[1] << 32);
    check("mov.b64 {%t, %u}, %a;\nsub.u32 %d, %u, %t;", 32, &[(64, &v64)], |x| {
        ((x[0] >> 32) as u32).wrapping_sub(x[0] as u32).into()
    });
    check("{ .reg .b16 l, h;\nmov.b32 {l, h}, %a;\nmov.b32 %d, {h, l};\n}", 32, &[(32, &v32)], |x| {
        (x[0] as u32).rotate_left(16).into()
    });
    check("{ .reg .b16 p, q, r, s;\nmov.b64 {p, q, r, s}, %a;\nmov.b64 %d, {s, r, q, p};\n}", 64, &[(64, &v64)], |x| {
        (0..4).fold(0, |out, at| out | (x[0] >> (16 * at) & 0xffff) << (48 - 16 * at))
    });
    check("mov.b64 {%t, _}, %a;\nmov.b32 %d, %t;", 32, &[(64, &v64)], |x| x[0] & 0xffff_ffff);
}
