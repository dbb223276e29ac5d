//! Loads, stores, atomics, asynchronous copies.

use super::*;
use crate::machine::{
    atomics::{Atomic, Operation},
    copy_async::CopyAsync,
    mbarrier::{Mbarrier, MbarrierKind},
};

impl Decoder<'_> {
    pub(super) fn memory(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Op>> {
        Ok(Some(match opcode {
            "ld" | "ldu" => Op::Load(self.access(m, i, 0, 1)?),
            "st" => Op::Store(self.access(m, i, 1, 0)?),
            "atom" | "red" => return self.atomic(opcode, m, i).map(Some),
            "cp" if m.has("async") && !m.has("bulk") => return self.copy_async(m, i).map(Some),
            "prefetch" | "prefetchu" | "discard" | "applypriority" => Op::Nothing,
            "createpolicy" => {
                let d = self.target::<u64>(&self.operand(i, 0)?.clone())?;
                let zero = self.pool.wide_constant(0);
                Op::Lanes(unary(d, zero, |a: u64| a))
            }
            "mbarrier" => return self.mbarrier(m, i).map(Some),
            "mov" => match self.operand(i, 1)? {
                Operand::Special(name)
                    if matches!(
                        name.as_str(),
                        "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo"
                    ) =>
                {
                    Op::Clock(self.destination(&self.operand(i, 0)?.clone())?)
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        }))
    }

    /// A load or store: which operands are the data and the address.
    fn access(&mut self, m: &Modifiers, i: &Source, data: usize, address: usize) -> Result<Access> {
        let Some(&kind) = m.types().last() else { return self.syntax("a type expected") };
        if kind.bits() > 64 {
            return self.unsupported("128-bit elements");
        }
        let (space, address) = self.address(m, self.operand(i, address)?.clone().address_parts())?;
        let operands = match self.operand(i, data)?.clone() {
            Operand::Vector(all) => all,
            one => vec![one],
        };
        if operands.len() != m.vector() {
            return self.syntax("as many registers as the vector has elements expected");
        }
        let mut elements = Vec::new();
        for operand in &operands {
            elements.push(match operand {
                Operand::Register(_) | Operand::Sink => self.destination(operand)?,
                other if kind.bits() == 64 => Destination::D(self.source::<u64>(other)?),
                other => Destination::R(self.source::<u32>(other)?, 32),
            });
        }
        Ok(Access { space, address, bytes: kind.bytes(), signed: kind.signed(), elements })
    }

    /// The space and the address of `[base + offset]`. Symbols become numbers within their space.
    pub(super) fn address(&mut self, m: &Modifiers, operand: Option<(Operand, i64)>) -> Result<(AccessSpace, Address)> {
        let Some((base, offset)) = operand else { return self.syntax("an address expected") };
        let mut space = match space_of(m) {
            StateSpace::Generic => AccessSpace::Generic,
            StateSpace::Global | StateSpace::Const => AccessSpace::Global,
            StateSpace::Shared => AccessSpace::Shared,
            StateSpace::Local => AccessSpace::Local,
            StateSpace::Param => AccessSpace::Param,
        };
        let (base, extra) = match &base {
            Operand::Register(register) if space == AccessSpace::Param && self.context.link.is_some() => {
                space = AccessSpace::Local;
                (Base::D(self.source::<u64>(&Operand::Register(*register))?), 0)
            }
            Operand::Register(register) => match File::of(self.kind(*register)) {
                File::R => (Base::R(self.slot(*register)), 0),
                File::D => (Base::D(self.slot(*register)), 0),
                File::P => return self.syntax("a predicate as address"),
            },
            Operand::Int(value) => (Base::None, *value),
            Operand::Symbol(symbol, addend) => {
                // Parameters of functions other than kernels are in local memory.
                let kernel_parameter = match symbol {
                    Symbol::Local(variable) => {
                        self.context.link.is_none() && self.context.body.params.contains(variable)
                    }
                    Symbol::Module(_) => false,
                };
                if space == AccessSpace::Param && !kernel_parameter {
                    space = AccessSpace::Local;
                }
                let (base, at) = match self.place(symbol)? {
                    Place::Image(offset) => (Base::D(self.pool.address(offset)), 0),
                    Place::Shared(offset) => (Base::None, u64::from(offset)),
                    Place::Dynamic => (Base::R(self.pool.special(Special::DynamicSharedStart)), 0),
                };
                (base, at.wrapping_add_signed(*addend))
            }
            _ => return self.syntax("an address expected"),
        };
        Ok((space, Address { base, offset: extra.wrapping_add_signed(offset) }))
    }

    fn atomic(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Op> {
        let reduction = opcode == "red";
        if m.has("async") {
            return self.unsupported(&i.opcode);
        }
        let Some(&kind) = m.types().last() else { return self.syntax("a type expected") };
        let first = usize::from(!reduction);
        let (space, address) = self.address(m, self.operand(i, first)?.clone().address_parts())?;
        let name =
            ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"].into_iter().find(|name| m.has(name));
        let operation = match (name, kind) {
            (Some("add"), Type::F32) => Operation::AddF32,
            (Some("add"), Type::F64) => Operation::AddF64,
            (Some("add"), Type::F16) => Operation::AddHalf { bf16: false, pair: false },
            (Some("add"), Type::F16x2) => Operation::AddHalf { bf16: false, pair: true },
            (Some("add"), Type::Bf16) => Operation::AddHalf { bf16: true, pair: false },
            (Some("add"), Type::Bf16x2) => Operation::AddHalf { bf16: true, pair: true },
            (Some("add"), _) => Operation::Add,
            (Some("min"), kind) => Operation::Min { signed: kind.signed() },
            (Some("max"), kind) => Operation::Max { signed: kind.signed() },
            (Some("and"), _) => Operation::And,
            (Some("or"), _) => Operation::Or,
            (Some("xor"), _) => Operation::Xor,
            (Some("exch"), _) => Operation::Exchange,
            (Some("cas"), _) => Operation::CompareAndSwap,
            (Some("inc"), _) => Operation::Increment,
            (Some("dec"), _) => Operation::Decrement,
            _ => return self.unsupported(&i.opcode),
        };
        let pieces = |operand: &Operand| match operand {
            Operand::Vector(all) => all.clone(),
            one => vec![one.clone()],
        };
        let value = |this: &mut Self, operand: &Operand| -> Result<Destination> {
            match operand {
                Operand::Register(_) => this.destination(operand),
                other if kind.bits() == 64 => Ok(Destination::D(this.source::<u64>(other)?)),
                other => Ok(Destination::R(this.source::<u32>(other)?, 32)),
            }
        };
        let sources = pieces(self.operand(i, first + 1)?);
        let results = if reduction { vec![Operand::Sink; sources.len()] } else { pieces(self.operand(i, 0)?) };
        if results.len() != sources.len() || kind.bits() > 64 {
            return self.unsupported(&i.opcode);
        }
        let mut elements = Vec::new();
        for (d, b) in results.iter().zip(&sources) {
            elements.push((self.destination(d)?, value(self, b)?));
        }
        let swap = match operation {
            Operation::CompareAndSwap => Some(value(self, &self.operand(i, first + 2)?.clone())?),
            _ => None,
        };
        Ok(Op::Atomic(Box::new(Atomic { space, address, bytes: kind.bytes(), operation, elements, swap })))
    }

    fn copy_async(&mut self, m: &Modifiers, i: &Source) -> Result<Op> {
        match m.0.get(1).copied() {
            Some("commit_group") => return Ok(Op::CopyCommit),
            Some("wait_all") => return Ok(Op::CopyWaitAll),
            Some("wait_group") => {
                return match self.operand(i, 0)? {
                    Operand::Int(n) => Ok(Op::CopyWait(*n as u32)),
                    _ => self.syntax("a number expected"),
                };
            }
            Some("mbarrier") => {
                let (space, address) = self.address(m, self.operand(i, 0)?.clone().address_parts())?;
                let kind = MbarrierKind::CopyArrive { noinc: m.has("noinc") };
                return Ok(Op::Mbarrier(Mbarrier {
                    kind,
                    space,
                    address,
                    operand: None,
                    result: Destination::Sink,
                    done: 0,
                }));
            }
            Some("ca" | "cg") => {}
            _ => return self.unsupported(&i.opcode),
        }
        let shared = Modifiers(vec!["shared"]);
        let (_, to) = self.address(&shared, self.operand(i, 0)?.clone().address_parts())?;
        let global = Modifiers(vec!["global"]);
        let (_, from) = self.address(&global, self.operand(i, 1)?.clone().address_parts())?;
        let Operand::Int(bytes) = self.operand(i, 2)?.clone() else { return self.syntax("a size expected") };
        if !matches!(bytes, 4 | 8 | 16) || m.has("cg") && bytes != 16 {
            return self.syntax("a copy of 4, 8 or 16 bytes (.cg: 16) expected");
        }
        let (mut source_bytes, mut ignore) = (None, None);
        let policy = m.has("L2::cache_hint");
        let optional = &i.operands[3..i.operands.len() - usize::from(policy)];
        if let Some(operand) = optional.first() {
            match operand {
                Operand::Not(_) => ignore = Some(self.condition(operand)?),
                Operand::Register(register) if self.kind(*register) == Type::Pred => {
                    ignore = Some(self.condition(operand)?)
                }
                operand => source_bytes = Some(self.source::<u32>(operand)?),
            }
        }
        Ok(Op::CopyAsync(CopyAsync { to, from, bytes: bytes as u32, source_bytes, ignore }))
    }

    fn mbarrier(&mut self, m: &Modifiers, i: &Source) -> Result<Op> {
        let results =
            usize::from(matches!(m.0.first().copied(), Some("arrive" | "arrive_drop" | "test_wait" | "try_wait")));
        if m.has("expect_tx") || m.has("complete_tx") || m.has("parity") || m.has("pending_count") {
            return self.unsupported(&i.opcode);
        }
        let mut shared = Modifiers(m.0.clone());
        shared.0.retain(|part| part.starts_with("shared"));
        let (space, address) = self.address(&shared, self.operand(i, results)?.clone().address_parts())?;
        let operand = |this: &mut Self, wide: bool| match i.operands.get(results + 1) {
            Some(operand) => this.source_of(&operand.clone(), wide).map(Some),
            None => Ok(None),
        };
        let (kind, operand) = match m.0.first().copied() {
            Some("init") => (MbarrierKind::Init, operand(self, false)?),
            Some("inval") => (MbarrierKind::Invalidate, None),
            Some("arrive") if !m.has("noComplete") => (MbarrierKind::Arrive, operand(self, false)?),
            Some("test_wait" | "try_wait") => (MbarrierKind::Test, operand(self, true)?),
            _ => return self.unsupported(&i.opcode),
        };
        let (mut result, mut done) = (Destination::Sink, self.sinks[2]);
        if results == 1 {
            if matches!(kind, MbarrierKind::Test) {
                done = self.predicate_target(&self.operand(i, 0)?.clone())?;
            } else {
                result = self.destination(&self.operand(i, 0)?.clone())?;
            }
        }
        Ok(Op::Mbarrier(Mbarrier { kind, space, address, operand, result, done }))
    }
}

impl Operand {
    /// Base and offset, of an address.
    pub(super) fn address_parts(&self) -> Option<(Operand, i64)> {
        match self {
            Operand::Address(base, offset) => Some(((**base).clone(), *offset)),
            _ => None,
        }
    }
}
