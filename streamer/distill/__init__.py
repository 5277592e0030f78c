"""Training: the storybook world, its captions, the losses and the runs that make the weights."""
