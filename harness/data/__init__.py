"""Images: data sets, the image cache, batch augmentation, samplers and prefetching."""
