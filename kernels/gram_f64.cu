// Sums over the batch in f64 (DFMA). See gram.cuh.
#include "gram.cuh"

using Batch = GramTile<double, 64, 64, 16, 4, 4>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) gram_f64_64x64x16(const Grams all) { run<Batch>(all); }
