//! What the environment says the machine holds: read once, by `cuInit`.

use super::result::{self, CUresult};
use std::path::PathBuf;

/// The first part of every variable's name.
const PREFIX: &str = "SIMULATED_CUDA_";

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) devices: usize,
    /// Compute capability, 80 for 8.0.
    pub(crate) capability: u32,
    pub(crate) name: String,
    /// Bytes of each device's memory.
    pub(crate) memory: usize,
    /// As `cuDriverGetVersion` tells it: 12000 is 12.0.
    pub(crate) driver_version: u32,
    pub(crate) multiprocessors: u32,
    /// Whether there are memory pools (`cuMemAllocAsync`).
    pub(crate) pools: bool,
    pub(crate) sanitizer: bool,
    /// Whether allocations still held at exit are listed on stderr.
    pub(crate) leaks: Option<Leaks>,
    /// Where a JSON line per launch is appended.
    pub(crate) profile: Option<PathBuf>,
    pub(crate) failures: Vec<Failure>,
}

/// What happens at exit when allocations are still held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaks {
    /// They are listed.
    Report,
    /// And the process ends with status [`LEAK_STATUS`].
    Fail,
}

/// CUDA 11.2 brought memory pools, and the attributes of devices that tell of them.
pub(crate) const POOLS_SINCE: u32 = 11020;

pub(crate) const LEAK_STATUS: i32 = 86;

/// The `nth` call (from 1) of a kind fails with `code`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) nth: u64,
    pub(crate) code: CUresult,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FailureKind {
    /// A device allocation: the call itself fails.
    Alloc,
    /// A launch: the call itself fails.
    Launch,
    /// A kernel: the launch succeeds, the kernel fails, and the context with it.
    Kernel,
    /// A copy or memset: the call itself fails.
    Copy,
    /// Loading a module: the call itself fails.
    Module,
}

impl Config {
    /// From the environment; the error names the variable.
    pub(crate) fn from_env() -> Result<Self, String> {
        let get = |name: &str| std::env::var(format!("{PREFIX}{name}")).ok().filter(|value| !value.is_empty());
        Self::from_lookup(&get)
    }

    fn from_lookup(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        fn parsed<T>(
            get: &dyn Fn(&str) -> Option<String>,
            name: &str,
            default: T,
            parse: fn(&str) -> Option<T>,
        ) -> Result<T, String> {
            let Some(text) = get(name) else { return Ok(default) };
            parse(&text).ok_or_else(|| format!("{PREFIX}{name}={text}: not understood"))
        }
        let capability = parsed(get, "CAPABILITY", 80, capability)?;
        let driver_version =
            parsed(get, "DRIVER_VERSION", 13050, |text| text.parse().ok().filter(|&version| version >= 9000))?;
        Ok(Self {
            devices: parsed(get, "DEVICES", 1, |text| text.parse().ok().filter(|&n| n <= 16))?,
            capability,
            name: get("NAME").unwrap_or_else(|| format!("Simulated CUDA device (sm_{capability})")),
            memory: parsed(get, "MEMORY", 4 << 30, size)?,
            driver_version,
            multiprocessors: parsed(get, "MULTIPROCESSORS", 8, |text| text.parse().ok().filter(|&n| n > 0))?,
            pools: parsed(get, "POOLS", true, switch)? && driver_version >= POOLS_SINCE,
            sanitizer: parsed(get, "SANITIZER", true, switch)?,
            leaks: parsed(get, "LEAKS", None, leaks)?,
            profile: get("PROFILE").map(PathBuf::from),
            failures: parsed(get, "FAIL", Vec::new(), |text| text.split(',').map(failure).collect())?,
        })
    }

    /// The newest PTX ISA that a driver of this version takes, as (major, minor).
    pub(crate) fn newest_ptx(&self) -> (u32, u32) {
        match (self.driver_version / 1000, self.driver_version % 1000 / 10) {
            (9, minor) => (6, minor.min(2)),
            (10, minor) => (6, minor.min(2) + 3),
            (11, minor) => (7, minor.min(8)),
            (12, minor @ 0..=5) => (8, minor),
            // 12.6 came with 8.5 too.
            (12, minor) => (8, minor - 1),
            (major, minor) => (major - 4, minor),
        }
    }
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "on" | "true" => Some(true),
        "0" | "off" | "false" => Some(false),
        _ => None,
    }
}

fn leaks(text: &str) -> Option<Option<Leaks>> {
    match text {
        "report" => Some(Some(Leaks::Report)),
        "fail" => Some(Some(Leaks::Fail)),
        _ => Some(switch(text)?.then_some(Leaks::Report)),
    }
}

/// "8.0", "80" or "sm_80".
fn capability(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches("sm_").replace('.', "");
    digits.parse().ok().filter(|cc| (50..=130).contains(cc))
}

/// Bytes, with K, M or G for powers of 1024.
fn size(text: &str) -> Option<usize> {
    let (digits, shift) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 10),
        'M' => (&text[..text.len() - 1], 20),
        'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// "alloc:3=OUT_OF_MEMORY"; the code may be left out.
fn failure(text: &str) -> Option<Failure> {
    let (call, code) = text.trim().split_once('=').map_or((text.trim(), None), |(call, code)| (call, Some(code)));
    let (kind, nth) = call.split_once(':')?;
    let (kind, default) = match kind {
        "alloc" => (FailureKind::Alloc, result::ERROR_OUT_OF_MEMORY),
        "launch" => (FailureKind::Launch, result::ERROR_LAUNCH_OUT_OF_RESOURCES),
        "kernel" => (FailureKind::Kernel, result::ERROR_LAUNCH_FAILED),
        "copy" => (FailureKind::Copy, result::ERROR_UNKNOWN),
        "module" => (FailureKind::Module, result::ERROR_INVALID_PTX),
        _ => return None,
    };
    let code = code.map_or(Some(default), CUresult::from_name)?;
    Some(Failure { kind, nth: nth.parse().ok().filter(|&n| n > 0)?, code })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<Config, String> {
        Config::from_lookup(&move |asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn defaults_are_an_a100() {
        let config = read("", "").unwrap();
        assert_eq!((config.devices, config.capability), (1, 80));
        assert_eq!(config.name, "Simulated CUDA device (sm_80)");
        assert!(config.sanitizer && config.pools && config.leaks.is_none() && config.failures.is_empty());
    }

    #[test]
    fn values_are_read() {
        assert_eq!(read("CAPABILITY", "7.5").unwrap().capability, 75);
        assert_eq!(read("CAPABILITY", "sm_120").unwrap().capability, 120);
        assert_eq!(read("MEMORY", "3M").unwrap().memory, 3 << 20);
        let failures = read("FAIL", "alloc:3, launch:2=CUDA_ERROR_LAUNCH_TIMEOUT").unwrap().failures;
        assert_eq!(
            failures,
            [
                Failure { kind: FailureKind::Alloc, nth: 3, code: result::ERROR_OUT_OF_MEMORY },
                Failure { kind: FailureKind::Launch, nth: 2, code: result::ERROR_LAUNCH_TIMEOUT },
            ]
        );
        for (name, value) in
            [("CAPABILITY", "x"), ("DEVICES", "-1"), ("MEMORY", "1T"), ("FAIL", "alloc:0"), ("SANITIZER", "maybe")]
        {
            assert!(read(name, value).is_err_and(|error| error.contains(name)), "{name}={value}");
        }
    }

    /// CUDA's release notes: the PTX ISA that came with each toolkit.
    #[test]
    fn newest_ptx_follows_the_toolkit() {
        for (driver, ptx) in [
            ("10020", (6, 5)),
            ("11000", (7, 0)),
            ("11080", (7, 8)),
            ("12000", (8, 0)),
            ("12050", (8, 5)),
            ("12060", (8, 5)),
            ("12080", (8, 7)),
            ("13000", (9, 0)),
            ("13050", (9, 5)),
        ] {
            let config = Config::from_lookup(&|name| (name == "DRIVER_VERSION").then(|| driver.to_owned())).unwrap();
            assert_eq!(config.newest_ptx(), ptx, "{driver}");
        }
    }
}
