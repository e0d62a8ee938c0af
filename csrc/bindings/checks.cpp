#include "bindings/checks.h"

#include <algorithm>
#include <cstdint>

namespace ltd {
namespace {

using at::Tensor;

// Bytes [first, last) of a piece of memory. Addresses where there are any; on the meta device the places in a storage,
// which stands for its memory there.
struct Memory {
  const void* storage;
  uint64_t first;
  uint64_t last;

  bool meets(const Memory& other) const { return storage == other.storage && first < other.last && other.first < last; }
};

// Elements from a tensor's first to its last, of which there is one at least.
int64_t extent_of(const Named& a) {
  int64_t extent = 1;
  for (int64_t d = 0; d < a.tensor.dim(); ++d) {
    int64_t reach;
    const bool is_too_far = __builtin_mul_overflow(a.tensor.size(d) - 1, a.tensor.stride(d), &reach) ||
                            __builtin_add_overflow(extent, reach, &extent) || extent > INT64_MAX / 64;
    LTD_CHECK(!is_too_far, a.name, " reaches too far: its shape is ", a.tensor.sizes(), " and its strides are ",
              a.tensor.strides());
  }
  return extent;
}

// Of one element: what a written tensor shares with others until it is written becomes its own here.
Memory memory_of(const Named& a, bool is_written) {
  const Tensor& tensor = a.tensor;
  if (tensor.numel() == 0) return {nullptr, 0, 0};
  const uint64_t element = tensor.element_size();
  const uint64_t bytes = extent_of(a) * element;
  const uint64_t offset = tensor.storage_offset() * element;
  if (tensor.is_meta()) return {tensor.storage().unsafeGetStorageImpl(), offset, offset + bytes};
  LTD_CHECK(offset + bytes <= tensor.storage().nbytes(), a.name, " must lie within its memory, but of its ",
            offset + bytes, " bytes there are ", tensor.storage().nbytes());
  const auto address = reinterpret_cast<uint64_t>(is_written ? tensor.mutable_data_ptr() : tensor.const_data_ptr());
  LTD_CHECK(address != 0, a.name, " must hold data, but has only a shape");
  LTD_CHECK(address % element == 0, a.name, " must begin at a multiple of the ", element,
            " bytes of its elements, but begins ", address % element, " bytes behind one");
  return {nullptr, address, address + bytes};
}

Memory checked_memory(const Named& a, at::Device device, bool is_written, bool may_be_pinned) {
  const bool is_reached = may_be_pinned && device.is_cuda() && a.tensor.is_cpu() && a.tensor.is_pinned();
  LTD_CHECK(a.tensor.device() == device || is_reached, a.name, " must be on ",
            device.is_cpu() ? "the CPU" : device.str(), " like the other tensors, but is on ", a.tensor.device());
  LTD_CHECK(a.tensor.layout() == at::kStrided, a.name, " must be dense, but its layout is ", a.tensor.layout());
  for (const int64_t size : a.tensor.sizes()) {
    LTD_CHECK(size <= kMaxSize, a.name, " must have no size above ", kMaxSize, ", but its shape is ", a.tensor.sizes());
  }
  return memory_of(a, is_written);
}

// Distances that one index makes: a whole number of strides.
struct Steps {
  int64_t stride;
  int64_t low;
  int64_t high;
};

using AllSteps = c10::SmallVector<Steps, 16>;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Whether steps from `first` on, each taken as often as it may be, add up to `distance`. Says yes if there is too much
// to try, which takes strides that no memory for rows and matrices has.
bool add_up(const AllSteps& all, size_t first, int64_t distance, int& tries) {
  if (first == all.size()) return distance == 0;
  int64_t least = 0, most = 0;  // of what comes behind
  for (size_t i = first + 1; i < all.size(); ++i) {
    least += all[i].low * all[i].stride;
    most += all[i].high * all[i].stride;
  }
  const Steps& steps = all[first];
  const int64_t low = std::max(steps.low, -floor_div(most - distance, steps.stride));
  const int64_t high = std::min(steps.high, floor_div(distance - least, steps.stride));
  for (int64_t count = low; count <= high; ++count) {
    if (--tries < 0 || add_up(all, first + 1, distance - count * steps.stride, tries)) return true;
  }
  return false;
}

// Adds the steps from an element of the tensor to any other, forwards or backwards.
void add_steps(const Tensor& tensor, bool forwards, AllSteps& all) {
  const int64_t element = tensor.element_size();
  const auto add = [&](int64_t stride, int64_t most) {
    if (most == 0) return;
    auto same = std::find_if(all.begin(), all.end(), [&](const Steps& steps) { return steps.stride == stride; });
    if (same == all.end()) same = all.insert(all.end(), {stride, 0, 0});
    (forwards ? same->high : same->low) += forwards ? most : -most;
  };
  for (int64_t d = 0; d < tensor.dim(); ++d) add(tensor.stride(d) * element, tensor.size(d) - 1);
  add(1, element - 1);
}

// Two tensors whose memory meets may still take turns in it, as parts of the rows of one tensor do.
bool share_an_element(const Tensor& a, const Memory& memory_a, const Tensor& b, const Memory& memory_b) {
  AllSteps all;
  add_steps(a, true, all);
  add_steps(b, false, all);
  const auto end = std::remove_if(all.begin(), all.end(), [](const Steps& steps) { return steps.stride == 0; });
  all.erase(end, all.end());
  std::sort(all.begin(), all.end(), [](const Steps& x, const Steps& y) { return x.stride > y.stride; });
  int tries = 1000;
  return add_up(all, 0, static_cast<int64_t>(memory_b.first - memory_a.first), tries);
}

// Whether every stride leads behind all that smaller ones reach: then no two elements are in the same place.
bool has_elements_apart(const Tensor& tensor) {
  if (tensor.is_non_overlapping_and_dense() || tensor.numel() == 0) return true;
  c10::SmallVector<std::pair<int64_t, int64_t>, 8> dimensions;  // stride, reach
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) dimensions.emplace_back(tensor.stride(d), (tensor.size(d) - 1) * tensor.stride(d));
  }
  std::sort(dimensions.begin(), dimensions.end());
  int64_t reached = 0;
  for (const auto& [stride, reach] : dimensions) {
    if (stride <= reached) return false;
    reached += reach;
  }
  return true;
}

std::string name_of(const TensorArgument& argument, const TensorInfo& info) {
  return argument.number < 0 ? info.name : info.name + "[" + std::to_string(argument.number) + "]";
}

}  // namespace

void check_tensor(const Named& a, at::Device device) { checked_memory(a, device, false, false); }

void check_tensors(at::ArrayRef<TensorArgument> tensors, const std::vector<TensorInfo>& signature) {
  c10::SmallVector<Memory, 40> memories;
  for (const TensorArgument& argument : tensors) {
    const TensorInfo& info = signature[argument.place];
    // A name is put together only for what is in a list: there are hardly any.
    const std::string numbered = argument.number < 0 ? std::string() : name_of(argument, info);
    const Named named{argument.number < 0 ? info.name.c_str() : numbered.c_str(), *argument.tensor};
    const at::Device device = tensors.front().tensor->device();
    memories.push_back(checked_memory(named, device, info.is_written, info.may_be_pinned));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = signature[tensors[i].place];
    const Tensor& tensor = *tensors[i].tensor;
    if (!info.is_written) continue;
    LTD_CHECK(has_elements_apart(tensor), info.name, " is written: each of its elements must have a place of its own, ",
              "but its shape is ", tensor.sizes(), " and its strides are ", tensor.strides());
    for (size_t j = 0; j < tensors.size(); ++j) {
      if (i == j || !memories[i].meets(memories[j])) continue;
      LTD_CHECK(!share_an_element(tensor, memories[i], *tensors[j].tensor, memories[j]), info.name,
                " is written: it must have memory of its own, but shares some with ",
                name_of(tensors[j], signature[tensors[j].place]));
    }
  }
}

}  // namespace ltd
