// What sample_groups and mask_tokens share on CUDA (cell_batch.cu).
#pragma once

#include "../cell_arguments.h"
#include "launch.cuh"

namespace corrmask {

// Samples every cell on the current stream. `owners` may be null unless groups decide what is shown; `corrupted` and
// `labels` may be null together; all are [n_cells, width].
void run_cells(const char* op, const CellArguments& cells, int32_t* owners, const CorruptionParameters& corruption,
               void* corrupted, int64_t* labels);

}  // namespace corrmask
