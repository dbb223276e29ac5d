//! A simulated CUDA device that executes PTX, with a sanitizer and a profiler, behind libcuda's interface.
//!
//! The driver (`driver`) builds on these: [`Module::parse`] reads PTX text, [`Module::place`] puts its variables into
//! a [`Memory`], [`Module::function`] gives a kernel, [`launch`] runs it on a [`Device`].
//!
//! `launch` checks nothing about a launch that the driver is to refuse by itself (block dimensions, shared memory
//! against the device's limits): it runs what it is given.

mod device;
#[cfg(feature = "driver")]
pub mod driver;
mod fault;
mod isa;
pub mod machine;
pub mod profile;
pub mod ptx;
mod sanitizer;

pub use device::{Device, Launch, launch};
pub use fault::{Access, Fault, FaultKind, Space};
pub use machine::memory::{Memory, MemoryError};
pub use profile::Profile;
pub use ptx::{Function, Module, Param, ParseError};
