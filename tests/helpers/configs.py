"""The config files, loaded as the command loads them."""

import importlib.util
from pathlib import Path

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.py"))


def config_of(path):
    spec = importlib.util.spec_from_file_location("a_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config()


def config_of_argument(name, argument):
    path = next(path for path in CONFIGS if path.stem == name)
    return config_of(path)[0].get_config(argument)
