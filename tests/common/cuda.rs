//! A CUDA device for the tests: the simulated one of tools/simulated-cuda, unless there is a real one.
//!
//! | `TRILINEAR_TEST_CUDA` | cases on the device | on the processor |
//! |---|---|---|
//! | | the small ones, up to 4096 FLOPs | all |
//! | `rest` | those that this leaves out, up to 1 MFLOP | none, in the loops that have device cases |
//! | `all` | up to 1 MFLOP | all |
//! | `device` | up to 1 MFLOP, on a device that the machine has | all |
//! | `none` | none | all |
//!
//! `TRILINEAR_TEST_REQUIRE=cuda` makes it a failure if there is no device. `.ci/run` runs the tests without the variable and
//! then with `rest`: together they are `all`.
//!
//! A simulated device is slow. Where a loop is over sizes alone, it runs there only what [`Pairs`] finds new; a real one runs
//! everything.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use trilinear::{Context, Device};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// FLOPs of the cases that run on the device without being asked for, and of the largest that do at all.
const SMALL: usize = 1 << 12;
const LARGE: usize = 1 << 20;

/// Whether a case of so many FLOPs is to run on the device.
pub fn takes(flops: usize) -> bool {
    match &*variable("TRILINEAR_TEST_CUDA") {
        "all" | "device" => flops <= LARGE,
        "rest" => SMALL < flops && flops <= LARGE,
        _ => flops <= SMALL,
    }
}

/// Whether the processor's part is left out, because it runs elsewhere.
pub fn alone() -> bool {
    variable("TRILINEAR_TEST_CUDA") == "rest"
}

/// Chooses from sizes those that bring a simulated device something new: a pair of axes in a pair of classes that no earlier
/// case had. (Pairwise testing: D. M. Cohen et al., IEEE Transactions on Software Engineering 23(7), 1997.)
///
/// Sizes of one class take the same way through a kernel: they fill the same number of its tiles of 8 to 128, are aligned
/// alike for loads of up to 16 bytes and to tensor cores' 16. Up to 4, the kernels' few rows, each is a class of its own.
#[derive(Default)]
pub struct Pairs(HashSet<[usize; 4]>);

impl Pairs {
    /// The FLOPs of a case, or more than any device takes where it brings nothing new. With `rest` a small case, which runs
    /// without, counts among the earlier ones.
    pub fn flops(&mut self, sizes: &[usize], flops: usize) -> usize {
        let counts = takes(flops) || alone() && flops <= SMALL;
        if counts && simulated() && !self.add(sizes) { usize::MAX } else { flops }
    }

    fn add(&mut self, sizes: &[usize]) -> bool {
        let classes: Vec<usize> = sizes.iter().map(|&size| class(size)).collect();
        let mut new = false;
        for (b, &of_b) in classes.iter().enumerate() {
            for (a, &of_a) in classes[..b].iter().enumerate() {
                new |= self.0.insert([a, of_a, b, of_b]);
            }
        }
        new
    }
}

fn class(size: usize) -> usize {
    if size <= 4 {
        return size;
    }
    let tiles = [8, 16, 32, 64, 128].into_iter().filter(|tile| size > *tile).count();
    10 * (tiles + 1) + size.trailing_zeros().min(4) as usize
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
    if cfg!(miri) || cfg!(not(feature = "cuda")) {
        return Err("nothing here could load the simulated driver".into());
    }
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
