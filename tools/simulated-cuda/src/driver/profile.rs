//! A JSON line for each launch, in the file that `SIMULATED_CUDA_PROFILE` names.

use super::work::KernelLaunch;
use crate::Profile;
use crate::profile::{Banks, Class, Count, Traffic};
use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::path::Path;

/// Appends; a file that cannot be written is told on stderr and is no error of the launch.
pub(super) fn append(path: &Path, kernel: &KernelLaunch, profile: &Profile) {
    let line = line(kernel, profile);
    // One write of a whole line: several threads and processes may append.
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("simulated-cuda: {}: {error}", path.display());
    }
}

fn line(kernel: &KernelLaunch, profile: &Profile) -> String {
    let KernelLaunch { function, grid, block, dynamic_shared, .. } = kernel;
    let mut text = String::new();
    let total = profile.instructions();
    let _ = write!(
        text,
        "{{\"kernel\":\"{}\",\"grid\":{grid:?},\"block\":{block:?},\"static_shared\":{},\"dynamic_shared\":{dynamic_shared},\
         \"blocks\":{},\"warps\":{},\"instructions\":{},\"tensor_share\":{:.6}",
        function.name,
        function.static_shared,
        profile.blocks,
        profile.warps,
        count(&total),
        profile.share(Class::Matrix),
    );
    for (name, traffic) in [("global_loads", &profile.global_loads), ("global_stores", &profile.global_stores)] {
        let Traffic { requests, sectors, bytes, unique_bytes } = traffic;
        let _ = write!(
            text,
            ",\"{name}\":{{\"requests\":{requests},\"sectors\":{sectors},\"bytes\":{bytes},\"unique_bytes\":{unique_bytes}}}"
        );
    }
    for (name, banks) in [("shared_loads", &profile.shared_loads), ("shared_stores", &profile.shared_stores)] {
        let Banks { requests, transactions, minimum, bytes } = banks;
        let _ = write!(
            text,
            ",\"{name}\":{{\"requests\":{requests},\"transactions\":{transactions},\"minimum\":{minimum},\"bytes\":{bytes}}}"
        );
    }
    let _ = write!(
        text,
        ",\"barriers\":{},\"divergent_branches\":{},\"classes\":{},\"inner\":{},\"opcodes\":{}}}",
        profile.barriers,
        profile.divergent_branches,
        counts(&profile.classes, |class: &Class| debug_name(class)),
        counts(&profile.inner, |class: &Class| debug_name(class)),
        counts(&profile.opcodes, String::clone),
    );
    text.push('\n');
    text
}

fn debug_name(class: &impl Debug) -> String {
    format!("{class:?}").to_lowercase()
}

fn count(count: &Count) -> String {
    format!("{{\"warps\":{},\"threads\":{}}}", count.warps, count.threads)
}

/// An object by names, which are made of letters, digits, '.' and '_' and need no escapes.
fn counts<K>(counts: &BTreeMap<K, Count>, name: impl Fn(&K) -> String) -> String {
    let fields: Vec<String> = counts.iter().map(|(key, value)| format!("\"{}\":{}", name(key), count(value))).collect();
    format!("{{{}}}", fields.join(","))
}
