"""Where the trainer and the predictor run beside Cog: each a thin layer over the inputs of train.py and predict.py."""
