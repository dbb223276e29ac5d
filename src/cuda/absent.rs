//! The engine's surface in a build without the feature `cuda`: reasons instead of devices.

use crate::{Context, Device, Error, Result, Tensor, Unavailable, View};

fn none<V>(device: Device) -> Result<V> {
    Err(Error::Device { device, reason: Unavailable::NotBuilt })
}

pub(crate) fn check(ordinal: usize) -> Result<()> {
    none(Device::Cuda(ordinal))
}

pub(crate) fn describe(ordinal: usize) -> Result<String> {
    none(Device::Cuda(ordinal))
}

pub(crate) fn devices() -> Result<usize> {
    none(Device::Cuda(0))
}

pub(crate) fn synchronize(context: &Context) -> Result<()> {
    none(context.device())
}

pub(crate) fn download<T, const D: usize>(view: View<'_, T, D>) -> Result<Tensor<T, D>> {
    none(view.device())
}

/// Memory of a device, of which there is none.
#[derive(Debug, PartialEq)]
pub(crate) enum Memory {}

impl Memory {
    pub(crate) fn new(device: Device, _bytes: usize) -> Result<Memory> {
        none(device)
    }

    pub(crate) fn clear(&self) -> Result<()> {
        match *self {}
    }

    pub(crate) fn write<T>(&self, _from: &[T]) -> Result<()> {
        match *self {}
    }

    pub(crate) fn read<T>(&self, _to: &mut [T]) -> Result<()> {
        match *self {}
    }

    pub(crate) fn address(&self) -> u64 {
        match *self {}
    }
}
