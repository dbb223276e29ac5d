//! Names the shared library as a client looks for it: a program that has opened this one by its path is then given it
//! again for `libcuda.so`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
