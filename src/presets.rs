//! The named shapes: one list for benchmarks, tests and reports.

/// Sizes of a call, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Rows of z; with a shared context, groups.
    pub n: usize,
    /// Rows of x for each row of z: 1, or more with a shared context.
    pub rows: usize,
    /// Rows of z that meet the same rows of x: 1, or more where all pairs of a problem are computed; `n` counts those of all
    /// problems.
    pub sharing: usize,
    /// Features of z.
    pub i: usize,
    /// Features of x.
    pub j: usize,
    /// Outputs.
    pub k: usize,
    /// Rank of the CP form, if the preset has one.
    pub r: Option<usize>,
    /// Whether there is a dense form. (One would be of 41 G parameters.)
    pub dense: bool,
    /// Whether z and x are the same tensor.
    pub tied: bool,
    /// Where it comes from.
    pub source: &'static str,
}

const fn preset(name: &'static str, sizes: [usize; 4], r: usize, source: &'static str) -> Preset {
    let [n, i, j, k] = sizes;
    Preset {
        name,
        n,
        rows: 1,
        sharing: 1,
        i,
        j,
        k,
        r: if r == 0 { None } else { Some(r) },
        dense: true,
        tied: false,
        source,
    }
}

/// The named shapes. `film`, the pixels of a map sharing z, is here as a dense shape; [`crate::Block::identity`] computes its
/// diagonal form by kernels of its own.
pub const PRESETS: [Preset; 13] = [
    preset("expressivity", [1024, 20, 20, 1], 20, "the paper's toy task, xᵀWz and ⟨x,z⟩"),
    preset("torch6110", [50, 100, 200, 300], 64, "pytorch#6110: 600 ms against 18 ms"),
    preset("chainer5205", [32, 384, 256, 128], 64, "chainer#5205: slow backward"),
    preset("mmimdb", [128, 512, 512, 1024], 128, "MultiBench, multiplicative-interaction fusion"),
    preset("mimic", [40, 720, 10, 100], 40, "MultiBench: skewed I and J"),
    Preset { rows: 50, ..preset("neural_process", [800, 128, 128, 32], 32, "one z shared by 50 points") },
    Preset { rows: 50, sharing: 50, ..preset("biaffine_arc", [5000, 501, 500, 1], 128, "supar: all pairs") },
    preset("tucker_fb237", [128, 200, 200, 200], 200, "TuckER link prediction"),
    preset("ntn_wordnet", [200_000, 100, 100, 3], 16, "neural tensor network"),
    Preset { tied: true, ..preset("bilinear_mlp", [16384, 256, 256, 256], 1024, "tied inputs") },
    preset("mlstm_step", [128, 64, 4096, 4096], 4096, "one recurrent step, CP"),
    Preset { dense: false, ..preset("dcnv2_cross", [8192, 3456, 3456, 3456], 512, "MLPerf DLRMv2") },
    Preset { rows: 196, ..preset("film", [64, 128, 128, 128], 0, "FiLM, z shared by the pixels of a map") },
];

/// The preset of this name.
///
/// # Example
///
/// ```
/// assert_eq!(trilinear::presets::find("mimic").map(|preset| preset.i), Some(720));
/// ```
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
