"""Pure functions of tensors and numbers; they return one value per agent, the caller reduces."""
