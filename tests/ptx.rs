//! The PTX kept in kernels/ptx is that of the sources beside it.
use std::path::Path;

#[path = "../build.rs"]
#[allow(dead_code)]
mod build;

#[test]
fn ptx_is_not_stale() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let sources = build::with_extension(&kernels, "cu").unwrap();
    let kept = build::with_extension(&kernels.join("ptx"), "ptx").unwrap();
    let stems = |files: &[std::path::PathBuf]| {
        files.iter().map(|file| file.file_stem().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(stems(&sources), stems(&kept), "run scripts/ptx.py");
    assert!(!sources.is_empty());
    for (source, ptx) in sources.iter().zip(&kept) {
        let text = std::fs::read_to_string(ptx).unwrap();
        let expected = format!("// sources {:016x}", build::source_hash(source).unwrap());
        assert_eq!(text.lines().next(), Some(&*expected), "{}: run scripts/ptx.py", ptx.display());
    }
}
