//! Instruction by instruction against the PTX ISA's definitions.
//!
//! Each test runs a snippet on every combination of edge values and compares bits with what is computed here from the
//! manual's text, without the simulator's own arithmetic.

#[path = "../common/mod.rs"]
mod common;
mod convert;
mod exact;
mod float;
mod half;
mod integer;
mod logic;
mod matrix;
mod memory;
mod warp;

use common::Rig;

/// Bits of an operand: 16, 32 or 64.
pub type Width = u32;

/// Runs `code` once for every combination of the operands' values, a thread each: it reads registers `%a`, `%b`, `%c`,
/// `%e` of the given widths, and writes `%d`. Scratch: `%p`, `%q` and `%t`, `%u` of 32 bits. Combinations and results.
pub fn evaluate(code: &str, result: Width, operands: &[(Width, &[u64])]) -> Vec<(Vec<u64>, u64)> {
    let mut rows: Vec<Vec<u64>> = vec![Vec::new()];
    for (_, values) in operands {
        rows = rows.iter().flat_map(|row| values.iter().map(|v| [&row[..], &[*v]].concat())).collect();
    }
    let mut ptx =
        String::from(".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u32 n, .param .u64 out");
    let names = ["a", "b", "c", "e"];
    let used = &names[..operands.len()];
    used.iter().for_each(|name| ptx += &format!(", .param .u64 in_{name}"));
    ptx += ")\n{\n.reg .pred %p, %q, %in;\n.reg .b32 %t, %u, %i, %n;\n.reg .b64 %x, %y;\n";
    ptx += &format!(".reg .b{result} %d;\n");
    for (name, (width, _)) in used.iter().zip(operands) {
        ptx += &format!(".reg .b{width} %{name};\n");
    }
    ptx += "mov.u32 %t, %ctaid.x;\nmov.u32 %u, %ntid.x;\nmov.u32 %i, %tid.x;\nmad.lo.u32 %i, %t, %u, %i;\n\
            ld.param.u32 %n, [n];\nsetp.ge.u32 %in, %i, %n;\n@%in exit;\n";
    for (name, (width, _)) in used.iter().zip(operands) {
        ptx += &format!(
            "ld.param.u64 %x, [in_{name}];\nmul.wide.u32 %y, %i, {};\nadd.u64 %x, %x, %y;\nld.global.b{width} %{name}, [%x];\n",
            width / 8
        );
    }
    ptx += &format!("{code}\nld.param.u64 %x, [out];\nmul.wide.u32 %y, %i, {};\nadd.u64 %x, %x, %y;\n", result / 8);
    ptx += &format!("st.global.b{result} [%x], %d;\nret;\n}}\n");
    let rig = Rig::new();
    let module = rig.module(&ptx);
    let column = |at: usize, width: Width| {
        let mut bytes: Vec<u8> = Vec::new();
        rows.iter().for_each(|row| bytes.extend_from_slice(&row[at].to_le_bytes()[..width as usize / 8]));
        rig.upload(&bytes)
    };
    let out = rig.alloc::<u8>(rows.len() * result as usize / 8);
    let inputs: Vec<u64> = operands.iter().enumerate().map(|(at, (width, _))| column(at, *width)).collect();
    let n = rows.len() as u32;
    let mut arguments: Vec<&dyn common::Argument> = vec![&n, &out];
    inputs.iter().for_each(|input| arguments.push(input));
    rig.launch(&module, "k", ([n.div_ceil(128), 1, 1], [128, 1, 1], 0), &arguments)
        .unwrap_or_else(|fault| panic!("{code}: {fault}"));
    let bytes = rig.download::<u8>(out, rows.len() * result as usize / 8);
    let results = bytes.chunks_exact(result as usize / 8).map(|chunk| {
        let mut bits = [0; 8];
        bits[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bits)
    });
    rows.into_iter().zip(results).collect()
}

/// [`evaluate`], and every result is the expected one.
#[track_caller]
pub fn check(code: &str, result: Width, operands: &[(Width, &[u64])], expected: impl Fn(&[u64]) -> u64) {
    for (row, found) in evaluate(code, result, operands) {
        let wanted = expected(&row);
        assert!(found == wanted, "{code}\nof {row:#x?}: {found:#x}, not {wanted:#x}");
    }
}

/// Integers at the edges of a width.
pub fn edges(width: Width) -> Vec<u64> {
    let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    let top = 1u64 << (width - 1);
    let small = [0, 1, 2, 3, 5, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255];
    let large = [
        top,
        top - 1,
        top + 1,
        mask,
        mask - 1,
        mask - 6,
        0x1234_5678_9abc_def0,
        0xdead_beef_cafe_f00d,
        0x5555_5555_5555_5555,
    ];
    small.into_iter().chain(large).map(|x| x & mask).collect()
}

/// Singles at the edges: zeros, subnormals, infinities, NaNs, and some between.
pub fn singles() -> Vec<u64> {
    let values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        -2.5,
        0.1,
        3.0,
        1e-20,
        1e20,
        -7.25e5,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        16_777_217.0,
        1.000_000_1,
        0.333_333_34,
        2.5e-39,
        0.5,
    ];
    let bits = [1, 0x8000_0001, 0x007f_ffff, 0x7f80_0001, 0xffc1_2345];
    values.into_iter().map(|x: f32| x.to_bits().into()).chain(bits).collect()
}

/// Doubles at the edges.
pub fn doubles() -> Vec<u64> {
    let values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        -2.5,
        0.1,
        3.0,
        1e-200,
        1e200,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        9_007_199_254_740_993.0,
        1.0 / 3.0,
        5e-324,
        2.5e-310,
    ];
    values.into_iter().map(f64::to_bits).collect()
}

pub fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Bits of a single as arithmetic gives it: any NaN is the canonical one.
pub fn single(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}
