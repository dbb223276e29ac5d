//! Rows of weights times one panel of lanes: out\[o\]\[l\] ←/+/⊙ Σ_d A\[d\]\[l\] · B\[o\]\[d\].
//!
//! Operands as in [`super::microkernel`]; `out` is `rows` rows of `vectors`·LANES contiguous lanes, `out_stride` apart.
//! With the lanes over n it computes x Vᵀ, z Uᵀ, (z⊗x) Wᵀ and H Aᵀ; over r, z B and x C; over j, zᵀ W.

use super::microkernel::{Lines, Loaded, Source, microkernel, tiles};
use crate::cpu::simd::Simd;

/// What happens to a tile of sums.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Epilogue {
    /// out = acc. What was there before is not read.
    Set,
    /// out += acc.
    Add,
    /// out ⊙= acc: the Hadamard product of CP.
    Multiply,
}

/// Tiles of rows that memory is asked for in advance.
const AHEAD: isize = 2;

/// What comes from far away, and is asked for in advance.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fetch {
    Nothing,
    /// The rows, of which one lies behind the other: those of the next tiles.
    Rows,
    /// The lanes: those that lie behind them, the next strip of a matrix.
    Lanes,
}

/// Lanes, and what is asked for beside: where memory is most of the work, into L2. A strip may be two lines wide.
struct Strip<A> {
    lanes: Loaded<A>,
    second: Lines<A>,
}

impl<S: Simd, const MV: usize> Source<S, MV> for Strip<S::Acc> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        // SAFETY: any address may be asked for; the rest is the caller's contract.
        unsafe {
            S::prefetch(self.lanes.ahead.next);
            self.lanes.ahead.next = self.lanes.ahead.next.wrapping_byte_add(self.lanes.ahead.step);
            if MV * S::LANES * size_of::<S::Acc>() > 64 {
                S::prefetch(self.second.next);
                self.second.next = self.second.next.wrapping_byte_add(self.second.step);
            }
            self.lanes.load::<S, MV>()
        }
    }
}

/// Operands of [`gemm`].
pub(crate) struct Gemm<A> {
    /// Lane operand: `depth` rows of `vectors`·LANES lanes.
    pub(crate) a: *const A,
    pub(crate) a_stride: isize,
    /// 1..=MV.
    pub(crate) vectors: usize,
    /// Row operand: `rows` rows, `b_stride` apart, of `depth` elements, `b_step` apart.
    pub(crate) b: *const A,
    pub(crate) b_stride: isize,
    pub(crate) b_step: isize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) out: *mut A,
    pub(crate) out_stride: usize,
    pub(crate) epilogue: Epilogue,
    pub(crate) fetch: Fetch,
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn gemm<S: Simd>(g: &Gemm<S::Acc>) {
    // SAFETY: the caller's contract.
    unsafe {
        match g.vectors {
            1 => tiles!(run, S, 1, g, g.rows, ()),
            2 if S::MV >= 2 => tiles!(run, S, 2, g, g.rows, ()),
            3 if S::MV >= 3 => tiles!(run, S, 3, g, g.rows, ()),
            4 if S::MV >= 4 => tiles!(run, S, 4, g, g.rows, ()),
            _ => {}
        }
    }
}

/// Calls `f` for each vector of a tile.
#[inline(always)]
pub(super) fn each<V: Copy, const MV: usize, const NR: usize>(acc: &[[V; MV]; NR], f: impl Fn(usize, usize, V)) {
    for (o, acc) in acc.iter().enumerate() {
        for (v, &acc) in acc.iter().enumerate() {
            f(o, v, acc);
        }
    }
}

/// `tiles` tiles of NR rows, from row `first` on.
#[inline(always)]
unsafe fn run<S: Simd, const MV: usize, const NR: usize>(g: &Gemm<S::Acc>, first: usize, tiles: usize, _: ()) {
    // SAFETY: all rows are below `g.rows`; the rest is the caller's contract.
    unsafe {
        let size = size_of::<S::Acc>();
        for tile in 0..tiles {
            let row = first + tile * NR;
            let b = g.b.wrapping_offset(row as isize * g.b_stride);
            let none = Lines::none(g.a);
            let (ahead, second) = match g.fetch {
                Fetch::Nothing => (none, none),
                Fetch::Rows => {
                    let step = if g.b_step == 1 {
                        (g.b_stride as usize).wrapping_mul(NR * size) / g.depth.max(1)
                    } else {
                        (g.b_step as usize).wrapping_mul(size)
                    };
                    (Lines { next: b.wrapping_offset(AHEAD * NR as isize * g.b_stride), step, jump: 0 }, none)
                }
                Fetch::Lanes => {
                    let step = (g.a_stride as usize).wrapping_mul(size); // of rows in reverse order too
                    let next = g.a.wrapping_add(MV * S::LANES);
                    (Lines { next, step, jump: 0 }, Lines { next: next.wrapping_byte_add(64), step, jump: 0 })
                }
            };
            let mut lanes = Strip { lanes: Loaded { a: g.a, a_stride: g.a_stride, ahead }, second };
            let acc = microkernel::<S, MV, NR>(g.depth, &mut lanes, b, (g.b_stride, g.b_step));
            // One loop for each, so that the sums stay in registers.
            let out = g.out.wrapping_add(row * g.out_stride);
            let at = |o: usize, v: usize| out.wrapping_add(o * g.out_stride + v * S::LANES);
            match g.epilogue {
                Epilogue::Set => each(&acc, |o, v, acc| S::store(at(o, v), acc)),
                Epilogue::Add => each(&acc, |o, v, acc| S::store(at(o, v), S::add(S::load(at(o, v)), acc))),
                Epilogue::Multiply => each(&acc, |o, v, acc| S::store(at(o, v), S::mul(S::load(at(o, v)), acc))),
            }
        }
    }
}
