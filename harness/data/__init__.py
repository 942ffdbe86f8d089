"""Images: decoded and resized once into an image cache, augmented in batches, drawn by samplers."""
