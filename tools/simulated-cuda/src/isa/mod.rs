//! The instructions: what each opcode means, as a closure over register slots or a decoded operation.

mod control;
mod convert;
mod float;
mod fragment;
mod half;
mod integer;
mod logic;
mod matrix;
mod memory;
mod movement;
pub(crate) mod number;
mod rounding;
mod warp;

use crate::{
    ParseError,
    machine::{
        code::*,
        registers::{Lanewise, Value, binary, compare, quaternary, ternary, unary},
    },
    profile::Class,
    ptx::{
        allocate::{Allocation, File},
        types::{Body, Instruction as Source, Operand, Register, StateSpace, Symbol, Type},
    },
};
use std::collections::HashMap;

pub(crate) use fragment::{Fragment, Number};

pub(crate) type Result<T> = std::result::Result<T, ParseError>;

/// An address that a module-level name stands for.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Within the image of the module's variables.
    Image(u64),
    /// Within shared memory.
    Shared(u32),
    /// The beginning of dynamic shared memory, known at launch.
    Dynamic,
}

/// What decoding needs to know of one function.
pub(crate) struct Context<'a> {
    pub(crate) body: &'a Body,
    pub(crate) allocation: &'a Allocation,
    /// Offset of each variable of the function within its space, parameters of a `.func` within local memory.
    pub(crate) places: &'a [Place],
    /// First instruction.
    pub(crate) start: u32,
    /// Register with the return address; none in a kernel.
    pub(crate) link: Option<u32>,
    /// Number among the watched registers, of those that are.
    pub(crate) watched: HashMap<Register, u32>,
}

/// What a call needs to know of a function.
pub(crate) struct Callee {
    pub(crate) start: u32,
    pub(crate) link: u32,
    pub(crate) params: Vec<(u32, u32)>,
    pub(crate) returns: Vec<(u32, u32)>,
}

/// Slots beyond those of registers: constants and special registers, shared by all functions of a kernel.
pub(crate) struct Pool {
    pub(crate) code: Code,
    narrow: HashMap<u32, u32>,
    wide: HashMap<u64, u32>,
    addresses: HashMap<u64, u32>,
    specials: HashMap<Special, u32>,
}

impl Pool {
    /// Slots after the registers; three scratch registers for results that nobody wants.
    pub(crate) fn new(code: Code) -> Self {
        let mut pool = Self {
            code,
            narrow: HashMap::new(),
            wide: HashMap::new(),
            addresses: HashMap::new(),
            specials: HashMap::new(),
        };
        pool.code.r += 1;
        pool.code.d += 1;
        // Sink, and the carry flag.
        pool.code.p += 2;
        pool
    }

    fn constant(&mut self, bits: u32) -> u32 {
        let code = &mut self.code;
        *self.narrow.entry(bits).or_insert_with(|| {
            code.r += 1;
            code.constants.push((code.r as u32 - 1, bits));
            code.r as u32 - 1
        })
    }

    fn wide_constant(&mut self, bits: u64) -> u32 {
        let code = &mut self.code;
        *self.wide.entry(bits).or_insert_with(|| {
            code.d += 1;
            code.wide_constants.push((code.d as u32 - 1, bits));
            code.d as u32 - 1
        })
    }

    fn address(&mut self, offset: u64) -> u32 {
        let code = &mut self.code;
        *self.addresses.entry(offset).or_insert_with(|| {
            code.d += 1;
            code.addresses.push((code.d as u32 - 1, offset));
            code.d as u32 - 1
        })
    }

    fn special(&mut self, special: Special) -> u32 {
        let code = &mut self.code;
        *self.specials.entry(special).or_insert_with(|| {
            code.r += 1;
            code.specials.push((special, code.r as u32 - 1));
            code.r as u32 - 1
        })
    }
}

/// Decodes the instructions of one function.
pub(crate) struct Decoder<'a> {
    pub(crate) pool: &'a mut Pool,
    pub(crate) context: &'a Context<'a>,
    pub(crate) module: &'a dyn Fn(&str) -> Option<Place>,
    pub(crate) callees: &'a HashMap<String, Callee>,
    /// Slots of results that nobody wants, and of the carry flag.
    pub(crate) sinks: [u32; 3],
    pub(crate) carry: u32,
    pub(crate) line: u32,
}

/// An opcode's modifiers.
pub(crate) struct Modifiers<'a>(pub(crate) Vec<&'a str>);

impl Modifiers<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    /// The types among them, in order.
    pub(crate) fn types(&self) -> Vec<Type> {
        self.0.iter().filter_map(|part| Type::named(part)).collect()
    }

    /// Elements of `.v2`, `.v4`, `.v8`; 1 without.
    pub(crate) fn vector(&self) -> usize {
        [("v2", 2), ("v4", 4), ("v8", 8)].into_iter().find(|(name, _)| self.has(name)).map_or(1, |(_, n)| n)
    }
}

impl Decoder<'_> {
    pub(crate) fn unsupported<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(ParseError::Unsupported { line: self.line, what: what.into() })
    }

    pub(crate) fn syntax<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(ParseError::Syntax { line: self.line, message: message.into() })
    }

    pub(crate) fn instruction(&mut self, source: &Source) -> Result<Instruction> {
        self.line = source.line;
        let guard = match source.guard {
            Some((register, negated)) => {
                Guard { predicate: self.predicate(register)?, flip: if negated { u32::MAX } else { 0 } }
            }
            None => Guard { predicate: u32::MAX, flip: 0 },
        };
        let op = self.op(source)?;
        let uses = crate::ptx::allocate::uses(source);
        let watched = |registers: &[Register]| -> Vec<u32> {
            registers.iter().filter_map(|register| self.context.watched.get(register).copied()).collect()
        };
        let (reads, writes) = (watched(&uses.reads), watched(&uses.writes));
        let copies = crate::ptx::allocate::copies(source);
        let watch = (!reads.is_empty() || !writes.is_empty()).then(|| Box::new(Watch { copies, reads, writes }));
        Ok(Instruction { guard, op, watch })
    }

    /// What a function ends in, if nothing else.
    pub(crate) fn end(&mut self) -> Instruction {
        let op = self.context.link.map_or(Op::Exit, |link| Op::Return { link });
        Instruction { guard: Guard { predicate: u32::MAX, flip: 0 }, op, watch: None }
    }

    fn op(&mut self, i: &Source) -> Result<Op> {
        let mut parts = i.parts();
        let opcode = parts.next().unwrap_or("");
        let m = Modifiers(parts.collect());
        let kind = m.types().last().copied();
        if let Some(op) = self.control(opcode, &m, i)? {
            return Ok(op);
        }
        if let Some(op) = self.memory(opcode, &m, i)? {
            return Ok(op);
        }
        if let Some(op) = self.warp(opcode, &m, i)? {
            return Ok(op);
        }
        if let Some(op) = self.matrix(opcode, &m, i)? {
            return Ok(op);
        }
        let lanes = match opcode {
            "mov" | "cvta" | "selp" | "slct" | "isspacep" => self.movement(opcode, &m, i)?,
            "cvt" => self.convert(&m, i)?,
            "setp" | "set" | "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" | "prmt"
            | "bfe" | "bfi" | "bfind" | "brev" | "clz" | "popc" | "fns" | "bmsk" | "szext" => {
                self.logic(opcode, &m, i)?
            }
            _ => match kind {
                Some(Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) => self.half(opcode, &m, i)?,
                Some(Type::F32 | Type::F64) => self.float(opcode, &m, i)?,
                _ => self.integer(opcode, &m, i)?,
            },
        };
        match lanes {
            Some(lanes) => Ok(Op::Lanes(lanes)),
            None => self.unsupported(&i.opcode),
        }
    }

    // Operands.

    pub(crate) fn operand<'i>(&self, i: &'i Source, at: usize) -> Result<&'i Operand> {
        match i.operands.get(at) {
            Some(operand) => Ok(operand),
            None => self.syntax(format!("{}: operand {} is missing", i.opcode, at + 1)),
        }
    }

    pub(crate) fn kind(&self, register: Register) -> Type {
        self.context.body.registers[register as usize].1
    }

    pub(crate) fn slot(&self, register: Register) -> u32 {
        self.context.allocation.slots[register as usize]
    }

    pub(crate) fn predicate(&self, register: Register) -> Result<u32> {
        if self.kind(register) != Type::Pred {
            return self.syntax(format!("{} is not a predicate", self.context.body.registers[register as usize].0));
        }
        Ok(self.slot(register))
    }

    /// Slot of a value that is read.
    pub(crate) fn source<V: Value>(&mut self, operand: &Operand) -> Result<u32> {
        self.source_of(operand, V::WIDE)
    }

    /// Slot of a value that is read, of the 64-bit part or of the other.
    pub(crate) fn source_of(&mut self, operand: &Operand, wide: bool) -> Result<u32> {
        match operand {
            Operand::Register(register) => {
                let file = File::of(self.kind(*register));
                if file != if wide { File::D } else { File::R } {
                    let name = &self.context.body.registers[*register as usize].0;
                    return self.syntax(format!("{name} does not have the operand's size"));
                }
                Ok(self.slot(*register))
            }
            Operand::Int(bits) => {
                Ok(if wide { self.pool.wide_constant(*bits) } else { self.pool.constant(*bits as u32) })
            }
            Operand::F32(bits) if wide => Ok(self.pool.wide_constant(f64::from(f32::from_bits(*bits)).to_bits())),
            Operand::F32(bits) => Ok(self.pool.constant(*bits)),
            Operand::F64(bits) if wide => Ok(self.pool.wide_constant(*bits)),
            Operand::F64(bits) => Ok(self.pool.constant((f64::from_bits(*bits) as f32).to_bits())),
            Operand::Special(name) => match (Special::named(name), name.as_str()) {
                (Some(special), _) if !wide => Ok(self.pool.special(special)),
                (Some(Special::Zero), _) => Ok(self.pool.wide_constant(0)),
                (None, "WARP_SZ") => Ok(self.pool.constant(32)),
                _ => self.unsupported(format!("special register {name} here")),
            },
            Operand::Symbol(Symbol::Module(name), 0) if name == "WARP_SZ" => {
                Ok(if wide { self.pool.wide_constant(32) } else { self.pool.constant(32) })
            }
            Operand::Symbol(symbol, addend) => match self.place(symbol)? {
                Place::Image(offset) if wide => Ok(self.pool.address(offset.wrapping_add_signed(*addend))),
                Place::Image(_) => self.syntax("a 32-bit address of a global variable"),
                Place::Shared(offset) => {
                    let at = u64::from(offset).wrapping_add_signed(*addend);
                    Ok(if wide { self.pool.wide_constant(at) } else { self.pool.constant(at as u32) })
                }
                Place::Dynamic => self.unsupported("the address of dynamic shared memory here"),
            },
            _ => self.syntax("not an operand for this instruction"),
        }
    }

    /// Where a symbol is.
    pub(crate) fn place(&self, symbol: &Symbol) -> Result<Place> {
        match symbol {
            Symbol::Local(variable) => Ok(self.context.places[*variable]),
            Symbol::Module(name) => match (self.module)(name) {
                Some(place) => Ok(place),
                None => self.syntax(format!("unknown name `{name}`")),
            },
        }
    }

    /// Slot of a value that is written.
    pub(crate) fn target<V: Value>(&mut self, operand: &Operand) -> Result<u32> {
        match operand {
            Operand::Sink => Ok(self.sinks[usize::from(V::WIDE)]),
            Operand::Register(_) => self.source_of(operand, V::WIDE),
            _ => self.syntax("a register expected"),
        }
    }

    /// Slot of a predicate that is written.
    pub(crate) fn predicate_target(&mut self, operand: &Operand) -> Result<u32> {
        match operand {
            Operand::Sink => Ok(self.sinks[2]),
            Operand::Register(register) => self.predicate(*register),
            _ => self.syntax("a predicate expected"),
        }
    }

    /// A predicate that is read.
    pub(crate) fn condition(&mut self, operand: &Operand) -> Result<Guard> {
        match operand {
            Operand::Register(register) => Ok(Guard { predicate: self.predicate(*register)?, flip: 0 }),
            Operand::Not(register) => Ok(Guard { predicate: self.predicate(*register)?, flip: u32::MAX }),
            _ => self.syntax("a predicate expected"),
        }
    }

    /// A register for a load, a store, or a conversion: of whatever size it was declared.
    pub(crate) fn destination(&mut self, operand: &Operand) -> Result<Destination> {
        match operand {
            Operand::Sink => Ok(Destination::Sink),
            Operand::Register(register) => {
                let kind = self.kind(*register);
                Ok(match File::of(kind) {
                    File::R => Destination::R(self.slot(*register), kind.bits()),
                    File::D => Destination::D(self.slot(*register)),
                    File::P => return self.syntax("a predicate here"),
                })
            }
            _ => self.syntax("a register expected"),
        }
    }

    // Instructions of the usual forms: a result, then operands.

    pub(crate) fn unary<A: Value, D: Value>(
        &mut self,
        i: &Source,
        f: impl Fn(A) -> D + Send + Sync + 'static,
    ) -> Result<Option<Lanewise>> {
        let (d, a) = (self.target::<D>(self.operand(i, 0)?)?, self.source::<A>(self.operand(i, 1)?)?);
        Ok(Some(unary(d, a, f)))
    }

    pub(crate) fn binary<A: Value, B: Value, D: Value>(
        &mut self,
        i: &Source,
        f: impl Fn(A, B) -> D + Send + Sync + 'static,
    ) -> Result<Option<Lanewise>> {
        let (d, a) = (self.target::<D>(self.operand(i, 0)?)?, self.source::<A>(self.operand(i, 1)?)?);
        let b = self.source::<B>(self.operand(i, 2)?)?;
        Ok(Some(binary(d, a, b, f)))
    }

    pub(crate) fn ternary<A: Value, B: Value, C: Value, D: Value>(
        &mut self,
        i: &Source,
        f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
    ) -> Result<Option<Lanewise>> {
        let (d, a) = (self.target::<D>(self.operand(i, 0)?)?, self.source::<A>(self.operand(i, 1)?)?);
        let (b, c) = (self.source::<B>(self.operand(i, 2)?)?, self.source::<C>(self.operand(i, 3)?)?);
        Ok(Some(ternary(d, a, b, c, f)))
    }

    pub(crate) fn quaternary<A: Value, B: Value, C: Value, E: Value, D: Value>(
        &mut self,
        i: &Source,
        f: impl Fn(A, B, C, E) -> D + Send + Sync + 'static,
    ) -> Result<Option<Lanewise>> {
        let (d, a) = (self.target::<D>(self.operand(i, 0)?)?, self.source::<A>(self.operand(i, 1)?)?);
        let (b, c) = (self.source::<B>(self.operand(i, 2)?)?, self.source::<C>(self.operand(i, 3)?)?);
        let e = self.source::<E>(self.operand(i, 4)?)?;
        Ok(Some(quaternary(d, a, b, c, e, f)))
    }

    /// Two operands, from the second on, to a predicate in the first's place.
    pub(crate) fn comparison<A: Value, B: Value>(
        &mut self,
        i: &Source,
        to: u32,
        f: impl Fn(A, B) -> bool + Send + Sync + 'static,
    ) -> Result<Lanewise> {
        let a = self.source::<A>(self.operand(i, 1)?)?;
        let b = self.source::<B>(self.operand(i, 2)?)?;
        Ok(compare(to, a, b, f))
    }
}

/// The space of an access, by an opcode's modifiers.
pub(crate) fn space_of(m: &Modifiers) -> StateSpace {
    for part in &m.0 {
        match part.split("::").next().unwrap_or("") {
            "global" => return StateSpace::Global,
            "shared" => return StateSpace::Shared,
            "local" => return StateSpace::Local,
            "param" => return StateSpace::Param,
            "const" => return StateSpace::Const,
            _ => {}
        }
    }
    StateSpace::Generic
}

/// The class of an instruction.
pub(crate) fn class_of(opcode: &str, op: &Op) -> Class {
    let first = opcode.split('.').next().unwrap_or("");
    let m = Modifiers(opcode.split('.').skip(1).collect());
    match op {
        Op::Load(access) | Op::Store(access) => match access.space {
            AccessSpace::Shared => return Class::Shared,
            AccessSpace::Local | AccessSpace::Param => return Class::Local,
            _ if space_of(&m) == StateSpace::Const => return Class::Local,
            _ => return Class::Global,
        },
        Op::Atomic(_) => return Class::Atomic,
        Op::LoadMatrix(_) | Op::StoreMatrix(_) => return Class::Shared,
        Op::Tile(tile) if tile.space == AccessSpace::Shared => return Class::Shared,
        Op::Tile(_) => return Class::Global,
        Op::CopyAsync(_) => return Class::Global,
        Op::Branch(_) | Op::BranchIndexed { .. } | Op::Call { .. } | Op::Return { .. } | Op::Exit | Op::Trap => {
            return Class::Control;
        }
        Op::MoveLocal(_) => return Class::Move,
        Op::Nothing | Op::Clock(_) => return Class::Control,
        _ => {}
    }
    match (first, m.types().last()) {
        ("mma" | "wmma", _) => Class::Matrix,
        ("mov" | "cvta", _) => Class::Move,
        ("cvt", _) => Class::Convert,
        (
            "bar" | "barrier" | "membar" | "fence" | "shfl" | "vote" | "match" | "redux" | "elect" | "activemask"
            | "cp" | "mbarrier",
            _,
        ) => Class::Sync,
        ("selp" | "slct" | "setp" | "set", _) => Class::Integer,
        ("fma" | "mad", Some(Type::F32)) => Class::Ffma,
        (_, Some(Type::F32)) => Class::Float,
        (_, Some(Type::F64)) => Class::Double,
        (_, Some(Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2)) => Class::Half,
        _ => Class::Integer,
    }
}
