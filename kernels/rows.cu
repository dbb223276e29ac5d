// Copies of rows that an index chooses. See rows.cuh.
#include "rows.cuh"

extern "C" __global__ void __launch_bounds__(32 * COPY_ROWS) rows_copy_8x1024x1(const Copies all) { run(all); }
