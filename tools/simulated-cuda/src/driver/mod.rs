//! The interface of libcuda.so.1: C functions over one process-wide [`state::State`].
//!
//! - [`abi`]: pointers that cross the interface; no panic leaves it
//! - [`result`], [`config`]: the codes; what the environment asks for
//! - [`state`]: devices, contexts and the tables of handles; a handle is a number that is never dereferenced, so that a
//!   wrong one is `INVALID_HANDLE` and not a crash
//! - [`device`], [`context`], [`memory`], [`copy`], [`pool`], [`host`], [`module`], [`function`], [`occupancy`],
//!   [`stream`], [`event`], [`graph`]: the functions, as the driver API's manual groups them
//! - [`capture`]: which calls a capturing stream forbids, and what it records
//! - [`unsupported`]: what is refused
//! - [`work`]: what a stream executes, at once or when a graph is launched; [`pending`]: what takes longer
//! - [`profile`]: whom the counts of launches are given to
//! - [`symbols`]: finding a function by its name, `cuGetProcAddress`

#![allow(non_snake_case, reason = "the names are the interface's")]

mod abi;
mod capture;
mod config;
mod context;
mod copy;
mod device;
mod event;
mod function;
mod graph;
mod host;
mod memory;
mod module;
mod occupancy;
mod pending;
mod pool;
mod profile;
mod result;
mod state;
mod stream;
mod symbols;
mod unsupported;
mod work;
