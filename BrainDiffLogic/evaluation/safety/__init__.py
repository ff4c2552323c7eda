"""Does a correction do harm? Checks with a number and a limit, for any method, that a mere gain in SSIM cannot pass."""
