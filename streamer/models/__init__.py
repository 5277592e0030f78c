"""The models: weights in modules, time in state objects.  Importing this package costs nothing."""
