"""The command line of a config: finding the file, setting fields, and the lists of configs and fields. No JAX."""

import ast
import difflib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from sublim_jax.cli import flag_error, folder, one_line
from sublim_jax.config import base, grid, schema
from sublim_jax.config.fields import IMAGE_FIELDS, INFOMORPHIC_FIELDS, LANGUAGE_FIELDS, LLM_FIELDS
from sublim_jax.config.grid import Config
from sublim_jax.core.errors import ConfigError, shown, unknown_name
from sublim_jax.core.nested import flatten

_TABLES = {
    "Image configs": IMAGE_FIELDS,
    "Language configs": LANGUAGE_FIELDS,
    "Configs of infomorphic networks": INFOMORPHIC_FIELDS,
    "Configs of pretrained models": LLM_FIELDS,
}
_YES, _NO = ("true", "t", "1", "yes", "y"), ("false", "f", "0", "no", "n")


class Request(NamedTuple):
    """What a command line asks for: the config, if it names one, and the fields that it sets."""

    config: Config | None
    overrides: dict[str, Any]

    def resolve(self) -> Config:
        """The checked config; raises `ConfigError` where none is named."""
        if self.config is None:
            raise ConfigError("config: not given; say for instance --config=quickstart")
        return base.resolve(self.config, self.overrides)


def parse_flags(values: flags.FlagValues, argv: Sequence[str], intro: str) -> Request:
    """Parse a command line with `--config`, `--workdir` and `--help` besides the flags defined in `values`.

    Args:
        values: Flags of the command, which receive their values; those of this function are added.
        argv: Words of the command line, the first one being the program.
        intro: Text that --help prints before the flags.

    Raises:
        ConfigError: A flag, file, field or type is wrong.
    """
    config_help = "a config by name or file, e.g. --config=figure2 or --config=mine.py"
    flags.DEFINE_string("config", None, config_help, flag_values=values)
    workdir_help = "folder of results, e.g. --workdir=results/mine; auto: a free one"
    flags.DEFINE_string("workdir", None, workdir_help, flag_values=values)
    sweep_help = "sweep a field over values, may be repeated, e.g. --sweep=student.lr=1e-3,1e-4"
    flags.DEFINE_multi_string("sweep", [], sweep_help, flag_values=values)
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    values.set_gnu_getopt()
    try:
        words = iter(values(argv, known_only=True)[1:])
        if values.help:
            listed = dict.fromkeys(values[name] for name in values)
            print(intro, "Flags:", *(f"  --{flag.name:<12} {_help(flag)}" for flag in listed), sep="\n")
            raise SystemExit(0)
        request = Request(None if values.config is None else load_config(values.config), {})
        for word in words:
            match = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", word, re.DOTALL)
            if match and request.config is not None:
                field, default = match[2], _default(request.config, match[2])
                text = match[3]
                if text is None:
                    text = str(not match[1]) if isinstance(default, bool) else next(words, "")
                request.overrides[field] = _value(request.config, field, text, default)
            elif values([argv[0], word])[1:]:  # which raises for an unknown flag
                raise ConfigError(f"command line: {word!r} is not a flag; fields are given as --config.field=value")
    except flags.Error as error:
        raise ConfigError(flag_error(error)) from error
    if values.workdir is not None:
        values.workdir = folder("workdir", values.workdir)
    if request.config is not None:
        schema.set_fields(request.config, request.overrides)
        for axis in values.sweep:
            request.overrides.update(_sweep(request.config, axis))
    return request


def _help(flag: Any) -> str:
    """The help of a flag on one line, without what absl says of flags that may be repeated."""
    return " ".join(flag.help.split()).split("; repeat this option")[0]


def _sweep(config: Config, axis: str) -> dict[str, Any]:
    """Add an axis, FIELD=VALUE,VALUE, to every grid of a config, or to a new one; returns the fields that it set."""
    field, _, text = axis.partition("=")
    known = {name: value for name, value in flatten(config.to_dict()).items() if grid.plain_name(name) == name}
    if field not in known:
        raise grid.unknown_field("--sweep", field, known)
    values = _values(config, field, text, known[field])
    with config.unlocked():
        for name in [*config.arms] or ["sweep"]:
            arm = flatten(config.arms[name].to_dict()) if name in config.arms else {}
            config.arms[name] = grid.nested({**arm, field: values})
    return {f"arms.{name}.{field}": values for name in config.arms}


def _values(config: Config, field: str, text: str, default: Any) -> tuple[Any, ...]:
    """The values of a field that a text lists: with commas between them, or, where each is a tuple, as Python."""
    if not isinstance(default, tuple):
        return tuple(_value(config, field, part.strip(), default, "--sweep") for part in text.split(","))
    try:
        values = ast.literal_eval(f"({text},)")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = tuple(part.strip() for part in text.split(","))  # names
    if field in grid.SWEPT_ALWAYS:
        return values
    return tuple(value if isinstance(value, tuple) else (value,) for value in values)


def _default(config: Config, field: str) -> Any:
    """The value of a field in a config; raises `ConfigError` where there is no such field."""
    section, path = config, ["config"]
    for name in field.split("."):
        if not isinstance(section, ConfigDict) or name not in section:
            names = sorted(section) if isinstance(section, ConfigDict) else ["(no fields)"]
            if grid.plain_name(field) in grid.RENAMED:
                raise grid.unknown_field("command line", field, ())
            raise ConfigError(unknown_name(f"--{'.'.join(path)}", name, names))
        section, path = section[name], [*path, name]
    if isinstance(section, ConfigDict):
        fields = ", ".join(section) or "none; see --sweep"
        raise ConfigError(f"--config.{field}: is a section of the config; set one of its fields, {fields}")
    return section


def _value(config: Config, field: str, text: str, default: Any, flag: str = "--config") -> Any:
    """The value that a text of the command line means, of the type of the default."""
    try:
        if isinstance(default, bool):
            return {**dict.fromkeys(_YES, True), **dict.fromkeys(_NO, False)}[text.lower()]
        if isinstance(default, str | int | float):
            return type(default)(text)
        if re.fullmatch(r"[\w*?,-]+", text) and schema.holds_names(config, field) and not text[0].isdigit():
            return tuple(text.removesuffix(",").split(","))
        value = ast.literal_eval(text)
    except (KeyError, ValueError, SyntaxError, MemoryError, RecursionError) as error:  # of nested brackets
        raise schema.bad_value(config, field, shown(text)[1:-1], flag) from error
    return value if isinstance(value, tuple) or not isinstance(default, tuple) else (value,)


def config_files() -> dict[str, Path]:
    """The configs that come with the package by name: from the wheel, or from the root of a checkout."""
    package = Path(__file__).parent.parent
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def find_config(name: str) -> Path:
    """The file of a config, given by its path or by its bare name; raises `ConfigError` where there is none."""
    path = Path(name).expanduser()
    if name.isprintable() and len(name) < 4096 and path.is_file():
        return path
    known = config_files()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(Path(name).stem, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; --list prints the configs of the project"
    raise ConfigError(f"config={shown(name)}: no such file or config{hint}")


def load_config(source: str) -> ConfigDict:
    """The config of `NAME`, `FILE.py` or either followed by `:ARGUMENT`, which `get_config` receives.

    Raises:
        ConfigError: There is no such file, or its code fails.
    """
    name, _, argument = source.partition(":")
    spec = importlib.util.spec_from_file_location("sublim_jax_config", find_config(name))
    if spec is None or spec.loader is None:
        raise ConfigError(f"config={name!r}: must be a Python file (.py) with get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except (Exception, SystemExit) as error:  # code of a user
        raise ConfigError(f"config={name!r}: {_reason(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"config={name!r}: get_config() must return a ConfigDict, not {type(config).__name__}")
    return config


def _reason(error: BaseException) -> str:
    """Why a config file fails: the new name of a field where it uses the old one, or the values that a field allows."""
    key = re.search(r"""['"](\w+)['"]""", str(error)) if isinstance(error, AttributeError | KeyError) else None
    new = {old.rpartition(".")[2]: name.rpartition(".")[2] for old, name in grid.RENAMED.items()}
    if key and key[1] in new:
        return f"field {key[1]!r} is now called {new[key[1]]!r}"
    if key and key[1] == "get_config":
        return "has no function get_config()"
    if isinstance(error, TypeError) and (
        key := re.match(r"Could not override field '(\w+)' \(\w+\)\. (.*) is of", str(error))
    ):
        rules = [
            one.rule for table in _TABLES.values() for name, one in table.items() if name.rpartition(".")[2] == key[1]
        ]
        allowed = " or ".join(dict.fromkeys(rule.allowed for rule in rules)) or "a section of fields"
        return f"field {key[1]}={shown(key[2])}: must be {allowed}"
    return (
        one_line(error)[:500] if isinstance(error, ConfigError) else f"{type(error).__name__}: {one_line(error)[:500]}"
    )


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
    """Every field of all kinds of configs with type, default, allowed values and meaning."""
    lines = []
    for title, fields in _TABLES.items():
        lines += [title, ""]
        for name, (default, rule, meaning) in fields.items():
            lines += [f"--config.{name}={default!r}  {type(default).__name__}", f"    {meaning}", f"    {rule.allowed}"]
        lines.append("")
    return "\n".join(lines)
