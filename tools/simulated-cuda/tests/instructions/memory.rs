//! Loads, stores, atomics, asynchronous copies, address spaces, module variables.

use super::common::{Argument, Rig};

/// A kernel with registers, given one pointer `%rd1` to 64 words 1000, 1001, ...; lane l's `%r9` is the result.
fn run(threads: u32, module_level: &str, body: &str) -> (Vec<u32>, Vec<u32>) {
    let ptx = format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n{module_level}\n.visible .entry k(.param .u64 data, .param .u64 out)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<16>;\n.reg .b32 %r<32>;\n.reg .f32 %f<16>;\n.reg .b64 %rd<16>;\n.reg .f64 %fd<4>;\n\
         .shared .align 16 .b8 tile[1024];\n.local .align 16 .b8 own[64];\n\
         mov.u32 %r1, %tid.x;\nld.param.u64 %rd1, [data];\nmov.u32 %r3, tile;\n{body}\nld.param.u64 %rd15, [out];\n\
         mul.wide.u32 %rd14, %r1, 4;\nadd.u64 %rd15, %rd15, %rd14;\nst.global.u32 [%rd15], %r9;\nret;\n}}\n"
    );
    let rig = Rig::new();
    let data: Vec<u32> = (1000..1064).collect();
    let (data, out) = (rig.upload(&data), rig.alloc::<u32>(threads as usize));
    let module = rig.module(&ptx);
    let arguments: [&dyn Argument; 2] = [&data, &out];
    rig.launch(&module, "k", ([1, 1, 1], [threads, 1, 1], 64), &arguments)
        .unwrap_or_else(|fault| panic!("{body}: {fault}"));
    (rig.download(out, threads as usize), rig.download(data, 64))
}

fn result(body: &str) -> Vec<u32> {
    run(32, "", body).0
}

fn lanes(g: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(g).collect()
}

#[test]
fn vectors_and_extension() {
    assert_eq!(result("ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%rd1+16];\nsub.u32 %r9, %r8, %r5;"), lanes(|_| 3));
    assert_eq!(result("ld.global.nc.L1::no_allocate.v2.b32 {_, %r9}, [%rd1];"), lanes(|_| 1001));
    assert_eq!(
        result("ld.global.v2.u64 {%rd2, %rd3}, [%rd1];\nshr.u64 %rd3, %rd3, 32;\ncvt.u32.u64 %r9, %rd3;"),
        lanes(|_| 1003)
    );
    // 1000 is 0x3e8: its low byte 0xe8 is negative as s8.
    assert_eq!(result("ld.global.s8 %r9, [%rd1];"), lanes(|_| 0xffff_ffe8));
    assert_eq!(result("ld.global.u8 %r9, [%rd1+1];"), lanes(|_| 3));
    assert_eq!(result("ld.global.s8 %h1, [%rd1];\ncvt.u32.u16 %r9, %h1;"), lanes(|_| 0xffe8));
    assert_eq!(
        result("ld.global.s8 %rd2, [%rd1];\nshr.u64 %rd2, %rd2, 32;\ncvt.u32.u64 %r9, %rd2;"),
        lanes(|_| u32::MAX)
    );
    assert_eq!(result("ld.volatile.global.u16 %r9, [%rd1+2];"), lanes(|_| 0));
    assert_eq!(result("ld.relaxed.gpu.global.u32 %r9, [%rd1+4];"), lanes(|_| 1001));
    let (_, data) = run(
        32,
        "",
        "mov.u32 %r9, 0;\nsetp.eq.u32 %p1, %r1, 3;\nmov.u32 %r5, 0x01020304;\n@%p1 st.global.u8 [%rd1+5], %r5;",
    );
    assert_eq!(data[1], 1001 & 0xff | 4 << 8);
}

#[test]
fn spaces_and_generic_addresses() {
    // A generic address of each space.
    let generic = |space: &str, variable: &str| {
        format!(
            "mov.u64 %rd2, {variable};\ncvta.{space}.u64 %rd3, %rd2;\nmul.wide.u32 %rd4, %r1, 4;\nadd.u64 %rd3, %rd3, %rd4;\n\
             st.u32 [%rd3], %r1;\nld.u32 %r9, [%rd3];\nisspacep.{space} %p1, %rd3;\n@!%p1 trap;\nisspacep.global %p1, %rd3;\n@%p1 trap;"
        )
    };
    assert_eq!(result(&generic("shared", "tile")), lanes(|l| l));
    let local = generic("local", "own")
        .replace("mul.wide.u32 %rd4, %r1, 4;", "and.b32 %r5, %r1, 7;\nmul.wide.u32 %rd4, %r5, 4;");
    assert_eq!(result(&local), lanes(|l| l));
    assert_eq!(
        result("cvta.to.global.u64 %rd2, %rd1;\nld.u32 %r9, [%rd2+8];\nisspacep.global %p1, %rd1;\n@!%p1 trap;"),
        lanes(|_| 1002)
    );
    // Half of the lanes load from shared, half from global memory, by one instruction.
    let mixed = "mul.wide.u32 %rd4, %r1, 4;\nmov.u64 %rd2, tile;\ncvta.shared.u64 %rd3, %rd2;\nadd.u64 %rd3, %rd3, %rd4;\nst.u32 [%rd3], %r1;\n\
                 add.u64 %rd5, %rd1, %rd4;\nsetp.lt.u32 %p1, %r1, 16;\nselp.b64 %rd6, %rd3, %rd5, %p1;\nld.u32 %r9, [%rd6];";
    assert_eq!(result(mixed), lanes(|l| if l < 16 { l } else { 1000 + l }));
    // Parameters by address.
    assert_eq!(result("mov.b64 %rd2, data;\nld.param.u64 %rd3, [%rd2];\nld.global.u32 %r9, [%rd3];"), lanes(|_| 1000));
}

#[test]
fn module_variables() {
    let variables = ".global .align 4 .u32 numbers[4] = {7, 8, 9};\n.const .align 8 .f64 half = 0d3FE0000000000000;\n\
                     .global .align 8 .u64 pointer = numbers;\n.extern .shared .align 16 .b8 dynamic[];\n.shared .align 4 .b8 fixed[16];";
    assert_eq!(run(32, variables, "ld.global.u32 %r9, [numbers+8];").0, lanes(|_| 9));
    assert_eq!(run(32, variables, "ld.global.u32 %r9, [numbers+12];").0, lanes(|_| 0));
    assert_eq!(
        run(32, variables, "ld.const.f64 %fd1, [half];\nadd.f64 %fd1, %fd1, %fd1;\ncvt.rzi.u32.f64 %r9, %fd1;").0,
        lanes(|_| 1)
    );
    assert_eq!(run(32, variables, "ld.global.u64 %rd2, [pointer];\nld.global.u32 %r9, [%rd2+4];").0, lanes(|_| 8));
    // Dynamic shared memory is beyond the static.
    let body = "mov.u32 %r4, dynamic;\nmov.u32 %r5, fixed;\nsetp.le.u32 %p1, %r4, %r5;\n@%p1 trap;\nsetp.le.u32 %p1, %r4, %r3;\n@%p1 trap;\n\
                shr.u32 %r6, %r1, 1;\nshl.b32 %r6, %r6, 2;\nadd.u32 %r6, %r4, %r6;\nst.shared.u32 [%r6], %r6;\n\
                mov.u32 %r9, %dynamic_smem_size;";
    assert_eq!(run(32, variables, body).0, lanes(|_| 64));
    // And as aligned as it is declared.
    let aligned = variables.replace(".extern .shared .align 16", ".extern .shared .align 1024");
    let body =
        "mov.u32 %r4, dynamic;\nmov.u32 %r5, fixed;\nsetp.le.u32 %p1, %r4, %r5;\n@%p1 trap;\nand.b32 %r9, %r4, 1023;";
    assert_eq!(run(32, &aligned, body).0, lanes(|_| 0));
    assert_eq!(
        run(
            32,
            variables,
            "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [fixed+8], %r1;\nbar.sync 0;\nld.shared.u32 %r9, [fixed+8];"
        )
        .0,
        lanes(|_| 0)
    );
}

#[test]
fn atomics() {
    // Of 64 threads on one word, in global and in shared memory.
    for space in ["global", "shared"] {
        let run = |operation: &str, initial: u32, operand: &str| {
            let (base, store) = if space == "global" { ("%rd1", "") } else { ("%r3", "") };
            let body = format!(
                "{store}mov.u32 %r5, {initial};\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 st.{space}.u32 [{base}], %r5;\nbar.sync 0;\n{operand}\n\
                 red.{space}.{operation} [{base}], %r6;\nbar.sync 0;\nld.{space}.u32 %r9, [{base}];"
            );
            run(64, "", &body).0[5]
        };
        let lane = "mov.u32 %r6, %r1;";
        assert_eq!(run("add.u32", 5, lane), 5 + (0..64).sum::<u32>());
        assert_eq!(run("min.s32", 5, "sub.u32 %r6, 20, %r1;"), (20 - 63i32) as u32);
        assert_eq!(run("max.u32", 5, lane), 63);
        assert_eq!(run("and.b32", 0xff, "or.b32 %r6, %r1, 64;"), 64);
        assert_eq!(run("or.b32", 0, lane), 63);
        assert_eq!(run("xor.b32", 1, lane), 1);
        // inc wraps to 0 after the operand, dec to the operand after 0.
        assert_eq!(run("inc.u32", 0, "mov.u32 %r6, 9;"), 64 % 10);
        assert_eq!(run("dec.u32", 3, "mov.u32 %r6, 9;"), (3 + 10 * 7 - 64));
        assert_eq!(run("add.f32", 0, "mov.u32 %r6, 0x3f000000;"), 32.0f32.to_bits());
        assert_eq!(run("add.noftz.f16x2", 0, "mov.u32 %r6, 0x3c003800;"), 0x5400_5000);
    }
    // The old value comes back: every thread its own.
    let mut old = run(64, "", "mov.u32 %r6, 1;\natom.global.add.u32 %r9, [%rd1], %r6;").0;
    old.sort_unstable();
    assert_eq!(old, (1000..1064).collect::<Vec<u32>>());
    let (old, data) =
        run(32, "", "mov.u32 %r5, 1000;\nadd.u32 %r6, %r1, 1;\natom.global.cas.b32 %r9, [%rd1], %r5, %r6;");
    assert_eq!((old.iter().filter(|&&x| x == 1000).count(), data[0]), (1, 1));
    let body = "mov.u64 %rd2, 3;\natom.global.add.u64 %rd3, [%rd1], %rd2;\nmov.u32 %r9, 0;";
    let wide = (1001u64 << 32 | 1000) + 96;
    assert_eq!(run(32, "", body).1[..2], [wide as u32, (wide >> 32) as u32]);
    let body = "mov.f64 %fd1, 0d3FF8000000000000;\nmov.u64 %rd2, 0;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 st.global.u64 [%rd1], %rd2;\nbar.sync 0;\n\
                atom.global.add.f64 %fd2, [%rd1], %fd1;\nmov.u32 %r9, 0;";
    let data = run(32, "", body).1;
    assert_eq!(f64::from_bits(u64::from(data[1]) << 32 | u64::from(data[0])), 48.0);
}

#[test]
fn asynchronous_copies() {
    let copy = |operands: &str| {
        format!(
            "mul.wide.u32 %rd4, %r1, 4;\nadd.u64 %rd5, %rd1, %rd4;\nshl.b32 %r5, %r1, 2;\nadd.u32 %r6, %r3, %r5;\nmov.u32 %r7, 2;\n\
             setp.lt.u32 %p1, %r1, 8;\ncp.async.ca.shared.global [%r6], [%rd5], 4{operands};\ncp.async.commit_group;\n\
             cp.async.wait_group 0;\nld.shared.u32 %r9, [%r6];"
        )
    };
    assert_eq!(result(&copy("")), lanes(|l| 1000 + l));
    // Two bytes of four, the others zeros.
    assert_eq!(result(&copy(", %r7")), lanes(|l| 1000 + l));
    assert_eq!(result(&copy(", %r7").replace("%r7, 2", "%r7, 1")), lanes(|l| (1000 + l) & 0xff));
    // No bytes: nothing is read, not even through a bad pointer.
    let nothing = copy(", %r7").replace("%r7, 2", "%r7, 0").replace("add.u64 %rd5, %rd1, %rd4", "mov.u64 %rd5, 0");
    assert_eq!(result(&nothing), lanes(|_| 0));
    assert_eq!(result(&copy(", %p1")), lanes(|l| if l < 8 { 0 } else { 1000 + l }));
    let wide = "setp.ge.u32 %p2, %r1, 16;\nmul.wide.u32 %rd4, %r1, 16;\nadd.u64 %rd5, %rd1, %rd4;\nshl.b32 %r5, %r1, 4;\nadd.u32 %r6, %r3, %r5;\n\
                mov.u32 %r9, 0;\n@%p2 bra END;\ncp.async.cg.shared.global.L2::128B [%r6], [%rd5], 16;\ncp.async.wait_all;\nld.shared.u32 %r9, [%r6+12];\nEND:";
    assert_eq!(result(wide), lanes(|l| if l < 16 { 1003 + 4 * l } else { 0 }));
}

#[test]
fn mbarriers() {
    let body = "setp.eq.u32 %p1, %r1, 0;\nmov.u32 %r5, 32;\n@%p1 mbarrier.init.shared.b64 [%r3], %r5;\nbar.warp.sync -1;\n\
                shl.b32 %r6, %r1, 2;\nadd.u32 %r6, %r3, %r6;\nst.shared.u32 [%r6+64], %r1;\nmbarrier.arrive.shared.b64 %rd2, [%r3];\n\
                WAIT:\nmbarrier.test_wait.shared.b64 %p2, [%r3], %rd2;\n@!%p2 bra WAIT;\nxor.b32 %r7, %r6, 0;\nld.shared.u32 %r9, [%r7+64];";
    assert_eq!(result(body), lanes(|l| l));
}

#[test]
fn calls_with_parameters() {
    let function = ".func (.param .b32 result) weigh(.param .b32 x, .param .align 8 .b8 pair[16])\n{\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n\
                    ld.param.u32 %r1, [x];\nld.param.u64 %rd1, [pair+8];\ncvt.u32.u64 %r2, %rd1;\nmad.lo.u32 %r3, %r1, %r2, 1;\n\
                    st.param.b32 [result], %r3;\nret;\n}\n";
    let body = "cvt.u64.u32 %rd2, %r1;\nsetp.gt.u32 %p1, %r1, 9;\nmov.u32 %r9, 5;\n@%p1 bra SKIP;\n{\n.param .b32 p0;\n.param .align 8 .b8 p1[16];\n\
                .param .b32 got;\nst.param.b32 [p0], 3;\nst.param.b64 [p1+8], %rd2;\ncall.uni (got), weigh, (p0, p1);\nld.param.b32 %r9, [got];\n}\nSKIP:";
    assert_eq!(run(32, function, body).0, lanes(|l| if l > 9 { 5 } else { 3 * l + 1 }));
}
