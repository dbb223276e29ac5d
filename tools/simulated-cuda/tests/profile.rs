//! The profiler's counts, against what can be counted by hand.

mod common;

use common::Rig;
use simulated_cuda::{Profile, profile::Class};

/// One warp; `%r1` is the lane, `%r3` the address of 4096 bytes of shared memory (written before), `%rd1` that of 1024
/// words of global memory.
fn run(body: &str) -> Profile {
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data)\n{{\n.reg .pred %p<8>;\n\
         .reg .b32 %r<32>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<8>;\n.shared .align 128 .b8 tile[4096];\n\
         ld.param.u64 %rd1, [data];\nmov.u32 %r1, %tid.x;\nmov.u32 %r3, tile;\n{body}\nret;\n}}\n"
    );
    let mut rig = Rig::new();
    // Nothing writes shared memory before it is read here.
    rig.device.sanitize = false;
    let data = rig.upload(&[0u32; 1024]);
    rig.launch(&rig.module(&ptx), "k", ([1, 1, 1], [32, 1, 1], 0), &[&data]).unwrap()
}

/// Passes and the least that they could be, of one load: `bytes` wide, lanes `stride` bytes apart.
fn passes(load: &str, stride: u32) -> (u64, u64) {
    let profile = run(&format!("mul.lo.u32 %r4, %r1, {stride};\nadd.u32 %r5, %r3, %r4;\n{load}"));
    assert_eq!(profile.shared_loads.requests, 1);
    assert_eq!(profile.shared_loads.conflicts(), profile.shared_loads.transactions - profile.shared_loads.minimum);
    (profile.shared_loads.transactions, profile.shared_loads.minimum)
}

#[test]
fn bank_conflicts() {
    let word = "ld.shared.u32 %r9, [%r5];";
    assert_eq!(passes(word, 4), (1, 1));
    assert_eq!(passes(word, 0), (1, 1));
    assert_eq!(passes(word, 8), (2, 1));
    assert_eq!(passes(word, 12), (1, 1));
    assert_eq!(passes(word, 16), (4, 1));
    assert_eq!(passes(word, 128), (32, 1));
    assert_eq!(passes(word, 124), (1, 1));
    // Two halves of a word are one word.
    assert_eq!(passes("ld.shared.u16 %r9, [%r5];", 2), (1, 1));
    // 8 bytes: half of the lanes at a time; 16: a quarter.
    let (double, quad) = ("ld.shared.v2.u32 {%r9, %r10}, [%r5];", "ld.shared.v4.u32 {%r9, %r10, %r11, %r12}, [%r5];");
    assert_eq!(passes(double, 8), (2, 2));
    assert_eq!(passes(double, 16), (4, 2));
    assert_eq!(passes(quad, 16), (4, 4));
    assert_eq!(passes(quad, 32), (8, 4));
    assert_eq!(passes(quad, 128), (32, 4));
    // ldmatrix: eight rows at a time.
    let matrix = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r9, %r10, %r11, %r12}, [%r5];";
    assert_eq!(passes(matrix, 16), (4, 4));
    assert_eq!(passes(matrix, 128), (32, 4));
    assert_eq!(passes(matrix, 112), (4, 4));
}

#[test]
fn sectors_and_bytes() {
    let load = |stride: u32, load: &str| {
        run(&format!("mul.wide.u32 %rd2, %r1, {stride};\nadd.u64 %rd3, %rd1, %rd2;\n{load}")).global_loads
    };
    let word = "ld.global.u32 %r9, [%rd3];";
    let count = |t: simulated_cuda::profile::Traffic| (t.requests, t.sectors, t.bytes, t.unique_bytes);
    assert_eq!(count(load(4, word)), (1, 4, 128, 128));
    assert_eq!(count(load(0, word)), (1, 1, 128, 4));
    assert_eq!(count(load(32, word)), (1, 32, 128, 128));
    assert_eq!(count(load(16, "ld.global.v4.u32 {%r9, %r10, %r11, %r12}, [%rd3];")), (1, 16, 512, 512));
    // Backwards, the same sectors.
    let backwards =
        "neg.s32 %r4, %r1;\nmul.wide.s32 %rd4, %r4, 4;\nadd.u64 %rd5, %rd1, %rd4;\nld.global.u32 %r9, [%rd5+124];";
    assert_eq!(count(load(4, backwards)), (1, 4, 128, 128));
    // Twice the same: the bytes count twice, the unique ones once. Stores apart.
    let profile = run(
        "ld.global.u32 %r9, [%rd1];\nld.global.u32 %r9, [%rd1];\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 st.global.u32 [%rd1], %r9;",
    );
    assert_eq!(count(profile.global_loads), (2, 2, 256, 4));
    assert_eq!(count(profile.global_stores), (1, 1, 4, 4));
}

#[test]
fn instructions_and_loops() {
    // Ten rounds of three multiply-adds and three others.
    let profile = run(
        "mov.u32 %r4, 0;\nmov.f32 %f1, 0f3F800000;\nL:\nfma.rn.f32 %f1, %f1, %f1, %f1;\nfma.rn.f32 %f1, %f1, %f1, %f1;\n\
         fma.rn.f32 %f1, %f1, %f1, %f1;\nadd.u32 %r4, %r4, 1;\nsetp.lt.u32 %p1, %r4, 10;\n@%p1 bra L;",
    );
    assert_eq!(profile.classes[&Class::Ffma].warps, 30);
    assert_eq!(profile.classes[&Class::Ffma].threads, 960);
    assert_eq!(profile.inner_share(Class::Ffma), 0.5);
    assert_eq!(profile.opcodes["fma.rn.f32"].warps, 30);
    // Before the loop five, after it ret.
    assert_eq!(profile.instructions().warps, 60 + 6);
    assert_eq!(profile.divergent_branches, 0);
    // An outer loop is not innermost.
    let profile = run(
        "mov.u32 %r4, 0;\nO:\nmov.u32 %r5, 0;\nI:\nadd.u32 %r5, %r5, 1;\nsetp.lt.u32 %p1, %r5, 4;\n@%p1 bra I;\nadd.u32 %r4, %r4, 1;\n\
         setp.lt.u32 %p1, %r4, 5;\n@%p1 bra O;",
    );
    assert_eq!(profile.inner.values().map(|count| count.warps).sum::<u64>(), 5 * 4 * 3);
    let profile =
        run("setp.lt.u32 %p1, %r1, 5;\n@%p1 bra A;\nadd.u32 %r4, %r1, 1;\nA:\nadd.u32 %r4, %r1, 1;\nbar.sync 0;");
    assert_eq!((profile.divergent_branches, profile.barriers), (1, 1));
    assert_eq!(profile.opcodes["add.u32"].threads, 27 + 32);
}

#[test]
fn sums_of_launches() {
    let one = run("bar.sync 0;");
    let mut two = one.clone();
    two.add(&one);
    assert_eq!((two.launches, two.barriers), (2, 2));
    assert_eq!(two.instructions().threads, 2 * one.instructions().threads);
}

/// Of the hottest loop apart: its conflicts, and not those before it.
#[test]
fn conflicts_of_the_inner_loop() {
    let profile = run("shl.b32 %r4, %r1, 7;\nadd.u32 %r5, %r3, %r4;\nld.shared.u32 %r9, [%r5];\nmov.u32 %r6, 0;\n\
         shl.b32 %r4, %r1, 3;\nadd.u32 %r5, %r3, %r4;\n\
         again:\nld.shared.u32 %r9, [%r5];\nadd.u32 %r6, %r6, 1;\nsetp.lt.u32 %p1, %r6, 10;\n@%p1 bra again;");
    assert_eq!(profile.inner_conflicts, 10);
    assert_eq!(profile.shared_loads.conflicts(), 31 + 10);
}
