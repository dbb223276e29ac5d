//! A warp's registers, and loops over its lanes.
//!
//! Every register is an array with a slot for each of the 32 lanes, so that an instruction is one loop over arrays,
//! which the compiler vectorises. Registers of up to 32 bits, of 64 bits and predicates are apart; constants and
//! special registers are slots like any other. What an instruction computes is a closure over its slots.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// All lanes.
pub(crate) const ALL: u32 = u32::MAX;

#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes<T>(pub(crate) [T; LANES]);

/// The registers of one warp.
#[derive(Clone)]
pub(crate) struct Registers {
    /// Up to 32 bits; 8 and 16 bits are zero-extended.
    pub(crate) r: Box<[Lanes<u32>]>,
    /// 64 bits.
    pub(crate) d: Box<[Lanes<u64>]>,
    /// Predicates, a bit per lane.
    pub(crate) p: Box<[u32]>,
}

/// What an instruction does to the lanes of a mask.
pub(crate) type Lanewise = Box<dyn Fn(&mut Registers, u32) + Send + Sync>;

/// A value of a lane as arithmetic sees it.
pub(crate) trait Value: Copy + 'static {
    /// As the register file holds it.
    type Raw: Copy + Default + 'static;
    /// Whether that is the 64-bit part.
    const WIDE: bool;
    fn file(registers: &Registers) -> &[Lanes<Self::Raw>];
    fn file_mut(registers: &mut Registers) -> &mut [Lanes<Self::Raw>];
    fn of(raw: Self::Raw) -> Self;
    fn raw(self) -> Self::Raw;
}

macro_rules! value {
    ($type:ty, $raw:ty, $wide:expr, $file:ident, |$from:ident| $of:expr, |$to:ident| $into:expr) => {
        impl Value for $type {
            type Raw = $raw;
            const WIDE: bool = $wide;
            #[inline(always)]
            fn file(registers: &Registers) -> &[Lanes<$raw>] {
                &registers.$file
            }
            #[inline(always)]
            fn file_mut(registers: &mut Registers) -> &mut [Lanes<$raw>] {
                &mut registers.$file
            }
            #[inline(always)]
            fn of($from: $raw) -> Self {
                $of
            }
            #[inline(always)]
            fn raw(self) -> $raw {
                let $to = self;
                $into
            }
        }
    };
}

value!(u16, u32, false, r, |x| x as u16, |x| u32::from(x));
value!(i16, u32, false, r, |x| x as i16, |x| u32::from(x as u16));
value!(u32, u32, false, r, |x| x, |x| x);
value!(i32, u32, false, r, |x| x as i32, |x| x as u32);
value!(f32, u32, false, r, |x| f32::from_bits(x), |x| x.to_bits());
value!(u64, u64, true, d, |x| x, |x| x);
value!(i64, u64, true, d, |x| x as i64, |x| x as u64);
value!(f64, u64, true, d, |x| f64::from_bits(x), |x| x.to_bits());

#[inline(always)]
pub(crate) fn blend<T: Copy>(to: &mut [T; LANES], from: &[T; LANES], mask: u32) {
    if mask == ALL {
        *to = *from;
    } else {
        for lane in 0..LANES {
            to[lane] = if mask >> lane & 1 != 0 { from[lane] } else { to[lane] };
        }
    }
}

#[inline(always)]
fn lanes<V: Value>(registers: &Registers, slot: u32) -> &[V::Raw; LANES] {
    &V::file(registers)[slot as usize].0
}

#[inline(always)]
fn write<V: Value>(registers: &mut Registers, slot: u32, out: &[V::Raw; LANES], mask: u32) {
    blend(&mut V::file_mut(registers)[slot as usize].0, out, mask);
}

#[inline(always)]
pub(crate) fn write_predicate(registers: &mut Registers, slot: u32, bits: u32, mask: u32) {
    let to = &mut registers.p[slot as usize];
    *to = *to & !mask | bits & mask;
}

/// A maker of instructions. The loop is compiled twice, once for AVX2 with FMA, and chosen by what the processor has:
/// `f32::mul_add` is one instruction there and elsewhere a call, with the same result.
macro_rules! shape {
    ($(#[$meta:meta])* $name:ident<$($t:ident),*>($($slot:ident),*) [$($bound:tt)*] |$s:ident, $m:ident, $f:ident| $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name<$($t: Value),*>($($slot: u32,)* f: impl $($bound)* + Send + Sync + 'static) -> Lanewise {
            #[inline(always)]
            fn body<$($t: Value,)* F: $($bound)*>($s: &mut Registers, $m: u32, $($slot: u32,)* $f: &F) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn wide<$($t: Value,)* F: $($bound)*>(s: &mut Registers, m: u32, $($slot: u32,)* f: &F) {
                body::<$($t,)* F>(s, m, $($slot,)* f)
            }
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has both.
                return Box::new(move |s, m| unsafe { wide::<$($t,)* _>(s, m, $($slot,)* &f) });
            }
            Box::new(move |s, m| body::<$($t,)* _>(s, m, $($slot,)* &f))
        }
    };
}

shape! {
    /// One operand.
    unary<A, D>(d, a) [Fn(A) -> D] |s, m, f| {
        let mut out = [D::Raw::default(); LANES];
        let a = lanes::<A>(s, a);
        for i in 0..LANES {
            out[i] = f(A::of(a[i])).raw();
        }
        write::<D>(s, d, &out, m);
    }
}

shape! {
    /// Two operands.
    binary<A, B, D>(d, a, b) [Fn(A, B) -> D] |s, m, f| {
        let mut out = [D::Raw::default(); LANES];
        let (a, b) = (lanes::<A>(s, a), lanes::<B>(s, b));
        for i in 0..LANES {
            out[i] = f(A::of(a[i]), B::of(b[i])).raw();
        }
        write::<D>(s, d, &out, m);
    }
}

shape! {
    /// Three operands.
    ternary<A, B, C, D>(d, a, b, c) [Fn(A, B, C) -> D] |s, m, f| {
        let mut out = [D::Raw::default(); LANES];
        let (a, b, c) = (lanes::<A>(s, a), lanes::<B>(s, b), lanes::<C>(s, c));
        for i in 0..LANES {
            out[i] = f(A::of(a[i]), B::of(b[i]), C::of(c[i])).raw();
        }
        write::<D>(s, d, &out, m);
    }
}

shape! {
    /// Four operands.
    quaternary<A, B, C, E, D>(d, a, b, c, e) [Fn(A, B, C, E) -> D] |s, m, f| {
        let mut out = [D::Raw::default(); LANES];
        let (a, b, c, e) = (lanes::<A>(s, a), lanes::<B>(s, b), lanes::<C>(s, c), lanes::<E>(s, e));
        for i in 0..LANES {
            out[i] = f(A::of(a[i]), B::of(b[i]), C::of(c[i]), E::of(e[i])).raw();
        }
        write::<D>(s, d, &out, m);
    }
}

shape! {
    /// Two operands and a predicate, by its slot and a mask to flip it.
    select<A, B, D>(d, a, b, p, flip) [Fn(A, B, bool) -> D] |s, m, f| {
        let mut out = [D::Raw::default(); LANES];
        let (a, b, p) = (lanes::<A>(s, a), lanes::<B>(s, b), s.p[p as usize] ^ flip);
        for i in 0..LANES {
            out[i] = f(A::of(a[i]), B::of(b[i]), p >> i & 1 != 0).raw();
        }
        write::<D>(s, d, &out, m);
    }
}

shape! {
    /// One operand to a predicate.
    test<A>(p, a) [Fn(A) -> bool] |s, m, f| {
        let (mut bits, a) = (0, lanes::<A>(s, a));
        for i in 0..LANES {
            bits |= u32::from(f(A::of(a[i]))) << i;
        }
        write_predicate(s, p, bits, m);
    }
}

shape! {
    /// Two operands to a predicate.
    compare<A, B>(p, a, b) [Fn(A, B) -> bool] |s, m, f| {
        let (mut bits, a, b) = (0, lanes::<A>(s, a), lanes::<B>(s, b));
        for i in 0..LANES {
            bits |= u32::from(f(A::of(a[i]), B::of(b[i]))) << i;
        }
        write_predicate(s, p, bits, m);
    }
}

/// Predicates to a predicate, bit by bit.
pub(crate) fn predicate(p: u32, f: impl Fn(&[u32]) -> u32 + Send + Sync + 'static) -> Lanewise {
    Box::new(move |s, m| {
        let bits = f(&s.p);
        write_predicate(s, p, bits, m);
    })
}

impl Registers {
    pub(crate) fn new(r: usize, d: usize, p: usize) -> Self {
        Self { r: vec![Lanes([0; LANES]); r].into(), d: vec![Lanes([0; LANES]); d].into(), p: vec![0; p].into() }
    }
}
