//! What an operation does, as a list of launches and the scratch memory that they need.
//!
//! An operation is a function that is called twice: once to count the scratch, with nothing enqueued, and then, when there is
//! enough, to enqueue. So a call whose shape has been seen allocates nothing, and [`crate::Plan`] tells what a call would do.

use std::sync::PoisonError;

use super::choose::{self, Kernel, ROWS};
use super::driver::Gpu;
use super::launch::{Parameter, launch, set, upload};
use super::memory::Memory;
use super::problem::{
    Address, CONTRACTS, COPIES, Contract, Contracts, Copies, GRAMS, Gram, Grams, Hidden, RowCopy, Type, bytes,
};
use crate::place::Place;
use crate::plan::Launch;
use crate::{Context, Error, Result};

/// Where a call is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(super) gpu: &'static Gpu,
    pub(super) stream: usize,
    pub(super) tf32: bool,
    /// Whether the operands are on the host.
    pub(super) staged: bool,
    pub(super) context: Context,
}

impl Target {
    pub(crate) fn new(context: &Context, ordinal: usize, staged: bool) -> Result<Target> {
        let (stream, tf32) = (context.stream() as usize, context.tf32());
        Ok(Target { gpu: Gpu::get(ordinal)?, stream, tf32, staged, context: *context })
    }

    /// Whether the operands are on the host.
    pub(crate) fn is_staged(&self) -> bool {
        self.staged
    }

    /// Where the operands are.
    pub(crate) fn place(&self) -> Result<Place> {
        if self.staged { Ok(Place::HOST) } else { Place::of(self.gpu.device()) }
    }

    /// Enqueues an operation. The workspace is this call's until all of it is in the stream.
    pub(super) fn run(&self, operation: impl Fn(&mut Recorder<'_>) -> Result<()>) -> Result<()> {
        let mut count = Recorder::new(self);
        operation(&mut count)?;
        let mut workspaces = self.gpu.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        let workspace = workspaces.of(self)?;
        let (scratch, arrived) =
            (workspace.scratch.reserve(self, count.most)?, workspace.arrived.reserve(self, count.arrived)?);
        operation(&mut Recorder { pass: Pass::Enqueue { scratch, arrived }, ..Recorder::new(self) })
    }

    /// What [`run`](Self::run) would launch, and how many bytes of scratch it needs.
    pub(super) fn plan(&self, operation: impl Fn(&mut Recorder<'_>) -> Result<()>) -> Result<(Vec<Launch>, usize)> {
        let mut launches = Vec::new();
        let mut count = Recorder { launches: Some(&mut launches), ..Recorder::new(self) };
        operation(&mut count)?;
        let scratch = count.most + count.arrived;
        Ok((launches, scratch))
    }
}

/// Scratch memory of a device's streams.
#[derive(Debug, Default)]
pub(crate) struct Workspaces(Vec<(usize, Workspace)>);

#[derive(Debug, Default)]
struct Workspace {
    scratch: Grown,
    arrived: Grown,
}

impl Workspaces {
    fn of(&mut self, target: &Target) -> Result<&mut Workspace> {
        let Workspaces(all) = self;
        let place = all.iter().position(|(stream, _)| *stream == target.stream).unwrap_or_else(|| {
            all.push((target.stream, Workspace::default()));
            all.len() - 1
        });
        Ok(&mut all[place].1)
    }
}

/// Memory that grows, zeros at first. Outgrown memory is kept, because graphs that were captured may use it; it at least
/// doubles, so that what is kept is less than what is used.
#[derive(Debug, Default)]
struct Grown(Vec<Memory>);

impl Grown {
    fn reserve(&mut self, target: &Target, bytes: usize) -> Result<Address> {
        let Grown(all) = self;
        let (have, address) = all.last().map_or((0, ALIGNMENT as Address), |last| (last.bytes(), last.address()));
        if have >= bytes {
            return Ok(address);
        }
        let more = Memory::on(target.gpu, bytes.max(2 * have).max(LEAST)).or_else(|_| Memory::on(target.gpu, bytes))?;
        more.clear()?;
        let address = more.address();
        all.push(more);
        Ok(address)
    }
}

/// Of the first scratch of a stream.
const LEAST: usize = 64 << 10;
/// Of what a call takes from it.
const ALIGNMENT: usize = 256;

#[derive(Clone, Copy, Debug)]
enum Pass {
    Count,
    Enqueue { scratch: Address, arrived: Address },
}

/// An operation being recorded.
pub(super) struct Recorder<'a> {
    pub(super) target: &'a Target,
    pass: Pass,
    used: usize,
    most: usize,
    /// Bytes of counters.
    arrived: usize,
    launches: Option<&'a mut Vec<Launch>>,
}

impl<'a> Recorder<'a> {
    fn new(target: &'a Target) -> Self {
        Recorder { target, pass: Pass::Count, used: 0, most: 0, arrived: 0, launches: None }
    }

    /// Scratch for so many elements, until the operation ends or [`release`](Self::release)s it.
    pub(super) fn scratch(&mut self, lengths: &[usize], kind: Type) -> Result<Address> {
        let too_large = Error::TooLarge { what: "scratch memory" };
        let bytes = lengths.iter().try_fold(bytes(kind), |bytes, &len| bytes.checked_mul(len));
        let bytes = bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT)).ok_or(too_large.clone())?;
        let first = self.used;
        self.used = first.checked_add(bytes).filter(|&used| used <= isize::MAX as usize).ok_or(too_large)?;
        self.most = self.most.max(self.used);
        Ok(match self.pass {
            Pass::Count => (ALIGNMENT + first) as Address,
            Pass::Enqueue { scratch, .. } => scratch + first as Address,
        })
    }

    /// Scratch with one element, which is 1 or another value that the type has.
    pub(super) fn scalar(&mut self, value: f64, kind: Type) -> Result<Address> {
        let address = self.scratch(&[1], kind)?;
        if let Pass::Enqueue { .. } = self.pass {
            set(self.target, address, value, kind)?;
        }
        Ok(address)
    }

    pub(super) fn mark(&self) -> usize {
        self.used
    }

    /// Scratch taken since the mark may be used again by what is enqueued later.
    pub(super) fn release(&mut self, mark: usize) {
        self.used = mark;
    }

    /// Contractions, at once as far as one launch takes them.
    pub(super) fn contract(&mut self, problems: &[Contract]) -> Result<()> {
        let mut all = Contracts::default();
        for problem in problems.iter().filter(|p| p.n > 0 && p.lanes > 0 && p.batches > 0) {
            if all.count as usize == CONTRACTS {
                self.contracts(std::mem::take(&mut all))?;
            }
            all.problem[all.count as usize] = *problem;
            all.count += 1;
        }
        if all.count > 0 { self.contracts(all) } else { Ok(()) }
    }

    fn contracts(&mut self, mut all: Contracts) -> Result<()> {
        let mark = self.mark();
        let count = all.count as usize;
        let kernel = choose::contract(self.target, &mut all.problem[..count])?;
        let (mut blocks, mut counters, mut depth) = (0i64, 0, 0);
        for (problem, sum) in all.problem[..count].iter_mut().zip(&mut all.blocks) {
            let tiles = choose::tiles([problem.batches, problem.n, problem.lanes], [kernel.tile[0], kernel.tile[1]])?;
            self.split(kernel, problem.splits, tiles, &mut counters, [&mut problem.partial, &mut problem.arrived])?;
            blocks += tiles.saturating_mul(i64::from(problem.splits));
            *sum = blocks;
            depth = depth.max(problem.resident as u32);
        }
        self.launch(kernel, blocks, depth, &all)?;
        self.release(mark);
        Ok(())
    }

    /// Sums over the batch, at once as far as one launch takes them.
    pub(super) fn gram(&mut self, problems: &[Gram]) -> Result<()> {
        let mut all = Grams::default();
        for problem in problems.iter().filter(|p| p.k > 0 && p.i > 0 && p.j > 0 && p.batches > 0) {
            if all.count as usize == GRAMS {
                self.grams(std::mem::take(&mut all))?;
            }
            all.problem[all.count as usize] = *problem;
            all.count += 1;
        }
        if all.count > 0 { self.grams(all) } else { Ok(()) }
    }

    fn grams(&mut self, mut all: Grams) -> Result<()> {
        let mark = self.mark();
        let count = all.count as usize;
        let kernel = choose::gram(self.target, &mut all.problem[..count])?;
        let (mut blocks, mut counters) = (0i64, 0);
        for (problem, sum) in all.problem[..count].iter_mut().zip(&mut all.blocks) {
            let rows = problem.k.saturating_mul(problem.i);
            let tiles = choose::tiles([problem.batches, rows, problem.j], [kernel.tile[0], kernel.tile[1]])?;
            self.split(kernel, problem.splits, tiles, &mut counters, [&mut problem.partial, &mut problem.arrived])?;
            blocks += tiles.saturating_mul(i64::from(problem.splits));
            *sum = blocks;
        }
        self.launch(kernel, blocks, 0, &all)?;
        self.release(mark);
        Ok(())
    }

    /// The hidden layer of CP.
    pub(super) fn hidden(&mut self, problem: &Hidden) -> Result<()> {
        if problem.n == 0 || problem.r == 0 {
            return Ok(());
        }
        let kernel = choose::hidden(self.target, problem);
        let blocks = choose::tiles([1, problem.n, problem.r], [kernel.tile[0], kernel.tile[1]])?;
        self.launch(kernel, blocks, 0, problem)
    }

    /// Copies of rows, at most `COPIES`, in one launch.
    pub(super) fn copy(&mut self, copies: &[RowCopy]) -> Result<()> {
        let mut all = Copies::default();
        let mut blocks = 0i64;
        for copy in copies.iter().filter(|copy| copy.n > 0 && copy.columns > 0).take(COPIES) {
            blocks += choose::tiles([1, copy.n, copy.columns], [ROWS.tile[0], ROWS.tile[1]])?;
            all.copy[all.count as usize] = *copy;
            all.blocks[all.count as usize] = blocks;
            all.count += 1;
        }
        if all.count > 0 { self.launch(&ROWS, blocks, 0, &all) } else { Ok(()) }
    }

    /// Scratch with numbers of the host.
    pub(super) fn numbers(&mut self, numbers: &[u64]) -> Result<Address> {
        let address = self.scratch(&[numbers.len()], Type::F64)?;
        if let Pass::Enqueue { .. } = self.pass {
            upload(self.target, numbers, address)?;
        }
        Ok(address)
    }

    /// The memory in which the blocks of a tile leave their sums and count their arrivals.
    fn split(
        &mut self,
        kernel: &Kernel,
        splits: i32,
        tiles: i64,
        counters: &mut usize,
        [partial, arrived]: [&mut Address; 2],
    ) -> Result<()> {
        if splits <= 1 {
            return Ok(());
        }
        let [rows, lanes, _] = kernel.tile.map(|len| len as usize);
        let kind = if kernel.accumulator == 8 { Type::F64 } else { Type::F32 };
        *partial = self.scratch(&[splits as usize, tiles as usize, rows, lanes], kind)?;
        *arrived = match self.pass {
            Pass::Count => 0,
            Pass::Enqueue { arrived, .. } => arrived + *counters as Address,
        };
        *counters += tiles as usize * size_of::<u32>();
        self.arrived = self.arrived.max(*counters);
        Ok(())
    }

    pub(super) fn launch<P: Parameter>(
        &mut self,
        kernel: &'static Kernel,
        blocks: i64,
        depth: u32,
        parameter: &P,
    ) -> Result<()> {
        let blocks = u32::try_from(blocks).ok().filter(|&blocks| blocks <= i32::MAX as u32);
        let blocks = blocks.ok_or(Error::TooLarge { what: "the number of a launch's blocks" })?;
        let shared = kernel.shared(depth);
        if let Some(launches) = &mut self.launches {
            launches.push(Launch { kernel: kernel.name, blocks, threads: kernel.threads, shared });
        }
        let Pass::Enqueue { .. } = self.pass else { return Ok(()) };
        // SAFETY: the addresses are those of views, which reach only their memory, and of scratch as long as was counted; the
        // callers of `Context::with_stream` and of `View::from_device` keep the stream and the memory of others alive.
        unsafe { launch(self.target.gpu, self.target.stream, kernel, blocks, shared, parameter) }
    }
}
