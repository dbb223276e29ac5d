//! `atom` and `red`.

use super::{
    Outcome,
    access::split,
    block::Block,
    code::{AccessSpace, Address, Destination},
    each,
    element::{read_slice, write_slice},
    registers::LANES,
    trouble,
    warp::Warp,
};
use crate::{
    FaultKind,
    fault::Space,
    isa::number::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16},
};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    AddF32,
    AddF64,
    AddHalf { bf16: bool, pair: bool },
    Min { signed: bool },
    Max { signed: bool },
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

pub(crate) struct Atomic {
    pub(crate) space: AccessSpace,
    pub(crate) address: Address,
    /// Bytes of an element.
    pub(crate) bytes: u32,
    pub(crate) operation: Operation,
    /// Result and operand of each element.
    pub(crate) elements: Vec<(Destination, Destination)>,
    /// What compare-and-swap stores.
    pub(crate) swap: Option<Destination>,
}

impl Operation {
    /// The value that replaces `old`.
    fn apply(self, old: u64, b: u64, swap: u64, bytes: u32) -> u64 {
        let signed = |x: u64| if bytes == 4 { i64::from(x as u32 as i32) } else { x as i64 };
        let mask = if bytes == 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 };
        let choose = |first: bool| if first { old } else { b };
        (match self {
            Self::Add => old.wrapping_add(b),
            // As hardware does it, f32 atomics on global memory flush subnormals on no architecture from sm_20 on.
            Self::AddF32 => u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits()),
            Self::AddF64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            Self::AddHalf { bf16, pair } => {
                let sum = |at: u32| {
                    let (x, y) = ((old >> at) as u16, (b >> at) as u16);
                    let sum = if bf16 {
                        f32_to_bf16(bf16_to_f32(x) + bf16_to_f32(y))
                    } else {
                        f32_to_f16(f16_to_f32(x) + f16_to_f32(y))
                    };
                    u64::from(sum) << at
                };
                if pair { sum(0) | sum(16) } else { sum(0) }
            }
            Self::Min { signed: true } => choose(signed(old) <= signed(b)),
            Self::Min { signed: false } => old.min(b),
            Self::Max { signed: true } => choose(signed(old) >= signed(b)),
            Self::Max { signed: false } => old.max(b),
            Self::And => old & b,
            Self::Or => old | b,
            Self::Xor => old ^ b,
            Self::Exchange => b,
            Self::CompareAndSwap => {
                if old == b {
                    swap
                } else {
                    old
                }
            }
            Self::Increment => {
                if old >= b {
                    0
                } else {
                    old + 1
                }
            }
            Self::Decrement => {
                if old == 0 || old > b {
                    b
                } else {
                    old - 1
                }
            }
        }) & mask
    }
}

fn register(warp: &Warp, place: Destination, lane: usize, bytes: u32) -> u64 {
    let value = match place {
        Destination::R(slot, _) => u64::from(warp.registers.r[slot as usize].0[lane]),
        Destination::D(slot) => warp.registers.d[slot as usize].0[lane],
        Destination::Sink => 0,
    };
    if bytes == 2 { value & 0xffff } else { value }
}

fn set(warp: &mut Warp, place: Destination, lane: usize, value: u64) {
    match place {
        Destination::R(slot, _) => warp.registers.r[slot as usize].0[lane] = value as u32,
        Destination::D(slot) => warp.registers.d[slot as usize].0[lane] = value,
        Destination::Sink => {}
    }
}

/// Replaces the value at a pointer by `f` of it; what it was.
///
/// # Safety
/// The pointer is to so many bytes of an allocation, aligned to their number.
unsafe fn update(pointer: *mut u8, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
    // SAFETY: as promised; all accesses are atomic.
    let updated = unsafe {
        match bytes {
            2 => AtomicU16::from_ptr(pointer.cast())
                .fetch_update(Relaxed, Relaxed, |old| Some(f(old.into()) as u16))
                .map(u64::from),
            4 => AtomicU32::from_ptr(pointer.cast())
                .fetch_update(Relaxed, Relaxed, |old| Some(f(old.into()) as u32))
                .map(u64::from)
                .map_err(|_| 0),
            _ => AtomicU64::from_ptr(pointer.cast()).fetch_update(Relaxed, Relaxed, |old| Some(f(old))).map_err(|_| 0),
        }
    };
    updated.unwrap_or_default()
}

impl Block<'_> {
    pub(crate) fn atomic(&mut self, warp: &mut Warp, atomic: &Atomic, mask: u32) -> Outcome {
        let addresses = warp.addresses(&atomic.address);
        split(atomic.space, &addresses, mask, |space, addresses: &[u64; LANES], mask| {
            let size = atomic.bytes * atomic.elements.len() as u32;
            match space {
                AccessSpace::Shared => {
                    self.check_shared_atomic(warp, addresses, mask, size)?;
                    for lane in each(mask) {
                        let swap = atomic.swap.map_or(0, |place| register(warp, place, lane, atomic.bytes));
                        for (number, &(d, b)) in atomic.elements.iter().enumerate() {
                            let at = addresses[lane] as usize + number * atomic.bytes as usize;
                            let old = read_slice(&self.shared, at, atomic.bytes);
                            let b = register(warp, b, lane, atomic.bytes);
                            let new = atomic.operation.apply(old, b, swap, atomic.bytes);
                            write_slice(&mut self.shared, at, atomic.bytes, new);
                            set(warp, d, lane, old);
                        }
                    }
                }
                AccessSpace::Global => {
                    if self.device.sanitize && atomic.operation != Operation::Exchange {
                        for lane in each(mask) {
                            let (allocation, offset) = self.locate(lane, addresses[lane], size, true)?;
                            if !allocation.initialised().all(offset, size) {
                                let kind = FaultKind::UninitialisedMemory { space: Space::Global, size };
                                return trouble(lane, kind, Some(addresses[lane]));
                            }
                        }
                    }
                    let pointers = self.resolve(addresses, mask, size, true)?;
                    for lane in each(mask) {
                        let swap = atomic.swap.map_or(0, |place| register(warp, place, lane, atomic.bytes));
                        for (number, &(d, b)) in atomic.elements.iter().enumerate() {
                            let pointer = pointers[lane].wrapping_add(number * atomic.bytes as usize);
                            let b = register(warp, b, lane, atomic.bytes);
                            let apply = |old| atomic.operation.apply(old, b, swap, atomic.bytes);
                            // SAFETY: resolved to so many bytes, aligned.
                            let old = unsafe { update(pointer, atomic.bytes, apply) };
                            set(warp, d, lane, old);
                        }
                    }
                }
                _ => {
                    let lane = mask.trailing_zeros() as usize;
                    return trouble(lane, FaultKind::Invalid("atomic on local or parameter memory".into()), None);
                }
            }
            Ok(())
        })
    }
}
