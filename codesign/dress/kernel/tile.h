// What one product is, and the functions that tile.cc compiles for each instruction set.

#ifndef CODESIGN_DRESS_KERNEL_TILE_H_
#define CODESIGN_DRESS_KERNEL_TILE_H_

namespace row_sparse {

constexpr long kRows = 16;    // of a panel
constexpr long kTokens = 16;  // of a block

enum Activation : int { kIdentity = 0, kGelu = 1, kQuickGelu = 2 };

// y[t,r] = activation(bias[r] + sum over j < n of values[r,j] * x[t, columns[r,j]])
struct Product {
  const float* x;       // [tokens, inputs]
  float* blocks;        // scratch [ceil(tokens / 16), inputs, 16]: x, the tokens innermost
  const void* values;   // float32 or bfloat16 [ceil(rows / 16), stored, 16]
  const void* columns;  // uint16 or uint32, likewise
  const float* bias;    // [rows], or null
  float* y;             // [tokens, rows]
  long tokens, inputs, rows, stored, n;
  bool narrow_values;  // bfloat16
  bool wide_columns;   // uint32
  Activation activation;
};

struct Range {
  long begin, end;
};

struct InstructionSet {
  long group;  // blocks that are best taken together
  void (*pack)(const Product&, Range blocks);
  void (*multiply)(const Product&, Range blocks, Range panels);  // at most `group` blocks
  void (*multiply_token)(const Product&, Range panels);          // one token, from x itself
};

extern const InstructionSet kBaseline;
extern const InstructionSet kAvx2;
extern const InstructionSet kAvx512;

}  // namespace row_sparse

#endif  // CODESIGN_DRESS_KERNEL_TILE_H_
