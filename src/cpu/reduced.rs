//! All pairs summed over the problems: y\[s,t,k\] = c Σ_m z\[m,s\]ᵀ W_k x\[m,t\] + b_k (the outer-product mean of Jumper et al.,
//! *Highly accurate protein structure prediction with AlphaFold*, Nature 2021, algorithm 10), by the cheaper of
//!
//! ```text
//!   contraction first   the sums of pairs.rs of all problems add up in tiles that are kept     M·S·IJK + M·S·T·JK
//!   outer products      O[s,t][i,j] = Σ_m z[m,s][i] x[m,t][j]    depth m, rows i, lanes j      M·S·T·IJ
//!                       y[s,t][k]   = Σ_ij O[s,t][i,j] W[k][i,j] depth (i, j), rows (s, t), lanes k      + S·T·IJK
//!
//!   tasks: blocks of rows s × rows t, whose O is of at most 1 MiB of f32
//! ```

use super::cache::{part, parts};
use super::kernels::{Epilogue, Fetch, Gemm};
use super::operand::{Cube, Part};
use super::output::{Place, Sink};
use super::pairs::{GENERATED, Pairs, Task, To, rows_of};
use super::parallel::{self, Shared};
use super::product::{Block, Lanes, Product, Target};
use super::scratch;
use super::simd::Kernels;
use super::small::copy_rows;
use crate::interaction::Core;
use crate::{Result, View};

/// Rows (s, t) of a task.
const ROWS: usize = 256;
/// Outputs that are computed at once.
const OUTPUTS: usize = 512;
/// Bytes of packed W that a call may keep.
const PACKED_BYTES: usize = 4 << 20;

impl<T: Kernels> Pairs<'_, T> {
    /// y [S, T, K] of the sum of all problems, times `scale`; there are no linear terms. On so many threads.
    pub(crate) fn reduce(&self, y: To<T>, scale: T::Acc, threads: usize) -> Result<()> {
        if let Core::Dense(w) = self.core
            && self.prefers_outer()
        {
            return Outer { p: self, w, scale }.run(y, threads);
        }
        if self.prefers_swap() {
            return self.swap().contract_z(y.swap(), threads, Some(scale));
        }
        self.contract_z(y, threads, Some(scale))
    }

    /// Whether it is cheaper to form the outer products.
    pub(crate) fn prefers_outer(&self) -> bool {
        let [m, s, t, k] = self.sizes.map(|len| len as f64);
        let [i, j] = [self.z.shape()[2], self.x.shape()[2]].map(|len| len as f64);
        let lanes = self.x.shape()[2].next_multiple_of(self.table.lanes) as f64;
        let outer = s * t * i * (m * lanes + j * k);
        let contracted = (m * s * j * k * (i + t)).min(m * t * i * k * (j + s));
        matches!(self.core, Core::Dense(_)) && outer < contracted
    }
}

impl<T: Kernels> Task<'_, T> {
    /// y of some rows of z and of x, of all problems.
    ///
    /// # Safety
    ///
    /// As all of a task's.
    pub(super) unsafe fn reduce(&self, t: Part, s: Part, y: To<T>, scale: T::Acc) {
        let (p, outs) = (self.pairs, self.k.1);
        let rows = s.1 * outs;
        let sums = |tile: usize| self.scratch[6].wrapping_add(tile * rows * p.table.mr);
        // SAFETY: the caller's contract.
        unsafe {
            for m in 0..p.sizes[0] {
                let bare = Pairs { b: None, ..*p };
                Task { pairs: &bare, ..*self }.generate(rows_of(p.z, (m, 1), s));
                for part in self.parts_of_x(t) {
                    self.project(m, part);
                    for tile in self.tiles(part) {
                        let index = (tile.n.0 - t.0) / p.table.mr;
                        self.meet(m, [0, s.1, part.0], tile, sums(index), m == 0);
                    }
                }
            }
            for (index, rows_of_x) in self.tiles(t).enumerate() {
                let Some(tile) = rows_of_x.tiles().next() else { return };
                for row in 0..rows {
                    let b = p.b.and_then(|b| b.get([self.k.0 + row % outs])).map_or(T::Acc::default(), T::to_acc);
                    let sums = std::slice::from_raw_parts_mut(sums(index).add(row * tile.width), tile.width);
                    sums.iter_mut().for_each(|sum| *sum = *sum * scale + b);
                }
                self.write((0, s), rows_of_x, sums(index), y);
            }
        }
    }
}

/// By outer products.
struct Outer<'a, T: Kernels> {
    p: &'a Pairs<'a, T>,
    w: View<'a, T, 3>,
    scale: T::Acc,
}

/// Sizes of the blocks of [`Outer`].
struct Blocks {
    sb: usize,
    tb: usize,
    kb: usize,
    kc: usize,
    /// Length of W packed for the whole call, if it is.
    packed: usize,
    /// O, y, z of a part of the problems, a panel of x, a strip, a tile.
    lengths: [usize; 6],
}

impl Blocks {
    fn new<T: Kernels>(p: &Pairs<'_, T>, threads: usize) -> Blocks {
        let ([_, s, t, k], i, j) = (p.sizes, p.z.shape()[2], p.x.shape()[2]);
        let (table, kc) = (p.table, p.caches.kc(p.table));
        let (mr, each) = (table.mr, i.saturating_mul(j).max(1));
        let rows = (GENERATED / each).clamp(1, ROWS);
        let wanted = if threads > 1 { 4 * threads } else { 1 };
        let sb = part(s, (rows / t.clamp(1, 64)).clamp(1, s.div_ceil(wanted).max(1)), 1).max(1);
        let tb = part(t, (rows / sb).max(1), 1).max(1);
        let kb = part(k, OUTPUTS, mr).next_multiple_of(mr).max(mr);
        let packed = each.saturating_mul(k.next_multiple_of(mr));
        let packed = if packed.saturating_mul(size_of::<T::Acc>()) <= PACKED_BYTES { packed } else { 0 };
        let rows = sb * tb;
        // One strip of x and one of W are never needed at once, nor are tiles of both.
        let lengths = [rows * each, rows * kb, kc * sb * (i + 16), kc * mr, kc * mr, rows.max(i) * mr];
        Blocks { sb, tb, kb, kc, packed, lengths }
    }
}

impl<T: Kernels> Outer<'_, T> {
    fn run(&self, y: To<T>, threads: usize) -> Result<()> {
        let blocks = Blocks::new(self.p, threads);
        let [_, s, t, _] = self.p.sizes;
        scratch::with([blocks.packed], |[packed]| {
            let lanes = self.weights().map(|w| {
                let mut next = if blocks.packed > 0 { packed } else { std::ptr::null_mut() };
                // SAFETY: the room was counted.
                unsafe { Lanes::pack_all(self.p.table, w, &mut next) }
            });
            let shared = Shared::new(y.first);
            let (s_cuts, t_cuts) = (s.div_ceil(blocks.sb), t.div_ceil(blocks.tb));
            parallel::run(threads, s_cuts * t_cuts, |index| {
                let (s0, t0) = (index / t_cuts * blocks.sb, index % t_cuts * blocks.tb);
                let (s, t) = ((s0, blocks.sb.min(s - s0)), (t0, blocks.tb.min(t - t0)));
                scratch::with(blocks.lengths, |scratch| {
                    // SAFETY: the scratch has the lengths of the blocks, the operands' shapes agree, and no other task has
                    // these rows.
                    unsafe {
                        self.form(&blocks, s, t, scratch);
                        self.project(&blocks, lanes, s, t, scratch, To { first: shared.get(), ..y });
                    }
                    Ok(())
                })
            })
        })
    }

    /// W as a matrix [I·J, K], if its strides allow that.
    fn weights(&self) -> Option<View<'_, T, 2>> {
        let ([k, i, j], [sk, si, sj]) = (self.w.shape(), self.w.strides());
        let step = if j == 1 { si } else { sj };
        // SAFETY: the elements of W, of which i and j are evenly spaced together.
        (i == 1 || j == 1 || si == sj.wrapping_mul(j as isize))
            .then(|| unsafe { View::from_raw_parts(self.w.host_ptr(), [i * j, k], [step, sk]) })
    }

    /// O of rows s and t, as [s][t][i][j].
    unsafe fn form(&self, blocks: &Blocks, s: Part, t: Part, [outer, _, staged, panel, _, tile]: [*mut T::Acc; 6]) {
        let (p, table) = (self.p, self.p.table);
        let ([problems, ..], i, j) = (p.sizes, p.z.shape()[2], p.x.shape()[2]);
        let product = Product { table, kc: blocks.kc, few: false, strip: panel, tile, staged };
        let ([zm, zs, zi], [xm, xt, xj]) = (p.z.strides(), p.x.strides());
        let pitch = i + 16;
        for m in parts(problems, blocks.kc, table.lanes) {
            let first = m.0 as isize;
            // SAFETY: see `run`.
            unsafe {
                for row in 0..s.1 {
                    let offset = first.wrapping_mul(zm).wrapping_add(((s.0 + row) as isize).wrapping_mul(zs));
                    let z = View::from_raw_parts(p.z.host_ptr().wrapping_offset(offset), [m.1, i], [zm, zi]);
                    copy_rows(table, z, staged.add(row * m.1 * pitch), pitch);
                }
                for column in 0..t.1 {
                    let offset = first.wrapping_mul(xm).wrapping_add(((t.0 + column) as isize).wrapping_mul(xt));
                    let x = View::from_raw_parts(p.x.host_ptr().wrapping_offset(offset), [m.1, j], [xm, xj]);
                    for j0 in (0..j).step_by(table.mr) {
                        let vectors = Lanes::matrix(x).pack(table, (0, m.1), (j0, j), panel);
                        for row in 0..s.1 {
                            let gemm = Gemm {
                                a: panel.cast_const(),
                                a_stride: (vectors * table.lanes) as isize,
                                vectors,
                                b: staged.add(row * m.1 * pitch).cast_const(),
                                b_stride: 1,
                                b_step: pitch as isize,
                                rows: i,
                                depth: m.1,
                                out: std::ptr::null_mut(),
                                out_stride: 0,
                                epilogue: Epilogue::Set,
                                fetch: Fetch::Nothing,
                            };
                            let to = Target::scratch(outer.add((row * t.1 + column) * i * j + j0), j);
                            let epilogue = if m.0 > 0 { Epilogue::Add } else { Epilogue::Set };
                            product.store(&gemm, j - j0, Target { padded: false, ..to }, epilogue);
                        }
                    }
                }
            }
        }
    }

    /// y of rows s and t.
    unsafe fn project(
        &self,
        blocks: &Blocks,
        lanes: Option<Lanes<'_, T>>,
        s: Part,
        t: Part,
        [outer, sums, staged, _, strip, tile]: [*mut T::Acc; 6],
        y: To<T>,
    ) {
        let (p, table) = (self.p, self.p.table);
        let ([.., k], i, j, rows) = (p.sizes, p.z.shape()[2], p.x.shape()[2], s.1 * t.1);
        let product = Product { table, kc: blocks.kc, few: false, strip, tile, staged };
        let [_, ss, st, sk] = y.strides;
        for outs in parts(k, blocks.kb, table.mr) {
            let (block, to) = (Block { rows, over: 0, columns: outs }, Target::scratch(sums, blocks.kb));
            // SAFETY: see `run`; O is rows of contiguous (i, j).
            unsafe {
                let of = |first: usize, depth: usize| {
                    let first = outer.wrapping_add(first).cast_const();
                    Cube::Widened(View::from_raw_parts(first, [1, rows, depth], [0, (i * j) as isize, 1]))
                };
                match lanes {
                    Some(lanes) => product.run(of(0, i * j), lanes, block, to, Epilogue::Set),
                    None => {
                        for i in 0..i {
                            let ([k, _, _], [sk, si, sj]) = (self.w.shape(), self.w.strides());
                            let first = self.w.host_ptr().wrapping_offset((i as isize).wrapping_mul(si));
                            let lanes = Lanes::matrix(View::from_raw_parts(first, [j, k], [sj, sk]));
                            let epilogue = if i > 0 { Epilogue::Add } else { Epilogue::Set };
                            product.run(of(i * j, j), lanes, block, to, epilogue);
                        }
                    }
                }
                for row in 0..rows {
                    let (s, t) = ((s.0 + row / t.1) as isize, (t.0 + row % t.1) as isize);
                    let sums = std::slice::from_raw_parts_mut(sums.add(row * blocks.kb), outs.1);
                    for (out, sum) in sums.iter_mut().enumerate() {
                        let b = p.b.and_then(|b| b.get([outs.0 + out])).map_or(T::Acc::default(), T::to_acc);
                        *sum = *sum * self.scale + b;
                    }
                    let offset = s.wrapping_mul(ss).wrapping_add(t.wrapping_mul(st));
                    let offset = offset.wrapping_add((outs.0 as isize).wrapping_mul(sk));
                    let to = Sink { place: Place::Stored(y.first.wrapping_offset(offset)), strides: [0, sk] };
                    to.write_row(0, sums);
                }
            }
        }
    }
}
