//! Nothing to build yet: the CPU kernels are plain Rust, and the CUDA kernels are not written.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
