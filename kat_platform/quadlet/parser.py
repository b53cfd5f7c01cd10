"""A Quadlet's files → its documents, checked each by itself and against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Final, TypeVar

from kat_platform.model.build import BuildDefinition
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.documents import KINDS
from kat_platform.model.job import JobDefinition
from kat_platform.model.load_balancer import VirtualLoadBalancer
from kat_platform.model.meta import Document
from kat_platform.model.namespace import Namespace
from kat_platform.model.secret import Secret
from kat_platform.model.volume import VolumeDefinition
from kat_platform.model.workload import Workload
from kat_platform.quadlet import limits
from kat_platform.quadlet.archive import digest
from kat_platform.quadlet.crosscheck import cross_check
from kat_platform.quadlet.locate import FieldPath, Locations
from kat_platform.quadlet.problem import Location, Problem, QuadletInvalid
from kat_platform.quadlet.reader import Parsed, read_file
from kat_platform.quadlet.tree import Budget

SUFFIX: Final = ".kat"
QUADLET_KINDS: Final[Mapping[str, type[Document]]] = MappingProxyType(
    {name: model for name, model in KINDS.items() if model is not ClusterConfiguration}
)
_ANY = TypeVar("_ANY", bound=Document)


@dataclass(frozen=True, slots=True)
class Quadlet:
    """What a Quadlet's files describe. Without a workload it holds resources only (namespaces, volumes, secrets)."""

    workload: Workload | None
    load_balancers: tuple[VirtualLoadBalancer, ...] = ()
    job: JobDefinition | None = None
    build: BuildDefinition | None = None
    volumes: tuple[VolumeDefinition, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    secrets: tuple[Secret, ...] = ()
    files_digest: str = ""
    """Digest of all files of the Quadlet, ``.kat`` and others (see ``archive.digest``)."""
    locations: Locations = field(default_factory=Locations, repr=False, compare=False)

    @property
    def documents(self) -> tuple[Document, ...]:
        """All documents, resources before their users."""
        single = (self.job, self.build, self.workload)
        return (
            *self.namespaces,
            *self.secrets,
            *self.volumes,
            *(document for document in single if document is not None),
            *self.load_balancers,
        )

    def locate(self, kind: str, name: str, path: FieldPath = ()) -> Location:
        """Give file, line and column of a field (or the nearest mapping around it) of one of the documents."""
        return self.locations.locate(kind, name, path)


def document_files(files: Mapping[str, bytes]) -> list[str]:
    """Give the files that hold documents: those ending in ``.kat`` in the Quadlet's root, sorted."""
    return sorted(path for path in files if path.endswith(SUFFIX) and "/" not in path)


def parse_quadlet(files: Mapping[str, bytes]) -> Quadlet:
    """Read a Quadlet from its files (path → content); raises :class:`QuadletInvalid` with everything that is wrong."""
    quadlet, problems = read_quadlet(files)
    if quadlet is None:
        raise QuadletInvalid(problems)
    return quadlet


def read_quadlet(files: Mapping[str, bytes]) -> tuple[Quadlet | None, list[Problem]]:
    """Read a Quadlet, or say what is wrong with it: exactly one of the two is empty."""
    problems: list[Problem] = []
    parsed: list[Parsed] = []
    names = document_files(files)
    if not names:
        return None, [_no_documents(files)]
    if len(names) > limits.MAX_DOCUMENT_FILES:
        text = f"there are {len(names)} .kat files: at most {limits.MAX_DOCUMENT_FILES} are accepted"
        return None, [Problem(names[limits.MAX_DOCUMENT_FILES], 1, 1, "", text)]
    budget = Budget()
    for name in names:
        parsed.extend(read_file(files[name], name, problems, QUADLET_KINDS, budget))
    # A file that could not be read may hold just what another refers to: what is "missing" then is not worth saying.
    problems.extend(islice(cross_check(parsed, files, complete=not problems), limits.MAX_PROBLEMS + 1))
    return (None, list(dict.fromkeys(problems))) if problems else (_assemble(parsed, files), [])


def _no_documents(files: Mapping[str, bytes]) -> Problem:
    nested = sorted(path for path in files if path.endswith(SUFFIX))
    where = f"; '{nested[0]}' lies in a folder of its own" if nested else ""
    return Problem(
        "workload.kat", 1, 1, "", f"there is no .kat file in the Quadlet's root{where}: write a workload.kat"
    )


def _assemble(parsed: Iterable[Parsed], files: Mapping[str, bytes]) -> Quadlet:
    documents = list(parsed)

    def all_of(model: type[_ANY]) -> tuple[_ANY, ...]:
        return tuple(found.document for found in documents if isinstance(found.document, model))

    return Quadlet(
        workload=next(iter(all_of(Workload)), None),
        load_balancers=all_of(VirtualLoadBalancer),
        job=next(iter(all_of(JobDefinition)), None),
        build=next(iter(all_of(BuildDefinition)), None),
        volumes=all_of(VolumeDefinition),
        namespaces=all_of(Namespace),
        secrets=all_of(Secret),
        files_digest=digest(files),
        locations=Locations({(found.kind, found.name): found.root for found in documents}),
    )


def parse_cluster(text: str | bytes, filename: str = "cluster.kat") -> ClusterConfiguration:
    """Read ``cluster.kat``: exactly one ClusterConfiguration; raises :class:`QuadletInvalid`."""
    problems: list[Problem] = []
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    parsed = read_file(content, filename, problems, {"ClusterConfiguration": ClusterConfiguration})
    if len(parsed) > 1:
        problems.append(parsed[1].problem((), "there is more than one ClusterConfiguration"))
    if problems:
        raise QuadletInvalid(problems)
    document = parsed[0].document
    assert isinstance(document, ClusterConfiguration)  # the only kind that was asked for
    return document
