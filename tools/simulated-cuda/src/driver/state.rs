//! The one state of the process: devices, contexts, and the tables of handles.
//!
//! A lock guards it; it is held while arguments are checked and tables change, never while work runs
//! ([`super::work`]) or a callback of the caller does.

use super::abi::Handle;
use super::capture::Capture;
use super::config::{Config, FailureKind};
use super::context::Context;
use super::event::Event;
use super::graph::{Exec, Graph};
use super::memory::Allocation;
use super::module::{FunctionEntry, LibraryEntry, ModuleEntry};
use super::pool::Pool;
use super::result::{self, CUresult, Result};
use super::stream::Stream;
use crate::{Device, Memory};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Addresses of one device's memory; the next device's begin there.
const DEVICE_SPAN: u64 = 1 << 42;

/// One simulated device. Shared with the work that runs on it.
pub(super) struct SimulatedDevice {
    pub(super) machine: Device,
    pub(super) memory: Memory,
}

/// A device's primary context: the handle is the same each time it is created.
pub(super) struct Primary {
    pub(super) handle: Handle,
    pub(super) retained: usize,
    pub(super) flags: u32,
}

pub(super) struct State {
    pub(super) config: Config,
    pub(super) devices: Vec<Arc<SimulatedDevice>>,
    pub(super) primaries: Vec<Primary>,
    pub(super) contexts: HashMap<Handle, Context>,
    pub(super) streams: HashMap<Handle, Stream>,
    pub(super) events: HashMap<Handle, Event>,
    pub(super) modules: HashMap<Handle, ModuleEntry>,
    pub(super) functions: HashMap<Handle, FunctionEntry>,
    pub(super) libraries: HashMap<Handle, LibraryEntry>,
    pub(super) graphs: HashMap<Handle, Graph>,
    pub(super) execs: HashMap<Handle, Exec>,
    pub(super) captures: HashMap<u64, Capture>,
    pub(super) pools: HashMap<Handle, Pool>,
    /// Device memory by address.
    pub(super) allocations: BTreeMap<u64, Allocation>,
    /// Pinned host memory by address: bytes, and whether the driver allocated it.
    pub(super) host: BTreeMap<usize, super::host::HostMemory>,
    /// Allocations that their context took with it.
    pub(super) lost: Vec<Allocation>,
    /// Calls so far, by kind of [`FailureKind`].
    calls: HashMap<u8, u64>,
    next_handle: Handle,
    next_id: u64,
}

thread_local! {
    /// The thread's stack of current contexts.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

fn config() -> Result<&'static Config> {
    static CONFIG: OnceLock<std::result::Result<Config, String>> = OnceLock::new();
    CONFIG
        .get_or_init(|| Config::from_env().inspect_err(|error| eprintln!("simulated-cuda: {error}")))
        .as_ref()
        .map_err(|_| result::ERROR_UNKNOWN)
}

pub(super) fn driver_version() -> Result<u32> {
    Ok(config()?.driver_version)
}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();

/// `cuInit`: any call after the first changes nothing.
pub(super) fn initialise() -> Result {
    let config = config()?;
    if config.devices == 0 {
        return Err(result::ERROR_NO_DEVICE);
    }
    STATE.get_or_init(|| {
        if config.leaks.is_some() {
            super::memory::report_leaks_at_exit();
        }
        Mutex::new(State::new(config.clone()))
    });
    Ok(())
}

/// The state, locked; `NOT_INITIALIZED` before `cuInit`.
pub(super) fn get() -> Result<MutexGuard<'static, State>> {
    let state = STATE.get().ok_or(result::ERROR_NOT_INITIALIZED)?;
    Ok(state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

impl State {
    fn new(config: Config) -> Self {
        let mut state = Self {
            devices: Vec::new(),
            primaries: Vec::new(),
            contexts: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            libraries: HashMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            captures: HashMap::new(),
            pools: HashMap::new(),
            allocations: BTreeMap::new(),
            host: BTreeMap::new(),
            lost: Vec::new(),
            calls: HashMap::new(),
            next_handle: 0x5c0d_0000_0000,
            next_id: 1,
            config,
        };
        for i in 0..state.config.devices {
            let capability = state.config.capability;
            let machine = Device {
                compute_capability: (capability / 10, capability % 10),
                multiprocessors: state.config.multiprocessors,
                sanitize: state.config.sanitizer,
                // Launch by launch, as it is asked for.
                profile: false,
                ..Device::default()
            };
            let memory = Memory::starting_at((i as u64 + 1) * DEVICE_SPAN, state.config.memory as u64);
            state.devices.push(Arc::new(SimulatedDevice { machine, memory }));
            let handle = state.new_handle();
            state.primaries.push(Primary { handle, retained: 0, flags: 0 });
            let pool = state.new_handle();
            state.pools.insert(pool, Pool::default_of(i));
        }
        state
    }

    /// A number that no handle had before. A multiple of 16 far from any real pointer.
    pub(super) fn new_handle(&mut self) -> Handle {
        self.next_handle += 16;
        self.next_handle
    }

    /// Numbers captures and allocations.
    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// The index of a device.
    pub(super) fn device(&self, ordinal: c_int) -> Result<usize> {
        usize::try_from(ordinal).ok().filter(|&i| i < self.devices.len()).ok_or(result::ERROR_INVALID_DEVICE)
    }

    pub(super) fn context(&self, handle: Handle) -> Result<&Context> {
        self.contexts.get(&handle).ok_or(result::ERROR_INVALID_CONTEXT)
    }

    /// The thread's current context; its error, once seen, is what every call gets.
    pub(super) fn current(&self) -> Result<Handle> {
        let handle = current_handle().ok_or(result::ERROR_INVALID_CONTEXT)?;
        let context = self.contexts.get(&handle).ok_or(result::ERROR_CONTEXT_IS_DESTROYED)?;
        context.check().map(|()| handle)
    }

    /// The device of a context that exists.
    pub(super) fn device_of(&self, context: Handle) -> Arc<SimulatedDevice> {
        self.devices[self.contexts[&context].device].clone()
    }

    /// What `SIMULATED_CUDA_FAIL` asks for.
    pub(super) fn inject(&mut self, kind: FailureKind) -> Result {
        if self.config.failures.is_empty() {
            return Ok(());
        }
        let count = self.calls.entry(kind as u8).or_default();
        *count += 1;
        let failure = self.config.failures.iter().find(|failure| failure.kind == kind && failure.nth == *count);
        failure.map_or(Ok(()), |failure| Err(failure.code))
    }

    /// A kernel of a context has failed: the next call that waits for it finds out, and then every call.
    pub(super) fn fail(&mut self, context: Handle, code: CUresult) {
        if let Some(context) = self.contexts.get_mut(&context) {
            context.error.get_or_insert(code);
        }
    }

    /// For calls that wait for the device: what went wrong before shows.
    pub(super) fn settle(&mut self, context: Handle) -> Result {
        let context = self.contexts.get_mut(&context).ok_or(result::ERROR_INVALID_CONTEXT)?;
        context.seen |= context.error.is_some();
        context.check()
    }
}

pub(super) fn current_handle() -> Option<Handle> {
    CURRENT.with_borrow(|stack| stack.last().copied())
}

/// The thread's stack of contexts.
pub(super) fn with_stack<T>(change: impl FnOnce(&mut Vec<Handle>) -> T) -> T {
    CURRENT.with_borrow_mut(change)
}
