"""Ways to serve the package elsewhere: each is thin, over the checked inputs of predict.py."""
