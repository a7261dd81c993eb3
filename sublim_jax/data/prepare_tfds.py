"""Prepare a TFDS data set from IDX files, without TensorFlow and without a network.

python -m sublim_jax.data.prepare_tfds --name=mnist --data_dir=DIR                     from the files in the package
python -m sublim_jax.data.prepare_tfds --name=emnist/letters --idx_dir=FOLDER --data_dir=DIR

Writes the name, version and features of TFDS's own builder as array_record, so that `tfds.data_source` reads it.
Exit codes: 0 prepared now or before, 2 bad flags or files.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import check_output
from sublim_jax.data import idx
from sublim_jax.data.load import find_prepared, import_tfds, read_embedded, read_folder, tfds_root


def prepare(name: str, idx_dir: str, data_dir: str, verify: bool = True) -> str:
    """Prepare one data set and return a message with its location; does nothing if it is already prepared.

    EMNIST keeps its orientation, labels and the number of rows of TFDS's builder (the first 88,800 and 14,800 letters),
    so the result equals what TFDS prepares. Raises `ConfigError`, beginning with a flag.
    """
    check_output(f"--data_dir={data_dir}", tfds_root(data_dir))
    if prepared := find_prepared(name, data_dir):
        return f"{name} is already prepared in {prepared}"
    if not idx_dir and name == "mnist":
        train, test = read_embedded()
    else:
        waiver = "; --noverify accepts it"
        train, test = read_folder(f"--idx_dir={idx_dir}", name, idx_dir, verify, waiver)
    root = tfds_root(data_dir)
    try:
        tfds = import_tfds()
        official = tfds.builder_cls(name.partition("/")[0])
        folder = root / name / str(official.VERSION)
        if folder.exists():
            raise ConfigError(f"--data_dir={data_dir}: {folder} exists, incomplete or in another format")
        make_builder(official, name, {"train": train, "test": test}, root).download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except ImportError as error:
        raise ConfigError(f"--name={name}: to prepare it the package {error.name} is missing") from error
    except OSError as error:
        raise ConfigError(f"--data_dir={data_dir}: {error}") from error
    return f"{name} is prepared in {folder}"


def make_builder(official: Any, name: str, splits: dict[str, idx.Raw], root: Path) -> Any:
    """Return TFDS's own builder with its examples taken from `splits` instead of a download."""
    from PIL import Image  # slow to import

    class Local(official, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            del dl_manager
            return {split: self._generate_examples(split, raw) for split, raw in splits.items()}

        def _generate_examples(self, split: str, raw: idx.Raw) -> Iterator[Any]:
            limit = getattr(self.builder_config, f"{split}_examples", None)  # only EMNIST has configs
            for row, (image, label) in enumerate(zip(raw.x[:limit], raw.y[:limit], strict=True)):
                # A Pillow image, because TFDS needs TensorFlow to encode an array. TFDS shuffles by the key, which is
                # the row as in the official builder, so the order on disk is the same.
                yield row, {"image": Image.fromarray(image), "label": int(label)}

    # Directory, file names and metadata derive from these two, which must be the official ones.
    Local.name, Local.__module__ = official.name, official.__module__
    return Local(data_dir=root, config=name.partition("/")[2] or None, file_format="array_record")


def read_flags(argv: list[str]) -> flags.FlagValues:
    """Parse the command line into separate flags, so that importing this file leaves absl's global flags unchanged."""
    own = flags.FlagValues()
    flags.DEFINE_enum("name", "mnist", list(idx.KINDS), "the data set", flag_values=own)
    flags.DEFINE_string("idx_dir", "", "folder of the four IDX files; empty: MNIST from the package", flag_values=own)
    flags.DEFINE_string("data_dir", "", "where TFDS keeps its data; empty: TFDS's default", flag_values=own)
    flags.DEFINE_bool("verify", True, "refuse files whose contents are not the published ones", flag_values=own)
    flags.DEFINE_bool("help", False, "print this and exit", flag_values=own)
    if rest := own(argv)[1:]:
        raise flags.Error(f"{rest[0]}: is not a flag; the flags are --name, --idx_dir, --data_dir, --verify")
    return own


def main(argv: list[str]) -> int:
    """Run the command line and return its exit code."""
    try:
        own = read_flags(argv)
        print(f"{__doc__}\n{own.get_help()}" if own.help else prepare(own.name, own.idx_dir, own.data_dir, own.verify))
    except (flags.Error, ConfigError) as error:
        line = " ".join(str(error).split())
        print(re.sub(r"\('Non-boolean.*", "must be true or false", line), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
