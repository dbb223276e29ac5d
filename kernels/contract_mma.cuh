// out[n][a] (+)= Σ_segments Σ_b p[n][b] Σ_c w[a][b][c] q[n][b][c] + bias[n][a]   on tensor cores.
//
//   w and q of KIND: f16, bf16, or f32 rounded to tf32; p, bias, out: f32, f16, bf16; any strides.
//   Fast where q is contiguous along c and w along c or a (problem.cuh says what these are).
//
// A block makes 128 rows n by 128 lanes a with 8 warps of 64 by 32: 4×4 tiles of 16×8. Accumulators t of a slice b are
// scaled by the rows' p in f32 and added to the sums: products of f16, bf16 and tf32 are exact in f32, and z·x is
// never rounded to 16 bits. It costs 64 FMAs a thread for each slice, beside 16 mma for every 16 (tf32: 8) of depth:
// at a depth of 64 that is 1 FMA instruction for each mma, at 256 1 for 4; they issue beside the tensor cores, which
// an mma occupies for 8 cycles or more (A100).
//
//   warps (n by a):   0 1 2 3      a row of tiles: 64 × 32 each
//                     4 5 6 7
//
// Steps of 64 bytes of depth (32 elements; tf32: 16) run over all slices of a segment without a break; STAGES-1 are on
// their way by cp.async while one is multiplied (compute capability 7.5: one, by registers). q of q.b = 0 stays in
// shared memory over the slices where `resident` has room for its depth. f32 is rounded to tf32 in shared memory, by
// the thread that brought it.
//
//   shared:   w     STAGES × 8 KB                           layouts: mma_stage.cuh
//             p     2 × [SCALES][128 + 4] f32
//             q     max(STAGES, resident / BK) × 8 KB
//
//   registers: 64 t, 64 sums, 24 fragments, 16 addresses: one block of 8 warps an SM
#pragma once
#include "mma_tile.cuh"
#include "segments.cuh"

template <Kind KIND, int STAGES>
struct ContractMmaTile {
    static constexpr int BM = 128, BN = 128, BK = 64 / ELEMENT<KIND>, COUNT = 256;
    using Grid = Warps<4, 4, 4>;
    using Stage = MmaStage<KIND, 128, COUNT>;
    using Scale = Scales<float, BM, COUNT>;
    static constexpr int BYTES(int resident) {
        int slots = resident / BK > STAGES ? resident / BK : STAGES;
        return (STAGES + slots) * Stage::BYTES + Scale::SIZE * 4;
    }

    float t[Grid::ROWS][Grid::COLUMNS], sums[Grid::ROWS][Grid::COLUMNS];
    Grid grid;
    unsigned char *shared_w, *shared_q;
    float* shared_p;

    // sums += p·t
    __device__ __forceinline__ void flush(const float* p) {
#pragma unroll
        for (int m = 0; m < Grid::ROWS; m++) {
            float scale = p[grid.row(m)];
#pragma unroll
            for (int n = 0; n < Grid::COLUMNS; n++) sums[m][n] = fmaf(scale, t[m][n], sums[m][n]), t[m][n] = 0;
        }
    }
    __device__ __forceinline__ void flush() {
#pragma unroll
        for (int m = 0; m < Grid::ROWS; m++)
#pragma unroll
            for (int n = 0; n < Grid::COLUMNS; n++) sums[m][n] += t[m][n], t[m][n] = 0;
    }

    __device__ __forceinline__ void segment(const Contract& c, const Segment& s, const Place& place, int64_t lo,
                                            int64_t hi, uint32_t steps) {
        __shared__ typename Stage::Plan plan_q, plan_w;
        const void* q = shifted(s.q, place.batch * s.q_batch, s.q_type);
        const void* w = shifted(s.w, place.batch * s.w_batch, s.w_type);
        if (threadIdx.x == 0) {
            plan_q.template make<false>(q, place.first_row, c.per, c.n, s.q_n, s.q_c, s.slices == 1 ? 0 : s.q_b, steps);
            plan_w.template make<true>(w, place.first_lane, c.lanes, c.lanes, Rows{0, s.w_a}, s.w_c,
                                       s.slices == 1 ? 0 : s.w_b, steps);
        }
        __syncthreads();
        // `next` is the step that is brought next; slice and chunk are those of the one that is multiplied.
        uint32_t slice = lo / steps, chunk = lo - int64_t(slice) * steps, next_chunk = chunk;
        Stage stage_q(plan_q, q, place.first_row, c.per, c.n, s.q_n, s.q_c, slice, chunk);
        Stage stage_w(plan_w, w, place.first_lane, c.lanes, c.lanes, Rows{0, s.w_a}, s.w_c, slice, chunk);
        const bool scaled = s.p != nullptr;
        const bool keep = s.q_b == 0 && s.depth <= c.resident;

        const int last = int(s.depth - int64_t(steps - 1) * BK);    // c of a slice's last step
        int64_t fresh = keep && hi - lo > steps ? steps : hi - lo;  // steps that find no q in shared memory
        int64_t to_bring = hi - lo, unrounded = fresh;
        int next_slot = 0, slot = 0;  // of the ring
        Scale scale;

        auto place_q = [&](uint32_t of, int ring) { return shared_q + (keep ? of : ring) * Stage::BYTES; };
        auto advance = [&] {
            bool ends = next_chunk + 1 == steps;
            stage_q.next(ends), stage_w.next(ends);
            next_chunk = ends ? 0 : next_chunk + 1;
            next_slot = next_slot + 1 == STAGES ? 0 : next_slot + 1;
            to_bring--, fresh--;
        };
        if (scaled) {
            scale.load(c, s, place, slice);
            scale.store(shared_p, slice);
        }
#if __CUDA_ARCH__ >= 800
        auto bring = [&] {
            if (to_bring > 0) {
                int left = next_chunk + 1 == steps ? last : BK;
                if (fresh > 0) stage_q.copy(place_q(next_chunk, next_slot), left);
                stage_w.copy(shared_w + next_slot * Stage::BYTES, left);
                advance();
            }
            commit_copies();
        };
#pragma unroll 1
        for (int i = 0; i < STAGES - 1; i++) bring();
        for (int64_t todo = hi - lo; todo > 0; todo--) {
            wait_copies<STAGES - 2>();
            if constexpr (KIND == Kind::TF32) {
                if (unrounded-- > 0) stage_q.round(place_q(chunk, slot));
                stage_w.round(shared_w + slot * Stage::BYTES);
            }
            __syncthreads();
            bring();
#else
        auto load = [&] {
            int left = next_chunk + 1 == steps ? last : BK;
            if (fresh > 0) stage_q.load(left);
            stage_w.load(left);
        };
        auto store = [&] {
            if (fresh > 0) stage_q.store(place_q(next_chunk, next_slot));
            stage_w.store(shared_w + next_slot * Stage::BYTES);
            advance();
        };
        load();
        store();
        __syncthreads();
        for (int64_t todo = hi - lo; todo > 0; todo--) {
            if (to_bring > 0) load();
#endif
            const unsigned char* q = place_q(chunk, slot);
            const unsigned char* w = shared_w + slot * Stage::BYTES;
            bool ends = chunk + 1 == steps;
            bool new_scales = scaled && ends && (slice + 1) % SCALES == 0 && todo > 1;
            if (new_scales) scale.load(c, s, place, slice + 1);
            if (plan_w.along_rows)
                grid.template multiply<KIND, true, Stage, Stage>(t, q, w);
            else
                grid.template multiply<KIND, false, Stage, Stage>(t, q, w);
            if (scaled && (ends || todo == 1)) flush(Scale::at(shared_p, slice));
            if (new_scales) scale.store(shared_p, slice + 1);
            if (ends)
                chunk = 0, slice++;
            else
                chunk++;
            slot = slot + 1 == STAGES ? 0 : slot + 1;
#if __CUDA_ARCH__ < 800
            if (to_bring > 0) store();
            __syncthreads();
#endif
        }
        if (!scaled) flush();
        __syncthreads();
    }

    __device__ __forceinline__ void sum(const Contract& c, const Place& place, unsigned char* dynamic) {
        shared_w = dynamic;
        shared_q = dynamic + STAGES * Stage::BYTES + Scale::SIZE * 4;
        shared_p = reinterpret_cast<float*>(dynamic + STAGES * Stage::BYTES);
        zero(t);
        sum_segments(*this, c, place);
    }
};
