"""Composing in the tests' process, where a file of configuration is parsed once for as long as it stays as it is.

Parsing takes a third of composing, which the tests do two thousand times. Everything else is done anew each time.
"""

import pickle
from pathlib import Path

from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType

parse, parsed = ConfigRepository.load_config, {}


def load_config(repository, config_path):
    """A fresh copy of what Hydra reads there. What lies in no file is Hydra's own, and its plug-ins', which stays."""
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    key = config_path, source and (type(source), source.path, source.provider)
    if source and source.scheme() == "file":
        now = Path(source.path, source._normalize_file_name(config_path)).stat()
        key += now.st_ino, now.st_mtime_ns, now.st_size
    if key not in parsed:
        parsed[key] = pickle.dumps(parse(repository, config_path))
    return pickle.loads(parsed[key])


ConfigRepository.load_config = load_config
