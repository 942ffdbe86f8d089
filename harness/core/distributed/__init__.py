"""One experiment on several processes, and a batch in several micro-batches."""
