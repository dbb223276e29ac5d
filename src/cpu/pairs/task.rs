//! A task of all pairs: W′ and b′ of its rows (s, k), the tiles of rows of x that they meet, and y.

use super::{Blocks, Pairs, ROWS, To, Weights, rows_of};
use crate::View;
use crate::cpu::cache::parts;
use crate::cpu::kernels::{Epilogue, Fetch, Gemm, Hadamard, Unpack};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::output::{Output, Place, Sink, Staging, Tile};
use crate::cpu::product::{Block, Lanes, Product, Target};
use crate::cpu::simd::Kernels;
use crate::cpu::small::copy_rows;
use crate::cpu::table::Table;
use crate::interaction::Core;

pub(in crate::cpu) struct Task<'a, T: Kernels> {
    pub(in crate::cpu) pairs: &'a Pairs<'a, T>,
    pub(in crate::cpu) blocks: &'a Blocks,
    pub(in crate::cpu) weights: &'a Weights<'a, T>,
    pub(in crate::cpu) k: Part,
    pub(in crate::cpu) scratch: [*mut T::Acc; 13],
}

impl<T: Kernels> Task<'_, T> {
    pub(super) unsafe fn run(&self, problems: Part, s: Part, y: To<T>) {
        // SAFETY: see `Pairs::contract_z`, here and in all that it calls.
        unsafe {
            self.generate(rows_of(self.pairs.z, problems, s));
            for p in 0..problems.1 {
                for t in self.parts_of_x((0, self.pairs.sizes[2])) {
                    self.project(problems.0 + p, t);
                    for tile in self.tiles(t) {
                        let sums = self.scratch[6];
                        self.meet(problems.0 + p, [p * s.1, s.1, t.0], tile, sums, true);
                        self.write((problems.0 + p, s), tile, sums, y);
                    }
                }
            }
        }
    }

    /// These rows of x in parts, of CP as many as xC has room for.
    pub(in crate::cpu) fn parts_of_x(&self, t: Part) -> impl Iterator<Item = Part> + use<T> {
        let most = if matches!(self.pairs.core, Core::Cp { .. }) { ROWS } else { t.1 };
        parts(t.1, most, self.pairs.table.mr).map(move |part| (t.0 + part.0, part.1))
    }

    /// xC of rows of a problem.
    pub(in crate::cpu) unsafe fn project(&self, problem: usize, t: Part) {
        let Core::Cp { .. } = self.pairs.core else { return };
        let Some(lanes) = self.weights.of(1) else { return };
        let (x, block) = (self.pairs.x.matrix(problem), Block { rows: t.1, over: 0, columns: (0, self.pairs.depth()) });
        let to = Target::scratch(self.scratch[8], self.blocks.ld);
        // SAFETY: see `Pairs::contract_z`.
        unsafe { self.product().run(Cube::matrix(x.slice_rows(t)), lanes, block, to, Epilogue::Set) };
    }

    /// Tiles of these rows of x.
    pub(in crate::cpu) fn tiles(&self, t: Part) -> impl Iterator<Item = Output<T>> + use<T> {
        let (table, end, k, sums) = (self.pairs.table, t.0 + t.1, self.k, self.scratch[7]);
        (t.0..end).step_by(table.mr).map(move |t0| Output { table, n: (t0, table.mr.min(end - t0)), k, sums })
    }

    fn product(&self) -> Product<T> {
        let [.., strip, tile, staged] = self.scratch;
        Product { table: self.pairs.table, kc: self.blocks.kc, few: self.blocks.few, strip, tile, staged }
    }

    /// W′ and b′ of rows of z.
    pub(in crate::cpu) unsafe fn generate(&self, z: View<'_, T, 2>) {
        let (p, table, ld, bias_ld, (k0, outs)) =
            (self.pairs, self.pairs.table, self.blocks.ld, self.blocks.bias_ld, self.k);
        let [generated, components, scaled, lambda, bias, ..] = self.scratch;
        let (rows, product) = (z.shape()[0], self.product());
        // SAFETY: see `Pairs::contract_z`.
        unsafe {
            for row in 0..rows {
                for k in 0..outs {
                    let initial = p.b.and_then(|b| b.get([k0 + k])).map_or(T::Acc::default(), T::to_acc);
                    *bias.add(row * bias_ld + k) = initial;
                }
            }
            if let Some(u) = p.u {
                let block = Block { rows, over: 0, columns: self.k };
                let to = Target::scratch(bias, bias_ld);
                product.run(Cube::matrix(z), Lanes::matrix(u.transpose()), block, to, Epilogue::Add);
            }
            let block = Block { rows, over: 0, columns: (0, p.depth()) };
            if let Core::Cp { a, lambda: weights, .. } = p.core {
                let Some(lanes) = self.weights.of(0) else { return };
                product.run(Cube::matrix(z), lanes, block, Target::scratch(components, ld), Epilogue::Set);
                scale_rows(table, a.slice_rows(self.k), weights, lambda, scaled, ld);
                for row in 0..rows {
                    (table.arithmetic.hadamard)(&Hadamard {
                        to: generated.add(row * outs * ld),
                        to_stride: ld,
                        factors: [(components.add(row * ld).cast_const(), 0), (scaled.cast_const(), ld)],
                        scale: std::ptr::null(),
                        rows: outs,
                        columns: p.depth(),
                    });
                }
                return;
            }
            let Core::Dense(w) = p.core else { return };
            for k in 0..outs {
                let Some(lanes) = self.weights.of(k0 + k) else { return };
                let to = Target::scratch(generated.add(k * ld), outs * ld);
                let mut epilogue = Epilogue::Set;
                if let Some(v) = p.v {
                    for row in 0..rows {
                        copy_rows(table, v.slice_rows((k0 + k, 1)), to.offset(row, 0).first, ld);
                    }
                    epilogue = Epilogue::Add;
                }
                let w = w.matrix(k0 + k);
                if T::IN_PLACE && w.strides()[1] == 1 && self.weights.packed.is_null() {
                    self.read_ahead(&product, z, w, to, epilogue);
                } else {
                    product.run(Cube::matrix(z), lanes, block, to, epilogue);
                }
            }
        }
    }

    /// W′ of an output like [`Product::run`], whose strips of W are read in place, the next one asked for in advance.
    unsafe fn read_ahead(
        &self,
        product: &Product<T>,
        z: View<'_, T, 2>,
        w: View<'_, T, 2>,
        to: Target<T::Acc>,
        mut epilogue: Epilogue,
    ) {
        let (table, rows, [_, columns]) = (product.table, z.shape()[0], w.shape());
        for i in parts(w.shape()[0], product.kc, table.lanes) {
            // SAFETY: see `Pairs::contract_z`; W is contiguous accumulators along j.
            unsafe {
                let (b, _, b_stride) = Cube::matrix(z).stage(table, [(0, 1), (0, rows), i], product.staged, i.1 + 16);
                for column in (0..columns).step_by(table.mr) {
                    let left = columns - column;
                    let (a, a_stride, vectors) = if left >= table.mr {
                        let first = w.slice_rows(i).host_ptr().wrapping_add(column);
                        (first.cast::<T::Acc>(), w.strides()[0], table.mr / table.lanes)
                    } else {
                        let vectors = Lanes::matrix(w).pack(table, i, (column, columns), product.strip);
                        (product.strip.cast_const(), (vectors * table.lanes) as isize, vectors)
                    };
                    let fetch = if left > table.mr { Fetch::Lanes } else { Fetch::Nothing };
                    let (out, out_stride) = (std::ptr::null_mut(), 0);
                    let gemm = Gemm {
                        a,
                        a_stride,
                        vectors,
                        b,
                        b_stride,
                        b_step: 1,
                        rows,
                        depth: i.1,
                        out,
                        out_stride,
                        epilogue,
                        fetch,
                    };
                    product.store(&gemm, left, to.offset(0, column), epilogue);
                }
            }
            epilogue = Epilogue::Add;
        }
    }

    /// Sums of so many rows s, each with all k, from the `row`-th of z on with a tile of rows of x: begun, or added to. xC is that
    /// of rows from `first` on.
    pub(in crate::cpu) unsafe fn meet(
        &self,
        problem: usize,
        [row, s, first]: [usize; 3],
        rows: Output<T>,
        sums: *mut T::Acc,
        begun: bool,
    ) {
        let (p, table, blocks, outs) = (self.pairs, self.pairs.table, self.blocks, self.k.1);
        let [generated, _, _, _, _, panel, _, linear, projected, components, _, _, staged] = self.scratch;
        let x = p.x.matrix(problem);
        let panels = rows.panels(panel, blocks.kc);
        let staging = Staging { buffer: staged, len: blocks.lengths[12] };
        let generated = generated.wrapping_add(row * outs * blocks.ld);
        // SAFETY: see `Pairs::contract_z`.
        unsafe {
            let Some(tile) = rows.tiles().next() else { return };
            let mut epilogue = if begun { Epilogue::Set } else { Epilogue::Add };
            let mut meet = |a: *const T::Acc, (d0, depth): Part| {
                (table.arithmetic.gemm)(&Gemm {
                    a,
                    a_stride: tile.width as isize,
                    vectors: tile.vectors,
                    b: generated.add(d0).cast_const(),
                    b_stride: blocks.ld as isize,
                    b_step: 1,
                    rows: s * outs,
                    depth,
                    out: sums,
                    out_stride: tile.width,
                    epilogue,
                    fetch: Fetch::Rows,
                });
                epilogue = Epilogue::Add;
            };
            if p.is_dense() {
                for j in parts(p.x.shape()[2], blocks.kc, table.lanes) {
                    rows.pack(x, j, panels);
                    meet(panel, j);
                }
                return self.finish(row, s, tile, None, sums);
            }
            if let Some(v) = p.v {
                rows.set(None);
                for j in parts(p.x.shape()[2], blocks.kc, table.lanes).filter(|part| part.1 > 0) {
                    rows.pack(x, j, panels);
                    rows.add_product(Cube::matrix(v), j, panels, blocks.kc, staging);
                }
            }
            if tile.rows < tile.width {
                std::slice::from_raw_parts_mut(components, p.depth() * tile.width).fill(T::Acc::default());
            }
            (table.arithmetic.unpack)(&Unpack {
                from: projected.wrapping_add((rows.n.0 - first) * blocks.ld),
                width: blocks.ld,
                rows: p.depth(),
                columns: tile.rows,
                to: components,
                row_stride: tile.width as isize,
                column_stride: 1,
                add: false,
            });
            // Without W there is no depth, and the sums of nothing are zeros.
            for r in parts(p.depth(), blocks.kc, table.lanes) {
                meet(components.add(r.0 * tile.width), r);
            }
            self.finish(row, s, tile, p.v.map(|_| linear), sums);
        }
    }

    /// Sums of a tile with what is not in W′: b′, and xVᵀ.
    unsafe fn finish(&self, row: usize, s: usize, tile: Tile, linear: Option<*mut T::Acc>, sums: *mut T::Acc) {
        let (bias, outs, p) = (self.scratch[4], self.k.1, self.pairs);
        if p.b.is_none() && p.u.is_none() && linear.is_none() {
            return;
        }
        for s in 0..s {
            for k in 0..outs {
                // SAFETY: see `Pairs::contract_z`.
                unsafe {
                    let value = *bias.add((row + s) * self.blocks.bias_ld + k);
                    let sums = std::slice::from_raw_parts_mut(sums.add((s * outs + k) * tile.width), tile.width);
                    match linear {
                        None => sums.iter_mut().for_each(|sum| *sum += value),
                        Some(linear) => {
                            let linear = std::slice::from_raw_parts(linear.add(k * tile.width), tile.width);
                            sums.iter_mut().zip(linear).for_each(|(sum, &term)| *sum += value + term);
                        }
                    }
                }
            }
        }
    }

    /// Sums of a tile to y.
    pub(in crate::cpu) unsafe fn write(
        &self,
        (problem, s): (usize, Part),
        rows: Output<T>,
        sums: *mut T::Acc,
        y: To<T>,
    ) {
        let ([sp, ss, st, sk], outs) = (y.strides, self.k.1);
        let Some(tile) = rows.tiles().next() else { return };
        let offset = |s: usize, k: usize| {
            let [p, s, t, k] = [problem, s, rows.n.0, k].map(|index| index as isize);
            p.wrapping_mul(sp)
                .wrapping_add(s.wrapping_mul(ss))
                .wrapping_add(t.wrapping_mul(st))
                .wrapping_add(k.wrapping_mul(sk))
        };
        let at =
            |s: usize, k: usize, strides| Sink { place: Place::Stored(y.first.wrapping_offset(offset(s, k))), strides };
        // SAFETY: see `Pairs::contract_z`; y has these rows and outputs.
        unsafe {
            if st == 1 {
                for row in 0..s.1 * outs {
                    let sums = std::slice::from_raw_parts(sums.add(row * tile.width), tile.rows);
                    at(s.0 + row / outs, self.k.0 + row % outs, [0, 1]).write_row(0, sums);
                }
            } else if outs == 1 {
                let block = Output { n: (0, tile.rows), k: (0, s.1), sums, ..rows };
                block.write(at(s.0, self.k.0, [st, ss]));
            } else {
                for row in 0..s.1 {
                    let sums = sums.add(row * outs * tile.width);
                    let block = Output { n: (0, tile.rows), k: (0, outs), sums, ..rows };
                    block.write(at(s.0 + row, self.k.0, [st, sk]));
                }
            }
        }
    }
}

/// λ ⊙ A, rows `ld` apart.
///
/// # Safety
///
/// Room for the rows at `to`, and for one at `lambda`.
unsafe fn scale_rows<T: Kernels>(
    table: &Table<T>,
    a: View<'_, T, 2>,
    weights: Option<View<'_, T, 1>>,
    lambda: *mut T::Acc,
    to: *mut T::Acc,
    ld: usize,
) {
    let [rows, columns] = a.shape();
    // SAFETY: the caller's contract; rows are padded to `ld`, which is whole vectors.
    unsafe {
        copy_rows(table, a, to, ld);
        let Some(weights) = weights else { return };
        for r in 0..ld {
            *lambda.add(r) = weights.get([r]).map_or(T::Acc::default(), T::to_acc);
        }
        (table.arithmetic.hadamard)(&Hadamard {
            to,
            to_stride: ld,
            factors: [(to.cast_const(), ld), (lambda.cast_const(), 0)],
            scale: std::ptr::null(),
            rows,
            columns,
        });
    }
}
