"""A local provider with three wire formats, for trying out Keyswitch, for its tests and for its benchmarks."""
