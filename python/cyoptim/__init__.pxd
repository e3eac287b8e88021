# What `cimport cyoptim` offers to other Cython modules.
from cyoptim.kernel cimport Kernel, sum_squares_float32, sum_squares_float64
