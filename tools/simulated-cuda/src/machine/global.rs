//! Accesses of global memory: where they are in the device's allocations, checked and counted.

use super::{
    Outcome,
    block::Block,
    each,
    element::Pointers,
    memory::Allocation,
    registers::LANES,
    spread::{present, sectors, span},
    trouble,
};
use crate::{FaultKind, fault::Space};

/// Bytes that lanes' accesses may lie in for their being initialised to be looked at as one range.
const NEAR: u64 = 2048;

impl<'a> Block<'a> {
    /// Checks an access of global memory, and counts it: pointers, also for lanes that take no part.
    #[inline(always)]
    pub(crate) fn resolve(&mut self, addresses: &[u64; LANES], mask: u32, size: u32, write: bool) -> Outcome<Pointers> {
        let pointers = match self.resolve_together(addresses, mask, size, write) {
            Some(pointers) => pointers,
            None => self.resolve_each(addresses, mask, size, write)?,
        };
        if self.device.profile {
            for lane in each(mask) {
                let (_, offset) = self.locate(lane, addresses[lane], size, write)?;
                self.view.touch(self.recent, offset, size, write);
            }
            let traffic = if write { &mut self.stores } else { &mut self.loads };
            traffic.requests += 1;
            traffic.bytes += u64::from(size * mask.count_ones());
            traffic.sectors += sectors(addresses, mask);
        }
        Ok(pointers)
    }

    /// Where all lanes are in one allocation; `None` where not, or where something is amiss.
    #[inline(always)]
    fn resolve_together(&mut self, addresses: &[u64; LANES], mask: u32, size: u32, write: bool) -> Option<Pointers> {
        let addresses = present(addresses, mask);
        let (low, high, aligned) = span(&addresses, size);
        self.recent = self.find(low, size).filter(|_| aligned)?;
        let allocation = &self.view.allocations[self.recent];
        let (first, last) = (low - allocation.base, high - allocation.base);
        if last > allocation.size - u64::from(size) {
            return None;
        }
        let initialised = allocation.initialised();
        if self.device.sanitize
            && !(last - first < NEAR && initialised.all_of(first, last + u64::from(size)))
            && (write || !each(mask).all(|lane| initialised.all(addresses[lane] - allocation.base, size)))
        {
            if !write {
                return None;
            }
            initialised.set_all(each(mask).map(|lane| addresses[lane] - allocation.base), size);
        }
        Some(addresses.map(|address| allocation.at(address - allocation.base)))
    }

    #[inline(never)]
    fn resolve_each(&mut self, addresses: &[u64; LANES], mask: u32, size: u32, write: bool) -> Outcome<Pointers> {
        let mut pointers = [std::ptr::null_mut(); LANES];
        for lane in each(mask) {
            let address = addresses[lane];
            let (allocation, offset) = self.locate(lane, address, size, write)?;
            if self.device.sanitize {
                if write {
                    allocation.initialised().set(offset, size);
                } else if !allocation.initialised().all(offset, size) {
                    let kind = FaultKind::UninitialisedMemory { space: Space::Global, size };
                    return trouble(lane, kind, Some(address));
                }
            }
            pointers[lane] = allocation.at(offset);
        }
        let first = pointers[mask.trailing_zeros() as usize % LANES];
        Ok(std::array::from_fn(|lane| if mask >> lane & 1 != 0 { pointers[lane] } else { first }))
    }

    /// The allocation with an access, and its offset there; `recent` is its number.
    pub(crate) fn locate(
        &mut self,
        lane: usize,
        address: u64,
        size: u32,
        write: bool,
    ) -> Outcome<(&'a Allocation, u64)> {
        if address & u64::from(size - 1) != 0 {
            return trouble(lane, FaultKind::Misaligned { space: Space::Global, size }, Some(address));
        }
        match self.find(address, size) {
            Some(number) => {
                self.recent = number;
                let allocation = &self.view.allocations[number];
                Ok((allocation, address - allocation.base))
            }
            None => {
                let kind = FaultKind::OutOfBounds { space: Space::Global, size, write };
                trouble(lane, kind, Some(address))
            }
        }
    }

    /// The number of the allocation that has all of an access.
    #[inline(always)]
    fn find(&self, address: u64, size: u32) -> Option<usize> {
        let allocations = &self.view.allocations;
        let within = |at: &usize| {
            allocations.get(*at).is_some_and(|allocation| {
                let offset = address.wrapping_sub(allocation.base);
                offset < allocation.size && u64::from(size) <= allocation.size - offset
            })
        };
        Some(self.recent).filter(within).or_else(|| {
            let next = allocations.partition_point(|allocation| allocation.base <= address);
            next.checked_sub(1).filter(within)
        })
    }
}
