"""A reconstruction that examines, repairs, chooses, solves and judges itself."""
