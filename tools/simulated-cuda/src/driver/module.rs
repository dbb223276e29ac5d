//! `cuModule*`, `cuLibrary*` and `cuKernel*`: PTX text becomes a parsed module.
//!
//! Only PTX is executed: a cubin or a fatbin is `NO_BINARY_FOR_GPU`, as one without code for the device is.

use super::abi::{CUdeviceptr, Handle, In, Out, Text, guard};
use super::capture;
use super::config::FailureKind;
use super::device::{Limits, SHARED_PER_BLOCK};
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use crate::{Function, Module, ParseError};
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

pub(super) struct ModuleEntry {
    pub(super) context: Handle,
    module: Arc<Module>,
    /// Where its variables are; 0 where it has none.
    globals: u64,
    /// Functions that were asked for.
    functions: HashMap<String, Handle>,
}

#[derive(Clone)]
pub(super) struct FunctionEntry {
    pub(super) context: Handle,
    pub(super) module: Handle,
    pub(super) function: Arc<Function>,
    pub(super) globals: u64,
    /// What `MAX_DYNAMIC_SHARED_SIZE_BYTES` was set to.
    pub(super) max_dynamic_shared: u32,
    pub(super) carveout: c_int,
}

/// A library is loaded into each context when something of it is first used there.
pub(super) struct LibraryEntry {
    module: Arc<Module>,
    loaded: HashMap<Handle, Handle>,
    /// Names of the kernels that were asked for; a kernel's handle is the library's plus its place here plus 1.
    kernels: Vec<String>,
}

/// Kernels of one library: room for their handles.
const KERNELS: usize = 1 << 20;

/// Why an image is refused: the code, and what the JIT's error log says.
struct Refused(CUresult, String);

impl Refused {
    fn new(error: &ParseError) -> Self {
        let code = match error {
            ParseError::Version { .. } => result::ERROR_UNSUPPORTED_PTX_VERSION,
            ParseError::Target { .. } => result::ERROR_NO_BINARY_FOR_GPU,
            ParseError::Syntax { .. } | ParseError::Unsupported { .. } => result::ERROR_INVALID_PTX,
        };
        Self(code, format!("ptxas fatal   : {error}"))
    }
}

/// Parses an image, which is NUL-terminated text or begins with the magic number of a binary.
fn parse(state: &State, image: In<c_void>) -> std::result::Result<Module, Refused> {
    let refused = |code, text: &str| Refused(code, text.to_owned());
    let head = image.cast::<[u8; 4]>();
    if image.is_null() {
        return Err(refused(result::ERROR_INVALID_VALUE, "no image"));
    }
    // One byte at a time: a text may be shorter than a magic number.
    let byte = |i| image.cast::<u8>().at(i).unwrap_or(0);
    if byte(0) == 0 {
        return Err(refused(result::ERROR_INVALID_IMAGE, "empty image"));
    }
    let is = |magic: [u8; 4]| byte(0) == magic[0] && byte(1) == magic[1] && head.get().is_ok_and(|head| head == magic);
    if is(*b"\x7fELF") || is(0xba55_ed50_u32.to_le_bytes()) || is(0x4662_43b1_u32.to_le_bytes()) {
        return Err(refused(result::ERROR_NO_BINARY_FOR_GPU, "a binary: only PTX is executed"));
    }
    let text = Text::from(image);
    let text = text.get().map_err(|_| refused(result::ERROR_INVALID_PTX, "not a text"))?;
    let capability = state.config.capability;
    let module = Module::parse_for(text, (capability / 10, capability % 10), state.config.newest_ptx())
        .map_err(|error| Refused::new(&error))?;
    for name in module.functions() {
        let shared = module.function(name).map_or(0, |function| function.static_shared);
        if shared > SHARED_PER_BLOCK {
            let text = format!(
                "ptxas error   : Entry function '{name}' uses too much shared data ({shared:#x} bytes, {SHARED_PER_BLOCK:#x} max)"
            );
            return Err(Refused(result::ERROR_INVALID_PTX, text));
        }
    }
    Ok(module)
}

/// The JIT's options that mean something here: the logs.
#[derive(Default)]
struct Logs {
    error: Option<(Out<c_char>, usize)>,
    /// Where the options say how long the logs are; they then tell how much was written.
    info_size: Option<Out<usize>>,
    error_size: Option<Out<usize>>,
}

impl Logs {
    fn read(count: c_uint, options: In<c_uint>, values: Out<usize>) -> Result<Self> {
        const INFO_SIZE: c_uint = 4;
        const ERROR: c_uint = 5;
        const ERROR_SIZE: c_uint = 6;
        let (mut logs, mut buffer, mut room) = (Self::default(), None, 0);
        for i in 0..count as usize {
            let value = values.at(i);
            values.check()?;
            match options.at(i)? {
                INFO_SIZE => logs.info_size = Some(value),
                ERROR => buffer = Some(value.cast::<Out<c_char>>().read()?),
                ERROR_SIZE => {
                    // An unsigned int, passed as a pointer.
                    room = value.read()? as u32 as usize;
                    logs.error_size = Some(value);
                }
                _ => {}
            }
        }
        logs.error = buffer.map(|buffer| (buffer, room));
        Ok(logs)
    }

    fn write(&self, text: &str) {
        self.info_size.iter().for_each(|size| size.set_if_asked(0));
        let mut written = 0;
        if let Some((buffer, room)) = self.error {
            written = text.len().min(room.saturating_sub(1));
            // A log that cannot be written is no error of the load.
            let _ = buffer.set_text(text, room);
        }
        self.error_size.iter().for_each(|size| size.set_if_asked(written));
    }
}

fn parse_logged(state: &mut State, image: In<c_void>, logs: &Logs) -> Result<Arc<Module>> {
    state.inject(FailureKind::Module)?;
    match parse(state, image) {
        Ok(module) => {
            logs.write("");
            Ok(Arc::new(module))
        }
        Err(Refused(code, text)) => {
            logs.write(&text);
            if !text.is_empty() && logs.error.is_none() && code != result::ERROR_INVALID_VALUE {
                eprintln!("simulated-cuda: {text}");
            }
            Err(code)
        }
    }
}

impl State {
    /// Puts a parsed module into a context.
    fn load(&mut self, module: Arc<Module>, context: Handle) -> Result<Handle> {
        let device = self.device_of(context);
        let globals = module.place(&device.memory).map_err(|_| result::ERROR_OUT_OF_MEMORY)?;
        if globals != 0 {
            self.adopt_module(globals, module.image_bytes(), context);
        }
        let handle = self.new_handle();
        self.modules.insert(handle, ModuleEntry { context, module, globals, functions: HashMap::new() });
        Ok(handle)
    }

    fn unload(&mut self, module: Handle) -> Result {
        let entry = self.modules.remove(&module).ok_or(result::ERROR_INVALID_HANDLE)?;
        self.functions.retain(|_, function| function.module != module);
        if entry.globals != 0 { self.free(entry.globals) } else { Ok(()) }
    }

    fn get_function(&mut self, module: Handle, name: &str) -> Result<Handle> {
        let new = self.new_handle();
        let entry = self.modules.get_mut(&module).ok_or(result::ERROR_INVALID_HANDLE)?;
        if let Some(&function) = entry.functions.get(name) {
            return Ok(function);
        }
        let function = entry.module.function(name).ok_or(result::ERROR_NOT_FOUND)?;
        entry.functions.insert(name.to_owned(), new);
        let max_dynamic_shared = SHARED_PER_BLOCK - function.static_shared;
        let (context, globals) = (entry.context, entry.globals);
        let function = FunctionEntry { context, module, function, globals, max_dynamic_shared, carveout: -1 };
        self.functions.insert(new, function);
        Ok(new)
    }

    fn get_global(&self, module: Handle, name: &str) -> Result<(u64, u64)> {
        let entry = self.modules.get(&module).ok_or(result::ERROR_INVALID_HANDLE)?;
        let (offset, bytes) = entry.module.global(name).ok_or(result::ERROR_NOT_FOUND)?;
        Ok((entry.globals + offset, bytes))
    }

    /// The module of a library in a context, which is loaded now if it was not.
    fn loaded(&mut self, library: Handle, context: Handle) -> Result<Handle> {
        let entry = self.libraries.get(&library).ok_or(result::ERROR_INVALID_HANDLE)?;
        if let Some(&module) = entry.loaded.get(&context).filter(|module| self.modules.contains_key(module)) {
            return Ok(module);
        }
        let module = self.load(entry.module.clone(), context)?;
        self.libraries.get_mut(&library).expect("found above").loaded.insert(context, module);
        Ok(module)
    }

    /// The function of a handle: a `CUfunction`, or a `CUkernel`, which is accepted in its place.
    pub(super) fn function(&mut self, handle: Handle) -> Result<Handle> {
        if self.functions.contains_key(&handle) {
            return Ok(handle);
        }
        let context = self.current()?;
        let (library, place) = (handle & !(KERNELS - 1), handle & (KERNELS - 1));
        let name = (self.libraries.get(&library))
            .and_then(|entry| entry.kernels.get(place.wrapping_sub(1)))
            .ok_or(result::ERROR_INVALID_HANDLE)?
            .clone();
        let module = self.loaded(library, context)?;
        self.get_function(module, &name)
    }

    /// Sets `MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub(super) fn set_max_dynamic_shared(&mut self, function: Handle, value: c_int) -> Result {
        let optin = Limits::of(self.config.capability).shared_per_block_optin;
        let entry = self.functions.get_mut(&function).ok_or(result::ERROR_INVALID_HANDLE)?;
        let value = u32::try_from(value).map_err(|_| result::ERROR_INVALID_VALUE)?;
        if value > optin - entry.function.static_shared.min(optin) {
            return Err(result::ERROR_INVALID_VALUE);
        }
        entry.max_dynamic_shared = value;
        Ok(())
    }
}

fn load(module: Out<Handle>, image: In<c_void>, logs: &Logs) -> Result {
    let mut state = state::get()?;
    module.check()?;
    let context = state.current()?;
    capture::forbid_in_thread(&mut state)?;
    let parsed = parse_logged(&mut state, image, logs)?;
    module.set(state.load(parsed, context)?)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoadData(module: Out<Handle>, image: In<c_void>) -> CUresult {
    guard(|| load(module, image, &Logs::default()))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoadDataEx(
    module: Out<Handle>,
    image: In<c_void>,
    count: c_uint,
    options: In<c_uint>,
    values: Out<usize>,
) -> CUresult {
    guard(|| load(module, image, &Logs::read(count, options, values)?))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoadFatBinary(module: Out<Handle>, image: In<c_void>) -> CUresult {
    cuModuleLoadData(module, image)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleLoad(module: Out<Handle>, path: Text) -> CUresult {
    guard(|| {
        let _ = state::get()?.current()?;
        let mut image = std::fs::read(path.get()?).map_err(|_| result::ERROR_FILE_NOT_FOUND)?;
        image.push(0);
        load(module, In::from_address(image.as_ptr() as usize), &Logs::default())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.current()?;
        capture::forbid_in_thread(&mut state)?;
        state.unload(module)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        function.check()?;
        state.current()?;
        function.set(state.get_function(module, name.get()?)?)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetFunctionCount(count: Out<c_uint>, module: Handle) -> CUresult {
    guard(|| {
        let state = state::get()?;
        count.check()?;
        let entry = state.modules.get(&module).ok_or(result::ERROR_INVALID_HANDLE)?;
        count.set(entry.module.functions().count() as c_uint)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleEnumerateFunctions(functions: Out<Handle>, room: c_uint, module: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        functions.check()?;
        let entry = state.modules.get(&module).ok_or(result::ERROR_INVALID_HANDLE)?;
        let names: Vec<String> = entry.module.functions().take(room as usize).map(str::to_owned).collect();
        for (i, name) in names.iter().enumerate() {
            functions.at(i).set(state.get_function(module, name)?)?;
        }
        Ok(())
    })
}

fn set_global(address: Out<CUdeviceptr>, bytes: Out<usize>, found: (u64, u64)) {
    address.set_if_asked(found.0);
    bytes.set_if_asked(found.1 as usize);
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetGlobal_v2(
    address: Out<CUdeviceptr>,
    bytes: Out<usize>,
    module: Handle,
    name: Text,
) -> CUresult {
    guard(|| {
        let state = state::get()?;
        state.current()?;
        set_global(address, bytes, state.get_global(module, name.get()?)?);
        Ok(())
    })
}

/// 1: eager.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuModuleGetLoadingMode(mode: Out<c_uint>) -> CUresult {
    guard(|| {
        let _state = state::get()?;
        mode.set(1)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryLoadData(
    library: Out<Handle>,
    image: In<c_void>,
    options: In<c_uint>,
    values: Out<usize>,
    count: c_uint,
    _library_options: usize,
    _library_values: usize,
    _library_count: c_uint,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        library.check()?;
        let logs = Logs::read(count, options, values)?;
        let module = parse_logged(&mut state, image, &logs)?;
        let handle = state.new_library();
        state.libraries.insert(handle, LibraryEntry { module, loaded: HashMap::new(), kernels: Vec::new() });
        library.set(handle)
    })
}

impl State {
    /// A handle with room for the kernels' behind it.
    fn new_library(&mut self) -> Handle {
        const FIRST: Handle = 0x5c0e_0000_0000;
        FIRST + self.new_id() as usize * KERNELS
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryUnload(library: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let entry = state.libraries.remove(&library).ok_or(result::ERROR_INVALID_HANDLE)?;
        for module in entry.loaded.into_values() {
            // A context that is gone took its module along.
            let _ = state.unload(module);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryGetModule(module: Out<Handle>, library: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        module.check()?;
        let context = state.current()?;
        module.set(state.loaded(library, context)?)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        kernel.check()?;
        let name = name.get()?;
        let entry = state.libraries.get_mut(&library).ok_or(result::ERROR_INVALID_HANDLE)?;
        entry.module.function(name).ok_or(result::ERROR_NOT_FOUND)?;
        let place = entry.kernels.iter().position(|known| known == name).unwrap_or_else(|| {
            entry.kernels.push(name.to_owned());
            entry.kernels.len() - 1
        });
        kernel.set(library + place + 1)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLibraryGetGlobal(
    address: Out<CUdeviceptr>,
    bytes: Out<usize>,
    library: Handle,
    name: Text,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let context = state.current()?;
        let module = state.loaded(library, context)?;
        set_global(address, bytes, state.get_global(module, name.get()?)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        function.check()?;
        function.set(state.function(kernel)?)
    })
}
