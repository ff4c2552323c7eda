"""Training of the correctors, without the Slicer application and without a screen."""
