//! Registers of a function to slots: liveness, then a linear scan.
//!
//! PTX has as many registers as its compiler pleased, each written about once; kept apart, a warp's would not stay in
//! cache. A register that is alive at the function's entry may be read before anything wrote it: only those are
//! watched while the kernel runs, in slots of their own.

use super::types::{Body, Operand, Register, Type};

/// Which part of the register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// Up to 32 bits.
    R,
    /// 64 bits.
    D,
    /// Predicates.
    P,
}

impl File {
    pub(crate) fn of(kind: Type) -> Self {
        match kind.bits() {
            1 => Self::P,
            64 | 128 => Self::D,
            _ => Self::R,
        }
    }
}

/// Where each register is.
pub(crate) struct Allocation {
    /// Slot of each register within its part of the file.
    pub(crate) slots: Vec<u32>,
    /// Slots used of each part, beginning at those given.
    pub(crate) ends: [u32; 3],
    /// Whether each register may be read before it is written.
    pub(crate) watched: Vec<bool>,
    /// 32-bit registers alive at once, at most.
    pub(crate) pressure: u32,
}

/// What an instruction reads and writes.
#[derive(Default)]
pub(crate) struct Uses {
    pub(crate) reads: Vec<Register>,
    pub(crate) writes: Vec<Register>,
}

/// Opcodes whose first operand is not written.
fn has_no_result(opcode: &str) -> bool {
    let mut parts = opcode.split('.');
    let (first, rest) = (parts.next().unwrap_or(""), parts);
    match first {
        "st" | "red" | "bra" | "brx" | "ret" | "exit" | "trap" | "membar" | "fence" | "prefetch" | "prefetchu"
        | "stmatrix" | "cp" | "call" | "brkpt" | "nanosleep" | "discard" | "applypriority" | "pmevent"
        | "griddepcontrol" | "setmaxnreg" | "%return" => true,
        "bar" | "barrier" => !opcode.contains(".red"),
        "wmma" => opcode.contains(".store"),
        "mbarrier" => !rest
            .clone()
            .any(|part| matches!(part, "arrive" | "arrive_drop" | "test_wait" | "try_wait" | "pending_count")),
        _ => false,
    }
}

fn registers(operand: &Operand, found: &mut Vec<Register>) {
    match operand {
        Operand::Register(register) | Operand::Not(register) => found.push(*register),
        Operand::Address(base, _) => registers(base, found),
        Operand::Vector(all) | Operand::List(all) => all.iter().for_each(|operand| registers(operand, found)),
        Operand::Pair(a, b) => {
            registers(a, found);
            registers(b, found);
        }
        _ => {}
    }
}

pub(crate) fn uses(instruction: &super::types::Instruction) -> Uses {
    let mut uses = Uses::default();
    uses.reads.extend(instruction.guard.map(|guard| guard.0));
    let results = usize::from(!has_no_result(&instruction.opcode));
    for (i, operand) in instruction.operands.iter().enumerate() {
        registers(operand, if i < results { &mut uses.writes } else { &mut uses.reads });
    }
    uses
}

/// Whether an instruction only copies: it may read what is not initialised, and hands that on.
pub(crate) fn copies(instruction: &super::types::Instruction) -> bool {
    matches!(instruction.parts().next(), Some("mov" | "selp"))
}

struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, i: u32) {
        self.0[i as usize / 64] |= 1 << (i % 64);
    }
    fn remove(&mut self, i: u32) {
        self.0[i as usize / 64] &= !(1 << (i % 64));
    }
    fn has(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 != 0
    }
    fn each(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(word, &bits)| {
            std::iter::successors(Some(bits).filter(|&bits| bits != 0), |bits| {
                Some(bits & (bits - 1)).filter(|&b| b != 0)
            })
            .map(move |bits| word as u32 * 64 + bits.trailing_zeros())
        })
    }
}

/// The instructions that may follow each one that does not just fall through.
fn successors(body: &Body, at: usize) -> Vec<usize> {
    let instruction = &body.instructions[at];
    let target = |label: &str| body.label(label, instruction.scope);
    let opcode = instruction.opcode.split('.').next().unwrap_or("");
    let mut found: Vec<usize> = match (opcode, &instruction.operands[..]) {
        ("bra", [Operand::Label(label), ..]) => target(label).into_iter().collect(),
        ("brx", [_, Operand::Label(list)]) => {
            let labels = body.branch_targets(list, instruction.scope).unwrap_or(&[]);
            labels.iter().filter_map(|label| target(label)).collect()
        }
        ("ret" | "exit" | "trap", _) => Vec::new(),
        _ => return vec![at + 1],
    };
    if instruction.guard.is_some() {
        found.push(at + 1);
    }
    found
}

/// Gives every register a slot, from `starts` on.
pub(crate) fn allocate(body: &Body, starts: [u32; 3]) -> Allocation {
    let (count, length) = (body.registers.len(), body.instructions.len());
    let uses: Vec<Uses> = body.instructions.iter().map(uses).collect();
    // Basic blocks, by their first instruction.
    let mut leader = vec![false; length + 1];
    leader[0] = true;
    for at in 0..length {
        let next = successors(body, at);
        if next != [at + 1] {
            next.iter().for_each(|&to| leader[to] = true);
            leader[at + 1] = true;
        }
    }
    let blocks: Vec<usize> = (0..length).filter(|&at| leader[at]).collect();
    let mut block_at = vec![usize::MAX; length + 1];
    blocks.iter().enumerate().for_each(|(block, &at)| block_at[at] = block);
    let end = |block: usize| blocks.get(block + 1).copied().unwrap_or(length);
    let words = count.div_ceil(64);
    let mut live_in: Vec<Set> = blocks.iter().map(|_| Set(vec![0; words])).collect();
    let live_out = |block: usize, live_in: &[Set]| {
        let mut live = Set(vec![0; words]);
        for next in successors(body, end(block) - 1) {
            if let Some(next) = block_at.get(next).and_then(|&next| live_in.get(next)) {
                live.0.iter_mut().zip(&next.0).for_each(|(to, from)| *to |= from);
            }
        }
        live
    };
    let step = |live: &mut Set, at: usize| {
        if body.instructions[at].guard.is_none() {
            uses[at].writes.iter().for_each(|&register| live.remove(register));
        }
        uses[at].reads.iter().for_each(|&register| live.insert(register));
    };
    loop {
        let mut changed = false;
        for block in (0..blocks.len()).rev() {
            let mut live = live_out(block, &live_in);
            (blocks[block]..end(block)).rev().for_each(|at| step(&mut live, at));
            if live.0 != live_in[block].0 {
                live_in[block] = live;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let mut watched = vec![false; count];
    if let Some(entry) = live_in.first() {
        entry.each().for_each(|register| watched[register as usize] = true);
    }
    // What is copied from such a register may be as uninitialised.
    loop {
        let before = watched.clone();
        for (_, uses) in body.instructions.iter().zip(&uses).filter(|(instruction, _)| copies(instruction)) {
            if uses.reads.iter().any(|&register| watched[register as usize]) {
                uses.writes.iter().for_each(|&register| watched[register as usize] = true);
            }
        }
        if watched == before {
            break;
        }
    }
    // The first and last instruction at which each register is alive or used.
    let mut span = vec![(u32::MAX, 0); count];
    let mut touch = |register: u32, at: usize| {
        let span: &mut (u32, u32) = &mut span[register as usize];
        *span = (span.0.min(at as u32), span.1.max(at as u32));
    };
    let mut pressure = 0;
    let weight = |register: u32| match File::of(body.registers[register as usize].1) {
        File::R => 1,
        File::D => 2,
        File::P => 0,
    };
    for block in 0..blocks.len() {
        let mut live = live_out(block, &live_in);
        let last = end(block) - 1;
        live.each().for_each(|register| touch(register, last));
        let mut alive: u32 = live.each().map(weight).sum();
        for at in (blocks[block]..=last).rev() {
            for &register in uses[at].writes.iter().chain(&uses[at].reads) {
                touch(register, at);
            }
            if body.instructions[at].guard.is_none() {
                for &register in &uses[at].writes {
                    if live.has(register) {
                        live.remove(register);
                        alive -= weight(register);
                    }
                }
            }
            for &register in &uses[at].reads {
                if !live.has(register) {
                    live.insert(register);
                    alive += weight(register);
                }
            }
            pressure = pressure.max(alive);
        }
        live.each().for_each(|register| touch(register, blocks[block]));
    }
    let (slots, ends) = scan(body, &span, &watched, starts);
    Allocation { slots, ends, watched, pressure }
}

/// Slots such that registers whose spans overlap do not share one.
fn scan(body: &Body, span: &[(u32, u32)], watched: &[bool], starts: [u32; 3]) -> (Vec<u32>, [u32; 3]) {
    let mut order: Vec<usize> = (0..span.len()).filter(|&register| span[register].0 != u32::MAX).collect();
    order.sort_by_key(|&register| span[register].0);
    let mut ends = starts;
    let mut slots = vec![0; span.len()];
    let mut free: [Vec<u32>; 3] = Default::default();
    // Last instruction, part of the file, slot.
    let mut active = std::collections::BinaryHeap::new();
    for register in order {
        let (first, last) = span[register];
        while let Some(&std::cmp::Reverse((ended, file, slot))) = active.peek() {
            if ended >= first {
                break;
            }
            active.pop();
            let free: &mut Vec<u32> = &mut free[file as usize];
            free.push(slot);
        }
        let file = File::of(body.registers[register].1) as usize;
        let reused = if watched[register] { None } else { free[file].pop() };
        slots[register] = reused.unwrap_or_else(|| {
            ends[file] += 1;
            ends[file] - 1
        });
        if !watched[register] {
            active.push(std::cmp::Reverse((last, file as u32, slots[register])));
        }
    }
    (slots, ends)
}
