//! PTX text: reading it, and what a module holds.

use crate::{Memory, MemoryError};
use std::{fmt, sync::Arc};

/// The newest PTX version that this driver knows unless told otherwise.
pub const NEWEST_VERSION: (u32, u32) = (9, 5);

/// A module: parsed once, its functions ready to run.
pub struct Module {}

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
    pub fn parse_for(_ptx: &str, _compute_capability: (u32, u32), _newest: (u32, u32)) -> Result<Self, ParseError> {
        todo!()
    }

    /// A kernel (`.entry`) by name.
    pub fn function(&self, _name: &str) -> Option<Arc<Function>> {
        todo!()
    }

    /// Names of all kernels.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    /// A module variable (`.global` or `.const`): its offset within the image, and its bytes.
    pub fn global(&self, _name: &str) -> Option<(u64, u64)> {
        todo!()
    }

    /// Bytes of the image of the module's variables.
    pub fn image_bytes(&self) -> u64 {
        0
    }

    /// Allocates the module's variables and writes their initial values; 0 where it has none. The driver frees the
    /// address when it unloads the module, and adds to it the offset that [`Self::global`] gives.
    pub fn place(&self, _memory: &Memory) -> Result<u64, MemoryError> {
        todo!()
    }
}
