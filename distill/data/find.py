"""Finds image files in folders, and pairs blurry files with sharp files by name."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.decoding.kinds import ALWAYS_READ, SUFFIXES, UNREAD, unread_in_words
from distill.data.image_files import ImageError, unreadable
from distill.errors import listed

logger = logging.getLogger(__name__)


class NoImagesError(ImageError):
    """A folder without image files."""


@dataclass
class PassedOver:
    """What a search for images passed over."""

    unread: set[Path] = field(default_factory=set)
    """Image files of kinds that are not read."""
    broken: dict[Path, ImageError] = field(default_factory=dict)
    """Folders that cannot be searched, and paths with an image's suffix that are no files."""

    def look(self, path: Path) -> bool:
        """Whether a path is a file whose suffix is of a kind that is read. If not, notes an image of another kind, or what is no
        file."""
        suffix = path.suffix.lower()
        self.unread |= {path} if suffix in UNREAD else set()
        if suffix not in SUFFIXES or os.path.isfile(path):  # False, not an error, in a folder that cannot be entered
            return suffix in SUFFIXES
        what = "a link that leads to no file" if path.is_symlink() else "no ordinary file"
        self.broken[path] = ImageError(what, path)
        return False


def find_images(folder: str) -> dict[str, Path]:
    """All image files below a folder, by relative stem (`night/street` for FOLDER/night/street.jpg), sorted.

    A `*` in the path matches folder names, and the matched names become part of the stem: `GOPRO_Large/train/*/sharp` names the
    frames of all GoPro sequences. A part `**` matches any number of folders. No wildcard matches a hidden folder. Logs what is
    passed over. Raises FileNotFoundError for a missing folder, ImageError for an empty folder or for two files whose stems are
    the same in Unicode's NFC.
    """
    same: dict[str, list[Path]] = {}
    stems: dict[str, str] = {}
    seen: set[Path] = set()
    passed = PassedOver()
    roots = _expand(folder)
    for prefix, root in roots:
        for path in images_below(root, passed):
            if path in seen:  # `**` matches a folder and those below it, each of which is searched
                continue
            if len(roots) > 1:  # one folder, which may hold a million images, gives none twice
                seen.add(path)
            stem = (prefix / path.relative_to(root).with_suffix("")).as_posix()
            stem = stems.setdefault(nfc(stem), stem)
            same.setdefault(stem, []).append(path)
    found = {stem: _one_of(paths) for stem, paths in same.items()}
    for message in [*map(str, passed.broken.values()), *(f"{folder}: {words}" for words in unread_in_words(passed.unread))]:
        logger.warning("%s", message)
    if not found:
        raise NoImagesError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))}) in this folder or below it")
    return dict(sorted(found.items()))


def _one_of(paths: Sequence[Path]) -> Path:
    """The file of a stem. Of several, the one of a kind that earlier versions read: they trained on it. Raises ImageError."""
    kept = [path for path in paths if path.suffix.lower() in ALWAYS_READ] if len(paths) > 1 else list(paths)
    if len(kept) != 1:
        first, second = (kept or paths)[:2]
        raise ImageError(f"has the same stem as {first}; rename one of them", second)
    for path in paths:
        if path is not kept[0]:
            logger.warning("%s: left out beside %s of the same stem", path, kept[0].name)
    return kept[0]


def images_below(root: Path, passed: PassedOver) -> Iterator[Path]:
    """The image files in a folder and its subfolders, sorted. Links are followed. Each folder is searched once, even if several
    links or a circle of links lead to it. A folder below `root` is listed under its own path, not under a link's."""

    def refuse(error: OSError) -> None:
        passed.broken[Path(error.filename)] = unreadable(Path(error.filename), error)

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    # os.walk does not enter links. They wait until all folders that need no link have been searched.
    waiting = [os.fspath(root)]
    while waiting:
        for here, folders, names in os.walk(waiting.pop(0), onerror=refuse):
            try:
                status = os.stat(here)
            except OSError as error:  # removed since
                refuse(error)
                continue
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            # Hidden names are left out: macOS's "._x.png", and files that are still being written.
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [link for name in folders if os.path.islink(link := os.path.join(here, name))]
            found += [Path(here, name) for name in sorted(names) if not name.startswith(".") and passed.look(Path(here, name))]
    yield from sorted(found)


def _wild_parts(folder: str) -> list[int]:
    """The indices of the path's parts that contain a `*`."""
    return [index for index, part in enumerate(Path(folder).parts) if "*" in part]


def fixed_part(folder: str) -> Path:
    """The folder below which `find_images` looks: the part of the path before its first `*`."""
    wild = _wild_parts(folder)
    return Path(*Path(folder).parts[: wild[0]]) if wild else Path(folder)


def _expand(folder: str) -> list[tuple[Path, Path]]:
    """[(prefix, folder)] of all folders that match. The prefix holds the folder names from the first one that a `*` matched to
    the last one. The stem of each image in the folder starts with it. Raises FileNotFoundError if no folder matches."""
    parts, wild, base = Path(folder).parts, _wild_parts(folder), fixed_part(folder)
    if not wild:
        if not base.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        return [(Path(), base)]
    matches = sorted(path for path in base.glob(str(Path(*parts[wild[0] :]))) if path.is_dir())
    fixed = len(parts) - wild[-1] - 1  # the number of folder names after the last `*`
    prefixes = [match.relative_to(base).parts[: -fixed or None] for match in matches]
    found = [
        (Path(*prefix), match)
        for prefix, match in zip(prefixes, matches, strict=True)
        if not any(name.startswith(".") for name in prefix)
    ]
    if not found:
        raise FileNotFoundError(f"{folder}: no folder matches")
    return found


def nfc(stem: str) -> str:
    """The stem as stems are compared: a Mac may write "ü" as two characters. Stems stay as they are on disk, since random numbers
    and teacher caches depend on them."""
    return unicodedata.normalize("NFC", stem)


def pair_images(sharp: str, blurry: str, blurry_name: str = "{stem}") -> dict[str, tuple[Path, Path]]:
    """{stem of the sharp file: (sharp file, blurry file)}, matched by relative stem; the suffixes may differ. `blurry_name` is
    the blurry file's name without suffix, in which {stem} stands for the sharp file's name without suffix.

    Raises what `find_images` raises, and ImageError if a file has no partner.
    """
    sharp_files, found = find_images(sharp), find_images(blurry)
    partners = {nfc(_named(blurry_name, stem)): stem for stem in sharp_files}
    blurry_files = {partners.get(nfc(stem), f"{stem} in {blurry}"): path for stem, path in found.items()}
    for here, there, other in ((sharp_files, blurry_files, blurry), (blurry_files, sharp_files, sharp)):
        lonely = [str(path) for stem, path in here.items() if stem not in there]
        if lonely:
            name = "the same name" if blurry_name == "{stem}" else f"the name that data.blurry_name ({blurry_name}) gives"
            raise ImageError(f"{listed(lonely, 3)}: no image of {name} in {other}")
    return {stem: (path, blurry_files[stem]) for stem, path in sharp_files.items()}


def _named(blurry_name: str, stem: str) -> str:
    folder, slash, name = stem.rpartition("/")
    return folder + slash + blurry_name.replace("{stem}", name)
