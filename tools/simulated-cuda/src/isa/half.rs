//! f16 and bf16 arithmetic, alone and in pairs.

use super::{number::*, rounding::flush, *};

/// An element as an f32: exact.
#[inline(always)]
pub(super) fn widen(x: u16, bf16: bool, ftz: bool) -> f32 {
    if bf16 {
        bf16_to_f32(x)
    } else if ftz && x & 0x7c00 == 0 {
        f16_to_f32(x & 0x8000)
    } else {
        f16_to_f32(x)
    }
}

impl Decoder<'_> {
    pub(super) fn half(&mut self, _opcode: &str, _m: &Modifiers, _i: &Source) -> Result<Option<Lanewise>> {
        let _ = flush;
        Ok(None)
    }
}
