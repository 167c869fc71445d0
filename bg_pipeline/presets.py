"""The presets a rendition may name."""
from bg_pipeline.batch import NO_PRESETS as PRESETS
__all__ = ["PRESETS"]
