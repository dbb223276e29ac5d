//! Products of components without a sum over them: diagonal cores and their gradients (see kernels/gate_problem.cuh).

use super::choose::{Kernel, kernel};
use super::contract::Batch;
use super::gram::total;
use super::operand::{Matrix, Operand, Output};
use super::problem::{Extent, Gate, GateBack, Gram, Plane, Rows, Type, bytes, length};
use super::recorder::Recorder;
use crate::{Error, Result};

/// Threads of a block, and components of a thread.
static GATE_F32: [Kernel; 2] = [
    kernel("gate_f32_256x4", "gate_f32", [THREADS, 4, 1], [THREADS, 4], [0; 3], 4),
    kernel("gate_f32_256x8", "gate_f32", [THREADS, 8, 1], [THREADS, 4], [0; 3], 4),
];
static GATE_F64: Kernel = kernel("gate_f64_256x2", "gate_f64", [THREADS, 2, 1], [THREADS, 4], [0; 3], 8);
static DGATE_F32: Kernel = kernel("dgate_f32_256x4", "gate_f32", [THREADS, 4, 1], [THREADS, 3], [0; 3], 4);
static DGATE_F64: Kernel = kernel("dgate_f64_256x2", "gate_f64", [THREADS, 2, 1], [THREADS, 4], [0; 3], 8);
const THREADS: u32 = 256;

/// Blocks for each that a device has at once: so many that the last ones to end are few.
const WAVES: u32 = 4;
/// Rows of a group's part, of which there is one sum: these sums are few beside what is read.
const PART: usize = 16;
/// Components of all rows, so that a call ends.
const MOST: usize = 1 << 48;

/// Rows: so many groups of so many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups {
    pub(super) count: usize,
    pub(super) each: usize,
}

impl Groups {
    /// One row for each.
    pub(super) fn heads(self) -> Groups {
        Groups { each: 1, ..self }
    }

    pub(super) fn batch(self) -> Batch {
        if self.each == 1 { Batch::plain(self.count) } else { Batch::groups(self.count, self.each) }
    }

    /// [g][m][column] as rows of [`batch`](Self::batch).
    pub(super) fn matrix(self, of: Operand<3>) -> Matrix {
        match self.each {
            1 => of.head().matrix(),
            _ => of.grouped(),
        }
    }
}

impl Operand<2> {
    /// One row of each group.
    pub(super) fn heads(self) -> Operand<3> {
        let Operand { address, strides: [row, column], kind } = self;
        Operand { address, strides: [row, 0, column], kind }
    }
}

impl Operand<3> {
    /// The first row of each group.
    pub(super) fn head(self) -> Operand<2> {
        let Operand { address, strides: [group, _, column], kind } = self;
        Operand { address, strides: [group, column], kind }
    }
}

impl Output<2> {
    /// One row of each group.
    pub(super) fn heads(self) -> Output<3> {
        Output { to: self.to.heads(), add: self.add }
    }
}

impl Output<3> {
    /// The first row of each group.
    pub(super) fn head(self) -> Output<2> {
        Output { to: self.to.head(), add: self.add }
    }
}

impl From<Operand<3>> for Plane {
    fn from(Operand { address, strides: [outer, inner, r], kind }: Operand<3>) -> Plane {
        Plane { at: address, n: Rows { outer, inner }, r, kind, add: 0 }
    }
}

impl From<Operand<1>> for Plane {
    fn from(of: Operand<1>) -> Plane {
        Plane { at: of.address, n: Rows::default(), r: of.strides[0], kind: of.kind, add: 0 }
    }
}

impl From<Output<3>> for Plane {
    fn from(Output { to, add }: Output<3>) -> Plane {
        Plane { add: i32::from(add), ..to.into() }
    }
}

/// An operand that may be absent.
pub(super) fn plane<V: Into<Plane>>(of: Option<V>) -> Plane {
    of.map(Into::into).unwrap_or_default()
}

/// What the gradients of a diagonal core are made of, and where they go: as in [`GateBack`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Back {
    /// Those that are factors of no result may be absent.
    pub(super) p: Option<Operand<3>>,
    pub(super) q: Option<Operand<3>>,
    pub(super) d: Option<Operand<3>>,
    pub(super) s: Option<Operand<1>>,
    /// A second destination only of groups of one row.
    pub(super) of_p: [Option<Output<3>>; 2],
    pub(super) of_q: [Option<Output<3>>; 2],
    pub(super) h: Option<Operand<3>>,
    pub(super) of_s: Option<Output<1>>,
}

impl Recorder<'_> {
    /// out (+)= p⊙q⊙s + c, of `r` components a row.
    pub(super) fn gate(&mut self, groups: Groups, r: usize, gate: Gate) -> Result<()> {
        let narrow = |kind| bytes(kind) == 2;
        let kernel = match gate.out.kind {
            Type::F64 => &GATE_F64,
            out => &GATE_F32[usize::from(narrow(out) && narrow(gate.q.kind) && gate.q.at != 0)],
        };
        let Some((extent, blocks)) = self.extent(kernel, groups, r)? else { return Ok(()) };
        self.launch(kernel, blocks, 0, &Gate { extent, ..gate })
    }

    /// The gradients of a diagonal core of `r` components, whose sums are of this type: in a second launch where the rows of a
    /// sum were several threads'.
    pub(super) fn gate_back(&mut self, groups: Groups, r: usize, kind: Type, back: Back) -> Result<()> {
        let kernel = if kind == Type::F64 { &DGATE_F64 } else { &DGATE_F32 };
        let Some((extent, blocks)) = self.extent(kernel, groups, r)? else { return Ok(()) };
        let mark = self.mark();
        let (parts, chunks, pitch) = (extent.parts as usize, extent.chunks as usize, r as i64);
        let Back { p, q, d, s, of_p, of_q, h, of_s } = back;
        let mut problem = GateBack {
            extent,
            p: plane(p),
            q: plane(q),
            d: plane(d),
            s: plane(s),
            of_p: of_p.map(plane),
            of_q: of_q.map(plane),
            h: plane(h),
            of_s: Plane::default(),
        };
        let mut sums = [Gram::default(); 2];
        if let [Some(Output { to, add }), _] = of_p
            && parts > 1
        {
            let partial = self.scratch(&[parts, groups.count, r], kind)?;
            let from_part = pitch * groups.count as i64;
            problem.of_p[0] =
                Plane { at: partial, n: Rows { outer: pitch, inner: from_part }, r: 1, kind, ..Plane::default() };
            let from =
                Matrix { address: partial, rows: Rows { outer: 0, inner: from_part }, column: 1, batch: pitch, kind };
            let [group, _, column] = to.strides;
            sums[0] = Gram::new(Batch::plain(parts), [1, 1, r], groups.count).q(from).to(
                Operand { strides: [0, 0, column], ..to },
                group,
                add,
            );
        }
        if let Some(to) = of_s {
            let partial = self.scratch(&[chunks, r], kind)?;
            problem.of_s = Plane { at: partial, n: Rows { outer: pitch, inner: 0 }, r: 1, kind, ..Plane::default() };
            let from = Matrix { address: partial, rows: Rows { outer: 0, inner: pitch }, column: 1, batch: 0, kind };
            sums[1] = total(Batch::plain(chunks), (r, from), to);
        }
        self.launch(kernel, blocks, 0, &problem)?;
        self.gram(&sums)?;
        self.release(mark);
        Ok(())
    }

    /// How a kernel's threads share the rows, and how many blocks they are; nothing of no components.
    fn extent(&self, kernel: &Kernel, groups: Groups, r: usize) -> Result<Option<(Extent, i64)>> {
        let Groups { count, each } = groups;
        if [count, each, r].contains(&0) {
            return Ok(None);
        }
        let all = count.checked_mul(each).and_then(|rows| rows.checked_mul(r));
        all.filter(|&all| all <= MOST).ok_or(Error::TooLarge { what: "a batch" })?;
        let (threads, width) = (THREADS as usize, kernel.tile[1] as usize);
        let lanes = r.div_ceil(width).next_power_of_two().min(threads);
        let (rows, tiles) = (threads / lanes, r.div_ceil(lanes * width));
        let most = ((self.target.gpu.processors * kernel.resident * WAVES) as usize / tiles).max(1);
        let parts = (most * rows / count).min(each / PART).max(1);
        let rows_of_part = each.div_ceil(parts);
        let parts = each.div_ceil(rows_of_part);
        let chunks = (count * parts).div_ceil(rows).min(most);
        let extent = Extent {
            groups: length(count),
            each: length(each),
            r: length(r),
            parts: length(parts),
            rows: length(rows_of_part),
            chunks: length(chunks),
            lanes: lanes as i32,
            pad: 0,
        };
        Ok(Some((extent, (chunks * tiles) as i64)))
    }
}
