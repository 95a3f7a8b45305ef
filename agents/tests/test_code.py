"""The code agent over the real loop: diffs that apply, files that come along, nothing that runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User

from agents import attachments
from agents.attachments import Attachment
from agents.base import AgentResult
from agents.catalog.code import CodeAgent, CodeAnswer
from agents.tests.scripted import Answer, ScriptedClient, call
from agents.tests.wires import WIRES, scripted

NOBODY: Any = User(username="nobody")
APP = "def add(a, b):\n    return a - b\n"
FIX = "--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n"
WRONG = FIX.replace("return a - b", "return a * b")


@dataclass
class File:
    name: str
    text: str
    is_text: bool = True
    media_type: str = "text/plain"

    @property
    def size_bytes(self) -> int:
        return len(self.text.encode())


def patch(diff: str, call_id: str = "c1") -> Answer:
    return Answer(calls=[call("propose_patch", call_id, diff=diff)])


def output_of(result: AgentResult) -> CodeAnswer:
    assert isinstance(result.output, CodeAnswer)
    return result.output


async def ask(
    *answers: Answer | str, files: tuple[Any, ...] = (File("app.py", APP),)
) -> tuple[CodeAnswer, ScriptedClient]:
    client = ScriptedClient(*answers)
    result = await CodeAgent(NOBODY, client=client, attachments=files).run("Fix the sum.")
    return output_of(result), client


@pytest.mark.parametrize("wire", WIRES)
async def test_code_changes_files_by_a_diff_that_applies(wire: str, sandbox_server: str) -> None:
    with scripted(sandbox_server, patch(FIX), "The sign was wrong.") as script:
        client = script.client(wire)
        result = await CodeAgent(NOBODY, client=client, attachments=[File("app.py", APP)]).run("Fix the sum.")
        await client.aclose()
    output = output_of(result)
    assert output.answer == "The sign was wrong."
    assert (output.changed, output.made, output.added_lines, output.removed_lines) == (["app.py"], [], 1, 1)
    assert output.diff.endswith("-    return a - b\n+    return a + b\n")
    assert f"```diff\n{output.diff}```" in result.text
    assert result.messages[-1].text == result.text
    assert "File app.py:\n```\ndef add(a, b):" in script.asked[0].turns[-1]


async def test_code_is_told_once_why_a_diff_does_not_apply() -> None:
    output, client = await ask(patch(WRONG), patch(FIX, "c2"), "Mended.")
    told = client.asked[1][-1].tool_results[0]
    assert told.is_error
    assert "the file has no line '    return a * b'" in told.content
    assert output.changed == ["app.py"]


async def test_code_gives_up_a_diff_that_never_applies() -> None:
    output, client = await ask(patch(WRONG), patch(WRONG, "c2"), patch(FIX, "c3"), "By hand, then.")
    assert "There were enough attempts" in client.asked[3][-1].tool_results[0].content
    assert (output.diff, output.changed, output.answer) == ("", [], "By hand, then.")


async def test_code_takes_the_last_diff_that_applied() -> None:
    new = "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x = 1\n"
    output, _ = await ask(patch(FIX), patch(FIX + new, "c2"), "Both.")
    assert (output.changed, output.made) == (["app.py"], ["new.py"])


@pytest.mark.parametrize(
    ("diff", "words"),
    [
        (FIX.replace("app.py", "other.py"), "There is no file 'other.py'. The files are: 'app.py'."),
        (FIX.replace("app.py", "../../etc/passwd"), "no name of a file here"),
        (FIX.replace("app.py", "/etc/passwd"), "no name of a file here"),
        ("I changed it.", "no unified diff"),
    ],
    ids=["not there", "traversal", "absolute", "no diff"],
)
async def test_code_refuses_a_diff_for_what_is_not_there(diff: str, words: str) -> None:
    output, client = await ask(patch(diff), "Sorry.")
    assert words in client.asked[1][-1].tool_results[0].content
    assert output.diff == ""


async def test_code_takes_a_diff_from_the_answer_if_it_applies_and_warns_if_not() -> None:
    output, _ = await ask(f"Here:\n\n```diff\n{FIX}```\n")
    assert (output.changed, output.notices) == (["app.py"], [])
    output, _ = await ask(f"Here:\n\n```diff\n{WRONG}```\n")
    assert (output.changed, output.diff) == ([], "")
    assert output.notices == ["The diff in this answer does not apply to your files as they are. Change them by hand."]


async def test_code_leaves_out_files_that_it_cannot_read_and_says_so() -> None:
    files = (
        File("app.py", APP),
        File("app.py", "x = 1\n"),
        File("photo.png", "", is_text=False),
        File("big.log", "x" * 10_000_000),
    )
    output, client = await ask(patch(FIX), "Done.", files=files)
    asked = client.asked[0][-1].text
    assert "File app-2.py:" in asked
    assert output.notices == [
        "photo.png was left out: it holds no text.",
        "big.log was left out: it is longer than 200,000 characters.",
    ]
    assert len(asked) < 2000


async def test_code_reads_long_files_in_parts() -> None:
    long = "".join(f"line {number}\n" for number in range(1, 15_001))
    read = [call("read_file", "c1", name="long.txt", first_line=9_000), call("read_file", "c2", name="../x")]
    _, client = await ask(Answer(calls=read), "Read.", files=(File("long.txt", long),))
    assert "File long.txt is long (15001 lines)" in client.asked[0][-1].text
    lines, refused = client.asked[1][-1].tool_results
    assert lines.content.startswith("Lines 9000 to 9399 of 15001:\n9000\tline 9000\n")
    assert "There is no file '../x'. The files are: long.txt." in refused.content


async def test_code_without_files_answers_in_words() -> None:
    output, client = await ask("```python\nx = 1\n```", files=())
    assert (output.answer, output.diff, output.notices) == ("```python\nx = 1\n```", "", [])
    assert client.asked[0][-1].text == "Fix the sum."


@pytest.mark.django_db
def test_code_keeps_diff_and_changed_files_for_their_user_alone(alice: User, bob: User) -> None:
    given = attachments.store_bytes(alice, "app.py", APP.encode())
    agent = CodeAgent(alice, client=ScriptedClient(patch(FIX), "Done."), attachments=[given])
    result = async_to_sync(agent.run)("Fix the sum.")
    output = output_of(result)
    assert [each.name for each in output.downloads] == ["changes.patch", "app.py"]
    kept = {row.name: row.data.decode() for row in Attachment.objects.for_user(alice).exclude(pk=given.pk)}
    assert kept == {"changes.patch": output.diff, "app.py": APP.replace("-", "+")}
    assert not Attachment.objects.for_user(bob).exists()
    assert f"]({output.downloads[1].url})" in result.text
