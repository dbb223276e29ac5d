//! What crosses the C interface: pointers as types that check for null, so that the functions themselves are safe
//! Rust.
//!
//! Each type here holds a pointer that a C caller passed. What no callee can check (that it points to memory of the
//! size that the manual names, for as long as the manual says) is the caller's part of the interface, as with any C
//! library; everything else is checked.

use super::result::{self, CUresult, Result};
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A context, stream, module…: a number that is looked up and never dereferenced.
pub(super) type Handle = usize;

/// An address in device memory.
pub(super) type CUdeviceptr = u64;

/// Runs the body of an interface function; a panic in it becomes `ERROR_UNKNOWN`.
pub(super) fn guard(body: impl FnOnce() -> Result) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => result::SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => result::ERROR_UNKNOWN,
    }
}

/// Where a result goes.
#[repr(transparent)]
pub(super) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T: Copy> Out<T> {
    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// `INVALID_VALUE` for null.
    pub(super) fn check(self) -> Result {
        if self.0.is_null() { Err(result::ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    pub(super) fn set(self, value: T) -> Result {
        self.check()?;
        // SAFETY: not null; valid for a write by the interface. C promises the alignment, but nothing needs it here.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// What stands there, for what is read as well as written.
    pub(super) fn read(self) -> Result<T> {
        self.check()?;
        // SAFETY: as in `set`.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// For a result that the caller may leave out.
    pub(super) fn set_if_asked(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `set`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Element `i` of an array of results.
    pub(super) fn at(self, i: usize) -> Self {
        Self(self.0.wrapping_add(i))
    }

    pub(super) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// The address, for what is read as well as written.
    pub(super) fn address(self) -> usize {
        self.0 as usize
    }
}

impl Out<c_char> {
    /// A text of at most `room` bytes, its NUL among them; what does not fit is cut.
    pub(super) fn set_text(self, text: &str, room: usize) -> Result {
        self.check()?;
        if room == 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let length = text.len().min(room - 1);
        for (i, &byte) in text.as_bytes()[..length].iter().chain(&[0]).enumerate() {
            self.at(i).set(byte as c_char)?;
        }
        Ok(())
    }
}

/// Where an argument is read from.
#[repr(transparent)]
pub(super) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    pub(super) fn get(self) -> Result<T> {
        self.at(0)
    }

    /// Element `i` of an array.
    pub(super) fn at(self, i: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(result::ERROR_INVALID_VALUE);
        }
        // SAFETY: not null; an array of more than `i` elements by the interface.
        Ok(unsafe { self.0.add(i).read_unaligned() })
    }
}

impl<T> In<T> {
    pub(super) fn from_address(address: usize) -> Self {
        Self(address as *const T)
    }

    pub(super) fn address(self) -> usize {
        self.0 as usize
    }

    pub(super) fn is_null(self) -> bool {
        self.0.is_null()
    }
}

impl In<c_void> {
    pub(super) fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }
}

/// A NUL-terminated string.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Text(*const c_char);

impl Text {
    pub(super) fn get(&self) -> Result<&str> {
        if self.0.is_null() {
            return Err(result::ERROR_INVALID_VALUE);
        }
        // SAFETY: not null; a NUL-terminated string by the interface, which lives as long as the call.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| result::ERROR_INVALID_VALUE)
    }
}

impl From<In<c_void>> for Text {
    fn from(text: In<c_void>) -> Self {
        Self(text.0.cast())
    }
}

/// Host memory, `bytes` from `address`, which a copy reads.
///
/// # Safety
/// It is readable and not written meanwhile.
pub(super) unsafe fn host_bytes<'a>(address: usize, bytes: usize) -> &'a [u8] {
    if bytes == 0 {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }
}

/// Host memory that a copy writes.
///
/// # Safety
/// It is writable and used by no one else meanwhile.
pub(super) unsafe fn host_bytes_mut<'a>(address: usize, bytes: usize) -> &'a mut [u8] {
    if bytes == 0 {
        return &mut [];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts_mut(address as *mut u8, bytes) }
}
