"""The state of a run on disk: its checkpoints, its lock, its latents."""
