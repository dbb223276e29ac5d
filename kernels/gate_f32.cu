// Diagonal cores with f32 products; operands of f32, f16 and bf16. See gate.cuh.
#include "gate.cuh"

// Of f16 and bf16 alone eight components are the 16 bytes of a load. 24 warps an SM, each with loads of 16 bytes of two or
// three operands on their way, are 24 KB and more: what memory brings in its latency.
extern "C" __global__ void __launch_bounds__(THREADS, 4) gate_f32_256x4(const Gate gate) { run<float, 4>(gate); }
extern "C" __global__ void __launch_bounds__(THREADS, 4) gate_f32_256x8(const Gate gate) { run<float, 8>(gate); }
extern "C" __global__ void __launch_bounds__(THREADS, 3) dgate_f32_256x4(const GateBack gate) { run<float, 4>(gate); }
