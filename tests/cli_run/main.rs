//! `trilinear run`: every form of input, and every way in which input can be wrong.
#![cfg(feature = "cli")]

mod errors;
mod forms;
mod gradients;
mod helpers;
mod types;
