"""Job files of ai-toolkit (ostris/ai-toolkit), read as the inputs of a training here. lora knows nothing of them."""
