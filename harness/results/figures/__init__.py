"""`harness show`: pictures of one run. matplotlib is imported only when one is drawn."""
