//! PTX text: reading it, and what a module holds.

pub(crate) mod allocate;
mod lexer;
mod link;
mod parser;
mod statement;
pub(crate) mod types;

use crate::{Memory, MemoryError, machine::code::Code};
use std::{collections::BTreeMap, fmt, sync::Arc};
use types::StateSpace;

/// The newest PTX version that this driver knows unless told otherwise.
pub const NEWEST_VERSION: (u32, u32) = (9, 5);

/// A module: parsed once, its functions ready to run.
pub struct Module {
    functions: BTreeMap<String, Arc<Function>>,
    globals: link::Globals,
    /// Initial bytes of the image, and the ranges that belong to variables: between them are gaps.
    image: Vec<u8>,
    ranges: Vec<(u64, u64)>,
    /// Addresses within the image: where, and the offset that is added to the image's own.
    relocations: Vec<(u64, u64)>,
}

/// A kernel.
pub struct Function {
    /// Its name in the PTX.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Bytes of them all.
    pub param_bytes: u32,
    /// Bytes of shared memory that it declares itself.
    pub static_shared: u32,
    /// Threads of a block that its `.maxntid` or `.reqntid` allow; 1024 where it has neither.
    pub max_threads: u32,
    /// 32-bit registers that are alive at once: an estimate of what ptxas would take.
    pub registers: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
    /// Bytes of the module's constant variables.
    pub const_bytes: u32,
    /// The module's `.version`, 70 for 7.0.
    pub ptx_version: u32,
    /// The module's `.target`, 80 for sm_80.
    pub target: u32,
    pub(crate) code: Code,
}

/// A kernel parameter within the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Byte offset.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Alignment.
    pub align: u32,
}

/// Why a module is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The `.version` is newer than the driver knows (`CUDA_ERROR_UNSUPPORTED_PTX_VERSION`).
    Version { found: (u32, u32), newest: (u32, u32) },
    /// The `.target` is not one that the device executes (`CUDA_ERROR_NO_BINARY_FOR_GPU`).
    Target { found: String, device: (u32, u32) },
    /// Not PTX (`CUDA_ERROR_INVALID_PTX`).
    Syntax { line: u32, message: String },
    /// PTX that the simulator does not execute (`CUDA_ERROR_INVALID_PTX`).
    Unsupported { line: u32, what: String },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { found, newest } => {
                write!(f, "unsupported .version {}.{}; the driver knows {}.{}", found.0, found.1, newest.0, newest.1)
            }
            Self::Target { found, device } => write!(f, ".target {found} on a device of {}.{}", device.0, device.1),
            Self::Syntax { line, message } => write!(f, "PTX line {line}: {message}"),
            Self::Unsupported { line, what } => write!(f, "PTX line {line}: not simulated: {what}"),
        }
    }
}

impl std::error::Error for ParseError {}

impl Module {
    /// Parses PTX text for a device of a compute capability, by a driver that knows [`NEWEST_VERSION`].
    pub fn parse(ptx: &str, compute_capability: (u32, u32)) -> Result<Self, ParseError> {
        Self::parse_for(ptx, compute_capability, NEWEST_VERSION)
    }

    /// Parses PTX text for a driver whose newest PTX version is `newest`.
    pub fn parse_for(ptx: &str, compute_capability: (u32, u32), newest: (u32, u32)) -> Result<Self, ParseError> {
        // The version before all else: what follows may be in a language that this driver does not know.
        if let Some(found) = version(ptx).filter(|found| *found > newest) {
            return Err(ParseError::Version { found, newest });
        }
        let tree = parser::parse(ptx)?;
        let target = target(&tree.target, compute_capability)?;
        let (globals, image, ranges) = lay_out(&tree);
        let mut relocations = Vec::new();
        for variable in &tree.variables {
            for (at, name, addend) in &variable.relocations {
                let (Some(&(base, _)), Some(&(offset, _))) = (globals.get(&variable.name), globals.get(name)) else {
                    return Err(ParseError::Syntax { line: 1, message: format!("unknown name `{name}`") });
                };
                relocations.push((base + at, offset.wrapping_add_signed(*addend)));
            }
        }
        let constants = tree.variables.iter().filter(|v| v.space == StateSpace::Const).map(|v| v.bytes as u32).sum();
        let text: Arc<str> = ptx.into();
        let mut functions = BTreeMap::new();
        for body in tree.functions.iter().filter(|body| body.entry && body.defined) {
            let linked = link::link(&tree, body, &globals, &text)?;
            let function = Function {
                name: body.name.clone(),
                params: linked.params,
                param_bytes: linked.param_bytes,
                static_shared: linked.code.static_shared,
                max_threads: body.max_threads.unwrap_or(1024).min(1024),
                registers: linked.registers,
                local_bytes: linked.code.local_bytes,
                const_bytes: constants,
                ptx_version: tree.version.0 * 10 + tree.version.1,
                target,
                code: linked.code,
            };
            functions.insert(body.name.clone(), Arc::new(function));
        }
        Ok(Self { functions, globals, image, ranges, relocations })
    }

    /// A kernel (`.entry`) by name.
    pub fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.functions.get(name).cloned()
    }

    /// Names of all kernels.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// A module variable (`.global` or `.const`): its offset within the image, and its bytes.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }

    /// Bytes of the image of the module's variables.
    pub fn image_bytes(&self) -> u64 {
        self.image.len() as u64
    }

    /// Allocates the module's variables and writes their initial values; 0 where it has none. The driver frees the
    /// address when it unloads the module, and adds to it the offset that [`Self::global`] gives.
    pub fn place(&self, memory: &Memory) -> Result<u64, MemoryError> {
        if self.image.is_empty() {
            return Ok(0);
        }
        let base = memory.alloc(self.image_bytes())?;
        let mut image = self.image.clone();
        for &(at, offset) in &self.relocations {
            image[at as usize..at as usize + 8].copy_from_slice(&base.wrapping_add(offset).to_le_bytes());
        }
        for &(start, bytes) in &self.ranges {
            memory.write(base + start, &image[start as usize..(start + bytes) as usize])?;
        }
        Ok(base)
    }
}

/// The text's `.version`.
fn version(ptx: &str) -> Option<(u32, u32)> {
    let line = ptx.lines().map(str::trim).find(|line| line.starts_with(".version"))?;
    let (major, minor) = line.split_whitespace().nth(1)?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether a device executes code for a target, `sm_80` or `sm_90a`.
fn target(name: &str, device: (u32, u32)) -> Result<u32, ParseError> {
    let digits = name.strip_prefix("sm_").unwrap_or("");
    let number = digits.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let capability = device.0 * 10 + device.1;
    match number.parse() {
        // Architecture-specific code is for that architecture alone, family-specific code for the family.
        Ok(target) if digits.ends_with('a') && target != capability => None,
        Ok(target) if digits.ends_with('f') && target / 10 != device.0 => None,
        Ok(target) if target > capability => None,
        Ok(target) => Some(target),
        Err(_) => None,
    }
    .ok_or(ParseError::Target { found: name.into(), device })
}

/// The image of the module's variables: where each is, its bytes, and the ranges that are variables. Gaps between them
/// stay uninitialised, so that reading past one is seen.
fn lay_out(tree: &parser::Tree) -> (link::Globals, Vec<u8>, Vec<(u64, u64)>) {
    const GAP: u64 = 64;
    let (mut globals, mut image, mut ranges) = (BTreeMap::new(), Vec::new(), Vec::new());
    for variable in tree.variables.iter().filter(|v| matches!(v.space, StateSpace::Global | StateSpace::Const)) {
        let start =
            (image.len() as u64 + if image.is_empty() { 0 } else { GAP }).next_multiple_of(u64::from(variable.align));
        image.resize(start as usize, 0);
        image.extend_from_slice(&variable.initial);
        image.resize((start + variable.bytes) as usize, 0);
        globals.insert(variable.name.clone(), (start, variable.bytes));
        ranges.push((start, variable.bytes));
    }
    (globals, image, ranges)
}
