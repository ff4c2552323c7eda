"""Which scans there are, which belong together, and which subjects train, correct and test."""
