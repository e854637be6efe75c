"""The network that recovers text, the closed-form parts beside it, and the checkpoint that holds both."""
