//! The CUDA engine's host half: from the API's operands to kernels in a stream.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(feature = "cuda")]
mod blocks;
#[cfg(feature = "cuda")]
mod choose;
#[cfg(feature = "cuda")]
mod contract;
#[cfg(feature = "cuda")]
mod cp;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
mod few;
#[cfg(feature = "cuda")]
mod forms;
#[cfg(feature = "cuda")]
mod gate;
#[cfg(feature = "cuda")]
mod gram;
#[cfg(feature = "cuda")]
mod grouped;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod module;
#[cfg(feature = "cuda")]
mod operand;
#[cfg(feature = "cuda")]
mod operations;
#[cfg(feature = "cuda")]
mod pairs;
#[cfg(feature = "cuda")]
mod problem;
#[cfg(feature = "cuda")]
mod recorder;
#[cfg(feature = "cuda")]
mod shared;
#[cfg(feature = "cuda")]
mod stage;
#[cfg(all(test, feature = "cuda"))]
mod tests;

#[cfg(not(feature = "cuda"))]
pub(crate) use absent::{Memory, check, describe, devices, download, synchronize};
#[cfg(feature = "cuda")]
pub(crate) use driver::{check, describe, devices};
#[cfg(feature = "cuda")]
pub(crate) use grouped::{backward_grouped, forward_grouped};
#[cfg(feature = "cuda")]
pub(crate) use memory::{Memory, download};
#[cfg(feature = "cuda")]
pub(crate) use operations::*;
#[cfg(feature = "cuda")]
pub(crate) use pairs::*;
