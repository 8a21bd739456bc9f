"""The decompositions of a stored weight delta, by the method that trained it: LoRA, LoHa, LoKr."""
