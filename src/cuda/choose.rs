//! Which kernel, in how many blocks: a function of the shapes, the types and the device's number of multiprocessors alone, so
//! that the same call gives the same bits each time.

use super::problem::{Contract, Gram, Hidden, Segment, Type, bytes};
use super::recorder::Target;
use crate::{Error, Result};

/// An entry of a module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) module: &'static str,
    /// Rows, lanes and depth of a block's tile.
    pub(super) tile: [u32; 3],
    pub(super) threads: u32,
    /// Blocks that a multiprocessor has at once.
    pub(super) resident: u32,
    /// Bytes of dynamic shared memory: of the fixed part, and of each BK of depth of the rows' operand; and of how many BK there
    /// is room at least.
    pub(super) shared: [u32; 3],
    /// Bytes of an accumulator.
    pub(super) accumulator: u32,
}

/// What kernels have besides, and the driver for each block.
const STATIC: u32 = 2 << 10;

impl Kernel {
    /// Shared memory of a block that keeps `depth` of its rows' operand.
    pub(super) fn shared(&self, depth: u32) -> u32 {
        self.shared[0] + self.shared[1] * (depth / self.tile[2]).max(self.shared[2])
    }

    /// The largest that it may be asked for on a device whose blocks may have `limit`, so that several still find room.
    pub(super) fn most_shared(&self, limit: u32) -> u32 {
        let share = (limit / self.resident).saturating_sub(STATIC);
        share.max(self.shared(0)).min(limit.saturating_sub(STATIC))
    }

    /// The depth, a multiple of BK, that may stay.
    fn keeps(&self, limit: u32) -> u32 {
        let room = self.most_shared(limit).saturating_sub(self.shared[0]);
        room.checked_div(self.shared[1]).unwrap_or(0) * self.tile[2]
    }
}

pub(super) const fn kernel(
    name: &'static str,
    module: &'static str,
    tile: [u32; 3],
    [threads, resident]: [u32; 2],
    shared: [u32; 3],
    accumulator: u32,
) -> Kernel {
    Kernel { name, module, tile, threads, resident, shared, accumulator }
}

/// Of each family, from few rows to many.
static CONTRACT_F32: [Kernel; 2] = [
    kernel("contract_f32_16x128x32", "contract_f32", [16, 128, 32], [128, 3], [34_048, 2_048, 2], 4),
    kernel("contract_f32_128x128x16", "contract_f32", [128, 128, 16], [256, 1], [24_832, 8_192, 2], 4),
];
/// On tensor cores.
static CONTRACT_F16: [Kernel; 1] =
    [kernel("contract_f16_128x128x32_sm80", "contract_f16_sm80", [128, 128, 32], [256, 1], [41_216, 8_192, 4], 4)];
static CONTRACT_F16_75: [Kernel; 1] =
    [kernel("contract_f16_128x128x32", "contract_f16", [128, 128, 32], [256, 1], [24_832, 8_192, 2], 4)];
static CONTRACT_BF16: [Kernel; 1] =
    [kernel("contract_bf16_128x128x32_sm80", "contract_bf16_sm80", [128, 128, 32], [256, 1], [41_216, 8_192, 4], 4)];
static CONTRACT_TF32: [Kernel; 1] =
    [kernel("contract_tf32_128x128x16_sm80", "contract_tf32_sm80", [128, 128, 16], [256, 1], [41_216, 8_192, 4], 4)];
/// f32 with f16 or bf16.
static CONTRACT_TF32X2: [Kernel; 1] =
    [kernel("contract_tf32x2_128x128x16_sm80", "contract_tf32x2_sm80", [128, 128, 16], [256, 1], [49_152, 0, 0], 4)];
static CONTRACT_F64: [Kernel; 1] =
    [kernel("contract_f64_64x64x16", "contract_f64", [64, 64, 16], [256, 2], [24_832, 8_192, 2], 8)];
static GRAM_F32: [Kernel; 1] = [kernel("gram_f32_128x128x16", "gram_f32", [128, 128, 16], [256, 1], [32_768, 0, 0], 4)];
static GRAM_F16: [Kernel; 1] =
    [kernel("gram_f16_128x128x16_sm80", "gram_f16_sm80", [128, 128, 16], [256, 1], [49_152, 0, 0], 4)];
static GRAM_BF16: [Kernel; 1] =
    [kernel("gram_bf16_128x128x32_sm80", "gram_bf16_sm80", [128, 128, 32], [256, 1], [49_152, 0, 0], 4)];
static GRAM_TF32: [Kernel; 1] =
    [kernel("gram_tf32_128x128x16_sm80", "gram_tf32_sm80", [128, 128, 16], [256, 1], [32_768, 0, 0], 4)];
/// f16 or bf16 with f32.
static GRAM_TF32X2: [Kernel; 1] =
    [kernel("gram_tf32x2_128x128x16_sm80", "gram_tf32x2_sm80", [128, 128, 16], [256, 1], [49_152, 0, 0], 4)];
static GRAM_F64: [Kernel; 1] = [kernel("gram_f64_64x64x16", "gram_f64", [64, 64, 16], [256, 2], [32_768, 0, 0], 8)];
/// Forward, and for gradients.
static HIDDEN_F32: [Kernel; 2] = [
    kernel("hidden_f32_64x64x16", "hidden_f32", [64, 64, 16], [128, 3], [16_384, 0, 0], 4),
    kernel("dhidden_f32_64x64x16", "hidden_f32", [64, 64, 16], [128, 2], [16_384, 0, 0], 4),
];
static HIDDEN_F64: [Kernel; 2] = [
    kernel("hidden_f64_32x64x16", "hidden_f64", [32, 64, 16], [128, 2], [24_576, 0, 0], 8),
    kernel("dhidden_f64_32x64x16", "hidden_f64", [32, 64, 16], [128, 2], [24_576, 0, 0], 8),
];
static HIDDEN_F16: [Kernel; 2] = [
    kernel("hidden_f16_128x64x32_sm80", "hidden_f16_sm80", [128, 64, 32], [256, 2], [49_152, 0, 0], 4),
    kernel("dhidden_f16_128x64x32_sm80", "hidden_f16_sm80", [128, 64, 32], [256, 1], [49_152, 0, 0], 4),
];
static HIDDEN_F16_75: [Kernel; 2] = [
    kernel("hidden_f16_128x64x32", "hidden_f16", [128, 64, 32], [256, 1], [24_576, 0, 0], 4),
    kernel("dhidden_f16_128x64x32", "hidden_f16", [128, 64, 32], [256, 1], [24_576, 0, 0], 4),
];
static HIDDEN_BF16: [Kernel; 2] = [
    kernel("hidden_bf16_128x64x32_sm80", "hidden_bf16_sm80", [128, 64, 32], [256, 2], [49_152, 0, 0], 4),
    kernel("dhidden_bf16_128x64x32_sm80", "hidden_bf16_sm80", [128, 64, 32], [256, 1], [49_152, 0, 0], 4),
];
static HIDDEN_TF32: [Kernel; 2] = [
    kernel("hidden_tf32_128x64x16_sm80", "hidden_tf32_sm80", [128, 64, 16], [256, 2], [49_152, 0, 0], 4),
    kernel("dhidden_tf32_128x64x16_sm80", "hidden_tf32_sm80", [128, 64, 16], [256, 1], [49_152, 0, 0], 4),
];

/// The kernel that copies rows.
pub(super) static ROWS: Kernel = kernel("rows_copy_8x1024x1", "rows", [8, 1024, 1], [256, 4], [0, 0, 0], 4);

/// Tiles of so many problems of rows × lanes. Errors: [`Error::TooLarge`].
pub(super) fn tiles([batches, rows, lanes]: [i64; 3], [tile_rows, tile_lanes]: [u32; 2]) -> Result<i64> {
    let count =
        |len: i64, tile: u32| i128::from(len).div_euclid(i128::from(tile)) + i128::from(len % i64::from(tile) > 0);
    let all = i128::from(batches).saturating_mul(count(rows, tile_rows).saturating_mul(count(lanes, tile_lanes)));
    i64::try_from(all).ok().filter(|&all| all <= i64::from(i32::MAX)).ok_or(Error::TooLarge { what: "a result" })
}

/// The first kernel whose tile has room for the rows, or the last.
fn for_rows(kernels: &'static [Kernel], rows: i64) -> &'static Kernel {
    let fits = kernels.iter().find(|kernel| i64::from(kernel.tile[0]) >= rows);
    fits.unwrap_or(&kernels[kernels.len() - 1])
}

/// Bytes that a tile moves.
#[derive(Clone, Copy)]
struct Traffic {
    /// At the least: its operands and its results.
    least: i128,
    /// What each part reads again where the depth is cut.
    again: i128,
}

/// In how many parts the depth is cut, so that all multiprocessors have work. Each part leaves its sums, the last reads those of the
/// others, and all read the rows' operand that is the same in each slice. Parts that keep this within 15% of the least are enough
/// where more than half of the multiprocessors then have a block. Fewer blocks are cut further, for time counts more than bytes that
/// the last cache holds: of 108 multiprocessors 8 tiles in two parts would use 16. There the sums may be an eighth of what a
/// part reads, in elements.
fn splits(target: &Target, kernel: &Kernel, tiles: i64, depth: i64, Traffic { least, again }: Traffic) -> i32 {
    let processors = i64::from(target.gpu.processors);
    let room = processors * i64::from(kernel.resident);
    if 2 * tiles > room {
        return 1;
    }
    let sums = i128::from(kernel.tile[0] * kernel.tile[1] * kernel.accumulator);
    // The most for which (2·parts − 1)·sums + (parts − 1)·again are within it.
    let cheap = ((least * 3 / 20 + sums + again) / (2 * sums + again)).clamp(1, 1 << 12) as i64;
    let shortest = 8 * i64::from(kernel.tile[0].max(kernel.tile[2]));
    let most = if 2 * tiles * cheap > processors { cheap } else { cheap.max(depth / shortest) };
    (room / tiles.max(1)).min(most).clamp(1, 1 << 12) as i32
}

/// At most so many rows are computed by the general cores: they are bound by the reading of W, and tensor cores' tiles have 128.
const FEW: i64 = 16;

/// Where multiplying f32 by f16 or bf16 in two parts of tf32 is faster than FFMA: on devices for data centres, whose tensor
/// cores multiply tf32 eight times as fast. Others' are as fast as FFMA, or twice (NVIDIA's data sheets).
const TF32X2: [(u32, u32); 4] = [(8, 0), (9, 0), (10, 0), (10, 3)];

/// The kernels that compute in what the operands are: on tensor cores where w and q of all segments are of one type that these
/// multiply exactly, or w is and q is that or f32 (CP's hidden layer), or in tf32 where that is allowed.
fn contractions(target: &Target, problems: &[Contract], rows: i64) -> &'static [Kernel] {
    if problems.iter().any(|p| p.out_type == Type::F64) {
        return &CONTRACT_F64;
    }
    let segments = || problems.iter().flat_map(|p| &p.segment[..p.segments as usize]);
    let all = |kind| segments().all(|s| s.w_type == kind && s.q_type == kind);
    let ampere = target.gpu.capability >= (8, 0);
    if rows <= FEW || segments().next().is_none() {
        &CONTRACT_F32
    } else if all(Type::F16) {
        if ampere { &CONTRACT_F16 } else { &CONTRACT_F16_75 }
    } else if ampere && all(Type::Bf16) {
        &CONTRACT_BF16
    } else if ampere && target.tf32 && all(Type::F32) {
        &CONTRACT_TF32
    } else if TF32X2.contains(&target.gpu.capability) && segments().all(in_two_parts) {
        &CONTRACT_TF32X2
    } else {
        &CONTRACT_F32
    }
}

/// What kernels/contract_split.cuh takes.
fn in_two_parts(s: &Segment) -> bool {
    s.slices == 1 && s.p == 0 && is_narrow(s.w_type) && (s.q_type == Type::F32 || is_narrow(s.q_type))
}

fn is_narrow(kind: Type) -> bool {
    matches!(kind, Type::F16 | Type::Bf16)
}

/// The kernel for contractions of one launch, whose `splits` and `resident` are set.
pub(super) fn contract(target: &Target, problems: &mut [Contract]) -> Result<&'static Kernel> {
    let rows = problems.iter().map(|p| p.n).max().unwrap_or(0);
    let kernel = for_rows(contractions(target, problems, rows), rows);
    let keeps = i64::from(kernel.keeps(target.gpu.shared));
    let mut all = 0;
    for p in problems.iter() {
        all += tiles([p.batches, p.n, p.lanes], [kernel.tile[0], kernel.tile[1]])?;
    }
    // One depth for all, because one launch has one size of shared memory.
    let kept = |p: &Contract| {
        let segments = p.segment[..p.segments as usize].iter();
        let depths = segments.filter(|s| s.q_b == 0 && s.slices > 1).map(|s| round_up(s.depth, kernel.tile[2]));
        depths.filter(|&depth| depth <= keeps).max().unwrap_or(0)
    };
    // The kernels count the slices and the steps of a segment in 32 bits.
    for segment in problems.iter().flat_map(|p| &p.segment[..p.segments as usize]) {
        if segment.slices.max(segment.depth / i64::from(kernel.tile[2])) >= i64::from(i32::MAX) {
            return Err(Error::TooLarge { what: "the depth of a sum" });
        }
    }
    let resident = problems.iter().map(kept).max().unwrap_or(0) as i32;
    for p in problems {
        let segments = p.segment[..p.segments as usize].iter();
        let depth =
            segments.map(|s| s.slices.saturating_mul(round_up(s.depth, kernel.tile[2]))).fold(0, i64::saturating_add);
        (p.splits, p.resident) = (splits(target, kernel, all, depth, contract_traffic(kernel, p)), resident);
    }
    Ok(kernel)
}

/// Lengths of a tile within a result of rows × lanes.
fn within(kernel: &Kernel, rows: i64, lanes: i64) -> [i128; 2] {
    [rows.min(i64::from(kernel.tile[0])), lanes.min(i64::from(kernel.tile[1]))].map(i128::from)
}

fn size(kind: Type) -> i128 {
    bytes(kind) as i128
}

fn contract_traffic(kernel: &Kernel, p: &Contract) -> Traffic {
    let [rows, lanes] = within(kernel, p.n, p.lanes);
    let mut all = Traffic { least: rows * lanes * size(p.out_type), again: 0 };
    for s in &p.segment[..p.segments as usize] {
        let (slices, depth) = (i128::from(s.slices), i128::from(s.depth));
        let same = s.q_b == 0 && s.slices > 1;
        let q = rows * depth * size(s.q_type) * if same { 1 } else { slices };
        let scales = if s.p == 0 { 0 } else { rows * slices * size(s.p_type) };
        all.least += lanes * slices * depth * size(s.w_type) + q + scales;
        all.again += if same { q } else { 0 };
    }
    all
}

fn gram_traffic(kernel: &Kernel, p: &Gram) -> Traffic {
    let [rows, lanes] = within(kernel, p.k.saturating_mul(p.i), p.j);
    let [n, i] = [p.n, p.i].map(i128::from);
    let operand = |address, length, kind| if address == 0 { 0 } else { n * length * size(kind) };
    // A tile's rows are along i first.
    let operands = [
        operand(p.s, (rows + i - 1) / i.max(1), p.s_type),
        operand(p.p, rows.min(i), p.p_type),
        operand(p.q, lanes, p.q_type),
    ];
    Traffic { least: rows * lanes * size(p.out_type) + operands.iter().sum::<i128>(), again: 0 }
}

fn round_up(len: i64, to: u32) -> i64 {
    let to = i64::from(to);
    (len + to - 1) / to * to
}

/// Those for sums over the batch, by the same rule.
fn sums(target: &Target, problems: &[Gram]) -> &'static [Kernel] {
    if problems.iter().any(|p| p.out_type == Type::F64) {
        return &GRAM_F64;
    }
    let operands = problems.iter().flat_map(|p| [(p.s, p.s_type), (p.p, p.p_type), (p.q, p.q_type)]);
    let all = |kind| operands.clone().all(|(address, of)| address == 0 || of == kind);
    if target.gpu.capability < (8, 0) {
        &GRAM_F32
    } else if all(Type::F16) {
        &GRAM_F16
    } else if all(Type::Bf16) {
        &GRAM_BF16
    } else if target.tf32 && all(Type::F32) {
        &GRAM_TF32
    } else if TF32X2.contains(&target.gpu.capability) && are_in_two_parts(problems) {
        &GRAM_TF32X2
    } else {
        &GRAM_F32
    }
}

/// What kernels/gram_split.cuh takes: with products, not sums of q alone.
fn are_in_two_parts(problems: &[Gram]) -> bool {
    let takes =
        |p: &Gram| p.p == 0 && (p.s == 0 || is_narrow(p.s_type)) && (p.q_type == Type::F32 || is_narrow(p.q_type));
    problems.iter().all(takes) && problems.iter().any(|p| p.s != 0)
}

/// The kernel for sums over the batch of one launch, whose `splits` are set.
pub(super) fn gram(target: &Target, problems: &mut [Gram]) -> Result<&'static Kernel> {
    let kernel = &sums(target, problems)[0];
    let mut all = 0;
    for p in problems.iter() {
        all += tiles([p.batches, p.k.saturating_mul(p.i), p.j], [kernel.tile[0], kernel.tile[1]])?;
    }
    for p in problems {
        p.splits = splits(target, kernel, all, p.n, gram_traffic(kernel, p));
    }
    Ok(kernel)
}

/// The kernel for a hidden layer, by the same rule: of the projections that are not there yet.
pub(super) fn hidden(target: &Target, problem: &Hidden) -> &'static Kernel {
    &hidden_layers(target, problem)[usize::from(problem.d.q != 0)]
}

fn hidden_layers(target: &Target, problem: &Hidden) -> &'static [Kernel; 2] {
    let needed = [&problem.p, &problem.q, &problem.d].into_iter().filter(|p| p.q != 0);
    if needed.clone().any(|p| p.q_type == Type::F64) {
        return &HIDDEN_F64;
    }
    let projections = needed.filter(|p| p.w != 0);
    let all = |kind| projections.clone().all(|p| p.q_type == kind && p.w_type == kind);
    let ampere = target.gpu.capability >= (8, 0);
    if problem.n <= FEW || projections.clone().next().is_none() {
        &HIDDEN_F32
    } else if all(Type::F16) {
        if ampere { &HIDDEN_F16 } else { &HIDDEN_F16_75 }
    } else if ampere && all(Type::Bf16) {
        &HIDDEN_BF16
    } else if ampere && target.tf32 && all(Type::F32) {
        &HIDDEN_TF32
    } else {
        &HIDDEN_F32
    }
}
