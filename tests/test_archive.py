"""Archives: honest ones come out whole, hostile ones are refused by name and leave nothing behind."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from samtune.data.archive import ArchiveLimits, is_archive, unpack
from samtune.errors import ConfigError, DataError


def zip_of(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def zip_with_mode(path: Path, name: str, data: bytes, mode: int) -> Path:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, data)
    return path


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for info, data in members:
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = linkname
    return info


def refuse(archive: Path, tmp_path: Path, *words: str, limits: ArchiveLimits | None = None) -> str:
    """Unpack must fail, say `words`, and leave neither the target nor anything beside it."""
    out = tmp_path / "place" / "out"
    out.parent.mkdir(exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        unpack(archive, out, limits=limits)
    for word in words:
        assert word in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


def test_zip_comes_out_whole(tmp_path: Path) -> None:
    entries = {
        "train/a.jpg": b"\1" * 3_000_000,
        "train/_annotations.coco.json": b"{}",
        "valid/": b"",
        "README.txt": b"x",
    }
    seen: list[int] = []
    root = unpack(
        zip_of(tmp_path / "a.zip", entries), tmp_path / "out", progress=lambda done, _total: seen.append(done)
    )
    assert root == tmp_path / "out"
    for name, data in entries.items():
        assert (root / name).is_dir() if name.endswith("/") else (root / name).read_bytes() == data
    assert seen[-1] == 3_000_003
    assert seen == sorted(seen)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_comes_out_whole(tmp_path: Path, mode: str) -> None:
    long_name = "train/" + "n" * 150 + ".json"
    archive = tar_of(tmp_path / "a.tar", [(member("train/a.png"), b"a" * 2_000), (member(long_name), b"{}")], mode)
    root = unpack(archive, tmp_path / "out")
    assert (root / "train/a.png").read_bytes() == b"a" * 2_000
    assert (root / long_name).read_bytes() == b"{}"


def test_one_wrapping_folder_is_stepped_into_but_a_split_is_not(tmp_path: Path) -> None:
    assert unpack(zip_of(tmp_path / "a.zip", {"set/train/a": b"1"}), tmp_path / "a") == tmp_path / "a" / "set"
    assert unpack(zip_of(tmp_path / "b.zip", {"train/a": b"1"}), tmp_path / "b") == tmp_path / "b"


def test_windows_separators_and_mac_leftovers(tmp_path: Path) -> None:
    entries = {"train\\a.jpg": b"1", "__MACOSX/train/._a.jpg": b"2", "train/.DS_Store": b"3"}
    root = unpack(zip_of(tmp_path / "a.zip", entries), tmp_path / "out")
    assert [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()] == ["train/a.jpg"]


def test_a_target_with_files_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="new or empty folder"):
        unpack(zip_of(tmp_path / "a.zip", {"a": b"1"}), out)
    assert (out / "mine").read_text() == "keep"


HOSTILE_NAMES = {
    "../evil": "leads out",
    "train/../../evil": "leads out",
    "..\\..\\evil": "leads out",
    "/etc/evil": "absolute",
    "\\\\host\\share": "absolute",
    "C:\\evil": "drive letter",
    "C:evil": "drive letter",
    "a/" * 40 + "evil": "too deep",
    "n" * 300: "too long",
    "a\nb": "control characters",
    "\x1b[31mred": "control characters",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_zip_with_a_hostile_name(tmp_path: Path, name: str) -> None:
    message = refuse(zip_of(tmp_path / "a.zip", {"fine.txt": b"1", name: b"2"}), tmp_path, HOSTILE_NAMES[name])
    assert "\x1b" not in message


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "C:\\evil", "a/../../evil"])
def test_tar_with_a_hostile_name(tmp_path: Path, name: str) -> None:
    refuse(tar_of(tmp_path / "a.tar", [(member(name), b"2")]), tmp_path, HOSTILE_NAMES.get(name, "leads out"))


def test_zip_name_cut_at_nul_is_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"fine.txt!evil": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"fine.txt!", b"fine.txt\0"))
    refuse(archive, tmp_path, "NUL")


@pytest.mark.parametrize(
    ("mode", "word"),
    [(stat.S_IFLNK | 0o777, "a link"), (stat.S_IFCHR | 0o666, "a device"), (stat.S_IFIFO | 0o666, "a device")],
)
def test_zip_with_links_and_devices(tmp_path: Path, mode: int, word: str) -> None:
    refuse(zip_with_mode(tmp_path / "a.zip", "odd", b"/etc/passwd", mode), tmp_path, word, "odd")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
    ],
)
def test_tar_with_links_and_devices(tmp_path: Path, kind: bytes, word: str) -> None:
    odd = member("odd", kind, "/etc/passwd" if word == "a link" else "")
    refuse(tar_of(tmp_path / "a.tar", [(member("fine"), b"1"), (odd, b"")]), tmp_path, word, "odd")


def test_zip_bomb_of_a_thousand_to_one(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"fine": b"1", "bomb": bytes(64 << 20)})
    refuse(archive, tmp_path, "bomb", "per byte")
    unpacked: list[int] = []
    with pytest.raises(DataError):
        unpack(archive, tmp_path / "out", progress=lambda done, _total: unpacked.append(done))
    assert sum(unpacked) <= 1, "something of the bomb was unpacked before it was refused"


def test_tar_bomb_of_a_thousand_to_one(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tgz", [(member("fine"), b"1"), (member("bomb"), bytes(64 << 20))], "w:gz")
    refuse(archive, tmp_path, "bomb", "per byte")


def test_tar_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    header = member("x", tarfile.XHDTYPE)
    header.size = 6 << 30
    (tmp_path / "a.tar").write_bytes(header.tobuf() + bytes(10 << 10))
    refuse(tmp_path / "a.tar", tmp_path, "metadata")


def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for number in range(100_000):
            file.writestr(zipfile.ZipInfo(f"{number}/"), b"")
    refuse(tmp_path / "a.zip", tmp_path, "65,535 entries", "65535/")


def test_total_size(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"a": b"1" * 600, "b": b"2" * 600}, zipfile.ZIP_STORED)
    refuse(archive, tmp_path, "GiB", ", b", limits=ArchiveLimits(total_bytes=1000))


def test_one_path_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = zip_of(tmp_path / "a.zip", {"a": b"1"})
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr("a", b"2")
    refuse(archive, tmp_path, "twice")
    refuse(zip_of(tmp_path / "b.zip", {"Train/a": b"1", "train/A": b"1"}), tmp_path, "twice")
    refuse(zip_of(tmp_path / "c.zip", {"a": b"1", "a/b": b"2"}), tmp_path, "also a folder")


def test_encrypted_entry(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"secret": b"1"})
    data = bytearray(archive.read_bytes())
    directory = data.index(b"PK\1\2")
    data[directory + 8] |= 1
    archive.write_bytes(data)
    refuse(archive, tmp_path, "encrypted", "secret")


def test_damage(tmp_path: Path) -> None:
    whole = zip_of(tmp_path / "whole.zip", {"a": bytes(range(256)) * 400, "b": b"2"}, zipfile.ZIP_STORED).read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(flipped)
    refuse(tmp_path / "flipped.zip", tmp_path, "damage", "CRC")
    claims = bytearray(whole)
    directory = claims.index(b"PK\1\2")
    claims[directory + 24 : directory + 28] = struct.pack("<I", 256 * 400 + 9)
    (tmp_path / "claims.zip").write_bytes(claims)
    refuse(tmp_path / "claims.zip", tmp_path, ", a")
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / "cut.zip", tmp_path, "zip or tar")
    (tmp_path / "page.zip").write_text("<!DOCTYPE html><html>")
    refuse(tmp_path / "page.zip", tmp_path, "zip or tar", "<!DOCTYPE")
    tar = tar_of(tmp_path / "a.tgz", [(member("a"), bytes(range(256)) * 400)], "w:gz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(tar[: len(tar) // 2])
    refuse(tmp_path / "cut.tgz", tmp_path, "damage")
    refuse(tmp_path / "missing.zip", tmp_path, "no such file")


def test_is_archive_goes_by_content(tmp_path: Path) -> None:
    assert is_archive(zip_of(tmp_path / "a.bin", {"a": b"1"}))
    assert is_archive(tar_of(tmp_path / "b.bin", [(member("a"), b"1")], "w:gz"))
    (tmp_path / "c.zip").write_text("no")
    assert not is_archive(tmp_path / "c.zip")
    assert not is_archive(tmp_path)
