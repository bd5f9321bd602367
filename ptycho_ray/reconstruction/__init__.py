"""From a trained model and a scan to one image: inference in batches, stitching on a canvas."""
