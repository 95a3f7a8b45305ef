"""Diffs as models write them: what they say is applied, what they claim is mended, and what is unclear is refused."""

from __future__ import annotations

import difflib
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.patching import PatchError, apply, is_plain_name

POEM = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n"
FILES = {"poem.txt": POEM, "src/app.py": "def add(a, b):\n    return a - b\n"}
FIX = """\
--- a/src/app.py
+++ b/src/app.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""


def hunk(body: str, header: str = "@@ -1,3 +1,3 @@", name: str = "poem.txt") -> str:
    return f"--- a/{name}\n+++ b/{name}\n{header}\n{body}"


def git_applies(diff: str, before: Mapping[str, str], after: Mapping[str, str], folder: Path) -> bool:
    """Whether git makes the one of the other with it."""
    for name, text in before.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    applied = subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=folder, input=diff.encode(), check=False)
    return applied.returncode == 0 and all(
        (folder / name).read_bytes() == text.encode() for name, text in after.items()
    )


def test_patch_applies_in_memory_and_leaves_what_it_was_given() -> None:
    patched = apply(FIX, FILES)
    assert patched.files == {"src/app.py": "def add(a, b):\n    return a + b\n"}
    assert (patched.added_lines, patched.removed_lines, patched.made, patched.deleted) == (1, 1, (), ())
    assert FILES["src/app.py"].endswith("a - b\n")


@pytest.mark.parametrize(
    "diff",
    [
        hunk(" two\n-three\n+THREE\n four\n", "@@ -2,3 +2,3 @@"),
        hunk(" two\n-three\n+THREE\n four\n", "@@ -9,30 +9,1 @@"),
        hunk(" two\n-three\n+THREE\n four\n", "@@ ... @@"),
        hunk("-three\n+THREE\n", "@@ -3 +3 @@ def poem():"),
        hunk(" two  \n-three\n+THREE\n four\n", "@@ -2,3 +2,3 @@"),
        "Here it is:\n```diff\n" + hunk("-three\n+THREE\n", "@@ -3 +3 @@") + "```\n- and a list\n",
        "diff --git a/poem.txt b/poem.txt\nindex 123..456 100644\n" + hunk("-three\n+THREE\n", "@@ -3 +3 @@") + "\n\n",
        hunk("-three\n+THREE\n", "@@ -3 +3 @@").replace("\n", "\r\n"),
        hunk("-three\n+THREE\n", "@@ -3 +3 @@").replace("a/poem", "poem").replace("b/poem", "poem"),
    ],
    ids=["right", "wrong counts", "no numbers", "no context", "blanks", "fenced", "git", "crlf", "no prefix"],
)
def test_patch_is_read_as_models_write_it(diff: str, tmp_path: Path) -> None:
    patched = apply(diff, FILES)
    assert patched.files == {"poem.txt": POEM.replace("three", "THREE")}
    assert git_applies(patched.diff, FILES, patched.files, tmp_path)


def test_patch_with_several_hunks_and_files_is_written_again_with_true_numbers(tmp_path: Path) -> None:
    diff = (
        hunk("-one\n+ONE\n+and a half\n two\n", "@@ -1,1 +1,1 @@")
        + "@@ -5,1 +5,1 @@\n nine\n-ten\n+TEN\n"
        + FIX
        + "--- /dev/null\n+++ b/new folder/a b.txt\n@@ -0,0 +1,2 @@\n+hello\n+\n"
    )
    patched = apply(diff, FILES)
    assert patched.files["poem.txt"] == "ONE\nand a half\n" + POEM[4:].replace("ten", "TEN")
    assert patched.files["new folder/a b.txt"] == "hello\n\n"
    assert patched.made == ("new folder/a b.txt",)
    assert "@@ -1,4 +1,5 @@" in patched.diff
    assert "@@ -7,4 +8,4 @@" in patched.diff
    assert git_applies(patched.diff, FILES, patched.files, tmp_path)


def test_patch_deletes_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    diff = "--- a/src/app.py\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-def add(a, b):\n-    return a - b\n"
    patched = apply(diff, FILES)
    assert (patched.deleted, patched.files) == (("src/app.py",), {})
    assert git_applies(patched.diff, FILES, {}, tmp_path)
    assert not (tmp_path / "src/app.py").exists()
    with pytest.raises(PatchError, match="leaves lines of it"):
        apply(diff.replace("-def add(a, b):\n", ""), FILES)


@pytest.mark.parametrize(
    ("before", "body", "after"),
    [
        ("a\nb", " a\n-b\n\\ No newline at end of file\n+c\n", "a\nc\n"),
        ("a\nb", " a\n-b\n+c\n\\ No newline at end of file\n", "a\nc"),
        ("a\nb", " b\n+c\n", "a\nb\nc\n"),
        ("a\nb", " a\n+x\n b\n", "a\nx\nb"),
        ("a\r\nb\r\n", " a\n-b\n+c\n+d\n", "a\r\nc\r\nd\r\n"),
        ("a\x0cb\u2028c\n", "-a\x0cb\u2028c\n+d\n", "d\n"),
        ("", "+a\n", "a\n"),
    ],
    ids=["ends closed", "stays open", "behind an open end", "before an open end", "crlf", "odd separators", "empty"],
)
def test_patch_keeps_line_ends(before: str, body: str, after: str, tmp_path: Path) -> None:
    patched = apply(hunk(body, "@@ -1,2 +1,2 @@" if before else "@@ -0,0 +1 @@"), {"poem.txt": before})
    assert patched.files == {"poem.txt": after}
    assert git_applies(patched.diff, {"poem.txt": before}, patched.files, tmp_path)


def test_patch_takes_the_nearest_of_like_places() -> None:
    files = {"poem.txt": "x\na\nx\nb\nx\nc\n"}
    assert apply(hunk("-x\n+y\n", "@@ -4 +4 @@"), files).files["poem.txt"] == "x\na\ny\nb\nx\nc\n"
    assert apply(hunk("-x\n+y\n", "@@ -9 +9 @@"), files).files["poem.txt"] == "x\na\nx\nb\ny\nc\n"


@pytest.mark.parametrize(
    ("diff", "words"),
    [
        ("I would rename the variable.", "no unified diff"),
        ("--- a/x\n+++ b/x\n", "no hunk"),
        ("@@ -1 +1 @@\n-a\n+b\n", "before any file"),
        (hunk(" one\n two\n"), "changes nothing"),
        (hunk("-one\n+1\n", name="other.txt"), "There is no file 'other.txt'. The files are: 'poem.txt', 'src/app.py'"),
        (hunk("-eleven\n+11\n"), "the file has no line 'eleven'"),
        (hunk("-eleven\n+11\n", "@@ -2,3 +2,3 @@"), "There the file has:\n1: one\n2: two"),
        (hunk("-three\n-one\n+1\n"), "do not follow each other"),
        (hunk("-nine\n+9\n", "@@ -9 +9 @@") + "@@ -1 +1 @@\n-one\n+1\n", "in the order of the file"),
        (hunk("-x\n+y\n", "@@ @@", "twice"), "more than one place"),
        (hunk("+y\n", "@@ @@"), "no line of context and no line number"),
        (hunk("-one\n+1\n") + hunk("-two\n+2\n"), "stands in the diff twice"),
        ("--- /dev/null\n+++ b/poem.txt\n@@ -0,0 +1 @@\n+a\n", "exists already"),
        ("--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+a\n", "cannot both be /dev/null"),
        ("--- a/poem.txt\n+++ b/prose.txt\n@@ -1 +1 @@\n-one\n+1\n", "Renames are not applied"),
        ("diff --git a/a b/b\nsimilarity index 100%\nrename from a\nrename to b\n", "Renames are not applied"),
        ("diff --git a/a.png b/a.png\nGIT binary patch\nliteral 5\n", "Binary files"),
        (hunk("-one\n+1\n") + "@@ -1 +1 @@\n-x\n+y\n" * 600, "more than 500 hunks"),
        ("x" * 500_000, "too long"),
    ],
)
def test_patch_that_is_unclear_is_refused_in_words(diff: str, words: str) -> None:
    with pytest.raises(PatchError) as caught:
        apply(diff, {**FILES, "twice": "x\nx\n"} if "twice" in diff else FILES)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../up", "C:/x", "..\\up", "a//b", "./x", ".git/config", "a\x07b", "n/.", "x" * 300],
)
def test_patch_never_names_a_place_outside(name: str) -> None:
    assert not is_plain_name(name)
    with pytest.raises(PatchError, match="no name of a file here"):
        apply(f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+a\n", FILES)
    with pytest.raises(PatchError, match=r"no name of a file here|There is no file"):
        apply(f"--- {name}\n+++ {name}\n@@ -1 +1 @@\n-a\n+b\n", FILES)


def test_patch_of_like_lines_without_end_is_found_in_time_that_grows_with_the_file_alone() -> None:
    files = {"poem.txt": "\n" * 40_000}
    with pytest.raises(PatchError, match="does not apply"):
        apply(hunk("-\n" * 20_000 + "-x\n+y\n", "@@ -1,20001 +1 @@"), files)


LINES = st.lists(st.sampled_from(["a", "b", "", " c", "-- d", "+e"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(before=LINES, after=LINES)
def test_patch_made_by_difflib_makes_the_one_of_the_other(before: list[str], after: list[str]) -> None:
    old, new = ("".join(f"{line}\n" for line in lines) for lines in (before, after))
    if old == new:
        return
    diff = "".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "a/f", "b/f"))
    patched = apply(diff, {"f": old})
    assert patched.files["f"] == new
    assert apply(patched.diff, {"f": old}).files["f"] == new
