//! Which elements of a matrix each lane's registers hold.

use super::{Modifiers, Type};
use crate::machine::registers::LANES;

/// Types of matrix elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    S8,
    U8,
    S32,
}

impl Number {
    pub(super) fn of(kind: Type) -> Option<Self> {
        Some(match kind {
            Type::F16 => Self::F16,
            Type::Bf16 => Self::Bf16,
            Type::Tf32 => Self::Tf32,
            Type::F32 => Self::F32,
            Type::F64 => Self::F64,
            Type::S8 => Self::S8,
            Type::U8 => Self::U8,
            Type::S32 => Self::S32,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::S8 | Self::U8 => 8,
            Self::F16 | Self::Bf16 => 16,
            Self::Tf32 | Self::F32 | Self::S32 => 32,
            Self::F64 => 64,
        }
    }

    /// Elements of a register.
    pub(crate) fn pack(self) -> usize {
        (32 / self.bits()).max(1) as usize
    }
}

/// D (m by n) = A (m by k) B (k by n) + C, so many times side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) batches: usize,
}

impl Shape {
    /// Rows and columns of one of the matrices.
    pub(crate) fn of(self, part: char) -> (usize, usize) {
        match part {
            'a' => (self.m, self.k),
            'b' => (self.k, self.n),
            _ => (self.m, self.n),
        }
    }
}

/// `.m16n8k16` and so on.
pub(super) fn shape_of(m: &Modifiers) -> Option<Shape> {
    let (m, n, k) = m.0.iter().find_map(|part| {
        let (m, rest) = part.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
    })?;
    Some(Shape { m, n, k, batches: 1 })
}

/// A fragment in registers.
pub(crate) struct Fragment {
    pub(crate) registers: Vec<u32>,
    pub(crate) number: Number,
    /// By register, lane and part of the register: the element, counted by rows.
    pub(crate) index: Vec<u16>,
}

/// The elements that the registers of `m8n8k4` of f16 hold: four products, each of two quads of lanes.
fn quad_pairs(shape: Shape, part: char, number: Number, layouts: &[&str]) -> Option<Vec<u16>> {
    let by_rows = match (part, layouts) {
        ('a', [layout, _]) | ('b', [_, layout]) => *layout == "row",
        (_, [_, _]) => true,
        _ => return None,
    };
    let place = move |lane: usize, i: usize| {
        // Lanes 16 and up have the lower half of A's and C's rows, the right half of B's columns.
        let (lower, in_quad) = (4 * (lane / 16), lane % 4);
        match part {
            'a' if by_rows => (in_quad + lower, i),
            'a' => (i + lower, in_quad),
            'b' if by_rows => (in_quad, i + lower),
            'b' => (i, in_quad + lower),
            _ if number == Number::F16 => (in_quad + lower, i),
            _ => ((lane & 1) + (i & 2) + lower, (i & 4) + (lane & 2) + (i & 1)),
        }
    };
    let (rows, cols) = shape.of(part);
    let per_lane = 4 * rows * cols / LANES;
    let mut index = index_of(number, per_lane, cols, place);
    let pack = number.pack();
    for (at, index) in index.iter_mut().enumerate() {
        let product = at / pack % LANES % 16 / 4;
        *index += (product * rows * cols) as u16;
    }
    Some(index)
}

/// The elements that the registers of `mma` hold, as the manual's figures have it; `None` for shapes that are not
/// simulated. The layout of A and B is row and col for all but `m8n8k4` of f16.
pub(super) fn layout_of(shape: Shape, part: char, number: Number, layouts: &[&str]) -> Option<Vec<u16>> {
    use Number::*;
    let Shape { m, n, k, .. } = shape;
    let operand = match part {
        'a' | 'b' => number,
        _ => F32,
    };
    if shape.batches == 4 {
        return quad_pairs(shape, part, number, layouts);
    }
    if layouts != ["row", "col"] {
        return None;
    }
    // Element i of lane l: group g = l / 4, t = l mod 4.
    let place: Box<dyn Fn(usize, usize, usize) -> (usize, usize)> = match (part, operand, (m, n, k)) {
        // Columns of A and rows of B come in runs of as many as fill a register.
        ('a', F16 | Bf16, (16, 8, 8 | 16)) => Box::new(|g, t, i| (g + 8 * (i / 2 % 2), 2 * t + i % 2 + 8 * (i / 4))),
        ('b', F16 | Bf16, (16, 8, 8 | 16)) => Box::new(|g, t, i| (2 * t + i % 2 + 8 * (i / 2), g)),
        ('a', Tf32, (16, 8, 4 | 8)) | ('a', F64, (16, 8, 4 | 8 | 16)) => {
            Box::new(|g, t, i| (g + 8 * (i % 2), t + 4 * (i / 2)))
        }
        ('b', Tf32, (16, 8, 4 | 8)) | ('b', F64, (16, 8, 4 | 8 | 16)) => Box::new(|g, t, i| (t + 4 * i, g)),
        ('a', F64, (8, 8, 4)) => Box::new(|g, t, _| (g, t)),
        ('b', F64, (8, 8, 4)) => Box::new(|g, t, _| (t, g)),
        ('a', S8 | U8, (8, 8, 16)) => Box::new(|g, t, i| (g, 4 * t + i)),
        ('a', S8 | U8, (16, 8, 16 | 32)) => Box::new(|g, t, i| (g + 8 * (i / 4 % 2), 4 * t + i % 4 + 16 * (i / 8))),
        ('b', S8 | U8, (8 | 16, 8, 16 | 32)) => Box::new(|g, t, i| (4 * t + i % 4 + 16 * (i / 4), g)),
        ('c' | 'd', _, (8 | 16, 8, _)) => Box::new(|g, t, i| (g + 8 * (i / 2), 2 * t + i % 2)),
        _ => return None,
    };
    let (rows, cols) = shape.of(part);
    let per_lane = rows * cols / LANES;
    Some(index_of(number, per_lane, cols, |lane, i| place(lane / 4, lane % 4, i)))
}

/// Elements by register, lane and part, where lane l's element i is at a row and column.
fn index_of(number: Number, per_lane: usize, cols: usize, place: impl Fn(usize, usize) -> (usize, usize)) -> Vec<u16> {
    let pack = number.pack();
    let mut index = Vec::new();
    for register in 0..per_lane / pack {
        for lane in 0..LANES {
            for part in 0..pack {
                let (row, col) = place(lane, register * pack + part);
                index.push((row * cols + col) as u16);
            }
        }
    }
    index
}

/// The elements that the registers of `wmma` hold: the manual leaves it open, so simply in order, by register, lane and
/// part; again from the beginning where a fragment has more room than elements.
pub(super) fn tile_index(shape: Shape, part: char, number: Number, registers: usize) -> Vec<u16> {
    let (rows, cols) = shape.of(part);
    (0..registers * LANES * number.pack()).map(|at| (at % (rows * cols)) as u16).collect()
}
