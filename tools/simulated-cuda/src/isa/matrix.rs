//! Tensor cores.

use super::*;

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, _opcode: &str, _m: &Modifiers, _i: &Source) -> Result<Option<Op>> {
        Ok(None)
    }
}
