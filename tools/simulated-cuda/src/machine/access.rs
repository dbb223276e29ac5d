//! Loads and stores.

use super::{
    Outcome,
    block::Block,
    code::*,
    each,
    memory::Allocation,
    registers::{ALL, LANES},
    trouble,
    warp::Warp,
};
use crate::{FaultKind, fault::Space};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Pointers of lanes into the device's memory.
pub(crate) type Pointers = [*mut u8; LANES];

/// Reads an element of 1, 2, 4 or 8 bytes.
///
/// # Safety
/// The pointer is to so many bytes of an allocation, aligned to their number.
#[inline(always)]
pub(crate) unsafe fn read(pointer: *mut u8, bytes: u32) -> u64 {
    // SAFETY: as promised; all accesses are atomic.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(pointer).load(Relaxed).into(),
            2 => AtomicU16::from_ptr(pointer.cast()).load(Relaxed).into(),
            4 => AtomicU32::from_ptr(pointer.cast()).load(Relaxed).into(),
            _ => AtomicU64::from_ptr(pointer.cast()).load(Relaxed),
        }
    }
}

/// Writes an element of 1, 2, 4 or 8 bytes.
///
/// # Safety
/// As for [`read`].
#[inline(always)]
pub(crate) unsafe fn write(pointer: *mut u8, bytes: u32, value: u64) {
    // SAFETY: as promised; all accesses are atomic.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(pointer).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(pointer.cast()).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(pointer.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(pointer.cast()).store(value, Relaxed),
        }
    }
}

#[inline(always)]
pub(crate) fn read_slice(bytes: &[u8], at: usize, size: u32) -> u64 {
    match size {
        1 => bytes[at].into(),
        2 => u16::from_le_bytes([bytes[at], bytes[at + 1]]).into(),
        4 => u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default()).into(),
        _ => u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default()),
    }
}

#[inline(always)]
pub(crate) fn write_slice(bytes: &mut [u8], at: usize, size: u32, value: u64) {
    match size {
        1 => bytes[at] = value as u8,
        2 => bytes[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes()),
        4 => bytes[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
        _ => bytes[at..at + 8].copy_from_slice(&value.to_le_bytes()),
    }
}

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

impl<'a> Block<'a> {
    pub(crate) fn load(&mut self, warp: &mut Warp, access: &Access, mask: u32) -> Outcome {
        let addresses = warp.addresses(&access.address);
        split(access.space, &addresses, mask, |space, addresses, mask| {
            let size = access.bytes * access.elements.len() as u32;
            match space {
                AccessSpace::Shared => {
                    self.check_shared(warp, addresses, mask, size, false)?;
                    let shared = &self.shared;
                    fill(warp, access, mask, |lane, at| {
                        read_slice(shared, addresses[lane] as usize + at as usize, access.bytes)
                    });
                }
                AccessSpace::Local => {
                    let base = self.check_local(warp, addresses, mask, size, false)?;
                    let local = std::mem::take(&mut warp.local);
                    fill(warp, access, mask, |lane, at| read_slice(&local, base[lane] + at as usize, access.bytes));
                    warp.local = local;
                }
                AccessSpace::Param => {
                    for lane in each(mask) {
                        let (address, bytes) = (addresses[lane], self.params.len() as u64);
                        check_range(lane, address, size, bytes, Space::Param, false)?;
                    }
                    let params = self.params;
                    fill(warp, access, mask, |lane, at| {
                        read_slice(params, addresses[lane] as usize + at as usize, access.bytes)
                    });
                }
                _ => {
                    let pointers = self.resolve(addresses, mask, size, false)?;
                    // SAFETY: resolved to so many bytes, aligned.
                    fill(warp, access, mask, |lane, at| unsafe {
                        read(pointers[lane].wrapping_add(at as usize), access.bytes)
                    });
                }
            }
            Ok(())
        })
    }

    pub(crate) fn store(&mut self, warp: &mut Warp, access: &Access, mask: u32) -> Outcome {
        let addresses = warp.addresses(&access.address);
        split(access.space, &addresses, mask, |space, addresses, mask| {
            let size = access.bytes * access.elements.len() as u32;
            match space {
                AccessSpace::Shared => {
                    let distinct =
                        if self.shadow.is_some() { without_copies(warp, access, addresses, mask) } else { mask };
                    self.check_ranges(addresses, mask, size, true)?;
                    self.watch_shared(warp, addresses, (mask, distinct), size, true)?;
                    let shared = &mut self.shared;
                    drain(warp, access, mask, |lane, at, value| {
                        write_slice(shared, addresses[lane] as usize + at as usize, access.bytes, value)
                    });
                }
                AccessSpace::Local => {
                    let base = self.check_local(warp, addresses, mask, size, true)?;
                    let mut local = std::mem::take(&mut warp.local);
                    drain(warp, access, mask, |lane, at, value| {
                        write_slice(&mut local, base[lane] + at as usize, access.bytes, value)
                    });
                    warp.local = local;
                }
                AccessSpace::Param => {
                    let lane = mask.trailing_zeros() as usize;
                    let kind = FaultKind::OutOfBounds { space: Space::Param, size, write: true };
                    return trouble(lane, kind, Some(addresses[lane]));
                }
                _ => {
                    let pointers = self.resolve(addresses, mask, size, true)?;
                    // SAFETY: resolved to so many bytes, aligned.
                    drain(warp, access, mask, |lane, at, value| unsafe {
                        write(pointers[lane].wrapping_add(at as usize), access.bytes, value)
                    });
                }
            }
            Ok(())
        })
    }

    /// Checks an access of global memory, and counts it.
    pub(crate) fn resolve(&mut self, addresses: &[u64; LANES], mask: u32, size: u32, write: bool) -> Outcome<Pointers> {
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
            if self.device.profile {
                self.view.touch(self.recent, offset, size, write);
            }
            pointers[lane] = allocation.at(offset);
        }
        if self.device.profile {
            let traffic = if write { &mut self.stores } else { &mut self.loads };
            traffic.requests += 1;
            traffic.bytes += u64::from(size * mask.count_ones());
            traffic.sectors += sectors(addresses, mask);
        }
        Ok(pointers)
    }

    /// The allocation with an access, and its offset there; `recent` is its number.
    #[inline(always)]
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
        let view = self.view;
        let within = |allocation: &Allocation| {
            let offset = address.wrapping_sub(allocation.base);
            offset < allocation.size && u64::from(size) <= allocation.size - offset
        };
        if !view.allocations.get(self.recent).is_some_and(|allocation| within(allocation)) {
            let next = view.allocations.partition_point(|allocation| allocation.base <= address);
            match next.checked_sub(1).filter(|&at| within(&view.allocations[at])) {
                Some(at) => self.recent = at,
                None => {
                    let kind = FaultKind::OutOfBounds { space: Space::Global, size, write };
                    return trouble(lane, kind, Some(address));
                }
            }
        }
        let allocation = &view.allocations[self.recent];
        Ok((allocation, address - allocation.base))
    }

    /// Checks an access of shared memory, and counts it.
    pub(crate) fn check_shared(
        &mut self,
        warp: &Warp,
        addresses: &[u64; LANES],
        mask: u32,
        size: u32,
        write: bool,
    ) -> Outcome {
        self.check_ranges(addresses, mask, size, write)?;
        self.watch_shared(warp, addresses, (mask, mask), size, write)
    }

    fn check_ranges(&self, addresses: &[u64; LANES], mask: u32, size: u32, write: bool) -> Outcome {
        let bytes = self.shared.len() as u64;
        each(mask).try_for_each(|lane| check_range(lane, addresses[lane], size, bytes, Space::Shared, write))
    }

    /// Looks for races, and counts: of the lanes in the second mask, and in the first.
    fn watch_shared(
        &mut self,
        warp: &Warp,
        addresses: &[u64; LANES],
        (mask, watched): (u32, u32),
        size: u32,
        write: bool,
    ) -> Outcome {
        if let Some(shadow) = &mut self.shadow {
            shadow.access_all(warp.index, addresses, watched, size, write)?;
        }
        if self.device.profile {
            self.banks.count(addresses, mask, size, write);
        }
        Ok(())
    }

    /// Checks an access of local memory; where each lane's bytes are.
    fn check_local(
        &mut self,
        warp: &mut Warp,
        addresses: &[u64; LANES],
        mask: u32,
        size: u32,
        write: bool,
    ) -> Outcome<[usize; LANES]> {
        let bytes = u64::from(self.code.local_bytes);
        let mut base = [0; LANES];
        for lane in each(mask) {
            check_range(lane, addresses[lane], size, bytes, Space::Local, write)?;
            base[lane] = lane * bytes as usize + addresses[lane] as usize;
            let written = &mut warp.local_written[base[lane]..base[lane] + size as usize];
            if write {
                written.fill(true);
            } else if self.device.sanitize && !written.iter().all(|&byte| byte) {
                let kind = FaultKind::UninitialisedMemory { space: Space::Local, size };
                return trouble(lane, kind, Some(addresses[lane]));
            }
        }
        Ok(base)
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

/// Distinct 32-byte sectors; no access crosses one.
pub(crate) fn sectors(addresses: &[u64; LANES], mask: u32) -> u64 {
    let (mut count, mut last) = (0, u64::MAX);
    for lane in each(mask) {
        let sector = addresses[lane] >> 5;
        if sector == last {
            continue;
        }
        if last != u64::MAX && sector < last {
            let mut all: Vec<u64> = each(mask).map(|lane| addresses[lane] >> 5).collect();
            all.sort_unstable();
            all.dedup();
            return all.len() as u64;
        }
        last = sector;
        count += 1;
    }
    count
}

/// Puts what was read into registers.
#[inline(always)]
fn fill(warp: &mut Warp, access: &Access, mask: u32, get: impl Fn(usize, u32) -> u64) {
    for (number, element) in access.elements.iter().enumerate() {
        let at = number as u32 * access.bytes;
        match *element {
            Destination::R(slot, 32) if access.bytes == 4 => {
                let to = &mut warp.registers.r[slot as usize].0;
                if mask == ALL {
                    for (lane, to) in to.iter_mut().enumerate() {
                        *to = get(lane, at) as u32;
                    }
                    continue;
                }
                for lane in each(mask) {
                    to[lane] = get(lane, at) as u32;
                }
            }
            Destination::R(slot, bits) => {
                let keep = if bits == 32 { u32::MAX } else { (1 << bits) - 1 };
                let to = &mut warp.registers.r[slot as usize].0;
                for lane in each(mask) {
                    to[lane] = extend(get(lane, at), access.bytes, access.signed) as u32 & keep;
                }
            }
            Destination::D(slot) => {
                let to = &mut warp.registers.d[slot as usize].0;
                for lane in each(mask) {
                    to[lane] = extend(get(lane, at), access.bytes, access.signed);
                }
            }
            Destination::Sink => {}
        }
    }
}

/// The lanes of a store but those that write the same value to the same place as another: no race.
fn without_copies(warp: &Warp, access: &Access, addresses: &[u64; LANES], mask: u32) -> u32 {
    let mut last = None;
    if each(mask).all(|lane| last.replace(addresses[lane]).is_none_or(|before| before < addresses[lane])) {
        return mask;
    }
    let same = |a: usize, b: usize| {
        addresses[a] == addresses[b]
            && access.elements.iter().all(|element| match *element {
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
    let copy = |lane: &usize| each(mask & ((1 << lane) - 1)).any(|other| same(other, *lane));
    mask & !each(mask).filter(copy).fold(0, |bits, lane| bits | 1 << lane)
}

/// Takes what is written from registers.
#[inline(always)]
fn drain(warp: &Warp, access: &Access, mask: u32, mut put: impl FnMut(usize, u32, u64)) {
    for lane in each(mask) {
        for (number, element) in access.elements.iter().enumerate() {
            let value = match *element {
                Destination::R(slot, _) => u64::from(warp.registers.r[slot as usize].0[lane]),
                Destination::D(slot) => warp.registers.d[slot as usize].0[lane],
                Destination::Sink => 0,
            };
            put(lane, number as u32 * access.bytes, value);
        }
    }
}
