//! The machine that executes decoded PTX.
//!
//! A [`block::Block`] has the memory that its threads see, a [`warp::Warp`] the registers and positions of its lanes;
//! [`run`] executes the warps of a block in turn, [`grid`] the blocks of a launch on all cores.

pub(crate) mod access;
pub(crate) mod atomics;
pub(crate) mod banks;
pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod code;
pub(crate) mod copy_async;
pub(crate) mod element;
pub(crate) mod global;
pub(crate) mod grid;
pub(crate) mod matrix_move;
pub(crate) mod mbarrier;
pub mod memory;
pub(crate) mod registers;
pub(crate) mod run;
pub(crate) mod spread;
pub(crate) mod tile;
pub(crate) mod vectorised;
pub(crate) mod warp;

use crate::FaultKind;

/// What went wrong in a lane.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) lane: u32,
    pub(crate) kind: FaultKind,
    pub(crate) address: Option<u64>,
}

/// Boxed, so that the usual result is one word.
pub(crate) type Outcome<T = ()> = Result<T, Box<Trouble>>;

pub(crate) fn trouble<T>(lane: usize, kind: FaultKind, address: Option<u64>) -> Outcome<T> {
    Err(Box::new(Trouble { lane: lane as u32, kind, address }))
}

/// The lanes of a mask.
#[inline(always)]
pub(crate) fn each(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < registers::LANES).then_some(lane)
    })
}
