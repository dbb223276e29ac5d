//! Elements in memory: the device's, which is used as atomics only, and a block's own.

use super::registers::LANES;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Pointers of lanes.
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
