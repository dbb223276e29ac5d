//! Each detector finds a planted bug, and leaves alone a kernel that nearly has it.

mod common;

use common::Rig;
use simulated_cuda::{Access, Fault, FaultKind, Space};

/// A kernel of one block of so many threads, with one pointer to 64 floats, the last 32 of them uninitialised.
fn run_block(threads: u32, body: &str) -> Result<(), Fault> {
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 k_param_0)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<32>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<16>;\n\
         .shared .align 16 .b8 tile[1024];\n.local .align 16 .b8 own[16];\n\
         ld.param.u64 %rd1, [k_param_0];\nmov.u32 %r1, %tid.x;\nshl.b32 %r2, %r1, 2;\n\
         mov.u32 %r3, tile;\nadd.u32 %r4, %r3, %r2;\ncvt.u64.u32 %rd2, %r2;\nadd.u64 %rd3, %rd1, %rd2;\n{body}\nret;\n}}\n"
    );
    let rig = Rig::new();
    let module = rig.module(&ptx);
    let buffer = rig.alloc::<f32>(64);
    rig.memory.write(buffer, &[0; 128]).unwrap();
    rig.launch(&module, "k", ([1, 1, 1], [threads, 1, 1], 0), &[&buffer]).map(|_| ())
}

fn run(body: &str) -> Result<(), Fault> {
    run_block(32, body)
}

/// The fault's kind, and that it names the instruction.
#[track_caller]
fn caught(result: Result<(), Fault>, instruction: &str) -> (FaultKind, [u32; 3], Option<u64>) {
    let fault = result.expect_err("the planted bug was not found");
    assert_eq!(fault.kernel, "k");
    assert!(fault.line > 0 && fault.text.starts_with(instruction), "{fault}");
    (fault.kind, fault.thread, fault.address)
}

#[track_caller]
fn clean(result: Result<(), Fault>) {
    if let Err(fault) = result {
        panic!("{fault}");
    }
}

#[test]
fn out_of_bounds_global() {
    // One element beyond the end, and one before the beginning.
    let (kind, thread, _) = caught(run_block(64, "st.global.u32 [%rd3+4], %r1;"), "st.global.u32");
    assert_eq!(kind, FaultKind::OutOfBounds { space: Space::Global, size: 4, write: true });
    assert_eq!(thread, [63, 0, 0]);
    let (kind, thread, _) = caught(run("ld.global.u32 %r5, [%rd3+-4];"), "ld.global.u32");
    assert_eq!(kind, FaultKind::OutOfBounds { space: Space::Global, size: 4, write: false });
    assert_eq!(thread, [0, 0, 0]);
    // Through a generic pointer, and null.
    let (kind, ..) = caught(run("mov.u64 %rd4, 0; st.u32 [%rd4], %r1;"), "mov.u64 %rd4, 0; st.u32");
    assert!(matches!(kind, FaultKind::OutOfBounds { space: Space::Global, .. }));
    // The last of a vector.
    let body = "shl.b32 %r5, %r1, 4; cvt.u64.u32 %rd4, %r5; add.u64 %rd5, %rd1, %rd4;\n\
                setp.lt.u32 %p1, %r1, N;\n@%p1 st.global.v4.u32 [%rd5], {%r1, %r1, %r1, %r1};";
    let (kind, thread, _) = caught(run(&body.replace('N', "17")), "@%p1 st.global.v4");
    assert!(matches!(kind, FaultKind::OutOfBounds { size: 16, .. }));
    assert_eq!(thread, [16, 0, 0]);
    clean(run(&body.replace('N', "16")));
    clean(run_block(64, "st.global.u32 [%rd3], %r1;"));
}

#[test]
fn out_of_bounds_shared_local_param() {
    let (kind, thread, address) = caught(run("st.shared.u32 [%r4+900], %r1;"), "st.shared.u32");
    assert_eq!(kind, FaultKind::OutOfBounds { space: Space::Shared, size: 4, write: true });
    assert_eq!((thread, address), ([31, 0, 0], Some(1024)));
    clean(run("st.shared.u32 [%r4+896], %r1;"));
    let local = "mov.u64 %rd4, own; add.u64 %rd5, %rd4, %rd2; setp.lt.u32 %p1, %r1, N;\n@%p1 st.local.u32 [%rd5], %r1;";
    let (kind, thread, _) = caught(run(&local.replace('N', "5")), "@%p1 st.local");
    assert_eq!(kind, FaultKind::OutOfBounds { space: Space::Local, size: 4, write: true });
    assert_eq!(thread, [4, 0, 0]);
    clean(run(&local.replace('N', "4")));
    let (kind, ..) = caught(run("ld.param.u32 %r5, [k_param_0+8];"), "ld.param.u32");
    assert_eq!(kind, FaultKind::OutOfBounds { space: Space::Param, size: 4, write: false });
    clean(run("ld.param.u32 %r5, [k_param_0+4];"));
}

#[test]
fn misaligned() {
    let (kind, ..) = caught(run("st.global.u64 [%rd1+4], %rd1;"), "st.global.u64");
    assert_eq!(kind, FaultKind::Misaligned { space: Space::Global, size: 8 });
    clean(run("setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u64 [%rd1+8], %rd1;"));
    // A vector must be aligned as a whole.
    let (kind, ..) = caught(run("st.shared.v2.u32 [%r3+4], {%r1, %r1};"), "st.shared.v2");
    assert_eq!(kind, FaultKind::Misaligned { space: Space::Shared, size: 8 });
    clean(run("setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.v2.u32 [%r3+8], {%r1, %r1};"));
}

#[test]
fn uninitialised_global_memory() {
    let (kind, thread, _) = caught(run("ld.global.u32 %r5, [%rd3+4];"), "ld.global.u32");
    assert_eq!(kind, FaultKind::UninitialisedMemory { space: Space::Global, size: 4 });
    assert_eq!(thread, [31, 0, 0]);
    clean(run("ld.global.u32 %r5, [%rd3];"));
    // What the kernel itself wrote is initialised; a part of a word that is not, is not.
    clean(run("st.global.u32 [%rd3+128], %r1; ld.global.u32 %r5, [%rd3+128];"));
    let (kind, ..) = caught(
        run("cvt.u16.u32 %h1, %r1; st.global.u16 [%rd3+128], %h1;\nld.global.u32 %r5, [%rd3+128];"),
        "ld.global",
    );
    assert!(matches!(kind, FaultKind::UninitialisedMemory { .. }));
}

#[test]
fn uninitialised_shared_and_local_memory() {
    let (kind, ..) = caught(run("ld.shared.u32 %r5, [%r4];"), "ld.shared.u32");
    assert_eq!(kind, FaultKind::UninitialisedMemory { space: Space::Shared, size: 4 });
    clean(run("st.shared.u32 [%r4], %r1; ld.shared.u32 %r5, [%r4];"));
    let (kind, ..) = caught(run("ld.local.u32 %r5, [own];"), "ld.local.u32");
    assert_eq!(kind, FaultKind::UninitialisedMemory { space: Space::Local, size: 4 });
    clean(run("st.local.u32 [own], %r1; ld.local.u32 %r5, [own];"));
}

#[test]
fn uninitialised_registers() {
    // Written on one path alone.
    let body = "setp.lt.u32 %p1, %r1, N;\n@%p1 mov.u32 %r5, 7;\nadd.u32 %r6, %r5, 1;\nst.global.u32 [%rd3], %r6;";
    let (kind, thread, _) = caught(run(&body.replace('N', "30")), "add.u32 %r6");
    assert_eq!(kind, FaultKind::UninitialisedRegister { register: "%r5".into() });
    assert_eq!(thread, [30, 0, 0]);
    clean(run(&body.replace('N', "32")));
    // A copy is no use; using the copy is.
    clean(run("mov.u32 %r6, %r5;"));
    let (kind, ..) = caught(run("mov.u32 %r6, %r5;\nst.global.u32 [%rd3], %r6;"), "st.global");
    assert!(matches!(kind, FaultKind::UninitialisedRegister { .. }));
}

/// A store, something between, and a load of the neighbour's value by the last warp.
fn exchange(threads: u32, neighbour: u32, between: &str) -> Result<(), Fault> {
    let body = format!(
        "st.shared.u32 [%r4], %r1;\n{between}\nxor.b32 %r5, %r2, {};\nadd.u32 %r6, %r3, %r5;\n\
         setp.ge.u32 %p1, %r1, {};\n@%p1 ld.shared.u32 %r7, [%r6];",
        4 * neighbour,
        threads - 32
    );
    run_block(threads, &body)
}

#[test]
fn races_between_warps() {
    let (kind, thread, _) = caught(exchange(64, 32, ""), "@%p1 ld.shared.u32");
    assert_eq!(kind, FaultKind::Race { earlier: Access::Write, later: Access::Read, other_thread: 0 });
    assert_eq!(thread, [32, 0, 0]);
    // A barrier of the warp alone does not order warps.
    assert!(matches!(caught(exchange(64, 32, "bar.warp.sync -1;"), "@%p1 ld.shared").0, FaultKind::Race { .. }));
    clean(exchange(64, 32, "bar.sync 0;"));
    clean(exchange(64, 32, "barrier.sync 1, 64;"));
    clean(exchange(64, 0, ""));
}

#[test]
fn races_within_a_warp() {
    assert!(matches!(caught(exchange(32, 1, ""), "@%p1 ld.shared").0, FaultKind::Race { .. }));
    clean(exchange(32, 1, "bar.warp.sync -1;"));
    clean(exchange(32, 1, "shfl.sync.idx.b32 %r8, %r1, 0, 31, -1;"));
    clean(exchange(32, 1, "bar.sync 0;"));
}

#[test]
fn races_of_writes() {
    // Read, then written by another before all have read.
    let body = |between: &str| {
        format!(
            "st.shared.u32 [%r4], %r1;\nbar.sync 0;\nxor.b32 %r5, %r2, 128;\nadd.u32 %r6, %r3, %r5;\n\
             ld.shared.u32 %r7, [%r6];\n{between}\nsetp.ge.u32 %p1, %r1, 32;\n@%p1 st.shared.u32 [%r4], %r7;"
        )
    };
    let (kind, ..) = caught(run_block(64, &body("")), "@%p1 st.shared.u32");
    assert!(matches!(kind, FaultKind::Race { earlier: Access::Read, later: Access::Write, .. }));
    clean(run_block(64, &body("bar.sync 0;")));
    // Two threads to one place: other values in one instruction are a race, the same value is not.
    let (kind, ..) = caught(run("st.shared.u32 [%r3], %r1;"), "st.shared.u32");
    assert_eq!(kind, FaultKind::Race { earlier: Access::Write, later: Access::Write, other_thread: 0 });
    clean(run("mov.u32 %r5, 9; st.shared.u32 [%r3], %r5;"));
    clean(run("setp.eq.u32 %p1, %r1, 3; @%p1 st.shared.u32 [%r3], %r1;"));
    // Halves of a word by two threads are apart, bytes that overlap are not.
    clean(run("shl.b32 %r5, %r1, 1; add.u32 %r6, %r3, %r5; cvt.u16.u32 %h1, %r1; st.shared.u16 [%r6], %h1;"));
    let overlap = "shl.b32 %r5, %r1, 1; add.u32 %r6, %r3, %r5; cvt.u16.u32 %h1, %r1; st.shared.u16 [%r6], %h1;\n\
                   setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [%r3], %r1;";
    assert!(matches!(caught(run(overlap), "@%p1 st.shared.u32").0, FaultKind::Race { .. }));
    // Atomics do not race with each other.
    clean(run_block(
        64,
        "setp.eq.u32 %p1, %r1, 0; mov.u32 %r5, 0; @%p1 st.shared.u32 [%r3], %r5; bar.sync 0; red.shared.add.u32 [%r3], %r1;",
    ));
}

#[test]
fn producer_and_consumer_at_named_barriers() {
    // Warp 0 writes and arrives, warp 1 waits and reads.
    let body = |first: &str| {
        format!(
            "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra CONSUMER;\nst.shared.u32 [%r4], %r1;\n{first}\nbra END;\nCONSUMER:\n\
             bar.sync 1, 64;\nld.shared.u32 %r5, [%r4+-128];\nEND:\n"
        )
    };
    clean(run_block(64, &body("bar.arrive 1, 64;")));
    let late = "bar.arrive 1, 64;\nst.shared.u32 [%r4], %r2;";
    let result = run_block(64, &body(late));
    assert!(matches!(result.unwrap_err().kind, FaultKind::Race { .. }));
}

#[test]
fn divergent_barriers() {
    // Half of a warp goes around the barrier, and on working.
    let body = "setp.ge.u32 %p1, %r1, N;\n@%p1 bra AROUND;\nbar.sync 0;\nAROUND:\nst.global.u32 [%rd3], %r1;";
    let (kind, ..) = caught(run(&body.replace('N', "16")), "bar.sync");
    assert_eq!(kind, FaultKind::DivergentBarrier);
    // Threads that have exited are no part of it.
    clean(run("setp.ge.u32 %p1, %r1, 16;\n@%p1 ret;\nbar.sync 0;"));
    clean(run(&body.replace('N', "32")));
    // Branches that meet again before it.
    clean(run("setp.ge.u32 %p1, %r1, 16;\n@%p1 bra B;\nadd.u32 %r2, %r2, 1;\nB:\nbar.sync 0;"));
}

#[test]
fn deadlocks() {
    // One warp waits for another that waits elsewhere.
    let body = "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra B;\nbar.sync 1, 64;\nbra E;\nB:\nbar.sync N, 64;\nE:\n";
    assert_eq!(run_block(64, &body.replace('N', "2")).unwrap_err().kind, FaultKind::Deadlock);
    clean(run_block(64, &body.replace('N', "1")));
    // A member of a shuffle that never comes.
    let body = "setp.ge.u32 %p1, %r1, 16;\n@%p1 bra B;\nshfl.sync.idx.b32 %r5, %r1, 0, 31, MASK;\nbra E;\nB:\n\
                bar.sync 0;\nE:\nbar.sync 0;";
    let kind = run(&body.replace("MASK", "-1")).unwrap_err().kind;
    assert!(matches!(kind, FaultKind::DivergentSync { .. } | FaultKind::DivergentBarrier), "{kind}");
    let alone = "setp.ge.u32 %p1, %r1, 16;\n@%p1 bra B;\nshfl.sync.idx.b32 %r5, %r1, 0, 31, 65535;\nB:\nbar.sync 0;";
    clean(run(alone));
}

#[test]
fn a_thread_outside_of_its_member_mask() {
    let (kind, thread, _) = caught(run("shfl.sync.idx.b32 %r5, %r1, 0, 31, 0x7fffffff;"), "shfl.sync");
    assert!(matches!(kind, FaultKind::DivergentSync { .. }));
    assert_eq!(thread, [31, 0, 0]);
}

const COPY: &str = "shl.b32 %r5, %r1, 2; add.u32 %r6, %r3, %r5; cp.async.ca.shared.global [%r6], [%rd3], 4;\n";

#[test]
fn unwaited_copies() {
    let (kind, ..) = caught(
        run(&format!("{COPY}cp.async.commit_group;\nld.shared.u32 %r7, [%r6];\ncp.async.wait_all;")),
        "ld.shared",
    );
    assert_eq!(kind, FaultKind::UnwaitedCopy { issuer: 0 });
    clean(run(&format!("{COPY}cp.async.commit_group;\ncp.async.wait_group 0;\nld.shared.u32 %r7, [%r6];")));
    // Of two groups, waiting for all but one leaves the newer.
    let two = |wait: &str| {
        format!(
            "{COPY}cp.async.commit_group;\ncp.async.ca.shared.global [%r6+512], [%rd3], 4;\ncp.async.commit_group;\n\
             cp.async.wait_group {wait};\nld.shared.u32 %r7, [%r6+512];\ncp.async.wait_all;"
        )
    };
    assert!(matches!(caught(run(&two("1")), "ld.shared").0, FaultKind::UnwaitedCopy { .. }));
    clean(run(&two("0")));
    // A copy that no group holds is not waited for by wait_group.
    let (kind, ..) = caught(run(&format!("{COPY}cp.async.wait_group 0;\nld.shared.u32 %r7, [%r6];")), "ld.shared");
    assert!(matches!(kind, FaultKind::UnwaitedCopy { .. }));
    // Waiting orders only the waiting thread: others need a barrier.
    let other = |between: &str| {
        format!(
            "{COPY}cp.async.wait_all;\n{between}\nxor.b32 %r7, %r5, 128;\nadd.u32 %r8, %r3, %r7;\n\
             setp.ge.u32 %p1, %r1, 32;\n@%p1 ld.shared.u32 %r9, [%r8];"
        )
    };
    let half = |body: String| body.replace("[%rd3], 4", "[%rd1], 4");
    assert!(matches!(caught(run_block(64, &half(other(""))), "@%p1 ld.shared").0, FaultKind::Race { .. }));
    clean(run_block(64, &half(other("bar.sync 0;"))));
}

#[test]
fn pending_copies() {
    let (kind, ..) = caught(run(&format!("{COPY}cp.async.commit_group;")), "ret");
    assert_eq!(kind, FaultKind::PendingCopy);
    clean(run(&format!("{COPY}cp.async.commit_group;\ncp.async.wait_all;")));
}

#[test]
fn traps_and_endless_loops() {
    let (kind, thread, _) = caught(run("setp.eq.u32 %p1, %r1, 5;\n@%p1 trap;"), "@%p1 trap");
    assert_eq!((kind, thread), (FaultKind::Trap, [5, 0, 0]));
    clean(run("setp.eq.u32 %p1, %r1, 55;\n@%p1 trap;"));
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {\nL:\nbra L;\n}\n";
    let mut rig = Rig::new();
    rig.device.instruction_limit = 100_000;
    let fault = rig.launch(&rig.module(ptx), "k", ([1, 1, 1], [1, 1, 1], 0), &[]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Timeout);
}

#[test]
fn off_means_off_but_for_bounds() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p) {\n.reg .b64 %rd<4>;\n\
               .reg .b32 %r<4>;\nld.param.u64 %rd1, [p];\nld.global.u32 %r1, [%rd1+OFFSET];\nret;\n}\n";
    let mut rig = Rig::new();
    rig.device.sanitize = false;
    let buffer = rig.alloc::<f32>(1);
    let run = |offset: &str| {
        rig.launch(&rig.module(&ptx.replace("OFFSET", offset)), "k", ([1, 1, 1], [1, 1, 1], 0), &[&buffer])
    };
    run("0").unwrap();
    assert!(matches!(run("4").unwrap_err().kind, FaultKind::OutOfBounds { .. }));
}
