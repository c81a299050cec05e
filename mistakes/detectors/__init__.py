"""What finds failures: densities, baselines, the guard, and their calibration."""
