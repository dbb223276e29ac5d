//! f16 and bf16 arithmetic, alone and in pairs: in f32, where sums and products of two are exact or round harmlessly
//! twice (24 bits are at least 2 * 11 + 2), then rounded to the format. Fused operations go through f64.

use super::{float::extremum32, number::*, rounding::*, *};

/// An element as an f32: exact. `ftz` flushes f16 subnormals; bf16 ones never are.
#[inline(always)]
pub(super) fn widen(x: u16, bf16: bool, ftz: bool) -> f32 {
    if bf16 {
        bf16_to_f32(x)
    } else if ftz && x & 0x7c00 == 0 {
        f16_to_f32(x & 0x8000)
    } else {
        f16_to_f32(x)
    }
}

/// What an instruction on halves does beside its arithmetic.
#[derive(Clone, Copy)]
struct Form {
    bf16: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Form {
    #[inline(always)]
    fn widen(self, x: u16) -> f32 {
        widen(x, self.bf16, self.ftz)
    }

    #[inline(always)]
    fn clamp(self, x: f32) -> f32 {
        if self.sat {
            saturate(x)
        } else if self.relu && x <= 0.0 {
            0.0
        } else {
            x
        }
    }

    #[inline(always)]
    fn narrow(self, x: f32) -> u16 {
        let x = self.clamp(x);
        if self.bf16 {
            f32_to_bf16(x)
        } else {
            let bits = f32_to_f16(x);
            if self.ftz && bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
        }
    }

    /// `a * b + c`, rounded once: the product is exact in f64, the sum is rounded to odd there.
    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
        let sum = product + c;
        let back = sum - product;
        let error = (product - (sum - back)) + (c - back);
        let mut bits = sum.to_bits();
        if error != 0.0 && error.is_finite() && bits & 1 == 0 {
            // Towards the exact sum.
            bits = if (error > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 };
        }
        // Odd again in f32, for the last rounding.
        let sum = f64::from_bits(bits);
        let near = sum as f32;
        let wide = f64::from(near);
        if wide == sum || !near.is_finite() || near.to_bits() & 1 == 1 {
            return near;
        }
        let away = (sum > wide) == (near > 0.0 || near == 0.0 && sum > 0.0);
        if near == 0.0 {
            return f32::from_bits(1).copysign(sum as f32);
        }
        f32::from_bits(if away { near.to_bits() + 1 } else { near.to_bits() - 1 })
    }
}

impl Decoder<'_> {
    pub(super) fn half(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Lanewise>> {
        let types = m.types();
        let Some(&kind) = types.last() else { return Ok(None) };
        let form = Form {
            bf16: matches!(kind, Type::Bf16 | Type::Bf16x2),
            ftz: m.has("ftz"),
            sat: m.has("sat"),
            relu: m.has("relu"),
        };
        let pair = matches!(kind, Type::F16x2 | Type::Bf16x2);
        match opcode {
            "add" => self.half2(i, pair, form, |a, b| a + b),
            "sub" => self.half2(i, pair, form, |a, b| a - b),
            "mul" => self.half2(i, pair, form, |a, b| a * b),
            "fma" => self.half3(i, pair, form),
            "min" | "max" => {
                let (max, nan, xorsign) = (opcode == "max", m.has("NaN"), m.has("xorsign"));
                self.half2(i, pair, form, move |a, b| {
                    let sign = (a.to_bits() ^ b.to_bits()) & 1 << 31;
                    let (a, b) = if xorsign { (a.abs(), b.abs()) } else { (a, b) };
                    let x = extremum32(a, b, max, nan);
                    if xorsign && !x.is_nan() { f32::from_bits(x.to_bits() & !(1 << 31) | sign) } else { x }
                })
            }
            // Signs alone: subnormals go if flushed, NaNs stay.
            "neg" => self.half_bits(i, pair, form, |x| x ^ 0x8000),
            "abs" => self.half_bits(i, pair, form, |x| x & 0x7fff),
            "tanh" => self.half1(i, pair, form, tanh),
            "ex2" => self.half1(i, pair, form, |a| f64::from(a).exp2() as f32),
            _ => Ok(None),
        }
    }

    fn half1(
        &mut self,
        i: &Source,
        pair: bool,
        form: Form,
        f: impl Fn(f32) -> f32 + Copy + Send + Sync + 'static,
    ) -> Result<Option<Lanewise>> {
        let one = move |a: u16| form.narrow(f(form.widen(a)));
        if !pair {
            return self.unary(i, one);
        }
        self.unary(i, move |a: u32| u32::from(one(a as u16)) | u32::from(one((a >> 16) as u16)) << 16)
    }

    fn half2(
        &mut self,
        i: &Source,
        pair: bool,
        form: Form,
        f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync + 'static,
    ) -> Result<Option<Lanewise>> {
        let one = move |a: u16, b: u16| form.narrow(f(form.widen(a), form.widen(b)));
        if !pair {
            return self.binary(i, one);
        }
        self.binary(i, move |a: u32, b: u32| {
            u32::from(one(a as u16, b as u16)) | u32::from(one((a >> 16) as u16, (b >> 16) as u16)) << 16
        })
    }

    fn half3(&mut self, i: &Source, pair: bool, form: Form) -> Result<Option<Lanewise>> {
        let one = move |a: u16, b: u16, c: u16| form.narrow(form.fma(form.widen(a), form.widen(b), form.widen(c)));
        if !pair {
            return self.ternary(i, one);
        }
        self.ternary(i, move |a: u32, b: u32, c: u32| {
            let part = |at: u32| u32::from(one((a >> at) as u16, (b >> at) as u16, (c >> at) as u16)) << at;
            part(0) | part(16)
        })
    }

    fn half_bits(
        &mut self,
        i: &Source,
        pair: bool,
        form: Form,
        f: impl Fn(u16) -> u16 + Copy + Send + Sync + 'static,
    ) -> Result<Option<Lanewise>> {
        let one = move |x: u16| {
            let x = f(x);
            if form.ftz && !form.bf16 && x & 0x7c00 == 0 { x & 0x8000 } else { x }
        };
        if !pair {
            return self.unary(i, one);
        }
        self.unary(i, move |a: u32| u32::from(one(a as u16)) | u32::from(one((a >> 16) as u16)) << 16)
    }
}
