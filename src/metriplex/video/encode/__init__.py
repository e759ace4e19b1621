"""Encoding frames as GIF, WebP and MP4, exact in frames and durations. Free of jax and of threads."""
