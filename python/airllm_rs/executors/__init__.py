"""What runs the layers of a model over tokens."""
