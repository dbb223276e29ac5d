//! Shared memory's shadow: who last wrote and read each word, and when, to find races, reads of what nobody wrote, and
//! accesses of what an outstanding `cp.async` writes.
//!
//! Time is a counter that every barrier advances. For each pair of warps it is known up to when the one has seen the
//! other's accesses: all that came to a barrier have, for those that waited at it. An access conflicts with an earlier
//! one of another thread if one of the two is a write and the earlier is not among those seen. Within a warp,
//! `bar.warp.sync` and shuffles, votes and their like are such barriers; running in step is not.
//!
//! A word has one entry until an access of less than a word splits it into bytes.

use crate::{
    FaultKind,
    fault::{Access, Space},
    machine::{
        Outcome, each,
        registers::LANES,
        spread::{Sharing, lanes_at},
        trouble,
    },
};

/// No thread.
const NOBODY: u16 = u16::MAX;
/// More than one thread.
const SEVERAL: u16 = u16::MAX - 1;
/// Bits of `state`.
const WRITTEN: u16 = 1;
const COPYING: u16 = 2;
const SPLIT: u16 = 4;
const ATOMIC: u16 = 8;

/// The latest accesses of a word or byte.
#[derive(Clone, Copy, Debug)]
struct Entry {
    write_time: u32,
    read_time: u32,
    writer: u16,
    reader: u16,
    /// Warps of the readers, where there are several.
    readers: u32,
    state: u16,
}

const FRESH: Entry = Entry { write_time: 0, read_time: 0, writer: NOBODY, reader: NOBODY, readers: 0, state: 0 };

pub(crate) struct Shadow {
    words: Vec<Entry>,
    /// Entries of the bytes of split words; empty until one is.
    bytes: Vec<Entry>,
    now: u32,
    warps: usize,
    /// `seen[a][b]`: accesses of warp b before this time are seen by warp a.
    seen: Vec<u32>,
    /// The least of each warp's row of `seen`, and of all: older accesses conflict with nothing.
    floors: Vec<u32>,
    floor: u32,
    /// What each warp released at its last `bar.arrive`.
    released: Vec<Vec<u32>>,
}

impl Shadow {
    pub(crate) fn new(bytes: u32, warps: u32) -> Self {
        let warps = warps as usize;
        let words = vec![FRESH; bytes.div_ceil(4) as usize];
        Self {
            words,
            bytes: Vec::new(),
            now: 1,
            warps,
            seen: vec![0; warps * warps],
            floors: vec![0; warps],
            floor: 0,
            released: vec![Vec::new(); warps],
        }
    }

    pub(crate) fn reset(&mut self) {
        self.words.fill(FRESH);
        self.bytes.clear();
        self.now = 1;
        self.seen.fill(0);
        self.floors.fill(0);
        self.floor = 0;
        self.released.iter_mut().for_each(Vec::clear);
    }

    /// The lanes of a warp have seen each other's accesses.
    pub(crate) fn sync_warp(&mut self, warp: u32) {
        self.now += 1;
        let warp = warp as usize;
        self.seen[warp * self.warps + warp] = self.now;
    }

    /// A warp releases what it did and saw, for those that wait at the barrier.
    pub(crate) fn arrive(&mut self, warp: u32) {
        let warp = warp as usize;
        let mut row = self.seen[warp * self.warps..][..self.warps].to_vec();
        self.now += 1;
        row[warp] = self.now;
        self.released[warp] = row;
    }

    /// A barrier is complete: `waited` have seen all that `came` did and saw.
    pub(crate) fn barrier(&mut self, came: u32, waited: u32) {
        self.now += 1;
        let (now, warps) = (self.now, self.warps);
        let mut seen = vec![0; warps];
        for warp in (0..warps).filter(|warp| came >> warp & 1 != 0) {
            let own = &self.seen[warp * warps..][..warps];
            let arrived_only = waited >> warp & 1 == 0 && !self.released[warp].is_empty();
            let row = if arrived_only { &self.released[warp][..] } else { own };
            seen.iter_mut().zip(row).for_each(|(to, &time)| *to = time.max(*to));
            if !arrived_only {
                seen[warp] = now;
            }
        }
        for warp in (0..warps).filter(|warp| waited >> warp & 1 != 0) {
            let row = &mut self.seen[warp * warps..][..warps];
            row.iter_mut().zip(&seen).for_each(|(to, &time)| *to = time.max(*to));
            self.floors[warp] = row.iter().copied().min().unwrap_or(0);
        }
        self.floor = self.floors.iter().copied().min().unwrap_or(0);
    }

    /// A load of the lanes of a mask.
    #[inline(always)]
    pub(crate) fn load(
        &mut self,
        warp: u32,
        offsets: &[u32; LANES],
        mask: u32,
        size: u32,
        sharing: Sharing,
    ) -> Outcome {
        let at = Moment { warp, now: self.now, floor: self.floors[warp as usize] };
        if size >= 4 && load_quickly(&mut self.words, at, offsets, mask, size, sharing) {
            return Ok(());
        }
        each(mask).try_for_each(|lane| self.access(warp, lane, offsets[lane], size, false))
    }

    /// A store of the lanes of a mask, no two to one place.
    #[inline(always)]
    pub(crate) fn store(&mut self, warp: u32, offsets: &[u32; LANES], mask: u32, size: u32) -> Outcome {
        let at = Moment { warp, now: self.now, floor: self.floors[warp as usize] };
        if size >= 4 && store_quickly(&mut self.words, at, offsets, mask, size, WRITTEN) {
            return Ok(());
        }
        self.store_each(warp, offsets, mask, size)
    }

    /// A store of the lanes of a mask.
    pub(crate) fn store_each(&mut self, warp: u32, offsets: &[u32; LANES], mask: u32, size: u32) -> Outcome {
        each(mask).try_for_each(|lane| self.access(warp, lane, offsets[lane], size, true))
    }

    /// A load or store of a lane.
    fn access(&mut self, warp: u32, lane: usize, address: u32, size: u32, write: bool) -> Outcome {
        let (first, thread) = (address as usize / 4, (warp * 32) as u16 + lane as u16);
        if size >= 4 {
            for word in first..first + size as usize / 4 {
                if self.words[word].state & SPLIT != 0 && !self.join(word) {
                    for byte in 4 * word..4 * word + 4 {
                        self.touch(warp, lane, thread, byte as u32, true, size, write)?;
                    }
                } else {
                    self.touch(warp, lane, thread, 4 * word as u32, false, size, write)?;
                }
            }
            return Ok(());
        }
        self.split(first);
        (address..address + size).try_for_each(|byte| self.touch(warp, lane, thread, byte, true, size, write))
    }

    /// Gives a word's bytes their own entries.
    fn split(&mut self, word: usize) {
        if self.bytes.is_empty() {
            self.bytes = vec![FRESH; 4 * self.words.len()];
        }
        let entry = self.words[word];
        if entry.state & SPLIT == 0 {
            self.bytes[4 * word..4 * word + 4].fill(entry);
            self.words[word].state |= SPLIT;
        }
    }

    /// Makes a split word one again if all accesses of its bytes are seen by all, and all are written; whether it did.
    fn join(&mut self, word: usize) -> bool {
        let floor = self.floor;
        let bytes = &self.bytes[4 * word..4 * word + 4];
        let old = |entry: &Entry| {
            entry.state == WRITTEN | entry.state & SPLIT && entry.write_time.max(entry.read_time) < floor
        };
        let joined = bytes.iter().all(old);
        if joined {
            self.words[word] = Entry { state: WRITTEN, writer: bytes[0].writer, ..FRESH };
        }
        joined
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn touch(
        &mut self,
        warp: u32,
        lane: usize,
        thread: u16,
        address: u32,
        by_byte: bool,
        size: u32,
        write: bool,
    ) -> Outcome {
        let row = &self.seen[warp as usize * self.warps..][..self.warps];
        let entry = if by_byte { &mut self.bytes[address as usize] } else { &mut self.words[address as usize / 4] };
        let later = if write { Access::Write } else { Access::Read };
        if entry.state & COPYING != 0 {
            return trouble(lane, FaultKind::UnwaitedCopy { issuer: entry.writer.into() }, Some(address.into()));
        }
        let other = entry.writer != thread && entry.writer != NOBODY;
        if other && entry.write_time >= row[entry.writer as usize / 32] {
            let kind = FaultKind::Race { earlier: Access::Write, later, other_thread: entry.writer.into() };
            return trouble(lane, kind, Some(address.into()));
        }
        if !write {
            if entry.state & WRITTEN == 0 {
                let kind = FaultKind::UninitialisedMemory { space: Space::Shared, size };
                return trouble(lane, kind, Some(address.into()));
            }
            entry.read(thread, warp, self.now);
            return Ok(());
        }
        entry.check_readers(row, thread, warp, lane, address)?;
        *entry = Entry {
            write_time: self.now,
            writer: thread,
            reader: NOBODY,
            readers: 0,
            read_time: 0,
            state: WRITTEN | entry.state & SPLIT,
        };
        Ok(())
    }

    /// An atomic access of a lane: no race with other atomics.
    pub(crate) fn atomic(&mut self, warp: u32, lane: usize, address: u32, size: u32) -> Outcome {
        if size < 4 {
            self.split(address as usize / 4);
        }
        let thread = (warp * 32) as u16 + lane as u16;
        for word in address / 4..(address + size).div_ceil(4) {
            let entry = &mut self.words[word as usize];
            // The writers before may all have been atomics: then this one does not care when they were.
            if entry.state & ATOMIC != 0 && entry.reader == NOBODY {
                entry.write_time = self.now;
                entry.writer = thread;
                continue;
            }
            if entry.state & SPLIT != 0 {
                for byte in 4 * word..4 * word + 4 {
                    self.bytes[byte as usize].state |= WRITTEN;
                }
                continue;
            }
            self.touch(warp, lane, thread, 4 * word, false, size, false)?;
            self.touch(warp, lane, thread, 4 * word, false, size, true)?;
            self.words[word as usize].state |= ATOMIC;
        }
        Ok(())
    }

    /// A `cp.async` is issued.
    pub(crate) fn begin_copy(
        &mut self,
        warp: u32,
        offsets: &[u32; LANES],
        mask: u32,
        size: u32,
        sharing: Sharing,
    ) -> Outcome {
        let at = Moment { warp, now: self.now, floor: self.floors[warp as usize] };
        if sharing == Sharing::Distinct && store_quickly(&mut self.words, at, offsets, mask, size, WRITTEN | COPYING) {
            return Ok(());
        }
        each(mask).try_for_each(|lane| {
            self.access(warp, lane, offsets[lane], size, true)?;
            self.mark(offsets[lane], size, |entry| entry.state |= COPYING);
            Ok(())
        })
    }

    /// Its thread has waited for it: the write is as if made now.
    pub(crate) fn end_copy(&mut self, _warp: u32, _lane: usize, address: u32, size: u32) {
        let now = self.now;
        self.mark(address, size, |entry| {
            entry.state &= !COPYING;
            entry.write_time = now;
        });
    }

    fn mark(&mut self, address: u32, size: u32, f: impl Fn(&mut Entry)) {
        for word in address as usize / 4..(address + size) as usize / 4 {
            f(&mut self.words[word]);
            if self.words[word].state & SPLIT != 0 {
                self.bytes[4 * word..4 * word + 4].iter_mut().for_each(&f);
            }
        }
    }
}

/// When a warp accesses, and up to when it has seen all others' accesses.
#[derive(Clone, Copy)]
struct Moment {
    warp: u32,
    now: u32,
    floor: u32,
}

/// A load of words that were written, all earlier than what the warp has seen. False where there are others: some
/// words may then have been noted as read, which does not change what noting them again makes of them.
#[inline(always)]
fn load_quickly(
    words: &mut [Entry],
    at: Moment,
    offsets: &[u32; LANES],
    mask: u32,
    size: u32,
    sharing: Sharing,
) -> bool {
    let (thread, count) = ((at.warp * 32) as u16, size as usize / 4);
    let mut left = mask;
    while left != 0 {
        let lane = left.trailing_zeros();
        let offset = offsets[lane as usize];
        let lanes = match sharing {
            Sharing::Same => left,
            Sharing::Distinct => 1 << lane,
            Sharing::Mixed => lanes_at(offsets, offset) & left,
        };
        left &= !lanes;
        let Some(entries) = words.get_mut(offset as usize / 4..offset as usize / 4 + count) else { return false };
        for entry in entries {
            if entry.state & !ATOMIC != WRITTEN || entry.write_time >= at.floor {
                return false;
            }
            if lanes.is_power_of_two() {
                entry.read(thread + lane as u16, at.warp, at.now);
            } else {
                (entry.reader, entry.read_time) = (SEVERAL, at.now);
                entry.readers |= 1 << at.warp;
            }
        }
    }
    true
}

/// A store to words of which the warp has seen all accesses. False, and nothing is changed, where there are others.
#[inline(always)]
fn store_quickly(words: &mut [Entry], at: Moment, offsets: &[u32; LANES], mask: u32, size: u32, state: u16) -> bool {
    let (thread, count) = ((at.warp * 32) as u16, size as usize / 4);
    let mut later = 0;
    for lane in each(mask) {
        let first = offsets[lane] as usize / 4;
        let Some(entries) = words.get(first..first + count) else { return false };
        for entry in entries {
            let seen = entry.state & (COPYING | SPLIT) == 0 && entry.write_time.max(entry.read_time) < at.floor;
            later |= u32::from(!seen && entry.state != 0);
        }
    }
    if later != 0 {
        return false;
    }
    for lane in each(mask) {
        let first = offsets[lane] as usize / 4;
        let entry = Entry { write_time: at.now, writer: thread + lane as u16, state, ..FRESH };
        words[first..first + count].fill(entry);
    }
    true
}

impl Entry {
    #[inline(always)]
    fn read(&mut self, thread: u16, warp: u32, now: u32) {
        if self.reader == thread {
            self.read_time = now;
        } else if self.reader == NOBODY {
            (self.reader, self.read_time, self.readers) = (thread, now, 1 << warp);
        } else {
            (self.reader, self.read_time) = (SEVERAL, now);
            self.readers |= 1 << warp;
        }
    }

    /// That a writer has seen all reads.
    #[inline(always)]
    fn check_readers(&self, row: &[u32], thread: u16, warp: u32, lane: usize, address: u32) -> Outcome {
        if self.reader == NOBODY || self.reader == thread {
            return Ok(());
        }
        let other = if self.reader == SEVERAL {
            let unseen = |reader: &usize| self.readers >> reader & 1 != 0 && self.read_time >= row[*reader];
            match (0..row.len()).find(unseen) {
                // Some thread of that warp: which, is not kept.
                Some(reader) => 32 * reader as u32 + u32::from(reader as u32 == warp && lane == 0),
                None => return Ok(()),
            }
        } else if self.read_time >= row[self.reader as usize / 32] {
            self.reader.into()
        } else {
            return Ok(());
        };
        let kind = FaultKind::Race { earlier: Access::Read, later: Access::Write, other_thread: other };
        trouble(lane, kind, Some(address.into()))
    }
}
