// Runs CUDA kernels on a CPU, slowly and one block after another: every thread of a block is a fibre, and the fibres of
// a warp meet at its collectives, those of a block at its barriers. Between those a fibre runs alone, and which comes
// next is drawn, so that what a missing barrier would allow does happen. What is checked on the way: that all lanes
// reach the same collective, that nobody is left waiting, that nothing is written behind the shared memory asked for.
//
// It stands in for the words of CUDA that csrc/cuda/*.cuh use, and knows no others. Include it before them.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

constexpr int kLanes = 32;
constexpr size_t kStack = 256 * 1024, kGuard = 256;
constexpr unsigned char kCanary = 0xA5;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::abort();
}

// Threads that wait for one another: a warp, or a whole block. Results of two meetings are kept, since a fibre may
// reach the next one before another has read this one's.
struct Meeting {
  int members = 0, arrived = 0;
  uint64_t generation = 0;
  const char* kind = nullptr;
  std::vector<uint64_t> given, results[2];
};

struct Fibre {
  ucontext_t context;  // where it starts; from then on it jumps, which asks nothing of the kernel
  jmp_buf jump;
  bool started = false;
  std::unique_ptr<char[]> stack;
  unsigned thread = 0;
  bool finished = false;
  const Meeting* waits_for = nullptr;
  uint64_t waits_past = 0;
  std::deque<std::vector<std::function<void()>>> copies;  // by group: asked for, and there once it has waited
};

struct Block {
  std::vector<Fibre> fibres;
  std::vector<Meeting> warps;
  Meeting all;
  jmp_buf scheduler;
  Fibre* current = nullptr;
  std::function<void()> kernel;
  Index block_index, block_size, grid_size;
  std::vector<unsigned char> shared;
  size_t shared_bytes = 0;
};

inline Block* block = nullptr;
inline uint64_t schedule = 1;  // the state of the drawing of fibres

inline uint64_t next_random() {
  schedule ^= schedule << 13;
  schedule ^= schedule >> 7;
  schedule ^= schedule << 17;
  return schedule;
}

// Gives `value`, waits until all members are there, and returns what they gave, by member.
inline const std::vector<uint64_t>& meet(Meeting& meeting, int member, uint64_t value, const char* kind) {
  if (meeting.arrived == 0) meeting.kind = kind;
  if (std::strcmp(meeting.kind, kind) != 0) fail("threads of one warp or block are at different collectives");
  const uint64_t generation = meeting.generation;
  meeting.given[member] = value;
  if (++meeting.arrived == meeting.members) {
    meeting.results[generation & 1] = meeting.given;
    meeting.arrived = 0;
    ++meeting.generation;
  } else {
    Fibre* self = block->current;
    self->waits_for = &meeting;
    self->waits_past = generation;
    if (_setjmp(self->jump) == 0) _longjmp(block->scheduler, 1);
    self->waits_for = nullptr;
  }
  return meeting.results[generation & 1];
}

inline unsigned thread() {
  return block->current->thread;
}

inline const std::vector<uint64_t>& meet_warp(unsigned mask, uint64_t value, const char* kind) {
  if (mask != 0xffffffffu) fail("a collective of a part of the warp");
  return meet(block->warps[thread() / kLanes], static_cast<int>(thread() % kLanes), value, kind);
}

inline void run_fibre() {
  block->kernel();
  block->current->finished = true;
  _longjmp(block->scheduler, 1);
}

// Runs a fibre until it waits or is finished.
[[gnu::noinline]] inline void resume(Fibre& fibre) {
  block->current = &fibre;
  if (_setjmp(block->scheduler) != 0) return;
  if (fibre.started) _longjmp(fibre.jump, 1);
  fibre.started = true;
  setcontext(&fibre.context);
}

inline void run_block(Block& one) {
  block = &one;
  const unsigned n = one.block_size.x;
  if (n % kLanes != 0) fail("the block is not of whole warps");
  one.fibres.resize(n);
  one.warps.assign(n / kLanes, {});
  for (Meeting& warp : one.warps) {
    warp.members = kLanes;
    warp.given.assign(kLanes, 0);
  }
  one.all = {};
  one.all.members = static_cast<int>(n);
  one.all.given.assign(n, 0);
  for (size_t i = 0; i < one.shared.size(); ++i) {  // no kernel may count on what it finds there
    one.shared[i] = i < one.shared_bytes ? static_cast<unsigned char>(next_random()) : kCanary;
  }
  for (unsigned t = 0; t < n; ++t) {
    Fibre& fibre = one.fibres[t];
    fibre.thread = t;
    fibre.started = fibre.finished = false;
    fibre.waits_for = nullptr;
    fibre.copies.clear();
    if (!fibre.stack) fibre.stack.reset(new char[kStack]);
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, run_fibre, 0);
  }
  std::vector<Fibre*> ready;
  for (;;) {
    ready.clear();
    bool any_left = false;
    for (Fibre& fibre : one.fibres) {
      any_left |= !fibre.finished;
      const bool waits = fibre.waits_for != nullptr && fibre.waits_for->generation == fibre.waits_past;
      if (!fibre.finished && !waits) ready.push_back(&fibre);
    }
    if (!any_left) break;
    if (ready.empty()) fail("threads wait for others that have left or never come");
    for (size_t i = ready.size(); i > 1; --i) std::swap(ready[i - 1], ready[next_random() % i]);
    for (Fibre* fibre : ready) resume(*fibre);
  }
  for (size_t i = one.shared_bytes; i < one.shared.size(); ++i) {
    if (one.shared[i] != kCanary) fail("something was written behind the shared memory");
  }
}

// kernel<<<{n_blocks, n_rows}, n_threads, shared_bytes>>>(), its call wrapped in a function.
inline void launch(unsigned n_blocks, unsigned n_threads, size_t shared_bytes, std::function<void()> kernel,
                   unsigned n_rows = 1) {
  Block one;
  one.kernel = std::move(kernel);
  one.block_size.x = n_threads;
  one.grid_size.x = n_blocks;
  one.grid_size.y = n_rows;
  one.shared_bytes = shared_bytes;
  one.shared.resize(shared_bytes + kGuard);
  for (unsigned b = 0; b < n_blocks * n_rows; ++b) {
    one.block_index.x = b % n_blocks;
    one.block_index.y = b / n_blocks;
    run_block(one);
  }
}

template <class T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulation

#define CORRMASK_EMULATED_CUDA
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define CORRMASK_DYNAMIC_SHARED(name) unsigned char* name = emulation::block->shared.data()

#define threadIdx (emulation::Index{emulation::thread(), 0, 0})
#define blockIdx (emulation::block->block_index)
#define blockDim (emulation::block->block_size)
#define gridDim (emulation::block->grid_size)

inline void __syncthreads() {
  emulation::meet(emulation::block->all, static_cast<int>(emulation::thread()), 0, "__syncthreads");
}
inline int __syncthreads_or(int value) {
  const auto& given =
      emulation::meet(emulation::block->all, static_cast<int>(emulation::thread()), value != 0, "__syncthreads_or");
  return std::any_of(given.begin(), given.end(), [](uint64_t one) { return one != 0; });
}
inline int __syncthreads_count(int value) {
  const auto& given =
      emulation::meet(emulation::block->all, static_cast<int>(emulation::thread()), value != 0, "__syncthreads_count");
  return static_cast<int>(std::count(given.begin(), given.end(), uint64_t{1}));
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulation::meet_warp(mask, 0, "__syncwarp");
}
inline unsigned __ballot_sync(unsigned mask, int value) {
  const auto& given = emulation::meet_warp(mask, value != 0, "__ballot_sync");
  unsigned votes = 0;
  for (int lane = 0; lane < emulation::kLanes; ++lane) votes |= static_cast<unsigned>(given[lane]) << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int value) {
  return __ballot_sync(mask, value) != 0;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return emulation::from_bits<T>(emulation::meet_warp(mask, emulation::bits_of(value), "__shfl_sync")[lane & 31]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  const int lane = static_cast<int>(emulation::thread()) % emulation::kLanes;
  return emulation::from_bits<T>(
      emulation::meet_warp(mask, emulation::bits_of(value), "__shfl_xor_sync")[lane ^ other]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  const unsigned lane = emulation::thread() % emulation::kLanes;
  const auto& given = emulation::meet_warp(mask, emulation::bits_of(value), "__shfl_up_sync");
  return lane < by ? value : emulation::from_bits<T>(given[lane - by]);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  const unsigned lane = emulation::thread() % emulation::kLanes;
  const auto& given = emulation::meet_warp(mask, emulation::bits_of(value), "__shfl_down_sync");
  return lane + by >= 32 ? value : emulation::from_bits<T>(given[lane + by]);
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const auto& given = emulation::meet_warp(mask, emulation::bits_of(value), "__match_any_sync");
  unsigned same = 0;
  for (int lane = 0; lane < emulation::kLanes; ++lane) {
    same |= static_cast<unsigned>(given[lane] == emulation::bits_of(value)) << lane;
  }
  return same;
}

template <class T>
T atomicCAS(T* at, T expected, T value) {
  const T old = *at;
  if (old == expected) *at = value;
  return old;
}
template <class T>
T atomicMin(T* at, T value) {
  const T old = *at;
  *at = std::min(old, value);
  return old;
}
template <class T>
T atomicMax(T* at, T value) {
  const T old = *at;
  *at = std::max(old, value);
  return old;
}
template <class T>
T atomicAnd(T* at, T value) {
  const T old = *at;
  *at = old & value;
  return old;
}
template <class T>
T atomicOr(T* at, T value) {
  const T old = *at;
  *at = old | value;
  return old;
}
template <class T>
T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline void copy_async(uint4* shared, const uint4* global) {
  auto& groups = emulation::block->current->copies;
  if (groups.empty()) groups.emplace_back();
  groups.back().emplace_back([=] { *shared = *global; });
}
inline void close_copies() {
  auto& groups = emulation::block->current->copies;
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}
template <int n_open>
void wait_for_copies() {  // those of a group in an order that is drawn: hardware keeps none
  auto& groups = emulation::block->current->copies;
  while (groups.size() > n_open + 1) {  // the last is not closed yet
    auto& copies = groups.front();
    for (size_t i = copies.size(); i > 1; --i) std::swap(copies[i - 1], copies[emulation::next_random() % i]);
    for (const auto& copy : copies) copy();
    groups.pop_front();
  }
}
inline unsigned __float_as_uint(float value) {
  return static_cast<unsigned>(emulation::bits_of(value));
}
inline float __uint_as_float(unsigned bits) {
  return emulation::from_bits<float>(bits);
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}

template <class T>
T __ldg(const T* at) {
  return *at;
}
inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}
inline int __popcll(unsigned long long bits) {
  return __builtin_popcountll(bits);
}
inline int __ffs(int bits) {
  return __builtin_ffs(bits);
}
inline int __clz(int bits) {
  return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits));
}
