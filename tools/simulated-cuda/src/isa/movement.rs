//! Moves, selections and address conversions.

use super::*;
use crate::machine::registers::{LANES, Lanes, Registers, blend, select};

/// A part of a packed move: where its bits are.
#[derive(Clone, Copy)]
struct Part {
    place: Destination,
    bits: u32,
    shift: u32,
}

impl Decoder<'_> {
    pub(super) fn movement(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Lanewise>> {
        let kind = m.types().last().copied();
        match (opcode, kind) {
            ("mov", Some(Type::Pred)) => {
                let p = self.predicate_target(self.operand(i, 0)?)?;
                let flip = |bits: u64| if bits & 1 == 1 { u32::MAX } else { 0 };
                if let Operand::Int(bits) = self.operand(i, 1)? {
                    let value = flip(*bits);
                    return Ok(Some(crate::machine::registers::predicate(p, move |_| value)));
                }
                let a = self.condition(self.operand(i, 1)?)?;
                Ok(Some(crate::machine::registers::predicate(p, move |s| s[a.predicate as usize] ^ a.flip)))
            }
            ("mov", Some(kind)) => self.mov(kind, i),
            ("cvta", Some(kind)) => {
                let window = match space_of(m) {
                    StateSpace::Shared => SHARED_WINDOW,
                    StateSpace::Local => LOCAL_WINDOW,
                    StateSpace::Param => PARAM_WINDOW,
                    _ => 0,
                };
                if kind != Type::U64 {
                    return self.unsupported(&i.opcode);
                }
                if m.has("to") {
                    return self.unary(i, move |a: u64| a.wrapping_sub(window));
                }
                if let Operand::Symbol(symbol, addend) = self.operand(i, 1)? {
                    let (symbol, addend) = (symbol.clone(), *addend);
                    let (d, a) = (self.target::<u64>(self.operand(i, 0)?)?, self.symbol(&symbol)?);
                    return Ok(Some(match a {
                        Slot::Wide(a) => unary(d, a, move |a: u64| a.wrapping_add_signed(addend).wrapping_add(window)),
                        Slot::Narrow(a) => {
                            unary(d, a, move |a: u32| u64::from(a).wrapping_add_signed(addend).wrapping_add(window))
                        }
                    }));
                }
                self.unary(i, move |a: u64| a.wrapping_add(window))
            }
            ("selp", Some(kind)) => {
                let condition = self.condition(self.operand(i, 3)?)?;
                let Guard { predicate: p, flip } = condition;
                Ok(Some(if kind.bits() == 64 {
                    let d = self.target::<u64>(self.operand(i, 0)?)?;
                    let (a, b) = (self.source::<u64>(self.operand(i, 1)?)?, self.source::<u64>(self.operand(i, 2)?)?);
                    select(d, a, b, p, flip, |a: u64, b: u64, p| if p { a } else { b })
                } else {
                    let narrow = kind.bits() == 16;
                    let d = self.target::<u32>(self.operand(i, 0)?)?;
                    let (a, b) = (self.source::<u32>(self.operand(i, 1)?)?, self.source::<u32>(self.operand(i, 2)?)?);
                    let mask = if narrow { 0xffff } else { u32::MAX };
                    select(d, a, b, p, flip, move |a: u32, b: u32, p| if p { a & mask } else { b & mask })
                }))
            }
            ("slct", Some(by)) => {
                let wide = m.types().first().is_some_and(|kind| kind.bits() == 64);
                let ftz = m.has("ftz");
                match (by, wide) {
                    (Type::S32, false) => self.ternary(i, |a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
                    (Type::S32, true) => self.ternary(i, |a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
                    // -0 is at least 0, and so is what flushes to it; a NaN is not.
                    (_, false) => self.ternary(
                        i,
                        move |a: u32, b: u32, c: f32| {
                            if c >= 0.0 || ftz && c.abs() < f32::MIN_POSITIVE { a } else { b }
                        },
                    ),
                    (_, true) => self.ternary(
                        i,
                        move |a: u64, b: u64, c: f32| {
                            if c >= 0.0 || ftz && c.abs() < f32::MIN_POSITIVE { a } else { b }
                        },
                    ),
                }
            }
            ("isspacep", _) => {
                let p = self.predicate_target(self.operand(i, 0)?)?;
                let a = self.source::<u64>(self.operand(i, 1)?)?;
                let window = match space_of(m) {
                    StateSpace::Shared => SHARED_WINDOW,
                    StateSpace::Local => LOCAL_WINDOW,
                    StateSpace::Param => PARAM_WINDOW,
                    StateSpace::Global => 0,
                    _ => return self.unsupported(&i.opcode),
                };
                Ok(Some(crate::machine::registers::test(p, a, move |a: u64| {
                    if window == 0 {
                        ![SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW].iter().any(|w| (*w..*w + WINDOW).contains(&a))
                    } else {
                        (window..window + WINDOW).contains(&a)
                    }
                })))
            }
            _ => Ok(None),
        }
    }

    /// The slot with a symbol's address, without an addend.
    fn symbol(&mut self, symbol: &Symbol) -> Result<Slot> {
        Ok(match self.place(symbol)? {
            Place::Dynamic => Slot::Narrow(self.pool.special(Special::DynamicSharedStart)),
            Place::Shared(offset) => Slot::Narrow(self.pool.constant(offset)),
            Place::Image(offset) => Slot::Wide(self.pool.address(offset)),
        })
    }

    fn mov(&mut self, kind: Type, i: &Source) -> Result<Option<Lanewise>> {
        let (to, from) = (self.operand(i, 0)?.clone(), self.operand(i, 1)?.clone());
        match (&to, &from) {
            (Operand::Vector(_), _) | (_, Operand::Vector(_)) => self.pack(kind, &to, &from),
            (_, Operand::Special(name))
                if matches!(name.as_str(), "%lanemask_eq") || Special::named(name).is_some() =>
            {
                let special = Special::named(name).unwrap_or(Special::Zero);
                let a = self.pool.special(special);
                Ok(Some(match kind.bits() {
                    64 => unary(self.target::<u64>(&to)?, a, |a: u32| u64::from(a)),
                    16 => unary(self.target::<u16>(&to)?, a, |a: u16| a),
                    _ => unary(self.target::<u32>(&to)?, a, |a: u32| a),
                }))
            }
            (_, Operand::Symbol(symbol, addend)) if !matches!(symbol, Symbol::Module(name) if name == "WARP_SZ") => {
                let addend = *addend;
                let a = self.symbol(symbol)?;
                let wide = kind.bits() == 64;
                Ok(Some(match (a, wide) {
                    (Slot::Wide(a), true) => {
                        unary(self.target::<u64>(&to)?, a, move |a: u64| a.wrapping_add_signed(addend))
                    }
                    (Slot::Narrow(a), true) => {
                        unary(self.target::<u64>(&to)?, a, move |a: u32| u64::from(a).wrapping_add_signed(addend))
                    }
                    (Slot::Narrow(a), false) => {
                        unary(self.target::<u32>(&to)?, a, move |a: u32| a.wrapping_add_signed(addend as i32))
                    }
                    (Slot::Wide(_), false) => return self.syntax("a 32-bit address of a global variable"),
                }))
            }
            _ => match kind.bits() {
                64 => self.unary(i, |a: u64| a),
                16 => self.unary(i, |a: u16| a),
                32 => self.unary(i, |a: u32| a),
                _ => Ok(None),
            },
        }
    }

    /// Moves between a register and the registers of its parts.
    fn pack(&mut self, kind: Type, to: &Operand, from: &Operand) -> Result<Option<Lanewise>> {
        if kind.bits() > 64 {
            return self.unsupported("128-bit moves");
        }
        let parts = |this: &mut Self, operands: &[Operand]| -> Result<Vec<Part>> {
            let bits = kind.bits() / operands.len().max(1) as u32;
            let mut found = Vec::new();
            for (at, operand) in operands.iter().enumerate() {
                let place = match operand {
                    Operand::Register(_) | Operand::Sink => this.destination(operand)?,
                    other => {
                        if bits == 64 {
                            Destination::D(this.source::<u64>(other)?)
                        } else {
                            Destination::R(this.source::<u32>(other)?, 32)
                        }
                    }
                };
                found.push(Part { place, bits, shift: bits * at as u32 });
            }
            Ok(found)
        };
        let whole = |operand: &Operand| std::slice::from_ref(operand).to_vec();
        let list = |operand: &Operand| match operand {
            Operand::Vector(all) => all.clone(),
            other => whole(other),
        };
        let (to, from) = (parts(self, &list(to))?, parts(self, &list(from))?);
        // The usual two: a pair of 32-bit registers to and from a 64-bit one.
        if let (
            [Part { place: Destination::D(d), .. }],
            [Part { place: Destination::R(a, 32), bits: 32, .. }, Part { place: Destination::R(b, 32), .. }],
        ) = (&to[..], &from[..])
        {
            return Ok(Some(binary(*d, *a, *b, |a: u32, b: u32| u64::from(a) | u64::from(b) << 32)));
        }
        if let (
            [Part { place: Destination::R(d, 32), .. }],
            [Part { place: Destination::R(a, _), bits: 16, .. }, Part { place: Destination::R(b, _), .. }],
        ) = (&to[..], &from[..])
        {
            return Ok(Some(binary(*d, *a, *b, |a: u32, b: u32| a & 0xffff | b << 16)));
        }
        Ok(Some(Box::new(move |s: &mut Registers, mask| {
            let mut bits = Lanes([0u64; LANES]);
            for part in &from {
                let keep = if part.bits == 64 { u64::MAX } else { (1 << part.bits) - 1 };
                for lane in 0..LANES {
                    let value = match part.place {
                        Destination::R(slot, _) => u64::from(s.r[slot as usize].0[lane]),
                        Destination::D(slot) => s.d[slot as usize].0[lane],
                        Destination::Sink => 0,
                    };
                    bits.0[lane] |= (value & keep) << part.shift;
                }
            }
            for part in &to {
                let keep = if part.bits == 64 { u64::MAX } else { (1 << part.bits) - 1 };
                let values = bits.0.map(|x| x >> part.shift & keep);
                match part.place {
                    Destination::R(slot, _) => blend(&mut s.r[slot as usize].0, &values.map(|x| x as u32), mask),
                    Destination::D(slot) => blend(&mut s.d[slot as usize].0, &values, mask),
                    Destination::Sink => {}
                }
            }
        })))
    }
}

enum Slot {
    Narrow(u32),
    Wide(u32),
}
