"""A paper from end to end on the user's own cohort: stages that go on where they stopped, and its table."""
