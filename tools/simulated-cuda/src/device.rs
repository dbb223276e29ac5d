//! The device, and the launch of a kernel on it.

use crate::{Fault, Function, Memory, Profile};

/// What a simulated device is and watches for.
#[derive(Clone, Debug)]
pub struct Device {
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// What `%nsmid` says.
    pub multiprocessors: u32,
    /// Whether every detector is on; when off, only accesses outside of allocations and misaligned ones are faults.
    pub sanitize: bool,
    /// Whether memory traffic and bank conflicts are counted; instruction counts always are.
    pub profile: bool,
    /// Instructions that one warp may execute in one launch before that is a [`crate::FaultKind::Timeout`].
    pub instruction_limit: u64,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            compute_capability: (8, 0),
            multiprocessors: 8,
            sanitize: true,
            profile: true,
            instruction_limit: 1 << 32,
        }
    }
}

/// One launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z; at most 1024 in all.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond the function's own.
    pub dynamic_shared: u32,
    /// The kernel's parameters, laid out as [`Function::params`] says: `param_bytes` of them.
    pub params: &'a [u8],
    /// Where the module's variables are: what [`crate::Module::place`] returned (0 where there are none).
    pub globals: u64,
}

/// Runs a kernel to its end. On a fault, memory holds whatever was written until then.
pub fn launch(device: &Device, memory: &Memory, function: &Function, launch: &Launch) -> Result<Profile, Fault> {
    crate::machine::grid::run(device, memory, &function.code, launch, function.param_bytes)
}
