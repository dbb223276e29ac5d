//! Integer arithmetic.

use super::*;
use crate::machine::registers::{LANES, Registers, blend};

/// One closure for each of some types, by the instruction's.
macro_rules! widths {
    (@one $self:ident, $form:ident, $i:ident, $t:ty, |$($a:ident),*| $body:expr) => {
        $self.$form($i, |$($a: $t),*| $body)
    };
    ($self:ident, $form:ident, $i:ident, $kind:ident, [$($type:pat => $t:ty),*], $f:tt) => {
        match $kind {
            $($type => widths!(@group $self, $form, $i, $t, $f),)*
            _ => Ok(None),
        }
    };
    (@group $self:ident, $form:ident, $i:ident, $t:ty, {$($f:tt)*}) => {
        widths!(@one $self, $form, $i, $t, $($f)*)
    };
}

/// A closure for every width, wrapping.
macro_rules! unsigned {
    ($self:ident, $form:ident, $i:ident, $kind:ident, $f:tt) => {
        widths!($self, $form, $i, $kind, [
            Type::U16 | Type::S16 | Type::B16 => u16,
            Type::U32 | Type::S32 | Type::B32 => u32,
            Type::U64 | Type::S64 | Type::B64 => u64
        ], $f)
    };
}

/// A closure for every width, signed and not.
macro_rules! by_sign {
    ($self:ident, $form:ident, $i:ident, $kind:ident, $f:tt) => {
        widths!($self, $form, $i, $kind, [
            Type::U16 => u16, Type::U32 => u32, Type::U64 => u64,
            Type::S16 => i16, Type::S32 => i32, Type::S64 => i64
        ], $f)
    };
}

impl Decoder<'_> {
    pub(super) fn integer(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Lanewise>> {
        let types = m.types();
        let Some(&kind) = types.last() else { return Ok(None) };
        match (opcode, m.0.first().copied()) {
            ("add" | "sub" | "addc" | "subc" | "mad" | "madc", _)
                if m.has("cc") || matches!(opcode, "addc" | "subc" | "madc") =>
            {
                self.with_carry(opcode, m, i, kind)
            }
            ("add", _) if m.has("sat") => self.binary(i, |a: i32, b: i32| a.saturating_add(b)),
            ("sub", _) if m.has("sat") => self.binary(i, |a: i32, b: i32| a.saturating_sub(b)),
            ("mad", Some("hi")) if m.has("sat") => {
                self.ternary(i, |a: i32, b: i32, c: i32| c.saturating_add(((i64::from(a) * i64::from(b)) >> 32) as i32))
            }
            ("add", _) => match kind {
                // u16x2, s16x2 are not types of registers.
                _ if i.opcode.ends_with("16x2") => Ok(None),
                _ => unsigned!(self, binary, i, kind, { |a, b| a.wrapping_add(b) }),
            },
            ("sub", _) => unsigned!(self, binary, i, kind, { |a, b| a.wrapping_sub(b) }),
            ("mul", Some("lo")) => unsigned!(self, binary, i, kind, { |a, b| a.wrapping_mul(b) }),
            ("mul", Some("hi")) => match kind {
                Type::U16 => self.binary(i, |a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
                Type::S16 => self.binary(i, |a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
                Type::U32 => self.binary(i, |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
                Type::S32 => self.binary(i, |a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
                Type::U64 => self.binary(i, |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
                Type::S64 => self.binary(i, |a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
                _ => Ok(None),
            },
            ("mul", Some("wide")) => match kind {
                Type::U16 => self.binary(i, |a: u16, b: u16| u32::from(a) * u32::from(b)),
                Type::S16 => self.binary(i, |a: i16, b: i16| i32::from(a) * i32::from(b)),
                Type::U32 => self.binary(i, |a: u32, b: u32| u64::from(a) * u64::from(b)),
                Type::S32 => self.binary(i, |a: i32, b: i32| i64::from(a) * i64::from(b)),
                _ => Ok(None),
            },
            ("mad", Some("lo")) => {
                unsigned!(self, ternary, i, kind, { |a, b, c| a.wrapping_mul(b).wrapping_add(c) })
            }
            ("mad", Some("hi")) => match kind {
                Type::U32 => self.ternary(i, |a: u32, b: u32, c: u32| {
                    (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
                }),
                Type::S32 => self.ternary(i, |a: i32, b: i32, c: i32| {
                    (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)
                }),
                Type::U64 => self.ternary(i, |a: u64, b: u64, c: u64| {
                    (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)
                }),
                Type::S64 => self.ternary(i, |a: i64, b: i64, c: i64| {
                    (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)
                }),
                Type::U16 => self.ternary(i, |a: u16, b: u16, c: u16| {
                    (((u32::from(a) * u32::from(b)) >> 16) as u16).wrapping_add(c)
                }),
                Type::S16 => self.ternary(i, |a: i16, b: i16, c: i16| {
                    (((i32::from(a) * i32::from(b)) >> 16) as i16).wrapping_add(c)
                }),
                _ => Ok(None),
            },
            ("mad", Some("wide")) => match kind {
                Type::U16 => self.ternary(i, |a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
                Type::S16 => self.ternary(i, |a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
                Type::U32 => self.ternary(i, |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
                Type::S32 => self.ternary(i, |a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
                _ => Ok(None),
            },
            ("mul24" | "mad24", Some(half)) => self.low24(opcode, half, kind, i),
            // The quotient of a division by zero is unspecified; hardware gives all ones.
            ("div", _) => match kind {
                Type::U16 => self.binary(i, |a: u16, b: u16| a.checked_div(b).unwrap_or(u16::MAX)),
                Type::U32 => self.binary(i, |a: u32, b: u32| a.checked_div(b).unwrap_or(u32::MAX)),
                Type::U64 => self.binary(i, |a: u64, b: u64| a.checked_div(b).unwrap_or(u64::MAX)),
                Type::S16 => self.binary(i, |a: i16, b: i16| if b == 0 { -1 } else { a.wrapping_div(b) }),
                Type::S32 => self.binary(i, |a: i32, b: i32| if b == 0 { -1 } else { a.wrapping_div(b) }),
                Type::S64 => self.binary(i, |a: i64, b: i64| if b == 0 { -1 } else { a.wrapping_div(b) }),
                _ => Ok(None),
            },
            ("rem", _) => by_sign!(self, binary, i, kind, { |a, b| if b == 0 { a } else { a.wrapping_rem(b) } }),
            ("neg", _) => unsigned!(self, unary, i, kind, { |a| a.wrapping_neg() }),
            ("abs", _) => {
                widths!(self, unary, i, kind, [Type::S16 => i16, Type::S32 => i32, Type::S64 => i64], {|a| a.wrapping_abs()})
            }
            ("min", _) => match kind {
                Type::S32 if m.has("relu") => self.binary(i, |a: i32, b: i32| a.min(b).max(0)),
                _ => by_sign!(self, binary, i, kind, { |a, b| a.min(b) }),
            },
            ("max", _) => match kind {
                Type::S32 if m.has("relu") => self.binary(i, |a: i32, b: i32| a.max(b).max(0)),
                _ => by_sign!(self, binary, i, kind, { |a, b| a.max(b) }),
            },
            ("sad", _) => match kind {
                Type::U32 => self.ternary(i, |a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b))),
                Type::S32 => self.ternary(i, |a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b))),
                Type::U16 => self.ternary(i, |a: u16, b: u16, c: u16| c.wrapping_add(a.abs_diff(b))),
                Type::S16 => self.ternary(i, |a: i16, b: i16, c: u16| c.wrapping_add(a.abs_diff(b))),
                Type::U64 => self.ternary(i, |a: u64, b: u64, c: u64| c.wrapping_add(a.abs_diff(b))),
                Type::S64 => self.ternary(i, |a: i64, b: i64, c: u64| c.wrapping_add(a.abs_diff(b))),
                _ => Ok(None),
            },
            ("dp4a" | "dp2a", _) => self.dot(opcode, m, i, &types),
            _ => Ok(None),
        }
    }

    fn low24(&mut self, opcode: &str, half: &str, kind: Type, i: &Source) -> Result<Option<Lanewise>> {
        let (shift, signed) = (if half == "hi" { 16 } else { 0 }, kind.signed());
        let product = move |a: u32, b: u32| {
            let part = |x: u32| if signed { i64::from((x << 8) as i32 >> 8) } else { i64::from(x & 0xff_ffff) };
            (part(a).wrapping_mul(part(b)) >> shift) as u32
        };
        match opcode {
            "mul24" => self.binary(i, product),
            _ => self.ternary(i, move |a: u32, b: u32, c: u32| product(a, b).wrapping_add(c)),
        }
    }

    fn dot(&mut self, opcode: &str, m: &Modifiers, i: &Source, types: &[Type]) -> Result<Option<Lanewise>> {
        let [a_kind, b_kind] = types[..] else { return self.syntax("two types expected") };
        let (a_signed, b_signed) = (a_kind.signed(), b_kind.signed());
        let byte = |x: u32, at: u32, signed: bool| {
            let byte = (x >> (8 * at)) as u8;
            if signed { i32::from(byte as i8) } else { i32::from(byte) }
        };
        if opcode == "dp4a" {
            return self.ternary(i, move |a: u32, b: u32, c: u32| {
                (0..4).fold(c, |sum, at| sum.wrapping_add((byte(a, at, a_signed) * byte(b, at, b_signed)) as u32))
            });
        }
        let high = if m.has("hi") { 2 } else { 0 };
        self.ternary(i, move |a: u32, b: u32, c: u32| {
            (0..2).fold(c, |sum, at| {
                let part = (a >> (16 * at)) as u16;
                let part = if a_signed { i32::from(part as i16) } else { i32::from(part) };
                sum.wrapping_add(part.wrapping_mul(byte(b, high + at, b_signed)) as u32)
            })
        })
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi` and their like: the carry flag is a predicate.
    fn with_carry(&mut self, opcode: &str, m: &Modifiers, i: &Source, kind: Type) -> Result<Option<Lanewise>> {
        let (carry, reads, writes) = (self.carry, opcode.ends_with('c'), m.has("cc"));
        let (subtract, multiply) = (opcode.starts_with("sub"), opcode.starts_with("mad"));
        let (high, signed, wide) = (m.has("hi"), kind.signed(), kind.bits() == 64);
        let bits = kind.bits();
        if bits < 32 {
            return Ok(None);
        }
        let d = if wide { self.target::<u64>(self.operand(i, 0)?)? } else { self.target::<u32>(self.operand(i, 0)?)? };
        let sources =
            (1..i.operands.len()).map(|at| self.source_of(self.operand(i, at)?, wide)).collect::<Result<Vec<u32>>>()?;
        let value = move |s: &Registers, slot: u32, lane: usize| {
            if wide { s.d[slot as usize].0[lane] } else { u64::from(s.r[slot as usize].0[lane]) }
        };
        let mask = if wide { u64::MAX } else { u64::from(u32::MAX) };
        Ok(Some(Box::new(move |s, lanes| {
            let (mut out, mut flags) = ([0; LANES], 0);
            for lane in 0..LANES {
                let (mut a, mut b) = (value(s, sources[0], lane), value(s, sources[1], lane));
                if multiply {
                    let product = match (signed, wide) {
                        (true, true) => i128::from(a as i64).wrapping_mul(i128::from(b as i64)) as u128,
                        (true, false) => (i64::from(a as i32) * i64::from(b as i32)) as u64 as u128,
                        (false, _) => u128::from(a) * u128::from(b),
                    };
                    a = (if high { product >> bits } else { product }) as u64 & mask;
                    b = value(s, sources[2], lane);
                }
                let flag = u128::from(reads && s.p[carry as usize] >> lane & 1 != 0);
                let (sum, flag) = if subtract {
                    let sum = u128::from(a).wrapping_sub(u128::from(b)).wrapping_sub(flag);
                    (sum, u128::from(a) < u128::from(b) + flag)
                } else {
                    let sum = u128::from(a) + u128::from(b) + flag;
                    (sum, sum >> bits != 0)
                };
                out[lane] = sum as u64 & mask;
                flags |= u32::from(flag) << lane;
            }
            if wide {
                blend(&mut s.d[d as usize].0, &out, lanes);
            } else {
                blend(&mut s.r[d as usize].0, &out.map(|x| x as u32), lanes);
            }
            if writes {
                let to = &mut s.p[carry as usize];
                *to = *to & !lanes | flags & lanes;
            }
        })))
    }
}
