// Sums over the batch of tf32 on tensor cores (m16n8k8). See gram_mma.cuh.
#include "gram_mma.cuh"

using Batch = GramMmaTile<Kind::TF32, 1, F32>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) gram_tf32_128x128x16_sm80(const Grams all) {
    run<Batch>(all);
}
