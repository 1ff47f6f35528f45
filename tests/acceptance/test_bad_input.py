"""Bad input gets a clear error and the exit code that the contract gives it."""

import sqlite3
import sys
import textwrap
import time

import pytest

from tests.acceptance.processes import EXAMPLE, Site

pytestmark = pytest.mark.rabbitmq

USAGE, NOT_FOUND, UNREACHABLE = 2, 3, 4


def app(site: Site, name: str, code: str) -> str:
    path = site.folder / f"{name}.py"
    path.write_text(textwrap.dedent(code))
    return str(path)


def only_paragraph(text: str) -> str:
    """An error as a person reads it: no traceback, and no password."""
    assert "Traceback" not in text
    assert "guest:guest" not in text
    assert "secret" not in text
    return " ".join(text.split())


# -- apps -----------------------------------------------------------------------------------------


def test_an_app_that_fails_to_import_shows_its_own_traceback(site: Site) -> None:
    broken = app(site, "broken", "x = 1 / 0\n")
    done = site.run("worker", broken)
    assert done.returncode == USAGE
    assert "ZeroDivisionError" in done.stderr
    assert "x = 1 / 0" in done.stderr
    assert "importlib" not in done.stderr


def test_an_app_that_is_not_there_is_wrong_usage(site: Site) -> None:
    for missing in ("nowhere.py", "no.such.module"):
        done = site.run("worker", missing)
        assert done.returncode == USAGE
        assert missing.removesuffix(".py") in only_paragraph(done.stderr)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            """
            @define.task(name="a")
            def one(): return 1
            @define.task(name="a")
            def two(): return 2
            """,
            "one",
        ),
        (
            """
            @define.task(name="a")
            def one(): return 1
            @define.workflow(name="a")
            async def two(): return 2
            """,
            "workflow",
        ),
        (
            """
            @define.task(name="a:b")
            def one(): return 1
            """,
            "a:b",
        ),
        ("", "no task or workflow"),
    ],
    ids=["two codes", "two kinds", "bad name", "nothing defined"],
)
def test_contradictory_apps_are_refused(site: Site, code: str, reason: str) -> None:
    path = app(site, "odd", "from leveret import define\n" + textwrap.dedent(code))
    done = site.run("worker", path)
    assert done.returncode == USAGE
    assert reason in done.stderr


def test_a_name_that_is_the_other_kind_in_the_project_is_refused(site: Site) -> None:
    site.coordinator()
    define = "from leveret import define\n"
    one = app(site, "one", define + "@define.task\ndef a(): ...\n")
    two = app(site, "two", define + "@define.workflow\nasync def a(): ...\n")
    site.worker(one)
    done = site.run("worker", two)
    assert done.returncode == USAGE
    assert "workflow" in only_paragraph(done.stderr)


# -- identifiers and input ------------------------------------------------------------------------


def test_an_unknown_identifier_offers_the_nearest(site: Site) -> None:
    site.coordinator()
    site.worker(str(EXAMPLE))
    for command in (["resolve"], ["run"]):
        done = site.run(*command, "train_modle")
        assert done.returncode == NOT_FOUND
        assert "train_model" in only_paragraph(done.stderr)
    done = site.run("runs", "show", "run_00000000000000000000000000")
    assert done.returncode == NOT_FOUND
    done = site.run("resolve", "a:b:c:d")
    assert done.returncode == NOT_FOUND
    assert "project:name:revision" in only_paragraph(done.stderr)


def test_the_known_project_must_be_right(site: Site) -> None:
    site.coordinator()
    site.worker(str(EXAMPLE), "--project", "vision")
    assert site.json("resolve", "vision:split:0.0.1", "--project", "vision")["name"] == "split"
    done = site.run("resolve", "other:split:0.0.1", "--project", "vision")
    assert done.returncode == NOT_FOUND
    assert "vision" in only_paragraph(done.stderr)


@pytest.mark.parametrize("given", ["{", "3", "@nowhere.json"])
def test_input_that_is_no_json_of_arguments_is_wrong_usage(site: Site, given: str) -> None:
    done = site.run("run", "anything", "--input", given)
    assert done.returncode == USAGE
    assert "--input" in only_paragraph(done.stderr)


def test_a_command_without_a_broker_is_wrong_usage(site: Site) -> None:
    done = site.run("workers", LEVERET_URL="")
    assert done.returncode == USAGE
    assert "LEVERET_URL" in only_paragraph(done.stderr)


# -- code that isn't there ------------------------------------------------------------------------

CALLER = """
    import asyncio
    from leveret import define

    @define.{kind}
    async def {name}() -> int:
        return {result}

    print(asyncio.run({name}()))
"""


@pytest.mark.parametrize(
    ("kind", "name"), [("task", "never"), ("workflow", "never"), ("workflow", "known")]
)
def test_code_that_no_worker_has_is_not_deployed(site: Site, kind: str, name: str) -> None:
    site.coordinator()
    define = "from leveret import define\n@define.workflow\nasync def known(): return 1\n"
    site.worker(app(site, "app", define))
    program = app(site, "program", CALLER.format(kind=kind, name=name, result=2))
    done = site.execute([sys.executable, program])
    assert done.returncode == 1
    assert "NotDeployedError" in done.stderr
    assert "leveret worker" in done.stderr


def test_a_run_that_nobody_serves_waits_and_its_caller_is_told_once(site: Site) -> None:
    site.coordinator()
    define = "from leveret import define\n@define.task\nasync def answer() -> int: return 42\n"
    served = app(site, "served", define)
    assert site.worker(served).terminate() == 0
    program = """
        import asyncio
        from served import answer

        async def main():
            return await asyncio.gather(answer(), answer())

        print(asyncio.run(main()))
    """
    waiting = site.start_program(app(site, "program", program))
    waiting.ready("leveret worker APP --project default")
    assert "default:answer:0" in waiting.text()
    site.worker(served)
    assert waiting.wait() == 0
    assert "[42, 42]" in waiting.text()
    assert waiting.text().count("NoWorkerWarning") == 1


# -- what can't be reached ------------------------------------------------------------------------


def test_no_coordinator_is_told_in_time(site: Site) -> None:
    began = time.monotonic()
    done = site.run("workers")
    assert done.returncode == UNREACHABLE
    assert time.monotonic() - began < 15
    assert "leveret coordinator" in only_paragraph(done.stderr)
    assert "***@127.0.0.1" in done.stderr


@pytest.mark.parametrize("url", ["amqp://guest:secret@127.0.0.1:1/", "wrong password"])
def test_a_broker_out_of_reach_is_told_in_time(site: Site, url: str) -> None:
    wrong = url.startswith("wrong")
    given = site.url.replace("guest:guest", "guest:secret") if wrong else url
    done = site.run("workers", LEVERET_URL=given, LEVERET_CONNECT_TIMEOUT="3")
    assert done.returncode == UNREACHABLE
    told = only_paragraph(done.stderr)
    assert ("refused the login of user 'guest'" if wrong else "127.0.0.1:1") in told


# -- catalogs -------------------------------------------------------------------------------------


def test_a_catalog_in_use_names_its_holder(site: Site) -> None:
    first = site.coordinator()
    done = site.run("coordinator", "--catalog", "catalog.sqlite")
    assert done.returncode == USAGE
    assert str(first.pid) in only_paragraph(done.stderr)


def test_a_catalog_of_a_newer_schema_is_refused(site: Site) -> None:
    site.coordinator().terminate()
    catalog = sqlite3.connect(site.folder / "catalog.sqlite")
    catalog.execute("pragma user_version = 999")
    catalog.close()
    done = site.run("coordinator", "--catalog", "catalog.sqlite")
    assert done.returncode == USAGE
    assert "999" in only_paragraph(done.stderr)


def test_a_file_that_is_no_catalog_is_refused(site: Site) -> None:
    (site.folder / "text").write_bytes(b"hello" * 1000)
    done = site.run("coordinator", "--catalog", "text")
    assert done.returncode == USAGE
    assert "text" in only_paragraph(done.stderr)
    assert (site.folder / "text").read_bytes() == b"hello" * 1000


def test_a_setting_that_makes_no_sense_is_wrong_usage(site: Site) -> None:
    done = site.run("workers", LEVERET_CONNECT_TIMEOUT="soon")
    assert done.returncode == USAGE
    assert "LEVERET_CONNECT_TIMEOUT" in only_paragraph(done.stderr)
    done = site.run("worker", str(EXAMPLE), "--project", "a:b")
    assert done.returncode == USAGE
    assert "a:b" in only_paragraph(done.stderr)


def test_debug_adds_the_traceback(site: Site) -> None:
    done = site.run("--debug", "run", "anything", "--input", "{")
    assert done.returncode == USAGE
    assert "Traceback" in done.stderr
