//! `cp.async`.
//!
//! The bytes are copied when the instruction executes; that they may arrive as late as the wait is the sanitizer's to
//! enforce: until the thread that issued a copy has waited for it, nobody may touch the bytes it writes.

use super::{
    Outcome,
    block::Block,
    code::{Address, Guard},
    each,
    element::read,
    spread::sharing,
    warp::Warp,
};
use crate::fault::Space;

pub(crate) struct CopyAsync {
    pub(crate) to: Address,
    pub(crate) from: Address,
    pub(crate) bytes: u32,
    /// A register with how many bytes to read; the rest is zeros.
    pub(crate) source_bytes: Option<u32>,
    /// Lanes where this holds read nothing and write zeros.
    pub(crate) ignore: Option<Guard>,
}

/// A copy that its thread has not waited for.
#[derive(Clone, Copy, Debug)]
struct Pending {
    lane: u8,
    bytes: u8,
    to: u32,
    /// Number of its group among those of the lane.
    group: u32,
}

/// The copies of a warp's threads.
#[derive(Default)]
pub(crate) struct Copies {
    pending: Vec<Pending>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

impl Copies {
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.committed = [0; 32];
    }

    pub(crate) fn commit(&mut self, mask: u32) {
        each(mask).for_each(|lane| self.committed[lane] += 1);
    }

    /// A lane of the mask with a copy that it has not waited for.
    pub(crate) fn pending(&self, mask: u32) -> Option<usize> {
        self.pending.iter().map(|copy| usize::from(copy.lane)).find(|lane| mask >> lane & 1 != 0)
    }
}

impl Block<'_> {
    pub(crate) fn copy_async(&mut self, warp: &mut Warp, copy: &CopyAsync, mask: u32) -> Outcome {
        let (to, from) = (warp.addresses(&copy.to), warp.addresses(&copy.from));
        // Either may be a generic address in its window.
        let to = to.map(|address| super::access::classify(address).1);
        let ignored = copy.ignore.map_or(0, |guard| warp.registers.p[guard.predicate as usize] ^ guard.flip);
        let wanted = |warp: &Warp, lane: usize| match copy.source_bytes {
            _ if ignored >> lane & 1 != 0 => 0,
            Some(slot) => warp.registers.r[slot as usize].0[lane].min(copy.bytes),
            None => copy.bytes,
        };
        let offsets = self.shared_offsets(&to, mask, copy.bytes, true)?;
        if let Some(shadow) = &mut self.shadow {
            let sharing = sharing(&offsets, mask, copy.bytes);
            shadow.begin_copy(warp.index, &offsets, mask, copy.bytes, sharing)?;
        }
        if self.device.profile {
            self.banks.count(&to, mask, copy.bytes, true);
        }
        // Whole copies by the usual path; parts byte by byte.
        let whole = each(mask).filter(|&lane| wanted(warp, lane) == copy.bytes).fold(0, |bits, lane| bits | 1 << lane);
        if whole != 0 {
            let pointers = self.resolve(&from, whole, copy.bytes, false)?;
            for lane in each(whole) {
                let start = offsets[lane] as usize;
                for (at, to) in self.shared[start..start + copy.bytes as usize].chunks_exact_mut(4).enumerate() {
                    // SAFETY: resolved to so many bytes, aligned.
                    let word = unsafe { read(pointers[lane].wrapping_add(4 * at), 4) };
                    to.copy_from_slice(&(word as u32).to_le_bytes());
                }
            }
        }
        for lane in each(mask & !whole) {
            let bytes = wanted(warp, lane);
            if bytes != 0 && from[lane] & u64::from(copy.bytes - 1) != 0 {
                let kind = crate::FaultKind::Misaligned { space: Space::Global, size: copy.bytes };
                return super::trouble(lane, kind, Some(from[lane]));
            }
            for at in 0..copy.bytes {
                let byte = if at < bytes {
                    let mut addresses = from;
                    addresses[lane] += u64::from(at);
                    let pointers = self.resolve(&addresses, 1 << lane, 1, false)?;
                    // SAFETY: resolved to one byte.
                    unsafe { read(pointers[lane], 1) }
                } else {
                    0
                };
                self.shared[offsets[lane] as usize + at as usize] = byte as u8;
            }
        }
        if self.shadow.is_some() {
            let group = warp.copies.committed;
            warp.copies.pending.extend(each(mask).map(|lane| Pending {
                lane: lane as u8,
                bytes: copy.bytes as u8,
                to: offsets[lane],
                group: group[lane],
            }));
        }
        Ok(())
    }

    /// Completes all groups but the `newest`, or everything.
    pub(crate) fn copy_wait(&mut self, warp: &mut Warp, newest: Option<u32>, mask: u32) {
        let Some(shadow) = &mut self.shadow else { return };
        let (committed, index) = (warp.copies.committed, warp.index);
        warp.copies.pending.retain(|copy| {
            let lane = usize::from(copy.lane);
            let complete = mask >> lane & 1 != 0
                && newest.is_none_or(|newest| copy.group < committed[lane].saturating_sub(newest));
            if complete {
                shadow.end_copy(index, lane, copy.to, copy.bytes.into());
            }
            !complete
        });
    }
}
