//! Contractions of a batch with W: BLIS's loops with the batch in the place of the columns. With W's axes in the roles
//! a, b, c, and the inputs p, q, s that meet them:
//!
//! ```text
//!   t[a][b][n]  = Σ_c W[a][b][c] · s[n][c]                 the microkernel
//!   dp[n][a]   += Σ_b t[a][b][n] · q[n][b]                 its epilogue: a dot,
//!   dq[n][b]   += Σ_a t[a][b][n] · p[n][a]                 an axpy, or both: two gradients for one product with W
//!
//!   dq[n][b]   += Σ_ac W[a][b][c] · (p[n][a] s[n][c])      or the microkernel sums over a too: the Khatri-Rao product
//!
//!   loop 5   n-blocks × parts of the result: the tasks of the threads; the sums of a task stay in its scratch
//!   loop 4     blocks of 4096 of the axes that are summed over: panels of the inputs, packed once for the task
//!   loop 3       the depth c by KC                                                       panel of KC × MR   in L1
//!   loop 2         rows (a, b) of W by blocks, read in place or staged                   W block            in L2
//!   loop 1           tiles of MR rows of the batch
//!   microkernel        tiles of NR rows b
//! ```
//!
//! The forward pass is the gradient along k, dz that along i, dx that along j. [`super::trilinear`] chooses the roles.
//!
//! Each result is added up in an order that depends only on I, J, K, W's layout, the processor and the roles: not on the
//! threads or the tasks, and on N only in that two gradients at once of a small batch are made of several parts.

use super::cache::{part, parts};
use super::kernels::{Fused, KhatriRao};
use super::operand::{Cube, Part};
use super::output::{Output, Panels, Sink, Staging};
use super::parallel::{self, Shared};
use super::scratch;
use super::simd::Kernels;
use super::soon::{Coming, Soon};
use super::trilinear::{Roles, Trilinear};
use crate::Result;

/// Block of an axis that is summed over: a panel of so many features and 16 f32 lanes is 256 KiB.
const FEATURES: usize = 4096;
/// Bytes that the panels of the inputs of a task may fill, and those of its sums: they pass through the last cache.
const PANEL_BYTES: usize = 1 << 20;
/// Bytes of a W that can be read again for panels of a quarter of L2, which leave room for the inputs of the next task.
const SMALL: usize = 4 << 20;
/// Results along an axis that a task should have at least, to share the packing of the inputs.
const OUTPUTS: usize = 16;
/// Tiles of the batch from which two gradients at once have enough tasks without being cut into parts.
const MANY_TILES: usize = 8;

/// Whether two gradients at once are possible: neither axis is cut.
pub(crate) fn joint<T: Kernels>(t: &Trilinear<'_, T>, [a, b]: [usize; 2]) -> bool {
    t.lengths[a] <= FEATURES && t.lengths[b] <= FEATURES
}

/// Sizes of the blocks.
pub(crate) struct Blocks {
    roles: Roles,
    dot: bool,
    axpy: bool,
    /// Rows of the batch in a task, a multiple of MR.
    nc: usize,
    /// Of a and b in a task: the part of its result, and blocks of what is summed over.
    a: Split,
    b: Split,
    /// Block of the depth.
    cb: usize,
    kc: usize,
    /// Length of the sums along b that parts leave, if there are several.
    pub(crate) shared: usize,
    /// Lengths of a task's scratch arrays: panels of inputs, sums along a and b, staged W, products.
    pub(crate) lengths: [usize; 5],
}

/// How an axis is cut: among tasks, and within one.
#[derive(Clone, Copy)]
struct Split {
    task: usize,
    block: usize,
}

impl Blocks {
    pub(crate) fn new<T: Kernels>(t: &Trilinear<'_, T>, roles: Roles, outs: [bool; 3], threads: usize) -> Blocks {
        let (dot, axpy) = roles.wanted(outs);
        let (mr, nr, size, kc) = (t.table.mr, t.table.nr, size_of::<T::Acc>(), t.kc());
        let [la, lb, lc] = [roles.a, roles.b, roles.c].map(|axis| t.lengths[axis]);
        let rows_contiguous = t.order()[2] == roles.b;
        // Where the rows are contiguous, a block is one pass of the depth, so that staged rows are long.
        let cb = part(lc, if rows_contiguous { kc } else { FEATURES }, t.table.lanes);
        let (mut a, mut b) = (Split { task: la, block: la }, Split { task: lb, block: lb });
        let small = la.saturating_mul(lb).saturating_mul(lc).saturating_mul(size) <= SMALL;
        let panel_bytes = if small { t.caches.l2 / 4 } else { PANEL_BYTES };
        let panels = |width: usize, bytes: usize| (bytes / size / width.max(1) / mr * mr).clamp(mr, 32 * mr);
        let fit = match (dot, axpy) {
            (true, true) => panels(cb + 2 * (la + lb), 2 * panel_bytes),
            (true, false) => {
                b.block = part(lb, FEATURES, 1);
                panels(b.block + cb, panel_bytes)
            }
            _ => {
                a.block = part(la, FEATURES, 1);
                panels(a.block + cb, panel_bytes)
            }
        };
        // With several threads the batch is cut for each, and then the result until there are four tasks for each.
        let most = if threads > 1 { fit.min(t.n.div_ceil(threads).next_multiple_of(mr)) } else { fit };
        let nc = part(t.n, most, mr).next_multiple_of(mr).max(mr);
        let n_blocks = t.n.div_ceil(nc).max(1);
        let fit = (PANEL_BYTES / size / nc).max(1);
        let wanted = parallel::cut(threads, n_blocks);
        let least = |len: usize| fit.min(len.div_ceil(wanted).max(OUTPUTS));
        let mut shared = 0;
        match (dot, axpy) {
            (true, true) => {
                // Sums over the parts of a, in order: for any number of threads the same parts.
                let tiles = t.n.div_ceil(mr).max(1);
                let count = if tiles < MANY_TILES { (2 * MANY_TILES).div_ceil(2 * tiles) } else { 1 };
                a.task = part(la, la.div_ceil(count).max(4), 1).max(1);
                a.block = a.task;
                let count = la.div_ceil(a.task).max(1);
                shared = if count > 1 { count * n_blocks * nc * lb } else { 0 };
            }
            (true, false) => a.task = part(la, least(la), 1).max(1),
            _ => b.task = part(lb, least(lb).next_multiple_of(nr), nr).max(1),
        }
        let inputs = nc * (cb + if dot { b.block } else { 0 } + if axpy { a.block } else { 0 });
        let sums = [if dot { nc * a.task } else { 0 }, if axpy && shared == 0 { nc * b.task } else { 0 }];
        // A row of a staged block is a whole row of W, or as many contiguous ones as a quarter of L2 takes of KC.
        let staged = match rows_contiguous {
            true => (t.caches.l2 / 4 / size).max(cb * 64) + 32 * cb,
            false => w_block(t).max(2 * nr * ld_of(kc).max(ld_of(cb))),
        };
        let staged = staged.max(2 * nr * ld_of(kc));
        let products = if roles.khatri_rao { kc * mr } else { 0 };
        Blocks { roles, dot, axpy, nc, a, b, cb, kc, shared, lengths: [inputs, sums[0], sums[1], staged, products] }
    }
}

/// Elements of a block of W: an eighth of L2, because the next one is brought in beside it, the panels of the inputs and
/// sums pass through, and other processors' work may share the cache.
fn w_block<T: Kernels>(t: &Trilinear<'_, T>) -> usize {
    (t.caches.l2 / 8).max(96 << 10) / size_of::<T::Acc>()
}

/// Distance between staged rows of W: a line more than the depth, so that rows do not share their cache sets, as short ones
/// do not.
fn ld_of(depth: usize) -> usize {
    if depth < 64 { depth } else { depth.next_multiple_of(16) + 16 }
}

/// The gradients of T along the axes that have a sink: along one, or along two at once if [`joint`].
pub(crate) fn contract<T: Kernels>(
    t: &Trilinear<'_, T>,
    roles: Roles,
    to: [Option<Sink<T>>; 3],
    threads: usize,
) -> Result<()> {
    let blocks = Blocks::new(t, roles, to.map(|to| to.is_some()), threads);
    let lengths = t.lengths;
    let (n_blocks, cut) = (t.n.div_ceil(blocks.nc), |len: usize, task: usize| len.div_ceil(task.max(1)).max(1));
    let parts = if blocks.dot { cut(lengths[roles.a], blocks.a.task) } else { cut(lengths[roles.b], blocks.b.task) };
    let rows = |index: usize| (index * blocks.nc, blocks.nc.min(t.n - index * blocks.nc));
    let whole = (0, lengths[roles.b]);
    let run = |[shared]: [*mut T::Acc; 1]| {
        let shared = Shared::new(shared);
        let (n_padded, partial) = (n_blocks * blocks.nc, blocks.shared > 0);
        // A part's sums along b, of the rows of a block.
        let sums_of = |part: usize, n: Part| shared.get().wrapping_add((part * n_padded + n.0) * whole.1);
        parallel::run(threads, n_blocks * parts, |index| {
            let (n, part) = (rows(index % n_blocks), index / n_blocks);
            let of = |len: usize, task: usize| (part * task, task.min(len - part * task));
            let (a, b) = match blocks.dot {
                true => (of(lengths[roles.a], blocks.a.task), whole),
                false => ((0, lengths[roles.a]), of(lengths[roles.b], blocks.b.task)),
            };
            scratch::with(blocks.lengths, |[inputs, a_sums, b_sums, staged, products]| {
                let b_sums = if partial { sums_of(part, n) } else { b_sums };
                let outputs = [
                    Output { table: t.table, n, k: a, sums: a_sums },
                    Output { table: t.table, n, k: b, sums: b_sums },
                ];
                let staging = Staging { buffer: staged, len: blocks.lengths[3] };
                let first = !blocks.dot || part == 0;
                let next = rows((index % n_blocks + threads).min(n_blocks - 1));
                let soon = Soon::new(t, roles, next, [(to[roles.a], n, a), (to[roles.b].filter(|_| !partial), n, b)]);
                let task = Task { t, blocks: &blocks, outputs, a, b, inputs, staging, products, soon, first };
                // SAFETY: the scratch has the lengths that `Blocks` computed for these blocks, the operands' shapes
                // agree, and no other task has these rows and this part of the results.
                unsafe {
                    task.sum();
                    if let Some(to) = to[roles.a] {
                        outputs[0].write(to);
                    }
                    if let (Some(to), false) = (to[roles.b], partial) {
                        outputs[1].write(to);
                    }
                }
                Ok(())
            })
        })?;
        let (Some(to), true) = (to[roles.b], partial) else { return Ok(()) };
        parallel::run(threads, n_blocks, |index| {
            let n = rows(index);
            let output = Output { table: t.table, n, k: whole, sums: sums_of(0, n) };
            // SAFETY: all parts are complete, and no other task has these rows.
            unsafe {
                for part in 1..parts {
                    output.add(sums_of(part, n));
                }
                output.write(to);
            }
            Ok(())
        })
    };
    if blocks.shared == 0 { run([std::ptr::null_mut()]) } else { scratch::with([blocks.shared], run) }
}

struct Task<'a, T: Kernels> {
    t: &'a Trilinear<'a, T>,
    blocks: &'a Blocks,
    /// Along a and b.
    outputs: [Output<T>; 2],
    a: Part,
    b: Part,
    inputs: *mut T::Acc,
    staging: Staging<T::Acc>,
    /// Room for KC × MR, if the roles form products.
    products: *mut T::Acc,
    soon: Soon,
    /// Whether this is the first part of the result along b, which takes the linear terms.
    first: bool,
}

/// The panels of a task's inputs: a tile's lie side by side, so that one pointer brings the next tile's.
#[derive(Clone, Copy)]
struct Inputs<A> {
    a: Panels<A>,
    b: Panels<A>,
    c: Panels<A>,
}

impl<T: Kernels> Task<'_, T> {
    /// Loop 4.
    unsafe fn sum(&self) {
        let (t, blocks) = (self.t, self.blocks);
        let (Roles { a, b, c, .. }, mr) = (blocks.roles, t.table.mr);
        let [a_width, b_width] = [(blocks.axpy, blocks.a.block), (blocks.dot, blocks.b.block)]
            .map(|(needed, width)| if needed { width } else { 0 });
        let distance = mr * (a_width + b_width + blocks.cb);
        let panels = |offset: usize| Panels { first: self.inputs.wrapping_add(mr * offset), distance };
        let inputs = Inputs { a: panels(0), b: panels(a_width), c: panels(a_width + b_width) };
        let [a_sums, b_sums] = &self.outputs;
        let c_blocks = parts(t.lengths[c], blocks.cb, t.table.lanes);
        let repack = c_blocks.clone().count() > 1;
        // SAFETY: see `contract`, here and in all that it calls.
        unsafe {
            if blocks.dot {
                a_sums.set(if a == 0 { t.bias } else { None });
            }
            if blocks.axpy && !self.fresh() {
                b_sums.set(if b == 0 && self.first { t.bias } else { None });
            }
            // Of a single gradient the axis that its epilogue sums over is cut; of two, neither is.
            let (free, most) = if blocks.axpy { (self.a, blocks.a.block) } else { (self.b, blocks.b.block) };
            for (index, block) in parts(free.1, most, 1).enumerate() {
                let block = (free.0 + block.0, block.1);
                let (a_part, b_part) = if blocks.axpy { (block, self.b) } else { (self.a, block) };
                if blocks.dot {
                    self.pack(b, b_part, inputs.b);
                    self.add_linear(a_sums, [a, b], b_part, inputs.b);
                }
                if blocks.axpy {
                    self.pack(a, a_part, inputs.a);
                    self.add_linear(b_sums, [b, a], a_part, inputs.a);
                }
                for c_part in c_blocks.clone() {
                    if index == 0 || repack {
                        self.pack(c, c_part, inputs.c);
                    }
                    if index == 0 && blocks.dot {
                        self.add_linear(a_sums, [a, c], c_part, inputs.c);
                    }
                    if index == 0 && blocks.axpy && self.first {
                        self.add_linear(b_sums, [b, c], c_part, inputs.c);
                    }
                    if let (Some(w), false) = (t.w, t.lengths.contains(&0)) {
                        self.weights(w, [a_part, b_part, c_part], &inputs);
                    }
                }
            }
        }
    }

    /// Whether the first products are written as sums, because nothing else is added to them.
    fn fresh(&self) -> bool {
        let (t, Roles { a, b, c, khatri_rao }) = (self.t, self.blocks.roles);
        let linear = (b == 0 && t.bias.is_some()) || t.between(b, a).is_some() || t.between(b, c).is_some();
        khatri_rao && !linear && t.w.is_some() && !t.lengths.contains(&0)
    }

    /// Panels of the input that meets an axis, if anything needs it.
    unsafe fn pack(&self, axis: usize, columns: Part, panels: Panels<T::Acc>) {
        let t = self.t;
        let pairs = (0..3).any(|other| t.between(axis, other).is_some());
        if let (Some(input), true) = (t.inputs[axis], t.w.is_some() || pairs) {
            // SAFETY: see `contract`.
            unsafe { self.outputs[0].pack(input, columns, panels) };
        }
    }

    /// The linear term between the axis of a result and another, whose panels these are.
    unsafe fn add_linear(&self, to: &Output<T>, [row, column]: [usize; 2], columns: Part, panels: Panels<T::Acc>) {
        if let Some(weights) = self.t.between(row, column) {
            // SAFETY: see `contract`.
            unsafe { to.add_product(Cube::matrix(weights), columns, panels, self.blocks.kc, self.staging) };
        }
    }

    /// Loops 3 to 1 for blocks of a, b and c.
    unsafe fn weights(&self, w: Cube<'_, T>, [a, b, c]: [Part; 3], inputs: &Inputs<T::Acc>) {
        let (t, blocks) = (self.t, self.blocks);
        let (table, roles) = (t.table, blocks.roles);
        let order = t.order();
        let w = w.permute(order);
        // The place of each role's axis in memory.
        let place = |axis: usize| {
            if order[0] == axis {
                0
            } else if order[1] == axis {
                1
            } else {
                2
            }
        };
        let [pa, pb, pc] = [roles.a, roles.b, roles.c].map(place);
        let rows_contiguous = pb == 2;
        let in_place = w.in_place() && pc != 0;
        // Outputs a that the microkernel sums over at once.
        let chunk = if roles.khatri_rao { (blocks.kc / c.1.max(1)).clamp(1, a.1.max(1)) } else { 1 };
        // Rows b and outputs a of a block; the same whether it is staged or not, where sums run over both.
        let (most_rows, elements) = match rows_contiguous {
            true => ((blocks.lengths[3] / c.1.max(1)).saturating_sub(32).max(1), blocks.lengths[3] / c.1.max(1)),
            false if in_place && !blocks.axpy => (self.staging.len / ld_of(c.1), w_block(t) / c.1.max(16)),
            false => (self.staging.len / ld_of(c.1) / chunk, self.staging.len / ld_of(c.1)),
        };
        // Sums along b take the outputs of a block for each pass of the depth: as many, into however many tasks b is cut.
        let most_rows = part(t.lengths[roles.b], most_rows, table.nr).max(1);
        let most_outs = (elements / if rows_contiguous { most_rows + 16 } else { most_rows }).max(1);
        // Of some rows of an output, the next block is brought as one run of memory.
        let most_outs = match roles.khatri_rao {
            true if most_outs > chunk => most_outs / chunk * chunk,
            false if !rows_contiguous && most_rows < t.lengths[roles.b] => 1,
            _ => most_outs,
        };
        // So it is of all rows of several outputs, where L2 has room for them.
        let block = most_outs.min(a.1).saturating_mul(b.1).saturating_mul(c.1);
        let whole = roles.khatri_rao && in_place && !rows_contiguous && block <= t.caches.l2 / 4 / size_of::<T::Acc>();
        let most_rows = if whole { b.1.max(1) } else { most_rows };
        let tiles = self.outputs[0].tiles().count();
        let panel = inputs.a.distance * size_of::<T::Acc>();
        let [a_sums, b_sums] = &self.outputs;
        for (b0, rows) in parts(b.1, most_rows, table.nr) {
            for (a0, outs) in parts(a.1, most_outs, 1) {
                let mut block = [(0, 0); 3];
                for (place, part) in [(pa, (a.0 + a0, outs)), (pb, (b.0 + b0, rows)), (pc, c)] {
                    block[place] = part;
                }
                // Staged: as in memory, rows padded so that they do not share their cache sets.
                let lengths = block.map(|(_, len)| len);
                let (middle, outer) = match pc {
                    0 => (lengths[2], (lengths[1] * lengths[2]).next_multiple_of(16) + 16),
                    1 => (lengths[2] + 16, lengths[1] * (lengths[2] + 16)),
                    _ => (ld_of(lengths[2]), lengths[1] * ld_of(lengths[2])),
                };
                // SAFETY: the block is within W and the panels, and fits the staging.
                unsafe {
                    let (first, strides) = match in_place {
                        true => (w.at(block.map(|(first, _)| first)), w.strides()),
                        false => {
                            w.copy(table, block, self.staging.buffer, outer, middle);
                            (self.staging.buffer.cast_const(), [outer as isize, middle as isize, 1])
                        }
                    };
                    let [out_stride, row_stride, step] = [pa, pb, pc].map(|place| strides[place]);
                    let calls = outs * rows.div_ceil(table.nr);
                    let fresh = self.fresh() && a.0 + a0 + c.0 == 0;
                    let (passes, chunks) = (parts(c.1, blocks.kc, table.lanes), parts(outs, chunk, 1));
                    // With the last block, what comes after it.
                    let ends = [(a.0 + a0 + outs, roles.a), (b.0 + b0 + rows, roles.b), (c.0 + c.1, roles.c)];
                    let of_tile = self.soon.bytes().div_ceil(tiles.max(1)).next_multiple_of(64);
                    let last = of_tile > 0 && ends.iter().all(|&(end, axis)| end == self.end(axis));
                    let mut next = block.map(|(first, _)| first);
                    match a0 + outs < a.1 {
                        true => next[pa] += outs,
                        false => (next[pa], next[pb]) = (a.0, next[pb] + rows),
                    }
                    let coming = match !last && (in_place || w.strides()[2] == 1) {
                        true => Coming::new(&w, (next, lengths), pc, tiles),
                        false => Coming::nothing(self.inputs.cast_const()),
                    };
                    for tile in a_sums.tiles() {
                        let panels: (*const T::Acc, usize) = match last {
                            true => (self.soon.at(tile.index * of_tile).cast(), of_tile),
                            // Few panels stay in L2.
                            false if tiles > 1 && tiles * panel > t.caches.l2 / 8 => {
                                (inputs.a.at(tile).wrapping_add(inputs.a.distance).cast_const(), panel)
                            }
                            false => (self.inputs.cast_const(), 0),
                        };
                        let width = tile.width;
                        let [p, q] = [(inputs.a, a0), (inputs.b, b0)]
                            .map(|(panels, first)| panels.at(tile).wrapping_add(first * width).cast_const());
                        let offset = |from: usize, of: Part, task: Part| from + of.0 - task.0;
                        let dp = a_sums.sums_of(tile, offset(a0, a, self.a));
                        let dq = b_sums.sums_of(tile, offset(b0, b, self.b));
                        for (d0, depth) in passes.clone() {
                            let (lanes, vectors) = (inputs.c.at(tile).add(d0 * width).cast_const(), tile.vectors);
                            let w = first.wrapping_offset((d0 as isize).wrapping_mul(step));
                            let mut ahead = coming.during(panels, tile.index, (calls, (d0, depth), c.1));
                            if !roles.khatri_rao {
                                (table.arithmetic.fused)(&Fused {
                                    lanes,
                                    vectors,
                                    w,
                                    out_stride,
                                    row_stride,
                                    step,
                                    outs,
                                    rows,
                                    depth,
                                    dot: blocks.dot.then_some((q, dp)),
                                    axpy: blocks.axpy.then_some((p, dq)),
                                    ahead,
                                });
                                continue;
                            }
                            for (o0, outs) in chunks.clone() {
                                (table.arithmetic.khatri_rao)(&KhatriRao {
                                    factors: p.wrapping_add(o0 * width),
                                    lanes,
                                    vectors,
                                    w: w.wrapping_offset((o0 as isize).wrapping_mul(out_stride)),
                                    out_stride,
                                    row_stride,
                                    step,
                                    outs,
                                    rows,
                                    depth,
                                    formed: self.products,
                                    sums: dq,
                                    add: !fresh || d0 + o0 > 0,
                                    ahead,
                                });
                                ahead = ahead.after(outs * rows.div_ceil(table.nr), depth);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Where the task's part of an axis ends.
    fn end(&self, axis: usize) -> usize {
        let Roles { a, b, .. } = self.blocks.roles;
        let (first, len) = if axis == a {
            self.a
        } else if axis == b {
            self.b
        } else {
            (0, self.t.lengths[axis])
        };
        first + len
    }
}
