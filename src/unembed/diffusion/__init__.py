"""The mathematics of masked diffusion: schedules, masks, the bound. Pure functions of tensors."""
