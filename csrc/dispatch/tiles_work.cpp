// Whether this process may use the processor's tiles, and they work. Compiled for AMX only.
#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/tiles.h"

namespace ltd::LTD_ISA {
namespace {

sigjmp_buf after_illegal_instruction;

void leave_instruction(int) { siglongjmp(after_illegal_instruction, 1); }

// Linux enables tiles for processes that ask.
bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

BFloat16 small_integer(int value) {
  const float wide = static_cast<float>(value);
  uint32_t word;
  std::memcpy(&word, &wide, sizeof word);
  return {static_cast<uint16_t>(word >> 16)};
}

// A product of integers, whose result is exact.
bool product_is_right() {
  constexpr int kOutputs = kTilePairs;
  const auto row_element = [](int r, int k) { return (5 * r + 3 * k) % 17 - 8; };
  const auto weight = [](int k, int n) { return (7 * k + 2 * n) % 13 - 6; };
  alignas(kTileBytes) BFloat16 rows[kTileHeight][kTileInputs];
  alignas(kTileBytes) BFloat16 weights[kTilePairs][kOutputs][2];
  alignas(kTileBytes) float sums[kTileHeight][kOutputs];
  for (int k = 0; k < kTileInputs; ++k) {
    for (int r = 0; r < kTileHeight; ++r) rows[r][k] = small_integer(row_element(r, k));
    for (int n = 0; n < kOutputs; ++n) weights[k / 2][n][k % 2] = small_integer(weight(k, n));
  }
  set_tile_height(kTileHeight);
  zero_tile<0>();
  load_tile<4>(rows, kTileBytes);
  load_tile<6>(weights, kTileBytes);
  multiply_tiles<0, 4, 6>();
  store_tile<0>(sums, kTileBytes);
  release_tiles();
  for (int r = 0; r < kTileHeight; ++r) {
    for (int n = 0; n < kOutputs; ++n) {
      int expected = 0;
      for (int k = 0; k < kTileInputs; ++k) expected += row_element(r, k) * weight(k, n);
      if (sums[r][n] != static_cast<float>(expected)) return false;
    }
  }
  return true;
}

}  // namespace

// Asks the operating system for tiles and multiplies with them, once: an illegal instruction is an answer too.
bool tiles_work();
bool tiles_work() {
  if (!may_use_tiles()) return false;
  struct sigaction catching = {};
  struct sigaction before = {};
  catching.sa_handler = leave_instruction;
  sigemptyset(&catching.sa_mask);
  if (sigaction(SIGILL, &catching, &before) != 0) return false;
  const bool right = sigsetjmp(after_illegal_instruction, 1) == 0 && product_is_right();
  sigaction(SIGILL, &before, nullptr);
  return right;
}

}  // namespace ltd::LTD_ISA
