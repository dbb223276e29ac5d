//! What a launch did, in counts.

use std::collections::BTreeMap;

/// Counts of one launch, or of several added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Launches in it.
    pub launches: u64,
    /// Blocks run.
    pub blocks: u64,
    /// Warps run.
    pub warps: u64,
    /// Instructions, by opcode with its types and modifiers.
    pub opcodes: BTreeMap<String, Count>,
    /// Instructions, by class.
    pub classes: BTreeMap<Class, Count>,
    /// Instructions by class of the loop in which most were executed, without those of loops within it. A loop is all
    /// between a backward branch and its target.
    pub inner: BTreeMap<Class, Count>,
    /// Passes over the banks of shared memory beyond the minimum, of the instructions in `inner`.
    pub inner_conflicts: u64,
    /// Loads of global memory.
    pub global_loads: Traffic,
    /// Stores to global memory; atomics are here.
    pub global_stores: Traffic,
    /// Loads of shared memory.
    pub shared_loads: Banks,
    /// Stores to shared memory.
    pub shared_stores: Banks,
    /// Times that a warp came to a barrier of the block.
    pub barriers: u64,
    /// Branches at which a warp's threads parted.
    pub divergent_branches: u64,
}

/// Executions of instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// By warps.
    pub warps: u64,
    /// By threads.
    pub threads: u64,
}

/// Classes of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// f32 fused multiply-add.
    Ffma,
    /// Other f32 arithmetic.
    Float,
    /// f64 arithmetic.
    Double,
    /// f16 and bf16 arithmetic.
    Half,
    /// Tensor cores.
    Matrix,
    /// Integers, logic, comparison, selection.
    Integer,
    /// Conversions.
    Convert,
    /// Moves, which a compiler usually removes.
    Move,
    /// Loads and stores of global memory, cp.async among them.
    Global,
    /// Loads and stores of shared memory, ldmatrix among them.
    Shared,
    /// Local, const and param memory.
    Local,
    /// Atomics and reductions.
    Atomic,
    /// Branches, calls, exits.
    Control,
    /// Barriers, fences, waits, shuffles, votes.
    Sync,
}

/// Traffic of global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Executions by warps.
    pub requests: u64,
    /// Distinct 32-byte sectors, request by request.
    pub sectors: u64,
    /// Bytes asked for by threads.
    pub bytes: u64,
    /// Distinct bytes touched in the launch.
    pub unique_bytes: u64,
}

/// Traffic of shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Banks {
    /// Executions by warps.
    pub requests: u64,
    /// Passes over the 32 banks that they took.
    pub transactions: u64,
    /// Passes that they would take without conflicts.
    pub minimum: u64,
    /// Bytes asked for by threads.
    pub bytes: u64,
}

impl Banks {
    /// Passes beyond the minimum.
    pub fn conflicts(&self) -> u64 {
        self.transactions - self.minimum
    }
}

impl Profile {
    /// Instructions in all.
    pub fn instructions(&self) -> Count {
        total(&self.classes)
    }

    /// Share of a class among all instructions executed by warps.
    pub fn share(&self, class: Class) -> f64 {
        share(&self.classes, class)
    }

    /// Share of a class among the instructions of the loop in which most were executed.
    pub fn inner_share(&self, class: Class) -> f64 {
        share(&self.inner, class)
    }

    /// Adds the counts of another launch.
    pub fn add(&mut self, other: &Profile) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.warps += other.warps;
        for (key, count) in &other.opcodes {
            self.opcodes.entry(key.clone()).or_default().add(*count);
        }
        for (mine, theirs) in [(&mut self.classes, &other.classes), (&mut self.inner, &other.inner)] {
            for (class, count) in theirs {
                mine.entry(*class).or_default().add(*count);
            }
        }
        for (mine, theirs) in
            [(&mut self.global_loads, &other.global_loads), (&mut self.global_stores, &other.global_stores)]
        {
            mine.requests += theirs.requests;
            mine.sectors += theirs.sectors;
            mine.bytes += theirs.bytes;
            mine.unique_bytes += theirs.unique_bytes;
        }
        for (mine, theirs) in
            [(&mut self.shared_loads, &other.shared_loads), (&mut self.shared_stores, &other.shared_stores)]
        {
            mine.requests += theirs.requests;
            mine.transactions += theirs.transactions;
            mine.minimum += theirs.minimum;
            mine.bytes += theirs.bytes;
        }
        self.inner_conflicts += other.inner_conflicts;
        self.barriers += other.barriers;
        self.divergent_branches += other.divergent_branches;
    }
}

impl Count {
    pub(crate) fn add(&mut self, other: Count) {
        self.warps += other.warps;
        self.threads += other.threads;
    }
}

fn total(classes: &BTreeMap<Class, Count>) -> Count {
    let mut sum = Count::default();
    classes.values().for_each(|count| sum.add(*count));
    sum
}

fn share(classes: &BTreeMap<Class, Count>, class: Class) -> f64 {
    let all = total(classes).warps;
    let part = classes.get(&class).map_or(0, |count| count.warps);
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}
