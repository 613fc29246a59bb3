"""Hydra's config loader over our own options and a user's folder.

Some names come from `hydra._internal`: `hydra-core` is pinned below 1.4 for that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import hydra.version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mnist_exp.config.overrides import Request, parse_override
from mnist_exp.errors import RequestError

VERSION_BASE = "1.3"

# Our presets of launchers have the names of the plugins' own, and are checked against these: as we want it.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against", category=UserWarning)

# Hydra lets a TypeError through where an override deletes an entry of a list, a ValueError for model=null,
# and an OSError for a file that holds a number.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, TypeError, ValueError, OSError)


def conf_folder() -> Path:
    """The folder with our own options: packaged in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


@contextmanager
def config_loader(config_dir: str | None) -> Iterator[ConfigLoaderImpl]:
    """Hydra's loader over our options and those of the user's own folder. Raises `RequestError`."""
    search_path = create_config_search_path(str(conf_folder()))
    if config_dir is not None:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise RequestError(f"--config-dir {config_dir}: there is no such folder")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    hydra.version.setbase(VERSION_BASE)
    main = Hydra.create_main_hydra2("mnist-exp", search_path)
    try:
        yield cast(ConfigLoaderImpl, main.config_loader)
    finally:
        GlobalHydra.instance().clear()


def load(loader: ConfigLoaderImpl, request: Request, overrides: Sequence[str]) -> DictConfig:
    if request.base is None:
        return loader.load_configuration(request.verb, list(overrides), RunMode.RUN)
    parsed = [parse_override(text, loader) for text in overrides]
    groups = [o for o in parsed if o.is_hydra_override() or is_group(loader, o)]
    config = loader.load_configuration(request.verb, [o.input_line or "" for o in groups], RunMode.RUN)
    chosen = {o.key_or_group for o in groups}
    OmegaConf.set_struct(config, False)
    for key, value in request.base.items():
        if key not in chosen:
            # Keys that came after the run was saved have the values of our default options.
            known = config.get(key) if key != "model" and isinstance(value, Mapping) else None
            config[key] = {**known, **value} if known else value
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o not in groups], config)
    return config


def hidden_options(config_dir: str | None) -> list[Path]:
    """The options in a user's folder that have the names of ours: Hydra takes ours."""
    if config_dir is None:
        return []
    theirs, ours = Path(config_dir).expanduser(), conf_folder()
    return sorted(file for file in theirs.rglob("*.yaml") if (ours / file.relative_to(theirs)).is_file())


def option_file(loader: ConfigLoaderImpl, group: str, option: str) -> Path | None:
    """The file of an option, as Hydra finds it; None where there is none."""
    folders = [Path(source.path) for source in loader.get_sources() if source.scheme() == "file"]
    files = [folder / group / f"{option}.yaml" for folder in folders]
    return next((file for file in files if file.is_file()), None)


def is_group(loader: ConfigLoaderImpl, override: Override) -> bool:
    return bool(loader.repository.group_exists(override.key_or_group))
