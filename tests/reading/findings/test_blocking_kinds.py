"""What a slow callback did, told from its stack and the source line of its innermost frame."""

import os

import pytest

from traceloop.reading.findings.blocking_kinds import KINDS, kind_of
from traceloop.reading.source_lines import source_line

LIB = "/lib/python3.12/site-packages"


def frames(tmp_path, line, *inner):
    """A handler whose line is this, and what it called."""
    file = tmp_path / "app.py"
    file.write_text(f"def handler():\n    {line}\n")
    return [(str(file), 2, "app", "handler"), *inner]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("time.sleep(1)", "sleep"),
        ("sleep(0.5)", "sleep"),
        ("socket.getaddrinfo(host, 80)", "dns"),
        ("socket.gethostbyname(host)", "dns"),
        ("data = connection.recv(4096)", "socket"),
        ("urllib.request.urlopen(url)", "socket"),
        ("subprocess.run(['ls'])", "subprocess"),
        ("os.system('ls')", "subprocess"),
        ("pid = os.fork()", "subprocess"),
        ("lock.acquire()", "lock"),
        ("with self.lock:", "lock"),
        ("future.result(timeout=3)", "lock"),
        ("cursor.execute(query)", "database"),
        ("text = open(path).read()", "file"),
        ("os.fsync(fd)", "file"),
        ("import numpy", "import"),
        ("ssl.create_default_context()", "tls-context"),
        ("x = thing(1)", "waiting"),
        ("row = await db.execute(query)", "waiting"),  # what is awaited does not block
        ("await asyncio.sleep(1)", "waiting"),
        ("async with self.lock:", "waiting"),
        ("await asyncio.wait_for(future, 1)", "waiting"),
        ("await send(json.dumps(data))", "json"),
        ("time.sleep(1), await other()", "sleep"),
    ],
)
def test_by_the_line(tmp_path, line, kind):
    assert kind_of(frames(tmp_path, line), "off_cpu").name == kind


@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        ([("/lib/python3.12/socket.py", 9, "socket", "getaddrinfo")], "socket"),
        (
            [
                (f"{LIB}/requests/api.py", 1, "requests.api", "get"),
                ("/lib/python3.12/ssl.py", 1, "ssl", "SSLSocket.read"),
            ],
            "socket",
        ),
        (
            [
                (f"{LIB}/psycopg/cursor.py", 1, "psycopg.cursor", "execute"),
                ("/lib/python3.12/threading.py", 1, "threading", "wait"),
            ],
            "database",
        ),
        ([("/lib/python3.12/threading.py", 1, "threading", "Event.wait")], "lock"),
        (
            [
                ("/lib/python3.12/queue.py", 1, "queue", "Queue.get"),
                ("/lib/python3.12/threading.py", 1, "threading", "Condition.wait"),
            ],
            "lock",
        ),
        (
            [
                ("/lib/python3.12/logging.py", 1, "logging", "Handler.handle"),
                ("/lib/python3.12/socket.py", 1, "socket", "send"),
            ],
            "logging",
        ),
        ([("<frozen importlib._bootstrap>", 1, "importlib._bootstrap", "_find_and_load")], "import"),
        ([("/lib/python3.12/ssl.py", 1, "ssl", "create_default_context")], "tls-context"),
        ([("/lib/python3.12/subprocess.py", 1, "subprocess", "Popen.wait")], "subprocess"),
        (
            [
                (f"{LIB}/pexpect/expect.py", 1, "pexpect.expect", "Expecter.expect_loop"),
                ("/lib/python3.12/selectors.py", 1, "selectors", "PollSelector.select"),
            ],
            "subprocess",
        ),
        ([("/lib/python3.12/pathlib.py", 1, "pathlib", "Path.read_text")], "file"),
    ],
)
def test_by_what_was_called(tmp_path, inner, kind):
    assert kind_of(frames(tmp_path, "x = call()", *inner), "off_cpu").name == kind


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("json.loads(text)", "json"),
        ("re.match(pattern, text)", "regex"),
        ("hashlib.scrypt(password)", "hashing"),
        ("zlib.compress(data)", "compression"),
        ("copy.deepcopy(tree)", "pickle"),
        ("total += each", "cpu"),
        ("cursor.execute(query)", "cpu"),  # what computes does not wait
        ("import numpy", "import"),
    ],
)
def test_what_computes(tmp_path, line, kind):
    assert kind_of(frames(tmp_path, line), "cpu").name == kind


def test_a_handler_of_logging_that_is_the_applications_own(tmp_path):
    (tmp_path / "slow.py").write_text("time.sleep(1)\n")
    inner = [("/lib/python3.12/logging/__init__.py", 1, "logging", "Logger.callHandlers"),
             (str(tmp_path / "slow.py"), 1, "slow", "Slow.emit")]  # fmt: skip
    assert kind_of(frames(tmp_path, "log.warning('x')", *inner), "off_cpu").name == "logging"


@pytest.mark.parametrize(
    ("line", "cause", "kind"),
    [
        ("for folder, _, files in os.walk(top):", "off_cpu", "file"),
        ("for folder, _, files in os.walk(top):", "cpu", "cpu"),
        ("found = index.search(word)", "off_cpu", "waiting"),  # a method of that name need be no regular expression
    ],
)
def test_what_waits_in_a_library_that_tells_nothing_is_told_by_the_applications_line(tmp_path, line, cause, kind):
    assert kind_of(frames(tmp_path, line, ("/lib/python3.12/os.py", 1, "os", "walk")), cause).name == kind


def test_an_expression_that_a_library_matches_is_not_what_to_rewrite(tmp_path):
    library = tmp_path / "site-packages" / "parser.py"
    library.parent.mkdir()
    library.write_text("found = pattern.match(text)\n")
    match = ("/lib/python3.12/re/__init__.py", 1, "re", "match")
    through = frames(tmp_path, "soup = parse(html)", (str(library), 1, "parser", "feed"))
    assert kind_of(through, "cpu").name == kind_of([*through, match], "cpu").name == "cpu"
    assert kind_of(frames(tmp_path, "found = re.match(own, text)", match), "cpu").name == "regex"


def test_tokens_are_signed(tmp_path):
    inner = [(f"{LIB}/jwt/algorithms.py", 1, "jwt.algorithms", "RSAAlgorithm.sign")]
    assert kind_of(frames(tmp_path, "jwt.encode(claims, KEY)", *inner), "cpu").name == "hashing"


def test_a_module_that_blocks_while_it_is_imported(tmp_path):
    stack = [
        *frames(tmp_path, "import slow"),
        ("<frozen importlib._bootstrap>", 1, "importlib._bootstrap", "_find_and_load"),
        (str(tmp_path / "slow.py"), 1, "slow", "<module>"),
    ]
    (tmp_path / "slow.py").write_text("time.sleep(1)\n")
    assert kind_of(stack, "off_cpu").name == "import"


def test_nothing_known():
    assert kind_of([], "").name == "unknown"
    assert kind_of([], "off_cpu").name == "waiting"
    assert kind_of([], "cpu").name == "cpu"


def test_a_record_can_name_any_file_and_nothing_is_read_that_is_no_source(tmp_path):
    fifo = tmp_path / "fifo.py"
    os.mkfifo(fifo)
    assert source_line(str(fifo), 1) == ""  # and it does not wait for a writer
    assert source_line("/etc/passwd", 1) == ""
    assert source_line("/dev/zero.py", 1) == ""
    assert source_line(str(tmp_path), 1) == ""
    assert source_line("a\0.py", 1) == ""
    large = tmp_path / "large.py"
    large.write_bytes(b"import x\n" + bytes(5 << 20))
    assert source_line(str(large), 1) == ""


def test_every_kind_says_what_it_does_and_what_to_do():
    for kind in KINDS.values():
        assert kind.does and kind.remedy.endswith(".")


LOAD = (f"{LIB}/uvicorn/config.py", 467, "uvicorn.config", "Config.load")
IMPORTER = (f"{LIB}/uvicorn/importer.py", 19, "uvicorn.importer", "import_from_string")
IMPORTLIB = [
    ("/lib/python3.12/importlib/__init__.py", 90, "importlib", "import_module"),
    ("<frozen importlib._bootstrap>", 1, "importlib._bootstrap", "_find_and_load"),
]
MODULE = ("/srv/shop/app/main.py", 3, "app.main", "<module>")
LAZY = ("/srv/shop/app/views.py", 9, "app.views", "show")


@pytest.mark.parametrize("cause", ["cpu", "off_cpu", ""])
@pytest.mark.parametrize(
    ("stack", "moves"),
    [
        ([LOAD, IMPORTER, *IMPORTLIB, MODULE], False),
        ([LOAD, IMPORTER, *IMPORTLIB, MODULE, *IMPORTLIB, ("/srv/shop/app/db.py", 1, "app.db", "<module>")], False),
        ([("/srv/shop/run.py", 9, "__main__", "main"), LOAD, IMPORTER, *IMPORTLIB, MODULE, *IMPORTLIB], False),
        ([LOAD, LAZY, *IMPORTLIB, MODULE], True),
        ([LOAD, IMPORTER, *IMPORTLIB, MODULE, LAZY, *IMPORTLIB, MODULE], True),
        ([LOAD, LAZY, *IMPORTLIB, (f"{LIB}/pandas/__init__.py", 1, "pandas", "<module>")], True),
    ],
    ids=["server", "server, nested", "server of a script", "function", "server, function", "library in a function"],
)
def test_an_application_that_its_server_imports_is_not_told_to_import_at_the_top(stack, moves, cause):
    kind = kind_of(stack, cause)
    assert kind.name == "import" and ("top of the module" in kind.remedy) == moves
