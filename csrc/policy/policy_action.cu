// A network takes a launch for every layer with many weights, whose rows are dealt out to many blocks. What follows it
// and is small is added by the block that finishes last.
#include "common/cuda_kernels.h"
#include "common/last_block.cuh"
#include "policy/policy_action.h"
#include "policy/run_network.cuh"

namespace ltd::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int64_t kMaxBlocks = 1024;

// More weights than that are worth several blocks.
constexpr int64_t kWeightsOfBlock = 8192;

// What one launch does with every sequence.
struct Stage {
  int index;
  int begin;     // its first layer, which all blocks share
  int end;       // behind its last layer
  int blocks;    // of a sequence
  bool decides;  // the action is found at the end

  // Whether one block goes on with what the others have done.
  LTD_INLINE bool has_rest() const { return end > begin + 1 || decides; }
};

int64_t blocks_of(const PolicyLayer& layer) {
  if (layer.inputs * layer.outputs <= kWeightsOfBlock) return 1;
  return at_most(ceil_div(layer.outputs, kWarps), kMaxBlocks);
}

// The stage from this layer on, which may be behind the last.
Stage stage_from(const PolicyNetwork& network, int index, int layer) {
  const int layers = network.layer_count;
  const int64_t blocks = layer < layers ? blocks_of(network.layers[layer]) : 1;
  Stage stage{index, layer, layer < layers ? layer + 1 : layer, static_cast<int>(blocks), false};
  if (index == 0 && blocks > 1) return stage;  // no counter has been cleared yet
  while (stage.end < layers && blocks_of(network.layers[stage.end]) == 1) ++stage.end;
  stage.decides = stage.end == layers;
  return stage;
}

struct Workspace {
  float* activations;  // (B, 2, widest layer)
  unsigned* counters;  // (2, B): blocks that are done, of this stage and the next
  int64_t widest;

  LTD_INLINE explicit Workspace(const PolicyAction& a)
      : activations(static_cast<float*>(a.launch.workspace)), widest(widest_layer(a.network)) {
    counters = reinterpret_cast<unsigned*>(activations + a.batch * 2 * widest);
  }
  LTD_INLINE static int64_t bytes(const PolicyAction& a) { return 4 * a.batch * (2 * widest_layer(a.network) + 2); }
};

struct Observation {
  Pointer<const float> scores;
  int count;
  int slots;
  int repeats;
  float length;
  float depth;

  __device__ Observation(const PolicyAction& a, int64_t b)
      : scores(a.scores[b]),
        count(static_cast<int>(a.score_count)),
        slots(static_cast<int>(a.score_slots)),
        repeats(static_cast<int>(a.repeats)),
        length(a.length_range.shown(global(a.lengths)[b])),
        depth(static_cast<float>(a.depth) / 10.0f) {}

  __device__ Span used() const { return {count, slots}; }
  __device__ Pointer<const float> bias(const PolicyNetwork& network) const { return global(network.layers[0].bias); }

  // Of the numbers that are used.
  __device__ float operator()(int i) const {
    if (i >= slots) return i < slots + repeats ? length : depth;
    const float score = scores[i];
    return score > kLowestScore ? score : kLowestScore;
  }
};

__global__ void __launch_bounds__(kThreads) run_stage(PolicyAction a, Stage stage) {
  await_earlier_kernels();
  const int64_t b = blockIdx.x / stage.blocks;
  const int block = blockIdx.x % stage.blocks;
  const Workspace workspace(a);
  const Activations activations{global(workspace.activations) + b * 2 * workspace.widest, workspace.widest};
  const Pointer<unsigned> counters = global(workspace.counters) + b;
  if (block == 0 && threadIdx.x == 0) counters[(stage.index + 1) % 2 * a.batch] = 0;

  const Observation observation(a, b);
  int layer = stage.begin;
  if (stage.blocks > 1) {
    const Share share{block * kWarps + threadIdx.x / kWarp, int64_t{stage.blocks} * kWarps};
    apply_layer(a.network, layer++, observation, activations, share);
    if (!stage.has_rest() || !is_last_block(counters + stage.index % 2 * a.batch, stage.blocks)) return;
  }
  apply_layers(a.network, layer, stage.end, observation, activations);
  if (!stage.decides || threadIdx.x >= kWarp) return;
  const int action = largest_output(a.network, activations);
  if (threadIdx.x == 0) global(a.actions)[b] = action;
}

}  // namespace

int64_t policy_action_workspace(const PolicyAction& a) { return Workspace::bytes(a); }

void policy_action(const PolicyAction& a) {
  if (a.batch == 0) return;
  Stage stage{};
  for (int index = 0; !stage.decides; ++index) {
    stage = stage_from(a.network, index, stage.end);
    launch<kStartsEarly>(run_stage, dim3(static_cast<unsigned>(stage.blocks * a.batch)), kThreads, 0, a.launch.stream,
                         a, stage);
  }
}

}  // namespace ltd::cuda
