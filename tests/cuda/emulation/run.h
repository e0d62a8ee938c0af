// Runs an operator's emulated CUDA kernels on memory of which it says what they may read and write.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/types.h"
#include "forward/float_rows.h"

namespace ltd::emulation {

// What an operator may reach; whatever may be written may be read as well. Null pointers count as nothing.
class Memory {
 public:
  template <typename T>
  void may_read(const T* data, int64_t count) {
    add(data, count * static_cast<int64_t>(sizeof(T)), false);
  }
  template <typename T>
  void may_write(T* data, int64_t count) {
    add(data, count * static_cast<int64_t>(sizeof(T)), true);
  }

  void may_read(const void* data, DType dtype, int64_t count) { add(data, count * bytes_of(dtype), false); }
  void may_write(void* data, DType dtype, int64_t count) { add(data, count * bytes_of(dtype), true); }

  template <typename T>
  void may_read(Rows<T> rows, int64_t batch, int64_t columns) {
    for (int64_t b = 0; b < batch && rows.data != nullptr; ++b) may_read(rows[b].raw(), columns);
  }
  template <typename T>
  void may_write(Rows<T> rows, int64_t batch, int64_t columns) {
    for (int64_t b = 0; b < batch && rows.data != nullptr; ++b) may_write(rows[b].raw(), columns);
  }

  template <typename T>
  void may_read(Matrices<T> matrices, int64_t batch, int64_t rows, int64_t columns) {
    for (int64_t b = 0; b < batch && matrices.data != nullptr; ++b) {
      for (int64_t row = 0; row < rows; ++row) may_read(matrices.at(b, row).raw(), columns);
    }
  }
  template <typename T>
  void may_write(Matrices<T> matrices, int64_t batch, int64_t rows, int64_t columns) {
    for (int64_t b = 0; b < batch && matrices.data != nullptr; ++b) {
      for (int64_t row = 0; row < rows; ++row) may_write(matrices.at(b, row).raw(), columns);
    }
  }
  void may_read(AnyMatrices matrices, int64_t batch, int64_t rows, int64_t columns) {
    const int64_t bytes = bytes_of(matrices.dtype);
    const char* data = static_cast<const char*>(matrices.data);
    for (int64_t b = 0; b < batch && data != nullptr; ++b) {
      for (int64_t row = 0; row < rows; ++row) {
        may_read(data + (b * matrices.batch_stride + row * matrices.row_stride) * bytes, columns * bytes);
      }
    }
  }

  void may_read(FloatRows rows, DType dtype, int64_t count, int64_t columns) {
    for (int64_t row = 0; row < count; ++row) may_read(row_of(rows, dtype, row), dtype, columns);
  }
  void may_write(FloatRows rows, DType dtype, int64_t count, int64_t columns) {
    for (int64_t row = 0; row < count; ++row) may_write(row_of(rows, dtype, row), dtype, columns);
  }

  struct Part {
    uintptr_t begin;
    uintptr_t end;
    bool writable;
  };
  const std::vector<Part>& parts() const { return parts_; }

 private:
  static int64_t bytes_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }
  static void* row_of(FloatRows rows, DType dtype, int64_t row) {
    return rows.data == nullptr ? nullptr : static_cast<char*>(rows.data) + row * rows.row_stride * bytes_of(dtype);
  }
  void add(const void* data, int64_t bytes, bool writable);

  std::vector<Part> parts_;
};

// Calls `start`, while kernels may reach `memory` and nothing else, with the address of a workspace of so many bytes
// full of rubbish. Throws std::runtime_error if a kernel does what it must not.
void run_on(const Memory& memory, int64_t workspace_bytes, const std::function<void(void* workspace)>& start);

// Runs the launch function on a copy of `a` that has a workspace. launch_of(copy) is the struct's Launch.
template <typename Arguments, typename LaunchOf>
void run(const Memory& memory, const Arguments& a, int64_t (*workspace_bytes)(const Arguments&),
         void (*function)(const Arguments&), LaunchOf&& launch_of) {
  Arguments copy = a;
  launch_of(copy) = {};
  run_on(memory, workspace_bytes(copy), [&](void* workspace) {
    launch_of(copy).workspace = workspace;
    function(copy);
  });
}

template <typename Arguments>
void run(const Memory& memory, const Arguments& a, int64_t (*workspace_bytes)(const Arguments&),
         void (*function)(const Arguments&)) {
  run(memory, a, workspace_bytes, function, [](Arguments& copy) -> Launch& { return copy.launch; });
}

}  // namespace ltd::emulation
