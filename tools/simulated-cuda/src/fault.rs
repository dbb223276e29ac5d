//! What can go wrong while a kernel runs.

use std::fmt;

/// A kernel's first error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kernel's name.
    pub kernel: String,
    /// Line of the module's PTX text, from 1; 0 where no one instruction is to blame.
    pub line: u32,
    /// The PTX instruction as it stands there.
    pub text: String,
    /// The block.
    pub block: [u32; 3],
    /// The thread of the block.
    pub thread: [u32; 3],
    /// What happened.
    pub kind: FaultKind,
    /// The address, for those kinds that have one; within its own space for shared, local and param.
    pub address: Option<u64>,
}

/// A memory space, as a fault names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Device memory.
    Global,
    /// The block's shared memory.
    Shared,
    /// The thread's local memory.
    Local,
    /// The kernel's parameters.
    Param,
}

/// The kinds of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An access of `size` bytes that is not within an allocation.
    OutOfBounds { space: Space, size: u32, write: bool },
    /// An address that is not a multiple of the access's size.
    Misaligned { space: Space, size: u32 },
    /// Memory read before anything wrote it.
    UninitialisedMemory { space: Space, size: u32 },
    /// A register read before anything wrote it.
    UninitialisedRegister { register: String },
    /// Two threads' accesses to shared memory, at least one of them a write, with no barrier between them.
    Race { earlier: Access, later: Access, other_thread: u32 },
    /// Shared memory touched while a `cp.async` of thread `issuer` that writes it has not been waited for.
    UnwaitedCopy { issuer: u32 },
    /// A thread ended with `cp.async` copies that it never waited for.
    PendingCopy,
    /// Threads of a warp at different barriers, or at an aligned instruction without the others.
    DivergentBarrier,
    /// A `.sync` instruction whose member mask names threads that do not come.
    DivergentSync { members: u32, present: u32 },
    /// No thread can go on: some wait at barriers for others that never come.
    Deadlock,
    /// `trap`, or a failed `assert`.
    Trap,
    /// More instructions than the device's limit.
    Timeout,
    /// An instruction with operands that the simulator does not execute, or a malformed value at run time.
    Invalid(String),
}

/// How an access touches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds { space, size, write } => {
                let verb = if *write { "write" } else { "read" };
                write!(f, "out-of-bounds {space:?} {verb} of {size} bytes")
            }
            Self::Misaligned { space, size } => write!(f, "misaligned {space:?} access of {size} bytes"),
            Self::UninitialisedMemory { space, size } => {
                write!(f, "read of uninitialised {space:?} memory, {size} bytes")
            }
            Self::UninitialisedRegister { register } => write!(f, "read of uninitialised register {register}"),
            Self::Race { earlier, later, other_thread } => {
                write!(
                    f,
                    "race in shared memory: {later:?} after a {earlier:?} by thread {other_thread}, no barrier between"
                )
            }
            Self::UnwaitedCopy { issuer } => {
                write!(f, "shared memory touched while a cp.async of thread {issuer} is not waited for")
            }
            Self::PendingCopy => write!(f, "exit with a cp.async that was never waited for"),
            Self::DivergentBarrier => write!(f, "divergent barrier"),
            Self::DivergentSync { members, present } => {
                write!(f, "divergent .sync instruction: members {members:#010x}, present {present:#010x}")
            }
            Self::Deadlock => write!(f, "deadlock at a barrier"),
            Self::Trap => write!(f, "trap"),
            Self::Timeout => write!(f, "too many instructions"),
            Self::Invalid(what) => write!(f, "invalid: {what}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, line, text, block, thread, kind, address } = self;
        write!(f, "{kernel}: {kind}")?;
        if let Some(address) = address {
            write!(f, " at {address:#x}")?;
        }
        let ([bx, by, bz], [tx, ty, tz]) = (block, thread);
        write!(f, "; block ({bx},{by},{bz}), thread ({tx},{ty},{tz}); PTX line {line}: {text}")
    }
}

impl std::error::Error for Fault {}
