"""Formats of feature files: extension, required package and writer."""

from __future__ import annotations

import io
import json
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from skipae.errors import UsageError
from skipae.install import install_command
from skipae.tasks.features import Features

EXTENSIONS = {"npz": ".npz", "npy": ".npy", "safetensors": ".safetensors", "parquet": ".parquet", "hdf5": ".h5"}
"""Each format's file name extension."""

EXTRAS = {"safetensors": "safetensors", "parquet": "pyarrow", "hdf5": "h5py"}
"""Module that a format needs; the extra that installs it has the format's name."""


def _write_npz(file: BinaryIO, arrays: Features, files: list[str], about: dict[str, str]) -> None:
    members: dict[str, Any] = {**arrays, "files": np.array(files), **about}
    np.savez(file, **members)


def _write_safetensors(file: BinaryIO, arrays: Features, files: list[str], about: dict[str, str]) -> None:
    from safetensors.numpy import save

    file.write(save(arrays, about | {"files": json.dumps(files)}))


def _write_parquet(file: BinaryIO, arrays: Features, files: list[str], about: dict[str, str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {"file": pa.array(files, pa.string())}
    fields = [pa.field("file", pa.string())]
    for layer, values in arrays.items():
        flat = values.reshape(len(values), -1)
        columns[layer] = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
        fields.append(pa.field(layer, columns[layer].type, metadata={"shape": json.dumps(values.shape[1:])}))
    parquet.write_table(pa.table(list(columns.values()), pa.schema(fields, about)), file)


def _write_hdf5(file: BinaryIO, arrays: Features, files: list[str], about: dict[str, str]) -> None:
    import h5py

    buffer = io.BytesIO()  # the library reads its own files
    with h5py.File(buffer, "w") as root:
        for layer, values in arrays.items():
            root[layer] = values
        root.create_dataset("files", data=files, dtype=h5py.string_dtype())
        root.attrs.update(about)
    file.write(buffer.getbuffer())


WRITERS = {"npz": _write_npz, "safetensors": _write_safetensors, "parquet": _write_parquet, "hdf5": _write_hdf5}


def need(format: str) -> None:
    """Raise :class:`UsageError` if a format's package is not installed; the message names the command to install it."""
    module = EXTRAS.get(format)
    if module is None:
        return
    try:
        import_module(module)
    except ImportError as error:
        raise UsageError(
            "{format} needs {module!s} ({error!s}): {install!s}",
            format=format,
            module=module,
            error=error,
            install=install_command(format),
        ) from error
