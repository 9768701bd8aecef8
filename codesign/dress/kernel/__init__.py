"""The row-sparse product on a CPU, faster than the dense one; right everywhere.

panels.py   the layouts that a kernel's rows are kept in
product.py  the product itself, with its derivatives, batching and fallback
native.py   the compiled part as a call of XLA
build.py    compiles it, once for a machine
call.cc     checks, instruction sets, threads
tile.cc     the arithmetic, compiled for each instruction set
"""
