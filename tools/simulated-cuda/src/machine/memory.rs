//! The device's global memory.
//!
//! Allocations have 64-bit device addresses with guard gaps between them that are never given out, so that an access
//! outside of an allocation is always seen. Bytes are atomics: blocks run on several threads, and a kernel's races
//! must not become the simulator's.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

/// Where device addresses begin.
const BASE: u64 = 0x7_0000_0000;
/// Every allocation's alignment, as CUDA promises.
const ALIGN: u64 = 256;
/// Unused addresses between two allocations.
const GUARD: u64 = 1 << 20;
/// What fresh memory holds: NaNs, so that a use shows even without the sanitizer; only for so many bytes.
const POISON: u8 = 0xff;
const POISONED: u64 = 64 << 20;

/// Why the host's access to device memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// Not enough memory left.
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes free.
        free: u64,
    },
    /// Not within an allocation, or not the start of one where that is needed.
    InvalidAddress {
        /// The address.
        address: u64,
        /// Bytes of the access.
        bytes: u64,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { requested, free } => {
                write!(f, "out of memory: {requested} bytes asked for, {free} free")
            }
            Self::InvalidAddress { address, bytes } => write!(f, "{bytes} bytes at {address:#x}: no such allocation"),
        }
    }
}

impl std::error::Error for MemoryError {}

/// The device's memory. All methods take `&self`: it is shared between host threads.
pub struct Memory {
    capacity: u64,
    state: RwLock<State>,
}

struct State {
    allocations: BTreeMap<u64, Arc<Allocation>>,
    used: u64,
    next: u64,
}

/// Zeroed memory, aligned for every access.
struct Bytes {
    pointer: *mut u8,
    layout: Layout,
}

// SAFETY: the pointer is owned, and the memory is only used as atomics.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn zeroed(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1), ALIGN as usize).expect("allocation size");
        // SAFETY: the layout is not empty.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() {
            handle_alloc_error(layout);
        }
        Self { pointer, layout }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.pointer, self.layout) }
    }
}

/// One allocation.
pub(crate) struct Allocation {
    /// Device address.
    pub(crate) base: u64,
    /// Bytes.
    pub(crate) size: u64,
    data: Bytes,
    /// A bit per byte: whether anything wrote it.
    initialised: Bits,
    /// Memory of the host, at its own address: takes none of the device's.
    host: bool,
}

/// A bit per byte of an allocation.
pub(crate) struct Bits(Box<[AtomicU64]>);

impl Bits {
    pub(crate) fn new(bytes: u64) -> Self {
        Self((0..bytes.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Sets the bits of `bytes` (at most 64, not crossing a multiple of 64) at `offset`.
    #[inline(always)]
    pub(crate) fn set(&self, offset: u64, bytes: u32) {
        let (word, mask) = (&self.0[(offset / 64) as usize], mask(bytes) << (offset % 64));
        if word.load(Relaxed) & mask != mask {
            word.fetch_or(mask, Relaxed);
        }
    }

    /// Whether they are all set.
    #[inline(always)]
    pub(crate) fn all(&self, offset: u64, bytes: u32) -> bool {
        let mask = mask(bytes) << (offset % 64);
        self.0[(offset / 64) as usize].load(Relaxed) & mask == mask
    }

    /// Whether all from one offset to before another are set.
    pub(crate) fn all_of(&self, from: u64, to: u64) -> bool {
        let (first, last) = ((from / 64) as usize, (to.max(1) - 1) as usize / 64);
        (first..=last).all(|word| {
            let start = 64 * word as u64;
            let (low, high) = (from.max(start) - start, to.min(start + 64) - start);
            let wanted = mask((high - low) as u32) << low;
            self.0[word].load(Relaxed) & wanted == wanted
        })
    }

    /// Sets the bits of `bytes` at each offset, those of one word at once if they follow each other.
    pub(crate) fn set_all(&self, offsets: impl Iterator<Item = u64>, bytes: u32) {
        let (mut word, mut bits) = (0, 0);
        let set = |word: u64, bits: u64| {
            if bits != 0 && self.0[word as usize].load(Relaxed) & bits != bits {
                self.0[word as usize].fetch_or(bits, Relaxed);
            }
        };
        for offset in offsets {
            if offset / 64 != word {
                set(word, bits);
                (word, bits) = (offset / 64, 0);
            }
            bits |= mask(bytes) << (offset % 64);
        }
        set(word, bits);
    }

    fn get(&self, offset: u64) -> bool {
        self.all(offset, 1)
    }

    fn assign(&self, offset: u64, value: bool) {
        let (word, bit) = (&self.0[(offset / 64) as usize], 1 << (offset % 64));
        if value {
            word.fetch_or(bit, Relaxed)
        } else {
            word.fetch_and(!bit, Relaxed)
        };
    }

    fn set_range(&self, start: u64, bytes: u64) {
        let (mut at, end) = (start, start + bytes);
        while at < end {
            let step = (64 - at % 64).min(end - at);
            self.set(at, step as u32);
            at += step;
        }
    }

    /// How many are set.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.load(Relaxed).count_ones())).sum()
    }
}

#[inline(always)]
fn mask(bytes: u32) -> u64 {
    if bytes >= 64 { u64::MAX } else { (1 << bytes) - 1 }
}

impl Allocation {
    fn new(base: u64, size: u64) -> Self {
        let data = Bytes::zeroed(size as usize);
        let this = Self { base, size, data, initialised: Bits::new(size), host: false };
        if size <= POISONED {
            // SAFETY: nobody else has it yet.
            unsafe { this.data.pointer.write_bytes(POISON, size as usize) };
        }
        this
    }

    fn of_host(size: u64) -> Self {
        let data = Bytes::zeroed(size as usize);
        let initialised = Bits::new(size);
        // The host writes unseen.
        initialised.set_range(0, size);
        Self { base: data.pointer as u64, size, data, initialised, host: true }
    }

    /// The byte at an offset, which is below `size`, for an access that stays within: the start of an atomic of any
    /// width to whose alignment `offset` is.
    #[inline(always)]
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.size);
        self.data.pointer.wrapping_add(offset as usize)
    }

    #[inline(always)]
    pub(crate) fn initialised(&self) -> &Bits {
        &self.initialised
    }

    fn byte(&self, offset: u64) -> &AtomicU8 {
        assert!(offset < self.size);
        // SAFETY: within the allocation; the memory is only used as atomics.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }
}

impl Memory {
    /// Memory of `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        Self::starting_at(BASE, capacity)
    }

    /// Memory of `capacity` bytes whose addresses begin at a multiple of 256: several devices' are to differ.
    pub fn starting_at(base: u64, capacity: u64) -> Self {
        Self { capacity, state: RwLock::new(State { allocations: BTreeMap::new(), used: 0, next: base }) }
    }

    /// Allocates `size` bytes (at least one), aligned to 256, uninitialised.
    pub fn alloc(&self, size: u64) -> Result<u64, MemoryError> {
        let mut state = self.write_state();
        let free = self.capacity - state.used;
        let rounded = size.max(1).checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
        if rounded > free {
            return Err(MemoryError::OutOfMemory { requested: size, free });
        }
        let base = state.next;
        state.next += rounded + GUARD;
        state.used += rounded;
        state.allocations.insert(base, Arc::new(Allocation::new(base, size.max(1))));
        Ok(base)
    }

    /// Allocates host memory that kernels reach by the host's address; zeroed, and initialised for the sanitizer.
    pub fn alloc_host(&self, size: u64) -> u64 {
        let allocation = Allocation::of_host(size.max(1));
        let base = allocation.base;
        self.write_state().allocations.insert(base, Arc::new(allocation));
        base
    }

    /// Makes host memory of another device's reachable here too; each frees it by itself.
    pub fn share_host(&self, other: &Memory, address: u64) -> Result<(), MemoryError> {
        let (allocation, _) = other.find(address, 0)?;
        self.write_state().allocations.insert(allocation.base, allocation);
        Ok(())
    }

    /// Frees an allocation, given its first address.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut state = self.write_state();
        match state.allocations.remove(&address) {
            Some(allocation) => {
                if !allocation.host {
                    state.used -= allocation.size.next_multiple_of(ALIGN);
                }
                Ok(())
            }
            None => Err(MemoryError::InvalidAddress { address, bytes: 0 }),
        }
    }

    /// Reads bytes; those never written read as they are.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.find(address, to.len() as u64)?;
        for (i, byte) in to.iter_mut().enumerate() {
            *byte = allocation.byte(offset + i as u64).load(Relaxed);
        }
        Ok(())
    }

    /// Writes bytes.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        self.fill(address, from, 1)
    }

    /// Sets `bytes` bytes to `value`.
    pub fn set(&self, address: u64, value: u8, bytes: u64) -> Result<(), MemoryError> {
        self.fill(address, &[value], bytes)
    }

    /// Writes `pattern` `count` times in a row.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = (pattern.len() as u64).saturating_mul(count);
        let (allocation, offset) = self.find(address, bytes)?;
        let mut at = offset;
        for _ in 0..count {
            for &byte in pattern {
                allocation.byte(at).store(byte, Relaxed);
                at += 1;
            }
        }
        allocation.initialised.set_range(offset, bytes);
        Ok(())
    }

    /// Copies bytes within the device, with their being initialised or not. Ranges that overlap: as if through a copy.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        self.copy_between(to, self, from, bytes)
    }

    /// Copies bytes from another device's memory (or this one's).
    pub fn copy_between(&self, to: u64, other: &Memory, from: u64, bytes: u64) -> Result<(), MemoryError> {
        let (source, source_at) = other.find(from, bytes)?;
        let (target, target_at) = self.find(to, bytes)?;
        let copied: Vec<(u8, bool)> = (source_at..source_at + bytes)
            .map(|at| (source.byte(at).load(Relaxed), source.initialised.get(at)))
            .collect();
        for (at, (byte, initialised)) in (target_at..).zip(copied) {
            target.byte(at).store(byte, Relaxed);
            target.initialised.assign(at, initialised);
        }
        Ok(())
    }

    /// Whether all of a range was written.
    pub fn is_initialised(&self, address: u64, bytes: u64) -> Result<bool, MemoryError> {
        let (allocation, offset) = self.find(address, bytes)?;
        Ok((offset..offset + bytes).all(|at| allocation.initialised.get(at)))
    }

    /// The allocation that an address is in: its first address and its bytes.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.find(address, 1).ok().map(|(allocation, _)| (allocation.base, allocation.size))
    }

    /// Every allocation, by address: first address and bytes.
    pub fn allocations(&self) -> Vec<(u64, u64)> {
        self.snapshot().iter().map(|allocation| (allocation.base, allocation.size)).collect()
    }

    /// Bytes free and bytes in all.
    pub fn info(&self) -> (u64, u64) {
        (self.capacity - self.read_state().used, self.capacity)
    }

    /// The allocations as they are now, by address: what a launch sees.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Allocation>> {
        self.read_state().allocations.values().cloned().collect()
    }

    fn find(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let state = self.read_state();
        let found = state.allocations.range(..=address).next_back().map(|(_, allocation)| allocation);
        match found {
            Some(allocation)
                if address - allocation.base <= allocation.size
                    && bytes <= allocation.size - (address - allocation.base) =>
            {
                Ok((allocation.clone(), address - allocation.base))
            }
            _ => Err(MemoryError::InvalidAddress { address, bytes }),
        }
    }

    fn read_state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write_state(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
