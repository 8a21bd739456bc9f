"""What all families of base models share: the record of a family, loading, placement, and the frozen transformer."""
