"""Kernels compiled ahead of time, for cards that are not here, and judged by what the compiler made of them.

`table` starts the workers, `worker` compiles `cases` with `compile`, `rows` judges; `sass` and `static_bound` say how
fast the machine code could be; `search` tries launches; `sage` is the kernel ours are compared with. No kernel of the
runtime needs any of it.
"""
