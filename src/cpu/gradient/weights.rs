//! Gradient in W: dW\[k\]\[i\]\[j\] ←/+ Σ_n (g\[n\]\[k\] · z\[n\]\[i\]) · x\[n\]\[j\].
//!
//! ```text
//!   loop 6   blocks of k × blocks of i: the tasks of the threads
//!   loop 5     depth n by KC: gᵀ and zᵀ of it, [k][n] and [i][n]
//!   loop 4       j by JC: strips of x, [KC][MR] each                             in L2
//!   loop 3         i by IC, one k: IC × KC products gᵀ[k]⊙zᵀ, rows of n          in L2
//!   loop 2           strips of MR columns                                        in L1
//!   loop 1             tiles of NR rows i
//! ```
//!
//! Of each element the order of the sum depends on N and the processor only.

use crate::cpu::cache::{Caches, caches, part, parts};
use crate::cpu::kernels::{Epilogue, Fetch, FormKhatriRao, Gemm, Pack};
use crate::cpu::operand::Part;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::product::{Lanes, Product, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::table::Table;
use crate::{Context, Result, View, ViewMut};

/// IC: a multiple of every level's NR. With KC = 384 the products are 144 KiB of f32.
const FEATURES: usize = 96;
/// Bytes of gᵀ and zᵀ in a task, of which a line of each is used at a time.
const FACTOR_BYTES: usize = 1 << 20;
/// Rows (k, i) that a task should have at least, to share the packing of x.
const TASK_ROWS: usize = 1024;

/// Operands, whose sizes agree.
pub(super) struct Weights<'a, T: Kernels> {
    table: &'static Table<T>,
    caches: Caches,
    /// [N, K].
    g: View<'a, T, 2>,
    /// [N, I].
    z: View<'a, T, 2>,
    /// [N, J].
    x: View<'a, T, 2>,
}

/// Sizes of the blocks.
struct Blocks {
    kb: usize,
    ib: usize,
    jc: usize,
    kc: usize,
    /// Lengths of scratch arrays: gᵀ, zᵀ, strips of x, products, a tile.
    lengths: [usize; 5],
}

impl<'a, T: Kernels> Weights<'a, T> {
    pub(super) fn new(context: &Context, g: View<'a, T, 2>, z: View<'a, T, 2>, x: View<'a, T, 2>) -> Self {
        Weights { table: T::table(context.capability()), caches: caches(), g, z, x }
    }

    fn blocks(&self, threads: usize) -> Blocks {
        let (table, size) = (self.table, size_of::<T::Acc>());
        let [k, i, j] = [self.g, self.z, self.x].map(|input| input.shape()[1]);
        let kc = self.caches.kc::<T>(table);
        let depth = kc + 16;
        let factors = FACTOR_BYTES / size / depth;
        let wanted = if threads > 1 { 4 * threads } else { 1 };
        let ib = part(i, (factors / 2).min(i.div_ceil(wanted.div_ceil(k.max(1))).max(FEATURES)), table.nr).max(1);
        let shared = k.div_ceil(wanted.div_ceil(i.div_ceil(ib).max(1))).max(TASK_ROWS / ib).max(1);
        let kb = part(k, shared.min(factors - factors / 2), 1).max(1);
        let jc = part(j, self.caches.l2 / 2 / size / kc, table.mr).next_multiple_of(table.mr);
        let lengths = [kb * depth, ib * depth, jc * kc, FEATURES * depth, FEATURES * table.mr];
        Blocks { kb, ib, jc, kc, lengths }
    }

    /// The gradient written or added to `to` [K, I, J].
    pub(super) fn run(&self, mut to: ViewMut<'_, T::Acc, 3>, add: bool, threads: usize) -> Result<()> {
        let ([k, i, _], strides) = (to.shape(), to.strides());
        let blocks = self.blocks(threads);
        let (k_blocks, i_blocks) = (k.div_ceil(blocks.kb), i.div_ceil(blocks.ib));
        let first = Shared::new(to.as_mut_ptr());
        parallel::run(threads, k_blocks * i_blocks, |index| {
            let (i0, k0) = (index % i_blocks * blocks.ib, index / i_blocks * blocks.kb);
            let (kb, ib) = ((k0, blocks.kb.min(k - k0)), (i0, blocks.ib.min(i - i0)));
            scratch::with(blocks.lengths, |scratch| {
                // SAFETY: the scratch has the lengths of these blocks, the operands' shapes agree, and no other task has
                // these k and i of the gradient.
                unsafe { self.task(&blocks, kb, ib, scratch, first.get(), strides, add) };
                Ok(())
            })
        })
    }

    #[allow(clippy::too_many_arguments, reason = "what makes up a task")]
    unsafe fn task(
        &self,
        blocks: &Blocks,
        k: Part,
        i: Part,
        [gs, zs, strips, products, tile]: [*mut T::Acc; 5],
        to: *mut T::Acc,
        [sk, si, sj]: [isize; 3],
        add: bool,
    ) {
        let table = self.table;
        let lanes = Lanes::matrix(self.x);
        let none = std::ptr::null_mut();
        let product = Product { table, kc: blocks.kc, few: false, strip: none, tile, staged: none, factors: none };
        // SAFETY: see `run`.
        unsafe {
            for (index, n) in parts(self.x.shape()[0], blocks.kc, table.lanes).enumerate() {
                let epilogue = if index == 0 && !add { Epilogue::Set } else { Epilogue::Add };
                let width = n.1.next_multiple_of(table.lanes);
                self.transpose(self.g, n, k, gs);
                self.transpose(self.z, n, i, zs);
                for j in parts(self.x.shape()[1], blocks.jc, table.mr) {
                    for column in (0..j.1).step_by(table.mr) {
                        let to = strips.add(column * n.1);
                        lanes.pack(table, [(0, 1), n], (j.0 + column, j.0 + j.1), to);
                    }
                    for ic in parts(i.1, FEATURES, table.nr) {
                        for out in 0..k.1 {
                            (table.arithmetic.form_khatri_rao)(&FormKhatriRao {
                                z: gs.add(out * width),
                                rows: 1,
                                x: zs.add(ic.0 * width),
                                columns: ic.1,
                                to: products,
                                width,
                            });
                            let to = to.wrapping_offset(((k.0 + out) as isize).wrapping_mul(sk));
                            let to = Target { first: to, row_stride: si, column_stride: sj, padded: false };
                            for column in (0..j.1).step_by(table.mr) {
                                let vectors = (j.1 - column).min(table.mr).div_ceil(table.lanes);
                                let gemm = Gemm {
                                    a: strips.add(column * n.1).cast_const(),
                                    a_stride: (vectors * table.lanes) as isize,
                                    vectors,
                                    b: products.cast_const(),
                                    b_stride: width as isize,
                                    b_step: 1,
                                    rows: ic.1,
                                    depth: n.1,
                                    out: none,
                                    out_stride: 0,
                                    epilogue: Epilogue::Set,
                                    fetch: Fetch::Nothing,
                                };
                                product.store(&gemm, j.1 - column, to.offset(i.0 + ic.0, j.0 + column), epilogue);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Rows n and some columns of a matrix as [columns][n], padded with zeros to whole vectors.
    unsafe fn transpose(&self, matrix: View<'_, T, 2>, n: Part, columns: Part, to: *mut T::Acc) {
        let [sn, sc] = matrix.strides();
        let offset = (n.0 as isize).wrapping_mul(sn).wrapping_add((columns.0 as isize).wrapping_mul(sc));
        // SAFETY: rows and columns are within the matrix; room for the columns.
        unsafe {
            (self.table.pack)(&Pack {
                from: matrix.as_ptr().wrapping_offset(offset),
                row_stride: sn,
                column_stride: sc,
                rows: n.1,
                depth: columns.1,
                to,
                width: n.1.next_multiple_of(self.table.lanes),
            });
        }
    }
}
