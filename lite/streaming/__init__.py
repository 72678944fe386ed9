"""Where the blocks are, and how they get to the device: tiers, files, pinned ring, device slots."""
