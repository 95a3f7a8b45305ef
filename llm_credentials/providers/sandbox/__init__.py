"""A local provider that speaks three wire formats, for trying Keyswitch, for its tests and for its benchmarks."""
