//! Placeholder
#![allow(dead_code)]
mod axes;
mod cpu;
mod cuda;
mod device;
mod element;
mod error;
mod interaction;
pub mod machine;
#[cfg(feature = "ndarray")]
mod ndarray;
mod plan;
mod prepared;
pub mod presets;
pub mod reference;
mod tensor;
mod view;

pub use axes::{Axes, Axis};
pub use device::{Context, Device, SimdLevel};
pub use element::{DType, Element};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use interaction::{Generated, Interaction};
pub use plan::{Algorithm, Plan};
pub use prepared::Prepared;
pub use tensor::Tensor;
pub use view::{View, ViewMut};
