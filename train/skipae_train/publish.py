"""Publish a checkpoint folder on the Hub: check it, upload it in one commit, fetch it again and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard

from skipae import ModelError, SkipaeError, __version__
from skipae.checkpoints.hub import Access, Hub, reason
from skipae.checkpoints.resolve import find_folder
from skipae_train.card import LICENSES, make_card
from skipae_train.export import FILES, TOLERANCE, compare, session
from skipae_train.networks import Network
from skipae_zoo import CheckpointConfig, ConfigError, Published, find_checkpoint, read_config, sha256, verified_file

STAGED = Path("model_cards")
"""Folder of the repository that holds what is published."""
WEIGHTS, MODEL, FEATURES = FILES
FEATURE_TOLERANCE = 0.02
"""Largest difference allowed, as a share of a layer's largest value: half precision costs a narrow layer less, and
other weights make more."""
ALLOWED = (
    "README.md",
    *LICENSES,
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "onnx/*.onnx",
    "training/*",
    "assets/*.png",
)


class PublishError(SkipaeError, ValueError):
    """The folder is not fit to be published; the message says what is wrong and what to do."""


def publish(
    name: str,
    repo: str,
    *,
    private: bool = False,
    pull_request: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Published | None:
    """Publish a checkpoint, by its name or folder, as the repository ``repo`` (``org/name``) of the Hub.

    It is uploaded in one commit, to ``main`` or, with ``pull_request``, as a pull request; fetched into a clean cache;
    and compared byte for byte.  ``notify`` is called with each step.

    Returns:
        The entry for the zoo to use this commit; None after a ``dry_run``, which makes no request.

    Raises:
        PublishError: a part is missing, wrong or outdated, or a fetched file differs from the one sent.
        CardError: its card cannot be generated, or is invalid.
        ModelError: the Hub refuses, or cannot be reached.
    """
    folder = _folder(name)
    config, license = check(folder, repo, notify)
    files = sorted({p for pattern in ALLOWED for p in folder.glob(pattern) if p.is_file()})
    _refuse_links(folder, files)
    paths = {path.relative_to(folder).as_posix(): path for path in files}
    for path, file in paths.items():
        notify(f"{path}  {file.stat().st_size:,} bytes  sha256 {sha256(file)}")
    if dry_run:
        notify("all checks passed, nothing was sent")
        return None
    access = Access(token=token, notify=notify)
    target = Hub(repo, "main", access)
    if access.offline:
        raise ModelError(f"requests are forbidden (HF_HUB_OFFLINE), so {target.where} cannot be written")
    api = HfApi(endpoint=target.endpoint, token=token, library_name="skipae", library_version=__version__)
    try:
        if not pull_request:
            api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(path, file) for path, file in paths.items()],
            commit_message=f"{config.name}, exported by skipae {__version__}",
            create_pr=pull_request,
        )
    except Exception as error:  # the client's exceptions have no common base
        raise ModelError(reason(error, target, "the commit")) from error
    notify(f"sent: {commit.pr_url or commit.commit_url}")
    with tempfile.TemporaryDirectory() as cache:
        source = Hub(repo, commit.oid, Access(cache_dir=cache, token=token))
        for path, file in paths.items():
            if source.get(path).read_bytes() != file.read_bytes():
                raise PublishError(f"{path} of {source.where} at {commit.oid} differs from the file that was sent")
    notify(f"fetched again: all {len(paths)} files are identical")
    size = sum((folder / file).stat().st_size for file in config.files if file.startswith("onnx/"))
    return Published(commit.oid, sha256(folder / "config.json"), size, license)


def _refuse_links(folder: Path, files: Sequence[Path]) -> None:
    """Raise :class:`PublishError` if a file to be sent is outside the folder: a link may lead to private data."""
    inside = folder.resolve()
    for file in files:
        if not file.resolve().is_relative_to(inside):
            raise PublishError(
                f"{file} points outside the folder, to {file.resolve()}: replace the link with a copy of the file, or "
                "remove it"
            )


def check(folder: Path, repo: str, notify: Callable[[str], None]) -> tuple[CheckpointConfig, str]:
    """Return the config and the license of a folder that is fit to be published; arguments
    and errors: see :func:`publish`.

    A folder may lack weight files, to be small; those that it has must hold one network.
    """
    try:
        config = read_config(folder)
        for file in config.files:
            verified_file(folder, config, file)
        model, features = (session(folder / file) if file in config.files else None for file in (MODEL, FEATURES))
        if model is None and features is None:
            raise PublishError(f"{folder} has neither {MODEL} nor {FEATURES}: export the checkpoint again")
        for path in sorted((folder / "onnx").glob("*.onnx")):
            if f"onnx/{path.name}" not in config.files:
                raise PublishError(f"{path} is not listed in {folder / 'config.json'}: remove it, or export again")
        network = Network.from_checkpoint(folder) if WEIGHTS in config.files else None
    except ConfigError as error:
        raise PublishError(str(error)) from error
    if network is None:
        notify(f"{WEIGHTS} is missing, so the ONNX files cannot be compared with it")
    else:
        parity = compare(network, model, features, "float16")
        if not parity.output <= TOLERANCE["float16"] or not parity.features <= FEATURE_TOLERANCE:
            raise PublishError(
                f"{folder}: the ONNX files and {WEIGHTS} differ by {parity.output:.2g} (output) and "
                f"{parity.features:.2g} (features): export the checkpoint again"
            )
    card = make_card(folder, repo)
    path = folder / "README.md"
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    if found != card:
        what = f"does not name {repo}" if found == make_card(folder) else "is missing or outdated"
        raise PublishError(
            f"the card of {config.name} {what}: run 'skipae-train card {folder} --repo {repo}' and read it"
        )
    data = ModelCard(card).data
    return config, data.get("license_name") or data.get("license")


def _folder(name: str) -> Path:
    """Return the folder of a checkpoint: staged in the repository, or as found by inference."""
    staged = STAGED / name if find_checkpoint(name) else Path(name)
    return staged if (staged / "config.json").is_file() else find_folder(name)
