//! Loads and stores.

use super::{
    Outcome,
    block::Block,
    code::*,
    each,
    element::{Pointers, read, write},
    registers::{ALL, LANES, blend},
    spread::{Sharing, lanes_at, offsets, present, sharing},
    trouble,
    vectorised::vectorised,
    warp::Warp,
};
use crate::{FaultKind, fault::Space};

/// An element as its register holds it.
#[inline(always)]
fn extend(value: u64, bytes: u32, signed: bool) -> u64 {
    if signed && bytes < 8 {
        let shift = 64 - 8 * bytes;
        ((value << shift) as i64 >> shift) as u64
    } else {
        value
    }
}

/// The space that a generic address is in, and its address there.
pub(crate) fn classify(address: u64) -> (AccessSpace, u64) {
    for (window, space) in
        [(SHARED_WINDOW, AccessSpace::Shared), (LOCAL_WINDOW, AccessSpace::Local), (PARAM_WINDOW, AccessSpace::Param)]
    {
        // A little before a window is a negative offset from it.
        if address.wrapping_sub(window).wrapping_add(WINDOW) < 2 * WINDOW {
            return (space, address.wrapping_sub(window));
        }
    }
    (AccessSpace::Global, address)
}

/// Splits the lanes of an access by space: generic addresses may be in several.
#[inline(always)]
pub(crate) fn split(
    space: AccessSpace,
    addresses: &[u64; LANES],
    mask: u32,
    mut f: impl FnMut(AccessSpace, &[u64; LANES], u32) -> Outcome,
) -> Outcome {
    if space != AccessSpace::Generic {
        return f(space, addresses, mask);
    }
    let mut left = mask;
    while left != 0 {
        let (space, _) = classify(addresses[left.trailing_zeros() as usize]);
        let lanes =
            each(left).filter(|&lane| classify(addresses[lane]).0 == space).fold(0, |bits, lane| bits | 1 << lane);
        let within = addresses.map(|address| classify(address).1);
        f(space, &within, lanes)?;
        left &= !lanes;
    }
    Ok(())
}

vectorised! {
    fn load(
        block: &mut Block,
        warp: &mut Warp,
        access: &Access,
        space: AccessSpace,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Outcome {
        let size = access.bytes * access.elements.len() as u32;
        match space {
            AccessSpace::Shared => {
                let pointers = block.shared_pointers(warp, access, addresses, mask, size, false)?;
                // SAFETY: checked to be so many bytes of shared memory.
                unsafe { fill::<false>(warp, access, mask, &pointers) };
            }
            AccessSpace::Local => {
                let pointers = block.local_pointers(warp, addresses, mask, size, false)?;
                // SAFETY: checked to be so many bytes of local memory.
                unsafe { fill::<false>(warp, access, mask, &pointers) };
            }
            AccessSpace::Param => {
                for lane in each(mask) {
                    let (address, bytes) = (addresses[lane], block.params.len() as u64);
                    check_range(lane, address, size, bytes, Space::Param, false)?;
                }
                let start = block.params.as_ptr().cast_mut();
                let pointers = present(addresses, mask).map(|address| start.wrapping_add(address as usize));
                // SAFETY: checked to be so many bytes of the parameters; only read.
                unsafe { fill::<false>(warp, access, mask, &pointers) };
            }
            _ => {
                let pointers = block.resolve(addresses, mask, size, false)?;
                // SAFETY: resolved to so many bytes, aligned.
                unsafe { fill::<true>(warp, access, mask, &pointers) };
            }
        }
        Ok(())
    }
}

vectorised! {
    fn store(
        block: &mut Block,
        warp: &mut Warp,
        access: &Access,
        space: AccessSpace,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Outcome {
        let size = access.bytes * access.elements.len() as u32;
        match space {
            AccessSpace::Shared => {
                let pointers = block.shared_pointers(warp, access, addresses, mask, size, true)?;
                // SAFETY: checked to be so many bytes of shared memory.
                unsafe { drain::<false>(warp, access, mask, &pointers) };
            }
            AccessSpace::Local => {
                let pointers = block.local_pointers(warp, addresses, mask, size, true)?;
                // SAFETY: checked to be so many bytes of local memory.
                unsafe { drain::<false>(warp, access, mask, &pointers) };
            }
            AccessSpace::Param => {
                let lane = mask.trailing_zeros() as usize;
                let kind = FaultKind::OutOfBounds { space: Space::Param, size, write: true };
                return trouble(lane, kind, Some(addresses[lane]));
            }
            _ => {
                let pointers = block.resolve(addresses, mask, size, true)?;
                // SAFETY: resolved to so many bytes, aligned.
                unsafe { drain::<true>(warp, access, mask, &pointers) };
            }
        }
        Ok(())
    }
}

impl Block<'_> {
    pub(crate) fn load(&mut self, warp: &mut Warp, access: &Access, mask: u32) -> Outcome {
        let addresses = warp.addresses(&access.address);
        split(access.space, &addresses, mask, |space, addresses, mask| load(self, warp, access, space, addresses, mask))
    }

    pub(crate) fn store(&mut self, warp: &mut Warp, access: &Access, mask: u32) -> Outcome {
        let addresses = warp.addresses(&access.address);
        split(access.space, &addresses, mask, |space, addresses, mask| {
            store(self, warp, access, space, addresses, mask)
        })
    }

    /// Checks a load or store of shared memory, and counts it: pointers, also for lanes that take no part.
    #[inline(always)]
    fn shared_pointers(
        &mut self,
        warp: &Warp,
        access: &Access,
        addresses: &[u64; LANES],
        mask: u32,
        size: u32,
        write: bool,
    ) -> Outcome<Pointers> {
        let offsets = self.shared_offsets(addresses, mask, size, write)?;
        if let Some(shadow) = &mut self.shadow {
            let sharing = sharing(&offsets, mask, size);
            if !write {
                shadow.load(warp.index, &offsets, mask, size, sharing)?;
            } else if sharing == Sharing::Distinct {
                shadow.store(warp.index, &offsets, mask, size)?;
            } else {
                let mask = without_copies(warp, access, &offsets, mask);
                shadow.store_each(warp.index, &offsets, mask, size)?;
            }
        }
        if self.device.profile {
            self.banks.count(addresses, mask, size, write);
        }
        let start = self.shared.as_mut_ptr();
        Ok(offsets.map(|offset| start.wrapping_add(offset as usize)))
    }

    /// Checks an access of shared memory by a matrix, and counts it: offsets, also for lanes that take no part.
    pub(crate) fn check_shared(
        &mut self,
        warp: &Warp,
        addresses: &[u64; LANES],
        mask: u32,
        size: u32,
        write: bool,
    ) -> Outcome<[u32; LANES]> {
        let offsets = self.shared_offsets(addresses, mask, size, write)?;
        if let Some(shadow) = &mut self.shadow {
            match sharing(&offsets, mask, size) {
                sharing if !write => shadow.load(warp.index, &offsets, mask, size, sharing)?,
                Sharing::Distinct => shadow.store(warp.index, &offsets, mask, size)?,
                _ => shadow.store_each(warp.index, &offsets, mask, size)?,
            }
        }
        if self.device.profile {
            self.banks.count(addresses, mask, size, write);
        }
        Ok(offsets)
    }

    /// Addresses as offsets in shared memory, where they are all within it and aligned.
    #[inline(always)]
    pub(crate) fn shared_offsets(
        &self,
        addresses: &[u64; LANES],
        mask: u32,
        size: u32,
        write: bool,
    ) -> Outcome<[u32; LANES]> {
        let bytes = self.shared.len();
        if let Some(offsets) = offsets(addresses, mask, size, bytes as u32) {
            return Ok(offsets);
        }
        each(mask)
            .try_for_each(|lane| check_range(lane, addresses[lane], size, bytes as u64, Space::Shared, write))
            .map(|()| unreachable!("some lane is outside or not aligned"))
    }

    /// Checks an access of local memory: pointers, also for lanes that take no part.
    fn local_pointers(
        &mut self,
        warp: &mut Warp,
        addresses: &[u64; LANES],
        mask: u32,
        size: u32,
        write: bool,
    ) -> Outcome<Pointers> {
        let bytes = u64::from(self.code.local_bytes);
        let mut base = [0; LANES];
        for lane in each(mask) {
            check_range(lane, addresses[lane], size, bytes, Space::Local, write)?;
            let at = lane * bytes as usize + addresses[lane] as usize;
            base[lane] = at as u64;
            let written = &mut warp.local_written[at..at + size as usize];
            if write {
                written.fill(true);
            } else if self.device.sanitize && !written.iter().all(|&byte| byte) {
                let kind = FaultKind::UninitialisedMemory { space: Space::Local, size };
                return trouble(lane, kind, Some(addresses[lane]));
            }
        }
        let start = warp.local.as_mut_ptr();
        Ok(present(&base, mask).map(|at| start.wrapping_add(at as usize)))
    }
}

/// Alignment, and that an access is within so many bytes.
#[inline(always)]
pub(crate) fn check_range(lane: usize, address: u64, size: u32, bytes: u64, space: Space, write: bool) -> Outcome {
    if address & u64::from(size - 1) != 0 {
        return trouble(lane, FaultKind::Misaligned { space, size }, Some(address));
    }
    if address >= bytes || u64::from(size) > bytes - address {
        return trouble(lane, FaultKind::OutOfBounds { space, size, write }, Some(address));
    }
    Ok(())
}

/// Reads an element of `BYTES` bytes, of the device's memory (`SHARED`) or of a block's own.
///
/// # Safety
/// The pointer is to so many bytes; of the device's memory they are of an allocation, and aligned.
#[inline(always)]
unsafe fn get<const SHARED: bool, const BYTES: u32>(pointer: *const u8) -> u64 {
    // SAFETY: as promised.
    unsafe {
        match BYTES {
            _ if SHARED => read(pointer.cast_mut(), BYTES),
            1 => pointer.read().into(),
            2 => pointer.cast::<u16>().read_unaligned().into(),
            4 => pointer.cast::<u32>().read_unaligned().into(),
            _ => pointer.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes an element of `BYTES` bytes.
///
/// # Safety
/// As for [`get`].
#[inline(always)]
unsafe fn put<const SHARED: bool, const BYTES: u32>(pointer: *mut u8, value: u64) {
    // SAFETY: as promised.
    unsafe {
        match BYTES {
            _ if SHARED => write(pointer, BYTES, value),
            1 => pointer.write(value as u8),
            2 => pointer.cast::<u16>().write_unaligned(value as u16),
            4 => pointer.cast::<u32>().write_unaligned(value as u32),
            _ => pointer.cast::<u64>().write_unaligned(value),
        }
    }
}

/// Puts what lanes' pointers are to into registers.
///
/// # Safety
/// All pointers are to the bytes of the access; of the device's memory (`SHARED`) they are aligned to its elements.
#[inline(always)]
unsafe fn fill<const SHARED: bool>(warp: &mut Warp, access: &Access, mask: u32, pointers: &Pointers) {
    // SAFETY: as promised.
    unsafe {
        match access.bytes {
            1 => fill_by::<SHARED, 1>(warp, access, mask, pointers),
            2 => fill_by::<SHARED, 2>(warp, access, mask, pointers),
            4 => fill_by::<SHARED, 4>(warp, access, mask, pointers),
            _ => fill_by::<SHARED, 8>(warp, access, mask, pointers),
        }
    }
}

/// # Safety
/// As for [`fill`].
#[inline(always)]
unsafe fn fill_by<const SHARED: bool, const BYTES: u32>(
    warp: &mut Warp,
    access: &Access,
    mask: u32,
    pointers: &Pointers,
) {
    for (number, element) in access.elements.iter().enumerate() {
        let at = number * BYTES as usize;
        // SAFETY: as promised.
        let get = |pointer: *mut u8| unsafe { get::<SHARED, BYTES>(pointer.wrapping_add(at)) };
        match *element {
            Destination::R(slot, 32) if BYTES == 4 => {
                let to = &mut warp.registers.r[slot as usize].0;
                if mask == ALL {
                    to.iter_mut().zip(pointers).for_each(|(to, &pointer)| *to = get(pointer) as u32);
                } else {
                    blend(to, &pointers.map(|pointer| get(pointer) as u32), mask);
                }
            }
            Destination::R(slot, bits) => {
                let keep = if bits == 32 { u32::MAX } else { (1 << bits) - 1 };
                let values = pointers.map(|pointer| extend(get(pointer), BYTES, access.signed) as u32 & keep);
                blend(&mut warp.registers.r[slot as usize].0, &values, mask);
            }
            Destination::D(slot) => {
                let values = pointers.map(|pointer| extend(get(pointer), BYTES, access.signed));
                blend(&mut warp.registers.d[slot as usize].0, &values, mask);
            }
            Destination::Sink => {}
        }
    }
}

/// The lanes of a store but those that write the same value to the same place as another: no race.
fn without_copies(warp: &Warp, access: &Access, offsets: &[u32; LANES], mask: u32) -> u32 {
    let same = |a: usize, b: usize| {
        access.elements.iter().all(|element| match *element {
            Destination::R(slot, _) => {
                let values = &warp.registers.r[slot as usize].0;
                values[a] == values[b]
            }
            Destination::D(slot) => {
                let values = &warp.registers.d[slot as usize].0;
                values[a] == values[b]
            }
            Destination::Sink => true,
        })
    };
    let copy = |lane: &usize| {
        let before = lanes_at(offsets, offsets[*lane]) & mask & ((1 << lane) - 1);
        each(before).any(|other| same(other, *lane))
    };
    mask & !each(mask).filter(copy).fold(0, |bits, lane| bits | 1 << lane)
}

/// Puts registers where lanes' pointers are to.
///
/// # Safety
/// As for [`fill`]; what is not the device's may be written.
#[inline(always)]
unsafe fn drain<const SHARED: bool>(warp: &Warp, access: &Access, mask: u32, pointers: &Pointers) {
    // SAFETY: as promised.
    unsafe {
        match access.bytes {
            1 => drain_by::<SHARED, 1>(warp, access, mask, pointers),
            2 => drain_by::<SHARED, 2>(warp, access, mask, pointers),
            4 => drain_by::<SHARED, 4>(warp, access, mask, pointers),
            _ => drain_by::<SHARED, 8>(warp, access, mask, pointers),
        }
    }
}

/// # Safety
/// As for [`drain`].
#[inline(always)]
unsafe fn drain_by<const SHARED: bool, const BYTES: u32>(warp: &Warp, access: &Access, mask: u32, pointers: &Pointers) {
    for (number, element) in access.elements.iter().enumerate() {
        let at = number * BYTES as usize;
        let put = |lane: usize, value: u64| {
            if mask >> lane & 1 != 0 {
                // SAFETY: as promised.
                unsafe { put::<SHARED, BYTES>(pointers[lane].wrapping_add(at), value) };
            }
        };
        match *element {
            Destination::R(slot, _) => {
                let values = &warp.registers.r[slot as usize].0;
                (0..LANES).for_each(|lane| put(lane, values[lane].into()));
            }
            Destination::D(slot) => {
                let values = &warp.registers.d[slot as usize].0;
                (0..LANES).for_each(|lane| put(lane, values[lane]));
            }
            Destination::Sink => (0..LANES).for_each(|lane| put(lane, 0)),
        }
    }
}
