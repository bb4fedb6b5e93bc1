"""Programs that are run under `python` and under `traceloop run`: name -> how it is started, and its files."""

from __future__ import annotations

import signal
from typing import NamedTuple


class Program(NamedTuple):
    """`words` follow `python` or `traceloop run`; `shell` wraps the command, with "$@" for it."""

    words: tuple[str, ...]
    files: dict[str, str]
    stdin: str = ""
    environ: dict[str, str] = {}
    shell: str = ""
    interrupt: signal.Signals | None = None


def script(text: str, *arguments: str, **more: object) -> Program:
    files = {"app.py": text, **more.pop("files", {})}  # type: ignore[dict-item]
    return Program(("app.py", *arguments), files, **more)  # type: ignore[arg-type]


LOOP = """
import asyncio
async def main():
    await asyncio.sleep(0.001)
    print("ran")
"""

LOOK = """
import sys, warnings, threading, os, signal
print(sys.argv, sys.path[:1], sys.flags, len(sys.path))
print(sorted(k for k in globals() if k != "__file__"), __name__, __spec__, type(__loader__), __builtins__)
print("__mp_main__" in sys.modules, [f[:3] for f in warnings.filters], threading.active_count())
print([signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)])
print(sys.executable, sys.prefix, sys.base_prefix, sys.flags.safe_path, os.getcwd())
print(sorted(os.listdir("/proc/self/fd"))[:-1] if os.path.exists("/proc/self/fd") else "")
print(sorted(name for name in sys.modules if not name.startswith("traceloop")))
print([type(f).__name__ for f in sys.path_hooks], len([f for f in sys.meta_path if "traceloop" not in str(f)]))
"""

SHADOWS = {
    f"{name}.py": f"whose = 'the program, {name}'\n"
    for name in ("random", "json", "uuid", "zlib", "mmap", "array", "secrets", "tempfile", "platform")
}

PROGRAMS: dict[str, Program] = {
    "arguments": script("import sys; print(sys.argv)", "--report", "-m", "x", "--", "--help", ""),
    "look": script(LOOK),
    "look before asyncio": script(LOOK + "import asyncio\nprint(threading.active_count())"),
    "main annotations": script("x: int = 1\nprint(__annotations__, __doc__, __package__)"),
    "module": Program(("-m", "pkg.mod", "a", "-b"), {"pkg/__init__.py": "", "pkg/mod.py": LOOK}),
    "module glued": Program(("-mpkg", "a"), {"pkg/__init__.py": "", "pkg/__main__.py": LOOK}),
    "code": Program(("-c", LOOK, "a", "-c"), {}),
    "code glued": Program(("-cimport sys; print(sys.argv)", "a"), {}),
    "stdin": Program(("-", "a"), {}, stdin=LOOK),
    "folder": Program(("folder", "a"), {"folder/__main__.py": LOOK}),
    "interpreter options": Program(("python", "-X", "dev", "-W", "error", "app.py"), {"app.py": LOOK}),
    "zip": Program(
        ("app.zip", "a"),
        {"make.py": "", "src/__main__.py": LOOK},
        shell='cd src && "$PYTHON" -m zipfile -c ../app.zip __main__.py && cd .. && exec "$@"',
    ),
    "missing file": Program(("missing.py",), {}),
    "missing file in a folder": Program(("missing/app.py", "x"), {}),
    "missing module": Program(("-m", "nosuchmodule"), {}),
    "missing argument": Program(("-m",), {}),
    "folder without main": Program(("./folder",), {"folder/x.py": ""}),
    "syntax error": script("def f(:\n  pass\n"),
    "not utf-8": script("print('a')\n", files={}),
    # -- statuses
    "exit none": script("import sys; sys.exit()"),
    "exit 3": script("import sys; sys.exit(3)"),
    "exit wide": script("import sys; sys.exit(256+9)"),
    "exit text": script("import sys; sys.exit('told')"),
    "exit object": script("import sys; sys.exit([1])"),
    "raise SystemExit in loop": script(LOOP + "async def end():\n    raise SystemExit(5)\nasyncio.run(end())"),
    "exception": script("def f():\n    raise ValueError('x')\nf()"),
    "exception in loop": script(LOOP + "async def end():\n    raise ValueError('x')\nasyncio.run(end())"),
    "keyboard interrupt": script("raise KeyboardInterrupt"),
    "keyboard interrupt in loop": script(LOOP + "async def end():\n    raise KeyboardInterrupt\nasyncio.run(end())"),
    "os._exit": script(LOOP + "import os\nasyncio.run(main())\nos._exit(7)"),
    "os._exit in loop": script(LOOP + "import os\nasync def end():\n    os._exit(7)\nasyncio.run(end())"),
    "abort": script(LOOP + "import os\nasync def end():\n    os.abort()\nasyncio.run(end())"),
    "segmentation fault": script(LOOP + "import ctypes\nasync def end():\n    ctypes.string_at(0)\nasyncio.run(end())"),
    "kill": script(LOOP + "import os\nasync def end():\n    os.kill(os.getpid(), 9)\nasyncio.run(end())"),
    "sigterm to itself": script("import os, time\nos.kill(os.getpid(), 15); time.sleep(5)"),
    "sigterm in loop": script(
        LOOP + "import os\nasync def end():\n    os.kill(os.getpid(), 15); await asyncio.sleep(5)\nasyncio.run(end())"
    ),
    "sigterm after loop": script(
        LOOP + "import os, time\nasyncio.run(main())\nos.kill(os.getpid(), 15)\ntime.sleep(5)"
    ),
    "sighup in loop": script(
        LOOP + "import os\nasync def end():\n    os.kill(os.getpid(), 1); await asyncio.sleep(5)\nasyncio.run(end())"
    ),
    "sigterm from outside": script(
        LOOP + "async def end():\n    print('up', flush=True); await asyncio.sleep(20)\nasyncio.run(end())",
        interrupt=signal.SIGTERM,
    ),
    "sigint from outside": script(
        LOOP + "async def end():\n    print('up', flush=True); await asyncio.sleep(20)\nasyncio.run(end())",
        interrupt=signal.SIGINT,
    ),
    "sighup from outside": script(
        LOOP + "async def end():\n    print('up', flush=True); await asyncio.sleep(20)\nasyncio.run(end())",
        interrupt=signal.SIGHUP,
    ),
    "own sigterm handler": script(
        LOOP
        + """
import os, signal
signal.signal(signal.SIGTERM, lambda *a: print("own handler"))
async def end():
    os.kill(os.getpid(), 15); await asyncio.sleep(0.01)
asyncio.run(end())
print(signal.getsignal(signal.SIGTERM).__name__)
"""
    ),
    "handlers put back": script(
        LOOP
        + """
import signal
asyncio.run(main())
print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
"""
    ),
    "loop signal handler": script(
        LOOP
        + """
import os, signal
async def end():
    loop = asyncio.get_running_loop(); got = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, got.set_result, "got it")
    os.kill(os.getpid(), 15); print(await got); print(loop.remove_signal_handler(signal.SIGTERM))
asyncio.run(end())
print(signal.getsignal(signal.SIGTERM))
"""
    ),
    "atexit order": script(
        LOOP
        + """
import atexit, sys
atexit.register(print, "registered first")
atexit.register(lambda: asyncio.run(main()))
asyncio.run(main())
sys.exit(4)
"""
    ),
    # -- processes
    "exec": script(
        LOOP
        + """
import os, sys
print("before", flush=True)
async def go():
    os.execv(sys.executable, [sys.executable, "other.py", "x"])
asyncio.run(go())
""",
        files={"other.py": LOOP + "import sys, os\nasyncio.run(main()); print(sys.argv); sys.exit(6)"},
    ),
    "exec fails": script(LOOP + "import os\nasync def go():\n    os.execv('/nonexistent', ['x'])\nasyncio.run(go())"),
    "execvp fails": script(LOOP + "import os\nasyncio.run(main())\nos.execvp('nosuchprogram', ['x'])"),
    "fork": script(
        LOOP
        + """
import os, sys
asyncio.run(main())
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    asyncio.run(main()); sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
asyncio.run(main())
"""
    ),
    "wait for any child": script(
        LOOP
        + """
import os
asyncio.run(main())
try:
    print(os.wait())
except ChildProcessError as error:
    print(error)
"""
    ),
    "daemon": script(
        LOOP
        + """
import os, sys
asyncio.run(main()); sys.stdout.flush()
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
asyncio.run(main())
print("daemon done", flush=True)
os.close(1)
"""
    ),
    **{
        f"multiprocessing {method}": script(
            f"""
import asyncio, multiprocessing, os
async def double(x):
    await asyncio.sleep(0.001); return 2 * x
def work(x):
    return asyncio.run(double(x))
class Mine:
    pass
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    with context.Pool(2) as pool:
        print(pool.map(work, range(4)), type(pool.apply(Mine)))
    process = context.Process(target=os._exit, args=(9,)); process.start(); process.join(); print(process.exitcode)
    print(work(4))
"""
        )
        for method in ("fork", "spawn", "forkserver")
    },
    "process pool executor": script(
        """
import asyncio, concurrent.futures, multiprocessing
def work(x):
    return x + 1
async def main():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        print(await asyncio.get_running_loop().run_in_executor(pool, work, 1))
if __name__ == "__main__":
    asyncio.run(main())
"""
    ),
    "subprocess": script(
        LOOP
        + """
import sys
async def go():
    process = await asyncio.create_subprocess_exec(sys.executable, "child.py", stdout=-1)
    print(await process.communicate(), process.returncode)
asyncio.run(go())
""",
        files={"child.py": LOOP + "asyncio.run(main()); raise SystemExit(3)"},
    ),
    "pickle": script(
        "import pickle\nclass A: pass\nprint(pickle.dumps(A), type(pickle.loads(pickle.dumps(A()))))\n" + LOOP
    ),
    "unittest": Program(
        ("-m", "unittest", "-q", "case"),
        {
            "case.py": """
import unittest
class Case(unittest.IsolatedAsyncioTestCase):
    async def test(self):
        self.assertTrue(True)
"""
        },
    ),
    # -- hostile surroundings
    "shadows after": script(
        LOOP + "asyncio.run(main())\n" + "".join(f"import {n[:-3]}; print({n[:-3]}.whose)\n" for n in sorted(SHADOWS)),
        files=SHADOWS,
    ),
    "shadows before": script(
        "".join(f"import {n[:-3]}\n" for n in sorted(SHADOWS))
        + LOOP
        + "asyncio.run(main())\n"
        + "".join(f"import {n[:-3]}; print({n[:-3]}.whose)\n" for n in sorted(SHADOWS)),
        files=SHADOWS,
    ),
    "shadows by PYTHONPATH": script(
        LOOP + "asyncio.run(main())\nimport random; print(random.whose)",
        files={f"lib/{name}": text for name, text in SHADOWS.items()},
        environ={"PYTHONPATH": "lib"},
    ),
    "PYTHONPATH names the standard library": script(
        """
import os, subprocess, sys
path = os.pathsep.join(["lib", *sys.path])
sys.exit(subprocess.call([sys.executable, "child.py"], env={**os.environ, "PYTHONPATH": path}))
""",
        files={
            "child.py": LOOP
            + "asyncio.set_event_loop(asyncio.new_event_loop())\nasyncio.run(main())\n"
            + "import random; print(random.whose)",
            "lib/random.py": SHADOWS["random.py"],
        },
    ),
    "own asyncio": script("import asyncio; print(asyncio.x)", files={"asyncio.py": "x = 1"}),
    "no stderr": script(LOOP + "asyncio.run(main()); import sys; print(sys.stderr)", shell='exec "$@" 2>&-'),
    "no stdin": script(LOOP + "asyncio.run(main()); import sys; print(sys.stdin)", shell='exec "$@" <&-'),
    "no stdout": script(
        LOOP + "asyncio.run(main()); import sys; print(sys.stdout, file=sys.stderr)", shell='exec "$@" >&-'
    ),
    "no descriptors": script(
        LOOP + "asyncio.run(main()); open('out', 'w').write('written')",
        shell='"$@" <&- >&- 2>&-; echo $?; cat out; rm out',
    ),
    "descriptor 2 is a data file": script(
        LOOP + "import os\nos.close(2)\nassert os.open('data', os.O_RDWR | os.O_CREAT) == 2\nasyncio.run(main())",
        shell='"$@" 2>/dev/null; cat data; rm data',
    ),
    "stderr is None": script("import sys\nsys.stderr = None\n" + LOOP + "asyncio.run(main())"),
    "empty sys.path": script(LOOP + "import sys\nsys.path.clear()\nasyncio.run(main())"),
    "empty meta_path": script(LOOP + "import sys\nsys.meta_path.clear()\nasyncio.run(main())"),
    "empty environ": script("import os\nos.environ.clear()\n" + LOOP + "asyncio.run(main())"),
    "empty sys.modules at exit": script(LOOP + "asyncio.run(main())\nimport sys\nsys.modules.clear()"),
    "removed folder": script(
        LOOP + "asyncio.run(main())",
        shell='mkdir gone && cd gone && rmdir ../gone && exec "$@"',
    )._replace(words=("-c", LOOP + "asyncio.run(main())")),
    "warnings are errors": script(LOOP + "asyncio.run(main())", environ={"PYTHONWARNINGS": "error"}),
    "development mode": script(LOOP + "asyncio.run(main())", environ={"PYTHONDEVMODE": "1"}),
    "fork warnings": script(
        LOOP
        + """
import os
async def go():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
asyncio.run(go())
""",
        environ={"PYTHONWARNINGS": "error"},
    ),
    "safe path": script("import sys; print(sys.path[0], sys.flags.safe_path)\n", environ={"PYTHONSAFEPATH": "1"}),
    "unclosed loop": script("import asyncio\nloop = asyncio.new_event_loop()\nloop.close()\nprint(loop.is_closed())"),
    "reload": script(LOOP + "import importlib\nimportlib.reload(asyncio)\nasyncio.run(main())"),
    "import of asyncio fails": script("import asyncio", files={"selectors.py": "raise ValueError('mine')"}),
    "import of uvloop fails": script(LOOP + "import uvloop", files={"uvloop.py": "import nosuchmodule"}),
    "loader of asyncio": script(
        "import asyncio\nprint(type(asyncio.__loader__), asyncio.__spec__.loader is asyncio.__loader__,"
        " type(asyncio.__spec__), vars(asyncio.__loader__), sorted(vars(asyncio.__spec__)))"
    ),
    "subinterpreter": script(
        """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = "import asyncio, sys\\nsys.stdout.write(str(type(asyncio.new_event_loop())))"
i = interpreters.create()
print(interpreters.run_string(i, code))
"""
    ),
    "threads with loops": script(
        LOOP
        + """
import threading
async def quiet(): await asyncio.sleep(0.001)
threads = [threading.Thread(target=asyncio.run, args=(quiet(),)) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
asyncio.run(main())
"""
    ),
    "open pipe": script(LOOP + "asyncio.run(main())", shell='"$@" | cat'),
}
