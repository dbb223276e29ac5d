//! A module's kernels, each with the functions that it calls, to code that runs.

use super::{
    ParseError,
    allocate::{Allocation, allocate},
    parser::Tree,
    types::{Body, Operand, StateSpace, Symbol},
};
use crate::{
    isa::{Callee, Context, Decoder, Place, Pool, class_of},
    machine::code::{Code, Note, Op, WatchedRegister},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// What of a kernel's resources its code does not tell.
pub(super) struct Linked {
    pub(super) code: Code,
    pub(super) params: Vec<super::Param>,
    pub(super) param_bytes: u32,
    pub(super) registers: u32,
}

/// Module variables by name: those of the image by offset and bytes.
pub(super) type Globals = BTreeMap<String, (u64, u64)>;

/// A function within a kernel's code.
struct Unit<'a> {
    body: &'a Body,
    allocation: Allocation,
    places: Vec<Place>,
    start: u32,
    link: Option<u32>,
}

pub(super) fn link(tree: &Tree, entry: &Body, globals: &Globals, text: &Arc<str>) -> Result<Linked, ParseError> {
    let bodies = reachable(tree, entry);
    let mut params = Vec::new();
    let mut param_bytes = 0u32;
    let (mut shared, mut local, mut dynamic_align) = (0u32, 0u32, 16u32);
    // Shared variables of the module that these functions name.
    let mut shared_places = HashMap::new();
    let mut names = HashSet::new();
    bodies
        .iter()
        .flat_map(|body| &body.instructions)
        .for_each(|i| i.operands.iter().for_each(|o| mentioned(o, &mut names)));
    for variable in tree.variables.iter().filter(|v| v.space == StateSpace::Shared && names.contains(&*v.name)) {
        let place = if variable.external || variable.bytes == 0 {
            dynamic_align = dynamic_align.max(variable.align);
            Place::Dynamic
        } else {
            Place::Shared(take(&mut shared, variable.bytes as u32, variable.align))
        };
        shared_places.insert(variable.name.clone(), place);
    }
    let mut units: Vec<Unit> = Vec::new();
    let (mut ends, mut start) = ([0; 3], 0);
    for body in bodies {
        let kernel = std::ptr::eq(body, entry);
        let mut places = Vec::new();
        for (number, variable) in body.variables.iter().enumerate() {
            let bytes = variable.bytes as u32;
            places.push(match variable.space {
                StateSpace::Shared if variable.external || bytes == 0 => {
                    dynamic_align = dynamic_align.max(variable.align);
                    Place::Dynamic
                }
                StateSpace::Shared => Place::Shared(take(&mut shared, bytes, variable.align)),
                StateSpace::Param if kernel && body.params.contains(&number) => {
                    let offset = take(&mut param_bytes, bytes, variable.align);
                    params.push(super::Param { offset, size: bytes, align: variable.align });
                    Place::Shared(offset)
                }
                _ => Place::Shared(take(&mut local, bytes, variable.align)),
            });
        }
        let allocation = allocate(body, ends);
        ends = allocation.ends;
        let link = (!kernel).then(|| {
            ends[0] += 1;
            ends[0] - 1
        });
        let length = body.instructions.len() as u32;
        units.push(Unit { body, allocation, places, start, link });
        // Each ends in a return, if only of an empty body or a label at its end.
        start += length + 1;
    }
    let callees: HashMap<String, Callee> = units
        .iter()
        .filter_map(|unit| {
            let variables = |numbers: &[usize]| -> Vec<(u32, u32)> {
                numbers
                    .iter()
                    .map(|&number| match unit.places[number] {
                        Place::Shared(offset) => (offset, unit.body.variables[number].bytes as u32),
                        _ => (0, 0),
                    })
                    .collect()
            };
            let (params, returns) = (variables(&unit.body.params), variables(&unit.body.returns));
            Some((unit.body.name.clone(), Callee { start: unit.start, link: unit.link?, params, returns }))
        })
        .collect();
    let mut code = Code { name: entry.name.clone(), text: text.clone(), ..Code::default() };
    [code.r, code.d, code.p] = ends.map(|end| end as usize);
    let mut pool = Pool::new(code);
    let sinks = [ends[0], ends[1], ends[2]];
    let carry = ends[2] + 1;
    let module = |name: &str| {
        shared_places.get(name).copied().or_else(|| globals.get(name).map(|&(offset, _)| Place::Image(offset)))
    };
    for unit in &units {
        let mut watched = HashMap::new();
        for (register, _) in unit.allocation.watched.iter().enumerate().filter(|(_, watched)| **watched) {
            watched.insert(register as u32, pool.code.watched.len() as u32);
            pool.code.watched.push(WatchedRegister { name: unit.body.registers[register].0.clone() });
        }
        let context = Context {
            body: unit.body,
            allocation: &unit.allocation,
            places: &unit.places,
            start: unit.start,
            link: unit.link,
            watched,
        };
        let mut decoder =
            Decoder { pool: &mut pool, context: &context, module: &module, callees: &callees, sinks, carry, line: 0 };
        let (mut instructions, mut notes) = (Vec::new(), Vec::new());
        for instruction in &unit.body.instructions {
            let decoded = decoder.instruction(instruction)?;
            notes.push(Note {
                line: instruction.line,
                opcode: instruction.opcode.clone(),
                class: class_of(&instruction.opcode, &decoded.op),
                innermost: None,
            });
            instructions.push(decoded);
        }
        let line = notes.last().map_or(1, |note| note.line);
        instructions.push(decoder.end());
        notes.push(Note { line, opcode: "ret".into(), class: crate::profile::Class::Control, innermost: None });
        mark_loops(&instructions, &mut notes, unit.start);
        pool.code.instructions.extend(instructions);
        pool.code.notes.extend(notes);
    }
    let mut code = pool.code;
    (code.static_shared, code.dynamic_start) = (shared, shared.next_multiple_of(dynamic_align));
    code.local_bytes = local.next_multiple_of(16);
    let registers = units.iter().map(|unit| unit.allocation.pressure).max().unwrap_or(0);
    Ok(Linked { code, params, param_bytes, registers })
}

/// Room for so many bytes; where it is.
fn take(end: &mut u32, bytes: u32, align: u32) -> u32 {
    let at = end.next_multiple_of(align.max(1));
    *end = at + bytes;
    at
}

/// A function and all that it calls, it first.
fn reachable<'a>(tree: &'a Tree, entry: &'a Body) -> Vec<&'a Body> {
    let mut found = vec![entry];
    let mut at = 0;
    while at < found.len() {
        for instruction in found[at].instructions.iter().filter(|i| i.opcode.split('.').next() == Some("call")) {
            for operand in &instruction.operands {
                let Operand::Symbol(Symbol::Module(name), 0) = operand else { continue };
                let callee = tree.functions.iter().find(|f| f.defined && !f.entry && f.name == *name);
                if let Some(callee) = callee.filter(|callee| !found.iter().any(|f| std::ptr::eq(*f, *callee))) {
                    found.push(callee);
                }
            }
        }
        at += 1;
    }
    found
}

fn mentioned<'a>(operand: &'a Operand, names: &mut HashSet<&'a str>) {
    match operand {
        Operand::Symbol(Symbol::Module(name), _) => {
            names.insert(name);
        }
        Operand::Address(base, _) => mentioned(base, names),
        Operand::Vector(all) | Operand::List(all) => all.iter().for_each(|operand| mentioned(operand, names)),
        _ => {}
    }
}

/// Gives each instruction the innermost loop around it: a backward branch and its target, and all between.
fn mark_loops(instructions: &[crate::machine::code::Instruction], notes: &mut [Note], start: u32) {
    // First instruction to last; several branches back to one place are one loop.
    let mut loops = BTreeMap::new();
    for (at, instruction) in instructions.iter().enumerate() {
        if let Op::Branch(target) = instruction.op {
            let target = (target - start) as usize;
            if target <= at {
                loops.insert(target, at);
            }
        }
    }
    for (&first, &last) in &loops {
        for at in first..=last {
            // Loops come by their beginning: a later one that is around this instruction is within the earlier.
            notes[at].innermost = Some(start + first as u32);
        }
    }
}
