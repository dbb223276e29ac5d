//! Where an operand's memory is, and the check that all operands of a call are where they will be read.

use std::num::NonZeroU32;

use crate::{Device, Error, Result};

/// The host's memory, or a device's. A view carries one, and nothing but this crate's CUDA code reads through a view whose
/// memory is not the host's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(NonZeroU32);

impl Place {
    pub(crate) const HOST: Place = Place(NonZeroU32::MIN);

    /// The memory of a device. Errors: [`Error::TooLarge`] for an ordinal that no device has.
    pub(crate) fn of(device: Device) -> Result<Place> {
        match device {
            Device::Cpu => Ok(Place::HOST),
            Device::Cuda(ordinal) => u32::try_from(ordinal)
                .ok()
                .and_then(|ordinal| NonZeroU32::MIN.checked_add(ordinal.checked_add(1)?))
                .map(Place)
                .ok_or(Error::TooLarge { what: "a device's ordinal" }),
        }
    }

    pub(crate) fn device(self) -> Device {
        match self.0.get() {
            1 => Device::Cpu,
            place => Device::Cuda(place as usize - 2),
        }
    }

    #[inline]
    pub(crate) fn is_host(self) -> bool {
        self == Place::HOST
    }
}

/// An operand by its name, if it is present.
pub(crate) type Located = Option<(&'static str, Place)>;

/// That all operands are in the host's memory. Errors: [`Error::Place`].
#[inline]
pub(crate) fn host<const N: usize>(operands: [Located; N]) -> Result<()> {
    all(Place::HOST, &[&operands])
}

/// That all operands are in one place. Errors: [`Error::Place`].
#[inline]
pub(crate) fn all(place: Place, operands: &[&[Located]]) -> Result<()> {
    // Plain loops: the smallest calls take a few hundred nanoseconds in all.
    for some in operands {
        for located in *some {
            if let &Some((operand, actual)) = located
                && actual != place
            {
                return Err(Error::Place { operand, expected: place.device(), actual: actual.device() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_device() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(7), Device::Cuda(u32::MAX as usize - 2)] {
            assert_eq!(Place::of(device).map(Place::device), Ok(device));
        }
        for ordinal in [u32::MAX as usize - 1, u32::MAX as usize, usize::MAX] {
            assert!(Place::of(Device::Cuda(ordinal)).is_err(), "{ordinal}");
        }
        assert_eq!(size_of::<Option<Place>>(), 4); // so that a view's Option takes no more than the view
    }
}
