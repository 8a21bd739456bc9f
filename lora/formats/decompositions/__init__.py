"""What a stored weight delta is a product of, by the method that trained it: LoRA, LoHa, LoKr."""
