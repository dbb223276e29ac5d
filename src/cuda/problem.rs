//! What kernels are given, by value: the structs of kernels/problem.cuh, with its names and its comments' meanings. A test
//! compares sizes and offsets with those that the compiler has written into the PTX.

/// A length. One that no tensor has, as views with a stride of 0 may, is as long as can be, and refused where blocks are counted.
pub(super) fn length(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// A storage type by the kernels' number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Type {
    #[default]
    F32 = 0,
    F64 = 1,
    F16 = 2,
    Bf16 = 3,
}

impl Type {
    pub(super) fn of<T: crate::Element>() -> Type {
        match T::DTYPE {
            crate::DType::F32 => Type::F32,
            crate::DType::F64 => Type::F64,
            crate::DType::F16 => Type::F16,
            crate::DType::Bf16 => Type::Bf16,
        }
    }
}

/// Of an element.
pub(super) fn bytes(kind: Type) -> usize {
    match kind {
        Type::F16 | Type::Bf16 => 2,
        Type::F32 => 4,
        Type::F64 => 8,
    }
}

/// An address of the device's memory; 0 is none.
pub(super) type Address = u64;

/// Distances between groups, and between the rows of one.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Rows {
    pub(super) outer: i64,
    pub(super) inner: i64,
}

/// One term of a contraction.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Segment {
    pub(super) w: Address,
    pub(super) w_a: i64,
    pub(super) w_b: i64,
    pub(super) w_c: i64,
    pub(super) w_batch: i64,
    pub(super) q: Address,
    pub(super) q_n: Rows,
    pub(super) q_b: i64,
    pub(super) q_c: i64,
    pub(super) q_batch: i64,
    pub(super) p: Address,
    pub(super) p_n: Rows,
    pub(super) p_b: i64,
    pub(super) p_batch: i64,
    pub(super) slices: i64,
    pub(super) depth: i64,
    pub(super) w_type: Type,
    pub(super) q_type: Type,
    pub(super) p_type: Type,
    pub(super) pad: i32,
}

pub(super) const SEGMENTS: usize = 4;

/// A contraction: sums of segments and a bias.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Contract {
    pub(super) n: i64,
    pub(super) per: i64,
    pub(super) lanes: i64,
    pub(super) batches: i64,
    pub(super) segment: [Segment; SEGMENTS],
    pub(super) bias: Address,
    pub(super) bias_n: Rows,
    pub(super) bias_a: i64,
    pub(super) bias_batch: i64,
    pub(super) out: Address,
    pub(super) out_n: Rows,
    pub(super) out_a: i64,
    pub(super) out_batch: i64,
    pub(super) segments: i32,
    pub(super) bias_type: Type,
    pub(super) out_type: Type,
    pub(super) add: i32,
    pub(super) splits: i32,
    pub(super) resident: i32,
    pub(super) partial: Address,
    pub(super) arrived: Address,
}

pub(super) const CONTRACTS: usize = 3;

/// Contractions of one launch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Contracts {
    pub(super) problem: [Contract; CONTRACTS],
    pub(super) blocks: [i64; CONTRACTS],
    pub(super) count: i32,
    pub(super) pad: i32,
}

/// Sums over the batch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Gram {
    pub(super) n: i64,
    pub(super) per: i64,
    pub(super) k: i64,
    pub(super) i: i64,
    pub(super) j: i64,
    pub(super) batches: i64,
    pub(super) s: Address,
    pub(super) s_n: Rows,
    pub(super) s_k: i64,
    pub(super) s_batch: i64,
    pub(super) p: Address,
    pub(super) p_n: Rows,
    pub(super) p_i: i64,
    pub(super) p_batch: i64,
    pub(super) q: Address,
    pub(super) q_n: Rows,
    pub(super) q_j: i64,
    pub(super) q_batch: i64,
    pub(super) scale: Address,
    pub(super) scale_j: i64,
    pub(super) out: Address,
    pub(super) out_k: i64,
    pub(super) out_i: i64,
    pub(super) out_j: i64,
    pub(super) out_batch: i64,
    pub(super) s_type: Type,
    pub(super) p_type: Type,
    pub(super) q_type: Type,
    pub(super) scale_type: Type,
    pub(super) out_type: Type,
    pub(super) add: i32,
    pub(super) splits: i32,
    pub(super) pad: i32,
    pub(super) partial: Address,
    pub(super) arrived: Address,
}

pub(super) const GRAMS: usize = 8;

/// Sums over the batch of one launch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Grams {
    pub(super) problem: [Gram; GRAMS],
    pub(super) blocks: [i64; GRAMS],
    pub(super) count: i32,
    pub(super) pad: i32,
}

/// One projection of CP, or one computed before (w = 0).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Projection {
    pub(super) q: Address,
    pub(super) q_n: Rows,
    pub(super) q_c: i64,
    pub(super) w: Address,
    pub(super) w_c: i64,
    pub(super) w_r: i64,
    pub(super) depth: i64,
    pub(super) q_type: Type,
    pub(super) w_type: Type,
}

/// The hidden layer of CP, and what its gradients need.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Hidden {
    pub(super) n: i64,
    pub(super) per: i64,
    pub(super) r: i64,
    pub(super) p: Projection,
    pub(super) q: Projection,
    pub(super) d: Projection,
    pub(super) lambda: Address,
    pub(super) lambda_r: i64,
    pub(super) lambda_type: Type,
    pub(super) pad: i32,
    pub(super) pitch: i64,
    pub(super) out_p: Address,
    pub(super) out_q: Address,
    pub(super) out_h: Address,
    pub(super) out_dp: Address,
    pub(super) out_dq: Address,
    pub(super) out_dl: Address,
}

/// Rows that are copied: to those of an index, or from them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct RowCopy {
    pub(super) n: i64,
    pub(super) columns: i64,
    pub(super) index: Address,
    pub(super) from: Address,
    pub(super) from_row: i64,
    pub(super) from_column: i64,
    pub(super) to: Address,
    pub(super) to_row: i64,
    pub(super) to_column: i64,
    pub(super) kind: Type,
    pub(super) scatter: i32,
    pub(super) add: i32,
    pub(super) pad: i32,
}

pub(super) const COPIES: usize = 3;

/// Copies of one launch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Copies {
    pub(super) copy: [RowCopy; COPIES],
    pub(super) blocks: [i64; COPIES],
    pub(super) count: i32,
    pub(super) pad: i32,
}

/// Components of rows, [g][m][r]; an address of 0 is none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Plane {
    pub(super) at: Address,
    pub(super) n: Rows,
    pub(super) r: i64,
    pub(super) kind: Type,
    pub(super) add: i32,
}

/// What products of components work on.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Extent {
    pub(super) groups: i64,
    pub(super) each: i64,
    pub(super) r: i64,
    pub(super) parts: i64,
    pub(super) rows: i64,
    pub(super) chunks: i64,
    pub(super) lanes: i32,
    pub(super) pad: i32,
}

/// A diagonal core.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Gate {
    pub(super) extent: Extent,
    pub(super) p: Plane,
    pub(super) q: Plane,
    pub(super) c: Plane,
    pub(super) s: Plane,
    pub(super) out: Plane,
}

/// Its gradients.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct GateBack {
    pub(super) extent: Extent,
    pub(super) p: Plane,
    pub(super) q: Plane,
    pub(super) d: Plane,
    pub(super) s: Plane,
    pub(super) of_p: [Plane; 2],
    pub(super) of_q: [Plane; 2],
    pub(super) h: Plane,
    pub(super) of_s: Plane,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::cuda::kernels::PTX;

    /// Sizes and offsets, in the order of kernels/abi.cu, are those that the compiler has written into the PTX.
    #[test]
    fn layouts_are_the_kernels() {
        macro_rules! at {
            ($($of:ident: $($field:ident)+;)+) => { [$($(offset_of!($of, $field)),+),+] };
        }
        let sizes = [
            size_of::<Rows>(),
            size_of::<Segment>(),
            size_of::<Contract>(),
            size_of::<Contracts>(),
            size_of::<Gram>(),
            size_of::<Grams>(),
            size_of::<Projection>(),
            size_of::<Hidden>(),
            size_of::<RowCopy>(),
            size_of::<Copies>(),
            size_of::<Plane>(),
            size_of::<Extent>(),
            size_of::<Gate>(),
            size_of::<GateBack>(),
        ];
        let offsets = at! {
            Segment: w w_a w_batch q q_n q_b q_batch p p_n p_b p_batch slices depth w_type q_type p_type;
            Contract: n per lanes batches segment bias bias_n bias_a bias_batch out out_n out_a out_batch segments
                bias_type out_type add splits resident partial arrived;
            Contracts: blocks count;
            Gram: n per k i j batches s s_n s_k s_batch p p_n p_i p_batch q q_n q_j q_batch scale scale_j out out_k
                out_i out_j out_batch s_type p_type q_type scale_type out_type add splits partial arrived;
            Grams: blocks count;
            Projection: q q_n q_c w w_c w_r depth q_type w_type;
            Hidden: n per r p q d lambda lambda_r lambda_type pitch out_p out_q out_h out_dp out_dq out_dl;
            RowCopy: n columns index from from_row from_column to to_row to_column kind scatter add;
            Copies: blocks count;
            Plane: at n r kind add;
            Extent: groups each r parts rows chunks lanes;
            Gate: extent p q c s out;
            GateBack: extent p q d s of_p of_q h of_s;
        };
        let expected: Vec<usize> = sizes.into_iter().chain(offsets).collect();
        let (.., text) = PTX.iter().find(|(name, ..)| *name == "abi").unwrap();
        let (len, rest) = text.split_once("abi[").and_then(|(_, rest)| rest.split_once(']')).unwrap();
        let bytes = rest.split_once('{').and_then(|(_, rest)| rest.split_once('}')).unwrap().0;
        let mut bytes: Vec<u8> = bytes.split(',').map(|byte| byte.trim().parse().unwrap()).collect();
        bytes.resize(len.parse().unwrap(), 0); // zeros at the end are left out
        let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize);
        assert_eq!(words.collect::<Vec<_>>(), expected);
    }
}
