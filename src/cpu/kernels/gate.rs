//! Diagonal W, an elementwise product that memory bounds, the lanes over k = i = j:
//!
//! ```text
//!   y[n][k]  = d[k] z[n][k] x[n][k] + b[k]
//!   s[n]     = Σ_k d[k] z[n][k] x[n][k]
//!   dz[n][k] = d[k] g[n][k] x[n][k]      dx[n][k] = d[k] g[n][k] z[n][k]      dd[k] += Σ_n g[n][k] z[n][k] x[n][k]
//! ```
//!
//! Each vector is read and written once, from where it is to where it goes.

use crate::cpu::simd::{Kernels, Simd, Widen};

/// Bytes that rows are brought in advance, of each of their streams.
const AHEAD: usize = 2048;
/// Elements that are narrowed at once.
const NARROWED: usize = 256;
/// Largest LANES of any level.
const MAX_LANES: usize = 16;

/// Rows of contiguous elements, so far apart (0: one for all).
#[derive(Clone, Copy)]
pub(crate) struct Row<P> {
    pub(crate) first: P,
    pub(crate) stride: isize,
}

/// Where results go.
#[derive(Clone, Copy)]
pub(crate) enum Gated<T, A> {
    /// Rounded to the storage type.
    Stored(Row<*mut T>),
    /// As they are, past the caches if so said, which aligned rows can be.
    Sums(Row<*mut A>, bool),
    Added(Row<*mut A>),
}

/// Operands of [`gate`].
pub(crate) struct Gate<T, A> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) z: Row<*const T>,
    pub(crate) x: Row<*const T>,
    /// d and b, or null; room for whole vectors.
    pub(crate) scale: *const A,
    pub(crate) bias: *const A,
    pub(crate) to: Gated<T, A>,
}

/// Operands of [`gate_back`]; results that are null are not wanted.
pub(crate) struct GateBack<T, A> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) g: Row<*const T>,
    pub(crate) z: Row<*const T>,
    pub(crate) x: Row<*const T>,
    /// d, or null; room for whole vectors.
    pub(crate) scale: *const A,
    /// dz, dx and dz + dx, and whether each is added to what is there.
    pub(crate) to: [(Row<*mut A>, bool); 3],
    /// dd, one row of whole vectors, added to.
    pub(crate) d_scale: *mut A,
}

/// Operands of [`gate_sum`].
pub(crate) struct GateSum<T, A> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) z: Row<*const T>,
    pub(crate) x: Row<*const T>,
    /// d, or null; room for whole vectors.
    pub(crate) scale: *const A,
    /// An element for each row, so far apart.
    pub(crate) to: *mut A,
    pub(crate) to_stride: usize,
}

/// The vector from column `c` on, of which `len` lanes are of the row.
#[inline(always)]
unsafe fn read<S: Widen<T>, T>(row: *const T, c: usize, len: usize) -> S::Vector {
    // SAFETY: the caller's contract.
    unsafe { if len >= S::LANES { S::widen(row.add(c)) } else { S::widen_partial(row.add(c), len) } }
}

/// Writes, or adds, the lanes that are of the row.
#[inline(always)]
unsafe fn write<S: Simd>(to: *mut S::Acc, c: usize, len: usize, v: S::Vector, add: bool) {
    // SAFETY: the caller's contract.
    unsafe {
        let to = to.add(c);
        if len >= S::LANES {
            S::store(to, if add { S::add(S::load(to), v) } else { v });
            return;
        }
        let mut lanes = [S::Acc::default(); MAX_LANES];
        S::store(lanes.as_mut_ptr(), v);
        for (lane, &value) in lanes[..len].iter().enumerate() {
            *to.add(lane) = if add { *to.add(lane) + value } else { value };
        }
    }
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn gate<S: Widen<T>, T: Kernels<Acc = S::Acc>>(o: &Gate<T, S::Acc>) {
    // SAFETY: rows and columns are within the operands: the caller's contract.
    unsafe {
        for n in 0..o.rows as isize {
            let z = o.z.first.wrapping_offset(o.z.stride.wrapping_mul(n));
            let x = o.x.first.wrapping_offset(o.x.stride.wrapping_mul(n));
            match o.to {
                Gated::Sums(to, past) => {
                    let to = to.first.wrapping_offset(to.stride.wrapping_mul(n));
                    match past {
                        true => row::<S, T, true>(o, z, x, (0, o.columns), to, false),
                        false => row::<S, T, false>(o, z, x, (0, o.columns), to, false),
                    }
                }
                Gated::Added(to) => {
                    let to = to.first.wrapping_offset(to.stride.wrapping_mul(n));
                    row::<S, T, false>(o, z, x, (0, o.columns), to, true);
                }
                Gated::Stored(to) => {
                    let to = to.first.wrapping_offset(to.stride.wrapping_mul(n));
                    let mut sums = [S::Acc::default(); NARROWED];
                    for c in (0..o.columns).step_by(NARROWED) {
                        let len = (o.columns - c).min(NARROWED);
                        row::<S, T, false>(o, z, x, (c, len), sums.as_mut_ptr(), false);
                        T::narrow(&sums[..len], std::slice::from_raw_parts_mut(to.add(c), len));
                    }
                }
            }
        }
        if matches!(o.to, Gated::Sums(_, true)) {
            S::fence();
        }
    }
}

/// Columns from `first` on, so many, to `to`.
#[inline(always)]
unsafe fn row<S: Widen<T>, T: Kernels<Acc = S::Acc>, const PAST: bool>(
    o: &Gate<T, S::Acc>,
    z: *const T,
    x: *const T,
    (first, len): (usize, usize),
    to: *mut S::Acc,
    add: bool,
) {
    // SAFETY: see `gate`.
    unsafe {
        let ahead = AHEAD / size_of::<T>();
        let mut c = 0;
        while c < len {
            let (at, left) = (first + c, len - c);
            S::prefetch(z.wrapping_add(at + ahead).cast());
            S::prefetch(x.wrapping_add(at + ahead).cast());
            let mut z = read::<S, T>(z, at, left);
            if !o.scale.is_null() {
                z = S::mul(z, S::load(o.scale.add(at)));
            }
            let x = read::<S, T>(x, at, left);
            let y = if o.bias.is_null() { S::mul(z, x) } else { S::fma(z, x, S::load(o.bias.add(at))) };
            if PAST && left >= S::LANES {
                S::store_past(to.add(c), y);
            } else {
                write::<S>(to, c, left, y, add);
            }
            c += S::LANES;
        }
    }
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn gate_back<S: Widen<T>, T: Kernels<Acc = S::Acc>>(o: &GateBack<T, S::Acc>) {
    let [(dz, add_z), (dx, add_x), (tied, add_tied)] = o.to;
    // SAFETY: rows and columns are within the operands: the caller's contract.
    unsafe {
        for n in 0..o.rows as isize {
            let from = |row: Row<*const T>| row.first.wrapping_offset(row.stride.wrapping_mul(n));
            let to = |row: Row<*mut S::Acc>| row.first.wrapping_offset(row.stride.wrapping_mul(n));
            let (g, z, x) = (from(o.g), from(o.z), from(o.x));
            for c in (0..o.columns).step_by(S::LANES) {
                let left = o.columns - c;
                let g = read::<S, T>(g, c, left);
                let (z, x) = (read::<S, T>(z, c, left), read::<S, T>(x, c, left));
                if !o.d_scale.is_null() {
                    let d = o.d_scale.add(c);
                    S::store(d, S::fma(S::mul(g, z), x, S::load(d)));
                }
                let g = if o.scale.is_null() { g } else { S::mul(g, S::load(o.scale.add(c))) };
                if !dz.first.is_null() {
                    write::<S>(to(dz), c, left, S::mul(g, x), add_z);
                }
                if !dx.first.is_null() {
                    write::<S>(to(dx), c, left, S::mul(g, z), add_x);
                }
                if !tied.first.is_null() {
                    write::<S>(to(tied), c, left, S::mul(g, S::add(z, x)), add_tied);
                }
            }
        }
    }
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn gate_sum<S: Widen<T>, T: Kernels<Acc = S::Acc>>(o: &GateSum<T, S::Acc>) {
    /// Sums beside each other, which cover the latency of an addition.
    const SUMS: usize = 4;
    let ahead = AHEAD / size_of::<T>();
    // SAFETY: rows and columns are within the operands: the caller's contract.
    unsafe {
        for n in 0..o.rows {
            let z = o.z.first.wrapping_offset(o.z.stride.wrapping_mul(n as isize));
            let x = o.x.first.wrapping_offset(o.x.stride.wrapping_mul(n as isize));
            let mut sums = [S::zero(); SUMS];
            let mut c = 0;
            while c < o.columns {
                for sum in &mut sums {
                    if c >= o.columns {
                        break;
                    }
                    S::prefetch(z.wrapping_add(c + ahead).cast());
                    S::prefetch(x.wrapping_add(c + ahead).cast());
                    let mut product = read::<S, T>(z, c, o.columns - c);
                    if !o.scale.is_null() {
                        product = S::mul(product, S::load(o.scale.add(c)));
                    }
                    *sum = S::fma(product, read::<S, T>(x, c, o.columns - c), *sum);
                    c += S::LANES;
                }
            }
            let [a, b, c, d] = sums;
            *o.to.add(n * o.to_stride) = S::sum(S::add(S::add(a, b), S::add(c, d)));
        }
    }
}
