//! Decoded kernels.

use super::registers::Lanewise;
use crate::profile::Class;
use std::sync::Arc;

/// Addresses at which generic pointers to the other spaces begin. Each space has 2^32 bytes.
pub(crate) const SHARED_WINDOW: u64 = 0x5_5500_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x5_6600_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x5_7700_0000_0000;
/// Bytes of a window.
pub(crate) const WINDOW: u64 = 1 << 32;

/// A kernel with all functions that it calls.
#[derive(Default)]
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) instructions: Vec<Instruction>,
    /// For each instruction, what faults and profiles tell of it.
    pub(crate) notes: Vec<Note>,
    /// Registers of each part of the file.
    pub(crate) r: usize,
    pub(crate) d: usize,
    pub(crate) p: usize,
    /// Slots with constants.
    pub(crate) constants: Vec<(u32, u32)>,
    pub(crate) wide_constants: Vec<(u32, u64)>,
    /// 64-bit slots with addresses of the module's variables: their offsets.
    pub(crate) addresses: Vec<(u32, u64)>,
    pub(crate) specials: Vec<(Special, u32)>,
    /// Registers that may be read before they are written.
    pub(crate) watched: Vec<WatchedRegister>,
    pub(crate) static_shared: u32,
    /// Where dynamic shared memory begins: as aligned as the kernel's declarations of it ask.
    pub(crate) dynamic_start: u32,
    pub(crate) local_bytes: u32,
    /// The module's text, for faults.
    pub(crate) text: Arc<str>,
}

/// A register that may be read before it is written.
pub(crate) struct WatchedRegister {
    pub(crate) name: String,
}

pub(crate) struct Note {
    pub(crate) line: u32,
    pub(crate) opcode: String,
    pub(crate) class: Class,
    /// The innermost loop around it, by its first instruction.
    pub(crate) innermost: Option<u32>,
}

/// Whether an instruction is for lanes where a predicate, flipped by a mask, holds.
#[derive(Clone, Copy)]
pub(crate) struct Guard {
    /// `u32::MAX` where there is none.
    pub(crate) predicate: u32,
    pub(crate) flip: u32,
}

pub(crate) struct Instruction {
    pub(crate) guard: Guard,
    pub(crate) op: Op,
    pub(crate) watch: Option<Box<Watch>>,
}

/// Watched registers of an instruction, by their numbers among them.
pub(crate) struct Watch {
    /// A copy hands on that its source is uninitialised; anything else must not read it.
    pub(crate) copies: bool,
    pub(crate) reads: Vec<u32>,
    pub(crate) writes: Vec<u32>,
}

pub(crate) enum Op {
    /// Arithmetic: each lane by itself, or lanes that are all there.
    Lanes(Lanewise),
    Nothing,
    Branch(u32),
    BranchIndexed {
        index: u32,
        targets: Box<[u32]>,
    },
    /// Stores the following pc in the register `link`.
    Call {
        target: u32,
        link: u32,
        moves: Vec<Move>,
    },
    /// Takes the results of a call.
    MoveLocal(Vec<Move>),
    Return {
        link: u32,
    },
    Exit,
    Trap,
    Load(Access),
    Store(Access),
    Atomic(Box<super::atomics::Atomic>),
    Barrier(Barrier),
    /// An instruction that all lanes of a mask in a register execute together; `orders` their memory accesses.
    Sync {
        members: u32,
        orders: bool,
        run: Lanewise,
    },
    LoadMatrix(super::matrix_move::MatrixMove),
    StoreMatrix(super::matrix_move::MatrixMove),
    /// `wmma.load`, `wmma.store`.
    Tile(Box<super::tile::Tile>),
    CopyAsync(super::copy_async::CopyAsync),
    CopyCommit,
    /// All but the newest so many groups are complete.
    CopyWait(u32),
    /// Complete, committed or not.
    CopyWaitAll,
    Mbarrier(super::mbarrier::Mbarrier),
    /// Reads a counter of instructions.
    Clock(Destination),
}

/// Bytes of local memory that a call passes: offsets from and to, and how many.
pub(crate) type Move = (u32, u32, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    /// Reductions over all threads that come.
    Popc,
    And,
    Or,
}

/// `bar` and `barrier`. Operands are registers.
pub(crate) struct Barrier {
    pub(crate) kind: BarrierKind,
    pub(crate) aligned: bool,
    pub(crate) id: u32,
    pub(crate) threads: Option<u32>,
    /// For reductions: the predicate and its flip, and the register or predicate that takes the result.
    pub(crate) source: Guard,
    pub(crate) result: u32,
}

/// Where a register operand of a load or store is, and its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// 32-bit part; so many bits of it (8, 16 or 32).
    R(u32, u32),
    D(u32),
    Sink,
}

/// The space of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessSpace {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// An address operand: a register, if any, plus an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Base,
    pub(crate) offset: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    None,
    R(u32),
    D(u32),
}

/// A load or store.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) space: AccessSpace,
    pub(crate) address: Address,
    /// Bytes of an element.
    pub(crate) bytes: u32,
    /// Whether elements narrower than their registers are sign-extended.
    pub(crate) signed: bool,
    pub(crate) elements: Vec<Destination>,
}

/// Special registers that do not change while a block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    DynamicShared,
    TotalShared,
    Zero,
    /// Where dynamic shared memory begins.
    DynamicSharedStart,
}

impl Special {
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (base, axis) = match name.rsplit_once('.') {
            Some((base, "x")) => (base, 0),
            Some((base, "y")) => (base, 1),
            Some((base, "z")) => (base, 2),
            _ => (name, 3),
        };
        Some(match (base, axis) {
            ("%tid", 0..3) => Self::Tid(axis),
            ("%ntid", 0..3) => Self::Ntid(axis),
            ("%ctaid", 0..3) => Self::Ctaid(axis),
            ("%nctaid", 0..3) => Self::Nctaid(axis),
            ("%laneid", 3) => Self::Laneid,
            ("%warpid", 3) => Self::Warpid,
            ("%nwarpid", 3) => Self::Nwarpid,
            ("%smid", 3) => Self::Smid,
            ("%nsmid", 3) => Self::Nsmid,
            ("%lanemask_eq", 3) => Self::LanemaskEq,
            ("%lanemask_le", 3) => Self::LanemaskLe,
            ("%lanemask_lt", 3) => Self::LanemaskLt,
            ("%lanemask_ge", 3) => Self::LanemaskGe,
            ("%lanemask_gt", 3) => Self::LanemaskGt,
            ("%dynamic_smem_size", 3) => Self::DynamicShared,
            ("%total_smem_size", 3) => Self::TotalShared,
            ("%gridid" | "%cluster_ctarank" | "%clusterid" | "%cluster_ctaid" | "%reserved_smem_offset_begin", _) => {
                Self::Zero
            }
            _ => return None,
        })
    }
}
