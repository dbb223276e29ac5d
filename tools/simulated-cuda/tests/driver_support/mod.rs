//! What the tests through the driver share: they use it as any client does, through cudarc.

#![allow(dead_code, reason = "each test uses its part")]

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, sys};
use cudarc::nvrtc::Ptx;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Once};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
}

const RTLD_NOW: c_int = 2;
const RTLD_GLOBAL: c_int = 0x100;

/// The driver, which cargo builds beside the tests.
pub fn library() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libsimulated_cuda.so")
}

/// Opens the driver, so that cudarc's own `dlopen("libcuda.so")` gets it: the SONAME is that.
pub fn open() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let path = CString::new(library().to_str().unwrap()).unwrap();
        // SAFETY: a NUL-terminated path; the library has no initialisers that could go wrong.
        let handle = unsafe { dlopen(path.as_ptr(), RTLD_NOW | RTLD_GLOBAL) };
        assert!(!handle.is_null(), "cannot open {path:?}");
    });
}

/// A context of the test's own: what breaks it breaks no other test.
pub fn context() -> Arc<CudaContext> {
    open();
    CudaContext::new_non_primary(0, 0).unwrap()
}

pub fn module(context: &Arc<CudaContext>, ptx: &str) -> Arc<CudaModule> {
    context.load_module(Ptx::from_src(ptx)).unwrap()
}

pub fn kernel(context: &Arc<CudaContext>, ptx: &str, name: &str) -> CudaFunction {
    module(context, ptx).load_function(name).unwrap()
}

pub fn stream() -> Arc<CudaStream> {
    context().new_stream().unwrap()
}

/// The code of a call that is to fail.
pub fn code<T>(result: Result<T, DriverError>) -> sys::CUresult {
    match result {
        Ok(_) => sys::CUresult::CUDA_SUCCESS,
        Err(DriverError(code)) => code,
    }
}

/// Runs one ignored test of the same program with other environment variables: the driver reads them once.
pub fn isolated(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    for (name, value) in variables {
        command.env(format!("SIMULATED_CUDA_{name}"), value);
    }
    command.output().unwrap()
}

/// The same, for a test that is to pass; what it wrote to stderr.
pub fn passes(test: &str, variables: &[(&str, &str)]) -> String {
    let output = isolated(test, variables);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{test}: {}\n{out}\n{err}", output.status);
    err.into_owned()
}
