// forward_stack: all layers of a Llama-like model, its final norm and its output layer, over the tokens of a tree or a
// chain.
//
// A layer is x += o(attention(rope(qkv(norm(x))))), x += down(silu(gate(norm(x))) * up(norm(x))), with biases and norms
// of query and key heads where the family has them. Values are rounded to the model's type where `transformers` rounds
// them: after every linear layer, norm, product of an activation and sum with the residual; attention is computed in
// float32 and rounded once, but for its weights, which are bfloat16 where a processor's tiles multiply them.
//
// Row-exactness: every row's result is the same bit for bit, however many other rows are computed with it, wherever its
// ancestors stand and however many threads there are. For that, every sum has one order: over the inputs of a linear
// layer and the elements of a head, first to last (in tiles: as tiles.h says); over the keys that a query sees, in the
// order of their rows, after an exact maximum. A hidden key adds nothing, whatever its values are. Work is split over
// rows, outputs and heads only, never over the terms of a sum.
#pragma once

#include "attention/tree_attention.h"
#include "common/types.h"
#include "engine/packed_linear.h"

namespace ltd {

// The same linear layer of all layers of the model, one behind the other.
struct StackedLinear {
  const char* blocks;
  const char* bias;  // (layers, outputs) or null
  int64_t outputs;
  int64_t inputs;
  DType dtype;

  LTD_INLINE PackedLinear at(int64_t layer) const {
    const int64_t steps = packed_steps(inputs, dtype);
    const int64_t element = dtype == DType::kFloat32 ? 4 : 2;
    return {blocks + layer * packed_blocks(outputs) * steps * kStepBytes,
            bias == nullptr ? nullptr : bias + layer * outputs * element, outputs, inputs, steps};
  }
};

struct ForwardStack {
  DType dtype;  // of weights, activations and cache
  int64_t layers;
  int64_t batch;
  int64_t nodes;  // N; rows are B * N
  int64_t hidden;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t intermediate;
  int64_t vocabulary;
  float epsilon;
  float scale;
  void* states;  // (B * N, hidden), in: embeddings, out: the last layer's output
  // A draft head's layer reads the norms of a token's embedding and of its state, side by side; null in other models.
  const void* embeddings;      // (B * N, hidden)
  const void* embedding_norm;  // (layers, hidden)
  bool residual_is_normed;     // the head adds to the state's norm instead of the state
  const void* input_norm;      // (layers, hidden)
  StackedLinear qkv;           // outputs: all query heads, all key heads, all value heads
  const void* query_norm;      // (layers, head_dim) or null
  const void* key_norm;
  StackedLinear output;
  const void* post_norm;  // (layers, hidden)
  StackedLinear gate_up;  // outputs: 16 gates, 16 ups, 16 gates ...
  StackedLinear down;
  const void* final_norm;  // (hidden)
  StackedLinear lm_head;   // one layer
  DType rotary_dtype;      // of cosines and sines: the model's or kFloat32
  const void* cosines;     // (any, head_dim)
  const void* sines;
  Rows<const int64_t> rotary_rows;  // (B, N), of cosines and sines
  char* keys;  // (layers, B, kv_heads, capacity, head_dim): rows lengths[b] + first_row + n are written
  char* values;
  int64_t cache_strides[4];       // of keys and of values, elements: layer, batch, head, row
  const int32_t* lengths;         // (B)
  int64_t first_row;              // tree rows that are in the cache already; 0 without masks or with a window
  Matrices<const int64_t> masks;  // as in TreeAttention
  Rows<const int64_t> positions;  // (B, N)
  const int64_t* windows;         // (layers), 0 = none
  const int64_t* taps;            // layers whose input states are wanted; `layers` = the last one's output
  int64_t tap_count;
  void* features;  // (B * N, tap_count * hidden)
  int64_t kept;    // the last `kept` nodes of every sequence get logits
  void* logits;    // (B, kept, vocabulary)
  int threads;
};

}  // namespace ltd
