//! Each thread's scratch memory: it grows to the largest call seen and is reused, so that a call repeated allocates nothing.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ptr::NonNull;

use crate::{Error, Result};

/// Page-aligned: panels start on cache lines and, where it helps, on pages of their own.
const ALIGN: usize = 4096;

struct Buffer {
    ptr: NonNull<u8>,
    layout: Layout,
}

impl Buffer {
    /// Zeroed, so that reading any part of it as numbers is defined.
    fn new(bytes: usize) -> Result<Buffer> {
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| Error::TooLarge { what: "scratch" })?;
        // SAFETY: the layout's size is not zero: `with` asks for at least one page.
        let ptr = unsafe { alloc_zeroed(layout) };
        Ok(Buffer { ptr: NonNull::new(ptr).ok_or(Error::OutOfMemory { bytes })?, layout })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

thread_local! {
    /// One buffer for a call, one for a task that the same thread runs inside it; before these, what grouped layers gather, and more
    /// where a task makes calls.
    static BUFFERS: [Cell<Option<Buffer>>; 6] = const { [const { Cell::new(None) }; 6] };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Leaves a level of nesting, on unwinding too.
struct Level(usize);

impl Level {
    fn enter() -> Level {
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        Level(depth)
    }

    /// This level's buffer. Deeper levels than there are slots make their own.
    fn take(&self) -> Option<Buffer> {
        BUFFERS.with(|slots| slots.get(self.0).and_then(Cell::take))
    }

    fn keep(&self, buffer: Buffer) {
        BUFFERS.with(|slots| {
            if let Some(slot) = slots.get(self.0) {
                slot.set(Some(buffer));
            }
        });
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.set(self.0);
    }
}

/// Calls `f` with one array of each of the lengths, in elements of `A` (f32 or f64). Their contents are whatever earlier calls left.
pub(crate) fn with<A, const P: usize, R>(lengths: [usize; P], f: impl FnOnce([*mut A; P]) -> Result<R>) -> Result<R> {
    let too_large = Error::TooLarge { what: "scratch" };
    let mut offsets = [0usize; P];
    let mut bytes = 0usize;
    for (offset, len) in offsets.iter_mut().zip(lengths) {
        *offset = bytes;
        let part = len.checked_mul(size_of::<A>()).and_then(|part| part.checked_next_multiple_of(128));
        bytes = part.and_then(|part| part.checked_add(bytes)).ok_or(too_large.clone())?;
    }
    let bytes = bytes.checked_next_multiple_of(ALIGN).ok_or(too_large)?.max(ALIGN);
    let level = Level::enter();
    let buffer = match level.take().filter(|buffer| buffer.layout.size() >= bytes) {
        Some(buffer) => buffer,
        None => Buffer::new(bytes)?,
    };
    let base = buffer.ptr.as_ptr();
    // SAFETY: every offset is within the buffer.
    let result = f(offsets.map(|offset| unsafe { base.add(offset) }.cast()));
    level.keep(buffer);
    result
}

/// Bytes that `with` takes for these lengths.
pub(crate) fn bytes<A>(lengths: &[usize]) -> usize {
    let part = |len: &usize| len.saturating_mul(size_of::<A>()).checked_next_multiple_of(128).unwrap_or(usize::MAX);
    let all = lengths.iter().map(part).fold(0, usize::saturating_add);
    all.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX).max(ALIGN)
}
