"""Compiled models for other runtimes: a Triton model repository, ORT format, a web page."""
