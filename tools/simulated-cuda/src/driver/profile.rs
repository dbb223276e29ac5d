//! A JSON object for each launch: a line of the file that `SIMULATED_CUDA_PROFILE` names, or given to a function of the client's.

use super::abi::{Handle, guard};
use super::result::CUresult;
use super::work::KernelLaunch;
use crate::Profile;
use crate::profile::{Banks, Class, Count, Traffic};
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A client's function: its own value, and a text of so many bytes that lasts as long as the call.
type Receive = extern "C" fn(user: Handle, json: *const c_char, length: usize);

static RECEIVER: Mutex<Option<(Receive, Handle)>> = Mutex::new(None);

/// No function of the real driver: from now on `receive` is called with the counts of each launch that succeeds, by the thread
/// that it ran on, in no call of the driver's that would lock anything. Null: no more; launches that run meanwhile keep to what was
/// asked for when they began.
#[unsafe(no_mangle)]
pub(super) extern "C" fn simulatedCudaProfile(receive: Option<Receive>, user: Handle) -> CUresult {
    guard(|| {
        *RECEIVER.lock().unwrap_or_else(PoisonError::into_inner) = receive.map(|receive| (receive, user));
        Ok(())
    })
}

/// Who is to be given the counts of a launch.
pub(super) struct Readers {
    file: Option<std::path::PathBuf>,
    receiver: Option<(Receive, Handle)>,
}

impl Readers {
    pub(super) fn new(file: Option<std::path::PathBuf>) -> Readers {
        Readers { file, receiver: *RECEIVER.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    pub(super) fn any(&self) -> bool {
        self.file.is_some() || self.receiver.is_some()
    }

    pub(super) fn give(&self, kernel: &KernelLaunch, profile: &Profile) {
        if !self.any() {
            return;
        }
        let line = line(kernel, profile);
        if let Some(path) = &self.file {
            append(path, &line);
        }
        if let Some((receive, user)) = self.receiver {
            receive(user, line.as_ptr().cast(), line.trim_end().len());
        }
    }
}

/// Appends; a file that cannot be written is told on stderr and is no error of the launch.
fn append(path: &Path, line: &str) {
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
        ",\"inner_conflicts\":{},\"barriers\":{},\"divergent_branches\":{},\"classes\":{},\"inner\":{},\"opcodes\":{}}}",
        profile.inner_conflicts,
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
