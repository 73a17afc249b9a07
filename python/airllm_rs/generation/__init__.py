"""Token ids in, token ids out: the model class of transformers' generation, and the loop."""
