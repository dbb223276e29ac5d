//! Gradient in x: dx\[n\]\[j\] ←/+ Σ_ki (g\[n\]\[k\] · z\[n\]\[i\]) · W\[k\]\[i\]\[j\] + Σ_k g\[n\]\[k\] · V\[k\]\[j\].
//!
//! ```text
//!   loop 4   blocks of NC rows × blocks of columns j: the tasks of the threads
//!   loop 3     depth (k, i) by KC: NC × KC products g⊗z, row by row                      in L2
//!   loop 2       strips of MR columns of W: [KC][MR], read in place or packed            in L1
//!   loop 1         tiles of NR rows n
//! ```
//!
//! Of dx\[n\]\[j\] the order of the sum depends on K, I and the processor only. The gradient in z is the same with W's axes
//! exchanged.

use crate::cpu::cache::{Caches, caches, part};
use crate::cpu::kernels::Epilogue;
use crate::cpu::operand::Cube;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::product::{Block, IN_PLACE_ROWS, Lanes, Product, Rows, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::table::Table;
use crate::{Context, Result, View, ViewMut};

/// NC: the products of a block, 384 rows × KC of f32, are half of L2, and each packed strip serves them all.
const ROWS: usize = 384;

/// Operands, whose sizes agree.
pub(super) struct Inputs<'a, T: Kernels> {
    table: &'static Table<T>,
    caches: Caches,
    /// g [N, K].
    g: View<'a, T, 2>,
    /// The other input, [N, I].
    other: View<'a, T, 2>,
    /// [K, I, J], J being the axis of this input.
    w: Option<View<'a, T, 3>>,
    /// [K, J].
    linear: Option<View<'a, T, 2>>,
}

impl<'a, T: Kernels> Inputs<'a, T> {
    pub(super) fn new(
        context: &Context,
        [g, other]: [View<'a, T, 2>; 2],
        w: Option<View<'a, T, 3>>,
        linear: Option<View<'a, T, 2>>,
    ) -> Self {
        Inputs { table: T::table(context.capability()), caches: caches(), g, other, w, linear }
    }

    /// The gradient written or added to `to` [N, J].
    pub(super) fn run(&self, mut to: ViewMut<'_, T::Acc, 2>, add: bool, threads: usize) -> Result<()> {
        let ([n, columns], strides) = (to.shape(), to.strides());
        if n == 0 || columns == 0 {
            return Ok(());
        }
        let table = self.table;
        let most = if threads > 1 { ROWS.min(n.div_ceil(threads)) } else { ROWS };
        let nc = part(n, most.next_multiple_of(table.nr), table.nr).max(1);
        let n_blocks = n.div_ceil(nc);
        let wanted = parallel::cut(threads, n_blocks);
        let jb = part(columns, columns.div_ceil(wanted).next_multiple_of(table.mr), table.mr).max(1);
        let j_blocks = columns.div_ceil(jb);
        let kc = self.caches.kc::<T>(table);
        let lengths = [kc * table.mr, nc * table.mr, nc * (kc + 16), 2 * (kc + 32)];
        let first = Shared::new(to.as_mut_ptr());
        parallel::run(threads, n_blocks * j_blocks, |index| {
            let (n0, j0) = (index % n_blocks * nc, index / n_blocks * jb);
            let rows = (n0, nc.min(n - n0));
            let block = Block { rows: rows.1, over: 0, columns: (j0, jb.min(columns - j0)) };
            scratch::with(lengths, |[strip, tile, staged, factors]| {
                let few = n <= IN_PLACE_ROWS;
                let product = Product { table, kc, few, strip, tile, staged, factors };
                let [row_stride, column_stride] = strides;
                let to = Target { first: first.get(), row_stride, column_stride, padded: false }.offset(n0, j0);
                let (g, other) = (self.g.slice_rows(rows), self.other.slice_rows(rows));
                let mut epilogue = if add { Epilogue::Add } else { Epilogue::Set };
                let none = View::strided(&[], 0, [0, columns], [0, 1])?;
                // SAFETY: the rows and columns of all operands agree, no other task has these of the gradient, and the
                // scratch has the lengths that products of so many rows need.
                unsafe {
                    if let Some(linear) = self.linear {
                        product.run(Rows::Stored(Cube::matrix(g)), Lanes::matrix(linear), block, to, epilogue);
                        epilogue = Epilogue::Add;
                    }
                    match self.w {
                        Some(w) => product.run(Rows::KhatriRao(g, other), Lanes::new(w), block, to, epilogue),
                        None if epilogue == Epilogue::Set => {
                            let empty = View::strided(&[], 0, [rows.1, 0], [0, 1])?;
                            product.run(Rows::Stored(Cube::matrix(empty)), Lanes::matrix(none), block, to, epilogue);
                        }
                        None => {}
                    }
                }
                Ok(())
            })
        })
    }
}
