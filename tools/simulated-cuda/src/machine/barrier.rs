//! The 16 barriers of a block.

use super::{
    code::BarrierKind,
    registers::{LANES, blend},
    warp::{State, Warp},
};

/// One barrier between two completions.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    /// Threads that came, and the same in whole warps.
    threads: u32,
    rounded: u32,
    /// How many must come; without a number, all that live.
    expected: Option<u32>,
    /// Warps that came.
    warps: u32,
    /// Predicates so far: how many hold, whether all, whether any.
    holds: u32,
    all: bool,
    any: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Barriers([Pending; 16]);

impl Barriers {
    /// Lanes of a warp come to barrier `id`; `holds` are those whose predicate is true.
    pub(crate) fn arrive(&mut self, id: u32, warp: &Warp, lanes: u32, expected: Option<u32>, holds: u32) {
        let pending = &mut self.0[id as usize];
        if pending.threads == 0 {
            pending.all = true;
        }
        pending.threads += lanes.count_ones();
        // Numbers of threads are in whole warps: lanes that the block does not have count.
        pending.rounded += if lanes == warp.live { LANES as u32 } else { lanes.count_ones() };
        pending.expected = expected;
        pending.warps |= 1 << warp.index;
        pending.holds += (holds & lanes).count_ones();
        pending.all &= holds & lanes == lanes;
        pending.any |= holds & lanes != 0;
    }

    /// Lets the threads of complete barriers go on: for each, the warps that came and those that waited.
    pub(crate) fn release(&mut self, warps: &mut [Warp], code: &super::code::Code) -> Vec<(u32, u32)> {
        let mut released = Vec::new();
        for (id, pending) in self.0.iter_mut().enumerate() {
            if pending.threads == 0 {
                continue;
            }
            let complete = match pending.expected {
                Some(expected) => pending.rounded >= expected,
                None => pending.threads >= warps.iter().map(|warp| warp.live.count_ones()).sum(),
            };
            if !complete {
                continue;
            }
            let mut waited = 0;
            for warp in warps.iter_mut() {
                for at in 0..warp.others.len() {
                    let group = warp.others[at];
                    if group.state != State::Barrier(id as u32) {
                        continue;
                    }
                    waited |= 1 << warp.index;
                    if let super::code::Op::Barrier(barrier) = &code.instructions[group.pc as usize].op {
                        let bits = |yes: bool| if yes { u32::MAX } else { 0 };
                        match barrier.kind {
                            BarrierKind::Popc => {
                                let to = &mut warp.registers.r[barrier.result as usize].0;
                                blend(to, &[pending.holds; LANES], group.mask);
                            }
                            BarrierKind::And | BarrierKind::Or => {
                                let value =
                                    bits(if barrier.kind == BarrierKind::And { pending.all } else { pending.any });
                                super::registers::write_predicate(
                                    &mut warp.registers,
                                    barrier.result,
                                    value,
                                    group.mask,
                                );
                            }
                            _ => {}
                        }
                    }
                    warp.others[at].pc += 1;
                    warp.others[at].state = State::Ready;
                }
                warp.look_out();
            }
            released.push((pending.warps, waited));
            *pending = Pending::default();
        }
        released
    }
}
