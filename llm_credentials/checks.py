"""System checks: a wrong key ring is refused at start, with a hint, instead of failing user by user."""
