"""The configuration: one YAML file describes one run. Other packages import these names from here.

Needs neither torch nor a GPU.
"""

from distill.config.images import DEAD_LEAVES, SAMPLES, AugmentConfig, DataConfig, ImageSource, ValidationImagesConfig
from distill.config.load import ConfigError, dump_config, load_config, load_study, parse_config, parse_recipe
from distill.config.networks import GENERAL, RestormerConfig, TeacherConfig, UNetConfig, general_student
from distill.config.schema import Config
from distill.config.study import StudyConfig, ValidationSet, Variant
from distill.config.training import (
    DEVICE_NAMES,
    FURTHER_METRICS,
    LOSS_TERMS,
    MetricName,
    OptimizerConfig,
    StageConfig,
    TeacherForm,
    VggConfig,
)

__all__ = [
    "DEAD_LEAVES",
    "DEVICE_NAMES",
    "FURTHER_METRICS",
    "GENERAL",
    "LOSS_TERMS",
    "SAMPLES",
    "AugmentConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "ImageSource",
    "MetricName",
    "OptimizerConfig",
    "RestormerConfig",
    "StageConfig",
    "StudyConfig",
    "TeacherConfig",
    "TeacherForm",
    "UNetConfig",
    "ValidationImagesConfig",
    "ValidationSet",
    "Variant",
    "VggConfig",
    "dump_config",
    "general_student",
    "load_config",
    "load_study",
    "parse_config",
    "parse_recipe",
]
