// How this build was made, for corrmask.show_config() alone: the operator libraries do not need it, so that they work
// under any Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace {

std::vector<std::string> instruction_sets_compiled() {
#if defined(__x86_64__)
  return {"x86-64", "x86-64-v3 (AVX2)", "x86-64-v4 (AVX-512)"};
#elif defined(__aarch64__)
  return {"aarch64"};
#else
  return {"generic"};
#endif
}

std::string instruction_set_in_use() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2)";
  return "x86-64";
#else
  return instruction_sets_compiled().front();
#endif
}

}  // namespace

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "How this build of corrmask was made.";
  m.attr("version") = CORRMASK_VERSION;
  m.attr("cxx_compiler") = CORRMASK_CXX_COMPILER;
  m.attr("cxx_flags") = CORRMASK_CXX_FLAGS;
  m.attr("build_type") = CORRMASK_BUILD_TYPE;
  m.attr("torch_built_against") = CORRMASK_TORCH_VERSION;
  m.attr("torch_abi_target") = "2.10";
  m.attr("cuda_compiler") = CORRMASK_CUDA_COMPILER;            // empty: built without CUDA
  m.attr("cuda_architectures") = CORRMASK_CUDA_ARCHITECTURES;  // empty: built without CUDA
  m.def("instruction_sets_compiled", &instruction_sets_compiled);
  m.def("instruction_set_in_use", &instruction_set_in_use);
}
