"""Image quality with a reference and without one, in one declared convention."""
