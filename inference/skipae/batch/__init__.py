"""Batches of images: finding inputs, naming outputs, and a pipeline that reads, computes and writes in parallel."""
