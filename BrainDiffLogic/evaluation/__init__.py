"""What a correction is worth: quality on pairs of a moved and a still scan, and checks that it does no harm."""
