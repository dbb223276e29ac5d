//! Sizes of the caches, found at run time, and the block sizes that follow from them.

use std::sync::OnceLock;

use super::simd::Kernels;
use super::table::Table;

/// Bytes of a core's first two data caches and of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caches {
    pub(crate) l1: usize,
    pub(crate) l2: usize,
    pub(crate) l3: usize,
}

impl Caches {
    /// Depth of a pass of the microkernel, KC: a panel of it takes the size of L1. Half of that would stay there while
    /// rows pass, but the panel's vectors are needed at a few bytes a cycle, which L2 gives too, and each pass costs an
    /// epilogue.
    pub(crate) fn kc<T: Kernels>(&self, table: &Table<T>) -> usize {
        (self.l1 / (table.mr * size_of::<T::Acc>())).clamp(64, 512) / 16 * 16
    }
}

/// The caches of this processor; where it does not tell, what nearly all have at least.
pub(crate) fn caches() -> Caches {
    static CACHES: OnceLock<Caches> = OnceLock::new();
    *CACHES.get_or_init(|| {
        let found = detect();
        Caches {
            l1: found.l1.clamp(16 << 10, 256 << 10),
            l2: found.l2.clamp(128 << 10, 4 << 20),
            l3: found.l3.max(1 << 20),
        }
    })
}

const USUAL: Caches = Caches { l1: 32 << 10, l2: 512 << 10, l3: 8 << 20 };

/// By `cpuid`: leaf 4 on Intel, the same layout at 0x8000_001D on AMD.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn detect() -> Caches {
    use std::arch::x86_64::__cpuid_count;
    let mut caches = USUAL;
    #[allow(unused_unsafe, reason = "an unsafe function before Rust 1.94")]
    // SAFETY: every x86-64 processor has cpuid.
    let cpuid = |leaf, subleaf| unsafe { __cpuid_count(leaf, subleaf) };
    let basic = cpuid(0, 0).eax;
    let extended = cpuid(0x8000_0000, 0).eax;
    let amd = cpuid(0, 0).ebx == u32::from_le_bytes(*b"Auth");
    let leaf = if amd && extended >= 0x8000_001d {
        0x8000_001d
    } else if !amd && basic >= 4 {
        4
    } else {
        return caches;
    };
    for subleaf in 0..8 {
        let r = cpuid(leaf, subleaf);
        let (kind, level) = (r.eax & 31, (r.eax >> 5) & 7);
        if kind == 0 {
            break;
        }
        let field = |shift: u32, mask: u32| ((r.ebx >> shift) & mask) as usize + 1;
        let bytes = field(22, 0x3ff) * field(12, 0x3ff) * field(0, 0xfff) * (r.ecx as usize + 1);
        match (level, kind) {
            (1, 1 | 3) => caches.l1 = bytes,
            (2, 1 | 3) => caches.l2 = bytes,
            (3, 1 | 3) => caches.l3 = bytes,
            _ => {}
        }
    }
    caches
}

/// By Linux's description in /sys; elsewhere the usual sizes.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn detect() -> Caches {
    let mut caches = USUAL;
    if cfg!(miri) {
        return caches;
    }
    for index in 0..8 {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}")).ok()
        };
        let (Some(level), Some(kind), Some(size)) = (read("level"), read("type"), read("size")) else { break };
        let size = size.trim();
        let (digits, unit) = match size.strip_suffix('K') {
            Some(digits) => (digits, 1 << 10),
            None => match size.strip_suffix('M') {
                Some(digits) => (digits, 1 << 20),
                None => (size, 1),
            },
        };
        let Ok(bytes) = digits.parse::<usize>().map(|n| n * unit) else { continue };
        match (level.trim(), kind.trim()) {
            ("1", "Data" | "Unified") => caches.l1 = bytes,
            ("2", _) => caches.l2 = bytes,
            ("3", _) => caches.l3 = bytes,
            _ => {}
        }
    }
    caches
}

/// `len` cut into the fewest parts of at most `most` (if that is at least `unit`), of nearly one size, each a multiple
/// of `unit` but the last or only one.
/// The parts depend on nothing but these numbers. An empty axis is one empty part, so that loops around others run.
pub(crate) fn parts(len: usize, most: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    // Whole units, if there are several parts.
    let most = if len <= most { len } else { most / unit * unit }.max(unit);
    let count = len.div_ceil(most).max(1);
    let part = len.div_ceil(count).next_multiple_of(unit).max(1);
    (0..count).map(move |index| {
        let start = (index * part).min(len);
        (start, part.min(len - start))
    })
}

/// The size of the first, largest of [`parts`].
pub(crate) fn part(len: usize, most: usize, unit: usize) -> usize {
    parts(len, most, unit).next().map_or(0, |(_, size)| size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover() {
        for (len, most, unit) in
            [(0, 4, 1), (1, 4, 1), (400, 256, 8), (501, 256, 16), (7, 3, 2), (17, 16, 16), (9, 4, 3), (16, 16, 12)]
        {
            let mut next = 0;
            for (start, size) in parts(len, most, unit) {
                assert_eq!(start, next);
                next += size;
            }
            assert_eq!(next, len);
            assert!(part(len, most, unit) <= most.max(unit));
            assert!(len > most || part(len, most, unit) == len);
        }
    }

    #[test]
    fn caches_are_plausible() {
        let c = caches();
        assert!(c.l1 <= c.l2 && c.l2 <= c.l3, "{c:?}");
    }
}
