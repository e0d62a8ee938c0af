// Binds place_noise, and checks the rings of noise that other operators take.
#include "bindings/noise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "bindings/device.h"
#include "bindings/register.h"

namespace ltd {

using at::Tensor;

NoiseRing noise_ring(const Tensors& tensors, const Tensor& noise, const Tensor& places, const Tensor& rows,
                     const Tensor& seed, int64_t batch, int64_t vocabulary) {
  NoiseRing ring{};
  ring.noise = tensors.matrices<float>({"noise", noise}, batch, -1, vocabulary);
  ring.slots = noise.size(1);
  ring.vocabulary = noise.size(2);
  LTD_CHECK(ring.slots >= 1 && (ring.slots & (ring.slots - 1)) == 0 && ring.vocabulary >= 1,
            "noise must have a power of two of slots, dimension 1, and a column or more, but its shape is ",
            noise.sizes());
  checked_count("slots", {batch, ring.slots});
  ring.places = tensors.rows<int64_t>({"places", places}, batch, ring.slots);
  ring.rows = tensors.per_row<const int64_t>({"rows", rows}, batch);
  ring.seed = tensors.checked<const int64_t>({"seed", seed}, {1});
  for (int64_t b = 0; b < batch && tensors.are_on_cpu(); ++b) {
    LTD_CHECK(ring.rows[b] >= 0 && ring.rows[b] <= kLargestRow, "rows[", b, "] must be 0 to ", kLargestRow, ", but is ",
              ring.rows[b]);
  }
  return ring;
}

namespace {

Tensor noise_like(const Tensor& seed, int64_t vocabulary) {
  return at::empty({vocabulary}, seed.options().dtype(at::kFloat));
}

Tensor run_place_noise(const Tensor& seed, int64_t row, int64_t position, int64_t vocabulary) {
  const Tensors tensors(seed.device());
  PlaceNoise a{};
  a.seed = tensors.checked<const int64_t>({"seed", seed}, {1});
  check_range("row", row, 0, kLargestRow);
  check_range("position", position, 0, kLargestPlace);
  check_range("vocabulary", vocabulary, 1, kMaxSize);
  a.row = row;
  a.position = position;
  a.vocabulary = vocabulary;
  a.threads = at::get_num_threads();
  Tensor noise = noise_like(seed, vocabulary);
  a.noise = written<float>(noise);
  run<PlaceNoise>(tensors.device(), LTD_KERNELS(place_noise), a, a.launch);
  return noise;
}

Tensor place_noise_meta(const Tensor& seed, int64_t, int64_t, int64_t vocabulary) {
  return noise_like(seed, vocabulary);
}

}  // namespace
}  // namespace ltd

TORCH_LIBRARY_FRAGMENT(ltd, library) {
  ltd::define<ltd::run_place_noise, ltd::place_noise_meta>(
      library, "place_noise", "(Tensor seed, int row, int position, int vocabulary) -> Tensor");
}
