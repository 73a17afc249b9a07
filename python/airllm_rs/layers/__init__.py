"""Building blocks of models; they get tensors as arguments, open nothing and know no device."""
