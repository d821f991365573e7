"""A bundle on the Hugging Face hub: save_pretrained, from_pretrained, push_to_hub."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from recmind_dist.errors import StoreError
from recmind_dist.recommend.bundle import KIND, SCHEMA, Bundle
from recmind_dist.recommend.parquet_files import write_users
from recmind_dist.recommend.recommender import Recommender
from recmind_dist.recommend.rewrite import content_of
from recmind_dist.storage.atomic import atomic_directory, write_json
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.storage.manifest import write_manifest

_ROOMS = ("variant", "graph", "sampler", "model", "loss", "alignment", "table", "zero", "train")
"""Of config.yaml, which name nobody's files or machines."""


class HubRecommender(
    Recommender, ModelHubMixin, library_name="recmind-dist", tags=["recommender-system"]
):
    """A `Recommender` that goes to the hub and comes from there. Neither ids nor vectors nor
    histories of users go along unless one says `with_users=True`; nor do paths of the run.

    Example:
        >>> HubRecommender.of("bundle").push_to_hub("me/shop", private=True)
        >>> HubRecommender.from_pretrained("me/shop").recommend_from(["B-17"], k=5)
    """

    _with_users = False

    @classmethod
    def of(cls, path: str | Path) -> "HubRecommender":
        """A bundle's. Raises StoreError: not a bundle, or damaged."""
        return cls(Bundle.open(path, verify=True))

    def save_pretrained(
        self, save_directory: str | Path, *, with_users: bool | None = None, **options: Any
    ) -> str | None:
        """Writes the bundle to an empty directory, or over a bundle.

        Args:
            with_users: whether users' ids, vectors and histories go along.
            options: see ModelHubMixin.
        Raises:
            StoreError: there is something else in the directory.
        """
        with self._keeping(with_users):
            saved: str | None = super().save_pretrained(save_directory, **options)
            return saved

    def push_to_hub(self, repo_id: str, *, with_users: bool = False, **options: Any) -> str:
        """Uploads the bundle in one commit, whose address is returned.

        Args:
            repo_id: as "me/shop".
            with_users: whether users' ids, vectors and histories go along.
            options: see ModelHubMixin: private, token, branch, commit_message …
        """
        with self._keeping(with_users):
            pushed: str = super().push_to_hub(repo_id, **options)
            return pushed

    @contextmanager
    def _keeping(self, with_users: bool | None) -> Iterator[None]:
        before = self._with_users
        self._with_users = before if with_users is None else with_users
        try:
            yield
        finally:
            self._with_users = before

    def _save_pretrained(self, save_directory: Path) -> None:
        if any(save_directory.iterdir()) and not (save_directory / MANIFEST).is_file():
            raise StoreError(f"{save_directory}: holds other files: give an empty directory")
        manifest = self.bundle.manifest
        with atomic_directory(save_directory) as directory:
            for name in manifest["files"]:
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.bundle.path / name, directory / name)
            content = content_of(self.bundle)
            if not self._with_users:
                content["num_users"] = 0
                nobody = next(self.bundle.users.parts()).slice(0, 0)
                write_users(iter([nobody]), directory / "users.parquet")
            _leave_paths_out(directory / "config.yaml")
            config = {"library_name": "recmind-dist", "schema": SCHEMA, "model": manifest["model"]}
            write_json(directory / constants.CONFIG_NAME, config)
            write_manifest(directory, KIND, SCHEMA, content)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> "HubRecommender":
        if Path(model_id).is_dir():
            return cls.of(model_id)
        # plain files: the hub's own cache is links, which a bundle refuses
        home = Path(cache_dir or constants.HF_HUB_CACHE) / "recmind-bundles"
        try:
            path = snapshot_download(
                model_id,
                revision=revision,
                local_dir=home / model_id.replace("/", "--") / (revision or "main"),
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise StoreError(
                f"{model_id}: the hub does not give it ({reason}): give a directory, or a token "
                "that may read it"
            ) from error
        return cls.of(path)


def _leave_paths_out(path: Path) -> None:
    """Keeps of a run's config what was decided, not where files lie."""
    from recmind_dist.config import dump_yaml
    from recmind_dist.config.yaml import load_yaml

    values = load_yaml(path).values
    kept = {name: values[name] for name in _ROOMS if name in values}
    text = {k: v for k, v in values.get("text", {}).items() if k != "model"}
    path.write_text(dump_yaml({**kept, "text": text} if text else kept), encoding="utf-8")
