// Diagonal cores in f64. See gate.cuh.
#include "gate.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 4) gate_f64_256x2(const Gate gate) { run<double, 2>(gate); }
extern "C" __global__ void __launch_bounds__(THREADS, 4) dgate_f64_256x2(const GateBack gate) { run<double, 2>(gate); }
