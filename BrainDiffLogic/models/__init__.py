"""Models: networks that know nothing of training, files or volumes; their weights, cards and domain."""
