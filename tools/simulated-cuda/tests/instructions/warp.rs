//! Instructions between lanes, and special registers. The value of lane l is 100 + l.

use super::common::Rig;

/// Runs a warp; `%r1` is the lane, `%r2` 100 more, and lane l's `%r9` is the result.
fn warp(body: &str) -> Vec<u32> {
    block(32, body)
}

fn block(threads: u32, body: &str) -> Vec<u32> {
    let ptx = format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n.reg .pred %p<8>;\n\
         .reg .b32 %r<32>;\n.reg .b64 %rd<8>;\nmov.u32 %r1, %tid.x;\nadd.u32 %r2, %r1, 100;\n{body}\n\
         ld.param.u64 %rd1, [out];\nmul.wide.u32 %rd2, %r1, 4;\nadd.u64 %rd1, %rd1, %rd2;\nst.global.u32 [%rd1], %r9;\nret;\n}}\n"
    );
    let rig = Rig::new();
    let out = rig.alloc::<u32>(threads as usize);
    let module = rig.module(&ptx);
    rig.launch(&module, "k", ([1, 1, 1], [threads, 1, 1], 0), &[&out])
        .unwrap_or_else(|fault| panic!("{body}: {fault}"));
    rig.download(out, threads as usize)
}

fn lanes(g: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(g).collect()
}

#[test]
fn shuffles() {
    assert_eq!(warp("shfl.sync.idx.b32 %r9, %r2, 5, 31, -1;"), lanes(|_| 105));
    assert_eq!(warp("shfl.sync.bfly.b32 %r9, %r2, 3, 31, -1;"), lanes(|l| 100 + (l ^ 3)));
    // Beyond the end a lane keeps its own value.
    assert_eq!(warp("shfl.sync.down.b32 %r9, %r2, 4, 31, -1;"), lanes(|l| 100 + if l < 28 { l + 4 } else { l }));
    assert_eq!(warp("shfl.sync.up.b32 %r9, %r2, 4, 0, -1;"), lanes(|l| 100 + if l >= 4 { l - 4 } else { l }));
    // In segments of eight: the mask of the segment is 0b11000.
    assert_eq!(warp("shfl.sync.idx.b32 %r9, %r2, 2, 0x181f, -1;"), lanes(|l| 100 + l / 8 * 8 + 2));
    assert_eq!(warp("shfl.sync.down.b32 %r9, %r2, 3, 0x181f, -1;"), lanes(|l| 100 + if l % 8 < 5 { l + 3 } else { l }));
    // The predicate says whether the source was in range.
    let body = "shfl.sync.down.b32 %r8|%p1, %r2, 30, 31, -1;\nselp.b32 %r9, 1, 0, %p1;";
    assert_eq!(warp(body), lanes(|l| u32::from(l < 2)));
    // A source lane of each lane's own.
    assert_eq!(warp("sub.u32 %r8, 31, %r1;\nshfl.sync.idx.b32 %r9, %r2, %r8, 31, -1;"), lanes(|l| 131 - l));
}

#[test]
fn votes() {
    let odd = "and.b32 %r8, %r1, 1;\nsetp.eq.u32 %p1, %r8, 1;\n";
    assert_eq!(warp(&format!("{odd}vote.sync.ballot.b32 %r9, %p1, -1;")), lanes(|_| 0xaaaa_aaaa));
    assert_eq!(warp(&format!("{odd}vote.sync.ballot.b32 %r9, !%p1, -1;")), lanes(|_| 0x5555_5555));
    for (mode, expected) in [("all", 0), ("any", 1), ("uni", 0)] {
        let body = format!("{odd}vote.sync.{mode}.pred %p2, %p1, -1;\nselp.b32 %r9, 1, 0, %p2;");
        assert_eq!(warp(&body), lanes(|_| expected), "{mode}");
    }
    // Of the members alone, while the others are elsewhere.
    let body = "mov.u32 %r9, 7;\nsetp.ge.u32 %p1, %r1, 4;\n@%p1 bra L;\nsetp.ne.u32 %p2, %r1, 2;\nvote.sync.ballot.b32 %r9, %p2, 15;\nL:";
    assert_eq!(warp(body), lanes(|l| if l < 4 { 0b1011 } else { 7 }));
    assert_eq!(
        warp("setp.lt.u32 %p1, %r1, 3;\n@%p1 bra L;\nmov.u32 %r9, 0;\nbra M;\nL: activemask.b32 %r9;\nM:"),
        lanes(|l| if l < 3 { 7 } else { 0 })
    );
}

#[test]
fn matches_and_reductions() {
    assert_eq!(warp("and.b32 %r8, %r1, 3;\nmatch.any.sync.b32 %r9, %r8, -1;"), lanes(|l| 0x1111_1111 << (l & 3)));
    let all = |value: &str| warp(&format!("{value}\nmatch.all.sync.b32 %r7|%p1, %r8, -1;\nselp.b32 %r9, %r7, 5, %p1;"));
    assert_eq!(all("mov.u32 %r8, 9;"), lanes(|_| u32::MAX));
    assert_eq!(all("mov.u32 %r8, %r1;"), lanes(|_| 5));
    let values = || 100..132u32;
    let redux = |operation: &str| warp(&format!("redux.sync.{operation} %r9, %r2, -1;"))[7];
    assert_eq!(redux("add.u32"), values().sum());
    assert_eq!(redux("min.u32"), 100);
    assert_eq!(redux("max.s32"), 131);
    assert_eq!(redux("and.b32"), values().reduce(|a, b| a & b).unwrap());
    assert_eq!(redux("or.b32"), values().reduce(|a, b| a | b).unwrap());
    assert_eq!(redux("xor.b32"), values().reduce(|a, b| a ^ b).unwrap());
    assert_eq!(warp("neg.s32 %r8, %r1;\nredux.sync.min.s32 %r9, %r8, -1;"), lanes(|_| (-31i32) as u32));
    assert_eq!(warp("elect.sync %r8|%p1, -1;\nselp.b32 %r9, 1, 0, %p1;"), lanes(|l| u32::from(l == 0)));
}

#[test]
fn special_registers() {
    assert_eq!(warp("mov.u32 %r9, %laneid;"), lanes(|l| l));
    assert_eq!(warp("mov.u32 %r9, %lanemask_lt;"), lanes(|l| (1 << l) - 1));
    assert_eq!(warp("mov.u32 %r9, %lanemask_le;"), lanes(|l| ((1u64 << (l + 1)) - 1) as u32));
    assert_eq!(warp("mov.u32 %r9, %lanemask_ge;"), lanes(|l| u32::MAX << l));
    assert_eq!(
        warp("mov.u32 %r9, %lanemask_gt;"),
        lanes(|l| ((u64::from(u32::MAX) << (l + 1)) & u64::from(u32::MAX)) as u32)
    );
    assert_eq!(block(96, "mov.u32 %r9, %warpid;"), (0..96).map(|t| t / 32).collect::<Vec<u32>>());
    assert_eq!(block(70, "mov.u32 %r9, %ntid.x;"), vec![70; 70]);
    // Counters go on.
    assert_eq!(
        warp("mov.u32 %r7, %clock;\nmov.u32 %r8, %clock;\nsetp.gt.u32 %p1, %r8, %r7;\nselp.b32 %r9, 1, 0, %p1;"),
        lanes(|_| 1)
    );
}

#[test]
fn block_barriers_reduce() {
    // Over all 96 threads, of three warps.
    let odd = "and.b32 %r8, %r1, 1;\nsetp.eq.u32 %p1, %r8, 1;\n";
    assert_eq!(block(96, &format!("{odd}bar.red.popc.u32 %r9, 0, %p1;")), vec![48; 96]);
    for (operation, expected) in [("and", 0), ("or", 1)] {
        let body = format!("{odd}bar.red.{operation}.pred %p2, 0, %p1;\nselp.b32 %r9, 1, 0, %p2;");
        assert_eq!(block(96, &body), vec![expected; 96]);
    }
    // A block that does not fill its last warp.
    assert_eq!(block(40, &format!("{odd}bar.red.popc.u32 %r9, 0, %p1;\nbar.sync 0;")), vec![20; 40]);
}

#[test]
fn control_flow() {
    // Each lane its own number of rounds, with an early exit from within.
    let body = "mov.u32 %r9, 0;\nmov.u32 %r3, 0;\nL:\nadd.u32 %r9, %r9, %r3;\nadd.u32 %r3, %r3, 1;\nsetp.eq.u32 %p2, %r3, 20;\n\
                @%p2 bra E;\nsetp.le.u32 %p1, %r3, %r1;\n@%p1 bra L;\nE:";
    assert_eq!(warp(body), lanes(|l| (0..=l.min(19)).sum()));
    // Nested branches, four ways.
    let body = "and.b32 %r3, %r1, 1;\nand.b32 %r4, %r1, 2;\nsetp.eq.u32 %p1, %r3, 0;\nsetp.eq.u32 %p2, %r4, 0;\nmov.u32 %r9, 0;\n\
                @%p1 bra A;\nadd.u32 %r9, %r9, 1;\n@%p2 bra B;\nadd.u32 %r9, %r9, 2;\nbra C;\nA:\nadd.u32 %r9, %r9, 4;\n@!%p2 bra C;\n\
                add.u32 %r9, %r9, 8;\nB:\nadd.u32 %r9, %r9, 16;\nC:\nadd.u32 %r9, %r9, 32;";
    assert_eq!(
        warp(body),
        lanes(|l| 32
            + match l & 3 {
                0 => 4 + 8 + 16,
                1 => 1 + 16,
                2 => 4,
                _ => 1 + 2,
            })
    );
    // An indexed branch, and lanes that come together again: the shuffle needs them all.
    let body = "and.b32 %r3, %r1, 3;\nT: .branchtargets A, B, C, D;\nbrx.idx %r3, T;\nA: mov.u32 %r9, 10; bra E;\n\
                B: mov.u32 %r9, 11; bra E;\nC: mov.u32 %r9, 12; bra E;\nD: mov.u32 %r9, 13;\nE: shfl.sync.bfly.b32 %r9, %r9, 1, 31, -1;";
    assert_eq!(warp(body), lanes(|l| 10 + ((l & 3) ^ 1)));
}

#[test]
fn a_lane_that_spins_for_another() {
    // Lane 0 waits for what lane 1 stores later: both get their turns.
    let body = "mov.u32 %r9, 0;\nld.param.u64 %rd3, [out];\nsetp.eq.u32 %p1, %r1, 1;\nsetp.eq.u32 %p3, %r1, 2;\n\
                @%p3 st.global.u32 [%rd3], %r9;\nbar.warp.sync -1;\n@%p1 bra STORE;\n\
                SPIN:\natom.global.add.u32 %r8, [%rd3], 0;\nsetp.eq.u32 %p2, %r8, 0;\n@%p2 bra SPIN;\nbra END;\n\
                STORE:\nmov.u32 %r7, 42;\natom.global.exch.b32 %r6, [%rd3], %r7;\nEND:\nbar.warp.sync -1;\nmov.u32 %r9, 1;";
    assert_eq!(warp(body), lanes(|_| 1));
}
