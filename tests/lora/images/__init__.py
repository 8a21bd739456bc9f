"""The data set: archives, captions, pictures and sizes."""
