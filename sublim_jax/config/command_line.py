"""The command line of a config: finding the file, setting fields, and the lists of configs and fields. No JAX."""

import ast
import difflib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from sublim_jax.config import grid, schema
from sublim_jax.core.errors import ConfigError, unknown_name


def parse_flags(values: flags.FlagValues, argv: Sequence[str], intro: str) -> flags.FlagValues:
    """Parse a command line with `--config`, `--workdir` and `--help` besides the flags defined in `values`.

    Args:
        values: flags of the command; those of this function are added.
        argv: words of the command line, the first one being the program.
        intro: text that --help prints before the flags.

    Raises:
        ConfigError: for a wrong flag, file, field or type, with one line that says what is allowed.
    """
    flags.DEFINE_string("workdir", None, "folder of results, e.g. --workdir=results/mine", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    if {"-h", "--help"} & set(argv[1:]):
        described = {"config": "a config by name or file, e.g. --config=figure2 or --config=mine.py"}
        described |= {flag.name: flag.help or "" for flag in dict.fromkeys(values[name] for name in values)}
        print(intro, "Flags:", *(f"  --{name:<12} {text}" for name, text in described.items()), sep="\n")
        raise SystemExit(0)
    words, source = _split_config(argv[1:])
    if source is not None:
        config = load_config(source)
        _check_overrides(words, config)
        parsing = {"flag_values": values, "lock_config": True, "sys_argv": [argv[0], *words]}
        config_flags.DEFINE_config_dict("config", config, "config", **parsing)
    try:
        rest = values([argv[0], *words])
    except flags.Error as error:
        raise ConfigError(_line(error)) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"command line: {_line(error)}") from error
    if rest[1:]:
        raise ConfigError(f"command line: {rest[1]!r} is not a flag; fields are given as --config.field=value")
    return values


def require_config(values: flags.FlagValues) -> None:
    """Raise `ConfigError` unless the command line named a config."""
    if "config" not in values:
        raise ConfigError("config: not given; say for instance --config=quickstart")


def _split_config(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words without --config=FILE, and FILE."""
    rest, source, index = [], None, 0
    while index < len(words):
        word = words[index]
        if re.match(r"--?config=", word):
            source = word.split("=", 1)[1]
        elif word in ("--config", "-config") and index + 1 < len(words):
            source, index = words[index + 1], index + 1
        else:
            rest.append(word)
        index += 1
    return rest, source


def _check_overrides(words: Sequence[str], config: ConfigDict) -> None:
    """Refuse a misspelt field or a value of a wrong type."""
    for index, word in enumerate(words):
        match = re.match(r"--?(no)?config\.([^=]+)(=(.*))?$", word, re.DOTALL)
        if match is None:
            continue
        path, text = match[2], match[4]
        _check_field(path, config)
        default = grid.flatten(config).get(path)
        if text is None and index + 1 < len(words) and not isinstance(default, bool):
            text = words[index + 1]
        if default is not None and text is not None and not _has_type(text, default):
            allowed = schema.allowed(schema.fields_of(config), path)
            raise ConfigError(f"--config.{path}={text}: must be {allowed}")


def _check_field(path: str, config: ConfigDict) -> None:
    section: Any = config
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(section, ConfigDict) or part not in section:
            if grid.plain_name(path) in grid.RENAMED:
                raise grid.unknown_field("command line", path, ())
            names = list(section) if isinstance(section, ConfigDict) else ["(no fields)"]
            raise ConfigError(unknown_name(f"--{'.'.join(['config', *parts[:depth]])}", part, names))
        section = section[part]


def _has_type(text: str, default: Any) -> bool:
    """Whether a text of the command line can be read as a value of the type of the default."""
    if isinstance(default, bool):
        return text.lower() in ("true", "false", "t", "f", "1", "0", "yes", "no", "y", "n")
    if isinstance(default, str):
        return True
    try:
        if isinstance(default, tuple):
            ast.literal_eval(text)
        else:
            type(default)(text)
    except (ValueError, SyntaxError):
        return False
    return True


def config_files() -> dict[str, Path]:
    """The configs that come with the package by name: from the wheel, or from the root of a checkout."""
    package = Path(__file__).parent.parent
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def find_config(name: str) -> Path:
    """The file of a config, given by its path or by its bare name; raises `ConfigError` where there is none."""
    if Path(name).is_file():
        return Path(name)
    known = config_files()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(Path(name).stem, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; --list prints the configs of the project"
    raise ConfigError(f"config={name!r}: no such file or config{hint}")


def load_config(source: str) -> ConfigDict:
    """The config of `NAME`, `FILE.py` or either followed by `:ARGUMENT`, which `get_config` receives.

    Raises:
        ConfigError: where there is no such file, or where its code fails.
    """
    name, _, argument = source.partition(":")
    file = find_config(name)
    spec = importlib.util.spec_from_file_location("sublim_jax_config", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config={name!r}: must be a Python file with get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except Exception as error:  # code of a user
        raise ConfigError(f"config={name!r}: {_renamed(error) or f'{type(error).__name__}: {_line(error)}'}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config={name!r}: get_config() must return a ConfigDict, it returned {type(config).__name__}"
        )
    return config


def _renamed(error: Exception) -> str:
    """The line for a locked config that was asked for a field by its old name; empty for any other error."""
    key = re.search(r"""['"](\w+)['"]""", str(error))
    new = {old.rpartition(".")[2]: name.rpartition(".")[2] for old, name in grid.RENAMED.items()}
    known = isinstance(error, AttributeError | KeyError) and key is not None and key[1] in new
    return f"field {key[1]!r} is now called {new[key[1]]!r}" if known and key else ""


def list_configs() -> str:
    """Every config with its purpose, its measured time and the folder of its kept result."""
    lines = []
    for name, path in config_files().items():
        purpose, _, body = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")
        text = " ".join(re.sub(r"^ *python -m .*$", "", body, flags=re.MULTILINE).split())
        time = re.search(r"(?:(?<=\. )|^)[^.]*?(?:[\d.]+ minutes|About a minute)[^;]*?(?=[.;:] |[.;]$)", text)
        kept = re.search(r"experiments/\w+/", text)
        lines += [f"{name}: {purpose}", f"    {time[0] if time else 'not measured'}"]
        lines[-1] += f"; kept in {kept[0]}" if kept else ""
    return "\n".join(lines)


def list_fields() -> str:
    """Every field of the image and language configs with type, default, allowed values and meaning."""
    lines = []
    tables = {"Image configs": schema.IMAGE_FIELDS, "Language configs": schema.LANGUAGE_FIELDS}
    for title, fields in tables.items():
        lines += [title, ""]
        for name, (default, rule, meaning) in fields.items():
            lines += [f"--config.{name}={default!r}  {type(default).__name__}", f"    {meaning}", f"    {rule.allowed}"]
        lines += [""]
    return "\n".join(lines)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
