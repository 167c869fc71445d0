"""The commands of ``bg-pipeline``, one module each."""
