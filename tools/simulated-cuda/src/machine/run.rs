//! Executing the warps of a block.

use super::{
    Outcome, Trouble,
    block::Block,
    code::*,
    each, trouble,
    vectorised::vectorised,
    warp::{State, Warp},
};
use crate::{Fault, FaultKind};

/// Instructions that a warp executes before others have their turn.
const SLICE: u64 = 1 << 16;

/// Why a warp stopped.
enum Pause {
    /// All its lanes have exited.
    Done,
    /// No lane can go on by itself.
    Waiting,
    /// Its turn is over.
    Turn,
}

/// Runs one block to its end.
pub(crate) fn run_block(block: &mut Block, warps: &mut [Warp]) -> Result<(), Box<Fault>> {
    loop {
        let (mut alive, mut progress) = (false, false);
        for at in 0..warps.len() {
            if warps[at].live == 0 {
                continue;
            }
            let before = warps[at].executed;
            let pause = run_warp(block, &mut warps[at])?;
            progress |= warps[at].executed != before || matches!(pause, Pause::Done);
            alive |= !matches!(pause, Pause::Done);
            let released = block.barriers.release(warps, block.code);
            progress |= !released.is_empty();
            if let Some(shadow) = &mut block.shadow {
                released.iter().for_each(|&(came, waited)| shadow.barrier(came, waited));
            }
        }
        if !alive {
            return Ok(());
        }
        if !progress {
            return Err(stuck(block, warps));
        }
    }
}

/// The fault of a block none of whose threads can go on.
fn stuck(block: &Block, warps: &[Warp]) -> Box<Fault> {
    let groups = || warps.iter().flat_map(|warp| warp.others.iter().map(move |group| (warp, group)));
    let (warp, group, kind) = match groups().find(|(_, group)| group.state == State::Converging) {
        Some((warp, group)) => (warp, group, divergence(block.code, warp, group.pc, group.mask)),
        None => match groups().next() {
            Some((warp, group)) => (warp, group, FaultKind::Deadlock),
            None => unreachable!("threads that live and wait for nothing"),
        },
    };
    let lane = group.mask.trailing_zeros();
    fault(block, warp, group.pc, Trouble { lane, kind, address: None })
}

/// What it is that lanes wait for others of their warp at an instruction.
fn divergence(code: &Code, warp: &Warp, pc: u32, present: u32) -> FaultKind {
    match &code.instructions[pc as usize].op {
        Op::Sync { members, .. } => {
            let lane = present.trailing_zeros() as usize;
            FaultKind::DivergentSync { members: warp.registers.r[*members as usize].0[lane & 31], present }
        }
        Op::Barrier(_) => FaultKind::DivergentBarrier,
        _ => FaultKind::DivergentSync { members: u32::MAX, present },
    }
}

fn fault(block: &Block, warp: &Warp, pc: u32, trouble: Trouble) -> Box<Fault> {
    let note = &block.code.notes[pc as usize];
    let thread = warp.index * 32 + trouble.lane;
    let [x, y, _] = block.launch.block;
    Box::new(Fault {
        kernel: block.code.name.clone(),
        line: note.line,
        text: block.code.text.lines().nth(note.line as usize - 1).unwrap_or("").trim().to_string(),
        block: block.index,
        thread: [thread % x, thread / x % y, thread / (x * y)],
        kind: trouble.kind,
        address: trouble.address,
    })
}

vectorised! {
    fn run_warp(block: &mut Block, warp: &mut Warp) -> Result<Pause, Box<Fault>> {
        let code = block.code;
        let end = (warp.executed + SLICE).min(block.device.instruction_limit);
        loop {
            if warp.active == 0 && !warp.next_group() {
                return Ok(if warp.live == 0 { Pause::Done } else { Pause::Waiting });
            }
            if warp.pc >= warp.meet {
                warp.reconverge();
            }
            let pc = warp.pc;
            let instruction = &code.instructions[pc as usize];
            let mut mask = warp.active;
            if instruction.guard.predicate != u32::MAX {
                mask &= warp.registers.p[instruction.guard.predicate as usize] ^ instruction.guard.flip;
            }
            let counts = &mut block.executions[pc as usize];
            counts.warps += 1;
            counts.threads += u64::from(mask.count_ones());
            warp.executed += 1;
            let mut at = pc;
            let outcome = if let Op::Lanes(run) = &instruction.op {
                let watched = match &instruction.watch {
                    Some(watch) if block.device.sanitize => check_watched(code, warp, watch, mask),
                    _ => Ok(()),
                };
                run(&mut warp.registers, mask);
                warp.pc += 1;
                watched
            } else {
                let before = block.banks.conflicts();
                let outcome = execute(block, warp, instruction, mask);
                block.executions[pc as usize].conflicts += block.banks.conflicts() - before;
                // Where a fault is: not always at the instruction that found it.
                at = if outcome.is_err() { warp.pc } else { pc };
                outcome
            };
            if let Err(trouble) = outcome {
                return Err(fault(block, warp, at, *trouble));
            }
            if warp.executed >= end {
                if warp.executed >= block.device.instruction_limit {
                    let trouble = Trouble { lane: mask.trailing_zeros() & 31, kind: FaultKind::Timeout, address: None };
                    return Err(fault(block, warp, pc, trouble));
                }
                if warp.active != 0 {
                    warp.rotate();
                }
                return Ok(Pause::Turn);
            }
        }
    }
}

/// Registers that may be uninitialised: a fault where one is read, but by a copy.
fn check_watched(code: &Code, warp: &mut Warp, watch: &Watch, mask: u32) -> Outcome {
    let mut all = mask;
    for &register in &watch.reads {
        let missing = mask & !warp.written[register as usize];
        if missing != 0 && !watch.copies {
            let register = code.watched[register as usize].name.clone();
            return trouble(missing.trailing_zeros() as usize, FaultKind::UninitialisedRegister { register }, None);
        }
        all &= !missing;
    }
    for &register in &watch.writes {
        let written = &mut warp.written[register as usize];
        *written = *written & !mask | all;
    }
    Ok(())
}

/// An instruction that is more than arithmetic.
fn execute(block: &mut Block, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Outcome {
    if let Some(watch) = &instruction.watch
        && block.device.sanitize
    {
        check_watched(block.code, warp, watch, mask)?;
    }
    let pc = warp.pc;
    match &instruction.op {
        Op::Branch(target) => branch(block, warp, *target, mask),
        Op::BranchIndexed { index, targets } => {
            warp.park(pc + 1, warp.active & !mask, State::Ready);
            let indices = warp.registers.r[*index as usize].0;
            for (number, &target) in targets.iter().enumerate() {
                let lanes =
                    each(mask).filter(|&lane| indices[lane] as usize == number).fold(0, |bits, l| bits | 1 << l);
                warp.park(target, lanes, State::Ready);
            }
            if let Some(lane) = each(warp.active & mask).next() {
                return trouble(lane, FaultKind::Invalid(format!("brx.idx {}", indices[lane])), None);
            }
        }
        Op::Call { target, link, moves } => {
            move_local(block, warp, moves, mask);
            super::registers::blend(&mut warp.registers.r[*link as usize].0, &[pc + 1; 32], mask);
            branch(block, warp, *target, mask);
        }
        Op::Nothing => warp.pc += 1,
        Op::MoveLocal(moves) => {
            move_local(block, warp, moves, mask);
            warp.pc += 1;
        }
        Op::Return { link } => {
            warp.park(pc + 1, warp.active & !mask, State::Ready);
            let links = warp.registers.r[*link as usize].0;
            let mut left = mask;
            while left != 0 {
                let to = links[left.trailing_zeros() as usize];
                let lanes = each(left).filter(|&lane| links[lane] == to).fold(0, |bits, lane| bits | 1 << lane);
                warp.park(to, lanes, State::Ready);
                left &= !lanes;
            }
        }
        Op::Exit => {
            if mask != 0 {
                exit(block, warp, mask)?;
            }
            warp.pc += 1;
        }
        Op::Trap => {
            if let Some(lane) = each(mask).next() {
                return trouble(lane, FaultKind::Trap, None);
            }
            warp.pc += 1;
        }
        _ if mask == 0 => warp.pc += 1,
        Op::Barrier(barrier) => return at_barrier(block, warp, barrier, mask),
        Op::Sync { members, orders, run } => {
            let named = each(mask).fold(0, |bits, lane| bits | warp.registers.r[*members as usize].0[lane]);
            if let Some(lane) = each(mask).find(|&lane| warp.registers.r[*members as usize].0[lane] >> lane & 1 == 0) {
                let members = warp.registers.r[*members as usize].0[lane];
                return trouble(lane, FaultKind::DivergentSync { members, present: mask }, None);
            }
            if named & warp.live & !mask != 0 {
                converge(warp, mask);
                return Ok(());
            }
            run(&mut warp.registers, mask);
            if *orders && let Some(shadow) = &mut block.shadow {
                shadow.sync_warp(warp.index);
            }
            warp.pc += 1;
        }
        operation => {
            warp.worked |= warp.meet == 0;
            memory(block, warp, operation, mask)?;
            warp.pc += 1;
        }
    }
    Ok(())
}

fn memory(block: &mut Block, warp: &mut Warp, operation: &Op, mask: u32) -> Outcome {
    match operation {
        Op::Load(access) => block.load(warp, access, mask),
        Op::Store(access) => block.store(warp, access, mask),
        Op::Atomic(atomic) => block.atomic(warp, atomic, mask),
        Op::LoadMatrix(matrix) => block.load_matrix(warp, matrix, mask),
        Op::StoreMatrix(matrix) => block.store_matrix(warp, matrix, mask),
        Op::Tile(tile) => block.tile(warp, tile, mask),
        Op::CopyAsync(copy) => block.copy_async(warp, copy, mask),
        Op::CopyCommit => {
            warp.copies.commit(mask);
            Ok(())
        }
        Op::CopyWait(newest) => {
            block.copy_wait(warp, Some(*newest), mask);
            Ok(())
        }
        Op::CopyWaitAll => {
            block.copy_wait(warp, None, mask);
            Ok(())
        }
        Op::Mbarrier(mbarrier) => block.mbarrier(warp, mbarrier, mask),
        Op::Clock(to) => {
            let now = warp.executed;
            match *to {
                Destination::R(slot, _) => {
                    each(mask).for_each(|lane| warp.registers.r[slot as usize].0[lane] = now as u32)
                }
                Destination::D(slot) => each(mask).for_each(|lane| warp.registers.d[slot as usize].0[lane] = now),
                Destination::Sink => {}
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Lanes of `mask` go to `target`, the others on.
fn branch(block: &mut Block, warp: &mut Warp, target: u32, mask: u32) {
    let rest = warp.active & !mask;
    if rest == 0 {
        warp.pc = target;
    } else if mask == 0 {
        warp.pc += 1;
    } else {
        block.divergent_branches += 1;
        let next = warp.pc + 1;
        warp.pc = target;
        warp.park(next, rest, State::Ready);
    }
    // A jump back may leave others behind that are now ahead.
}

/// Bytes of local memory that a call passes or returns.
fn move_local(block: &Block, warp: &mut Warp, moves: &[Move], mask: u32) {
    for lane in each(mask) {
        let base = lane * block.code.local_bytes as usize;
        for &(from, to, bytes) in moves {
            let (from, to) = (base + from as usize, base + to as usize);
            warp.local.copy_within(from..from + bytes as usize, to);
            warp.local_written.copy_within(from..from + bytes as usize, to);
        }
    }
}

/// Lanes wait where they are for others of the warp; those that are not in `mask` go on.
fn converge(warp: &mut Warp, mask: u32) {
    let pc = warp.pc;
    warp.park(pc + 1, warp.active & !mask, State::Ready);
    warp.park(pc, mask, State::Converging);
}

fn exit(block: &mut Block, warp: &mut Warp, mask: u32) -> Outcome {
    if block.device.sanitize {
        if let Some(lane) = warp.copies.pending(mask) {
            return trouble(lane, FaultKind::PendingCopy, None);
        }
        // Lanes that went around a barrier at which others of their warp wait.
        let waits = |group: &&super::warp::Group| {
            group.state == State::Converging
                && matches!(&block.code.instructions[group.pc as usize].op, Op::Barrier(b) if b.aligned)
        };
        if warp.worked
            && let Some(group) = warp.others.iter().find(waits)
        {
            let lane = group.mask.trailing_zeros() as usize;
            // Told of where they wait.
            warp.pc = group.pc;
            return trouble(lane, FaultKind::DivergentBarrier, None);
        }
    }
    warp.exit(mask);
    Ok(())
}

fn at_barrier(block: &mut Block, warp: &mut Warp, barrier: &Barrier, mask: u32) -> Outcome {
    let lane = mask.trailing_zeros() as usize;
    let id = warp.registers.r[barrier.id as usize].0[lane];
    if id >= 16 {
        return trouble(lane, FaultKind::Invalid(format!("barrier {id}")), None);
    }
    if barrier.aligned && mask != warp.live {
        // Others may still be on their way here, but not if they already wait elsewhere.
        if warp.others.iter().any(|group| matches!(group.state, State::Barrier(_))) {
            return trouble(lane, FaultKind::DivergentBarrier, None);
        }
        converge(warp, mask);
        return Ok(());
    }
    let expected = barrier.threads.map(|slot| warp.registers.r[slot as usize].0[lane]);
    if let Some(threads) = expected.filter(|threads| *threads == 0 || threads % 32 != 0) {
        return trouble(lane, FaultKind::Invalid(format!("a barrier of {threads} threads")), None);
    }
    let holds = match barrier.source.predicate {
        u32::MAX => 0,
        predicate => warp.registers.p[predicate as usize] ^ barrier.source.flip,
    };
    block.barrier_visits += 1;
    warp.worked = false;
    block.barriers.arrive(id, warp, mask, expected, holds);
    let pc = warp.pc;
    warp.park(pc + 1, warp.active & !mask, State::Ready);
    if barrier.kind == BarrierKind::Arrive {
        if let Some(shadow) = &mut block.shadow {
            shadow.arrive(warp.index);
        }
        warp.pc += 1;
    } else {
        warp.park(pc, mask, State::Barrier(id));
    }
    Ok(())
}
