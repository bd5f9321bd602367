"""Networks from diffraction patterns to object patches, by name, and the physics-informed model around them."""
