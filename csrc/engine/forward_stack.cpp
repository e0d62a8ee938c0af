#include "engine/forward_stack.h"

#include <array>
#include <iterator>
#include <numeric>
#include <vector>

#include "common/scratch.h"
#include "engine/exact_attention.h"

namespace ltd::LTD_ISA {
namespace {

// Up to so many rows every thread norms for itself: that takes less time than waiting for each other once more.
constexpr int64_t kRowsNormedAlone = 8;

template <typename Kind>
class Forward {
  using Element = typename Kind::Element;
  using Activation = typename Kind::Activation;
  using Rows = ActivationRows<Activation>;

 public:
  explicit Forward(const ForwardStack& a)
      : a_(a),
        rows_(a.batch * a.nodes),
        heads_(a.query_heads + 2 * a.kv_heads),
        threads_(thread_count()),
        norms_alone_(threads_ > 1 && rows_ <= kRowsNormedAlone && !a.residual_is_normed) {
    int64_t longest = 0;
    for (int64_t b = 0; b < a.batch; ++b) longest = a.lengths[b] > longest ? a.lengths[b] : longest;
    most_keys_ = longest + a.first_row + a.nodes;
    const int64_t attention = AttentionScratch::floats(a, most_keys_);
    thread_floats_ = kGroupSums + (attention + 15) / 16 * 16;
  }

  void run() {
    const int64_t bytes = carve(nullptr);
    thread_local Scratch memory;
    carve(memory.reserve<char>(bytes));
    for (int64_t row = 0; row < rows_; ++row) {
      zero_behind<Kind>(mixed_[row], a_.query_heads * a_.head_dim);
      zero_behind<Kind>(active_[row], a_.intermediate);
    }
    const Items items(*this, threads_);
    const std::vector<int64_t> counts = items.of_all_phases(a_.layers, rows_);
    in_phases(threads_, counts.data(), std::ssize(counts),
              [&](int64_t phase, const Share& share) { run_share(items, phase, share); });
  }

 private:
  // What a layer does, in this order; each needs all of what is before it. Last come the phases of the head.
  enum LayerPhase : int64_t {
    kNorm,
    kProject,
    kAttend,
    kAddAttention,
    kPostNorm,
    kActivate,
    kAddActive,
    kLayerPhases,
  };
  enum HeadPhase : int64_t { kFinalNorm, kLogits };

  // How the phases are divided.
  struct Items {
    int64_t normed_rows;
    AttentionItems attention;
    ProductItems qkv, output, gate_up, down, lm_head;

    Items(const Forward& f, int threads)
        : normed_rows(f.norms_alone_ ? 0 : f.rows_),
          attention(f.a_, threads),
          qkv(f.rows_, f.a_.qkv.at(0), threads, std::lcm(f.a_.head_dim, kBlockOutputs) / kBlockOutputs),
          output(f.rows_, f.a_.output.at(0), threads),
          gate_up(f.rows_, f.a_.gate_up.at(0), threads),
          down(f.rows_, f.a_.down.at(0), threads),
          lm_head(f.a_.batch * f.a_.kept, f.a_.lm_head.at(0), threads) {}

    std::vector<int64_t> of_all_phases(int64_t layers, int64_t rows) const {
      const std::array<int64_t, kLayerPhases> layer{normed_rows, qkv.count,     attention.count, output.count,
                                                    normed_rows, gate_up.count, down.count};
      std::vector<int64_t> counts;
      for (int64_t i = 0; i < layers; ++i) counts.insert(counts.end(), layer.begin(), layer.end());
      counts.insert(counts.end(), {rows, lm_head.count});
      return counts;
    }
  };

  // Lays the buffers out; returns their size in bytes.
  int64_t carve(char* memory) {
    int64_t used = 0;
    const auto take = [&](int64_t bytes) {
      char* const place = memory + used;
      used += (bytes + 63) / 64 * 64;
      return place;
    };
    const auto take_rows = [&](int64_t size, int64_t count) {
      const int64_t stride = activation_stride<Activation>(size);
      return Rows{reinterpret_cast<Activation*>(take((count + kSpareRows) * stride * sizeof(Activation))), stride};
    };
    normed_ = take_rows(a_.qkv.inputs, normed_rows());
    mixed_ = take_rows(a_.query_heads * a_.head_dim, rows_);
    active_ = take_rows(a_.intermediate, rows_);
    qkv_ = reinterpret_cast<Element*>(take(rows_ * heads_ * a_.head_dim * sizeof(Element)));
    scratch_ = reinterpret_cast<float*>(take(threads_ * thread_floats_ * sizeof(float)));
    return used;
  }

  int64_t normed_rows() const { return norms_alone_ ? threads_ * rows_ : rows_; }

  int thread_count() const {
    const int64_t layer = (heads_ + a_.query_heads) * a_.head_dim + 3 * a_.intermediate;
    const int64_t work = (rows_ * a_.layers * layer + a_.batch * a_.kept * a_.vocabulary) * a_.hidden;
    return useful_threads(work, a_.threads);
  }

  float* sums(const Share& share) const { return scratch_ + share.thread * thread_floats_; }
  AttentionScratch attention_memory(const Share& share) const {
    return AttentionScratch::in(sums(share) + kGroupSums, a_, most_keys_);
  }
  Element* state(int64_t row) const { return static_cast<Element*>(a_.states) + row * a_.hidden; }

  template <typename T>
  static const Element* at(const T* stacked, int64_t index, int64_t size) {
    return stacked == nullptr ? nullptr : static_cast<const Element*>(stacked) + index * size;
  }

  void tap(int64_t layer, int64_t first, int64_t last) const {
    for (int64_t t = 0; t < a_.tap_count; ++t) {
      if (a_.taps[t] != layer) continue;
      for (int64_t row = first; row < last; ++row) {
        Element* const target = static_cast<Element*>(a_.features) + (row * a_.tap_count + t) * a_.hidden;
        std::memcpy(target, state(row), a_.hidden * sizeof(Element));
      }
    }
  }

  void run_share(const Items& items, int64_t phase, const Share& share) const {
    const UsesTiles uses;
    const int64_t layer = phase / kLayerPhases;
    if (layer == a_.layers) return run_head_share(items, phase % kLayerPhases, share);
    switch (phase % kLayerPhases) {
      case kNorm:
        tap(layer, share.first, share.last);
        return norm_input(layer, share.first, share.last, normed_);
      case kProject:
        return project(share, items.qkv, layer);
      case kAttend:
        return attend(AttentionTask<Kind>{a_, layer, qkv_, heads_ * a_.head_dim, mixed_}, share, items.attention,
                      attention_memory(share));
      case kAddAttention:
        return add_linear(share, items.output, mixed_, a_.output.at(layer));
      case kPostNorm:
        return norm(a_.post_norm, layer, share.first, share.last, normed_);
      case kActivate:
        return activate(share, items.gate_up, layer);
      case kAddActive:
        return add_linear(share, items.down, active_, a_.down.at(layer));
    }
  }

  void norm_into(Activation* target, const Element* row, const Element* weight) const {
    norm_row(row, weight, a_.hidden, a_.epsilon, target);
    zero_behind<Kind>(target, a_.hidden);
  }

  void norm(const void* weight, int64_t layer, int64_t first, int64_t last, Rows normed) const {
    for (int64_t row = first; row < last; ++row) {
      norm_into(normed[row], state(row), at(weight, layer, a_.hidden));
    }
  }

  // What a draft head's projections read.
  void norm_pair(int64_t layer, int64_t first, int64_t last, Rows normed) const {
    const Element* const weight = at(a_.input_norm, layer, a_.hidden);
    for (int64_t row = first; row < last; ++row) {
      const Element* const embedding = at(a_.embeddings, row, a_.hidden);
      norm_row(embedding, at(a_.embedding_norm, layer, a_.hidden), a_.hidden, a_.epsilon, normed[row]);
      norm_row(state(row), weight, a_.hidden, a_.epsilon, normed[row] + a_.hidden);
      zero_behind<Kind>(normed[row], 2 * a_.hidden);
      if (a_.residual_is_normed) norm_row(state(row), weight, a_.hidden, a_.epsilon, state(row));
    }
  }

  void norm_input(int64_t layer, int64_t first, int64_t last, Rows normed) const {
    a_.embeddings == nullptr ? norm(a_.input_norm, layer, first, last, normed) : norm_pair(layer, first, last, normed);
  }

  // The rows that a product reads: the norms of all, or those that this thread has computed by itself.
  Rows normed_of(const Share& share) const {
    return {normed_.data + (norms_alone_ ? share.thread * rows_ * normed_.stride : 0), normed_.stride};
  }

  // qkv = linear(normed). A head that is whole is placed at once.
  void project(const Share& share, const ProductItems& items, int64_t layer) const {
    const Rows normed = normed_of(share);
    if (norms_alone_ && share.is_first) norm_input(layer, 0, rows_, normed);
    if (norms_alone_ && share.first == 0) tap(layer, 0, rows_);
    for (int64_t i = share.first; i < share.last; ++i) {
      const ProductItem item = items[i];
      store_product<Kind>(item, normed, a_.qkv.at(layer), sums(share), qkv_);
      place_heads(layer, item);
    }
  }

  // Norms query and key heads, turns them to their positions, and writes keys and values into the cache.
  void place_heads(int64_t layer, const ProductItem& item) const {
    const int64_t first = item.first_block * kBlockOutputs / a_.head_dim;
    const int64_t last = at_most(item.last_block * kBlockOutputs / a_.head_dim, heads_);
    for (int64_t row = item.first_row; row < item.first_row + item.rows; ++row) {
      for (int64_t head = first; head < last; ++head) {
        place_head(layer, row / a_.nodes, row % a_.nodes, head, qkv_ + (row * heads_ + head) * a_.head_dim);
      }
    }
  }

  template <typename Table>
  void rotate(const Table* cosines, const Table* sines, int64_t place, Element* vector) const {
    rotate_row(vector, cosines + place, sines + place, a_.head_dim, vector);
  }

  void place_head(int64_t layer, int64_t batch, int64_t node, int64_t head, Element* vector) const {
    const bool is_query = head < a_.query_heads;
    const bool is_value = head >= a_.query_heads + a_.kv_heads;
    if (!is_value) {
      const Element* weight = at(is_query ? a_.query_norm : a_.key_norm, layer, a_.head_dim);
      if (weight != nullptr) norm_row(vector, weight, a_.head_dim, a_.epsilon, vector);
      const int64_t place = a_.rotary_rows[batch][node] * a_.head_dim;
      if (a_.rotary_dtype == a_.dtype) {
        rotate(static_cast<const Element*>(a_.cosines), static_cast<const Element*>(a_.sines), place, vector);
      } else {
        rotate(static_cast<const float*>(a_.cosines), static_cast<const float*>(a_.sines), place, vector);
      }
    }
    if (is_query) return;
    const int64_t* strides = a_.cache_strides;
    const int64_t kv_head = (head - a_.query_heads) % a_.kv_heads;
    const int64_t offset = layer * strides[0] + batch * strides[1] + kv_head * strides[2] +
                           (a_.lengths[batch] + a_.first_row + node) * strides[3];
    std::memcpy(reinterpret_cast<Element*>(is_value ? a_.values : a_.keys) + offset, vector,
                a_.head_dim * sizeof(Element));
  }

  // state += linear(x)
  void add_linear(const Share& share, const ProductItems& items, Rows x, const PackedLinear& linear) const {
    const auto add = [&](int64_t row, int64_t output, const float* sums) {
      for_outputs(linear, output, [&](int64_t i, int64_t count) {
        Element* const target = state(row) + output + i;
        store_part(target, load_part(target, count) + rounded<Element>(output_part<Element>(linear, sums, output, i)),
                   count);
      });
    };
    for (int64_t i = share.first; i < share.last; ++i) multiply<Kind>(items[i], x, linear, sums(share), add);
  }

  // active = silu(gate(normed)) * up(normed); a block of gate_up holds 16 gates and the 16 ups that go with them.
  void activate(const Share& share, const ProductItems& items, int64_t layer) const {
    constexpr int64_t kHalf = kBlockOutputs / 2;
    const PackedLinear linear = a_.gate_up.at(layer);
    const Rows normed = normed_of(share);
    if (norms_alone_ && share.is_first) norm(a_.post_norm, layer, 0, rows_, normed);
    const auto store = [&](int64_t row, int64_t output, const float* sums) {
      const int64_t first = output / 2;
      for (int64_t i = 0; i < kHalf && first + i < a_.intermediate; i += kLanes) {
        const Floats gate = rounded<Element>(output_part<Element>(linear, sums, output, i));
        const Floats up = rounded<Element>(output_part<Element>(linear, sums, output, kHalf + i));
        store_part(active_[row] + first + i, rounded<Element>(rounded<Element>(silu(gate)) * up),
                   a_.intermediate - first - i);
      }
    };
    for (int64_t i = share.first; i < share.last; ++i) multiply<Kind>(items[i], normed, linear, sums(share), store);
  }

  // Logits of the kept rows; all rows are tapped.
  void run_head_share(const Items& items, int64_t phase, const Share& share) const {
    if (phase == kLogits) {
      for (int64_t i = share.first; i < share.last; ++i) {
        store_product<Kind>(items.lm_head[i], normed_, a_.lm_head.at(0), sums(share), static_cast<Element*>(a_.logits));
      }
      return;
    }
    tap(a_.layers, share.first, share.last);
    for (int64_t row = share.first; row < share.last; ++row) {
      const int64_t kept = row % a_.nodes - (a_.nodes - a_.kept);
      if (kept < 0) continue;
      norm_into(normed_[row / a_.nodes * a_.kept + kept], state(row), at(a_.final_norm, 0, 0));
    }
  }

  const ForwardStack& a_;
  const int64_t rows_;
  const int64_t heads_;
  const int threads_;
  const bool norms_alone_;  // every thread norms all rows for itself
  int64_t most_keys_;       // that a row may see
  int64_t thread_floats_;
  Rows normed_{};     // (rows, hidden), for every thread where they norm alone
  Rows mixed_{};      // (rows, query_heads * head_dim)
  Rows active_{};     // (rows, intermediate)
  Element* qkv_{};    // (rows, heads, head_dim)
  float* scratch_{};  // (threads, thread_floats_)
};

}  // namespace

void forward_stack(const ForwardStack& a) {
  with_product(a.dtype, [&]<typename Kind>(Kind) { Forward<Kind>(a).run(); });
}

}  // namespace ltd::LTD_ISA
