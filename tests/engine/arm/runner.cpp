// Runs calls of the engine's operators that it reads from its input, and writes their results to its output, until the
// input ends: without torch, so that it can be built for any processor.
//
// A call is the operator's name, eight bytes, then numbers, then buffers: how many, int64, before each kind; of a
// buffer its size in bytes, -1 of one that is missing, and its bytes. A result is buffers, likewise.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine/forward_stack.h"
#include "engine/linear.h"
#include "noise/place_noise.h"

namespace ltd::baseline {

void forward_stack(const ForwardStack&);
void linear(const Linear&);
void place_noise(const PlaceNoise&);

}  // namespace ltd::baseline

namespace ltd {
namespace {

using Bytes = std::vector<char>;

bool read_bytes(void* target, size_t size) { return std::fread(target, 1, size, stdin) == size; }

int64_t read_count() {
  int64_t count;
  if (!read_bytes(&count, sizeof count)) std::exit(2);
  return count;
}

void write_bytes(const void* source, size_t size) {
  if (std::fwrite(source, 1, size, stdout) != size) std::exit(2);
}

// What a call is given, taken in order.
class Given {
 public:
  Given() {
    numbers_.resize(read_count());
    if (!read_bytes(numbers_.data(), numbers_.size() * sizeof(double))) std::exit(2);
    buffers_.resize(read_count());
    is_there_.resize(buffers_.size());
    for (size_t i = 0; i < buffers_.size(); ++i) {
      const int64_t size = read_count();
      is_there_[i] = size >= 0;
      buffers_[i].resize(size < 0 ? 0 : size);
      if (!read_bytes(buffers_[i].data(), buffers_[i].size())) std::exit(2);
    }
  }

  double real() { return numbers_.at(number_++); }
  int64_t whole() { return static_cast<int64_t>(real()); }
  DType dtype() { return static_cast<DType>(whole()); }

  template <typename T = void>
  T* buffer() {
    const size_t place = buffer_++;
    return is_there_.at(place) ? reinterpret_cast<T*>(buffers_[place].data()) : nullptr;
  }
  const Bytes& bytes(size_t place) const { return buffers_.at(place); }

 private:
  std::vector<double> numbers_;
  std::vector<Bytes> buffers_;
  std::vector<bool> is_there_;
  size_t number_ = 0;
  size_t buffer_ = 0;
};

int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

std::vector<Bytes> run_linear(Given& given) {
  Linear a{};
  a.dtype = given.dtype();
  a.rows = given.whole();
  a.weight.inputs = given.whole();
  a.weight.outputs = given.whole();
  a.weight.steps = packed_steps(a.weight.inputs, a.dtype);
  a.threads = static_cast<int>(given.whole());
  a.x = given.buffer();
  a.weight.blocks = given.buffer<char>();
  Bytes result(a.rows * a.weight.outputs * element_bytes(a.dtype));
  a.result = result.data();
  baseline::linear(a);
  return {result};
}

std::vector<Bytes> run_place_noise(Given& given) {
  PlaceNoise a{};
  a.row = given.whole();
  a.position = given.whole();
  a.vocabulary = given.whole();
  a.threads = static_cast<int>(given.whole());
  a.seed = given.buffer<int64_t>();
  Bytes noise(a.vocabulary * sizeof(float));
  a.noise = reinterpret_cast<float*>(noise.data());
  baseline::place_noise(a);
  return {noise};
}

StackedLinear stacked(const ForwardStack& a, int64_t outputs, int64_t inputs, Given& given) {
  const char* const blocks = given.buffer<char>();
  return {blocks, given.buffer<char>(), outputs, inputs, a.dtype};
}

// Numbers and buffers in the order in which tests/support/call_runner.py sends them.
std::vector<Bytes> run_forward_stack(Given& given) {
  ForwardStack a{};
  a.dtype = given.dtype();
  a.rotary_dtype = given.dtype();
  for (int64_t* size : {&a.layers, &a.batch, &a.nodes, &a.hidden, &a.query_heads, &a.kv_heads, &a.head_dim,
                        &a.intermediate, &a.vocabulary, &a.kept, &a.first_row, &a.tap_count}) {
    *size = given.whole();
  }
  const int64_t capacity = given.whole(), words = given.whole();
  a.residual_is_normed = given.whole() != 0;
  a.threads = static_cast<int>(given.whole());
  a.epsilon = static_cast<float>(given.real());
  a.scale = static_cast<float>(given.real());
  a.states = given.buffer();
  a.keys = given.buffer<char>();
  a.values = given.buffer<char>();
  a.embeddings = given.buffer();
  a.embedding_norm = given.buffer();
  const int64_t mixed = a.query_heads * a.head_dim;
  const int64_t inputs = a.embeddings == nullptr ? a.hidden : 2 * a.hidden;
  a.input_norm = given.buffer();
  a.qkv = stacked(a, mixed + 2 * a.kv_heads * a.head_dim, inputs, given);
  a.query_norm = given.buffer();
  a.key_norm = given.buffer();
  a.output = stacked(a, a.hidden, mixed, given);
  a.post_norm = given.buffer();
  a.gate_up = stacked(a, (a.intermediate + 15) / 16 * 32, a.hidden, given);
  a.down = stacked(a, a.hidden, a.intermediate, given);
  a.final_norm = given.buffer();
  a.lm_head = {given.buffer<char>(), nullptr, a.vocabulary, a.hidden, a.dtype};
  a.cosines = given.buffer();
  a.sines = given.buffer();
  a.rotary_rows = {given.buffer<const int64_t>(), a.nodes};
  a.lengths = given.buffer<const int32_t>();
  a.masks = {given.buffer<const int64_t>(), a.nodes * words, words};
  a.positions = {given.buffer<const int64_t>(), a.nodes};
  a.windows = given.buffer<const int64_t>();
  a.taps = given.buffer<const int64_t>();
  a.cache_strides[3] = a.head_dim;
  a.cache_strides[2] = capacity * a.cache_strides[3];
  a.cache_strides[1] = a.kv_heads * a.cache_strides[2];
  a.cache_strides[0] = a.batch * a.cache_strides[1];
  Bytes logits(a.batch * a.kept * a.vocabulary * element_bytes(a.dtype));
  Bytes features(a.batch * a.nodes * a.tap_count * a.hidden * element_bytes(a.dtype));
  a.logits = logits.data();
  a.features = features.data();
  baseline::forward_stack(a);
  return {logits, features, given.bytes(0), given.bytes(1), given.bytes(2)};  // what was written: states, keys, values
}

std::vector<Bytes> run(const std::string& name) {
  Given given;
  if (name == "linear") return run_linear(given);
  if (name == "noise") return run_place_noise(given);
  if (name == "forward") return run_forward_stack(given);
  std::fprintf(stderr, "there is no operator %s\n", name.c_str());
  std::exit(3);
}

}  // namespace
}  // namespace ltd

int main() {
  char name[9] = {};
  while (ltd::read_bytes(name, 8)) {
    const std::vector<ltd::Bytes> results = ltd::run(name);
    const int64_t count = static_cast<int64_t>(results.size());
    ltd::write_bytes(&count, sizeof count);
    for (const ltd::Bytes& result : results) {
      const int64_t size = static_cast<int64_t>(result.size());
      ltd::write_bytes(&size, sizeof size);
      ltd::write_bytes(result.data(), result.size());
    }
    std::fflush(stdout);
  }
}
