//! How the addresses of a warp's lanes lie to each other: what an access can be checked by at once, rather than lane by
//! lane. All vectorise within functions that are compiled for it. Lanes that take no part are put where the first is that does, so that all loops are over 32.

use super::{each, registers::LANES};

/// Which lanes of an access share an address; of aligned accesses of one size, the others are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// All are at one address.
    Same,
    /// No two are.
    Distinct,
    /// Some may be.
    Mixed,
}

/// Lanes' addresses, those of absent lanes replaced by the first's.
#[inline(always)]
pub(crate) fn present(addresses: &[u64; LANES], mask: u32) -> [u64; LANES] {
    let first = addresses[mask.trailing_zeros() as usize % LANES];
    let mut out = *addresses;
    if mask != u32::MAX {
        for lane in 0..LANES {
            out[lane] = if mask >> lane & 1 != 0 { out[lane] } else { first };
        }
    }
    out
}

/// The least and the greatest address, and whether all are multiples of `align`, a power of two.
#[inline(always)]
pub(crate) fn span(addresses: &[u64; LANES], align: u32) -> (u64, u64, bool) {
    let (mut low, mut high, mut any) = (u64::MAX, 0, 0);
    for lane in 0..LANES {
        low = low.min(addresses[lane]);
        high = high.max(addresses[lane]);
        any |= addresses[lane];
    }
    (low, high, any & u64::from(align - 1) == 0)
}

/// Addresses within `bytes` bytes, with those of absent lanes replaced by the first's; `None` if an access of `size`
/// bytes would not be within them, or not aligned.
#[inline(always)]
pub(crate) fn offsets(addresses: &[u64; LANES], mask: u32, size: u32, bytes: u32) -> Option<[u32; LANES]> {
    let addresses = present(addresses, mask);
    let (mut out, mut upper, mut any, mut high) = ([0; LANES], 0, 0, 0);
    for lane in 0..LANES {
        upper |= addresses[lane] >> 32;
        out[lane] = addresses[lane] as u32;
    }
    for lane in 0..LANES {
        any |= out[lane];
        high = high.max(out[lane]);
    }
    (upper == 0 && any & (size - 1) == 0 && size <= bytes && high <= bytes - size).then_some(out)
}

/// Of multiples of `size`, a power of two.
#[inline(always)]
pub(crate) fn sharing(offsets: &[u32; LANES], mask: u32, size: u32) -> Sharing {
    let (mut different, mut seen) = (0, 0u64);
    for lane in 0..LANES {
        different |= offsets[lane] ^ offsets[0];
        // A bit for each residue: as many as lanes, and no two of them are the same.
        seen |= 1 << (offsets[lane] >> size.trailing_zeros() & 63);
    }
    if seen.count_ones() == mask.count_ones() {
        Sharing::Distinct
    } else if different == 0 {
        Sharing::Same
    } else {
        Sharing::Mixed
    }
}

/// The lanes that are at an offset.
#[inline(always)]
pub(crate) fn lanes_at(offsets: &[u32; LANES], offset: u32) -> u32 {
    let mut bits = 0;
    for lane in 0..LANES {
        bits |= u32::from(offsets[lane] == offset) << lane;
    }
    bits
}

/// Distinct 32-byte sectors; no access crosses one.
pub(crate) fn sectors(addresses: &[u64; LANES], mask: u32) -> u64 {
    let (mut count, mut last) = (0, u64::MAX);
    for lane in each(mask) {
        let sector = addresses[lane] >> 5;
        if sector == last {
            continue;
        }
        if last != u64::MAX && sector < last {
            let mut all: Vec<u64> = each(mask).map(|lane| addresses[lane] >> 5).collect();
            all.sort_unstable();
            all.dedup();
            return all.len() as u64;
        }
        last = sector;
        count += 1;
    }
    count
}
