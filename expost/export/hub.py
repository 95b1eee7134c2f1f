"""Exported models on the Hugging Face hub: the optional extra `hub`.

Up goes exactly what `stage=export` wrote, in one commit. Down come three files by their fixed names, so that nothing
else a repository holds is ever asked for; they are copied out of the hub's cache, which is made of links, into a folder
of plain files, and loaded through the same checks as any folder. Their sizes are compared before they are fetched.

A model is named `hf://USER/NAME`, or `hf://USER/NAME@REVISION` for a branch, a tag or a commit.
"""

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from expost.base.errors import UserError
from expost.export.config import CONFIG, PRIOR_FILE, VAE_FILE, read_config
from expost.store.safe import MAX_JSON_BYTES, UnsafeError

SCHEME = "hf://"
NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(rf"{SCHEME}(?P<name>{NAME})(?:@(?P<revision>\w[\w.-]*(?:/\w[\w.-]*)*))?", re.ASCII)
LIBRARY = "expost"
LOG_IN = "run `hf auth login`, or set HF_TOKEN"
CONNECT = "see to the network and try again"


@dataclass(frozen=True)
class Place:
    """A repository, and which state of it; None: the newest."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}" + (f"@{self.revision}" if self.revision else "")


def client() -> ModuleType:
    """The hub's own library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("the Hugging Face hub needs an extra: pip install 'expost[hub]'") from error
    return huggingface_hub


def check_upload(name: str, private: bool) -> None:
    """Refuse an upload before any work, if the hub would refuse it.

    Raises:
        UserError: the library is missing, the name is none, nobody is logged in, the hub cannot be reached, or the
            repository is there and everybody sees it, which `private` does not want.
    """
    if not re.fullmatch(NAME, name, re.ASCII):
        raise UserError(f"export.hub={name} is no name on the hub: give export.hub=USER/NAME")
    hub, place = client(), Place(name)
    api = hub.HfApi(library_name=LIBRARY)
    with _one_line(place, UserError):
        api.whoami()
        try:
            is_public = not api.model_info(name).private
        except hub.errors.RepositoryNotFoundError:
            return  # it will be made
    if private and is_public:
        raise UserError(f"{place} is there and public: give export.private=false, or another export.hub=USER/NAME")


def upload(folder: Path, files: Sequence[str], name: str, private: bool, what: str, quiet: bool) -> str:
    """Put `files` of `folder` into the repository, which is made if there is none; its address in the web.

    Args:
        folder, files: what to upload.
        name: USER/NAME.
        private: who sees a repository that is made now.
        what: of the commit, in words.
        quiet: without progress bars.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    hub = client()
    if quiet:
        hub.utils.disable_progress_bars()
    api = hub.HfApi(library_name=LIBRARY)
    with _one_line(Place(name), UserError):
        page = api.create_repo(name, private=private, exist_ok=True)
        additions = [hub.CommitOperationAdd(file, folder / file) for file in files]
        api.create_commit(name, additions, commit_message=what)
    return str(page)


def parse(address: str) -> Place:
    """
    Raises:
        UnsafeError: it is no address of a model.
    """
    if (match := ADDRESS.fullmatch(address)) is None or ".." in address:
        raise UnsafeError(f"{address} names no model on the hub; give {SCHEME}USER/NAME or {SCHEME}USER/NAME@REVISION")
    return Place(match["name"], match["revision"])


@contextmanager
def download(address: str) -> Iterator[Path]:
    """The model at `address` as a folder of plain files, for as long as the block lasts.

    Without a network, what the hub's cache holds is used.

    Raises:
        UnsafeError: there is no such model, it cannot be had, or its files are not what its configuration says; and
            whatever the block refuses, in words of `address`.
    """
    place = parse(address)
    with tempfile.TemporaryDirectory(prefix="two-stage-") as scratch:
        folder = Path(scratch)
        try:
            with _one_line(place, UnsafeError):
                _fetch(place, folder)
            yield folder
        except UserError as error:
            raise UnsafeError(str(error).replace(str(folder), str(place))) from error


def _fetch(place: Place, folder: Path) -> None:
    hub = client()
    state: dict[str, Any] = {"revision": place.revision}  # by its name: the cache then finds it again without a network
    sizes: dict[str, int] | None = None
    try:
        info = hub.HfApi(library_name=LIBRARY).model_info(place.name, revision=place.revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
    except Exception as error:  # of the HTTP client, which the library chooses
        if getattr(error, "response", None) is not None:
            raise  # the hub has answered
        state["local_files_only"] = True

    def fetch(file: str, num_bytes: int) -> None:
        if sizes is not None and file not in sizes:
            raise UnsafeError(f"{place} has no {file}: it is no model that stage=export wrote")
        if sizes is not None and sizes[file] > num_bytes:
            raise UnsafeError(f"{folder / file} has {sizes[file]:,} bytes; at most {num_bytes:,} are expected")
        cached = Path(hub.hf_hub_download(place.name, file, library_name=LIBRARY, **state)).resolve(strict=True)
        shutil.copyfile(cached, folder / file)

    fetch(CONFIG, MAX_JSON_BYTES)
    promised = read_config(folder).files
    for file in (VAE_FILE, PRIOR_FILE):
        fetch(file, promised[file].bytes)


@contextmanager
def _one_line(place: Place, kind: type[UserError]) -> Iterator[None]:
    """Whatever the library or the network raise, as one line with the remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the hub's library, of its HTTP client or of the network: they share no base class
        raise kind(_words(place, error)) from error


def _words(place: Place, error: Exception) -> str:
    hub = client()
    status = getattr(getattr(error, "response", None), "status_code", None)
    cases: list[tuple[Any, str]] = [
        (hub.errors.LocalTokenNotFoundError, f"you are not logged in to the hub: {LOG_IN}"),
        (hub.errors.GatedRepoError, f"{place} is gated: ask its owner for access on its page"),
        (hub.errors.RevisionNotFoundError, f"{place}: there is no such revision"),
        (hub.errors.LocalEntryNotFoundError, f"{place} is not in the cache, and the hub cannot be reached: {CONNECT}"),
        (hub.errors.RepositoryNotFoundError, f"{place}: there is no such model, or you may not see it: {LOG_IN}"),
        (hub.errors.OfflineModeIsEnabled, f"{place}: HF_HUB_OFFLINE is set, and this needs the hub: unset it"),
    ]
    for kind, words in cases:
        if isinstance(error, kind):
            return words
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    if status == 401:
        return f"the hub does not know your token: {LOG_IN}"
    if status == 403:
        return f"the hub refuses {place}: your token may not write there; choose another name or token"
    if status is not None:
        return f"the hub answers {status} for {place} ({reason}); try again later"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return f"{place}: {error.strerror} ({error.filename}); make room, or set HF_HOME and TMPDIR to other folders"
    return f"{place}: the hub cannot be reached or broke off ({reason}): {CONNECT}"
