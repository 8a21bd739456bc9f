"""The page in which a person edits the captions of a data set: one HTML file that needs no server and no network."""
