"""What a laboratory adds to ptycho_ray."""
