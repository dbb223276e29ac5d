// Sums over the batch of f16 on tensor cores (tf32 m16n8k8, products in two parts). See gram_mma.cuh.
#include "gram_mma.cuh"

using Batch = GramMmaTile<Kind::TF32, 2, F16>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) gram_f16_128x128x16_sm80(const Grams all) {
    run<Batch>(all);
}
