"""Hook for PyInstaller: commands are loaded by name, and checkpoints are files of the package or its checkout."""

from pathlib import Path

from PyInstaller.utils.hooks import collect_submodules

from skipae.checkpoints.resolve import BUNDLED


def _is_needed(name: str) -> bool:
    return not name.startswith(("skipae.integrations", "skipae.__pyinstaller"))  # the first need what few have


hiddenimports = collect_submodules("skipae", filter=_is_needed) + collect_submodules("skipae_zoo")
datas = [
    (str(file), str(Path("skipae/weights") / file.relative_to(BUNDLED).parent))
    for pattern in ("*/*.json", "*/README.md", "*/onnx/*.onnx")  # the checkout has files for training too
    for file in BUNDLED.glob(pattern)
]
