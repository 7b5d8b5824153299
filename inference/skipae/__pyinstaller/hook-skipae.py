"""Hook for PyInstaller: commands are loaded by name, and checkpoints are files of the package."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules


def _is_needed(name: str) -> bool:
    return not name.startswith(("skipae.integrations", "skipae.__pyinstaller"))  # the first need what few have


hiddenimports = collect_submodules("skipae", filter=_is_needed) + collect_submodules("skipae_zoo")
datas = collect_data_files("skipae", subdir="weights")
