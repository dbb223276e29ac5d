//! The place of the CUDA backend. Until its kernels are written it can only say why it is unavailable.

/// Why no CUDA device can be used: the most basic reason first.
pub(crate) fn unavailable() -> String {
    #[cfg(feature = "cuda")]
    {
        // cudarc panics on the first call of a driver that is absent, so ask before.
        // SAFETY: only tries to load the library by its name.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return "the NVIDIA driver (libcuda) is not installed".into();
        }
        "this version of trilinear has no CUDA kernels yet".into()
    }
    #[cfg(not(feature = "cuda"))]
    {
        "trilinear was built without its feature `cuda`".into()
    }
}
