"""One try after another, in one process or in several."""
