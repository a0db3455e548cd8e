// What lets one header serve g++ and nvcc.
#pragma once

#if defined(__CUDACC__)
#define CORRMASK_HOST_DEVICE __host__ __device__ inline
#else
#define CORRMASK_HOST_DEVICE inline
#endif
