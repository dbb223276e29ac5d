// Sums over the batch of f16 or bf16 with f32 on tensor cores: tf32 (m16n8k8), f32 in two parts. See gram_split.cuh.
#include "gram_split.cuh"

using Batch = GramSplitTile;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) gram_tf32x2_128x128x16_sm80(const Grams all) {
    run<Batch>(all);
}
