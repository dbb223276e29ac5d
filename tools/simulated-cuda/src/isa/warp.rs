//! Instructions between the lanes of a warp: shuffles, votes, matches, reductions.

use super::*;
use crate::machine::registers::{LANES, Registers, blend, write_predicate};

impl Decoder<'_> {
    pub(super) fn warp(&mut self, opcode: &str, m: &Modifiers, i: &Source) -> Result<Option<Op>> {
        Ok(match opcode {
            "shfl" => Some(self.shuffle(m, i)?),
            "vote" => Some(self.vote(m, i)?),
            "match" => Some(self.matching(m, i)?),
            "redux" => Some(self.reduction(m, i)?),
            "activemask" => {
                let d = self.target::<u32>(&self.operand(i, 0)?.clone())?;
                Some(Op::Lanes(Box::new(move |s, mask| blend(&mut s.r[d as usize].0, &[mask; LANES], mask))))
            }
            "elect" => {
                let (d, p) = match self.operand(i, 0)?.clone() {
                    Operand::Pair(d, p) => (self.target::<u32>(&d)?, self.predicate_target(&p)?),
                    _ => return self.syntax("a register and a predicate expected"),
                };
                let members = self.source::<u32>(self.operand(i, 1)?)?;
                let run: Lanewise = Box::new(move |s, mask| {
                    let leader = mask.trailing_zeros();
                    blend(&mut s.r[d as usize].0, &[leader; LANES], mask);
                    write_predicate(s, p, 1 << leader, mask);
                });
                Some(Op::Sync { members, orders: false, run })
            }
            _ => None,
        })
    }

    fn shuffle(&mut self, m: &Modifiers, i: &Source) -> Result<Op> {
        let (d, p) = match self.operand(i, 0)?.clone() {
            Operand::Pair(d, p) => (self.target::<u32>(&d)?, self.predicate_target(&p)?),
            d => (self.target::<u32>(&d)?, self.sinks[2]),
        };
        let a = self.source::<u32>(self.operand(i, 1)?)?;
        let b = self.source::<u32>(self.operand(i, 2)?)?;
        let c = self.source::<u32>(self.operand(i, 3)?)?;
        if !m.has("sync") {
            return self.unsupported("shfl without .sync");
        }
        let members = self.source::<u32>(self.operand(i, 4)?)?;
        let mode =
            m.0.iter().copied().find(|part| matches!(*part, "up" | "down" | "bfly" | "idx")).unwrap_or("").to_string();
        let mode = match mode.as_str() {
            "up" => 0,
            "down" => 1,
            "bfly" => 2,
            "idx" => 3,
            _ => return self.syntax("a mode of shfl expected"),
        };
        let run: Lanewise = Box::new(move |s, mask| {
            let (mut out, mut valid) = ([0; LANES], 0);
            let (a, b, c) = (&s.r[a as usize].0, &s.r[b as usize].0, &s.r[c as usize].0);
            for lane in 0..LANES {
                // As the manual's pseudocode has it.
                let (bval, cval) = ((b[lane] & 31) as i32, c[lane] & 31);
                let segment = c[lane] >> 8 & 31;
                let max = (lane as u32 & segment | cval & !segment) as i32;
                let min = (lane as u32 & segment) as i32;
                let lane_number = lane as i32;
                let (from, inside) = match mode {
                    0 => (lane_number - bval, lane_number - bval >= max),
                    1 => (lane_number + bval, lane_number + bval <= max),
                    2 => (lane_number ^ bval, lane_number ^ bval <= max),
                    _ => (min | bval & !(segment as i32), (min | bval & !(segment as i32)) <= max),
                };
                let from = if inside { from as usize & 31 } else { lane };
                out[lane] = a[from];
                valid |= u32::from(inside) << lane;
            }
            blend(&mut s.r[d as usize].0, &out, mask);
            write_predicate(s, p, valid, mask);
        });
        Ok(Op::Sync { members, orders: true, run })
    }

    fn vote(&mut self, m: &Modifiers, i: &Source) -> Result<Op> {
        if !m.has("sync") {
            return self.unsupported("vote without .sync");
        }
        let a = self.condition(self.operand(i, 1)?)?;
        let members = self.source::<u32>(self.operand(i, 2)?)?;
        let holds = move |s: &Registers, mask: u32| (s.p[a.predicate as usize] ^ a.flip) & mask;
        let ballot = m.has("ballot");
        let run: Lanewise = if ballot {
            let d = self.target::<u32>(&self.operand(i, 0)?.clone())?;
            each_group(members, move |s, group| {
                let bits = holds(s, group);
                blend(&mut s.r[d as usize].0, &[bits; LANES], group);
            })
        } else {
            let p = self.predicate_target(&self.operand(i, 0)?.clone())?;
            let (all, any) = (m.has("all"), m.has("any"));
            each_group(members, move |s, group| {
                let bits = holds(s, group);
                let found = if all {
                    bits == group
                } else if any {
                    bits != 0
                } else {
                    bits == 0 || bits == group
                };
                write_predicate(s, p, if found { u32::MAX } else { 0 }, group);
            })
        };
        Ok(Op::Sync { members, orders: true, run })
    }

    fn matching(&mut self, m: &Modifiers, i: &Source) -> Result<Op> {
        let wide = m.types().last().is_some_and(|kind| kind.bits() == 64);
        let (d, p) = match self.operand(i, 0)?.clone() {
            Operand::Pair(d, p) => (self.target::<u32>(&d)?, self.predicate_target(&p)?),
            d => (self.target::<u32>(&d)?, self.sinks[2]),
        };
        let a = self.source_of(self.operand(i, 1)?, wide)?;
        let members = self.source::<u32>(self.operand(i, 2)?)?;
        let all = m.has("all");
        let run = each_group(members, move |s: &mut Registers, group| {
            let value = |lane: usize| if wide { s.d[a as usize].0[lane] } else { u64::from(s.r[a as usize].0[lane]) };
            let out: [u32; LANES] = std::array::from_fn(|lane| {
                (0..LANES)
                    .filter(|&other| group >> other & 1 != 0 && value(other) == value(lane))
                    .fold(0, |bits, l| bits | 1 << l)
            });
            if !all {
                return blend(&mut s.r[d as usize].0, &out, group);
            }
            let same = out[group.trailing_zeros() as usize] == group;
            blend(&mut s.r[d as usize].0, &[if same { group } else { 0 }; LANES], group);
            write_predicate(s, p, if same { u32::MAX } else { 0 }, group);
        });
        Ok(Op::Sync { members, orders: true, run })
    }

    fn reduction(&mut self, m: &Modifiers, i: &Source) -> Result<Op> {
        let Some(&kind) = m.types().last() else { return self.syntax("a type expected") };
        let d = self.target::<u32>(&self.operand(i, 0)?.clone())?;
        let a = self.source::<u32>(self.operand(i, 1)?)?;
        let members = self.source::<u32>(self.operand(i, 2)?)?;
        let f: fn(u32, u32) -> u32 = match (m.0.get(1).copied(), kind) {
            (Some("add"), _) => u32::wrapping_add,
            (Some("and"), _) => |a, b| a & b,
            (Some("or"), _) => |a, b| a | b,
            (Some("xor"), _) => |a, b| a ^ b,
            (Some("min"), Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
            (Some("max"), Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
            (Some("min"), Type::U32) => u32::min,
            (Some("max"), Type::U32) => u32::max,
            _ => return self.unsupported(&i.opcode),
        };
        let run = each_group(members, move |s: &mut Registers, group| {
            let values = s.r[a as usize].0;
            let all = (0..LANES).filter(|lane| group >> lane & 1 != 0).map(|lane| values[lane]).reduce(f);
            blend(&mut s.r[d as usize].0, &[all.unwrap_or(0); LANES], group);
        });
        Ok(Op::Sync { members, orders: true, run })
    }
}

/// Runs `f` for each set of lanes that name the same members.
fn each_group(members: u32, f: impl Fn(&mut Registers, u32) + Send + Sync + 'static) -> Lanewise {
    Box::new(move |s, mask| {
        let values = s.r[members as usize].0;
        let mut left = mask;
        while left != 0 {
            let first = values[left.trailing_zeros() as usize];
            let group = (0..LANES)
                .filter(|&lane| left >> lane & 1 != 0 && values[lane] == first)
                .fold(0, |bits, l| bits | 1 << l);
            f(s, group);
            left &= !group;
        }
    })
}
