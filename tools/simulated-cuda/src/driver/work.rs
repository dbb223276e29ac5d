//! What streams execute.

use super::abi::{Handle, host_bytes, host_bytes_mut};
use super::config::FailureKind;
use super::profile::Readers;
use super::result::{self, CUresult, Result};
use super::state::{self, SimulatedDevice};
use crate::{Device, Fault, FaultKind, Function, Launch, launch};
use std::sync::Arc;

#[derive(Clone)]
pub(super) enum Work {
    Kernel(KernelLaunch),
    Copy {
        to: Place,
        from: Place,
        bytes: usize,
    },
    /// `pattern` `count` times from `to`.
    Fill {
        to: Place,
        pattern: Vec<u8>,
        count: usize,
    },
    /// `function(data)`.
    Host {
        function: usize,
        data: usize,
    },
    Record {
        event: Handle,
    },
    /// A graph's own memory: it is there since the capture.
    Alloc,
    Free {
        address: u64,
    },
}

/// Memory that a copy reads or writes; what the caller passed was checked when the work was submitted.
#[derive(Clone)]
pub(super) enum Place {
    Device(Arc<SimulatedDevice>, u64),
    Host(usize),
}

#[derive(Clone)]
pub(super) struct KernelLaunch {
    pub(super) device: Arc<SimulatedDevice>,
    pub(super) function: Arc<Function>,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) dynamic_shared: u32,
    pub(super) params: Vec<u8>,
    pub(super) globals: u64,
}

/// Runs work of a context. What goes wrong in a kernel becomes the context's error, not this call's.
pub(super) fn run(work: Work, context: Handle) -> Result {
    match work {
        Work::Kernel(kernel) => kernel.run(context),
        Work::Copy { to, from, bytes } => copy(to, from, bytes),
        Work::Fill { to, pattern, count } => fill(to, &pattern, count),
        Work::Host { .. } => unreachable!("a stream starts them itself"),
        Work::Record { event } => {
            let mut state = state::get()?;
            if let Some(event) = state.events.get_mut(&event) {
                event.at = Some(std::time::Instant::now());
            }
            Ok(())
        }
        Work::Alloc => Ok(()),
        Work::Free { address } => state::get()?.free(address),
    }
}

fn copy(to: Place, from: Place, bytes: usize) -> Result {
    let copied = match (to, from) {
        (Place::Device(to, at), Place::Device(from, source)) => {
            to.memory.copy_between(at, &from.memory, source, bytes as u64)
        }
        (Place::Device(to, at), Place::Host(from)) => {
            // SAFETY: the caller of the copy promised `bytes` readable bytes that nothing writes meanwhile.
            to.memory.write(at, unsafe { host_bytes(from, bytes) })
        }
        (Place::Host(to), Place::Device(from, at)) => {
            // SAFETY: the caller of the copy promised `bytes` writable bytes that nothing else uses meanwhile.
            from.memory.read(at, unsafe { host_bytes_mut(to, bytes) })
        }
        (Place::Host(to), Place::Host(from)) => {
            // SAFETY: as in the two cases above; the ranges may overlap, and one as a slice would not allow it.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
            Ok(())
        }
    };
    copied.map_err(|_| result::ERROR_INVALID_VALUE)
}

fn fill(to: Place, pattern: &[u8], count: usize) -> Result {
    match to {
        Place::Device(device, at) => {
            device.memory.fill(at, pattern, count as u64).map_err(|_| result::ERROR_INVALID_VALUE)
        }
        Place::Host(at) => {
            // SAFETY: the caller of the memset promised so many writable bytes that nothing else uses meanwhile.
            let bytes = unsafe { host_bytes_mut(at, pattern.len() * count) };
            bytes.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern));
            Ok(())
        }
    }
}

impl KernelLaunch {
    fn run(&self, context: Handle) -> Result {
        let (injected, readers) = {
            let mut state = state::get()?;
            (state.inject(FailureKind::Kernel), Readers::new(state.config.profile.clone()))
        };
        let machine = Device { profile: readers.any(), ..self.device.machine.clone() };
        let launched = injected.and_then(|()| {
            let asked = Launch {
                grid: self.grid,
                block: self.block,
                dynamic_shared: self.dynamic_shared,
                params: &self.params,
                globals: self.globals,
            };
            launch(&machine, &self.device.memory, &self.function, &asked).map_err(|fault| {
                eprintln!("simulated-cuda: {fault}");
                code(&fault)
            })
        });
        match launched {
            Ok(counts) => {
                readers.give(self, &counts);
            }
            Err(code) => state::get()?.fail(context, code),
        }
        Ok(())
    }
}

/// What a device reports for a fault. What only the sanitizer sees is a failed launch.
fn code(fault: &Fault) -> CUresult {
    match fault.kind {
        FaultKind::OutOfBounds { .. } => result::ERROR_ILLEGAL_ADDRESS,
        FaultKind::Misaligned { .. } => result::ERROR_MISALIGNED_ADDRESS,
        // A failed assert is a trap within a call of `__assertfail`.
        FaultKind::Trap if fault.text.trim_start().starts_with("call") => result::ERROR_ASSERT,
        FaultKind::Timeout | FaultKind::Deadlock => result::ERROR_LAUNCH_TIMEOUT,
        FaultKind::Invalid(_) => result::ERROR_ILLEGAL_INSTRUCTION,
        _ => result::ERROR_LAUNCH_FAILED,
    }
}
