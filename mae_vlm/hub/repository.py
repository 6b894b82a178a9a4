"""A model repository of the Hugging Face hub as a target: private unless said otherwise, changed by one commit or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_vlm.hub.names import check_repo
from mae_vlm.hub.record import RECORD, Held, read

_SECONDS = 300.0  # without a byte, after which a connection counts as broken; the client's own has no such end


class Repository:
    """``org/name`` on the hub that ``HF_ENDPOINT`` names; the token is the client's own (HF_TOKEN, or the login's).

    Args:
        repo: org/name.
        public: a repository that is made is public, and one that is public already may be written to.

    Raises:
        ValueError: no such form of a name.
    """

    def __init__(self, repo: str, public: bool = False) -> None:
        self.repo, self.public = check_repo(repo), public
        self._head: str | None = None  # the commit that was looked at

    def __str__(self) -> str:
        return self.repo

    @property
    def described(self) -> str:
        """Where it is and who sees it."""
        kind = "public" if self.public else "private"
        return f"{_endpoint()}/{self.repo} ({kind}; made if it is not there)"

    def held(self) -> Held | None:
        """What lies there; None where the repository is not there, or not to be seen with this token.

        Raises:
            ValueError: no token; or it is public and nobody said so.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._client().model_info(self.repo, timeout=_SECONDS)
        except RepositoryNotFoundError as problem:
            if problem.response.status_code != 404:  # 401: the token is at fault
                raise
            return None
        if not info.private and not self.public:
            raise ValueError(f"{self.repo} is public, and so would be these files; add --public if that is meant, or make it private")
        self._head = info.sha
        names = frozenset(one.rfilename for one in info.siblings or [])
        return Held(names, self._record() if RECORD in names else None)

    def put(self, files: Mapping[str, Path], gone: list[str], step: int) -> str:
        """Make the repository if it is not there, and commit all ``files`` at once; returns the commit's address."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        client = self._client()
        if self._head is None:
            client.create_repo(self.repo, private=not self.public, exist_ok=True)
        operations: list[Any] = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
        operations += [CommitOperationDelete(name) for name in gone]
        commit = client.create_commit(self.repo, operations, commit_message=f"Step {step:,}", parent_commit=self._head)
        return str(commit.commit_url)

    def _record(self) -> frozenset[str] | None:
        with tempfile.TemporaryDirectory(prefix="mae_vlm_") as folder:
            file = self._client().hf_hub_download(self.repo, RECORD, revision=self._head, local_dir=folder)
            try:
                return read(Path(file).read_bytes())
            except ValueError:
                return None

    def _client(self) -> Any:
        from huggingface_hub import HfApi, get_token, set_client_factory
        from huggingface_hub.utils._http import default_client_factory

        def client() -> Any:
            made = default_client_factory()
            made.timeout = _SECONDS
            return made

        if get_token() is None:
            raise ValueError("no token for the hub; log in with `hf auth login`, or set HF_TOKEN")
        set_client_factory(client)
        return HfApi(endpoint=_endpoint(), library_name="mae_vlm")


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
