"""Teacher images on disk: read together with their blurry and sharp images, and checked against the manifest before use."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.config import DataConfig
from distill.data.decoding.versions import READER
from distill.data.find import NoImagesError, find_images
from distill.data.image_files import ImageError, read_image, unreadable
from distill.data.pixels import Pixels
from distill.data.triplets import ImageFile, Triplet, check_size
from distill.networks.teacher import Identity
from distill.runtime.files import write_bytes
from distill.teacher_cache.manifest import (
    HEADER,
    LINES,
    CacheError,
    Entry,
    Header,
    Inputs,
    Manifest,
    Stamp,
    header_bytes,
    parse_lines,
)
from distill.teacher_cache.shards import SHARDS, checksum, read_triplet


class TeacherCache:
    """A folder of teacher images, in one of three forms: PNG files with a manifest; shards with a manifest, each of which packs
    many triplets of sharp, blurry and teacher image; or bare files, which are image files without a manifest, such as the
    original project wrote."""

    def __init__(self, folder: str | Path, recompute: bool = False) -> None:
        """If `recompute`, `read` returns a triplet without a teacher image where that image is missing or damaged, so that the
        caller can compute it. If not, `read` raises ImageError there. The constructor raises CacheError if the manifest cannot be
        understood, and ImageError if two bare files have the same stem (path below the folder, without suffix)."""
        self.folder = Path(folder)
        self.manifest = Manifest(self.folder)
        self.recompute = recompute
        self.bare: dict[str, Path] | None = None
        if self.manifest.header is None and self.folder.is_dir():
            self.bare = _bare_files(self.folder)

    @property
    def storage(self) -> str | None:
        return self.manifest.header.storage if self.manifest.header else None

    def path_of(self, entry: Entry) -> Path:
        """The file that holds an entry's teacher image."""
        return self.png_path(entry.stem) if entry.shard is None else self.folder / entry.shard

    def png_path(self, stem: str) -> Path:
        return self.folder / f"{stem}.png"

    def check_identity(self, identity: Identity) -> None:
        """Raises CacheError if the images were made by another teacher, or in another precision."""
        header = self.manifest.header
        difference = header.teacher.difference(identity) if header is not None else None
        if difference is not None and self.storage == "safetensors":
            raise CacheError(f"{self.folder}: {difference}; set it back, or pack a cache of this teacher into another folder")
        if difference is not None:
            raise CacheError(f"{self.folder}: {difference}; set it back, give another teacher.cache, or compute anew", "--fresh")

    def restamp(self, images: Sequence[ImageFile]) -> None:
        """Records the present times of files whose content is unchanged, and that this version reads their inputs as before."""
        entries = []
        for image in images:
            entry = self.manifest.entries[image.stem]
            paths = {"blurry": image.blurry, "sharp": image.sharp, "output": self.path_of(entry)}
            changes: dict[str, Stamp | int] = {"reader": READER}
            for kind, path in paths.items():
                stamp: Stamp | None = getattr(entry, kind)
                if stamp is not None and path is not None:
                    changes[kind] = stamp.model_copy(update={"mtime_ns": path.stat().st_mtime_ns})
            entries.append(entry.model_copy(update=changes))
        self.manifest.append(entries)

    def remove(self, stems: Sequence[str]) -> None:
        """Removes teacher images and their lines. A packed image stays in its shard."""
        removed = set(stems)
        kept = {stem: entry for stem, entry in self.manifest.entries.items() if stem not in removed}
        for stem in removed:
            if self.manifest.entries[stem].shard is None:
                _unlink(self.png_path(stem))
        self.manifest.rewrite(kept)

    def remove_unused_shards(self) -> None:
        """Removes shards that no line names any more."""
        used = {entry.shard for entry in self.manifest.entries.values()}
        for path in self.folder.glob(SHARDS):
            if path.name not in used:
                path.unlink()

    def forget(self, stems: Iterable[str]) -> None:
        """Treats these images as missing until they are computed again."""
        for stem in stems:
            self.manifest.entries.pop(stem, None)

    def read(self, image: ImageFile) -> Triplet:
        """Reads the triplet of one image, and verifies the checksums that the manifest has. Bare files have none. With
        `recompute`, a triplet whose teacher image is missing or damaged is returned without it. Raises ImageError."""
        if self.bare is not None:
            triplet = image.read()
            return self._with_teacher(image, triplet, read_image(self.bare[image.stem]), self.bare[image.stem])
        entry = self._entry(image.stem)
        if entry is None and self.recompute:
            return image.read()
        if entry is None:
            raise ImageError(f"has no teacher image in {self.folder}", image.blurry)
        if entry.unreadable is not None or entry.output is None:
            reason = " ".join((entry.unreadable or "has no teacher image").split())[:200]
            raise ImageError(reason, image.blurry)
        if entry.shard is not None:
            triplet = read_triplet(self.path_of(entry), entry.stem, entry.sharp is not None)
            if checksum(triplet) != entry.output.crc32:
                raise ImageError(f"the packed images of {entry.stem} are damaged; pack them again", self.path_of(entry))
            return triplet
        return self._read_png(image, entry, entry.output)

    def _read_png(self, image: ImageFile, entry: Entry, output: Stamp) -> Triplet:
        assert image.blurry is not None
        sharp = None if image.sharp is None else read_image(image.sharp)
        blurry = read_image(image.blurry, read_checked(image.blurry, entry.blurry, "changed since it was cached"))
        triplet = image.with_blurry(sharp, blurry)
        path = self.path_of(entry)
        try:
            teacher = read_image(path, read_checked(path, output, "damaged since it was cached"))
        except ImageError:
            if self.recompute:
                return triplet
            raise
        return self._with_teacher(image, triplet, teacher, path)

    @staticmethod
    def _with_teacher(image: ImageFile, triplet: Triplet, teacher: Pixels, path: Path) -> Triplet:
        return Triplet(triplet.sharp, triplet.blurry, check_size(teacher, path, triplet.size, image))

    def _entry(self, stem: str) -> Entry | None:
        if stem not in self.manifest.entries and self.recompute:
            self.manifest.refresh()  # the training process appends lines while its loader workers read
        return self.manifest.entries.get(stem)


def reset_cache(folder: Path, images: Sequence[ImageFile], header: Header) -> None:
    """Empties a PNG cache and writes the new header. Removes the PNGs of the stems in the old manifest and of the stems of
    `images`, and keeps all other files. Does nothing if the folder has no manifest."""
    lines = folder / LINES
    if not lines.exists() and not (folder / HEADER).exists():
        return
    stems = parse_lines(lines.read_bytes()).keys() if lines.exists() else set()
    # In this order a kill leaves the old teacher's header without lines. It never leaves old images under the new header.
    write_bytes(lines, b"")
    for stem in stems | {image.stem for image in images}:  # a killed run may have left an image without its line
        _unlink(folder / f"{stem}.png")
    write_bytes(folder / HEADER, header_bytes(header))


def _unlink(path: Path) -> None:
    """Removes a file. A manifest's stem may also lead to a folder or to a path below a file, and nothing is removed then."""
    if path.is_file():
        path.unlink()


def new_header(identity: Identity, images: Sequence[ImageFile], data: DataConfig, tile: int) -> Header:
    """The header of a PNG cache. `images` are those of `data`, and `tile` is the side in pixels of the teacher's tiles."""
    folder = ", ".join(str(source.blurry) for source in data.entries)
    stems = "".join(f"{image.stem}\n" for image in images)
    digest = hashlib.sha256(stems.encode(errors="surrogateescape")).hexdigest()
    inputs = Inputs(folder=folder, count=len(images), sha256=digest)
    return Header(storage="png", teacher=identity, tile=tile, inputs=inputs)


def _bare_files(folder: Path) -> dict[str, Path] | None:
    try:
        return find_images(str(folder))
    except NoImagesError:  # no cache yet
        return None


def read_checked(path: Path, stamp: Stamp, otherwise: str) -> bytes:
    """A file's bytes. Raises ImageError if they cannot be read, or if they do not match the stamp. In the second case the error's
    reason begins with `otherwise`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if (len(data), zlib.crc32(data)) != (stamp.size, stamp.crc32):
        raise ImageError(f"{otherwise}; distill.cache --repair computes its teacher image again", path)
    return data
