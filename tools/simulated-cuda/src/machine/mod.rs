//! The machine that executes decoded PTX.

pub mod memory;
