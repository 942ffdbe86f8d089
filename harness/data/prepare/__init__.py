"""`harness prepare`: from an archive or a folder to a data set that runs can use at once."""
