//! `mbarrier`: the basics, of barriers in shared memory within a block.

use super::{
    Outcome,
    access::split,
    block::Block,
    code::{AccessSpace, Address, Destination},
    each,
    registers::LANES,
    trouble,
    warp::Warp,
};
use crate::FaultKind;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierKind {
    Init,
    Invalidate,
    Arrive,
    /// `test_wait`, `try_wait`.
    Test,
    /// `cp.async.mbarrier.arrive`.
    CopyArrive {
        noinc: bool,
    },
}

pub(crate) struct Mbarrier {
    pub(crate) kind: MbarrierKind,
    pub(crate) space: AccessSpace,
    pub(crate) address: Address,
    /// The count of `init` and `arrive`, the state of a test.
    pub(crate) operand: Option<u32>,
    pub(crate) result: Destination,
    /// Predicate with the result of a test.
    pub(crate) done: u32,
}

/// A barrier object: kept aside, not in the bytes of shared memory, whose layout is opaque.
#[derive(Clone, Copy, Debug, Default)]
struct Object {
    expected: u32,
    pending: u32,
    /// Completed phases.
    phase: u64,
    /// Warps that arrived in this phase.
    warps: u32,
}

#[derive(Default)]
pub(crate) struct Phases(BTreeMap<u64, Object>);

impl Block<'_> {
    pub(crate) fn mbarrier(&mut self, warp: &mut Warp, op: &Mbarrier, mask: u32) -> Outcome {
        let addresses = warp.addresses(&op.address);
        split(op.space, &addresses, mask, |space, addresses: &[u64; LANES], mask| {
            for lane in each(mask) {
                let address = addresses[lane];
                if space != AccessSpace::Shared {
                    return trouble(
                        lane,
                        FaultKind::Invalid("mbarrier outside of shared memory".into()),
                        Some(address),
                    );
                }
                super::access::check_range(
                    lane,
                    address,
                    8,
                    self.shared.len() as u64,
                    crate::fault::Space::Shared,
                    true,
                )?;
                self.mbarrier_lane(warp, op, lane, address)?;
            }
            Ok(())
        })
    }

    fn mbarrier_lane(&mut self, warp: &mut Warp, op: &Mbarrier, lane: usize, address: u64) -> Outcome {
        let count = |warp: &Warp| op.operand.map_or(1, |slot| warp.registers.r[slot as usize].0[lane]);
        match op.kind {
            MbarrierKind::Init => {
                let expected = count(warp);
                self.phases.0.insert(address, Object { expected, pending: expected, ..Object::default() });
                return Ok(());
            }
            MbarrierKind::Invalidate => {
                self.phases.0.remove(&address);
                return Ok(());
            }
            // The copies of this thread count as complete now: their bytes already are.
            MbarrierKind::CopyArrive { .. } => self.copy_wait(warp, None, 1 << lane),
            _ => {}
        }
        let Some(object) = self.phases.0.get_mut(&address) else {
            return trouble(lane, FaultKind::Invalid("mbarrier that was not initialised".into()), Some(address));
        };
        match op.kind {
            MbarrierKind::Test => {
                let phase = op.operand.map_or(0, |slot| warp.registers.d[slot as usize].0[lane]);
                let done = object.phase > phase;
                let bits = &mut warp.registers.p[op.done as usize];
                *bits = *bits & !(1 << lane) | u32::from(done) << lane;
            }
            MbarrierKind::CopyArrive { noinc: false } => {
                // Counted up and down again: the phase waits only for the copies.
                object.warps |= 1 << warp.index;
            }
            _ => {
                let phase = object.phase;
                let arriving = if op.kind == MbarrierKind::Arrive { count(warp) } else { 1 };
                if arriving > object.pending {
                    return trouble(
                        lane,
                        FaultKind::Invalid("more arrivals than an mbarrier expects".into()),
                        Some(address),
                    );
                }
                object.pending -= arriving;
                object.warps |= 1 << warp.index;
                if object.pending == 0 {
                    object.pending = object.expected;
                    object.phase += 1;
                    let came = std::mem::take(&mut object.warps);
                    if let Some(shadow) = &mut self.shadow {
                        // Whoever sees the phase complete is ordered after all that arrived; nearly always all warps.
                        shadow.barrier(came, u32::MAX);
                    }
                }
                match op.result {
                    Destination::D(slot) => warp.registers.d[slot as usize].0[lane] = phase,
                    Destination::R(..) => {
                        return trouble(lane, FaultKind::Invalid("a 64-bit state expected".into()), None);
                    }
                    Destination::Sink => {}
                }
            }
        }
        Ok(())
    }

    /// Checks an atomic access of shared memory, and counts it: ordered against other atomics, not against plain ones.
    pub(crate) fn check_shared_atomic(
        &mut self,
        warp: &Warp,
        addresses: &[u64; LANES],
        mask: u32,
        size: u32,
    ) -> Outcome {
        let bytes = self.shared.len() as u64;
        for lane in each(mask) {
            super::access::check_range(lane, addresses[lane], size, bytes, crate::fault::Space::Shared, true)?;
            if let Some(shadow) = &mut self.shadow {
                shadow.atomic(warp.index, lane, addresses[lane] as u32, size)?;
            }
        }
        if self.device.profile {
            self.banks.count(addresses, mask, size, true);
        }
        Ok(())
    }
}
