//! `bench` on a CUDA device: times of a GPU, counts of the simulated device.

mod baselines;
pub(crate) mod counts;
mod driver;
mod gemm;
mod loaded;
mod peak;
mod profiler;
mod tensors;
mod time;

pub(crate) use profiler::{Profiler, is_simulated};
pub(crate) use time::Timer;
