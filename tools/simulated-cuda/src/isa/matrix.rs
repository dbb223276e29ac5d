//! Tensor cores: `mma`, `wmma`, `ldmatrix`, `stmatrix`.
//!
//! Products are exact and accumulate in the type of D (f16 in f32, rounded once at the end), in ascending k, beginning
//! with C, each step a fused multiply-add rounded to nearest. The manual asks for "at least single precision" and leaves
//! order and rounding of f32 sums unspecified; hardware sums a few products at a time and truncates, so that its error
//! bound per step is no smaller than this one's. f64 and integers are as the manual specifies them.

use super::{
    fragment::{Shape, layout_of, shape_of, tile_index},
    number::*,
    rounding::canonical,
    *,
};
use crate::machine::{
    matrix_move::MatrixMove,
    registers::{ALL, LANES, Lanes, Registers},
    tile::Tile,
};

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Op>> {
        match opcode {
            "ldmatrix" => Ok(Some(Op::LoadMatrix(self.matrix_move(m, i, 0, 1)?))),
            "stmatrix" => Ok(Some(Op::StoreMatrix(self.matrix_move(m, i, 1, 0)?))),
            "movmatrix" => {
                let (d, a) =
                    (self.target::<u32>(&self.operand(i, 0)?.clone())?, self.source::<u32>(self.operand(i, 1)?)?);
                self.whole_warp(Box::new(move |s, _| {
                    let from = s.r[a as usize].0;
                    let element = |row: usize, col: usize| from[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff;
                    s.r[d as usize].0 = std::array::from_fn(|lane| {
                        let (row, col) = (lane / 4, 2 * (lane % 4));
                        element(col, row) | element(col + 1, row) << 16
                    });
                }))
            }
            "mma" => self.mma(m, i, false),
            "wmma" if m.has("mma") => self.mma(m, i, true),
            "wmma" if m.has("load") => self.tile(m, i, false).map(Some),
            "wmma" if m.has("store") => self.tile(m, i, true).map(Some),
            _ => Ok(None),
        }
    }

    fn whole_warp(&mut self, run: Lanewise) -> Result<Option<Op>> {
        let members = self.pool.constant(ALL);
        Ok(Some(Op::Sync { members, orders: false, run }))
    }

    fn matrix_move(&mut self, m: &Modifiers, i: &Source, data: usize, address: usize) -> Result<MatrixMove> {
        if !m.has("m8n8") || !m.has("b16") {
            return self.unsupported(&i.opcode);
        }
        let (_, address) = self.address(&Modifiers(vec!["shared"]), self.operand(i, address)?.address_parts())?;
        let count = [("x1", 1), ("x2", 2), ("x4", 4)].into_iter().find(|(name, _)| m.has(name)).map_or(1, |(_, n)| n);
        let operands = list(self.operand(i, data)?);
        if operands.len() != count {
            return self.syntax(format!("{count} registers expected"));
        }
        let registers = operands.iter().map(|operand| self.source::<u32>(operand)).collect::<Result<_>>()?;
        Ok(MatrixMove { address, registers, transposed: m.has("trans") })
    }

    fn fragment(&mut self, operand: &Operand, number: Number, index: Vec<u16>) -> Result<Fragment> {
        let operands = list(operand);
        let wide = number == Number::F64;
        let registers = operands.iter().map(|operand| self.source_of(operand, wide)).collect::<Result<Vec<u32>>>()?;
        if registers.len() * number.pack() * LANES != index.len() {
            return self.syntax(format!("{} registers do not hold this fragment", registers.len()));
        }
        Ok(Fragment { registers, number, index })
    }

    fn mma(&mut self, m: &Modifiers, i: &Source, wmma: bool) -> Result<Option<Op>> {
        if m.0.iter().any(|part| part.starts_with("kind") || part.starts_with("sp") || *part == "xor" || *part == "and")
        {
            return self.unsupported(&i.opcode);
        }
        let Some(mut shape) = shape_of(m) else { return self.unsupported(&i.opcode) };
        let types = m.types();
        let [d, a, b, c] = match types[..] {
            [d, a, b, c] => [d, a, b, c],
            // wmma of f16 names D and C alone.
            [d, c] if wmma => [d, Type::F16, Type::F16, c],
            _ => return self.unsupported(&i.opcode),
        };
        let numbers = [d, a, b, c].map(Number::of);
        let [Some(dn), Some(an), Some(bn), Some(cn)] = numbers else { return self.unsupported(&i.opcode) };
        let layouts: Vec<&str> = m.0.iter().copied().filter(|part| matches!(*part, "row" | "col")).collect();
        if !wmma && an == Number::F16 && (shape.m, shape.n, shape.k) == (8, 8, 4) {
            shape.batches = 4;
        }
        let mut fragments = Vec::new();
        for (at, (number, part)) in [(dn, 'd'), (an, 'a'), (bn, 'b'), (cn, 'c')].into_iter().enumerate() {
            let operand = self.operand(i, at)?.clone();
            let index = if wmma {
                tile_index(shape, part, number, list(&operand).len())
            } else {
                match layout_of(shape, part, number, &layouts) {
                    Some(index) => index,
                    None => return self.unsupported(&i.opcode),
                }
            };
            fragments.push(self.fragment(&operand, number, index)?);
        }
        let (Some(c), Some(b), Some(a), Some(d)) = (fragments.pop(), fragments.pop(), fragments.pop(), fragments.pop())
        else {
            return self.unsupported(&i.opcode);
        };
        let saturate = m.has("satfinite");
        let run: Lanewise = match an {
            Number::F64 => Box::new(move |s, _| product::<f64>(s, shape, [&d, &a, &b, &c], |acc| acc)),
            Number::S8 | Number::U8 => Box::new(move |s, _| {
                product::<i64>(s, shape, [&d, &a, &b, &c], |acc| {
                    if saturate { acc.clamp(i32::MIN.into(), i32::MAX.into()) } else { acc }
                });
            }),
            _ => Box::new(move |s, _| product::<f32>(s, shape, [&d, &a, &b, &c], canonical)),
        };
        self.whole_warp(run)
    }

    /// `wmma.load` and `wmma.store`.
    fn tile(&mut self, m: &Modifiers, i: &Source, store: bool) -> Result<Op> {
        let (Some(shape), Some(&kind)) = (shape_of(m), m.types().last()) else { return self.unsupported(&i.opcode) };
        let part = ['a', 'b', 'c', 'd'].into_iter().find(|part| m.has(&part.to_string()));
        let (Some(part), Some(number)) = (part, Number::of(kind)) else { return self.unsupported(&i.opcode) };
        let (address_at, data_at) = if store { (0, 1) } else { (1, 0) };
        let mut spaces = Modifiers(m.0.clone());
        spaces.0.retain(|part| part.starts_with("shared") || *part == "global");
        let (space, address) = self.address(&spaces, self.operand(i, address_at)?.address_parts())?;
        let data = self.operand(i, data_at)?.clone();
        let fragment = self.fragment(&data, number, tile_index(shape, part, number, list(&data).len()))?;
        let (rows, cols) = shape.of(part);
        let row_major = m.has("row");
        let stride = match i.operands.get(2) {
            Some(operand) => self.source::<u32>(&operand.clone())?,
            None => self.pool.constant(if row_major { cols } else { rows } as u32),
        };
        Ok(Op::Tile(Box::new(Tile { store, space, address, fragment, cols, row_major, stride })))
    }
}

fn list(operand: &Operand) -> Vec<Operand> {
    match operand {
        Operand::Vector(all) => all.clone(),
        one => vec![one.clone()],
    }
}

/// A type in which products accumulate.
trait Accumulator: Copy + Default {
    fn of(number: Number, bits: u64) -> Self;
    fn bits(self, number: Number) -> u64;
    fn step(self, a: Self, b: Self) -> Self;
}

impl Accumulator for f32 {
    #[inline(always)]
    fn of(number: Number, bits: u64) -> Self {
        match number {
            Number::F16 => f16_to_f32(bits as u16),
            Number::Bf16 => bf16_to_f32(bits as u16),
            Number::Tf32 => truncate_tf32(bits as u32),
            _ => f32::from_bits(bits as u32),
        }
    }

    #[inline(always)]
    fn bits(self, number: Number) -> u64 {
        match number {
            Number::F16 => f32_to_f16(self).into(),
            _ => self.to_bits().into(),
        }
    }

    #[inline(always)]
    fn step(self, a: Self, b: Self) -> Self {
        a.mul_add(b, self)
    }
}

impl Accumulator for f64 {
    fn of(_: Number, bits: u64) -> Self {
        f64::from_bits(bits)
    }

    fn bits(self, _: Number) -> u64 {
        self.to_bits()
    }

    #[inline(always)]
    fn step(self, a: Self, b: Self) -> Self {
        a.mul_add(b, self)
    }
}

/// Integers: exact in 64 bits, then to 32.
impl Accumulator for i64 {
    fn of(number: Number, bits: u64) -> Self {
        match number {
            Number::S8 => (bits as i8).into(),
            Number::U8 => (bits as u8).into(),
            _ => (bits as i32).into(),
        }
    }

    fn bits(self, _: Number) -> u64 {
        u64::from(self as u32)
    }

    #[inline(always)]
    fn step(self, a: Self, b: Self) -> Self {
        self + a * b
    }
}

/// The most elements of a matrix of any shape, batches together.
const MOST: usize = 512;

/// D = A B + C, of the fragments in a warp's registers.
fn product<T: Accumulator>(s: &mut Registers, shape: Shape, fragments: [&Fragment; 4], finish: impl Fn(T) -> T + Copy) {
    #[inline(always)]
    fn body<T: Accumulator>(
        s: &mut Registers,
        shape: Shape,
        fragments: [&Fragment; 4],
        finish: impl Fn(T) -> T + Copy,
    ) {
        let [d, a_part, b_part, c_part] = fragments;
        let (mut a, mut b, mut c) = ([T::default(); MOST], [T::default(); MOST], [T::default(); MOST]);
        gather(s, a_part, &mut a);
        gather(s, b_part, &mut b);
        gather(s, c_part, &mut c);
        multiply(shape, &a, &b, &mut c);
        scatter(s, d, &c, finish);
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<T: Accumulator>(
            s: &mut Registers,
            shape: Shape,
            parts: [&Fragment; 4],
            finish: impl Fn(T) -> T + Copy,
        ) {
            body(s, shape, parts, finish)
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both.
            return unsafe { wide(s, shape, fragments, finish) };
        }
    }
    body(s, shape, fragments, finish)
}

#[inline(always)]
fn multiply<T: Accumulator>(shape: Shape, a: &[T; MOST], b: &[T; MOST], c: &mut [T; MOST]) {
    let Shape { m, n, k, batches } = shape;
    for batch in 0..batches {
        let (a, b) = (&a[batch * m * k..][..m * k], &b[batch * k * n..][..k * n]);
        let c = &mut c[batch * m * n..][..m * n];
        // Four rows at a time: the sums of one would wait for each other. All shapes have multiples of four.
        for (rows, a) in c.chunks_exact_mut(4 * n).zip(a.chunks_exact(4 * k)) {
            for columns in (0..n).step_by(8) {
                let mut sums: [[T; 8]; 4] =
                    std::array::from_fn(|row| rows[row * n + columns..][..8].try_into().unwrap_or_default());
                for at in 0..k {
                    let b = &b[at * n + columns..][..8];
                    for row in 0..4 {
                        let a = a[row * k + at];
                        for j in 0..8 {
                            sums[row][j] = sums[row][j].step(a, b[j]);
                        }
                    }
                }
                for row in 0..4 {
                    rows[row * n + columns..][..8].copy_from_slice(&sums[row]);
                }
            }
        }
    }
}

#[inline(always)]
fn gather<T: Accumulator>(s: &Registers, fragment: &Fragment, to: &mut [T; MOST]) {
    match fragment.number {
        // Each by itself, so that the conversions are loops of one kind.
        Number::F16 => gather_as(s, fragment, to, |bits| T::of(Number::F16, bits)),
        Number::Bf16 => gather_as(s, fragment, to, |bits| T::of(Number::Bf16, bits)),
        Number::F32 => gather_as(s, fragment, to, |bits| T::of(Number::F32, bits)),
        number => gather_as(s, fragment, to, |bits| T::of(number, bits)),
    }
}

#[inline(always)]
fn gather_as<T: Accumulator>(s: &Registers, fragment: &Fragment, to: &mut [T; MOST], of: impl Fn(u64) -> T) {
    let Fragment { number, registers, index } = fragment;
    let (pack, bits) = (number.pack(), number.bits());
    for (&slot, index) in registers.iter().zip(index.chunks_exact(pack * LANES)) {
        if *number == Number::F64 {
            let Lanes(values) = &s.d[slot as usize];
            index.iter().zip(values).for_each(|(&at, &value)| to[at as usize % MOST] = of(value));
            continue;
        }
        let Lanes(values) = &s.r[slot as usize];
        for part in 0..pack {
            let converted = values.map(|value| of(u64::from(value >> (bits * part as u32))));
            for (lane, value) in converted.into_iter().enumerate() {
                to[index[lane * pack + part] as usize % MOST] = value;
            }
        }
    }
}

#[inline(always)]
fn scatter<T: Accumulator>(s: &mut Registers, fragment: &Fragment, from: &[T; MOST], finish: impl Fn(T) -> T) {
    let Fragment { number, registers, index } = fragment;
    let (pack, bits) = (number.pack(), number.bits());
    let value = |at: u16| finish(from[at as usize % MOST]).bits(*number);
    for (&slot, index) in registers.iter().zip(index.chunks_exact(pack * LANES)) {
        if *number == Number::F64 {
            s.d[slot as usize].0.iter_mut().zip(index).for_each(|(to, &at)| *to = value(at));
            continue;
        }
        for (to, index) in s.r[slot as usize].0.iter_mut().zip(index.chunks_exact(pack)) {
            let parts = index.iter().enumerate();
            *to = parts.fold(0, |word, (part, &at)| word | (value(at) as u32) << (bits * part as u32));
        }
    }
}
