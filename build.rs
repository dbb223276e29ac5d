//! Feature `cuda`: the PTX that the crate embeds, in OUT_DIR/kernels.rs. Compiled from kernels/*.cu where nvcc is
//! found, else as kept in kernels/ptx. TRILINEAR_PTX=embedded or =compile takes one or the other; unset, a failing
//! nvcc is a warning.
//!
//! `scripts/ptx.py` runs this file to write kernels/ptx, and tests/ptx.rs takes `source_hash` from it.
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Outcome<T> = Result<T, String>;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    for variable in ["TRILINEAR_PTX", "NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(message) = run() {
        println!("cargo::error={}", message.replace('\n', " "));
    }
}

fn run() -> Outcome<()> {
    let kernels =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?).join("kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let compiled = match env::var("TRILINEAR_PTX").unwrap_or_default().as_str() {
        "embedded" => None,
        "compile" => {
            let nvcc = nvcc().ok_or("TRILINEAR_PTX=compile, and no nvcc: set NVCC or CUDA_HOME, or add it to PATH")?;
            Some(compile_all(&nvcc, &kernels, &out)?)
        }
        "" if env::var_os("DOCS_RS").is_some() => None,
        "" => nvcc().and_then(|nvcc| match compile_all(&nvcc, &kernels, &out) {
            Ok(files) => Some(files),
            Err(message) => {
                println!("cargo::warning={} (using the PTX in kernels/ptx)", message.replace('\n', " "));
                None
            }
        }),
        other => return Err(format!("TRILINEAR_PTX={other}: expected `embedded` or `compile`")),
    };
    let files = match compiled {
        Some(files) => files,
        None => with_extension(&kernels.join("ptx"), "ptx")?,
    };
    let mut table = String::from("/// Name, least compute capability and text of each module.\n");
    table.push_str("pub(crate) static PTX: &[(&str, (u32, u32), &str)] = &[\n");
    for path in files {
        let (major, minor) = target(&read(&path)?).ok_or_else(|| format!("{}: no .target line", path.display()))?;
        let _ = writeln!(table, "    ({:?}, ({major}, {minor}), include_str!({path:?})),", stem(&path));
    }
    table.push_str("];\n");
    write(&out.join("kernels.rs"), &table)
}

/// The compiler that the environment names, else the first in PATH.
fn nvcc() -> Option<PathBuf> {
    let name = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
    let set = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    if let Some(path) = set("NVCC") {
        return Some(path.into());
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set).map(|home| Path::new(&home).join("bin"));
    let path = set("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    homes.chain(path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn compile_all(nvcc: &Path, kernels: &Path, out: &Path) -> Outcome<Vec<PathBuf>> {
    let folder = out.join("ptx");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    with_extension(kernels, "cu")?
        .into_iter()
        .map(|source| {
            let to = folder.join(stem(&source)).with_extension("ptx");
            compile(nvcc, &source, &to)?;
            Ok(to)
        })
        .collect()
}

/// Writes the PTX of one file, for compute capability 8.0 where its name ends so, else 7.5.
fn compile(nvcc: &Path, source: &Path, to: &Path) -> Outcome<()> {
    // The PTX version is the least that has the instructions used: any driver from CUDA 10.2 on has 6.5 (ldmatrix and
    // mma of m16n8k8), from 11.0 on 7.0 (cp.async, mma of bf16 and tf32). The compiler writes its own, which older
    // drivers refuse.
    let (arch, version) = if stem(source).ends_with("_sm80") { ("compute_80", (7, 0)) } else { ("compute_75", (6, 5)) };
    let output = Command::new(nvcc)
        .args(["-ptx", "-O3", "-std=c++17", &format!("-arch={arch}"), "-o"])
        .args([to, source])
        .output()
        .map_err(|error| format!("{}: {error}", nvcc.display()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} failed on {}: {message}", nvcc.display(), source.display()));
    }
    let hash = source_hash(source)?;
    let mut text = format!("// sources {hash:016x}\n");
    for line in read(to)?.lines() {
        match line.strip_prefix(".version ").and_then(|own| own.trim().split_once('.')) {
            Some((major, minor)) => {
                let own = (major.parse().unwrap_or(u32::MAX), minor.parse().unwrap_or(u32::MAX));
                let (major, minor) = own.min(version);
                let _ = writeln!(text, ".version {major}.{minor}");
            }
            None => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    write(to, &text)
}

/// FNV-1a of a source and of all that it includes, each once, in the order of first inclusion.
pub(crate) fn source_hash(source: &Path) -> Outcome<u64> {
    let mut files = vec![source.to_path_buf()];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut next = 0;
    while next < files.len() {
        let text = read(&files[next])?;
        for byte in text.bytes().filter(|&byte| byte != b'\r') {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        for included in text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"')) {
            let included = source.with_file_name(included);
            if !files.contains(&included) {
                files.push(included);
            }
        }
        next += 1;
    }
    Ok(hash)
}

/// The compute capability in PTX's `.target sm_80`.
fn target(ptx: &str) -> Option<(u32, u32)> {
    let digits = ptx.lines().find_map(|line| line.strip_prefix(".target sm_"))?;
    let number: u32 = digits.trim().parse().ok()?;
    Some((number / 10, number % 10))
}

/// The files of a folder with this extension, by name.
pub(crate) fn with_extension(folder: &Path, extension: &str) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|own| own == extension));
    files.sort();
    Ok(files)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
