//! A CUDA device for the tests: the simulated one of tools/simulated-cuda, unless there is a real one.
//!
//! | variable | |
//! |---|---|
//! | `TRILINEAR_TEST_CUDA=device` | only a device that the machine has |
//! | `TRILINEAR_TEST_CUDA=all` | every case, not only a small part of them |
//! | `TRILINEAR_TEST_CUDA=none` | no CUDA device |
//! | `TRILINEAR_TEST_REQUIRE=cuda` | a failure if there is none |

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use trilinear::{Context, Device};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Whether every case is to run on the device.
pub fn all() -> bool {
    matches!(&*variable("TRILINEAR_TEST_CUDA"), "all" | "device")
}

/// The context of the device, the same for the whole process. Why there is none is said once on standard output.
pub fn cuda() -> Option<Context> {
    static CONTEXT: OnceLock<Option<Context>> = OnceLock::new();
    *CONTEXT.get_or_init(|| {
        // Before a device appears: layers without a context stay where they were.
        let _ = Context::from_env();
        let found = match &*variable("TRILINEAR_TEST_CUDA") {
            "none" => Err("not asked for".to_owned()),
            "device" => Device::Cuda(0).check().map_err(|error| error.to_string()),
            _ => Device::Cuda(0).check().or_else(|error| simulate().map_err(|why| format!("{error}; {why}"))),
        };
        match found.and_then(|()| Context::new(Device::Cuda(0)).map_err(|error| error.to_string())) {
            Ok(context) => Some(context),
            Err(why) => {
                assert_ne!(variable("TRILINEAR_TEST_REQUIRE"), "cuda", "{why}");
                println!("skipped: no CUDA device ({why})");
                None
            }
        }
    })
}

/// Whether the device is the simulated one.
pub fn simulated() -> bool {
    cuda().is_some() && Device::Cuda(0).describe().is_ok_and(|text| text.starts_with("Simulated"))
}

/// Builds the simulated driver and loads it, so that it is what the name `libcuda.so` means.
fn simulate() -> Result<(), String> {
    load_simulated()?;
    Device::Cuda(0).check().map_err(|error| error.to_string())
}

/// Only that.
pub fn load_simulated() -> Result<(), String> {
    load(&build()?)
}

/// The path of the simulated driver, built now unless it has been.
pub fn build() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("tools/simulated-cuda/Cargo.toml").exists() {
        return Err("the simulated driver is only in the repository".into());
    }
    let target = root.join("target/simulated-cuda");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["build", "--release", "--quiet", "-p", "simulated-cuda", "--target-dir"])
        .arg(&target);
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("the simulated driver does not build: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(target.join("release/libsimulated_cuda.so"))
}

#[cfg(target_os = "linux")]
fn load(library: &Path) -> Result<(), String> {
    use std::ffi::{CStr, CString, c_char, c_int, c_void};
    use std::os::unix::ffi::OsStrExt;

    unsafe extern "C" {
        fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
        fn dlerror() -> *const c_char;
    }
    let (now, global) = (2, 0x100);
    let name = CString::new(library.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a path that ends with a zero; the library's initialisers are Rust's. What `dlerror` gives is a text.
    unsafe {
        if dlopen(name.as_ptr(), now | global).is_null() {
            return Err(CStr::from_ptr(dlerror()).to_string_lossy().into_owned());
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn load(_: &Path) -> Result<(), String> {
    Err("the simulated driver is loaded on Linux only".into())
}
