//! Types, and the syntax tree that the parser makes of a module.

/// A type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
}

impl Type {
    /// By name, without the dot.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::B8 | Self::U8 | Self::S8 => 8,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 16,
            Self::B32 | Self::U32 | Self::S32 | Self::F16x2 | Self::Bf16x2 | Self::Tf32 | Self::F32 => 32,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 64,
            Self::B128 => 128,
        }
    }

    pub(crate) fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    pub(crate) fn float(self) -> bool {
        matches!(self, Self::F16 | Self::F16x2 | Self::Bf16 | Self::Bf16x2 | Self::Tf32 | Self::F32 | Self::F64)
    }
}

/// State spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateSpace {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A register of a function, by number.
pub(crate) type Register = u32;

/// A declared variable: of the module, or of a function.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) space: StateSpace,
    pub(crate) align: u32,
    pub(crate) bytes: u64,
    /// `extern .shared x[]`: dynamic shared memory.
    pub(crate) external: bool,
    /// Initial bytes; empty where there is no initialiser.
    pub(crate) initial: Vec<u8>,
    /// Addresses of other module variables within the initial bytes: offset, name, addend.
    pub(crate) relocations: Vec<(u64, String, i64)>,
}

/// What a name in an operand or an address refers to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Symbol {
    /// A variable of the function, by number.
    Local(usize),
    /// Anything of the module: a variable or a function.
    Module(String),
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Register(Register),
    /// `!p`
    Not(Register),
    /// `%tid.x` and its like.
    Special(String),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A symbol with an addend.
    Symbol(Symbol, i64),
    /// A label, by name and scope; only branches use it.
    Label(String),
    /// `[base + offset]`
    Address(Box<Operand>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `(a, b)`
    List(Vec<Operand>),
    /// `p|q`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// Guard predicate, and whether it is negated.
    pub(crate) guard: Option<(Register, bool)>,
    /// Opcode and its modifiers.
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
    pub(crate) line: u32,
    /// The scope, for its labels.
    pub(crate) scope: usize,
}

impl Instruction {
    /// Opcode and modifiers, one by one.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &str> {
        self.opcode.split('.')
    }
}

/// A function's body as written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) name: String,
    pub(crate) entry: bool,
    /// Has a body: it is not a mere declaration.
    pub(crate) defined: bool,
    pub(crate) max_threads: Option<u32>,
    /// Numbers of the variables that are its parameters, and those that it returns.
    pub(crate) params: Vec<usize>,
    pub(crate) returns: Vec<usize>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) registers: Vec<(String, Type)>,
    pub(crate) instructions: Vec<Instruction>,
    /// Label, scope, and the instruction that it is before.
    pub(crate) labels: Vec<(String, usize, usize)>,
    /// `.branchtargets`: its label, and those it lists.
    pub(crate) targets: Vec<(String, usize, Vec<String>)>,
    /// The scope around each scope.
    pub(crate) scopes: Vec<usize>,
}

impl Body {
    /// The instruction that a label seen from a scope is before.
    pub(crate) fn label(&self, name: &str, scope: usize) -> Option<usize> {
        self.visible(scope, |at| self.labels.iter().find(|(label, of, _)| *of == at && label == name).map(|l| l.2))
    }

    /// The list of a `.branchtargets`.
    pub(crate) fn branch_targets(&self, name: &str, scope: usize) -> Option<&[String]> {
        self.visible(scope, |at| {
            self.targets.iter().find(|(label, of, _)| *of == at && label == name).map(|t| &t.2[..])
        })
    }

    fn visible<T>(&self, mut scope: usize, find: impl Fn(usize) -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = find(scope) {
                return Some(found);
            }
            if scope == 0 {
                return None;
            }
            scope = self.scopes[scope];
        }
    }
}
