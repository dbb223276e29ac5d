//! The blocks of a launch, on all cores.

use super::{
    block::{Block, Executions},
    code::{Code, Special},
    memory::{Allocation, Bits},
    registers::LANES,
    run::run_block,
    warp::Warp,
};
use crate::{Device, Fault, FaultKind, Launch, Memory, Profile, profile::Count};
use std::collections::BTreeMap;
use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Device memory as one launch sees it.
pub(crate) struct View {
    pub(crate) allocations: Vec<Arc<Allocation>>,
    /// Bytes loaded and stored, of each allocation.
    touched: Vec<[OnceLock<Bits>; 2]>,
}

impl View {
    fn new(memory: &Memory) -> Self {
        let allocations = memory.snapshot();
        let touched = allocations.iter().map(|_| Default::default()).collect();
        Self { allocations, touched }
    }

    #[inline(always)]
    pub(crate) fn touch(&self, allocation: usize, offset: u64, bytes: u32, write: bool) {
        let bits = &self.touched[allocation][usize::from(write)];
        bits.get_or_init(|| Bits::new(self.allocations[allocation].size)).set(offset, bytes);
    }

    fn unique(&self, write: bool) -> u64 {
        self.touched.iter().filter_map(|both| both[usize::from(write)].get()).map(Bits::count).sum()
    }
}

/// Runs all blocks. Of several faults, the one of the first block is told.
pub(crate) fn run(
    device: &Device,
    memory: &Memory,
    code: &Code,
    launch: &Launch,
    param_bytes: u32,
) -> Result<Profile, Fault> {
    let invalid = |what: &str| Fault {
        kernel: code.name.clone(),
        line: 0,
        text: String::new(),
        block: [0; 3],
        thread: [0; 3],
        kind: FaultKind::Invalid(what.into()),
        address: None,
    };
    let threads = launch.block.iter().try_fold(1u32, |all, &n| all.checked_mul(n)).unwrap_or(u32::MAX);
    if threads == 0 || threads > 1024 || launch.grid.contains(&0) {
        return Err(invalid("a launch of no threads, or of more than 1024 in a block"));
    }
    if launch.params.len() < param_bytes as usize {
        return Err(invalid("parameters of fewer bytes than the kernel's"));
    }
    let view = View::new(memory);
    let blocks = launch.grid.iter().map(|&n| u64::from(n)).product::<u64>();
    let (next, failed, first) = (AtomicU64::new(0), AtomicU64::new(u64::MAX), Mutex::new(None));
    let executions = vec![Executions::default(); code.instructions.len()];
    let totals = Mutex::new((Profile { launches: 1, blocks, ..Profile::default() }, executions));
    let workers = (rayon::current_num_threads() as u64).min(blocks);
    // Blocks are handed out a few at a time.
    let step = (blocks / (workers * 64)).clamp(1, 64);
    let work = || {
        let mut worker = Worker::new(device, code, launch, &view);
        loop {
            let start = next.fetch_add(step, Relaxed);
            for number in start..(start + step).min(blocks) {
                // Blocks before a faulty one still run, so that the first fault is always the same.
                if number > failed.load(Relaxed) {
                    break;
                }
                if let Err(fault) = worker.run(number) {
                    failed.fetch_min(number, Relaxed);
                    let mut first = first.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    if first.as_ref().is_none_or(|(earlier, _): &(u64, Box<Fault>)| number < *earlier) {
                        *first = Some((number, fault));
                    }
                }
            }
            if start + step >= blocks || start > failed.load(Relaxed) {
                break;
            }
        }
        worker.add_to(&mut totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    };
    if workers == 1 {
        work();
    } else {
        rayon::scope(|scope| (0..workers).for_each(|_| scope.spawn(|_| work())));
    }
    if let Some((_, fault)) = first.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(*fault);
    }
    let (mut profile, executions) = totals.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    count_instructions(code, &executions, &mut profile);
    profile.warps = blocks * u64::from(threads.div_ceil(32));
    profile.global_loads.unique_bytes = view.unique(false);
    profile.global_stores.unique_bytes = view.unique(true);
    Ok(profile)
}

/// What one host thread needs to run blocks one after another.
struct Worker<'a> {
    block: Block<'a>,
    warps: Vec<Warp>,
}

impl<'a> Worker<'a> {
    fn new(device: &'a Device, code: &'a Code, launch: &'a Launch<'a>, view: &'a View) -> Self {
        let block = Block::new(device, code, launch, view);
        let count = threads(launch).div_ceil(32);
        let mut warps: Vec<Warp> = (0..count).map(|index| Warp::new(index, code)).collect();
        for warp in &mut warps {
            for &(slot, offset) in &code.addresses {
                warp.registers.d[slot as usize].0 = [launch.globals.wrapping_add(offset); LANES];
            }
            for &(special, slot) in &code.specials {
                let index = warp.index;
                warp.registers.r[slot as usize].0 =
                    std::array::from_fn(|lane| special_value(special, &block, index, lane as u32, count));
            }
        }
        Self { block, warps }
    }

    fn run(&mut self, number: u64) -> Result<(), Box<Fault>> {
        let [x, y, _] = self.block.launch.grid.map(u64::from);
        self.block.reset([(number % x) as u32, (number / x % y) as u32, (number / (x * y)) as u32]);
        let threads = threads(self.block.launch);
        for warp in &mut self.warps {
            let lanes = (threads - warp.index * 32).min(32);
            warp.reset(if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 });
            for &(special, slot) in &self.block.code.specials {
                match special {
                    Special::Ctaid(axis) => warp.registers.r[slot as usize].0 = [self.block.index[axis]; LANES],
                    Special::Smid => {
                        let sm = (number % u64::from(self.block.device.multiprocessors.max(1))) as u32;
                        warp.registers.r[slot as usize].0 = [sm; LANES];
                    }
                    _ => {}
                }
            }
        }
        run_block(&mut self.block, &mut self.warps)
    }

    fn add_to(self, (profile, executions): &mut (Profile, Vec<Executions>)) {
        let block = self.block;
        for (total, own) in executions.iter_mut().zip(&block.executions) {
            total.warps += own.warps;
            total.threads += own.threads;
            total.conflicts += own.conflicts;
        }
        profile.add(&Profile {
            global_loads: block.loads,
            global_stores: block.stores,
            shared_loads: block.banks.loads,
            shared_stores: block.banks.stores,
            barriers: block.barrier_visits,
            divergent_branches: block.divergent_branches,
            ..Profile::default()
        });
    }
}

/// From executions by instruction to those by opcode and class.
fn count_instructions(code: &Code, executions: &[Executions], profile: &mut Profile) {
    let counted = || code.notes.iter().zip(executions).filter(|(_, executions)| executions.warps != 0);
    let count = |&Executions { warps, threads, .. }: &Executions| Count { warps, threads };
    let mut loops = BTreeMap::new();
    for (note, executions) in counted() {
        match profile.opcodes.get_mut(&note.opcode) {
            Some(total) => total.add(count(executions)),
            None => drop(profile.opcodes.insert(note.opcode.clone(), count(executions))),
        }
        profile.classes.entry(note.class).or_default().add(count(executions));
        if let Some(first) = note.innermost {
            *loops.entry(first).or_default() += executions.warps;
        }
    }
    let hottest = loops.into_iter().max_by_key(|&(_, warps): &(u32, u64)| warps).map(|(first, _)| first);
    for (note, executions) in counted().filter(|(note, _)| hottest.is_some() && note.innermost == hottest) {
        profile.inner.entry(note.class).or_default().add(count(executions));
        profile.inner_conflicts += executions.conflicts;
    }
}

fn threads(launch: &Launch) -> u32 {
    launch.block.iter().product()
}

fn special_value(special: Special, block: &Block, warp: u32, lane: u32, warps: u32) -> u32 {
    let launch = block.launch;
    let [x, y, _] = launch.block;
    let thread = warp * 32 + lane;
    let below = (1u32 << lane) - 1;
    match special {
        Special::Tid(0) => thread % x,
        Special::Tid(1) => thread / x % y,
        Special::Tid(_) => thread / (x * y),
        Special::Ntid(axis) => launch.block[axis],
        Special::Ctaid(axis) => block.index[axis],
        Special::Nctaid(axis) => launch.grid[axis],
        Special::Laneid => lane,
        Special::Warpid => warp,
        Special::Nwarpid => warps,
        Special::Smid | Special::Zero => 0,
        Special::Nsmid => block.device.multiprocessors,
        Special::LanemaskEq => 1 << lane,
        Special::LanemaskLt => below,
        Special::LanemaskLe => below | 1 << lane,
        Special::LanemaskGe => !below,
        Special::LanemaskGt => !below & !(1 << lane),
        Special::DynamicShared => launch.dynamic_shared,
        Special::TotalShared => block.code.dynamic_start + launch.dynamic_shared,
        Special::DynamicSharedStart => block.code.dynamic_start,
    }
}
