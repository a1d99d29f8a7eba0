"""Tasks that end in every way a worker can."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hwbench.errors import ModelError, UnavailableError
from hwbench.worker.cap import lower_cap
from hwbench.worker.protocol import CONTROL

MIB = 1024 * 1024


def ok(job):
    job.save("doubled", np.array(job.params["numbers"]) * 2)
    return {"options": dict(job.options)}


def telemetry(job):
    return {"ort": os.environ.get("ORT_DISABLE_TELEMETRY")}


def refuses(job):
    raise UnavailableError("no such device", "buy one")


def bad_model(job):
    raise ModelError("model.onnx: not an ONNX file")


def raises(job):
    raise ValueError("a wrong number")


def library_out_of_memory(job):
    error = ImportError("libruntime.so: failed to map segment from shared object")
    raise UnavailableError("the package 'runtime' cannot be imported", "pip install it") from error


def runtime_out_of_memory(job):
    raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")


def memory_error(job):
    raise MemoryError


def returns_no_json(job):
    return {"set": {1}}


def segfault(job):
    sys.stderr.write("about to die\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def exits(job):
    sys.exit(3)


def sleeps(job):
    (job.folder / "pid").write_text(str(os.getpid()))
    time.sleep(3600)


def leaves_child(job):
    return {"pid": subprocess.Popen(["sleep", "3600"]).pid}


def allocates(job):
    return {"bytes": len(np.ones(job.params["mib"] * MIB, dtype=np.uint8))}


def processors(job):
    return {"processors": sorted(os.sched_getaffinity(0))}


def lowers_its_cap(job):
    """Holds some memory, lowers its cap, then takes more."""
    held = np.ones(job.params["held_mib"] * MIB, dtype=np.uint8)
    job.start("lowered")
    lower_cap(job.params["cap_mib"])
    job.done("lowered", {})
    return {"bytes": len(held) + len(np.ones(job.params["more_mib"] * MIB, dtype=np.uint8))}


def leaves_child_in_a_session_of_its_own(job):
    child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    (job.folder / "child").write_text(str(child.pid))
    sleeps(job)


def child_allocates(job):
    code = f"import sys; len(bytearray(b'x') * ({job.params['mib']} * {MIB}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    return {}


def burns(job):
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < job.params["seconds"]:
        pass
    return {"cores": (time.process_time() - cpu) / (time.perf_counter() - start)}


def variants(job):
    """Does each variant as its name says, noting every worker."""
    with (job.folder / "workers").open("a") as file:
        file.write(f"{' '.join(job.variants)}\n")
    for name in job.variants:
        if name == "between":
            segfault(job)
        if name == "forgotten":
            continue
        job.start(name)
        if name == "crash":
            segfault(job)
        elif name == "hang":
            sleeps(job)
        elif name.startswith("slow"):
            time.sleep(job.params["seconds"])
        elif name == "raise":
            raises(job)
        elif name == "memory":
            memory_error(job)
        job.done(name, {"length": len(name)})
    return {"common": 1}


def in_time(job):
    for name in job.in_time():
        job.start(name)
        time.sleep(job.params["seconds"])
        job.done(name, {})
    return {"common": 1}


def dies_loading(job):
    segfault(job)


def reads(job):
    """What lies in the files it is given, where they lie, and everything beside the first."""
    files = [Path(path) for path in job.params["files"]]
    job.save("bytes", np.frombuffer(b"".join(path.read_bytes() for path in files), dtype=np.uint8))
    beside = sorted(path.name for path in files[0].parent.iterdir())
    return {"sizes": [path.stat().st_size for path in files], "beside": beside, "name": job.params["name"]}


def where(job):
    return {"board": os.environ.get("BOARD"), "dask_worker": os.getppid()}


def waits(job):
    """Ends when a file is in its folder; tells who waits in another there."""
    (job.folder / job.params["name"]).write_text(str(os.getppid()))
    while not (job.folder / "go").exists():
        time.sleep(0.05)
    return {"dask_worker": os.getppid()}


def meets_accidents(job):
    """Ends its workers as variants' names say: ``SIGKILL-2-a`` by that signal twice, ``hang-1-b`` never, the first time.

    Controls do as the parameters ``fate`` and ``seconds`` say: die, or take a while.
    """
    with (job.folder / "workers").open("a") as file:
        file.write(f"{' '.join(job.variants)}\n")
    for name in job.variants:
        job.start(name)
        if name.startswith(CONTROL):
            if job.params["fate"] == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(job.params.get("seconds", 0))
        else:
            accident(job, name)
        job.done(name, {"length": len(name)})
    return {"restored": job.params.get("restored", True)}


def accident(job, name):
    how, times, _ = name.split("-")
    log = job.folder / "accidents"
    before = log.read_text().count(f"{name}\n") if log.exists() else 0
    if before < int(times):
        with log.open("a") as file:
            file.write(f"{name}\n")
        if how == "hang":
            time.sleep(3600)
        os.kill(os.getpid(), getattr(signal, how))


def meets_accidents_as_a_whole(job):
    accident(job, job.params["how"])
    return {"done": True}


def gives_signs_of_life(job):
    """Takes longer than its time limit, in steps that do not."""
    for name in job.variants or ("",):
        job.start(name)
        for _ in range(job.params["steps"]):
            time.sleep(job.params["seconds"])
            job.alive()
        job.done(name, {})
    return {}


def sets_the_clock(job):
    """Records progress in a file whose time says that the wall clock was set."""
    with (job.folder / "workers").open("a") as file:
        file.write(f"{' '.join(job.variants)}\n")
    moment = time.time() + 3600 * job.params["hours"]
    for name in job.variants:
        job.start(name)
        os.utime(job.folder / "progress.jsonl", (moment, moment))
        time.sleep(3600 if name == "hang" else 0.5)
        job.done(name, {})
        os.utime(job.folder / "progress.jsonl", (moment, moment))
    return {}


def misbehaves(job):
    """Tries what no job needs; what each attempt ended in, "done" where nothing hindered it."""
    elsewhere, own = Path(job.params["elsewhere"]), job.folder
    attempts = {
        "create": lambda: (elsewhere / "new").write_text("x"),
        "overwrite": lambda: (elsewhere / "kept").write_text("x"),
        "truncate": lambda: os.truncate(elsewhere / "kept", 0),
        "remove": lambda: (elsewhere / "kept").unlink(),
        "make a folder": lambda: (elsewhere / "folder").mkdir(),
        "read": lambda: (elsewhere / "kept").read_text(),
        "list": lambda: list(elsewhere.iterdir()),
        "link in its folder": lambda: (own / "link").symlink_to(elsewhere / "kept"),
        "hard link in its folder": lambda: os.link(elsewhere / "kept", own / "hard"),
        "pipe in its folder": lambda: os.mkfifo(own / "pipe"),
        "connect by TCP": lambda: socket.create_connection(("127.0.0.1", job.params["port"]), 5),
        "listen by TCP": lambda: socket.create_server(("127.0.0.1", 0)),
        "send by UDP": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
        "connect to a named socket": lambda: socket.socket(socket.AF_UNIX).connect(job.params["socket"]),
        "signal": lambda: os.kill(job.params["pid"], signal.SIGUSR1),
        "look into a process": lambda: Path(f"/proc/{job.params['pid']}/environ").read_bytes(),
        "by a child": lambda: subprocess.run(["touch", elsewhere / "new"], check=True, capture_output=True),
    }
    return {name: _ended(attempt) for name, attempt in attempts.items()}


def behaves(job):
    """Does what jobs do with their surroundings; what did not work."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_text("x")
        (Path(folder) / "a").rename(job.folder / "kept")
    attempts = {
        "given": lambda: Path(job.params["given"]).read_text(),
        "null": lambda: subprocess.run(["true"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True),
        "child": lambda: os.kill(subprocess.Popen(["sleep", "60"]).pid, signal.SIGKILL),
        "processors": lambda: Path("/proc/cpuinfo").read_text() + Path("/sys/devices/system/cpu/online").read_text(),
        "pair": lambda: [end.close() for end in socket.socketpair()],
        "import": lambda: __import__("onnx"),
    }
    return {name: _ended(attempt) for name, attempt in attempts.items()} | {"temporary": tempfile.gettempdir()}


def _ended(attempt):
    try:
        attempt()
    except Exception as error:  # noqa: BLE001  any end is the answer
        return type(error).__name__
    return "done"


def has_onnxruntime_write(job):
    """Has the runtime itself write a file, by an entry of its session's configuration."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.collect_node_memory_stats_to_file", job.params["file"])
    session = ort.InferenceSession(job.params["model"], options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    session.run(None, {given.name: np.zeros(shape, np.float32)})
    return {}


def dies_quantizing(job):
    """Is killed while ONNX Runtime's quantizer calibrates, with a temporary folder of its own."""
    from onnxruntime.quantization import quantize_static

    class Feeds:
        def get_next(self):
            left = [str(path) for path in Path(tempfile.gettempdir()).glob("ort.quant.*")]
            (job.folder / "left").write_text("\n".join(left))
            os.kill(os.getpid(), signal.SIGKILL)

    model = shutil.copy(job.params["model"], job.folder / "model.onnx")  # the quantizer writes beside it
    quantize_static(model, job.folder / "made.onnx", Feeds())
