//! The kernels' PTX, as build.rs has found it.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
