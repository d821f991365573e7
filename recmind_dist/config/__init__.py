"""Declares settings (`Settings`) and reads them: YAML with line numbers, key=value overrides."""

from recmind_dist.config.load import load_settings, resolve_settings
from recmind_dist.config.settings import Settings
from recmind_dist.config.yaml import dump_yaml

__all__ = ["Settings", "dump_yaml", "load_settings", "resolve_settings"]
