"""Many images: which there are, where results go, and the pipeline that reads, computes and writes at once."""
