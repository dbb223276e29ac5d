// Sizes and offsets of the parameters' structs as the compiler lays them out. The host's test reads them from the PTX.
#include <cstddef>

#include "problem.cuh"

#define AT(type, field) uint32_t(offsetof(type, field))

extern "C" __device__ uint32_t abi[] = {
    sizeof(Rows), sizeof(Segment), sizeof(Contract), sizeof(Contracts), sizeof(Gram), sizeof(Grams), sizeof(Projection), sizeof(Hidden),
    // clang-format off
    AT(Segment, w), AT(Segment, w_a), AT(Segment, w_batch), AT(Segment, q), AT(Segment, q_n), AT(Segment, q_b), AT(Segment, q_batch),
    AT(Segment, p), AT(Segment, p_n), AT(Segment, p_b), AT(Segment, p_batch), AT(Segment, slices), AT(Segment, depth),
    AT(Segment, w_type), AT(Segment, q_type), AT(Segment, p_type),
    AT(Contract, n), AT(Contract, per), AT(Contract, lanes), AT(Contract, batches), AT(Contract, segment), AT(Contract, bias),
    AT(Contract, bias_n), AT(Contract, bias_a), AT(Contract, bias_batch), AT(Contract, out), AT(Contract, out_n), AT(Contract, out_a),
    AT(Contract, out_batch), AT(Contract, segments), AT(Contract, bias_type), AT(Contract, out_type), AT(Contract, add),
    AT(Contract, splits), AT(Contract, resident), AT(Contract, partial), AT(Contract, arrived),
    AT(Contracts, blocks), AT(Contracts, count),
    AT(Gram, n), AT(Gram, per), AT(Gram, k), AT(Gram, i), AT(Gram, j), AT(Gram, batches), AT(Gram, s), AT(Gram, s_n), AT(Gram, s_k),
    AT(Gram, s_batch), AT(Gram, p), AT(Gram, p_n), AT(Gram, p_i), AT(Gram, p_batch), AT(Gram, q), AT(Gram, q_n), AT(Gram, q_j),
    AT(Gram, q_batch), AT(Gram, scale), AT(Gram, scale_j), AT(Gram, out), AT(Gram, out_k), AT(Gram, out_i), AT(Gram, out_j),
    AT(Gram, out_batch), AT(Gram, s_type), AT(Gram, p_type), AT(Gram, q_type), AT(Gram, scale_type), AT(Gram, out_type),
    AT(Gram, add), AT(Gram, splits), AT(Gram, partial), AT(Gram, arrived),
    AT(Grams, blocks), AT(Grams, count),
    AT(Projection, q), AT(Projection, q_n), AT(Projection, q_c), AT(Projection, w), AT(Projection, w_c), AT(Projection, w_r),
    AT(Projection, depth), AT(Projection, q_type), AT(Projection, w_type),
    AT(Hidden, n), AT(Hidden, per), AT(Hidden, r), AT(Hidden, p), AT(Hidden, q), AT(Hidden, d), AT(Hidden, lambda),
    AT(Hidden, lambda_r), AT(Hidden, lambda_type), AT(Hidden, pitch), AT(Hidden, out_p), AT(Hidden, out_q), AT(Hidden, out_h),
    AT(Hidden, out_dp), AT(Hidden, out_dq), AT(Hidden, out_dl),
    // clang-format on
};
