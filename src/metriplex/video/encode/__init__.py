"""Encode frames as GIF, WebP and MP4, with exact frames and durations; no jax and no threads."""
