// The product as a custom call of XLA: checks its buffers, chooses the instruction set, and
// shares the work among the threads of XLA's own pool.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "tile.h"
#include "xla/ffi/api/ffi.h"

namespace row_sparse {
namespace {

namespace ffi = xla::ffi;

// Multiply-adds that are done before another thread has woken up.
constexpr double kAlone = 2e5;
// Parts for each thread: the threads of a busy machine are not equally fast.
constexpr long kParts = 4;

// At most `most`: 0 is the baseline, 1 AVX2, 2 AVX-512.
const InstructionSet& instruction_set(std::int32_t most) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (most >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return kAvx512;
  if (most >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kBaseline;
}

// work(0) ... work(items - 1), by this thread and by those of the pool that come in time.
//
// This one waits for parts that were begun, never for a thread to begin: a pool whose threads
// are all waiting like this still ends. A thread that comes too late finds no part left, and
// touches nothing but the counters, which it shares in owning.
template <class Work>
void share(ffi::ThreadPool& pool, long threads, long items, const Work& work) {
  struct Counters {
    std::atomic<long> next{0}, done{0};
  };
  auto counters = std::make_shared<Counters>();
  auto take = [counters, items, &work] {
    for (long i; (i = counters->next.fetch_add(1)) < items;) {
      work(i);
      counters->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (long i = 1; i < std::min(threads, items); i++) pool.Schedule(decltype(take)(take));
  take();
  while (counters->done.load(std::memory_order_acquire) < items) std::this_thread::yield();
}

// The i-th of `parts` nearly equal parts of [0, size).
Range part(long size, long i, long parts) { return {size * i / parts, size * (i + 1) / parts}; }

void run(ffi::ThreadPool& pool, const InstructionSet& isa, const Product& p) {
  const double work = static_cast<double>(p.tokens) * p.rows * p.n;
  const long threads = work < kAlone ? 1 : std::max<long>(1, pool.num_threads());
  const long panels = (p.rows + kRows - 1) / kRows;
  const long wanted = threads == 1 ? 1 : kParts * threads;
  if (p.tokens == 1) {
    const long parts = std::min(panels, wanted);
    return share(pool, threads, parts,
                 [&](long i) { isa.multiply_token(p, part(panels, i, parts)); });
  }
  const long blocks = (p.tokens + kTokens - 1) / kTokens;
  share(pool, threads, blocks, [&](long i) { isa.pack(p, {i, i + 1}); });
  const long groups = (blocks + isa.group - 1) / isa.group;
  const long parts = std::min(panels, (wanted + groups - 1) / groups);
  share(pool, threads, groups * parts, [&](long i) {
    isa.multiply(p, part(blocks, i / parts, groups), part(panels, i % parts, parts));
  });
}

ffi::Error row_sparse_product(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer values,
                              ffi::AnyBuffer columns, ffi::Buffer<ffi::S32> n,
                              ffi::Buffer<ffi::F32> bias, ffi::ResultBuffer<ffi::F32> y,
                              ffi::ResultBuffer<ffi::F32> blocks, std::int32_t activation,
                              std::int32_t most) {
  const auto kept = values.dimensions(), in = x.dimensions(), out = y->dimensions();
  if (in.size() != 2 || out.size() != 2 || kept.size() != 3 || kept[2] != kRows ||
      in[0] != out[0] || kept[0] != (out[1] + kRows - 1) / kRows ||
      columns.element_count() != values.element_count())
    return ffi::Error::InvalidArgument("row_sparse_product: shapes do not fit each other");
  if (!in[0] || !out[1]) return ffi::Error::Success();
  Product p;
  p.x = x.typed_data();
  p.blocks = blocks->typed_data();
  p.values = values.untyped_data();
  p.columns = columns.untyped_data();
  p.bias = bias.element_count() ? bias.typed_data() : nullptr;
  p.y = y->typed_data();
  p.tokens = in[0];
  p.inputs = in[1];
  p.rows = out[1];
  p.stored = kept[1];
  p.n = std::clamp<long>(*n.typed_data(), 0, p.stored);
  p.narrow_values = values.element_type() == ffi::BF16;
  p.wide_columns = columns.element_type() == ffi::U32;
  p.activation = static_cast<Activation>(activation);
  run(pool, instruction_set(most), p);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace row_sparse

XLA_FFI_DEFINE_HANDLER_SYMBOL(RowSparseProduct, row_sparse::row_sparse_product,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()  // x
                                  .Arg<xla::ffi::AnyBuffer>()              // values
                                  .Arg<xla::ffi::AnyBuffer>()              // columns
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()  // n
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()  // bias
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()  // y
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()  // blocks
                                  .Attr<std::int32_t>("activation")
                                  .Attr<std::int32_t>("most"));
