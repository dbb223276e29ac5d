//! f32 and f64 arithmetic.

use super::{number::tanh, rounding::*, *};
use std::num::FpCategory;

/// An f32 instruction in its four variants: `.ftz` flushes operands and result, `.sat` clamps the result. Every NaN is
/// the canonical one.
macro_rules! single {
    ($self:ident, $form:ident, $i:ident, $m:ident, |$($a:ident),*| $body:expr) => {
        match ($m.has("ftz"), $m.has("sat")) {
            (false, false) => $self.$form($i, |$($a: f32),*| canonical($body)),
            (true, false) => $self.$form($i, |$($a: f32),*| {
                $(let $a = flush($a);)*
                canonical(flush($body))
            }),
            (false, true) => $self.$form($i, |$($a: f32),*| saturate($body)),
            (true, true) => $self.$form($i, |$($a: f32),*| {
                $(let $a = flush($a);)*
                saturate(flush($body))
            }),
        }
    };
}

impl Decoder<'_> {
    pub(super) fn float(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Lanewise>> {
        if m.types().last() == Some(&Type::F64) {
            return self.double(opcode, m, i);
        }
        let rounding = Rounding::of(m);
        let nearest = rounding == Rounding::Nearest;
        match opcode {
            "add" if m.types().len() > 1 => self.mixed(i, m),
            "sub" | "fma" if m.types().len() > 1 => self.unsupported(&i.opcode),
            "add" if nearest => single!(self, binary, i, m, |a, b| a + b),
            "sub" if nearest => single!(self, binary, i, m, |a, b| a - b),
            "mul" if nearest => single!(self, binary, i, m, |a, b| a * b),
            "fma" | "mad" if nearest => single!(self, ternary, i, m, |a, b, c| a.mul_add(b, c)),
            // .full and .approx are within 2 ulp: this is exact.
            "div" if nearest => single!(self, binary, i, m, |a, b| a / b),
            "rcp" if nearest => single!(self, unary, i, m, |a| 1.0 / a),
            "sqrt" if nearest => single!(self, unary, i, m, |a| a.sqrt()),
            "add" => self.rounded(i, m, move |x| add32(x[0], x[1], rounding), 2),
            "sub" => self.rounded(i, m, move |x| add32(x[0], -x[1], rounding), 2),
            "mul" => self.rounded(i, m, move |x| mul32(x[0], x[1], rounding), 2),
            "fma" | "mad" => self.rounded(i, m, move |x| fma32(x[0], x[1], x[2], rounding), 3),
            "div" => self.rounded(i, m, move |x| div32(x[0], x[1], rounding), 2),
            "rcp" => self.rounded(i, m, move |x| div32(1.0, x[0], rounding), 1),
            "sqrt" => self.rounded(i, m, move |x| sqrt32(x[0], rounding), 1),
            "rsqrt" => single!(self, unary, i, m, |a| (1.0 / f64::from(a).sqrt()) as f32),
            "ex2" => single!(self, unary, i, m, |a| f64::from(a).exp2() as f32),
            "lg2" => single!(self, unary, i, m, |a| f64::from(a).log2() as f32),
            "sin" => single!(self, unary, i, m, |a| f64::from(a).sin() as f32),
            "cos" => single!(self, unary, i, m, |a| f64::from(a).cos() as f32),
            "tanh" => single!(self, unary, i, m, |a| tanh(a)),
            // The sign alone changes: of NaNs too.
            "neg" if m.has("ftz") => self.unary(i, |a: f32| -flush(a)),
            "neg" => self.unary(i, |a: f32| -a),
            "abs" if m.has("ftz") => self.unary(i, |a: f32| flush(a).abs()),
            "abs" => self.unary(i, |a: f32| a.abs()),
            "min" | "max" => self.extremum(opcode == "max", m, i),
            "copysign" => self.binary(i, |a: f32, b: f32| b.copysign(a)),
            "testp" => self.classify(i, m, f32::classify),
            _ => Ok(None),
        }
    }

    /// A directed rounding: rare, so one closure for all.
    fn rounded(
        &mut self,
        i: &Source,
        m: &Modifiers,
        f: impl Fn([f32; 3]) -> f32 + Send + Sync + 'static,
        operands: usize,
    ) -> Result<Option<Lanewise>> {
        let (ftz, sat) = (m.has("ftz"), m.has("sat"));
        let all = move |x: [f32; 3]| {
            let y = if ftz { flush(f(x.map(flush))) } else { f(x) };
            if sat { saturate(y) } else { canonical(y) }
        };
        match operands {
            1 => self.unary(i, move |a: f32| all([a, 0.0, 0.0])),
            2 => self.binary(i, move |a: f32, b: f32| all([a, b, 0.0])),
            _ => self.ternary(i, move |a: f32, b: f32, c: f32| all([a, b, c])),
        }
    }

    /// `testp`.
    fn classify<V: Value>(
        &mut self,
        i: &Source,
        m: &Modifiers,
        class: fn(V) -> FpCategory,
    ) -> Result<Option<Lanewise>> {
        let (p, a) = (self.predicate_target(self.operand(i, 0)?)?, self.source::<V>(self.operand(i, 1)?)?);
        let accepts: fn(FpCategory) -> bool = match m.0.first().copied().unwrap_or("") {
            "finite" => |class| !matches!(class, FpCategory::Infinite | FpCategory::Nan),
            "infinite" => |class| class == FpCategory::Infinite,
            "number" => |class| class != FpCategory::Nan,
            "notanumber" => |class| class == FpCategory::Nan,
            "normal" => |class| class == FpCategory::Normal,
            _ => |class| class == FpCategory::Subnormal,
        };
        Ok(Some(crate::machine::registers::test(p, a, move |a: V| accepts(class(a)))))
    }

    /// `add.f32.f16` and its like, of later architectures.
    fn mixed(&mut self, i: &Source, _m: &Modifiers) -> Result<Option<Lanewise>> {
        self.unsupported(&i.opcode)
    }

    fn extremum(&mut self, max: bool, m: &Modifiers, i: &Source) -> Result<Option<Lanewise>> {
        let (ftz, nan, xorsign) = (m.has("ftz"), m.has("NaN"), m.has("xorsign"));
        let one = move |a: f32, b: f32| {
            let (a, b) = if ftz { (flush(a), flush(b)) } else { (a, b) };
            let sign = (a.to_bits() ^ b.to_bits()) & 1 << 31;
            let (a, b) = if xorsign { (a.abs(), b.abs()) } else { (a, b) };
            let x = extremum32(a, b, max, nan);
            if xorsign && !x.is_nan() { f32::from_bits(x.to_bits() & !(1 << 31) | sign) } else { x }
        };
        if ftz || xorsign || i.operands.len() == 4 {
            return match i.operands.len() {
                3 => self.binary(i, one),
                _ => self.ternary(i, move |a: f32, b: f32, c: f32| one(one(a, b), c)),
            };
        }
        match (max, nan) {
            (true, false) => self.binary(i, |a: f32, b: f32| extremum32(a, b, true, false)),
            (false, false) => self.binary(i, |a: f32, b: f32| extremum32(a, b, false, false)),
            (true, true) => self.binary(i, |a: f32, b: f32| extremum32(a, b, true, true)),
            (false, true) => self.binary(i, |a: f32, b: f32| extremum32(a, b, false, true)),
        }
    }

    fn double(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Lanewise>> {
        let rounding = Rounding::of(m);
        let nearest = rounding == Rounding::Nearest;
        match opcode {
            "add" if nearest => self.binary(i, |a: f64, b: f64| a + b),
            "sub" if nearest => self.binary(i, |a: f64, b: f64| a - b),
            "mul" if nearest => self.binary(i, |a: f64, b: f64| a * b),
            "fma" | "mad" if nearest => self.ternary(i, |a: f64, b: f64, c: f64| a.mul_add(b, c)),
            "div" if nearest => self.binary(i, |a: f64, b: f64| a / b),
            "rcp" if m.has("approx") => self.unary(i, |a: f64| upper(1.0 / upper(a))),
            "rsqrt" => self.unary(i, |a: f64| upper(1.0 / upper(a).sqrt())),
            "rcp" if nearest => self.unary(i, |a: f64| 1.0 / a),
            "sqrt" if nearest => self.unary(i, |a: f64| a.sqrt()),
            "add" => self.binary(i, move |a: f64, b: f64| add64(a, b, rounding)),
            "sub" => self.binary(i, move |a: f64, b: f64| add64(a, -b, rounding)),
            "mul" => self.binary(i, move |a: f64, b: f64| mul64(a, b, rounding)),
            "fma" | "mad" => self.ternary(i, move |a: f64, b: f64, c: f64| fma64(a, b, c, rounding)),
            "div" => self.binary(i, move |a: f64, b: f64| div64(a, b, rounding)),
            "rcp" => self.unary(i, move |a: f64| div64(1.0, a, rounding)),
            "sqrt" => self.unary(i, move |a: f64| sqrt64(a, rounding)),
            "neg" => self.unary(i, |a: f64| -a),
            "abs" => self.unary(i, |a: f64| a.abs()),
            "min" | "max" => {
                let max = opcode == "max";
                self.binary(i, move |a: f64, b: f64| {
                    if a.is_nan() || b.is_nan() {
                        return if a.is_nan() && b.is_nan() {
                            f64::NAN
                        } else if a.is_nan() {
                            b
                        } else {
                            a
                        };
                    }
                    // -0 is below +0.
                    let greater = a > b || a == b && b.is_sign_negative();
                    if greater == max { a } else { b }
                })
            }
            "copysign" => self.binary(i, |a: f64, b: f64| b.copysign(a)),
            "testp" => self.classify(i, m, f64::classify),
            _ => Ok(None),
        }
    }
}

/// What the approximations of f64 read and give: the upper 20 bits of the mantissa, and no subnormal numbers.
#[inline(always)]
fn upper(a: f64) -> f64 {
    let a = f64::from_bits(a.to_bits() & !0xffff_ffff);
    if a.is_subnormal() { 0.0f64.copysign(a) } else { a }
}

/// The greater or lesser; a NaN is ignored, or with `nan` the result. -0 is below +0.
#[inline(always)]
pub(super) fn extremum32(a: f32, b: f32, max: bool, nan: bool) -> f32 {
    let greater = a > b || a == b && b.is_sign_negative();
    let chosen = if greater == max { a } else { b };
    if a.is_nan() || b.is_nan() {
        canonical(if nan || a.is_nan() && b.is_nan() {
            f32::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        })
    } else {
        chosen
    }
}
