// Functions of CUDA's mathematical library, integer intrinsics, and control flow that compilers rarely simplify.

template <typename T, T f(T)>
__device__ void apply(const T* x, T* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = f(x[i]);
}

extern "C" __global__ void math_f32(const float* x, float* out, int n) {
    apply<float, expf>(x, out, n);
    apply<float, sinf>(x, out + n, n);
    apply<float, tanhf>(x, out + 2 * n, n);
    apply<float, erff>(x, out + 3 * n, n);
    apply<float, cbrtf>(x, out + 4 * n, n);
    apply<float, log1pf>(x, out + 5 * n, n);
}

extern "C" __global__ void math_f64(const double* x, double* out, int n) {
    apply<double, exp>(x, out, n);
    apply<double, sin>(x, out + n, n);
    apply<double, log1p>(x, out + 2 * n, n);
    apply<double, atan>(x, out + 3 * n, n);
}

// Correctly rounded: division, square root, reciprocal, fused multiply-add, in all four directions.
extern "C" __global__ void rounded(const float* x, const float* y, float* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float a = x[i], b = y[i];
    out[i] = __fdiv_rn(a, b);
    out[n + i] = __fdiv_rz(a, b);
    out[2 * n + i] = __fdiv_ru(a, b);
    out[3 * n + i] = __fdiv_rd(a, b);
    out[4 * n + i] = __fsqrt_rn(fabsf(a));
    out[5 * n + i] = __frcp_rn(b);
    out[6 * n + i] = __fmaf_rn(a, b, 1.0f);
    out[7 * n + i] = __fadd_rd(a, b);
    out[8 * n + i] = __fmul_ru(a, b);
}

extern "C" __global__ void integers(const unsigned* x, const unsigned* y, unsigned* out, long long* wide, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const unsigned a = x[i], b = y[i];
    out[i] = __popc(a);
    out[n + i] = __clz(a);
    out[2 * n + i] = __brev(a);
    out[3 * n + i] = __byte_perm(a, b, 0x5140);
    out[4 * n + i] = __umulhi(a, b);
    out[5 * n + i] = __funnelshift_l(a, b, b & 63);
    out[6 * n + i] = __dp4a(int(a), int(b), 7);
    out[7 * n + i] = __usad(a, b, 5u);
    out[8 * n + i] = __ffs(a);
    out[9 * n + i] = __vadd4(a, b);
    const long long p = (long long)a << 20 ^ b, q = (long long)(int)b | 1;
    wide[i] = p / q;
    wide[n + i] = p % q;
    wide[2 * n + i] = __mul64hi(p, q);
    wide[3 * n + i] = p >> (b & 63);
    wide[4 * n + i] = (long long)((unsigned long long)p / (a | 1));
}

// A function that is called, a stack that is indexed, a switch, and loops whose trip counts differ between threads.
__device__ __noinline__ unsigned collatz(unsigned n) {
    unsigned steps = 0;
    while (n != 1) {
        n = n % 2 ? 3 * n + 1 : n / 2;
        ++steps;
        if (steps > 1000) return 0;
    }
    return steps;
}

extern "C" __global__ void control(const unsigned* x, unsigned* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned stack[16];
    int top = 0;
    for (unsigned v = x[i]; v; v /= 7) stack[top++] = v % 7;
    unsigned sum = collatz(x[i] % 1000 + 1);
    while (top--) {
        switch (stack[top]) {
            case 0: sum += 3; break;
            case 1: sum *= 5; break;
            case 2: sum ^= 0x55; break;
            case 3: sum = sum << 3 | sum >> 29; break;
            case 4: if (sum & 1) continue; sum += 9; break;
            case 5: sum -= 77; break;
            default: sum = ~sum;
        }
    }
    out[i] = sum;
}

// A constant table, a variable in global memory, dynamic shared memory beyond 48 KiB.
__constant__ int table[8] = {3, 1, 4, 1, 5, 9, 2, 6};
__device__ int calls = 40;

extern "C" __global__ void memories(const int* x, int* out, int words) {
    extern __shared__ int buffer[];
    for (int i = threadIdx.x; i < words; i += blockDim.x) buffer[i] = x[i] * table[i & 7];
    __syncthreads();
    for (int i = threadIdx.x; i < words; i += blockDim.x) out[i] = buffer[words - 1 - i];
    if (threadIdx.x == 0) out[words] = atomicAdd(&calls, 2);
}
