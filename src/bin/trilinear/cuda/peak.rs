//! What a GPU's arithmetic can do at most, from its attributes.
//!
//! Peak = multiprocessors × clock × FLOPs of a multiprocessor in each clock. The last are of the throughput tables in NVIDIA's
//! CUDA C++ Programming Guide ("Arithmetic Instructions") for general cores, and for tensor cores, dense and with f32 sums, of
//! the architectures' white papers. The clock is the highest that the driver tells: data sheets may state a peak at another.

/// What decides it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chip {
    pub(crate) capability: (u32, u32),
    pub(crate) multiprocessors: u32,
    /// Hz.
    pub(crate) clock: f64,
    /// Of GeForce devices, whose tensor cores take twice as long where sums are f32.
    pub(crate) geforce: bool,
}

/// What the products are computed in; sums are f32, or f64 for f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// On general cores.
    F64,
    /// On general cores.
    F32,
    /// On tensor cores.
    Tf32,
    /// f16 and bf16, on tensor cores.
    Half,
}

impl Chip {
    /// FLOPs of a multiprocessor in a clock; `None` for architectures that are not in the table.
    pub(crate) fn per_clock(&self, arithmetic: Arithmetic) -> Option<u32> {
        // f64 and f32 of general cores; f16 of tensor cores, of which tf32 are half, but there are none before Ampere.
        let (double, single, half, tf32) = match self.capability {
            (7, 5) => (4, 128, 1024, false),
            (8, 0) => (64, 128, 2048, true),
            (8, 6 | 7 | 9) => (4, 256, 1024, true),
            (9, 0) => (128, 256, 4096, true),
            (10, 0) => (128, 256, 8192, true),
            (12, 0) => (4, 256, 1024, true),
            _ => return None,
        };
        let half = if self.geforce { half / 2 } else { half };
        match arithmetic {
            Arithmetic::F64 => Some(double),
            Arithmetic::F32 => Some(single),
            Arithmetic::Tf32 => tf32.then_some(half / 2),
            Arithmetic::Half => Some(half),
        }
    }

    /// FLOP/s.
    pub(crate) fn peak(&self, arithmetic: Arithmetic) -> Option<f64> {
        Some(f64::from(self.per_clock(arithmetic)?) * f64::from(self.multiprocessors) * self.clock)
    }
}
