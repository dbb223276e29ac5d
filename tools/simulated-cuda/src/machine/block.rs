//! What the threads of a block share: memory, barriers, and the counts of a worker.

use super::{banks::BankCounter, barrier::Barriers, code::Code, grid::View, mbarrier::Phases};
use crate::{Device, Launch, profile::Traffic, sanitizer::shadow::Shadow};

/// Of one instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Executions {
    pub(crate) warps: u64,
    pub(crate) threads: u64,
    /// Passes over the banks beyond the minimum.
    pub(crate) conflicts: u64,
}

/// One block at a time, and the counts of all that ran on this thread.
pub(crate) struct Block<'a> {
    pub(crate) device: &'a Device,
    pub(crate) code: &'a Code,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) view: &'a View,
    /// The parameters.
    pub(crate) params: &'a [u8],
    pub(crate) shared: Vec<u8>,
    pub(crate) shadow: Option<Shadow>,
    pub(crate) barriers: Barriers,
    pub(crate) phases: Phases,
    pub(crate) index: [u32; 3],
    /// The allocation that was accessed last.
    pub(crate) recent: usize,
    /// What each instruction did.
    pub(crate) executions: Vec<Executions>,
    pub(crate) loads: Traffic,
    pub(crate) stores: Traffic,
    pub(crate) banks: BankCounter,
    pub(crate) barrier_visits: u64,
    pub(crate) divergent_branches: u64,
}

impl<'a> Block<'a> {
    pub(crate) fn new(device: &'a Device, code: &'a Code, launch: &'a Launch<'a>, view: &'a View) -> Self {
        let bytes = code.dynamic_start + launch.dynamic_shared;
        let warps = launch.block.iter().product::<u32>().div_ceil(32);
        Self {
            device,
            code,
            launch,
            view,
            params: launch.params,
            shared: vec![0; bytes as usize],
            shadow: device.sanitize.then(|| Shadow::new(bytes, warps)),
            barriers: Barriers::default(),
            phases: Phases::default(),
            index: [0; 3],
            recent: 0,
            executions: vec![Executions::default(); code.instructions.len()],
            loads: Traffic::default(),
            stores: Traffic::default(),
            banks: BankCounter::default(),
            barrier_visits: 0,
            divergent_branches: 0,
        }
    }

    pub(crate) fn reset(&mut self, index: [u32; 3]) {
        self.index = index;
        self.barriers = Barriers::default();
        self.phases = Phases::default();
        // What a block before left behind must not seem to be this one's.
        self.shared.fill(0xff);
        if let Some(shadow) = &mut self.shadow {
            shadow.reset();
        }
    }
}
