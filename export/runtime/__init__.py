"""Pictures through any model, local or served."""
