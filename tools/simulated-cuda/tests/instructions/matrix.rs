//! Tensor cores: fragments as the manual's figures have them, with index matrices, and products of numbers.

use super::common::{Argument, Rig};
use ::half::{bf16, f16};

/// Runs one warp; `body` reads `%r<..>` loaded from `input` (`words` per lane, lane by lane) and leaves `results` words
/// in `%r100...` to be stored.
fn run(input: &[u32], words: usize, results: usize, body: &str) -> Vec<u32> {
    let mut ptx = String::from(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<200>;\n.reg .f64 %fd<40>;\n.reg .b64 %rd<8>;\n.shared .align 16 .b8 tile[4096];\n\
         mov.u32 %r150, %tid.x;\nmov.u32 %r151, tile;\nld.param.u64 %rd1, [in];\n",
    );
    ptx += &format!("mul.wide.u32 %rd2, %r150, {};\nadd.u64 %rd3, %rd1, %rd2;\n", 4 * words);
    (0..words).for_each(|i| ptx += &format!("ld.global.u32 %r{i}, [%rd3+{}];\n", 4 * i));
    ptx += &format!(
        "{body}\nld.param.u64 %rd4, [out];\nmul.wide.u32 %rd5, %r150, {};\nadd.u64 %rd4, %rd4, %rd5;\n",
        4 * results
    );
    (0..results).for_each(|i| ptx += &format!("st.global.u32 [%rd4+{}], %r{};\n", 4 * i, 100 + i));
    ptx += "ret;\n}\n";
    let rig = Rig::new();
    let (from, to) = (rig.upload(input), rig.alloc::<u32>(32 * results));
    let module = rig.module(&ptx);
    let arguments: [&dyn Argument; 2] = [&from, &to];
    rig.launch(&module, "k", ([1, 1, 1], [32, 1, 1], 0), &arguments).unwrap_or_else(|fault| panic!("{body}: {fault}"));
    rig.download(to, 32 * results)
}

fn registers(first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count).map(|i| format!("%r{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// A matrix of small integers that no permutation of rows, columns or k leaves as it was.
fn entry(row: usize, col: usize, salt: usize) -> i32 {
    ((row * 7 + col * 13 + row * col * 3 + salt) % 11) as i32 - 5
}

/// Places of the fragments' elements, as the manual gives them for each shape: (row, column) of lane's element i.
type Place = fn(usize, usize) -> (usize, usize);

struct Case {
    name: &'static str,
    shape: (usize, usize, usize),
    /// Bits of A's and B's elements, of C's and D's.
    bits: (usize, usize),
    encode: fn(i32) -> u32,
    result: (fn(i32) -> u32, fn(u32) -> i32),
    a: Place,
    b: Place,
    c: Place,
}

// groupID = lane >> 2, threadID_in_group = lane % 4, as the manual's formulas have it.
fn a16816(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
    let col = if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 };
    (row, col)
}

fn b16816(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 }, group)
}

fn a1688(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

fn b1688(lane: usize, i: usize) -> (usize, usize) {
    ((lane % 4) * 2 + i, lane >> 2)
}

fn c168(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, (lane % 4) * 2 + (i & 1))
}

fn c88(lane: usize, i: usize) -> (usize, usize) {
    (lane >> 2, (lane % 4) * 2 + i)
}

fn a1688_tf32(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 })
}

fn b1688_tf32(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { lane % 4 } else { lane % 4 + 4 }, lane >> 2)
}

fn a1684_tf32(lane: usize, i: usize) -> (usize, usize) {
    (if i == 0 { lane >> 2 } else { (lane >> 2) + 8 }, lane % 4)
}

fn b1684_tf32(lane: usize, _: usize) -> (usize, usize) {
    (lane % 4, lane >> 2)
}

fn a8816(lane: usize, i: usize) -> (usize, usize) {
    (lane >> 2, (lane % 4) * 4 + i)
}

fn b8816(lane: usize, i: usize) -> (usize, usize) {
    ((lane % 4) * 4 + i, lane >> 2)
}

fn a16816_s8(lane: usize, i: usize) -> (usize, usize) {
    (if i < 4 { lane >> 2 } else { (lane >> 2) + 8 }, (lane % 4) * 4 + (i & 3))
}

fn a16832(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
    (row, if i < 8 { thread * 4 + (i & 3) } else { thread * 4 + (i & 3) + 16 })
}

fn b16832(lane: usize, i: usize) -> (usize, usize) {
    let thread = lane % 4;
    (if i < 4 { thread * 4 + (i & 3) } else { thread * 4 + (i & 3) + 16 }, lane >> 2)
}

fn half(x: i32) -> u32 {
    f16::from_f32(x as f32).to_bits().into()
}

fn bfloat(x: i32) -> u32 {
    bf16::from_f32(x as f32).to_bits().into()
}

fn float(x: i32) -> u32 {
    (x as f32).to_bits()
}

fn from_float(x: u32) -> i32 {
    f32::from_bits(x) as i32
}

fn from_half(x: u32) -> i32 {
    f16::from_bits(x as u16).to_f32() as i32
}

fn byte(x: i32) -> u32 {
    u32::from(x as u8)
}

#[test]
fn mma_fragments() {
    let to_float: (fn(i32) -> u32, fn(u32) -> i32) = (float, from_float);
    let to_half: (fn(i32) -> u32, fn(u32) -> i32) = (half, from_half);
    let to_int: (fn(i32) -> u32, fn(u32) -> i32) = (|x| x as u32, |x| x as i32);
    let cases = [
        Case {
            name: "m16n8k16.row.col.f32.f16.f16.f32",
            shape: (16, 8, 16),
            bits: (16, 32),
            encode: half,
            result: to_float,
            a: a16816,
            b: b16816,
            c: c168,
        },
        Case {
            name: "m16n8k16.row.col.f16.f16.f16.f16",
            shape: (16, 8, 16),
            bits: (16, 16),
            encode: half,
            result: to_half,
            a: a16816,
            b: b16816,
            c: c168,
        },
        Case {
            name: "m16n8k16.row.col.f32.bf16.bf16.f32",
            shape: (16, 8, 16),
            bits: (16, 32),
            encode: bfloat,
            result: to_float,
            a: a16816,
            b: b16816,
            c: c168,
        },
        Case {
            name: "m16n8k8.row.col.f32.f16.f16.f32",
            shape: (16, 8, 8),
            bits: (16, 32),
            encode: half,
            result: to_float,
            a: a1688,
            b: b1688,
            c: c168,
        },
        Case {
            name: "m16n8k8.row.col.f16.f16.f16.f16",
            shape: (16, 8, 8),
            bits: (16, 16),
            encode: half,
            result: to_half,
            a: a1688,
            b: b1688,
            c: c168,
        },
        Case {
            name: "m16n8k8.row.col.f32.bf16.bf16.f32",
            shape: (16, 8, 8),
            bits: (16, 32),
            encode: bfloat,
            result: to_float,
            a: a1688,
            b: b1688,
            c: c168,
        },
        Case {
            name: "m16n8k8.row.col.f32.tf32.tf32.f32",
            shape: (16, 8, 8),
            bits: (32, 32),
            encode: float,
            result: to_float,
            a: a1688_tf32,
            b: b1688_tf32,
            c: c168,
        },
        Case {
            name: "m16n8k4.row.col.f32.tf32.tf32.f32",
            shape: (16, 8, 4),
            bits: (32, 32),
            encode: float,
            result: to_float,
            a: a1684_tf32,
            b: b1684_tf32,
            c: c168,
        },
        Case {
            name: "m8n8k16.row.col.s32.s8.s8.s32",
            shape: (8, 8, 16),
            bits: (8, 32),
            encode: byte,
            result: to_int,
            a: a8816,
            b: b8816,
            c: c88,
        },
        Case {
            name: "m16n8k16.row.col.s32.s8.s8.s32",
            shape: (16, 8, 16),
            bits: (8, 32),
            encode: byte,
            result: to_int,
            a: a16816_s8,
            b: b8816,
            c: c168,
        },
        Case {
            name: "m16n8k32.row.col.s32.s8.s8.s32",
            shape: (16, 8, 32),
            bits: (8, 32),
            encode: byte,
            result: to_int,
            a: a16832,
            b: b16832,
            c: c168,
        },
    ];
    for case in cases {
        let (m, n, k) = case.shape;
        let fragment = |rows: usize, cols: usize, bits: usize, place: Place, encode: fn(i32) -> u32, salt: usize| {
            let pack = 32 / bits;
            let count = rows * cols / 32 / pack;
            let words = move |lane: usize| -> Vec<u32> {
                (0..count)
                    .map(|register| {
                        (0..pack).fold(0, |word, part| {
                            let (row, col) = place(lane, register * pack + part);
                            word | encode(entry(row, col, salt)) << (bits * part)
                        })
                    })
                    .collect()
            };
            (count, words)
        };
        let (an, a) = fragment(m, k, case.bits.0, case.a, case.encode, 0);
        let (bn, b) = fragment(k, n, case.bits.0, case.b, case.encode, 5);
        let (cn, c) = fragment(m, n, case.bits.1, case.c, case.result.0, 9);
        let input: Vec<u32> = (0..32).flat_map(|lane| [a(lane), b(lane), c(lane)].concat()).collect();
        let body = format!(
            "mma.sync.aligned.{} {}, {}, {}, {};",
            case.name,
            registers(100, cn),
            registers(0, an),
            registers(an, bn),
            registers(an + bn, cn)
        );
        let found = run(&input, an + bn + cn, cn, &body);
        let pack = 32 / case.bits.1;
        for lane in 0..32 {
            for i in 0..cn * pack {
                let (row, col) = (case.c)(lane, i);
                let exact: i32 = entry(row, col, 9) + (0..k).map(|l| entry(row, l, 0) * entry(l, col, 5)).sum::<i32>();
                let word = found[lane * cn + i / pack] >> (case.bits.1 * (i % pack));
                let got = (case.result.1)(if case.bits.1 == 16 { word & 0xffff } else { word });
                assert_eq!(got, exact, "{} row {row} column {col}", case.name);
            }
        }
    }
}

#[test]
fn mma_of_doubles() {
    // m8n8k4: one element of A and of B a lane, two of C.
    let input: Vec<u32> = (0..32)
        .flat_map(|lane| {
            let a = f64::from(entry(lane >> 2, lane % 4, 0)) + 0.25;
            let b = f64::from(entry(lane % 4, lane >> 2, 5));
            [a.to_bits() as u32, (a.to_bits() >> 32) as u32, b.to_bits() as u32, (b.to_bits() >> 32) as u32]
        })
        .collect();
    let body = "mov.b64 %fd1, {%r0, %r1};\nmov.b64 %fd2, {%r2, %r3};\nmov.f64 %fd3, 0d3FF0000000000000;\n\
                mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%fd4, %fd5}, {%fd1}, {%fd2}, {%fd3, %fd3};\n\
                mov.b64 {%r100, %r101}, %fd4;\nmov.b64 {%r102, %r103}, %fd5;";
    let found = run(&input, 4, 4, body);
    for lane in 0..32 {
        for i in 0..2 {
            let (row, col) = c88(lane, i);
            let exact: f64 =
                1.0 + (0..4).map(|k| (f64::from(entry(row, k, 0)) + 0.25) * f64::from(entry(k, col, 5))).sum::<f64>();
            let at = lane * 4 + 2 * i;
            assert_eq!(f64::from_bits(u64::from(found[at + 1]) << 32 | u64::from(found[at])), exact);
        }
    }
}

#[test]
fn mma_by_quad_pairs() {
    // m8n8k4 of f16: four products side by side, each of lanes 4 q .. 4 q + 4 and those 16 further.
    for a_layout in ["row", "col"] {
        for b_layout in ["row", "col"] {
            // Row and column of the lane's element i, as the manual's formulas have it.
            let a = |lane: usize, i: usize| {
                let upper = if lane < 16 { 0 } else { 4 };
                if a_layout == "row" { (lane % 4 + upper, i) } else { (i % 4 + upper, lane % 4) }
            };
            let b = |lane: usize, i: usize| {
                let upper = if lane < 16 { 0 } else { 4 };
                if b_layout == "row" { (lane % 4, i + upper) } else { (i, lane % 4 + upper) }
            };
            let c = |lane: usize, i: usize| {
                let x = (lane & 0b1) + (i & 0b10);
                (if lane < 16 { x } else { x + 4 }, (i & 0b100) + (lane & 0b10) + (i & 0b1))
            };
            let pair = |place: &dyn Fn(usize, usize) -> (usize, usize), lane: usize, register: usize, salt: usize| {
                (0..2).fold(0, |word, part| {
                    let (row, col) = place(lane, 2 * register + part);
                    word | half(entry(row, col, salt + lane % 16 / 4)) << (16 * part)
                })
            };
            let input: Vec<u32> = (0..32)
                .flat_map(|lane| {
                    [pair(&a, lane, 0, 0), pair(&a, lane, 1, 0), pair(&b, lane, 0, 5), pair(&b, lane, 1, 5)]
                })
                .collect();
            let body = format!(
                "mov.b32 %r50, 0f40000000;\nmma.sync.aligned.m8n8k4.{a_layout}.{b_layout}.f32.f16.f16.f32 {}, {{%r0, %r1}}, {{%r2, %r3}}, \
                 {{%r50, %r50, %r50, %r50, %r50, %r50, %r50, %r50}};",
                registers(100, 8)
            );
            let found = run(&input, 4, 8, &body);
            for lane in 0..32 {
                for i in 0..8 {
                    let ((row, col), pair) = (c(lane, i), lane % 16 / 4);
                    let exact: i32 = 2 + (0..4).map(|k| entry(row, k, pair) * entry(k, col, 5 + pair)).sum::<i32>();
                    assert_eq!(from_float(found[8 * lane + i]), exact, "{a_layout} {b_layout} lane {lane} element {i}");
                }
            }
        }
    }
}

#[test]
fn tensor_cores_truncate_tf32_and_keep_exact_products() {
    // A single register of ones but for one element: lane 0's a0 times b0.
    let product = |kind: &str, a: u32, b: u32, c: f32| {
        let input: Vec<u32> =
            (0..32).flat_map(|lane| if lane == 0 { [a, b, c.to_bits()] } else { [0, 0, 0] }).collect();
        let body = format!(
            "mov.u32 %r50, 0;\nmma.sync.aligned.{kind} {{%r100, %r101, %r102, %r103}}, {{%r0, %r50, %r50, %r50}}, {{%r1, %r50}}, {{%r2, %r50, %r50, %r50}};"
        );
        f32::from_bits(run(&input, 3, 4, &body)[0])
    };
    // The lower 13 bits of a tf32 operand do not count.
    let a = 1.0f32.to_bits();
    assert_eq!(product("m16n8k8.row.col.f32.tf32.tf32.f32", a | 0x1fff, a, 0.0), 1.0);
    assert_eq!(product("m16n8k8.row.col.f32.tf32.tf32.f32", a | 0x2000, a, 0.0), f32::from_bits(a | 0x2000));
    // 2049 * 2047 needs 22 bits: exact, as a rounding to f16 would not be.
    let h = |x: f32| u32::from(f16::from_f32(x).to_bits());
    assert_eq!(product("m16n8k16.row.col.f32.f16.f16.f32", h(1023.5), h(2047.0), 0.0), 1023.5 * 2047.0);
    assert_eq!(
        product("m16n8k16.row.col.f32.f16.f16.f32", h(65504.0), h(65504.0), 1.0),
        65504.0f32.mul_add(65504.0, 1.0)
    );
    assert!(product("m16n8k16.row.col.f32.f16.f16.f32", h(f32::INFINITY), h(0.0), 0.0).is_nan());
}

#[test]
fn matrices_between_shared_memory_and_registers() {
    // Element (row, col) of matrix i is 256 i + 16 row + col; a row is 16 bytes, one after another.
    let prepare = "{ .reg .b16 h;\n.reg .b32 a, v, k;\nmov.u32 k, 0;\nFILL:\nshl.b32 v, k, 5;\nadd.u32 v, v, %r150;\n\
                   shr.u32 a, v, 6;\nshl.b32 a, a, 8;\nand.b32 %r120, v, 56;\nshl.b32 %r120, %r120, 1;\nadd.u32 a, a, %r120;\n\
                   and.b32 %r120, v, 7;\nadd.u32 a, a, %r120;\ncvt.u16.u32 h, a;\nshl.b32 v, v, 1;\nadd.u32 v, v, %r151;\n\
                   st.shared.u16 [v], h;\nadd.u32 k, k, 1;\nsetp.lt.u32 %p1, k, 8;\n@%p1 bra FILL;\n}\nbar.sync 0;\n\
                   shl.b32 %r121, %r150, 4;\nadd.u32 %r121, %r121, %r151;\n";
    let element = |i: usize, row: usize, col: usize| (256 * i + 16 * row + col) as u32;
    for count in [1usize, 2, 4] {
        for transposed in [false, true] {
            let trans = if transposed { ".trans" } else { "" };
            let body = format!(
                "{prepare}ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {}, [%r121];",
                registers(100, count)
            );
            let found = run(&[0; 32], 1, count, &body);
            for lane in 0..32 {
                for i in 0..count {
                    let (row, col) = (lane / 4, 2 * (lane % 4));
                    let at = |c: usize| if transposed { element(i, c, row) } else { element(i, row, c) };
                    assert_eq!(found[lane * count + i], at(col) | at(col + 1) << 16, "x{count}{trans} lane {lane}");
                }
            }
        }
    }
    // stmatrix puts back what ldmatrix took; transposed twice is as before.
    for trans in ["", ".trans"] {
        let body = format!(
            "{prepare}ldmatrix.sync.aligned.m8n8.x4{trans}.shared::cta.b16 {r}, [%r121];\n\
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r121+1024], {r};\nbar.sync 0;\n\
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {to}, [%r121+1024];",
            r = registers(60, 4),
            to = registers(100, 4)
        );
        let found = run(&[0; 32], 1, 4, &body);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, col) = (lane / 4, 2 * (lane % 4));
                assert_eq!(found[lane * 4 + i], element(i, row, col) | element(i, row, col + 1) << 16);
            }
        }
    }
    // movmatrix transposes in registers.
    let body = format!(
        "{prepare}ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r60}}, [%r121];\nmovmatrix.sync.aligned.m8n8.trans.b16 %r100, %r60;"
    );
    let found = run(&[0; 32], 1, 1, &body);
    assert!((0..32).all(|l| found[l] == element(0, 2 * (l % 4), l / 4) | element(0, 2 * (l % 4) + 1, l / 4) << 16));
}

#[test]
fn wmma_products() {
    // A (16x16, by columns) and B (by rows) of f16 in memory with strides; C and D of f32.
    for (shape, (m, n, k)) in [("m16n16k16", (16, 16, 16)), ("m32n8k16", (32, 8, 16)), ("m8n32k16", (8, 32, 16))] {
        for a_layout in ["row", "col"] {
            for b_layout in ["row", "col"] {
                let stride = |layout: &str, rows: usize, cols: usize| if layout == "row" { cols + 8 } else { rows + 8 };
                let mut input = vec![0u32; 32 * 32];
                let mut put = |base: usize, layout: &str, rows: usize, cols: usize, salt: usize| {
                    for row in 0..rows {
                        for col in 0..cols {
                            let s = stride(layout, rows, cols);
                            let at = if layout == "row" { row * s + col } else { col * s + row };
                            input[base + at / 2] |= half(entry(row, col, salt)) << (16 * (at % 2));
                        }
                    }
                };
                put(0, a_layout, m, k, 1);
                put(512, b_layout, k, n, 2);
                let body = format!(
                    "mov.f32 %r50, 0f3F000000;\n\
                     wmma.load.a.sync.aligned.{a_layout}.{shape}.global.f16 {a}, [%rd1], {sa};\n\
                     wmma.load.b.sync.aligned.{b_layout}.{shape}.global.f16 {b}, [%rd1+2048], {sb};\n\
                     wmma.mma.sync.aligned.{a_layout}.{b_layout}.{shape}.f32.f32 {d}, {a}, {b}, {{%r50, %r50, %r50, %r50, %r50, %r50, %r50, %r50}};\n\
                     wmma.store.d.sync.aligned.row.{shape}.shared.f32 [%r151], {d}, {n};\nbar.sync 0;\n\
                     shl.b32 %r121, %r150, 5;\nadd.u32 %r121, %r121, %r151;\n{loads}",
                    a = registers(60, 8),
                    b = registers(70, 8),
                    d = registers(80, 8),
                    sa = stride(a_layout, m, k),
                    sb = stride(b_layout, k, n),
                    loads = (0..8)
                        .map(|i| format!("ld.shared.u32 %r{}, [%r121+{}];\n", 100 + i, 4 * i))
                        .collect::<String>()
                );
                let found = run(&input, 1, 8, &body);
                for row in 0..m {
                    for col in 0..n {
                        let exact: i32 = (0..k).map(|l| entry(row, l, 1) * entry(l, col, 2)).sum();
                        assert_eq!(
                            f32::from_bits(found[row * n + col]),
                            exact as f32 + 0.5,
                            "{shape} {a_layout} {b_layout}"
                        );
                    }
                }
            }
        }
    }
}
