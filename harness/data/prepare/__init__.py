"""`harness prepare`: turn an archive or a folder into a data set that is ready for runs."""
