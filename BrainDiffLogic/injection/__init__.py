"""Motion put into clean slices by a diffusion prior (BrainDiff, phase 3), to make pairs for a corrector."""
