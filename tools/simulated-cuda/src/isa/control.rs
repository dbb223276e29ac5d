//! Branches, calls, barriers.

use super::*;
use std::sync::atomic::Ordering;

impl Decoder<'_> {
    pub(super) fn control(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Op>> {
        Ok(Some(match opcode {
            "bra" => {
                let Operand::Label(label) = self.operand(i, 0)? else { return self.syntax("a label expected") };
                Op::Branch(self.label(label, i)?)
            }
            "brx" => {
                let index = self.source::<u32>(self.operand(i, 0)?)?;
                let Operand::Label(list) = self.operand(i, 1)? else { return self.syntax("a list expected") };
                let Some(labels) = self.context.body.branch_targets(list, i.scope) else {
                    return self.syntax(format!("no .branchtargets `{list}`"));
                };
                let targets = labels.iter().map(|label| self.label(label, i)).collect::<Result<_>>()?;
                Op::BranchIndexed { index, targets }
            }
            "call" => return self.call(i).map(Some),
            "%return" => return self.results(i).map(Some),
            "ret" => match self.context.link {
                Some(link) => Op::Return { link },
                None => Op::Exit,
            },
            "exit" => Op::Exit,
            "trap" => Op::Trap,
            // Between blocks, which run on several host threads.
            "membar" | "fence" => Op::Lanes(Box::new(|_, _| std::sync::atomic::fence(Ordering::SeqCst))),
            "brkpt" | "nanosleep" | "pmevent" | "griddepcontrol" | "setmaxnreg" => Op::Nothing,
            "bar" | "barrier" => return self.barrier(opcode, m, i).map(Some),
            _ => return Ok(None),
        }))
    }

    fn label(&self, name: &str, i: &Source) -> Result<u32> {
        match self.context.body.label(name, i.scope) {
            Some(at) => Ok(self.context.start + at as u32),
            None => self.syntax(format!("no label `{name}`")),
        }
    }

    fn callee<'i>(&self, i: &'i Source) -> Option<&'i str> {
        i.operands.iter().find_map(|operand| match operand {
            Operand::Symbol(Symbol::Module(name), 0) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Offsets and bytes of the variables that a call passes or receives.
    fn passed(&self, operand: Option<&Operand>) -> Result<Vec<u32>> {
        let Some(Operand::List(all)) = operand else { return Ok(Vec::new()) };
        all.iter()
            .map(|operand| match operand {
                Operand::Symbol(symbol @ Symbol::Local(_), 0) => match self.place(symbol)? {
                    Place::Shared(offset) => Ok(offset),
                    _ => self.unsupported("this argument of a call"),
                },
                _ => self.unsupported("arguments of calls that are not .param variables"),
            })
            .collect()
    }

    fn call(&mut self, i: &Source) -> Result<Op> {
        let Some(name) = self.callee(i) else { return self.unsupported("indirect calls") };
        match (name, self.callees.get(name)) {
            (_, Some(callee)) => {
                let last = i.operands.last().filter(|_| i.operands.len() > 1);
                let arguments = self.passed(last)?;
                let moves =
                    arguments.iter().zip(&callee.params).map(|(&from, &(to, bytes))| (from, to, bytes)).collect();
                Ok(Op::Call { target: callee.start, link: callee.link, moves })
            }
            ("__assertfail", _) => Ok(Op::Trap),
            // printf is not heard.
            ("vprintf", _) => Ok(Op::Nothing),
            _ => self.unsupported(format!("a call of {name}")),
        }
    }

    fn results(&mut self, i: &Source) -> Result<Op> {
        let Some(callee) = self.callee(i).and_then(|name| self.callees.get(name)) else { return Ok(Op::Nothing) };
        if callee.returns.is_empty() {
            return Ok(Op::Nothing);
        }
        let results = self.passed(i.operands.first())?;
        Ok(Op::MoveLocal(results.iter().zip(&callee.returns).map(|(&to, &(from, bytes))| (from, to, bytes)).collect()))
    }

    fn barrier(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Op> {
        if m.has("warp") {
            let members = self.source::<u32>(self.operand(i, 0)?)?;
            return Ok(Op::Sync { members, orders: true, run: Box::new(|_, _| {}) });
        }
        if m.has("cluster") {
            return self.unsupported(&i.opcode);
        }
        let none = Guard { predicate: u32::MAX, flip: 0 };
        let aligned = opcode == "bar" || m.has("aligned");
        let rest = |this: &mut Self, from: usize| match i.operands.get(from) {
            Some(operand) => this.source::<u32>(&operand.clone()).map(Some),
            None => Ok(None),
        };
        if m.has("red") {
            let kind = if m.has("popc") {
                BarrierKind::Popc
            } else if m.has("and") {
                BarrierKind::And
            } else {
                BarrierKind::Or
            };
            let result = match kind {
                BarrierKind::Popc => self.target::<u32>(&self.operand(i, 0)?.clone())?,
                _ => self.predicate_target(&self.operand(i, 0)?.clone())?,
            };
            let id = self.source::<u32>(self.operand(i, 1)?)?;
            let (threads, last) = if i.operands.len() == 4 { (rest(self, 2)?, 3) } else { (None, 2) };
            let source = self.condition(self.operand(i, last)?)?;
            return Ok(Op::Barrier(Barrier { kind, aligned, id, threads, source, result }));
        }
        let kind = if m.has("arrive") { BarrierKind::Arrive } else { BarrierKind::Sync };
        let id = self.source::<u32>(self.operand(i, 0)?)?;
        let threads = rest(self, 1)?;
        Ok(Op::Barrier(Barrier { kind, aligned, id, threads, source: none, result: 0 }))
    }
}
