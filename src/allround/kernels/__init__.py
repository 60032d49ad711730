"""What several strategies share: products of factorised vectors, k-means++, k-centre, facility location.

Every kernel is a function of tensors on one device. Random numbers are drawn by the caller, on the host and up
front, so that the CPU and the GPU pick the same examples, but for ties within rounding.
"""
