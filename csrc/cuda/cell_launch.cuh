// What sample_groups and mask_tokens share on CUDA (cell_batch.cu).
#pragma once

#include "../cell_arguments.h"
#include "launch.cuh"

namespace corrmask {

// Samples every cell on the current stream, into `owners`, or into `corrupted` and `labels` where that is null; all are
// [n_cells, width].
void run_cells(const char* op, const CellArguments& cells, int32_t* owners, const CorruptionParameters& corruption,
               void* corrupted, int64_t* labels);

}  // namespace corrmask
