//! The kernels, each written once over [`super::simd::Simd`].
//!
//! All take their operands as a struct of pointers and strides, and all are `unsafe` for the same two reasons: the
//! instructions must be enabled (see [`super::simd`]), and every element that the struct's doc names must be valid.

mod components;
mod fused;
mod gate;
mod gemm;
mod khatri_rao;
mod microkernel;
mod pack;
mod products;
mod stream;
mod sweep;

pub(crate) use components::{Components, components};
pub(crate) use fused::{Fused, fused};
pub(crate) use gate::{Gate, GateBack, GateSum, Gated, Row, gate, gate_back, gate_sum};
pub(crate) use gemm::{Epilogue, Fetch, Gemm, gemm};
pub(crate) use khatri_rao::{KhatriRao, khatri_rao};
pub(crate) use microkernel::{Ahead, Lines, peak, read};
pub(crate) use pack::{Hadamard, Pack, Unpack, Widened, add_into, gather, hadamard, pack, unpack, widen};
pub(crate) use products::{Products, products};
pub(crate) use stream::{Fold, Stream, outer, stream};
pub(crate) use sweep::{Outer, Sweep, sweep};
