//! A level's kernels as function pointers: what a capability gives access to.

use super::kernels::{
    Components, Fused, Gate, GateBack, GateSum, Gemm, Hadamard, KhatriRao, Pack, Products, Stream, Sweep, Unpack,
    Widened,
};
use super::simd::Kernels;

/// The kernels that see accumulators only.
pub(crate) struct Arithmetic<A> {
    pub(crate) gemm: unsafe fn(&Gemm<A>),
    pub(crate) fused: unsafe fn(&Fused<A>),
    pub(crate) khatri_rao: unsafe fn(&KhatriRao<A>),
    pub(crate) outer: unsafe fn(z: &[A], x: *const A, columns: usize, to: *mut A),
    pub(crate) products: unsafe fn(&Products<A>),
    pub(crate) hadamard: unsafe fn(&Hadamard<A>),
    pub(crate) components: unsafe fn(&Components<A>),
    /// Panels of sums to a gradient or tangent.
    pub(crate) unpack: unsafe fn(&Unpack<A, A>),
    /// Independent FMAs, 12·LANES in each of so many rounds: what the peak is measured with.
    pub(crate) peak: unsafe fn(usize) -> A,
    /// The sum of so many elements: what the read bandwidth is measured with.
    pub(crate) read: unsafe fn(*const A, usize) -> A,
}

/// All kernels of one level for one storage type.
pub(crate) struct Table<T: Kernels> {
    /// Like `x86_64-f32-avx2-6x16`.
    pub(crate) name: &'static str,
    pub(crate) lanes: usize,
    /// Rows in a tile.
    pub(crate) nr: usize,
    /// Lanes in a tile, `MV`·`LANES`.
    pub(crate) mr: usize,
    pub(crate) arithmetic: &'static Arithmetic<T::Acc>,
    pub(crate) pack: unsafe fn(&Pack<T, T::Acc>),
    pub(crate) unpack: unsafe fn(&Unpack<T, T::Acc>),
    pub(crate) widen: unsafe fn(&Widened<T, T::Acc>),
    pub(crate) stream: unsafe fn(&Stream<T, T::Acc>),
    pub(crate) sweep: unsafe fn(&Sweep<T, T::Acc>),
    pub(crate) gate: unsafe fn(&Gate<T, T::Acc>),
    pub(crate) gate_back: unsafe fn(&GateBack<T, T::Acc>),
    pub(crate) gate_sum: unsafe fn(&GateSum<T, T::Acc>),
}

/// Instantiates every kernel for a storage type and a [`super::simd::Simd`], each inside its `#[target_feature]`.
macro_rules! table {
    ($name:ident, $storage:ty, $simd:ty, [$($feature:literal)?], $arithmetic:expr, $text:literal) => {
        pub(crate) static $name: crate::cpu::table::Table<$storage> = {
            use crate::cpu::kernels;
            use crate::cpu::simd::Simd;
            type A = <$simd as Simd>::Acc;

            $(#[target_feature(enable = $feature)])?
            unsafe fn pack(args: &kernels::Pack<$storage, A>) {
                // SAFETY: the instructions are enabled here; the rest is the caller's contract. So in all of these.
                unsafe { kernels::pack::<$simd, $storage>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn unpack(args: &kernels::Unpack<$storage, A>) {
                // SAFETY: as above.
                unsafe { kernels::unpack::<$simd, $storage>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn widen(args: &kernels::Widened<$storage, A>) {
                // SAFETY: as above.
                unsafe { kernels::widen::<$simd, $storage>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn stream(args: &kernels::Stream<$storage, A>) {
                // SAFETY: as above.
                unsafe { kernels::stream::<$simd, $storage>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn sweep(args: &kernels::Sweep<$storage, A>) {
                // SAFETY: as above.
                unsafe { kernels::sweep::<$simd, $storage>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn gate(args: &kernels::Gate<$storage, A>) {
                // SAFETY: as above.
                unsafe { kernels::gate::<$simd, $storage>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn gate_back(args: &kernels::GateBack<$storage, A>) {
                // SAFETY: as above.
                unsafe { kernels::gate_back::<$simd, $storage>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn gate_sum(args: &kernels::GateSum<$storage, A>) {
                // SAFETY: as above.
                unsafe { kernels::gate_sum::<$simd, $storage>(args) }
            }
            crate::cpu::table::Table {
                name: $text,
                lanes: <$simd as Simd>::LANES,
                nr: <$simd as Simd>::NR,
                mr: <$simd as Simd>::MV * <$simd as Simd>::LANES,
                arithmetic: &$arithmetic,
                pack,
                unpack,
                widen,
                stream,
                sweep,
                gate,
                gate_back,
                gate_sum,
            }
        };
    };
}
pub(crate) use table;

/// Instantiates the kernels that see accumulators only.
macro_rules! arithmetic {
    ($name:ident, $simd:ty, [$($feature:literal)?]) => {
        pub(crate) static $name: crate::cpu::table::Arithmetic<<$simd as crate::cpu::simd::Simd>::Acc> = {
            use crate::cpu::kernels;
            type A = <$simd as crate::cpu::simd::Simd>::Acc;

            $(#[target_feature(enable = $feature)])?
            unsafe fn gemm(args: &kernels::Gemm<A>) {
                // SAFETY: the instructions are enabled here; the rest is the caller's contract. So in all of these.
                unsafe { kernels::gemm::<$simd>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn fused(args: &kernels::Fused<A>) {
                // SAFETY: as above.
                unsafe { kernels::fused::<$simd>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn khatri_rao(args: &kernels::KhatriRao<A>) {
                // SAFETY: as above.
                unsafe { kernels::khatri_rao::<$simd>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn outer(z: &[A], x: *const A, columns: usize, to: *mut A) {
                // SAFETY: as above.
                unsafe { kernels::outer::<$simd>(z, x, columns, to) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn products(args: &kernels::Products<A>) {
                // SAFETY: as above.
                unsafe { kernels::products::<$simd>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn hadamard(args: &kernels::Hadamard<A>) {
                // SAFETY: as above.
                unsafe { kernels::hadamard::<$simd>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn components(args: &kernels::Components<A>) {
                // SAFETY: as above.
                unsafe { kernels::components::<$simd>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn unpack(args: &kernels::Unpack<A, A>) {
                // SAFETY: as above.
                unsafe { kernels::unpack::<$simd, A>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn peak(rounds: usize) -> A {
                // SAFETY: as above.
                unsafe { kernels::peak::<$simd>(rounds) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn read(from: *const A, len: usize) -> A {
                // SAFETY: as above.
                unsafe { kernels::read::<$simd>(from, len) }
            }
            crate::cpu::table::Arithmetic { gemm, fused, khatri_rao, outer, products, hadamard, components, unpack, peak, read }
        };
    };
}
pub(crate) use arithmetic;
