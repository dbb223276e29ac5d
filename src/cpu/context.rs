//! One z for many rows of x: W′ = zᵀW + V and b′ = zᵀU + b are contracted first, in blocks that stay in cache.
//!
//! ```text
//!   tasks: blocks of groups g × outputs k
//!   W′[g][k][·] = Σ_i z[g][i] · W[k][i][·] + V[k][·]     lanes over j; the rows i of W are the depth; tiles of NR rows g
//!   y[g][m][k]  = Σ_j x[g][m][j] · W′[g][k][j] + b′[g][k] lanes over m; tiles of NR rows k
//! ```
//!
//! Cost G·IJK + G·M·JK instead of the G·M·IJK of a batch (Ha et al., *HyperNetworks*, ICLR 2017).

use super::cache::{part, parts};
use super::kernels::{Epilogue, Fetch, Fold, Gemm, Pack, Stream, gather};
use super::operand::{Cube, Part};
use super::output::{Output, Place, Sink, Staging};
use super::parallel::{self, Shared};
use super::problem::Problem;
use super::scratch;
use super::simd::Kernels;
use super::small;
use crate::{Result, View, ViewMut};

/// Elements of W′ in a task: 2 MiB of f32. One group's, a part of L2, meets all of its rows of x before the next one's.
const GENERATED: usize = 1 << 19;
/// Outputs that a task should have at least, to share the packing of x.
const OUTPUTS: usize = 32;

/// What is made of W′.
pub(crate) enum Target<'a, T> {
    /// y [G, M, K] of x [G, M, J].
    Apply(View<'a, T, 3>, ViewMut<'a, T, 3>),
    /// W′ [G, K, J] and b′ [G, K] themselves.
    Generate(ViewMut<'a, T, 3>, ViewMut<'a, T, 2>),
}

/// Sizes of the blocks.
pub(crate) struct Blocks {
    /// Groups in a task.
    gb: usize,
    /// Outputs in a task.
    kb: usize,
    /// Distance between rows of W′, a multiple of MR.
    ld: usize,
    kc: usize,
    /// Rows of x in a block, a multiple of MR.
    mc: usize,
    /// Lengths of scratch arrays: W′, b′, z panels or x panels, y, a strip of W, staged rows.
    pub(crate) lengths: [usize; 6],
}

impl Blocks {
    pub(crate) fn new<T: Kernels>(p: &Problem<'_, T>, rows: usize, threads: usize) -> Blocks {
        let (mr, kc) = (p.table.mr, p.kc());
        let ld = p.j.next_multiple_of(mr) + 16;
        let gb = part(p.n, (8 * p.table.nr).min(GENERATED / ld).max(1), 1).max(1);
        let g_blocks = p.n.div_ceil(gb).max(1);
        let wanted = parallel::cut(threads, g_blocks);
        let kb =
            part(p.k, (GENERATED / ld / gb).min(GENERATED / (4 * mr)).clamp(1, p.k.div_ceil(wanted).max(OUTPUTS)), 1)
                .max(1);
        let fit = GENERATED / kb / mr * mr; // y of a block of rows takes no more than W′
        let mc = part(rows, (16 * mr).min(fit.max(mr)), mr).next_multiple_of(mr);
        let panels = (gb.next_multiple_of(mr) * kc).max(mc * kc);
        let staged = p.w_block().max(gb.max(2 * p.table.nr) * (kc + 16)).max(p.j);
        let sums = gb.next_multiple_of(mr) * kb;
        Blocks { gb, kb, ld, kc, mc, lengths: [gb * kb * ld, sums, panels, mc * kb, kc * mr, staged] }
    }
}

/// W′ and b′ of the problem's n groups, applied or written, on so many threads.
pub(crate) fn run<T: Kernels>(
    p: &Problem<'_, T>,
    z: View<'_, T, 2>,
    mut target: Target<'_, T>,
    threads: usize,
) -> Result<()> {
    let rows = if let Target::Apply(x, _) = &target { x.shape()[1] } else { 0 };
    let blocks = Blocks::new(p, rows, threads);
    let to = match &mut target {
        Target::Apply(_, y) => [Shared::new(y.host_mut_ptr()), Shared::new(y.host_mut_ptr())],
        Target::Generate(weights, bias) => [Shared::new(weights.host_mut_ptr()), Shared::new(bias.host_mut_ptr())],
    };
    let (g_blocks, k_blocks) = (p.n.div_ceil(blocks.gb), p.k.div_ceil(blocks.kb));
    let target = &target;
    parallel::run(threads, g_blocks * k_blocks, |index| {
        let (g0, k0) = (index % g_blocks * blocks.gb, index / g_blocks * blocks.kb);
        let g = (g0, blocks.gb.min(p.n - g0));
        let k = (k0, blocks.kb.min(p.k - k0));
        scratch::with(blocks.lengths, |[generated, bias, panels, sums, strip, staged]| {
            let staging = Staging { buffer: staged, len: blocks.lengths[5] };
            let bias = Output { table: p.table, n: g, k, sums: bias };
            let task = Task { p, blocks: &blocks, g, k, generated, bias, panels, sums, strip, staging };
            // SAFETY: the scratch has the lengths that `Blocks` computed for these blocks, the operands' shapes
            // agree, and no other task writes these groups and outputs.
            unsafe {
                task.generate_bias(z);
                task.generate(z);
                match target {
                    Target::Apply(x, y) if p.k <= small::ROWS => task.apply_few(*x, to[0].get(), y.strides()),
                    Target::Apply(x, y) => task.apply(*x, to[0].get(), y.strides()),
                    Target::Generate(weights, bias) => {
                        task.bias.write(Sink { place: Place::Stored(to[1].get()), strides: bias.strides() });
                        task.write(to[0].get(), weights.strides());
                    }
                }
            }
            Ok(())
        })
    })
}

struct Task<'a, T: Kernels> {
    p: &'a Problem<'a, T>,
    blocks: &'a Blocks,
    g: Part,
    k: Part,
    generated: *mut T::Acc,
    bias: Output<T>,
    panels: *mut T::Acc,
    sums: *mut T::Acc,
    strip: *mut T::Acc,
    staging: Staging<T::Acc>,
}

impl<T: Kernels> Task<'_, T> {
    /// b′ = zᵀU + b.
    unsafe fn generate_bias(&self, z: View<'_, T, 2>) {
        // SAFETY: see `run`.
        unsafe {
            self.bias.set(self.p.b);
            let Some(u) = self.p.u else { return };
            for i in parts(self.p.i, self.blocks.kc, self.p.table.lanes) {
                let panels = self.bias.panels(self.panels, i.1);
                self.bias.pack(z, i, panels);
                self.bias.add_product(Cube::matrix(u), i, panels, self.blocks.kc, self.staging);
            }
        }
    }

    /// W′ [g][k][ld] = V, then += z · W for each k.
    unsafe fn generate(&self, z: View<'_, T, 2>) {
        let (p, table, ld) = (self.p, self.p.table, self.blocks.ld);
        // SAFETY: see `run`.
        unsafe {
            for g in 0..self.g.1 {
                for k in 0..self.k.1 {
                    let to = self.generated.add((g * self.k.1 + k) * ld);
                    std::slice::from_raw_parts_mut(to, ld).fill(T::Acc::default());
                    if let Some(v) = p.v {
                        Cube::matrix(v).copy(table, [(0, 1), (self.k.0 + k, 1), (0, p.j)], to, ld, ld);
                    }
                }
            }
            let Some(w) = p.w else { return };
            let z = Cube::matrix(z);
            let direct = w.in_place();
            for i in parts(p.i, self.blocks.kc, table.lanes) {
                let (b, _, b_stride) = z.stage(table, [(0, 1), (self.g.0, self.g.1), i], self.staging.buffer, i.1 + 16);
                for k in 0..self.k.1 {
                    for j0 in (0..p.j).step_by(table.mr) {
                        let lanes = (p.j - j0).min(table.mr);
                        let vectors = lanes.div_ceil(table.lanes);
                        let width = vectors * table.lanes;
                        // Whole strips are read in place, once for all groups; others are copied with zeros at the end.
                        let (a, a_stride) = if direct && lanes == width {
                            let (a, _, row) = w.stage(table, [(self.k.0 + k, 1), i, (j0, lanes)], self.strip, width);
                            (a, row)
                        } else {
                            std::slice::from_raw_parts_mut(self.strip, i.1 * width).fill(T::Acc::default());
                            w.copy(table, [(self.k.0 + k, 1), i, (j0, lanes)], self.strip, 0, width);
                            (self.strip.cast_const(), width as isize)
                        };
                        (table.arithmetic.gemm)(&Gemm {
                            a,
                            a_stride,
                            vectors,
                            b,
                            b_stride,
                            b_step: 1,
                            rows: self.g.1,
                            depth: i.1,
                            out: self.generated.add(k * ld + j0),
                            out_stride: self.k.1 * ld,
                            epilogue: Epilogue::Add,
                            fetch: if direct && lanes == width && p.j > lanes { Fetch::Lanes } else { Fetch::Nothing },
                        });
                    }
                }
            }
        }
    }

    /// y = x W′ᵀ + b′ for few outputs: rows of x are read in place, like the weights of a small batch, or gathered.
    unsafe fn apply_few(&self, x: View<'_, T, 3>, to: *mut T, [sg, sm, sk]: [isize; 3]) {
        let (table, ld, outs) = (self.p.table, self.blocks.ld, self.k.1);
        let [_, rows, depth] = x.shape();
        let [xg, xm, xj] = x.strides();
        let (mr, in_place) = (table.mr, xj == 1 || depth <= 1);
        // A row of x fits; its storage type is not larger than the accumulator's.
        let gathered = self.staging.buffer.cast::<T>();
        let most = if in_place { self.blocks.mc } else { (self.staging.len / depth).min(self.blocks.mc) };
        // SAFETY: see `run`. What lies behind a row of W′ is set to zero, as `Stream` wants it.
        unsafe {
            for row in 0..self.g.1 * outs {
                std::slice::from_raw_parts_mut(self.generated.add(row * ld + depth), ld - depth)
                    .fill(T::Acc::default());
            }
            for tile in self.bias.tiles() {
                for g in 0..tile.rows {
                    let group = (self.g.0 + tile.index * mr + g) as isize;
                    let bias = self.bias.sums_of(tile, 0).add(g);
                    for m in parts(rows, most, 1) {
                        for row in 0..m.1 {
                            for k in 0..outs {
                                *self.sums.add(row * outs + k) = *bias.add(k * tile.width);
                            }
                        }
                        let offset = group.wrapping_mul(xg).wrapping_add((m.0 as isize).wrapping_mul(xm));
                        let weights = self.generated.add((tile.index * mr + g) * outs * ld);
                        let mut from = (x.host_ptr().wrapping_offset(offset), xm);
                        if !in_place {
                            gather(from.0, (xm, xj), (m.1, depth), gathered, depth, |value| value);
                            from = (gathered.cast_const(), depth as isize);
                        }
                        (table.stream)(&Stream {
                            w: from.0,
                            row_stride: from.1,
                            out_stride: 0,
                            outs: 1,
                            rows: m.1,
                            depth,
                            x: weights,
                            x_stride: ld,
                            z: weights,
                            z_stride: 0,
                            batch: outs,
                            y: self.sums,
                            fold: Fold::None,
                            from_memory: true,
                        });
                        let offset = group.wrapping_mul(sg).wrapping_add((m.0 as isize).wrapping_mul(sm));
                        let offset = offset.wrapping_add((self.k.0 as isize).wrapping_mul(sk));
                        let place = Place::Stored(to.wrapping_offset(offset));
                        small::write::<T>(None, self.sums, [outs, m.1], Sink { place, strides: [sk, sm] });
                    }
                }
            }
        }
    }

    /// y = x W′ᵀ + b′.
    unsafe fn apply(&self, x: View<'_, T, 3>, to: *mut T, [sg, sm, sk]: [isize; 3]) {
        let (table, ld) = (self.p.table, self.blocks.ld);
        let [_, rows, _] = x.shape();
        let [xg, xm, xj] = x.strides();
        // SAFETY: see `run`.
        unsafe {
            for g in 0..self.g.1 {
                let group = (self.g.0 + g) as isize;
                let from = x.host_ptr().wrapping_offset(group.wrapping_mul(xg));
                let weights = self.generated.add(g * self.k.1 * ld);
                let mr = table.mr;
                let bias =
                    self.bias.tiles().nth(g / mr).map(|tile| (self.bias.sums_of(tile, 0).add(g % mr), tile.width));
                for m in parts(rows, self.blocks.mc, mr) {
                    let y = Output { table, n: m, k: self.k, sums: self.sums };
                    y.set(None);
                    if let Some((bias, stride)) = bias {
                        for tile in y.tiles() {
                            for k in 0..self.k.1 {
                                let value = *bias.add(k * stride);
                                std::slice::from_raw_parts_mut(y.sums_of(tile, k), tile.width).fill(value);
                            }
                        }
                    }
                    for (j0, depth) in parts(self.p.j, self.blocks.kc, table.lanes) {
                        for tile in y.tiles() {
                            let row = (m.0 + tile.index * mr) as isize;
                            let panel = self.panels;
                            (table.pack)(&Pack {
                                from: from.wrapping_offset(row.wrapping_mul(xm).wrapping_add(j0 as isize * xj)),
                                row_stride: xm,
                                column_stride: xj,
                                rows: tile.rows,
                                depth,
                                to: panel,
                                width: tile.width,
                            });
                            (table.arithmetic.gemm)(&Gemm {
                                a: panel,
                                a_stride: tile.width as isize,
                                vectors: tile.vectors,
                                b: weights.add(j0),
                                b_stride: ld as isize,
                                b_step: 1,
                                rows: self.k.1,
                                depth,
                                out: y.sums_of(tile, 0),
                                out_stride: tile.width,
                                epilogue: Epilogue::Add,
                                fetch: Fetch::Nothing,
                            });
                        }
                    }
                    let place = Place::Stored(to.wrapping_offset(group.wrapping_mul(sg)));
                    y.write(Sink { place, strides: [sm, sk] });
                }
            }
        }
    }

    /// W′, written out.
    unsafe fn write(&self, to: *mut T, [sg, sk, sj]: [isize; 3]) {
        for g in 0..self.g.1 {
            for k in 0..self.k.1 {
                let (group, out) = ((self.g.0 + g) as isize, (self.k.0 + k) as isize);
                let to = to.wrapping_offset(group.wrapping_mul(sg).wrapping_add(out.wrapping_mul(sk)));
                // SAFETY: see `run`.
                unsafe {
                    let from = self.generated.add((g * self.k.1 + k) * self.blocks.ld);
                    for j in 0..self.p.j {
                        *to.wrapping_offset(j as isize * sj) = T::from_acc(*from.add(j));
                    }
                }
            }
        }
    }
}
