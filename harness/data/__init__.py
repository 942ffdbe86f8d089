"""Images: decoded and resized once into a bank, augmented in batches, drawn by samplers."""
