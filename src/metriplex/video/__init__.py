"""Evaluation videos: the rollout on the device, drawing and encoding off the training path."""
