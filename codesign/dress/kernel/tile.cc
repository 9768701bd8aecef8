// The row-sparse product of some panels and some blocks of tokens, for one instruction set.
//
// Compiled once for each: -DINSTRUCTION_SET=kAvx512 -mavx512f ... No template of the standard
// library may come in here: the linker would keep one copy for all instruction sets.
//
// Every weight of a row meets the same 16 tokens at once: a block holds x with the tokens
// innermost, so the inputs of one column are one cache line. A tile of kTileRows rows times
// `group` blocks of tokens lies in registers; each weight and its column are then read once for
// all its tokens, and what is left is one load of x per multiply-add. With few registers a tile
// has few rows, and x would come from the second cache each time: all rows of a panel then go
// through the same window of columns before the next.

#include "tile.h"

#include <cstdint>
#include <cstring>

namespace row_sparse {
namespace {

#if defined(__AVX512F__)
constexpr long kLanes = 16, kGroup = 3, kTileRows = 8, kTallRows = 16;
#elif defined(__AVX2__)
constexpr long kLanes = 8, kGroup = 3, kTileRows = 2, kTallRows = 4;
#elif defined(__aarch64__)  // 32 registers
constexpr long kLanes = 4, kGroup = 1, kTileRows = 4, kTallRows = 4;
#else
constexpr long kLanes = 4, kGroup = 1, kTileRows = 2, kTallRows = 2;
#endif
constexpr long kVectors = kTokens / kLanes;  // of a block
// Bytes of x that all rows of a panel go through together, to stay in the first cache. Eight
// rows and more share enough without, and sums would be stored too often.
constexpr long kWindow = kTileRows < 8 ? 32768 : 1L << 40;

// `aligned(4)`: may lie anywhere; `may_alias`: is read from plain arrays.
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef std::int32_t Bits __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits are kept");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline Vector all(float value) { return Vector{} + value; }

inline Vector clamp(Vector v, float low, float high) {
  v = v < all(low) ? all(low) : v;
  return v > all(high) ? all(high) : v;
}

// ---- values of either type -------------------------------------------------------------------

inline float widened(float value) { return value; }
inline float widened(std::uint16_t value) {  // bfloat16
  return bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

// ---- activations -----------------------------------------------------------------------------

// exp to 2 ulp: 2^k times the Taylor series of what is left, at most ln(2)/2.
inline Vector exponential(Vector x) {
  x = clamp(x, -87.0f, 88.0f);
  const Vector shift = all(12582912.0f);  // 1.5 * 2^23: its sum with k has k in its lowest bits
  const Vector shifted = x * all(1.44269504f) + shift;
  const Vector k = shifted - shift;
  const Vector r = (x - k * all(0.693359375f)) - k * all(-2.12194440e-4f);
  Vector sum = all(1.0f / 5040);
  const float rest[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (float coefficient : rest) sum = sum * r + all(coefficient);
  return bit_cast<Vector>(bit_cast<Bits>(sum) + (bit_cast<Bits>(shifted) << 23));
}

// erf to 4e-7: z P(z^2) / Q(z^2), fitted by least squares to the error relative to erf on [0, 4].
inline Vector error_function(Vector z) {
  z = clamp(z, -4.0f, 4.0f);
  const Vector t = z * z;
  const float above[] = {2.8457852e-4f, 3.8837851e-3f, 5.3103089e-2f, 0.19355496f, 1.1283791f};
  const float below[] = {1.185684e-3f, 1.5208121e-2f, 0.11535413f, 0.50486618f, 1.0f};
  Vector p = all(1.9867389e-6f), q = all(3.7420399e-5f);
  for (int i = 0; i < 5; i++) {
    p = p * t + all(above[i]);
    q = q * t + all(below[i]);
  }
  return z * p / q;
}

inline Vector activated(Vector v, Activation activation) {
  switch (activation) {
    case kGelu:
      return all(0.5f) * v * (all(1.0f) + error_function(v * all(0.70710678f)));
    case kQuickGelu:
      return v / (all(1.0f) + exponential(v * all(-1.702f)));
    default:
      return v;
  }
}

// ---- transposing -----------------------------------------------------------------------------

#if defined(__clang__)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef std::int32_t FourIndices __attribute__((vector_size(16)));
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (FourIndices{i, j, k, l}))
#endif

// Four rows of four from `from` to `to`, columns and rows exchanged.
inline void transpose_four(const float* const from[4], float* to, long stride) {
  Four row[4];
  for (int i = 0; i < 4; i++) row[i] = *reinterpret_cast<const Four*>(from[i]);
  const Four low01 = SHUFFLE(row[0], row[1], 0, 4, 1, 5);
  const Four low23 = SHUFFLE(row[2], row[3], 0, 4, 1, 5);
  const Four high01 = SHUFFLE(row[0], row[1], 2, 6, 3, 7);
  const Four high23 = SHUFFLE(row[2], row[3], 2, 6, 3, 7);
  *reinterpret_cast<Four*>(to) = SHUFFLE(low01, low23, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(to + stride) = SHUFFLE(low01, low23, 2, 3, 6, 7);
  *reinterpret_cast<Four*>(to + 2 * stride) = SHUFFLE(high01, high23, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(to + 3 * stride) = SHUFFLE(high01, high23, 2, 3, 6, 7);
}

// x [tokens, inputs] -> blocks [.., inputs, 16]. Past the last token it is repeated: what comes
// of it is never written.
void pack(const Product& p, Range blocks) {
  for (long b = blocks.begin; b < blocks.end; b++) {
    float* block = p.blocks + b * p.inputs * kTokens;
    for (long first = 0; first < kTokens; first += 4) {
      const float* token[4];
      for (long i = 0; i < 4; i++) {
        const long t = b * kTokens + first + i;
        token[i] = p.x + (t < p.tokens ? t : p.tokens - 1) * p.inputs;
      }
      long c = 0;
      for (; c + 4 <= p.inputs; c += 4) {
        const float* const corner[4] = {token[0] + c, token[1] + c, token[2] + c, token[3] + c};
        transpose_four(corner, block + c * kTokens + first, kTokens);
      }
      for (; c < p.inputs; c++)
        for (long i = 0; i < 4; i++) block[c * kTokens + first + i] = token[i][c];
    }
  }
}

// ---- many tokens -----------------------------------------------------------------------------

struct Tile {
  float of[kGroup][kRows][kTokens];
};

// kHeight rows of a panel times kWidth blocks of tokens, summed in registers: the steps j of a
// range, on top of the tile's sums of those before.
template <long kHeight, long kWidth, class Value, class Column>
inline void sum_rows(const Product& p, const float* block, const Value* values,
                     const Column* columns, Tile& tile, long row, Range steps) {
  const long stride = p.inputs * kTokens;
  Vector sum[kHeight][kWidth][kVectors] = {};
  if (steps.begin)
    for (long r = 0; r < kHeight; r++)
      for (long b = 0; b < kWidth; b++)
        for (long v = 0; v < kVectors; v++)
          sum[r][b][v] = *reinterpret_cast<const Vector*>(&tile.of[b][row + r][v * kLanes]);
  for (long j = steps.begin; j < steps.end; j++) {
#pragma GCC unroll 16
    for (long r = 0; r < kHeight; r++) {
      const Vector weight = all(widened(values[kRows * j + row + r]));
      const float* input = block + kTokens * static_cast<long>(columns[kRows * j + row + r]);
#pragma GCC unroll 4
      for (long b = 0; b < kWidth; b++)
#pragma GCC unroll 4
        for (long v = 0; v < kVectors; v++)
          sum[r][b][v] +=
              weight * *reinterpret_cast<const Vector*>(input + b * stride + v * kLanes);
    }
  }
  for (long r = 0; r < kHeight; r++)
    for (long b = 0; b < kWidth; b++)
      for (long v = 0; v < kVectors; v++)
        *reinterpret_cast<Vector*>(&tile.of[b][row + r][v * kLanes]) = sum[r][b][v];
}

// Bias and activation of one block's part of a tile, and its way to y.
void write_out(const Product& p, float (&sums)[kRows][kTokens], long block, long panel) {
  const long first_row = panel * kRows, first_token = block * kTokens;
  const long rows = p.rows - first_row < kRows ? p.rows - first_row : kRows;
  const long tokens = p.tokens - first_token < kTokens ? p.tokens - first_token : kTokens;
  for (long r = 0; r < rows; r++)
    for (long v = 0; v < kTokens; v += kLanes) {
      Vector* sum = reinterpret_cast<Vector*>(&sums[r][v]);
      const Vector shifted = p.bias ? *sum + all(p.bias[first_row + r]) : *sum;
      *sum = activated(shifted, p.activation);
    }
  float* y = p.y + first_token * p.rows + first_row;
  long t = 0;
  if (rows == kRows)
    for (; t + 4 <= tokens; t += 4)
      for (long r = 0; r < kRows; r += 4) {
        const float* const corner[4] = {&sums[r][t], &sums[r + 1][t], &sums[r + 2][t],
                                        &sums[r + 3][t]};
        transpose_four(corner, y + t * p.rows + r, p.rows);
      }
  for (; t < tokens; t++)
    for (long r = 0; r < rows; r++) y[t * p.rows + r] = sums[r][t];
}

template <long kHeight, long kWidth, class Value, class Column>
void multiply_group(const Product& p, long block, Range panels) {
  const float* inputs = p.blocks + block * p.inputs * kTokens;
  const long windows = 1 + p.inputs * kTokens * kWidth * 4 / kWindow;
  Tile tile;
  for (long panel = panels.begin; panel < panels.end; panel++) {
    const long offset = panel * p.stored * kRows;
    const Value* values = static_cast<const Value*>(p.values) + offset;
    const Column* columns = static_cast<const Column*>(p.columns) + offset;
    for (long t = block * kTokens; t < (block + kWidth) * kTokens && t < p.tokens; t++)
      __builtin_prefetch(p.y + t * p.rows + panel * kRows, 1, 2);  // for write_out
    for (long i = 0; i < windows; i++)
      for (long row = 0; row < kRows; row += kHeight)
        sum_rows<kHeight, kWidth>(p, inputs, values, columns, tile, row,
                                  {p.n * i / windows, p.n * (i + 1) / windows});
    for (long b = 0; b < kWidth; b++) write_out(p, tile.of[b], block + b, panel);
  }
}

template <class Value, class Column>
void multiply_typed(const Product& p, Range blocks, Range panels) {
  switch (blocks.end - blocks.begin) {
    case 1:
      return multiply_group<kTallRows, 1, Value, Column>(p, blocks.begin, panels);
    case 2:
      return multiply_group<kTileRows, kGroup < 2 ? 1 : 2, Value, Column>(p, blocks.begin, panels);
    default:
      return multiply_group<kTileRows, kGroup, Value, Column>(p, blocks.begin, panels);
  }
}

// ---- one token -------------------------------------------------------------------------------

// x at the columns of four rows. The processor's own gather is slower than this.
inline Four at_columns(const float* x, const std::uint16_t* columns) {
  std::uint64_t four;  // one load; all these processors put the lowest byte first
  std::memcpy(&four, columns, sizeof(four));
  return Four{x[four & 0xffff], x[four >> 16 & 0xffff], x[four >> 32 & 0xffff], x[four >> 48]};
}

inline Four at_columns(const float* x, const std::uint32_t* columns) {
  return Four{x[columns[0]], x[columns[1]], x[columns[2]], x[columns[3]]};
}

inline Four four_values(const float* values) { return *reinterpret_cast<const Four*>(values); }
inline Four four_values(const std::uint16_t* values) {
  return Four{widened(values[0]), widened(values[1]), widened(values[2]), widened(values[3])};
}

template <class Value, class Column>
void multiply_token_typed(const Product& p, Range panels) {
  constexpr long kAhead = 32;  // steps by which weights are fetched from memory before their use
  for (long panel = panels.begin; panel < panels.end; panel++) {
    const long offset = panel * p.stored * kRows;
    const Value* values = static_cast<const Value*>(p.values) + offset;
    const Column* columns = static_cast<const Column*>(p.columns) + offset;
    Four sum[kRows / 4] = {};
    for (long j = 0; j < p.n; j++) {
      // Past the n-th step the next panel's first ones follow.
      const long ahead = kRows * (j + kAhead < p.n ? j + kAhead : j + kAhead - p.n + p.stored);
      __builtin_prefetch(values + ahead);
      __builtin_prefetch(columns + ahead);
#pragma GCC unroll 4
      for (long r = 0; r < kRows; r += 4)
        sum[r / 4] += four_values(values + kRows * j + r) * at_columns(p.x, columns + kRows * j + r);
    }
    float sums[kRows];
    std::memcpy(sums, sum, sizeof(sums));
    const long first = panel * kRows;
    const long rows = p.rows - first < kRows ? p.rows - first : kRows;
    if (p.bias)
      for (long r = 0; r < rows; r++) sums[r] += p.bias[first + r];
    for (long v = 0; v < kRows; v += kLanes) {
      Vector* part = reinterpret_cast<Vector*>(sums + v);
      *part = activated(*part, p.activation);
    }
    std::memcpy(p.y + first, sums, rows * sizeof(float));
  }
}

// ---- types -----------------------------------------------------------------------------------

void multiply(const Product& p, Range blocks, Range panels) {
  using std::uint16_t;
  using std::uint32_t;
  if (p.narrow_values)
    return p.wide_columns ? multiply_typed<uint16_t, uint32_t>(p, blocks, panels)
                          : multiply_typed<uint16_t, uint16_t>(p, blocks, panels);
  return p.wide_columns ? multiply_typed<float, uint32_t>(p, blocks, panels)
                        : multiply_typed<float, uint16_t>(p, blocks, panels);
}

void multiply_token(const Product& p, Range panels) {
  using std::uint16_t;
  using std::uint32_t;
  if (p.narrow_values)
    return p.wide_columns ? multiply_token_typed<uint16_t, uint32_t>(p, panels)
                          : multiply_token_typed<uint16_t, uint16_t>(p, panels);
  return p.wide_columns ? multiply_token_typed<float, uint32_t>(p, panels)
                        : multiply_token_typed<float, uint16_t>(p, panels);
}

}  // namespace

const InstructionSet INSTRUCTION_SET = {kGroup, pack, multiply, multiply_token};

}  // namespace row_sparse
