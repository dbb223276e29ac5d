//! What the operating system tells about this machine.

use std::fs;

/// Where the last cache is unknown, this is assumed: as large as most are.
const USUAL_LAST_CACHE: usize = 32 << 20;

/// A cache of the first core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cache {
    pub(crate) level: u32,
    pub(crate) bytes: usize,
}

/// The processor's name, or its architecture.
pub(crate) fn cpu_name() -> String {
    let linux = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    linux.unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

/// Logical processors that this process may use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Data caches of the first core, from the innermost on; none where the system does not tell.
pub(crate) fn caches() -> Vec<Cache> {
    let mut caches = Vec::new();
    for index in 0..8 {
        let read = |file: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}");
            fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
        };
        let (Some(level), Some(kind), Some(size)) = (read("level"), read("type"), read("size")) else { break };
        let (Ok(level), Some(bytes)) = (level.parse(), parse_size(&size)) else { continue };
        if kind != "Instruction" {
            caches.push(Cache { level, bytes });
        }
    }
    caches
}

/// Bytes of the last cache.
pub(crate) fn last_cache() -> usize {
    caches().into_iter().max_by_key(|cache| cache.level).map_or(USUAL_LAST_CACHE, |cache| cache.bytes)
}

/// `48K` or `32M`, as Linux writes sizes of caches.
fn parse_size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

/// Bytes that can be allocated without swapping, and within the limit of the process's control group; `None` where the
/// system does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let system = line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1 << 10)?;
    let number = |file: &str| {
        fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok().and_then(|text| text.trim().parse::<u64>().ok())
    };
    let group = number("memory.max").map(|most| most.saturating_sub(number("memory.current").unwrap_or(0)));
    Some(group.map_or(system, |group| group.min(system)))
}

/// Bytes for people.
pub(crate) fn bytes(bytes: f64) -> String {
    match bytes {
        b if b >= f64::from(1 << 30) => format!("{:.1} GiB", b / f64::from(1 << 30)),
        b if b >= f64::from(1 << 20) => format!("{:.0} MiB", b / f64::from(1 << 20)),
        b if b >= f64::from(1 << 10) => format!("{:.0} KiB", b / f64::from(1 << 10)),
        b => format!("{b:.0} B"),
    }
}
