//! Where and how to compute: [`Device`], [`SimdLevel`] and the [`Context`] that holds both.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::cpu::Capability;
use crate::{Algorithm, Error, Result};

/// A device. The type exists in every build; a device that cannot be used gives [`Error::Device`].
///
/// # Example
///
/// ```
/// use trilinear::Device;
///
/// assert_eq!("cuda:1".parse::<Device>()?, Device::Cuda(1));
/// println!("{}", Device::auto()); // cuda:0 where there is a device that can be used, else cpu
/// if let Err(error) = Device::Cuda(0).check() {
///     println!("{error}"); // such as: device `cuda:0` cannot be used: the NVIDIA driver (libcuda) is not installed
/// }
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    Cpu,
    /// NVIDIA device by ordinal.
    Cuda(usize),
}

impl Device {
    /// The fastest device that can be used here: the first CUDA device, or the processor.
    pub fn auto() -> Device {
        if Device::Cuda(0).check().is_ok() { Device::Cuda(0) } else { Device::Cpu }
    }

    /// How many CUDA devices there are; whether one can be used, [`check`](Self::check) says.
    /// Errors: [`Error::Device`] if there is no driver.
    pub fn cuda_devices() -> Result<usize> {
        crate::cuda::devices()
    }

    /// The name of its maker, and of a CUDA device also its compute capability and memory. Errors: [`Error::Device`].
    pub fn describe(self) -> Result<String> {
        match self {
            Device::Cpu => Ok(format!("{} with {}", std::env::consts::ARCH, SimdLevel::best())),
            Device::Cuda(ordinal) => crate::cuda::describe(ordinal),
        }
    }

    /// Whether this device can be used here; if not, [`Error::Device`] says why.
    pub fn check(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(ordinal) => crate::cuda::check(ordinal),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
    fn from_str(text: &str) -> Result<Device> {
        let device = match text.split_once(':') {
            None if text == "auto" => Some(Device::auto()),
            None if text == "cpu" => Some(Device::Cpu),
            None if text == "cuda" => Some(Device::Cuda(0)),
            Some(("cuda", ordinal)) => ordinal.parse().ok().map(Device::Cuda),
            _ => None,
        };
        device.ok_or_else(|| Error::Parse {
            what: "device".into(),
            given: text.into(),
            expected: "auto, cpu, cuda or cuda:N",
        })
    }
}

/// A set of vector instructions, from least to most able.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SimdLevel {
    /// What every processor has, by the `wide` crate.
    Portable,
    /// aarch64's 128-bit vectors.
    Neon,
    /// x86-64 with AVX2, FMA and F16C: 256-bit vectors.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL: 512-bit vectors.
    Avx512,
}

impl SimdLevel {
    /// Every level there is.
    pub const ALL: [SimdLevel; 4] = [SimdLevel::Portable, SimdLevel::Neon, SimdLevel::Avx2, SimdLevel::Avx512];

    /// The most able level of this processor.
    pub fn best() -> SimdLevel {
        Capability::best().level()
    }

    /// Whether this processor has this level.
    pub fn is_available(self) -> bool {
        Capability::of(self).is_some()
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SimdLevel::Portable => "portable",
            SimdLevel::Neon => "neon",
            SimdLevel::Avx2 => "avx2",
            SimdLevel::Avx512 => "avx512",
        })
    }
}

impl FromStr for SimdLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<SimdLevel> {
        SimdLevel::ALL.into_iter().find(|level| level.to_string() == text).ok_or_else(|| Error::Parse {
            what: "SIMD level".into(),
            given: text.into(),
            expected: "portable, neon, avx2 or avx512",
        })
    }
}

/// How to compute: device, SIMD level, threads and algorithm. Small and `Copy`; each layer carries one.
///
/// The default is read once from the environment: `TRILINEAR_DEVICE` (`auto`, `cpu`, `cuda:N`) and
/// `TRILINEAR_SIMD` (`portable`, `neon`, `avx2`, `avx512`), and else is the best of this machine.
///
/// # Example
///
/// ```
/// use trilinear::{Context, Interaction, SimdLevel, View};
///
/// let serial = Context::from_env()?.with_threads(1)?.with_simd(SimdLevel::Portable)?;
/// let w = [1.0f32; 8];
/// let layer = Interaction::dense(View::new(&w, [2, 2, 2])?)?.with_context(serial);
/// let y = layer.forward(View::row(&[1.0, 2.0]), View::row(&[3.0, 4.0]))?;
/// assert_eq!(y.as_slice(), [21.0, 21.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    device: Device,
    capability: Capability,
    threads: Option<NonZeroUsize>,
    algorithm: Option<Algorithm>,
    /// A `CUstream`; 0 is the default one.
    stream: usize,
    tf32: bool,
}

impl Context {
    /// `device`, with the best SIMD level, all threads of the pool and the algorithm of the cost model.
    /// Errors: [`Error::Device`].
    pub fn new(device: Device) -> Result<Self> {
        device.check()?;
        Ok(Context { device, capability: Capability::best(), threads: None, algorithm: None, stream: 0, tf32: false })
    }

    /// The default, as the environment says. Errors: [`Error::Parse`], [`Error::Device`] or [`Error::Simd`] if a
    /// variable asks for what is not there.
    #[inline]
    pub fn from_env() -> Result<Self> {
        static CONTEXT: OnceLock<Result<Context>> = OnceLock::new();
        match CONTEXT.get_or_init(Context::read_env) {
            Ok(context) => Ok(*context),
            Err(error) => Err(error.clone()),
        }
    }

    fn read_env() -> Result<Self> {
        fn variable<V: FromStr<Err = Error>>(name: &str) -> Result<Option<V>> {
            let Some(text) = std::env::var_os(name).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let text = text.to_string_lossy();
            text.parse().map(Some).map_err(|error| match error {
                Error::Parse { given, expected, .. } => Error::Parse { what: name.into(), given, expected },
                other => other,
            })
        }
        let context = Context::new(variable("TRILINEAR_DEVICE")?.unwrap_or_else(Device::auto))?;
        match variable("TRILINEAR_SIMD")? {
            Some(level) => context.with_simd(level),
            None => Ok(context),
        }
    }

    /// The same on this device, and its default stream. Errors: [`Error::Device`].
    pub fn with_device(self, device: Device) -> Result<Self> {
        device.check()?;
        Ok(Context { device, stream: 0, ..self })
    }

    /// The same on a stream of the caller's, a `CUstream` of the device's primary context (what CUDA's runtime, frameworks and
    /// cudarc use): calls with operands in the device's memory are enqueued there, and return before they have run.
    ///
    /// # Safety
    ///
    /// The stream must exist for as long as the context and its copies are used, and be the same for all threads: not
    /// `CU_STREAM_PER_THREAD`. Calls on a stream share its scratch, and so do the graphs captured from it: no replay of such a
    /// graph may run at the same time as another one, or as calls on the stream.
    pub unsafe fn with_stream(self, stream: *mut std::ffi::c_void) -> Self {
        Context { stream: stream as usize, ..self }
    }

    /// Waits until all calls made with this context have run. Errors: [`Error::Fault`].
    pub fn synchronize(&self) -> Result<()> {
        match self.device {
            Device::Cpu => Ok(()),
            Device::Cuda(_) => crate::cuda::synchronize(self),
        }
    }

    /// The same, but with products of f32 computed by tensor cores in tf32 (10 bits of mantissa) if `allow`: faster, and
    /// outside of the bound of [`crate::reference`] for f32. Of CUDA devices only; not allowed unless asked for.
    pub fn allow_tf32(self, allow: bool) -> Self {
        Context { tf32: allow, ..self }
    }

    /// The same with this SIMD level. Errors: [`Error::Simd`] if the processor does not have it.
    pub fn with_simd(self, level: SimdLevel) -> Result<Self> {
        let capability = Capability::of(level).ok_or(Error::Simd { level, available: SimdLevel::best() })?;
        Ok(Context { capability, ..self })
    }

    /// The same with at most this many threads of the rayon pool that the call is made in (the global one outside
    /// of any). 1 is truly serial: rayon is not entered. Results have the same bits for any number.
    /// Errors: [`Error::Threads`] for 0.
    pub fn with_threads(self, threads: usize) -> Result<Self> {
        Ok(Context { threads: Some(NonZeroUsize::new(threads).ok_or(Error::Threads)?), ..self })
    }

    /// The same with this algorithm forced, for tests and benchmarks. A batch that it cannot compute gives
    /// [`Error::Algorithm`]. Shared contexts and generated layers have one algorithm each, whatever is forced.
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        Context { algorithm: Some(algorithm), ..self }
    }

    /// The same with no algorithm forced, for the parts of a call.
    pub(crate) fn automatic(self) -> Self {
        Context { algorithm: None, ..self }
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The SIMD level.
    pub fn simd(&self) -> SimdLevel {
        self.capability.level()
    }

    /// The number of threads asked for, if any was.
    pub fn threads(&self) -> Option<usize> {
        self.threads.map(NonZeroUsize::get)
    }

    /// The algorithm forced, if any is.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// Whether tf32 is allowed.
    pub fn tf32(&self) -> bool {
        self.tf32
    }

    /// The `CUstream` that calls are enqueued on; null for the default one.
    pub fn stream(&self) -> *mut std::ffi::c_void {
        self.stream as *mut std::ffi::c_void
    }

    pub(crate) fn capability(&self) -> Capability {
        self.capability
    }
}
