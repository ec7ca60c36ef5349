"""The kernels in Triton, for CUDA tensors; each function is that of ``plain`` with its name.

None of them waits for the device: no result is read by the host, and every size is known from the
shapes. Triton compiles each kernel at its first use. With ``TRITON_INTERPRET=1`` in the environment
before the first import, the same kernels run on CPU tensors, slowly: for tests.
"""

from models.kernels.cuda_matching import match
from models.kernels.cuda_points import ball_query, farthest_point_sample, knn, smallest
from models.kernels.cuda_projection import visible_max, visible_max_backward

__all__ = [
    "ball_query",
    "farthest_point_sample",
    "knn",
    "match",
    "smallest",
    "visible_max",
    "visible_max_backward",
]
