"""**Tests**: `optimizers/` holds one card an optimizer, `support/` what several tests share; the rest is by subject."""
