//! Memory that a batch will need soon, asked for while the microkernel computes: packing rows and writing results would
//! otherwise wait for it.

use super::kernels::{Ahead, Lines};
use super::operand::{Cube, Part};
use super::output::{Place, Sink};
use super::simd::Kernels;
use super::trilinear::{Roles, Trilinear};

/// What a task's last block of W asks for in advance: where its results go, and the inputs of the task that the thread will
/// probably take next. Each is some bytes of memory.
pub(crate) struct Soon([(*const u8, usize); 5]);

impl Soon {
    pub(crate) fn new<T: Kernels>(
        t: &Trilinear<'_, T>,
        roles: Roles,
        next: Part,
        results: [(Option<Sink<T>>, Part, Part); 2],
    ) -> Soon {
        // Rows with gaps are left to the hardware.
        let bytes = |rows: usize, columns: usize, [row, column]: [isize; 2], size: usize| {
            let dense = column == 1 && row >= columns as isize && row <= (columns + columns / 4) as isize;
            if dense { rows * row as usize * size } else { 0 }
        };
        let of_input = |axis: usize| {
            t.inputs[axis].map_or((std::ptr::null(), 0), |input| {
                let strides = input.strides();
                let first = input.host_ptr().wrapping_offset((next.0 as isize).wrapping_mul(strides[0]));
                (first.cast(), bytes(next.1, input.shape()[1], strides, size_of::<T>()))
            })
        };
        let of_result = |(to, n, columns): (Option<Sink<T>>, Part, Part)| {
            to.map_or((std::ptr::null(), 0), |to| {
                let (first, size): (*const u8, usize) = match to.at(n.0, columns.0).place {
                    Place::Stored(to) => (to.cast_const().cast(), size_of::<T>()),
                    Place::Sums(to) | Place::Added(to) => (to.cast_const().cast(), size_of::<T::Acc>()),
                };
                (first, bytes(n.1, columns.1, to.strides, size))
            })
        };
        let [a, b] = results.map(of_result);
        Soon([a, b, of_input(roles.a), of_input(roles.b), of_input(roles.c)])
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|&(_, bytes)| bytes).sum()
    }

    /// So many bytes on, as if one lay behind the other.
    pub(crate) fn at(&self, mut offset: usize) -> *const u8 {
        for &(first, bytes) in &self.0 {
            if offset < bytes {
                return first.wrapping_add(offset);
            }
            offset -= bytes;
        }
        self.0[0].0
    }
}

/// The next block of W, brought while the tiles of the batch meet this one.
pub(crate) struct Coming<A> {
    first: *const A,
    /// Behind this block, for each of the tiles.
    bytes: usize,
    /// Or the distance of its rows, where each step of depth is one, and the lines of each, which the first tile brings.
    rows: Option<(usize, usize)>,
}

impl<A: Copy> Coming<A> {
    pub(crate) fn nothing(used: *const A) -> Self {
        Coming { first: used, bytes: 0, rows: None }
    }

    /// A block that begins at `next`, of contiguous elements, where the depth is the axis `pc`, during so many tiles.
    pub(crate) fn new<T: Kernels<Acc = A>>(
        w: &Cube<'_, T>,
        (next, [outer, middle, inner]): ([usize; 3], [usize; 3]),
        pc: usize,
        tiles: usize,
    ) -> Self {
        let (first, size) = (w.at(next), w.element());
        let row = middle * inner * size;
        match pc {
            0 => {
                let distance = (w.strides()[0] as usize).wrapping_mul(size);
                Coming { first, bytes: 0, rows: Some((distance, row.div_ceil(64))) }
            }
            _ => Coming { first, bytes: (outer * row).div_ceil(tiles.max(1)), rows: None },
        }
    }

    /// With the panels, what is asked for by so many calls of the microkernel, in a pass of the depth.
    pub(crate) fn during(
        &self,
        (panels, panel_bytes): (*const A, usize),
        tile: usize,
        (calls, (d0, depth), whole): (usize, Part, usize),
    ) -> Ahead<A> {
        let of_pass = |first: *const A, bytes: usize| {
            let at = |d: usize| bytes * d / whole.max(1);
            (first.wrapping_byte_add(at(d0)), at(d0 + depth) - at(d0))
        };
        let panels = of_pass(panels, panel_bytes);
        match self.rows {
            // A line of each row, then the next line of each.
            Some((row, lines)) if tile == 0 => {
                let next = self.first.wrapping_byte_add(row.wrapping_mul(d0));
                let jump = 64isize.wrapping_sub(row.wrapping_mul(depth) as isize);
                let then = Lines::evenly(panels, calls.saturating_sub(lines) * depth);
                Ahead { now: Lines { next, step: row, jump }, tiles: lines.max(1), then }
            }
            _ => {
                let weights = of_pass(self.first.wrapping_byte_add(tile * self.bytes), self.bytes);
                Ahead::of(panels, weights, calls, depth)
            }
        }
    }
}
