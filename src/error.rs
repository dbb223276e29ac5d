//! The one error type: what was wrong, with which operand, what was expected and what was given.

use std::fmt;

use crate::{Algorithm, Device, SimdLevel};

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong. No function of this crate panics on user input.
///
/// # Example
///
/// ```
/// use trilinear::{Error, Interaction, View};
///
/// let w = [0.0f32; 2 * 3 * 4];
/// let layer = Interaction::dense(View::new(&w, [2, 3, 4])?)?;
/// let x = [0.0f32; 5]; // should have 4 features
/// let error = layer.forward(View::row(&[0.0; 3]), View::row(&x)).unwrap_err();
/// assert_eq!(error, Error::Shape { operand: "x", axis: "features", expected: 4, actual: 5 });
/// assert_eq!(error.to_string(), "operand `x`: its features should number 4, but there are 5");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An operand's axis does not have the length that the other operands imply.
    Shape {
        /// The operand's name in the definition: `z`, `x`, `w`, `u`, `v`, `b`, `y`, `a`, `c`, `lambda`, …
        operand: &'static str,
        /// What the axis counts: `rows`, `features`, `outputs`, `rank`, `groups`.
        axis: &'static str,
        /// The length that fits the other operands.
        expected: usize,
        /// The length given.
        actual: usize,
    },
    /// What this version does not compute.
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A buffer has fewer (or more) elements than its shape needs.
    Length {
        /// Elements that the shape needs.
        expected: usize,
        /// Elements given.
        actual: usize,
    },
    /// A strided view would reach outside its buffer.
    OutOfBounds {
        /// Elements in the buffer.
        len: usize,
        /// The smallest and the largest offset that the view would reach.
        reach: (i128, i128),
    },
    /// Two elements of a mutable view would share memory.
    Overlap {
        /// Lengths of the view's axes.
        shape: Vec<usize>,
        /// Distances in elements between neighbours along each axis.
        strides: Vec<isize>,
    },
    /// An index or range is outside an axis.
    Range {
        /// Which axis of the view.
        axis: usize,
        /// Its length.
        len: usize,
        /// The range asked for.
        range: (usize, usize),
    },
    /// A row chooses a layer that there is not.
    Index {
        /// The row.
        row: usize,
        /// Its index.
        index: usize,
        /// How many layers there are.
        limit: usize,
    },
    /// A list of axes names one twice or leaves one out.
    Axes {
        /// The order as given.
        given: String,
    },
    /// Memory of this layout cannot be borrowed by the other library, or from it.
    Layout {
        /// Why not.
        reason: &'static str,
    },
    /// A size computed from the shapes does not fit in the address space.
    TooLarge {
        /// What would be too large.
        what: &'static str,
    },
    /// The allocator refused.
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The device cannot be used here.
    Device {
        /// The device asked for.
        device: Device,
        /// Why it cannot be used.
        reason: Unavailable,
    },
    /// An operand is in other memory than the call needs: a context of the processor reads the host's memory; one of a CUDA
    /// device takes operands that are all on the host, or all on that device.
    Place {
        /// The operand's name.
        operand: &'static str,
        /// Whose memory it should be.
        expected: Device,
        /// Whose it is.
        actual: Device,
    },
    /// A device has too little free memory.
    DeviceMemory {
        /// The device.
        device: Device,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A kernel cannot be used: the driver refuses its PTX, or it was not built.
    Kernel {
        /// The device.
        device: Device,
        /// The kernel or its module.
        kernel: &'static str,
        /// What the driver says.
        reason: String,
    },
    /// The driver refused to start a kernel.
    Launch {
        /// The device.
        device: Device,
        /// The kernel.
        kernel: &'static str,
        /// What the driver says.
        reason: String,
    },
    /// Work on the device went wrong, such as an access outside of its memory, by this crate's kernels or anyone's in this
    /// process. Nothing in this process can use the device any more.
    Fault {
        /// The device.
        device: Device,
        /// What the driver says.
        reason: String,
    },
    /// Another call of the driver failed: a copy, or a query.
    Driver {
        /// The device.
        device: Device,
        /// What was to be done.
        what: &'static str,
        /// What the driver says.
        reason: String,
    },
    /// This processor does not have the instructions asked for.
    Simd {
        /// The level asked for.
        level: SimdLevel,
        /// The best level of this processor.
        available: SimdLevel,
    },
    /// The algorithm forced cannot compute this call.
    Algorithm {
        /// The algorithm asked for.
        algorithm: Algorithm,
        /// What it can compute.
        reason: &'static str,
    },
    /// Text (of an option or an environment variable) that names no known value.
    Parse {
        /// What was being read, such as `TRILINEAR_DEVICE`.
        what: String,
        /// The text.
        given: String,
        /// What would have been understood.
        expected: &'static str,
    },
    /// Zero threads were asked for.
    Threads,
    /// An operand of a fit has an element that is NaN or infinite, or sums of its elements are.
    NotFinite {
        /// The operand's name.
        operand: &'static str,
    },
    /// An option of a fit has a value that means nothing.
    Value {
        /// The option.
        what: &'static str,
        /// Its value.
        given: String,
        /// What would make sense.
        expected: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape { operand, axis, expected, actual } => {
                write!(f, "operand `{operand}`: its {axis} should number {expected}, but there are {actual}")
            }
            Error::Unsupported { what } => write!(f, "{what} are not computed by this version"),
            Error::Length { expected, actual } => {
                write!(f, "the shape needs {expected} elements, but the buffer has {actual}")
            }
            Error::OutOfBounds { len, reach: (low, high) } => {
                write!(f, "the view would reach from offset {low} to {high}, but the buffer has {len} elements")
            }
            Error::Overlap { shape, strides } => {
                write!(f, "elements of a mutable view of shape {shape:?} with strides {strides:?} would share memory")
            }
            Error::Range { axis, len, range: (start, end) } => {
                write!(f, "range {start}..{end} is outside axis {axis}, which has length {len}")
            }
            Error::Index { row, index, limit } => {
                write!(f, "row {row} has index {index}, but there are {limit} layers, of indices below that")
            }
            Error::Axes { given } => {
                write!(f, "the axis order {given} does not name each of out, z and x exactly once")
            }
            Error::Layout { reason } => write!(f, "{reason}"),
            Error::TooLarge { what } => write!(f, "the size of {what} does not fit in the address space"),
            Error::OutOfMemory { bytes } => write!(f, "out of memory: {bytes} bytes could not be allocated"),
            Error::Device { device, reason } => write!(f, "device `{device}` cannot be used: {reason}"),
            Error::Place { operand, expected, actual } => {
                write!(f, "operand `{operand}`: its memory should be that of `{expected}`, but is that of `{actual}`")
            }
            Error::DeviceMemory { device, bytes } => {
                write!(f, "out of memory on `{device}`: {bytes} bytes could not be allocated")
            }
            Error::Kernel { device, kernel, reason } => {
                write!(f, "kernel `{kernel}` cannot run on `{device}`: {reason}")
            }
            Error::Launch { device, kernel, reason } => {
                write!(f, "kernel `{kernel}` could not be started on `{device}`: {reason}")
            }
            Error::Fault { device, reason } => {
                write!(f, "work on `{device}` went wrong, and this process cannot use it any more: {reason}")
            }
            Error::Driver { device, what, reason } => write!(f, "{what} on `{device}` failed: {reason}"),
            Error::Simd { level, available } => {
                write!(f, "SIMD level `{level}` was asked for, but this processor offers at most `{available}`")
            }
            Error::Algorithm { algorithm, reason } => {
                write!(f, "algorithm `{algorithm}` cannot be used for this call: {reason}")
            }
            Error::Parse { what, given, expected } => {
                write!(f, "{what}: `{given}` is not understood; expected {expected}")
            }
            Error::Threads => write!(f, "the number of threads must be at least 1"),
            Error::NotFinite { operand } => {
                write!(f, "operand `{operand}`: its elements, or sums of them, are not finite")
            }
            Error::Value { what, given, expected } => write!(f, "{what} is {given}, but should be {expected}"),
        }
    }
}

impl std::error::Error for Error {}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// The crate was built without its feature `cuda`.
    NotBuilt,
    /// The NVIDIA driver (libcuda) is not installed.
    NoDriver,
    /// The driver's CUDA version, as `1000·major + 10·minor`, is lower than the kernels need.
    DriverTooOld {
        /// What the driver offers.
        version: i32,
        /// What the kernels need.
        needed: i32,
    },
    /// The driver is there but does not start.
    DriverFailed {
        /// What it says.
        reason: String,
    },
    /// The driver knows no device.
    NoDevice,
    /// There are fewer devices.
    Ordinal {
        /// How many there are.
        devices: usize,
    },
    /// The device's compute capability is below what the kernels need.
    TooOld {
        /// The device's.
        capability: (u32, u32),
        /// The lowest that there are kernels for.
        needed: (u32, u32),
    },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::NotBuilt => f.write_str("trilinear was built without its feature `cuda`"),
            Unavailable::NoDriver => f.write_str("the NVIDIA driver (libcuda) is not installed"),
            Unavailable::DriverTooOld { version, needed } => {
                let cuda = |version: &i32| format!("{}.{}", version / 1000, version % 1000 / 10);
                write!(f, "the NVIDIA driver offers CUDA {}, but {} is needed", cuda(version), cuda(needed))
            }
            Unavailable::DriverFailed { reason } => write!(f, "the NVIDIA driver does not start: {reason}"),
            Unavailable::NoDevice => f.write_str("the NVIDIA driver knows no device"),
            Unavailable::Ordinal { devices } => write!(f, "there are only {devices} CUDA devices"),
            Unavailable::TooOld { capability: (major, minor), needed } => {
                write!(f, "its compute capability is {major}.{minor}, but {}.{} is needed", needed.0, needed.1)
            }
        }
    }
}

/// `Ok` when `actual` is `expected`, else the [`Error::Shape`] that says so.
#[inline]
pub(crate) fn check(operand: &'static str, axis: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::Shape { operand, axis, expected, actual }) }
}
