//! `cvt`.

use super::{number::*, rounding::*, *};
use crate::machine::registers::{LANES, Registers, blend};

/// Which number a register holds before and after.
#[derive(Clone, Copy)]
struct Conversion {
    from: Type,
    to: Type,
    mode: Mode,
    /// An explicit rounding of a float to an integral value (`.rni` and so on).
    integral: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    finite: bool,
}

impl Decoder<'_> {
    pub(super) fn convert(&mut self, m: &Modifiers, i: &Source) -> Result<Option<Lanewise>> {
        if m.0
            .iter()
            .any(|part| part.starts_with('e') && part.contains('m') || part.starts_with("ue8") || *part == "rs")
        {
            return self.unsupported(&i.opcode);
        }
        let [to, from] = m.types()[..] else { return Ok(None) };
        let integral = m.0.iter().any(|part| matches!(*part, "rni" | "rzi" | "rmi" | "rpi"));
        let mode = if m.has("rna") {
            Mode::Away
        } else if m.has("rz") || m.has("rzi") {
            Mode::Directed(Rounding::Zero)
        } else if m.has("rm") || m.has("rmi") {
            Mode::Directed(Rounding::Down)
        } else if m.has("rp") || m.has("rpi") {
            Mode::Directed(Rounding::Up)
        } else {
            Mode::Directed(Rounding::Nearest)
        };
        let conversion = Conversion {
            from,
            to,
            mode,
            integral,
            ftz: m.has("ftz"),
            sat: m.has("sat"),
            relu: m.has("relu"),
            finite: m.has("satfinite"),
        };
        if matches!(to, Type::F16x2 | Type::Bf16x2) {
            // d holds a in its upper half, b in its lower.
            let part = Conversion { to: if to == Type::F16x2 { Type::F16 } else { Type::Bf16 }, ..conversion };
            let plain = mode == Mode::Directed(Rounding::Nearest) && !conversion.relu && !conversion.finite;
            return match to {
                Type::F16x2 if plain => {
                    self.binary(i, |a: f32, b: f32| u32::from(f32_to_f16(a)) << 16 | u32::from(f32_to_f16(b)))
                }
                Type::Bf16x2 if plain => {
                    self.binary(i, |a: f32, b: f32| u32::from(f32_to_bf16(a)) << 16 | u32::from(f32_to_bf16(b)))
                }
                _ => self.binary(i, move |a: u32, b: u32| {
                    (part.of(u64::from(a)) << 16 | part.of(u64::from(b)) & 0xffff) as u32
                }),
            };
        }
        let plain = !(conversion.ftz || conversion.sat || conversion.relu || conversion.finite);
        let nearest = mode == Mode::Directed(Rounding::Nearest);
        let same = |this: &Self, at: usize, kind: Type| match this.operand(i, at) {
            Ok(Operand::Register(register)) => this.kind(*register).bits() == kind.bits(),
            _ => false,
        };
        if plain && same(self, 0, to) && same(self, 1, from) {
            // The usual ones, as loops that vectorise.
            match (to, from) {
                (Type::U64 | Type::S64, Type::U32) => return self.unary(i, u64::from as fn(u32) -> u64),
                (Type::S64 | Type::U64, Type::S32) => return self.unary(i, |a: i32| i64::from(a)),
                (Type::U32 | Type::S32, Type::U64 | Type::S64) => return self.unary(i, |a: u64| a as u32),
                (Type::U32 | Type::S32, Type::U16) => return self.unary(i, |a: u16| u32::from(a)),
                (Type::U32 | Type::S32, Type::S16) => return self.unary(i, |a: i16| i32::from(a)),
                (Type::U16 | Type::S16, Type::U32 | Type::S32) => return self.unary(i, |a: u32| a as u16),
                (Type::F32, Type::F16) => return self.unary(i, |a: u16| canonical(f16_to_f32(a))),
                (Type::F32, Type::Bf16) => return self.unary(i, |a: u16| canonical(bf16_to_f32(a))),
                (Type::F16, Type::F32) if nearest => return self.unary(i, |a: f32| f32_to_f16(a)),
                (Type::Bf16, Type::F32) if nearest => return self.unary(i, |a: f32| f32_to_bf16(a)),
                (Type::F64, Type::F32) => return self.unary(i, |a: f32| f64::from(a)),
                (Type::F32, Type::F64) if nearest => return self.unary(i, |a: f64| canonical(a as f32)),
                (Type::F32, Type::S32) if nearest => return self.unary(i, |a: i32| a as f32),
                (Type::F32, Type::U32) if nearest => return self.unary(i, |a: u32| a as f32),
                _ => {}
            }
        }
        let d = self.destination(&self.operand(i, 0)?.clone())?;
        let a = match self.operand(i, 1)?.clone() {
            Operand::Register(_) => self.destination(&self.operand(i, 1)?.clone())?,
            Operand::Special(_) => Destination::R(self.source::<u32>(self.operand(i, 1)?)?, 32),
            other if from.bits() == 64 => Destination::D(self.source::<u64>(&other)?),
            other => Destination::R(self.source::<u32>(&other)?, 32),
        };
        Ok(Some(Box::new(move |s: &mut Registers, mask| {
            let value = |lane: usize| match a {
                Destination::R(slot, _) => u64::from(s.r[slot as usize].0[lane]),
                Destination::D(slot) => s.d[slot as usize].0[lane],
                Destination::Sink => 0,
            };
            let out: [u64; LANES] = std::array::from_fn(|lane| conversion.of(value(lane)));
            match d {
                Destination::R(slot, bits) => {
                    let keep = if bits >= 32 { u32::MAX } else { (1 << bits) - 1 };
                    blend(&mut s.r[slot as usize].0, &out.map(|x| x as u32 & keep), mask);
                }
                Destination::D(slot) => blend(&mut s.d[slot as usize].0, &out, mask),
                Destination::Sink => {}
            }
        })))
    }
}

/// The numbers that a conversion goes through.
enum Number {
    Integer(i128),
    Float(f64),
}

impl Conversion {
    /// Bits to bits, sign-extended to 64 where the result is signed.
    fn of(self, bits: u64) -> u64 {
        let width = self.from.bits();
        let number = match self.from {
            Type::F64 => Number::Float(f64::from_bits(bits)),
            Type::F32 => Number::Float(f64::from(if self.ftz {
                flush(f32::from_bits(bits as u32))
            } else {
                f32::from_bits(bits as u32)
            })),
            Type::F16 => Number::Float(f16_to_f32(bits as u16).into()),
            Type::Bf16 => Number::Float(bf16_to_f32(bits as u16).into()),
            kind if kind.signed() => Number::Integer(i128::from((bits << (64 - width)) as i64 >> (64 - width))),
            _ => Number::Integer(i128::from(if width == 64 { bits } else { bits & ((1 << width) - 1) })),
        };
        match number {
            Number::Integer(value) if self.to.float() => self.integer_to_float(value),
            Number::Integer(value) => self.to_integer(value, self.sat),
            Number::Float(value) if self.to.float() => self.float_to_float(value),
            Number::Float(value) => {
                if value.is_nan() {
                    let wide = self.from == Type::F64 || self.to.bits() == 64;
                    return if wide { 1 << (self.to.bits() - 1) } else { 0 };
                }
                let whole = match self.mode {
                    Mode::Directed(Rounding::Zero) => value.trunc(),
                    Mode::Directed(Rounding::Down) => value.floor(),
                    Mode::Directed(Rounding::Up) => value.ceil(),
                    _ => value.round_ties_even(),
                };
                // Floats to integers clamp, said or not.
                self.to_integer(whole as i128, true)
            }
        }
    }

    fn to_integer(self, value: i128, clamp: bool) -> u64 {
        let bits = self.to.bits();
        let (least, greatest) =
            if self.to.signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
        let value = if clamp { value.clamp(least, greatest) } else { value };
        // Without clamping the upper bits are dropped; then the sign extends.
        let kept = (value as u64) << (64 - bits);
        if self.to.signed() { (kept as i64 >> (64 - bits)) as u64 } else { kept >> (64 - bits) }
    }

    fn integer_to_float(self, value: i128) -> u64 {
        match self.to {
            // 64 bits do not fit an f64: round once, from the integer.
            Type::F64 => integer_to_f64(value, self.mode).to_bits(),
            Type::F32 => u64::from(integer_to_f32(value, self.mode).to_bits()),
            // An odd f64 rounds on as the integer itself would.
            _ => self.float_to_float(odd_f64(value)),
        }
    }

    fn float_to_float(self, value: f64) -> u64 {
        let value = if self.integral {
            match self.mode {
                Mode::Directed(Rounding::Zero) => value.trunc(),
                Mode::Directed(Rounding::Down) => value.floor(),
                Mode::Directed(Rounding::Up) => value.ceil(),
                _ => value.round_ties_even(),
            }
        } else {
            value
        };
        let value = if self.sat { saturate64(value) } else { value };
        let value = if self.relu && value <= 0.0 { 0.0 } else { value };
        match self.to {
            Type::F64 => value.to_bits(),
            Type::F32 => {
                let x = match self.mode {
                    Mode::Directed(rounding) => narrow(value, rounding),
                    Mode::Away => value as f32,
                };
                u64::from(canonical(if self.ftz { flush(x) } else { x }).to_bits())
            }
            _ => {
                let format = match self.to {
                    Type::F16 => F16,
                    Type::Bf16 => BF16,
                    _ => TF32,
                };
                if value.is_nan() {
                    return if self.to == Type::Tf32 { 0x7fff_ffff } else { 0x7fff };
                }
                let mut x = round_to(value, format, self.mode);
                if self.finite {
                    x = x.clamp(-format.greatest, format.greatest);
                }
                match self.to {
                    Type::F16 => u64::from(f32_to_f16(x as f32)),
                    Type::Bf16 => u64::from(f32_to_bf16(x as f32)),
                    _ => u64::from((x as f32).to_bits()),
                }
            }
        }
    }
}

fn integer_to_f64(value: i128, mode: Mode) -> f64 {
    let nearest = value as f64;
    let error = value - nearest as i128;
    match mode {
        Mode::Directed(Rounding::Down) if error < 0 => nearest.next_down(),
        Mode::Directed(Rounding::Up) if error > 0 => nearest.next_up(),
        Mode::Directed(Rounding::Zero) if value > 0 && error < 0 => nearest.next_down(),
        Mode::Directed(Rounding::Zero) if value < 0 && error > 0 => nearest.next_up(),
        _ => nearest,
    }
}

fn integer_to_f32(value: i128, mode: Mode) -> f32 {
    match mode {
        Mode::Directed(rounding) => narrow(odd_f64(value), rounding),
        Mode::Away => value as f32,
    }
}

/// An integer as an f64, rounded to odd where it has more than 53 bits.
fn odd_f64(value: i128) -> f64 {
    let down = integer_to_f64(value, Mode::Directed(Rounding::Zero));
    if down as i128 == value { down } else { f64::from_bits(down.to_bits() | 1) }
}
